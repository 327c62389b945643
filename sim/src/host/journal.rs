//! The server's disk side, as `lockstep-server`'s shard has it: what the replica asks for is carried out in the order
//! in which it asks, as far as order matters. Writes go side by side, a truncation waits for all of them and holds up
//! all that comes after it, the superblock is written one change at a time. Where prepares go, what may be overwritten
//! and how a superblock is written is decided by the server's own code. What is left for this module to get wrong is
//! the order of things, and what is waited for; so one of the wrong variants is here.

use std::collections::VecDeque;

use bytes::Bytes;
use lockstep_proto::{
    limits::SECTOR_SIZE,
    mutant::{self, Mutant},
};
use lockstep_replica::ViewRecord;
use lockstep_server::{
    buffers::Pool,
    checkpoint::writer::FinishedCheckpoint,
    journal::{
        ring::{JournalRing, Location},
        superblock::{SuperblockStep, SuperblockWriter},
    },
    shard::{memory_log::MemoryLog, replay::enter_view_record},
    stub::Machine,
};

use crate::{
    disk::{Place, Work},
    facts::header_of,
};

/// A received checkpoint that has been verified and is to become this server's state.
pub(super) struct Installation {
    pub(super) checkpoint: FinishedCheckpoint,
    pub(super) machine: Machine,
}

/// Something the replica or the checkpointer wants on the disk.
pub(super) enum Command {
    Write { op: u64, message: Bytes },
    Truncate { op: u64 },
    Repair { op: u64, message: Bytes },
    Persist(Change),
    Install(Box<Installation>),
}

/// A change of the superblock.
pub(super) enum Change {
    /// What the replica must not forget.
    View(ViewRecord),
    /// A checkpoint of this server is complete.
    Checkpoint(FinishedCheckpoint),
    /// A checkpoint of another server is complete, and replaces everything.
    Install(Box<Installation>),
}

/// What a piece of work of the disk is for.
#[derive(Clone, Debug)]
pub(super) enum Purpose {
    /// A prepare.
    Prepare { op: u64, checksum: u128 },
    /// A prepare that is written over what had rotted.
    Repair,
    /// A sector of a truncation.
    Erase { op: u64 },
    /// A step of a superblock.
    Superblock,
    /// A prepare read back for a server.
    Read { peer: u8, op: u64, place: Location, is_durable: bool },
    /// A piece of this server's checkpoint.
    CheckpointPiece,
    /// The checkpoint gets its name.
    CheckpointInstall,
    /// A piece of another server's checkpoint.
    Received { op: u64, offset: u64 },
    /// Another server's checkpoint gets its name.
    ReceivedInstall { op: u64 },
    /// Old checkpoints go.
    Clean,
}

/// Where prepares are kept.
pub(super) enum Log {
    Journal(JournalRing),
    /// Durability `memory`: nowhere that survives a restart.
    Memory(MemoryLog),
}

/// What has become of what was asked for.
pub(super) enum Completed {
    Written {
        op: u64,
        checksum: u128,
    },
    Erased {
        op: u64,
    },
    Viewed(ViewRecord),
    Checkpointed(FinishedCheckpoint),
    /// A checkpoint was overtaken by an installed one.
    Overtaken,
    Installed(Box<Installation>),
    Rejected {
        op: u64,
    },
    Repaired,
}

/// Work for the disk, and news for the process.
#[derive(Default)]
pub(super) struct Steps {
    pub(super) work: Vec<(Work, Purpose)>,
    pub(super) completed: Vec<Completed>,
}

/// The journal and superblock of a running process.
pub(super) struct Journal {
    pub(super) log: Log,
    pub(super) superblock: SuperblockWriter,
    commands: VecDeque<Command>,
    /// Something is under way that nothing may be done beside.
    is_exclusive: bool,
    /// Sectors of a truncation that are still to be overwritten, one after the other.
    erasing: VecDeque<u64>,
    /// Steps of the superblock's write that come after the one in flight, and what it is for.
    steps: VecDeque<SuperblockStep>,
    change: Option<Change>,
    pub(super) announced_first_op: u64,
}

impl Journal {
    pub(super) fn new(log: Log, superblock: SuperblockWriter) -> Journal {
        Journal {
            log,
            superblock,
            commands: VecDeque::new(),
            is_exclusive: false,
            erasing: VecDeque::new(),
            steps: VecDeque::new(),
            change: None,
            announced_first_op: 0,
        }
    }

    pub(super) fn ring(&self) -> Option<&JournalRing> {
        match &self.log {
            Log::Journal(ring) => Some(ring),
            Log::Memory(_) => None,
        }
    }

    pub(super) fn first_op(&self) -> u64 {
        match &self.log {
            Log::Journal(ring) => ring.first_op(),
            Log::Memory(log) => log.first_op(),
        }
    }

    fn last_op(&self) -> u64 {
        match &self.log {
            Log::Journal(ring) => ring.last_op(),
            Log::Memory(log) => log.last_op(),
        }
    }

    pub(super) fn durable_op(&self) -> u64 {
        match &self.log {
            Log::Journal(ring) => ring.durable_op(),
            Log::Memory(log) => log.last_op(),
        }
    }

