//! What a seed decides: the cluster, its settings, the workload, and what goes wrong when.
//!
//! Each seed draws which kinds of faults it has at all, and how often ("swarm testing"): a run with everything at once
//! hides what a run with only one kind, but much of it, finds.

use std::ops::RangeInclusive;

use lockstep_proto::limits::VALUE_SIZE_MAX;
use lockstep_replica::{AckPolicy, FanOut, Quorums};
use lockstep_store::SWEEP_PER_BATCH;

use crate::{
    dice::Dice,
    disk::{Survivors, Tearing},
    redis::RedisPlan,
};

/// A millisecond, in ns.
pub const MS: u64 = 1_000_000;

/// Declares the kinds of faults, with names for counters and transcripts.
macro_rules! faults {
    ( $( $(#[doc = $what:literal])+ $variant:ident, )+ ) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault { $( $(#[doc = $what])+ $variant, )+ }

        impl Fault {
            /// Every kind.
            pub const ALL: &'static [Fault] = &[ $( Fault::$variant, )+ ];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self { $( Fault::$variant => stringify!($variant), )+ }
            }
        }
    };
}

faults! {
    /// A process ends without warning and starts again later.
    Crash,
    /// All processes end at the same moment.
    PowerCut,
    /// A process does not run for a while; what arrives meanwhile waits for it.
    Pause,
    /// The primary is cut off from all others, or hears them but is not heard, or the other way round.
    IsolatePrimary,
    /// Servers are cut into two groups.
    Partition,
    /// Messages from one group to another are lost, but not those the other way.
    PartitionOneWay,
    /// What is sent on a link arrives only once the link is free again.
    Clog,
    /// A connection between servers breaks, with what is on its way or without, and is made again.
    Disconnect,
    /// A disk does nothing for a while.
    DiskStall,
    /// A disk is slow for a while.
    DiskSlow,
    /// A write fails: the process ends.
    WriteError,
    /// There is no room for a checkpoint: the process ends when it writes one.
    DiskFull,
    /// A bit of the journal flips.
    Rot,
    /// A bit of one copy of the superblock flips.
    RotSuperblock,
    /// A bit of a checkpoint flips.
    RotCheckpoint,
    /// A journal write goes to another place.
    MisdirectedWrite,
    /// A journal read comes from another place.
    MisdirectedRead,
    /// A data folder is lost, and made anew with `recover`.
    Wipe,
    /// A wall clock jumps.
    ClockJump,
    /// An operator asks the primary to hand over.
    Handover,
    /// A message is lost.
    Loss,
    /// A message arrives twice.
    Repeat,
    /// A message arrives before one that was sent earlier on the same link.
    Reorder,
    /// A crash leaves part of a write on the disk.
    TornWrite,
    /// A crash loses what was written and not synced.
    LostWrite,
    /// A clock runs faster or slower than the others.
    ClockSkew,
    /// A client's connection breaks: what of its requests is on its way is lost, or some of it, and so are the answers.
    ClientReset,
    /// What clients send to servers is lost for a while, or what servers send to clients, or both.
    ClientCut,
}

/// Something that goes wrong at one moment.
#[derive(Clone, Copy, Debug)]
pub struct FaultEvent {
    /// When.
    pub at_ns: u64,
    /// What.
    pub fault: Fault,
    /// Picks whom or what it hits.
    pub choice: u64,
    /// How long it lasts.
    pub duration_ns: u64,
}

/// How messages travel.
#[derive(Clone, Debug)]
pub struct NetworkPlan {
    /// From sending to arrival.
    pub delay_ns: RangeInclusive<u64>,
    /// Whether messages of a connection arrive in order and are lost only with it, as over TCP.
    pub is_fifo: bool,
    /// Messages lost, per mille.
    pub loss: u32,
    /// Messages that arrive twice, per mille.
    pub repeat: u32,
}

/// How a disk behaves.
#[derive(Clone, Debug)]
pub struct DiskPlan {
    /// From asking to completion.
    pub latency_ns: RangeInclusive<u64>,
    /// What a crash does to writes in flight.
    pub tearing: Tearing,
    /// Size of the journal, in bytes.
    pub journal_size: u64,
    /// Most journal writes in flight.
    pub in_flight_max: u64,
    /// Journal bytes after which a checkpoint is due.
    pub checkpoint_every: u64,
    /// Bytes of a checkpoint written between two turns.
    pub checkpoint_step: usize,
    /// Largest piece of a checkpoint that is sent to another server, in bytes.
    pub chunk_bytes: usize,
}

/// What clients do.
#[derive(Clone, Debug)]
pub struct WorkloadPlan {
    /// Number of clients.
    pub clients: u8,
    /// Requests that one client asks for in all.
    pub requests: u32,
    /// Requests that one client has in flight.
    pub window: u32,
    /// How often a client that waits for nothing goes to another server, whoever the primary is, per mille.
    pub hop: u32,
    /// Pause between requests of a client.
    pub think_ns: RangeInclusive<u64>,
    /// How long a client waits for an answer before it asks again.
    pub timeout_ns: u64,
    /// After so many attempts, a client gives up: the outcome stays unknown.
    pub attempts_max: u32,
    /// Number of keys.
    pub keys: u32,
    /// Size of a value, in bytes. If it may be 0, there are also shorter ones, and numbers.
    pub value_size: RangeInclusive<u64>,
    /// Weights of the operations: get, put, delete, compare-and-set, increment, exists, put with a time-to-live,
    /// expire, time-to-live.
    pub weights: [u8; 9],
    /// Time-to-live that is given.
    pub ttl_ms: RangeInclusive<u64>,
    /// How often a client goes on with a walk through all keys, per mille.
    pub walk: u32,
    /// Bound on the size of all keys and values together, as the store counts them, in bytes.
    pub store_bytes_max: u64,
    /// Bound on the number of sessions in the table.
    pub sessions_max: usize,
    /// Clients of the Redis front door.
    pub redis: RedisPlan,
}

/// Everything that a seed decides.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Number of servers.
    pub servers: u8,
    /// When a write is answered.
    pub ack: AckPolicy,
    /// How a prepare reaches the backups.
    pub fanout: FanOut,
    /// Whether nothing survives a restart.
    pub is_memory: bool,
    /// Whether each start of a server decides anew whether it keeps its log on the disk or in memory.
    pub changes_durability: bool,
    /// Largest number of requests in a prepare.
    pub batch_ops_max: u32,
    /// How long an open batch waits.
    pub batch_linger_ns: u64,
    /// Requests up to which a batch grows while others are on their way.
    pub batch_gather_ops: u32,
    /// How long it does so at most.
    pub batch_gather_ns: u64,
    /// Prepares in flight.
    pub pipeline_max: u32,
    /// Between two heartbeats.
    pub heartbeat_ns: u64,
    /// Prepares kept in memory, in bytes.
    pub log_memory: usize,
    /// Messages.
    pub network: NetworkPlan,
    /// Disks.
    pub disk: DiskPlan,
    /// Clients.
    pub workload: WorkloadPlan,
    /// Rate of each server's clock, per mille of the real one.
    pub clock_rates: [u64; 7],
    /// Whether times of day differ and may jump; then no key expires.
    pub has_wrong_clocks: bool,
    /// How far each server's wall clock is off at first.
    pub clock_offsets_ns: [u64; 7],
    /// What goes wrong, by time.
    pub faults: Vec<FaultEvent>,
    /// When nothing goes wrong any more.
    pub heal_at_ns: u64,
    /// Servers that are up in the end, a bit each.
    pub healed: u8,
    /// Damage is done to this many servers at most at the same time.
    pub damaged_max: u8,
}

