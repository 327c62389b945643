//! Evidence for every acknowledged write, and what an audit makes of it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// More keys than this are not audited: eight bytes each.
pub const AUDITED_KEYS_MAX: u64 = 16 << 20;

/// The highest acknowledged version of each key, shared by all threads of a run.
#[derive(Debug)]
pub(super) struct Ledger {
    versions: Vec<AtomicU64>,
    beyond: AtomicU64,
    overtaken: AtomicU64,
}

impl Ledger {
    /// An empty ledger for key indexes `0..keys`.
    pub(super) fn new(keys: u64) -> Self {
        let versions = (0..keys).map(|_| AtomicU64::new(0)).collect();
        Self { versions, beyond: AtomicU64::new(0), overtaken: AtomicU64::new(0) }
    }

    /// A write of the key was acknowledged with this version.
    #[inline]
    pub(super) fn acknowledge(&self, key_index: u64, version: u64) {
        match self.versions.get(key_index as usize) {
            Some(known) => drop(known.fetch_max(version, Ordering::Relaxed)),
            None => drop(self.beyond.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// The version that a read of the key sent from now on has to see; 0 when no write was acknowledged.
    #[inline]
    pub(super) fn floor(&self, key_index: u64) -> u64 {
        self.versions.get(key_index as usize).map_or(0, |known| known.load(Ordering::Relaxed))
    }

    /// A read did not see a write that had been acknowledged before it was sent.
    pub(super) fn note_overtaken(&self) {
        self.overtaken.fetch_add(1, Ordering::Relaxed);
    }

    /// How many reads did not see what they had to, since the last call.
    pub(super) fn take_overtaken(&self) -> u64 {
        self.overtaken.swap(0, Ordering::Relaxed)
    }

    /// Key indexes with an acknowledged write, each `step`-th from `first` on.
    pub(super) fn written(&self, first: usize, step: usize) -> impl Iterator<Item = u64> {
        let versions = self.versions.iter().enumerate().skip(first).step_by(step);
        versions.filter(|(_, version)| version.load(Ordering::Relaxed) > 0).map(|(index, _)| index as u64)
    }

    /// Acknowledged writes of keys that the ledger has no room for.
    pub(super) fn beyond(&self) -> u64 {
        self.beyond.load(Ordering::Relaxed)
    }
}

/// What reading back every acknowledged write showed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AuditReport {
    /// Keys with an acknowledged write.
    pub keys: u64,
    /// Of these, keys that are gone or older than the version that was acknowledged. Anything but zero is data loss.
    pub lost: u64,
    /// Keys whose value is not one that was written under them.
    pub corrupt: u64,
    /// Keys that could not be read back.
    pub unread: u64,
    /// Reads of the run itself that did not see a write acknowledged before they were sent.
    pub overtaken: u64,
    /// Acknowledged writes of keys beyond what the audit has room for: not audited.
    pub unaudited: u64,
}

impl AuditReport {
    /// Whether every acknowledged write that was looked for is there.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.corrupt == 0 && self.unread == 0 && self.overtaken == 0
    }
}

impl fmt::Display for AuditReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keys, lost, corrupt, unread, overtaken, unaudited } = self;
        write!(
            out,
            "{keys} keys with an acknowledged write were read back: {lost} lost, {corrupt} with a wrong value, {unread} \
             could not be read; {overtaken} reads of the run missed a write acknowledged before"
        )?;
        if *unaudited > 0 {
            write!(out, "; {unaudited} writes of newly inserted keys were beyond what an audit has room for")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_version_counts_whatever_the_order() {
        let ledger = Ledger::new(4);
        for (key, version) in [(2, 7), (2, 5), (0, 1), (9, 3)] {
            ledger.acknowledge(key, version);
        }
        assert_eq!([0, 1, 2, 9].map(|key| ledger.floor(key)), [1, 0, 7, 0]);
        assert_eq!(ledger.written(0, 1).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(ledger.written(1, 2).collect::<Vec<_>>(), Vec::<u64>::new());
        assert_eq!(ledger.beyond(), 1);
    }
}
