//! One simulated server: the production replica, state machine, journal and checkpoint code, hosted as
//! `lockstep-server`'s shard hosts them, on a simulated disk, clock and network.
//!
//! What is here mirrors `server/src/shard/`, which cannot run on virtual time because it is written against io_uring.
//! It decides nothing: where a prepare goes, when space may be reused, what a superblock or checkpoint looks like and
//! what is found after a crash is the server's own code.

mod checkpoints;
mod clock;
mod door;
mod journal;
mod requests;
mod start;
mod transfer;
mod turn;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use lockstep_proto::{limits::SECTOR_SIZE, message::MessageHeader, superblock::Superblock};
use lockstep_replica::{BatchPool, Replica, Role};
use lockstep_server::{journal::format::Origin, stub::Machine};

pub use self::clock::{SimClock, WALL_START_NS};
use self::{
    checkpoints::Checkpointer, door::Doors, journal::Journal, journal::Purpose, requests::Requests, transfer::Transfer,
};
use crate::{
    disk::SimDisk,
    plan::{Fault, Plan},
    schedule::Event,
    shared::Shared,
};

/// The cluster that all simulated servers belong to.
pub const CLUSTER: u128 = 0x10c4;
/// The shard that they serve. One of many, so that its store has few slots and is quick to make.
pub const SHARD: u16 = 5;
/// Number of shards.
pub const SHARDS: u16 = 256;

/// Memory for batches, from the heap, padded as a journal needs it.
#[derive(Debug, Default)]
pub struct SimPool {
    spare: Option<Vec<u8>>,
}

impl BatchPool for SimPool {
    type Buffer = Vec<u8>;

    fn take(&mut self, capacity: usize) -> Vec<u8> {
        let mut buffer = self.spare.take().unwrap_or_default();
        if buffer.len() < capacity {
            buffer.resize(capacity, 0xaa);
        }
        buffer
    }

    fn freeze(&mut self, buffer: Vec<u8>, len: usize) -> Bytes {
        let mut message = Vec::with_capacity(len.next_multiple_of(SECTOR_SIZE));
        message.extend_from_slice(&buffer[..len]);
        message.resize(len.next_multiple_of(SECTOR_SIZE), 0);
        self.spare = Some(buffer);
        Bytes::from(message)
    }
}

/// A server: a disk and a clock, and a process while it is up.
pub struct Server {
    /// Its id.
    pub id: u8,
    /// Its disk.
    pub disk: SimDisk,
    /// Its clock.
    pub clock: SimClock,
    /// Counts its processes.
    pub boot: u32,
    /// The process that runs, if one does.
    pub process: Option<Box<Process>>,
    /// Whether the process is stopped and everything waits for it.
    pub is_paused: bool,
    /// Whether its disk has lost something that it had held, or has never held anything, and it has not been a whole
    /// member since.
    pub is_damaged: bool,
    /// Whether the process keeps its log in memory, or the next one will.
    pub is_memory: bool,
    /// When its process will end without warning, if it will.
    pub doom: Option<Doom>,
    held: Vec<Event>,
}

/// A crash that waits until something can be torn by it.
#[derive(Clone, Copy, Debug)]
pub struct Doom {
    /// It comes when so many writes are on their way to the journal,
    pub writes: usize,
    /// or at this time.
    pub latest_ns: u64,
    /// How long the server is down.
    pub down_ns: u64,
    /// How many crashes follow.
    pub again: u8,
}

/// A process.
pub struct Process {
    replica: Replica<SimPool>,
    role: Role,
    /// The state, as the server keeps it.
    pub machine: Machine,
    applies: VecDeque<Bytes>,
    journal: Journal,
    purposes: BTreeMap<u64, Purpose>,
    requests: Requests,
    doors: Doors,
    checkpointer: Checkpointer,
    transfer: Transfer,
    has_turn: bool,
    has_apply: bool,
    tick_ns: u64,
    failure: Option<Fault>,
}

impl Server {
    /// A server that was formatted just now and has not been started.
    pub fn formatted(id: u8, plan: &Plan) -> Server {
        Server::with(id, plan, start::first_superblock(id, plan, &Origin::NewCluster))
    }

    /// The data are lost, and the folder is made anew with `recover`. The server must be down.
    pub fn recover(&mut self, plan: &Plan, incarnation: u64) {
        assert!(!self.is_up());
        let superblock = start::first_superblock(self.id, plan, &Origin::LostDisk { incarnation });
        self.disk = Server::with(self.id, plan, superblock).disk;
        self.is_damaged = true;
    }