/// Largest difference between the time of day of any two servers at first, in ns.
const CLOCK_OFFSET_MAX_NS: u64 = 2_000 * MS;

/// From here on, weights of the workload are of operations that have to do with expiry.
const FIRST_EXPIRING: usize = 6;

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Plan {
        let dice = &mut Dice::new(seed, "plan");
        let servers = dice.pick(&[1, 2, 3, 3, 3, 3, 3, 4, 5, 5, 5, 6, 7]);
        let quorums = Quorums::of(servers);
        let heartbeat_ns = dice.pick(&[15, 25, 25, 40]) * MS;
        let heal_at_ns = dice.within(500..=4000) * MS;
        let pipeline_max = dice.within(1..=8) as u32;
        let mut plan = Plan {
            seed,
            servers,
            ack: dice.pick(&[AckPolicy::Majority, AckPolicy::Majority, AckPolicy::All, AckPolicy::Strict]),
            fanout: dice.pick(&[FanOut::Parallel, FanOut::Parallel, FanOut::Parallel, FanOut::Sequential]),
            is_memory: servers > 1 && dice.chance(100),
            changes_durability: false,
            batch_ops_max: dice.within(1..=8) as u32,
            batch_linger_ns: dice.pick(&[0, 0, MS / 5]),
            batch_gather_ops: Dice::new(seed, "gather").pick(&[0, 2, 4, 64]),
            batch_gather_ns: Dice::new(seed, "gather time").pick(&[MS / 10, MS, MS, 100 * MS]),
            pipeline_max,
            heartbeat_ns,
            log_memory: dice.pick(&[0, 64 << 10, 1 << 20]),
            network: network_plan(dice),
            disk: disk_plan(dice, pipeline_max),
            workload: workload_plan(dice, heal_at_ns),
            clock_rates: [1000; 7],
            has_wrong_clocks: false,
            clock_offsets_ns: [0; 7],
            faults: Vec::new(),
            heal_at_ns,
            healed: 0,
            damaged_max: servers - quorums.view_change,
        };
        plan.healed = draw_healed(dice, &plan, quorums);
        if servers > 1 && !plan.is_memory && Dice::new(seed, "durability").chance(50) {
            (plan.changes_durability, plan.healed) = (true, ((1u16 << servers) - 1) as u8);
        }
        draw_redis(&mut Dice::new(seed, "redis"), &mut plan.workload);
        draw_clocks(dice, &mut plan);
        draw_room(&mut Dice::new(seed, "room"), &mut plan);
        plan.faults = draw_faults(&mut Dice::new(seed, "faults"), &plan);
        plan
    }

    /// How long a backup waits for its primary.
    pub fn view_timeout_ns(&self) -> u64 {
        8 * self.heartbeat_ns
    }

    /// Whether this server is up in the end.
    pub fn is_healed(&self, server: u8) -> bool {
        self.healed & (1 << server) != 0
    }

    /// Whether the plan has an event of this kind.
    pub fn has(&self, fault: Fault) -> bool {
        self.faults.iter().any(|event| event.fault == fault)
    }
}

