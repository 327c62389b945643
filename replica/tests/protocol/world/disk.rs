//! The disk of one server: a journal and a superblock, with writes in flight.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use lockstep_proto::{limits::CHECKPOINT_CHUNK_SIZE_MAX, message::MessageHeader};
use lockstep_replica::{Input, Recovered, VOUCH_UNKNOWN, ViewRecord};

use super::message::{checksum_of, header_of, op_of};

/// Something the disk was asked for and has not done yet.
#[derive(Clone, Debug)]
pub enum Work {
    Write { op: u64, message: Bytes },
    Truncate { op: u64 },
    Persist { record: ViewRecord },
    Read { peer: u8, op: u64 },
    Repair { op: u64, message: Bytes },
    ReadCheckpoint { peer: u8, op: u64, offset: u64 },
    WriteCheckpoint { op: u64, offset: u64, size: u64, bytes: Bytes },
    Install { op: u64, size: u64 },
}

/// Size of a checkpoint's file, in bytes: some pieces.
const CHECKPOINT_SIZE: usize = 2 * CHECKPOINT_CHUNK_SIZE_MAX + 100;

/// Where the state machine's last durable checkpoint is: what follows it is replayed from the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    op: u64,
    checksum: u128,
    timestamp_ns: u64,
    /// Revision of the first request after it.
    revision: u64,
    /// Stands for the state: it follows from the log.
    state_hash: u128,
}

impl Checkpoint {
    pub fn state_hash(&self) -> u128 {
        self.state_hash
    }

    fn file(&self) -> Vec<u8> {
        let mut file = vec![self.op as u8; CHECKPOINT_SIZE];
        let fields = [
            &self.op.to_le_bytes()[..],
            &self.checksum.to_le_bytes(),
            &self.timestamp_ns.to_le_bytes(),
            &self.revision.to_le_bytes(),
            &self.state_hash.to_le_bytes(),
        ]
        .concat();
        file[..fields.len()].copy_from_slice(&fields);
        file
    }

    fn parse(file: &[u8]) -> Option<Checkpoint> {
        let number = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
        let wide = |at: usize| u128::from_le_bytes(file[at..at + 16].try_into().unwrap());
        let checkpoint = Checkpoint {
            op: number(0),
            checksum: wide(8),
            timestamp_ns: number(24),
            revision: number(32),
            state_hash: wide(40),
        };
        (checkpoint.file() == file).then_some(checkpoint)
    }
}

#[derive(Debug)]
pub struct Disk {
    /// What the superblock says.
    pub record: ViewRecord,
    checkpoint: Checkpoint,
    /// A checkpoint that is being received: its op and what there is of its file.
    incoming: (u64, Vec<u8>),
    /// Checkpoints that others are still reading.
    pinned: BTreeMap<u8, Checkpoint>,
    journal: BTreeMap<u64, Bytes>,
    /// Ops of the journal that cannot be read.
    rotten: BTreeSet<u64>,
    journal_first_op: u64,
    /// In the order in which it was asked for.
    pending: VecDeque<Work>,
}

impl Disk {
    /// A disk that `format` was run on, as so many have been of this server.
    pub fn formatted(server: u8, incarnation: u64) -> Disk {
        let mut record = ViewRecord::default();
        record.incarnations[server as usize] = incarnation;
        Disk {
            record,
            checkpoint: Checkpoint { op: 0, checksum: 0, timestamp_ns: 0, revision: 1, state_hash: 0 },
            incoming: (0, Vec::new()),
            pinned: BTreeMap::new(),
            journal: BTreeMap::new(),
            rotten: BTreeSet::new(),
            journal_first_op: 1,
            pending: VecDeque::new(),
        }
    }

    pub fn ask(&mut self, work: Work) {
        self.pending.push_back(work);
    }

