//! The disk of one server: a journal and a superblock, with writes in flight.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use lockstep_proto::message::MessageHeader;
use lockstep_replica::{Input, Recovered, ViewRecord};

use super::message::{checksum_of, header_of, op_of};

/// Something the disk was asked for and has not done yet.
#[derive(Clone, Debug)]
pub enum Work {
    Write { op: u64, message: Bytes },
    Truncate { op: u64 },
    Persist { record: ViewRecord },
    Read { peer: u8, op: u64 },
}

/// Where the state machine's last durable checkpoint is: what follows it is replayed from the journal.
#[derive(Clone, Copy, Debug)]
struct Checkpoint {
    op: u64,
    checksum: u128,
    timestamp_ns: u64,
    /// Revision of the first request after it.
    revision: u64,
}

#[derive(Debug)]
pub struct Disk {
    /// What the superblock says.
    pub record: ViewRecord,
    checkpoint: Checkpoint,
    journal: BTreeMap<u64, Bytes>,
    journal_first_op: u64,
    /// In the order in which it was asked for.
    pending: VecDeque<Work>,
}

impl Disk {
    pub fn formatted() -> Disk {
        Disk {
            record: ViewRecord::default(),
            checkpoint: Checkpoint { op: 0, checksum: 0, timestamp_ns: 0, revision: 1 },
            journal: BTreeMap::new(),
            journal_first_op: 1,
            pending: VecDeque::new(),
        }
    }

    pub fn ask(&mut self, work: Work) {
        self.pending.push_back(work);
    }

    /// What of the pending work may be done now. Writes go side by side; a truncation waits for what was asked for before it,
    /// and what is asked for after it waits for the truncation; superblocks are written one after another.
    pub fn ready(&self) -> Vec<usize> {
        let mut ready = Vec::new();
        let (mut has_truncate, mut has_write, mut has_persist) = (false, false, false);
        for (index, work) in self.pending.iter().enumerate() {
            let is_ready = !has_truncate
                && match work {
                    Work::Write { .. } | Work::Read { .. } => true,
                    Work::Truncate { .. } => !has_write,
                    Work::Persist { .. } => !has_persist,
                };
            if is_ready {
                ready.push(index);
            }
            has_truncate |= matches!(work, Work::Truncate { .. });
            has_write |= matches!(work, Work::Write { .. });
            has_persist |= matches!(work, Work::Persist { .. });
        }
        ready
    }

    /// Does a piece of pending work. Returns what the replica is to be told.
    pub fn complete(&mut self, index: usize) -> Option<Input> {
        assert!(self.ready().contains(&index));
        match self.pending.remove(index).expect("it is pending") {
            Work::Write { op, message } => {
                let checksum = checksum_of(&message);
                self.journal.insert(op, message);
                Some(Input::JournalWritten { op, checksum })
            }
            Work::Truncate { op } => {
                assert!(op >= self.checkpoint.op, "what a checkpoint holds cannot be dropped");
                self.journal.retain(|&held, _| held <= op);
                None
            }
            Work::Persist { record } => {
                let held = self.record;
                assert!(record.view >= held.view && record.log_view >= held.log_view, "views do not run backwards");
                self.record = record;
                Some(Input::ViewDurable(record))
            }
            Work::Read { peer, op } => {
                let message = self.journal.get(&op).cloned();
                assert!(message.is_some() || op < self.journal_first_op, "op {op} is read back but was never written");
                Some(Input::JournalRead { peer, op, message, is_rotten: false })
            }
        }
    }

    /// Whether this server holds `op` durably, together with everything before it.
    pub fn holds(&self, op: u64, checksum: u128) -> bool {
        let is_same = match self.journal.get(&op) {
            Some(message) => checksum_of(message) == checksum,
            None => op <= self.checkpoint.op && (op < self.checkpoint.op || checksum == self.checkpoint.checksum),
        };
        is_same && (self.checkpoint.op + 1..op).all(|before| self.journal.contains_key(&before))
    }

    /// The log as it will be once all pending work is done: the checksum of each op in the journal.
    pub fn log_to_come(&self) -> BTreeMap<u64, u128> {
        let mut log: BTreeMap<u64, u128> =
            self.journal.iter().map(|(&op, message)| (op, checksum_of(message))).collect();
        for work in &self.pending {
            match work {
                Work::Write { op, message } => {
                    log.insert(*op, checksum_of(message));
                }
                Work::Truncate { op } => log.retain(|held, _| held <= op),
                Work::Persist { .. } | Work::Read { .. } => {}
            }
        }
        log
    }

    /// The prepares that are durable, by op.
    pub fn journal(&self) -> &BTreeMap<u64, Bytes> {
        &self.journal
    }

    /// The last op that is durable with all before it.
    pub fn end(&self) -> u64 {
        (self.checkpoint.op..).find(|op| !self.journal.contains_key(&(op + 1))).expect("a journal ends")
    }

    pub fn checkpoint_op(&self) -> u64 {
        self.checkpoint.op
    }

    /// A checkpoint at `op` is durable.
    pub fn set_checkpoint(&mut self, op: u64) {
        assert!(op >= self.checkpoint.op);
        if op > self.checkpoint.op {
            let header = header_of(&self.journal[&op]);
            self.checkpoint = Checkpoint {
                op,
                checksum: header.checksum.get(),
                timestamp_ns: header.timestamp_ns.get(),
                revision: header.revision.get() + u64::from(header.request_count.get()),
            };
        }
    }

    /// Reuses the space of everything below `first_op`, which a checkpoint covers.
    pub fn trim(&mut self, first_op: u64) -> Input {
        assert!(first_op <= self.checkpoint.op + 1, "only what a checkpoint holds is trimmed");
        self.journal_first_op = first_op.max(self.journal_first_op);
        self.journal.retain(|&op, _| op >= first_op);
        Input::JournalTrimmed { first_op: self.journal_first_op }
    }

    /// Power is lost: what was not done is not done.
    pub fn crash(&mut self) {
        self.pending.clear();
    }

    /// Reads what a server finds when it starts: the journal up to the first gap, behind which all is dropped.
    pub fn recover(&mut self) -> Recovered {
        assert!(self.pending.is_empty(), "a server starts after it has ended");
        let mut end = self.checkpoint.op;
        let mut checksum = self.checkpoint.checksum;
        while let Some(message) = self.journal.get(&(end + 1))
            && header_of(message).parent.get() == checksum
        {
            end = op_of(message);
            checksum = checksum_of(message);
        }
        self.journal.retain(|&op, _| op <= end);
        let last_commit = self.journal.get(&end).map_or(0, |message| header_of(message).commit.get());
        let commit = last_commit.max(self.checkpoint.op);
        let headers: Vec<MessageHeader> =
            self.journal.range(..=commit).map(|(_, message)| header_of(message)).collect();
        let (commit_checksum, commit_timestamp_ns, revision) = match headers.last() {
            Some(header) => (
                header.checksum.get(),
                header.timestamp_ns.get(),
                header.revision.get() + u64::from(header.request_count.get()),
            ),
            None => (self.checkpoint.checksum, self.checkpoint.timestamp_ns, self.checkpoint.revision),
        };
        Recovered {
            record: self.record,
            commit,
            commit_checksum,
            commit_timestamp_ns,
            revision,
            headers,
            suffix: self.journal.range(commit + 1..).map(|(_, message)| message.clone()).collect(),
            journal_first_op: self.journal_first_op,
            checkpoint_op: self.checkpoint.op,
            checkpoint_hash: 0,
        }
    }
}