fn network_plan(dice: &mut Dice) -> NetworkPlan {
    let least_us = dice.pick(&[20, 50, 200, 1000]);
    let spread = dice.pick(&[2, 10, 50]);
    let is_fifo = dice.chance(500);
    NetworkPlan {
        delay_ns: least_us * 1000..=least_us * 1000 * spread,
        is_fifo,
        loss: if is_fifo { 0 } else { dice.pick(&[0, 0, 5, 50, 200]) },
        repeat: if is_fifo { 0 } else { dice.pick(&[0, 0, 10, 100]) },
    }
}

/// What of writes in flight reaches a disk at a crash.
const SURVIVORS: &[Survivors] = &[
    Survivors::Pieces(0),
    Survivors::Pieces(500),
    Survivors::Pieces(900),
    Survivors::Pieces(1000),
    Survivors::Any,
    Survivors::Any,
    Survivors::Any,
];

fn disk_plan(dice: &mut Dice, pipeline_max: u32) -> DiskPlan {
    let least_us = dice.pick(&[10, 50, 300, 1000]);
    let journal_size = dice.pick(&[256u64 << 10, 512 << 10, 1 << 20]);
    DiskPlan {
        latency_ns: least_us * 1000..=least_us * 1000 * dice.pick(&[2, 20]),
        tearing: Tearing { survivors: dice.pick(SURVIVORS), damages: dice.chance(300) },
        journal_size,
        in_flight_max: u64::from(pipeline_max) * 2 + dice.within(0..=16),
        checkpoint_every: journal_size / dice.pick(&[8, 4, 2]),
        checkpoint_step: dice.pick(&[64, 1024, 64 << 10]),
        chunk_bytes: dice.pick(&[4096, 8192, 256 << 10]),
    }
}