    /// Bytes of the log that no checkpoint covers.
    pub(super) fn used_bytes(&self) -> u64 {
        match &self.log {
            Log::Journal(ring) => ring.used_bytes(),
            Log::Memory(log) => log.used_bytes(),
        }
    }

    fn has_writes_in_flight(&self) -> bool {
        self.ring().is_some_and(|ring| ring.in_flight() > 0)
    }

    /// Whether `op` is not in the log yet and will not be before there is room, because everything else has been done.
    pub(super) fn is_stuck_below(&self, op: u64) -> bool {
        let is_waiting = matches!(self.commands.front(), Some(Command::Write { .. }));
        is_waiting && !self.is_exclusive && !self.has_writes_in_flight() && self.last_op() < op
    }

    /// Whether a change is to a checkpoint whose last prepares are not in the log.
    fn is_ahead(&self, change: &Change) -> bool {
        let in_force = self.superblock.durable().checkpoint.get();
        let ahead = in_force.max(self.durable_op());
        matches!(change, Change::Checkpoint(finished) if finished.meta.op > ahead)
    }

    /// Whether something waits that cannot be carried out now.
    pub(super) fn is_full(&self) -> bool {
        !self.commands.is_empty()
    }

    /// Takes a command in, behind all others. Only a checkpoint goes first: a write that waits for room waits for it.
    pub(super) fn push(&mut self, command: Command) {
        if matches!(command, Command::Persist(Change::Checkpoint(_))) {
            self.commands.push_front(command);
        } else {
            self.commands.push_back(command);
        }
    }

