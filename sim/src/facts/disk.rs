//! What one server's disk holds, and what the server has said about it.

use std::collections::{BTreeMap, BTreeSet};

use lockstep_proto::superblock::Superblock;

/// The facts about one server's disk.
#[derive(Clone, Debug, Default)]
pub(super) struct DiskFacts {
    /// The log as the replica has handed it to the disk: the checksum of each op.
    log: BTreeMap<u64, u128>,
    /// Everything up to here is in the state that the server started from.
    base: u64,
    /// The prepares that are on the disk.
    durable: BTreeMap<u64, u128>,
    /// The prepares that a start may find: placed, and not given up since.
    findable: BTreeSet<(u64, u128)>,
    view: u64,
    log_view: u64,
    /// The highest log_view that has ever been durable, on this disk or one before.
    log_view_max: u64,
    /// The highest op that the server has said it holds, and its checksum.
    said: (u64, u128),
    said_view: u64,
    said_log_view: u64,
}

impl DiskFacts {
    pub(super) fn log(&self, op: u64) -> Option<u128> {
        self.log.get(&op).copied()
    }

    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// Whether the disk holds a prepare, or a state that includes it.
    pub(super) fn holds(&self, op: u64, checksum: u128) -> bool {
        op <= self.base || self.durable.get(&op) == Some(&checksum)
    }

    pub(super) fn view(&self) -> u64 {
        self.view
    }

    pub(super) fn log_view(&self) -> u64 {
        self.log_view
    }

    pub(super) fn log_view_max(&self) -> u64 {
        self.log_view_max
    }

    /// The disk is replaced by an empty one.
    pub(super) fn wipe(&mut self) {
        *self = DiskFacts { log_view_max: self.log_view_max, ..DiskFacts::default() };
    }

    pub(super) fn said(&self) -> (u64, u128) {
        self.said
    }

    pub(super) fn said_op(&self) -> u64 {
        self.said.0
    }

    pub(super) fn said_views(&self) -> (u64, u64) {
        (self.said_view, self.said_log_view)
    }

    pub(super) fn hand_over(&mut self, op: u64, checksum: u128) {
        self.log.insert(op, checksum);
    }

    pub(super) fn truncate(&mut self, op: u64) {
        self.log.split_off(&(op + 1));
        self.durable.split_off(&(op + 1));
        if self.said.0 > op {
            self.said = (op, self.log.get(&op).copied().unwrap_or(0));
        }
    }

    /// What lies above `op` may be gone at any moment.
    pub(super) fn lose_above(&mut self, op: u64) {
        self.durable.split_off(&(op + 1));
    }

    /// What lies above `op` is gone.
    pub(super) fn erase(&mut self, op: u64) {
        self.durable.split_off(&(op + 1));
        self.findable.split_off(&(op + 1, 0));
    }

    /// A prepare is on its way to the disk.
    pub(super) fn place(&mut self, op: u64, checksum: u128) {
        self.findable.insert((op, checksum));
    }

    /// The lowest op of a log that was read back of which the disk should not have this prepare any more, or never had
    /// it.
    pub(super) fn stray(&self, log: &BTreeMap<u64, u128>) -> Option<u64> {
        log.iter().map(|(&op, &checksum)| (op, checksum)).find(|it| !self.findable.contains(it)).map(|(op, _)| op)
    }

    pub(super) fn make_durable(&mut self, op: u64, checksum: u128) {
        if self.log.get(&op) == Some(&checksum) {
            self.durable.insert(op, checksum);
        }
    }

    pub(super) fn set_superblock(&mut self, superblock: &Superblock) {
        self.view = superblock.view.get();
        self.log_view = superblock.log_view.get();
        self.log_view_max = self.log_view_max.max(self.log_view);
    }

    pub(super) fn says_view(&mut self, view: u64, log_view: u64) {
        self.said_view = self.said_view.max(view);
        self.said_log_view = self.said_log_view.max(log_view);
    }

    /// The server says that it holds everything up to `op`, whose header has this checksum. Returns the first op that
    /// it does not hold.
    pub(super) fn says_op(&mut self, op: u64, checksum: u128) -> Option<u64> {
        let holds = |at: u64| at <= self.base || self.durable.contains_key(&at);
        let missing = (self.said.0.max(self.base) + 1..=op).find(|at| !holds(*at));
        if missing.is_some() {
            return missing;
        }
        // A checksum of 0: the server has no header of that op any more, which is below its checkpoint.
        if op > self.base && checksum != 0 && self.durable.get(&op) != Some(&checksum) {
            return Some(op);
        }
        if op > self.said.0 {
            self.said = (op, self.durable.get(&op).copied().unwrap_or(checksum));
        }
        None
    }

    pub(super) fn start(&mut self, superblock: &Superblock, base: u64, log: BTreeMap<u64, u128>) {
        self.set_superblock(superblock);
        self.base = base;
        self.durable = log.clone();
        self.findable = log.iter().map(|(&op, &checksum)| (op, checksum)).collect();
        self.log = log;
        let end = self.log.last_key_value().map_or(base, |(op, _)| (*op).max(base));
        if self.said.0 > end {
            self.said = (end, self.log.get(&end).copied().unwrap_or(0));
        }
    }

    pub(super) fn install(&mut self, op: u64, checksum: u128) {
        self.log = BTreeMap::new();
        self.durable = BTreeMap::new();
        self.findable = BTreeSet::new();
        self.base = op;
        self.said = (op, checksum);
    }
}