fn workload_plan(dice: &mut Dice, heal_at_ns: u64) -> WorkloadPlan {
    let clients = dice.within(1..=5) as u8;
    let requests = dice.within(20..=200) as u32 / u32::from(clients) + 1;
    // Most of what is asked for should be asked for while things go wrong.
    let think_ns = heal_at_ns / u64::from(requests);
    WorkloadPlan {
        clients,
        requests,
        window: dice.pick(&[1, 1, 2, 4, 8]),
        hop: dice.pick(&[0, 50, 400]),
        think_ns: think_ns / 4..=think_ns * 3 / 2,
        timeout_ns: dice.pick(&[100, 300, 1000]) * MS,
        attempts_max: dice.pick(&[3, 30, 1000, 1000]),
        keys: dice.pick(&[1, 3, 8, 30]),
        value_size: 0..=dice.pick(&[8, 100, 100, 5000]),
        weights: std::array::from_fn(|_| dice.pick(&[0, 1, 1, 4])),
        ttl_ms: 1..=dice.pick(&[50, 1000, 100_000]),
        walk: dice.pick(&[0, 0, 50, 300]),
        store_bytes_max: u64::MAX,
        sessions_max: dice.pick(&[2, 5, 100, 100, 100]),
        redis: RedisPlan::none(),
    }
}

/// At least as many as both quorums need; all of them if the policy or chance says so.
fn draw_healed(dice: &mut Dice, plan: &Plan, quorums: Quorums) -> u8 {
    let all = ((1u16 << plan.servers) - 1) as u8;
    if plan.ack == AckPolicy::Strict || plan.is_memory || dice.chance(600) {
        return all;
    }
    let needed = quorums.commit.max(quorums.view_change);
    let mut healed = all;
    while healed.count_ones() > u32::from(needed) && dice.chance(700) {
        let up: Vec<u8> = (0..plan.servers).filter(|server| healed & (1 << server) != 0).collect();
        healed &= !(1 << dice.pick(&up));
    }
    healed
}

/// Clients of the front door share what is asked for with the others.
fn draw_redis(dice: &mut Dice, workload: &mut WorkloadPlan) {
    workload.redis = RedisPlan::draw(dice);
    let (natives, all) = (u32::from(workload.clients), u32::from(workload.clients + workload.redis.clients));
    workload.requests = workload.requests * natives / all + 1;
    let (least, most) = (*workload.think_ns.start(), *workload.think_ns.end());
    let longer = |ns: u64| ns * u64::from(all) / u64::from(natives);
    workload.think_ns = longer(least)..=longer(most);
}

fn draw_clocks(dice: &mut Dice, plan: &mut Plan) {
    if dice.chance(400) {
        // Far more than clocks differ: no promise may rest on time, and a lease that nobody meant to give shows only
        // so.
        plan.clock_rates = std::array::from_fn(|_| dice.within(500..=1500));
    }
    // When a key expires is as certain as the servers' clocks agree: with clocks that differ, a key that one primary
    // has seen expire may still be there for the next one. So there are either keys that expire, or clocks that are
    // wrong.
    let has_expiry = plan.workload.weights[FIRST_EXPIRING..].iter().any(|weight| *weight > 0);
    let has_expiry = has_expiry || plan.workload.redis.has_expiry();
    plan.has_wrong_clocks = !has_expiry || dice.chance(500);
    if plan.has_wrong_clocks {
        plan.workload.weights[FIRST_EXPIRING..].fill(0);
        plan.workload.redis.without_expiry();
        plan.clock_offsets_ns = std::array::from_fn(|_| dice.below(CLOCK_OFFSET_MAX_NS));
    }
}