    /// Whether nothing waits and nothing is in flight.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_full() && !self.is_exclusive && !self.superblock.is_busy() && !self.has_writes_in_flight()
    }

    /// Carries out what is asked for, as far as it can be now.
    pub(super) fn pump(&mut self, applied: u64, pool: &Pool, out: &mut Steps) {
        while !self.is_exclusive
            && let Some(command) = self.commands.pop_front()
        {
            let blocked = match command {
                Command::Write { op, message } => self.start_write(op, message, out),
                Command::Truncate { op } => self.start_truncation(op, pool, out),
                Command::Repair { op, message } => {
                    self.start_repair(op, message, out);
                    None
                }
                Command::Persist(change) if self.superblock.is_busy() => Some(Command::Persist(change)),
                Command::Persist(change) if self.is_ahead(&change) && self.has_writes_in_flight() => {
                    Some(Command::Persist(change))
                }
                Command::Persist(change) => {
                    self.start_persist(change, pool, out);
                    None
                }
                Command::Install(installation) => self.start_installation(applied, installation, pool, out),
            };
            if let Some(command) = blocked {
                self.commands.push_front(command);
                return;
            }
        }
    }

    fn start_write(&mut self, op: u64, message: Bytes, out: &mut Steps) -> Option<Command> {
        let checksum = header_of(&message).checksum.get();
        match &mut self.log {
            Log::Journal(ring) => {
                // Room comes with the next checkpoint, or with the completion of an earlier write.
                let Ok(place) = ring.append(header_of(&message), message.len()) else {
                    return Some(Command::Write { op, message });
                };
                let work = Work::Write { place: Place::Journal, offset: place.offset, bytes: message };
                out.work.push((work, Purpose::Prepare { op, checksum }));
            }
            Log::Memory(log) => {
                if let Err(message) = log.push(op, message) {
                    return Some(Command::Write { op, message });
                }
                out.completed.push(Completed::Written { op, checksum });
            }
        }
        None
    }

    fn start_truncation(&mut self, op: u64, pool: &Pool, out: &mut Steps) -> Option<Command> {
        if self.has_writes_in_flight() {
            return Some(Command::Truncate { op });
        }
        match &mut self.log {
            Log::Journal(ring) => self.erasing = ring.truncate_after(op).into(),
            Log::Memory(log) => log.truncate_after(op),
        }
        self.is_exclusive = self.erase_next(op, pool, out);
        None
    }

    fn erase_next(&mut self, op: u64, pool: &Pool, out: &mut Steps) -> bool {
        let Some(offset) = self.erasing.pop_front() else { return false };
        let bytes = pool.copy_padded(&[0; SECTOR_SIZE], SECTOR_SIZE);
        out.work.push((Work::Write { place: Place::Journal, offset, bytes }, Purpose::Erase { op }));
        true
    }

    /// Nothing else is written meanwhile: the space could be given to another prepare.
    fn start_repair(&mut self, op: u64, message: Bytes, out: &mut Steps) {
        let checksum = header_of(&message).checksum.get();
        let place = self.ring().and_then(|ring| ring.locate(op));
        // The space may have been used again, or the op replaced, while the prepare was fetched.
        if let Some(place) = place.filter(|it| it.checksum == checksum && it.padded_size == message.len()) {
            self.is_exclusive = true;
            let work = Work::Write { place: Place::Journal, offset: place.offset, bytes: message };
            out.work.push((work, Purpose::Repair));
        }
    }

    fn start_persist(&mut self, change: Change, pool: &Pool, out: &mut Steps) {
        let journal_offset = match (&change, &self.log) {
            // An installed checkpoint may have overtaken it: the journal has begun anew.
            (Change::Checkpoint(finished), _) if finished.meta.op <= self.superblock.durable().checkpoint.get() => {
                return out.completed.push(Completed::Overtaken);
            }
            (Change::Checkpoint(finished), Log::Journal(ring)) if ring.durable_op() >= finished.meta.op => {
                ring.scan_offset(finished.meta.op + 1)
            }
            _ => 0,
        };
        self.is_exclusive |= self.is_ahead(&change);
        let write = self.superblock.begin(pool, |superblock| match &change {
            Change::View(record) => enter_view_record(record, superblock),
            Change::Checkpoint(finished) => finished.enter_into(superblock, journal_offset),
            Change::Install(installation) => installation.checkpoint.enter_into(superblock, 0),
        });
        if mutant::is(Mutant::SuperblockNotSynced) {
            // Nobody waits for it.
            let steps = write.steps.into_iter();
            out.work.extend(steps.map(|SuperblockStep { offset, bytes }| {
                (Work::Write { place: Place::Superblock, offset, bytes }, Purpose::Clean)
            }));
            self.superblock.finish();
            return self.finish_change(change, out);
        }
        self.change = Some(change);
        self.steps = write.steps.into();
        self.next_step(out);
    }

    /// Everything before it has completed, and nothing is written until it is done.
    fn start_installation(
        &mut self,
        applied: u64,
        installation: Box<Installation>,
        pool: &Pool,
        out: &mut Steps,
    ) -> Option<Command> {
        if self.has_writes_in_flight() || self.superblock.is_busy() {
            return Some(Command::Install(installation));
        }
        let op = installation.checkpoint.meta.op;
        // What has been acknowledged must not be lost by it.
        if self.last_op() > op || applied >= op {
            out.completed.push(Completed::Rejected { op });
            return None;
        }
        self.is_exclusive = true;
        self.start_persist(Change::Install(installation), pool, out);
        None
    }

    fn next_step(&mut self, out: &mut Steps) -> bool {
        let Some(step) = self.steps.pop_front() else { return false };
        let work = Work::Write { place: Place::Superblock, offset: step.offset, bytes: step.bytes };
        out.work.push((work, Purpose::Superblock));
        true
    }

    /// Something is durable.
    pub(super) fn complete(&mut self, purpose: &Purpose, pool: &Pool, out: &mut Steps) {
        match *purpose {
            Purpose::Prepare { op, checksum } => {
                if let Log::Journal(ring) = &mut self.log {
                    ring.complete(op);
                }
                out.completed.push(Completed::Written { op, checksum });
            }
            Purpose::Erase { op } => {
                self.is_exclusive = self.erase_next(op, pool, out);
                if !self.is_exclusive {
                    out.completed.push(Completed::Erased { op });
                }
            }
            Purpose::Repair => {
                self.is_exclusive = false;
                out.completed.push(Completed::Repaired);
            }
            Purpose::Superblock if self.next_step(out) => {}
            Purpose::Superblock => {
                self.superblock.finish();
                let change = self.change.take().expect("a write of the superblock is for a change");
                self.finish_change(change, out);
            }
            _ => {}
        }
    }

    fn finish_change(&mut self, change: Change, out: &mut Steps) {
        match change {
            Change::View(record) => out.completed.push(Completed::Viewed(record)),
            Change::Checkpoint(finished) if self.durable_op() < finished.meta.op => {
                // Its last prepares wait for room, and the others had them committed: the log begins anew behind it.
                let op = finished.meta.op;
                self.is_exclusive = false;
                self.restart_log(op);
                self.drop_covered(op, out);
                out.completed.push(Completed::Checkpointed(finished));
            }
            Change::Checkpoint(finished) => {
                let op = finished.meta.op;
                match &mut self.log {
                    Log::Journal(ring) => ring.release_below(op + 1),
                    Log::Memory(log) => log.release_below(op + 1),
                }
                out.completed.push(Completed::Checkpointed(finished));
            }
            Change::Install(installation) => {
                let op = installation.checkpoint.meta.op;
                self.is_exclusive = false;
                self.restart_log(op);
                out.completed.push(Completed::Installed(installation));
            }
        }
    }

    fn restart_log(&mut self, op: u64) {
        self.log = match &self.log {
            Log::Journal(ring) => {
                Log::Journal(JournalRing::with_in_flight_max(ring.size(), 0, op + 1, ring.in_flight_max()))
            }
            Log::Memory(log) => Log::Memory(MemoryLog::new(log.bytes_max(), op + 1)),
        };
    }

    /// Drops what a checkpoint at `op` has made pointless of what waits.
    fn drop_covered(&mut self, op: u64, out: &mut Steps) {
        self.commands.retain(|command| match command {
            Command::Write { op: own, message } if *own <= op => {
                out.completed.push(Completed::Written { op: *own, checksum: header_of(message).checksum.get() });
                false
            }
            Command::Truncate { op: after } => *after >= op,
            _ => true,
        });
    }
}
