//! What all servers and clients of a simulated cluster share: time, network, facts and transcript.

use lockstep_server::buffers::Pool;

use crate::{
    dice::Dice,
    facts::Facts,
    groups::GroupHistory,
    network::Network,
    plan::{Fault, Plan},
    schedule::{Event, Schedule},
    trace::Trace,
};

/// How often each kind of fault has really happened.
#[derive(Clone, Debug)]
pub struct Counters([u32; Fault::ALL.len()]);

impl Default for Counters {
    fn default() -> Counters {
        Counters([0; Fault::ALL.len()])
    }
}

impl Counters {
    /// It has happened once more.
    pub fn count(&mut self, fault: Fault) {
        self.add(fault, 1);
    }

    /// It has happened so many times more.
    pub fn add(&mut self, fault: Fault, count: u32) {
        self.0[fault as usize] += count;
    }

    /// How often it has happened.
    pub fn of(&self, fault: Fault) -> u32 {
        self.0[fault as usize]
    }

    /// Adds another run's.
    pub fn merge(&mut self, other: &Counters) {
        for &fault in Fault::ALL {
            self.add(fault, other.of(fault));
        }
    }
}

/// Time, network, facts and transcript.
pub struct Shared {
    /// The plan.
    pub plan: Plan,
    /// Virtual time, in ns.
    pub now_ns: u64,
    /// What will happen.
    pub schedule: Schedule,
    /// Links and connections.
    pub network: Network,
    /// What must be true.
    pub facts: Facts,
    /// What happened.
    pub trace: Trace,
    /// What clients asked of groups of keys and were told.
    pub groups: GroupHistory,
    /// What is in the history of single keys, as it was sent: each key is a group of its own.
    pub singles: GroupHistory,
    /// Walks through all keys that came to their end.
    pub walks: u64,
    /// Faults that happened.
    pub counters: Counters,
    /// Chance of the disks.
    pub disk_dice: Dice,
    /// Chance of the hosts: how long a turn waits, jitter seeds.
    pub host_dice: Dice,
    /// Buffers for what the server's code writes.
    pub pool: Pool,
    /// Whether everything has been healed.
    pub is_healed: bool,
}

/// Memory that the pool of a run keeps, in bytes.
const POOL_IDLE_BYTES: usize = 16 << 20;

impl Shared {
    /// At the beginning.
    pub fn new(plan: Plan, is_traced: bool) -> Shared {
        Shared {
            now_ns: 0,
            schedule: Schedule::default(),
            network: Network::new(&plan),
            facts: Facts::new(&plan),
            trace: Trace::new(is_traced),
            groups: GroupHistory::default(),
            singles: GroupHistory::default(),
            walks: 0,
            counters: Counters::default(),
            disk_dice: Dice::new(plan.seed, "disk"),
            host_dice: Dice::new(plan.seed, "host"),
            pool: Pool::new(POOL_IDLE_BYTES),
            is_healed: false,
            plan,
        }
    }

    /// Adds an event.
    pub fn after(&mut self, delay_ns: u64, event: Event) {
        self.schedule.at(self.now_ns + delay_ns, event);
    }

    /// Adds a line to the transcript.
    pub fn line(&mut self, text: impl FnOnce() -> String) {
        self.trace.line(self.now_ns, text);
    }
}