/// A store may have little room: for a few keys, for the sum of floating-point numbers, or for a value that is moved.
/// Where keys expire only if there are so few that every batch removes all that have expired: else the model does not
/// know how much room they still take.
fn draw_room(dice: &mut Dice, plan: &mut Plan) {
    let groups: u32 = plan.workload.redis.groups.iter().map(|keys| u32::from(*keys)).sum();
    let are_few = plan.workload.keys + groups <= SWEEP_PER_BATCH as u32;
    if (plan.has_wrong_clocks || are_few) && dice.chance(300) {
        plan.workload.store_bytes_max = dice.pick(&[150, 500, 2000, 5500, 20_000, VALUE_SIZE_MAX as u64 + 1000]);
    }
}

/// Kinds that come as events, and how likely a plan has each, per mille.
const EVENT_KINDS: &[(Fault, u32)] = &[
    (Fault::Crash, 600),
    (Fault::PowerCut, 150),
    (Fault::Pause, 250),
    (Fault::IsolatePrimary, 300),
    (Fault::Partition, 250),
    (Fault::PartitionOneWay, 200),
    (Fault::Clog, 200),
    (Fault::Disconnect, 250),
    (Fault::DiskStall, 200),
    (Fault::DiskSlow, 150),
    (Fault::WriteError, 100),
    (Fault::DiskFull, 80),
    (Fault::Rot, 150),
    (Fault::RotSuperblock, 80),
    (Fault::RotCheckpoint, 80),
    (Fault::MisdirectedWrite, 80),
    (Fault::MisdirectedRead, 80),
    (Fault::Wipe, 200),
    (Fault::ClockJump, 80),
    (Fault::Handover, 200),
    (Fault::ClientReset, 300),
    (Fault::ClientCut, 200),
];

fn draw_faults(dice: &mut Dice, plan: &Plan) -> Vec<FaultEvent> {
    let mut events = Vec::new();
    // One seed in ten is calm: what is broken without any fault is found there, with a short trace.
    if dice.chance(100) {
        return events;
    }
    for &(fault, likely) in EVENT_KINDS {
        if !dice.chance(likely) || (fault == Fault::ClockJump && !plan.has_wrong_clocks) {
            continue;
        }
        for _ in 0..dice.pick(&[1, 1, 2, 3, 6]) {
            let longest = dice.pick(&[plan.view_timeout_ns() / 2, plan.view_timeout_ns() * 3, plan.heal_at_ns / 2]);
            events.push(FaultEvent {
                at_ns: dice.below(plan.heal_at_ns),
                fault,
                choice: dice.any(),
                duration_ns: dice.within(MS..=longest.max(2 * MS)),
            });
        }
    }
    events.sort_by_key(|event| event.at_ns);
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_keep_within_what_a_cluster_can_bear() {
        for seed in 0..500 {
            let plan = Plan::of(seed);
            let quorums = Quorums::of(plan.servers);
            assert!(plan.healed.count_ones() >= u32::from(quorums.commit.max(quorums.view_change)));
            assert!(plan.damaged_max < quorums.commit, "a copy of everything committed stays");
            assert!(plan.faults.is_sorted_by_key(|event| event.at_ns));
            assert!(plan.faults.iter().all(|event| event.at_ns < plan.heal_at_ns));
        }
    }

    #[test]
    fn some_seeds_have_little_room_and_if_keys_expire_there_these_are_few() {
        let plans: Vec<Plan> = (0..500).map(Plan::of).collect();
        let (little, enough): (Vec<&Plan>, Vec<&Plan>) =
            plans.iter().partition(|plan| plan.workload.store_bytes_max < u64::MAX);
        assert!(little.len() > 50 && enough.len() > 250);
        let expires =
            |plan: &&&Plan| plan.workload.redis.has_expiry() || plan.workload.weights[FIRST_EXPIRING..] != [0; 3];
        let expiring: Vec<&&Plan> = little.iter().filter(expires).collect();
        assert!(expiring.len() > 20);
        assert!(expiring.iter().all(|plan| plan.workload.keys <= SWEEP_PER_BATCH as u32));
    }

    #[test]
    fn every_kind_of_event_is_drawn_by_some_seed() {
        for &(fault, _) in EVENT_KINDS {
            assert!((0..200).any(|seed| Plan::of(seed).has(fault)), "{}", fault.name());
        }
    }
}
