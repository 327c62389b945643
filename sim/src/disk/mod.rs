//! The disk of one server: its files, what is on its way to them, and what goes wrong with them.
//!
//! It outlives the processes that use it. Timing is the world's: a disk is asked ([`SimDisk::ask`]) and told when the
//! time has come ([`SimDisk::complete`]); a crash decides over what had been asked and was not complete.

mod file;

use std::collections::BTreeMap;

use bytes::Bytes;
use lockstep_proto::limits::SECTOR_SIZE;
use lockstep_server::journal::file::BlockFile;

pub use self::file::{SimFile, Survival, Survivors, Tearing};
use crate::{
    dice::Dice,
    facts::header_of,
    plan::{DiskPlan, Fault},
};

/// A file of a server's folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The superblock.
    Superblock,
    /// The journal.
    Journal,
}

/// Something a process asks of its disk.
#[derive(Clone, Debug)]
pub enum Work {
    /// A write that is durable once it completes.
    Write {
        /// Which file.
        place: Place,
        /// Where, in bytes.
        offset: u64,
        /// What.
        bytes: Bytes,
    },
    /// Reads from the journal.
    Read {
        /// Where, in bytes.
        offset: u64,
        /// How much.
        len: usize,
    },
    /// Appends to the temporary file of a checkpoint; durable only with [`Work::Install`].
    WriteCheckpoint {
        /// The checkpoint's op.
        op: u64,
        /// Whether it is another server's.
        is_received: bool,
        /// Where, in bytes.
        offset: u64,
        /// What.
        bytes: Bytes,
    },
    /// Syncs the temporary file of a checkpoint and gives it its name.
    Install {
        /// The checkpoint's op.
        op: u64,
        /// Whether it is another server's.
        is_received: bool,
    },
    /// Removes the checkpoints below one.
    Clean {
        /// The one to keep.
        keep: u64,
    },
}

/// What came of it.
#[derive(Clone, Debug)]
pub enum Done {
    /// It is done.
    Ok,
    /// What was read.
    Bytes(Vec<u8>),
    /// The disk failed in this way.
    Failed(Fault),
}

/// What a crash did, for the counters.
#[derive(Clone, Copy, Debug, Default)]
pub struct CrashReport {
    /// Writes of which a part reached the disk.
    pub torn: u32,
    /// Writes of which nothing did.
    pub lost: u32,
}

impl CrashReport {
    fn count(&mut self, survival: Survival) {
        match survival {
            Survival::Whole => {}
            Survival::Torn => self.torn += 1,
            Survival::Lost => self.lost += 1,
        }
    }
}

/// A server's folder, and what is on its way to it.
#[derive(Debug)]
pub struct SimDisk {
    /// The superblock file.
    pub superblock: SimFile,
    /// The journal file.
    pub journal: SimFile,
    checkpoints: BTreeMap<u64, SimFile>,
    /// By op, and whether it is another server's.
    temporary: BTreeMap<(u64, bool), SimFile>,
    in_flight: BTreeMap<u64, Work>,
    next_id: u64,
    /// Nothing completes before.
    pub stalled_until_ns: u64,
    /// Everything takes ten times as long until then.
    pub slow_until_ns: u64,
    /// Checkpoints find no room until then.
    pub full_until_ns: u64,
    /// Prepares of these ops do not get onto the disk.
    pub held_ops: Vec<u64>,
    /// The next write fails.
    pub fails_next_write: bool,
    /// The next journal write goes elsewhere: so many bytes away.
    pub misdirects_write_by: Option<u64>,
    /// The next journal read comes from elsewhere: so many bytes away.
    pub misdirects_read_by: Option<u64>,
}

impl SimDisk {
    /// Files as they are right after `format`, without a superblock.
    pub fn new(journal_size: u64) -> SimDisk {
        SimDisk {
            superblock: SimFile::new(4 * SECTOR_SIZE as u64),
            journal: SimFile::new(journal_size),
            checkpoints: BTreeMap::new(),
            temporary: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            next_id: 0,
            stalled_until_ns: 0,
            slow_until_ns: 0,
            full_until_ns: 0,
            held_ops: Vec::new(),
            fails_next_write: false,
            misdirects_write_by: None,
            misdirects_read_by: None,
        }
    }

    /// The checkpoint at `op`.
    pub fn checkpoint(&self, op: u64) -> Option<&SimFile> {
        self.checkpoints.get(&op)
    }

    /// The checkpoint at `op` that is being received.
    pub fn received(&self, op: u64) -> Option<&SimFile> {
        self.temporary.get(&(op, true))
    }

    /// Takes work in. Returns its name for [`SimDisk::complete`].
    pub fn ask(&mut self, work: Work) -> u64 {
        self.next_id += 1;
        self.in_flight.insert(self.next_id, work);
        self.next_id
    }

    /// How long work that is asked for now will take.
    pub fn latency_ns(&self, now_ns: u64, plan: &DiskPlan, dice: &mut Dice) -> u64 {
        let latency_ns = dice.delay(&plan.latency_ns);
        if now_ns < self.slow_until_ns { 10 * latency_ns } else { latency_ns }
    }

    /// Whether work that was asked for is a prepare that does not get onto the disk.
    pub fn is_held(&self, id: u64) -> bool {
        match self.in_flight.get(&id) {
            Some(Work::Write { place: Place::Journal, bytes, .. }) if !self.held_ops.is_empty() => {
                self.held_ops.contains(&header_of(bytes).op.get())
            }
            _ => false,
        }
    }