    /// What of the pending work may be done now. Writes go side by side; a truncation waits for what was asked for
    /// before it, and what is asked for after it waits for the truncation; superblocks are written one after another.
    pub fn ready(&self) -> Vec<usize> {
        let mut ready = Vec::new();
        let (mut has_truncate, mut has_write, mut has_persist, mut has_checkpoint) = (false, false, false, false);
        for (index, work) in self.pending.iter().enumerate() {
            let is_ready = !has_truncate
                && match work {
                    Work::Write { .. } | Work::Read { .. } | Work::Repair { .. } | Work::ReadCheckpoint { .. } => true,
                    Work::WriteCheckpoint { .. } => !has_checkpoint,
                    Work::Install { .. } => !has_write && !has_persist && !has_checkpoint,
                    Work::Truncate { .. } => !has_write,
                    Work::Persist { .. } => !has_persist,
                };
            if is_ready {
                ready.push(index);
            }
            has_truncate |= matches!(work, Work::Truncate { .. } | Work::Install { .. });
            has_checkpoint |= matches!(work, Work::WriteCheckpoint { .. });
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
                if self.rotten.contains(&op) {
                    let rotten = message.as_deref().map(checksum_of);
                    return Some(Input::JournalRead { peer, op, message: None, rotten });
                }
                assert!(message.is_some() || op < self.journal_first_op, "op {op} is read back but was never written");
                Some(Input::JournalRead { peer, op, message, rotten: None })
            }
            Work::Repair { op, message } => {
                assert!(self.rotten.remove(&op), "op {op} is repaired, but is whole");
                assert_eq!(self.journal.get(&op).map(|held| checksum_of(held)), Some(checksum_of(&message)));
                None
            }
            Work::ReadCheckpoint { peer, op, offset } => Some(self.read_checkpoint(peer, op, offset)),
            Work::WriteCheckpoint { op, offset, size, bytes } => {
                if offset == 0 {
                    self.incoming = (op, Vec::new());
                }
                let (incoming_op, file) = &mut self.incoming;
                assert_eq!((*incoming_op, file.len() as u64), (op, offset), "pieces come in order");
                file.extend_from_slice(&bytes);
                assert!(file.len() as u64 <= size);
                Some(Input::CheckpointWritten { op, offset })
            }
            Work::Install { op, size } => Some(self.install(op, size)),
        }
    }

    fn read_checkpoint(&mut self, peer: u8, op: u64, offset: u64) -> Input {
        let pinned = self.pinned.get(&peer).filter(|pinned| pinned.op == op).copied();
        let checkpoint = match pinned {
            Some(pinned) if op > 0 => Some(pinned),
            _ => Some(self.checkpoint).filter(|checkpoint| checkpoint.op > 0 && (op == 0 || op == checkpoint.op)),
        };
        let Some(checkpoint) = checkpoint else {
            return Input::CheckpointRead { peer, op, offset, size: 0, bytes: None };
        };
        self.pinned.insert(peer, checkpoint);
        let file = checkpoint.file();
        let end = file.len().min(offset as usize + CHECKPOINT_CHUNK_SIZE_MAX);
        let bytes = file.get(offset as usize..end).map(Bytes::copy_from_slice);
        Input::CheckpointRead { peer, op: checkpoint.op, offset, size: file.len() as u64, bytes }
    }

    fn install(&mut self, op: u64, size: u64) -> Input {
        let (incoming_op, file) = std::mem::take(&mut self.incoming);
        assert_eq!((incoming_op, file.len() as u64), (op, size), "a checkpoint is whole before it is installed");
        let Some(checkpoint) = Checkpoint::parse(&file) else {
            return Input::CheckpointRejected { op };
        };
        assert!(op > self.checkpoint.op);
        let last = self.journal.keys().next_back().copied().unwrap_or(0);
        assert!(last < op, "a checkpoint at {op} replaces a journal that ends at {last}");
        self.checkpoint = checkpoint;
        self.journal.clear();
        self.rotten.clear();
        self.journal_first_op = op + 1;
        Input::CheckpointInstalled {
            op,
            checksum: checkpoint.checksum,
            revision: checkpoint.revision,
            timestamp_ns: checkpoint.timestamp_ns,
            state_hash: checkpoint.state_hash,
        }
    }

    /// The state at the last checkpoint.
    pub fn checkpoint(&self) -> Checkpoint {
        self.checkpoint
    }

    /// The disk is replaced by an empty one, and `recover` is run on it.
    pub fn wipe(&mut self, server: u8, incarnation: u64) {
        *self = Disk::formatted(server, incarnation);
        self.record.is_recovering = true;
    }

    /// While the server is down, what the journal holds of an op becomes unreadable, if it holds it. The next start
    /// finds it.
    pub fn rot(&mut self, op: u64) {
        if self.journal.contains_key(&op) {
            self.rotten.insert(op);
        }
    }

    /// While the server is down, its checkpoint becomes unreadable.
    pub fn lose_checkpoint(&mut self) {
        let record = ViewRecord { vouch_op: VOUCH_UNKNOWN, ..self.record };
        *self = Disk { record, ..Disk::formatted(0, 0) };
    }

    /// A bit of the state flips before it is written into the last checkpoint.
    pub fn flip_state(&mut self) {
        self.checkpoint.state_hash ^= 1;
    }

    /// The rot that a start finds: the log ends before it, and what may have been acknowledged behind is noted first.
    fn note_rot(&mut self) {
        let Some(&first) = self.rotten.range(self.checkpoint.op + 1..).next() else { return };
        let last = self.journal.keys().next_back().copied().unwrap_or(first);
        self.record.vouch_op = self.record.vouch_op.max(last);
        self.journal.retain(|&op, _| op < first);
        self.rotten.retain(|&op| op < first);
    }

    /// Whether nothing is lost here that may have been acknowledged.
    pub fn is_whole(&self) -> bool {
        self.record.vouch_op == 0 && !self.record.is_recovering && self.rotten.is_empty()
    }

    /// Whether this server holds `op`, or may have held it before its disk was damaged.
    pub fn has_held(&self, op: u64, checksum: u128) -> bool {
        self.holds(op, checksum) || op <= self.record.vouch_op || self.record.is_recovering
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
                Work::Install { .. } => log.clear(),
                _ => {}
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
                state_hash: header.checksum.get() ^ 0xfeed,
            };
        }
    }

    /// Reuses the space of everything below `first_op`, which a checkpoint covers.
    pub fn trim(&mut self, first_op: u64) -> Input {
        assert!(first_op <= self.checkpoint.op + 1, "only what a checkpoint holds is trimmed");
        self.journal_first_op = first_op.max(self.journal_first_op);
        self.journal.retain(|&op, _| op >= first_op);
        self.rotten.retain(|&op| op >= first_op);
        Input::JournalTrimmed { first_op: self.journal_first_op }
    }

    /// Power is lost: what was not done is not done.
    pub fn crash(&mut self) {
        self.pending.clear();
    }

    /// Reads what a server finds when it starts: the journal up to the first gap, behind which all is dropped.
    pub fn recover(&mut self) -> Recovered {
        assert!(self.pending.is_empty(), "a server starts after it has ended");
        self.note_rot();
        self.incoming = (0, Vec::new());
        self.pinned.clear();
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
            checkpoint_hash: self.checkpoint.state_hash,
        }
    }
}