    fn with(id: u8, plan: &Plan, superblock: Superblock) -> Server {
        let disk = SimDisk::new(plan.disk.journal_size);
        lockstep_server::journal::superblock::write(&disk.superblock, &superblock)
            .expect("a healthy disk takes a superblock");
        Server {
            id,
            disk,
            clock: SimClock::new(plan.clock_rates[id as usize], plan.clock_offsets_ns[id as usize]),
            boot: 0,
            process: None,
            is_paused: false,
            // A server that has never been in a view cannot be told from one that was formatted again by mistake.
            is_damaged: true,
            is_memory: plan.is_memory,
            doom: None,
            held: Vec::new(),
        }
    }

    /// Whether a process runs, paused or not.
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Whether a process runs and is not paused.
    pub fn is_running(&self) -> bool {
        self.is_up() && !self.is_paused
    }

    /// Keeps an event until the process goes on. Returns it if the process is not paused.
    pub fn hold(&mut self, event: Event) -> Option<Event> {
        if self.is_paused {
            self.held.push(event);
            return None;
        }
        Some(event)
    }

    /// The process goes on: what has waited happens now, in order.
    pub fn resume(&mut self, shared: &mut Shared) {
        self.is_paused = false;
        shared.facts.has_slept(self.id);
        for event in std::mem::take(&mut self.held) {
            shared.after(0, event);
        }
    }

    /// The ops in the journal that no checkpoint covers and that are durable: the first and the last one.
    pub fn live_ops(&self) -> Option<(u64, u64)> {
        let ring = self.process.as_deref()?.journal.ring()?;
        Some((ring.released_below(), ring.durable_op()))
    }

    /// Where a prepare is in the journal, in bytes, and how large it is.
    pub fn place_of(&self, op: u64) -> Option<(u64, usize)> {
        let place = self.process.as_deref()?.journal.ring()?.locate(op)?;
        let header = self.disk.journal.read(place.offset, SECTOR_SIZE);
        let size = MessageHeader::view(&header)?.size.get() as usize;
        Some((place.offset, size.clamp(MessageHeader::SIZE, place.padded_size)))
    }

    /// What it is doing, for a person.
    pub fn describe(&self) -> String {
        let id = self.id;
        let Some(process) = &self.process else { return format!("server {id}: down") };
        let (status, superblock) = (process.status(), process.superblock());
        format!(
            "server {id}{}: {:?} view={} log_view={} op={} durable={} commit={} applied={} in_sync={:07b} checkpoint={} \
             vouch={} disk_idle={}",
            if self.is_paused { " (paused)" } else { "" },
            status.role,
            status.view,
            status.log_view,
            status.op,
            status.durable,
            status.commit,
            process.machine.applied,
            status.in_sync,
            superblock.checkpoint.get(),
            superblock.vouch_op.get(),
            process.is_disk_idle()
        )
    }

    /// The crash that it is doomed to, if that has to come now.
    pub fn take_doom(&mut self, now_ns: u64) -> Option<Doom> {
        let disk = &self.disk;
        self.doom.take_if(|doom| now_ns >= doom.latest_ns || disk.journal_writes().count() >= doom.writes)
    }

    /// The process ends without warning.
    pub fn crash(&mut self, shared: &mut Shared) {
        self.process = None;
        self.doom = None;
        self.is_paused = false;
        self.held.clear();
        let report = self.disk.crash(shared.plan.disk.tearing, &mut shared.disk_dice);
        shared.counters.add(Fault::TornWrite, report.torn);
        shared.counters.add(Fault::LostWrite, report.lost);
        shared.network.close_all_of(self.id);
        // Without a disk, every restart is amnesia.
        self.is_damaged |= self.is_memory;
    }
}

impl Process {
    /// What the replica tells about itself.
    pub fn status(&self) -> lockstep_replica::ReplicaStatus {
        self.replica.status()
    }

    /// The role that the replica has last told of.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Why the process has to end, if so.
    pub fn take_failure(&mut self) -> Option<Fault> {
        self.failure.take()
    }

    /// The superblock that is durable.
    pub fn superblock(&self) -> &Superblock {
        self.journal.superblock.durable()
    }

    /// Whether nothing waits for the disk.
    pub fn is_disk_idle(&self) -> bool {
        self.journal.is_idle()
    }
}