    /// The writes to the journal that are on their way.
    pub fn journal_writes(&self) -> impl Iterator<Item = &Bytes> {
        self.in_flight.values().filter_map(|work| match work {
            Work::Write { place: Place::Journal, bytes, .. } => Some(bytes),
            _ => None,
        })
    }

    /// Where in the superblock file something is being written, in bytes.
    pub fn superblock_write(&self) -> Option<u64> {
        self.in_flight.values().find_map(|work| match work {
            Work::Write { place: Place::Superblock, offset, .. } => Some(*offset),
            _ => None,
        })
    }

    /// Does work that was asked for. `None` if a crash came between.
    pub fn complete(&mut self, now_ns: u64, id: u64) -> Option<Done> {
        let work = self.in_flight.remove(&id)?;
        Some(self.carry_out(now_ns, &work))
    }

    fn carry_out(&mut self, now_ns: u64, work: &Work) -> Done {
        match work {
            Work::Write { .. } | Work::WriteCheckpoint { .. } if std::mem::take(&mut self.fails_next_write) => {
                return Done::Failed(Fault::WriteError);
            }
            Work::WriteCheckpoint { .. } | Work::Install { .. } if now_ns < self.full_until_ns => {
                return Done::Failed(Fault::DiskFull);
            }
            Work::Write { place: Place::Journal, offset, bytes } => {
                let offset = match self.misdirects_write_by.take() {
                    Some(distance) => self.elsewhere(*offset, distance, bytes.len()),
                    None => *offset,
                };
                self.journal.put(offset, bytes);
            }
            Work::Write { place: Place::Superblock, offset, bytes } => self.superblock.put(*offset, bytes),
            Work::Read { offset, len } => {
                let offset = match self.misdirects_read_by.take() {
                    Some(distance) => self.elsewhere(*offset, distance, *len),
                    None => *offset,
                };
                return Done::Bytes(self.journal.read(offset, *len));
            }
            Work::WriteCheckpoint { op, is_received, offset, bytes } => {
                let name = (*op, *is_received);
                if *offset == 0 {
                    self.temporary.insert(name, SimFile::new(0));
                }
                if let Some(file) = self.temporary.get(&name) {
                    file.write_later(*offset, bytes);
                }
            }
            Work::Install { op, is_received } => {
                let file = self.temporary.remove(&(*op, *is_received)).expect("it is written before it is installed");
                file.sync().expect("nobody kills the simulated disk here");
                self.checkpoints.insert(*op, file);
            }
            Work::Clean { keep } => self.checkpoints.retain(|op, _| op >= keep),
        }
        Done::Ok
    }

    /// Another place in the journal for `len` bytes.
    fn elsewhere(&self, offset: u64, distance: u64, len: usize) -> u64 {
        let size = self.journal.size().unwrap_or(0);
        let places = (size - len as u64) / SECTOR_SIZE as u64 + 1;
        (offset / SECTOR_SIZE as u64 + 1 + distance % (places - 1).max(1)) % places * SECTOR_SIZE as u64
    }

    /// The process is gone. What was on its way reaches the disk in part.
    pub fn crash(&mut self, how: Tearing, dice: &mut Dice) -> CrashReport {
        let mut report = CrashReport::default();
        for (_, work) in std::mem::take(&mut self.in_flight) {
            match work {
                Work::Write { place, offset, bytes } => {
                    let file = match place {
                        Place::Superblock => &self.superblock,
                        Place::Journal => &self.journal,
                    };
                    report.count(file.tear(offset, &bytes, how, dice));
                }
                Work::WriteCheckpoint { op, is_received, offset, bytes } if offset > 0 => {
                    if let Some(file) = self.temporary.get(&(op, is_received)) {
                        file.write_later(offset, &bytes);
                    }
                }
                Work::Install { op, is_received } => {
                    // The name may be on the disk or not, but never without the bytes: they are synced before.
                    if dice.chance(500)
                        && let Some(file) = self.temporary.remove(&(op, is_received))
                    {
                        file.sync().expect("nobody kills the simulated disk here");
                        self.checkpoints.insert(op, file);
                    }
                }
                Work::WriteCheckpoint { .. } | Work::Read { .. } | Work::Clean { .. } => {}
            }
        }
        for file in [&self.superblock, &self.journal].into_iter().chain(self.temporary.values()) {
            file.crash(how, dice, |survival| report.count(survival));
        }
        self.fails_next_write = false;
        self.misdirects_read_by = None;
        self.misdirects_write_by = None;
        report
    }

    /// The names of all checkpoints in force or about to be.
    pub fn checkpoint_ops(&self) -> Vec<u64> {
        self.checkpoints.keys().copied().collect()
    }

    /// Nothing goes wrong any more.
    pub fn heal(&mut self) {
        self.held_ops.clear();
        self.stalled_until_ns = 0;
        self.slow_until_ns = 0;
        self.full_until_ns = 0;
        self.fails_next_write = false;
        self.misdirects_write_by = None;
        self.misdirects_read_by = None;
    }

    /// What opening a folder does with the files that a crash has left behind.
    pub fn remove_leftovers(&mut self, keep: u64) {
        self.checkpoints.retain(|op, _| *op == keep);
        self.temporary.clear();
    }
}
