//! Evidence for every acknowledged write, and what an audit makes of it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use crate::plan::{COUNTERS, Op, counter_index, counter_number};
use crate::record::AuditReport;

/// More keys than this are not audited: eight bytes each.
pub const AUDITED_KEYS_MAX: u64 = 16 << 20;

/// What was acknowledged in a run, shared by all its threads.
#[derive(Debug)]
pub(super) struct Ledger {
    /// The highest acknowledged version of each key.
    versions: Vec<AtomicU64>,
    beyond: AtomicU64,
    overtaken: AtomicU64,
    unasked: AtomicU64,
    /// Keys with a write whose outcome is unknown.
    doubtful: Mutex<BTreeSet<u64>>,
    counter_tag: u32,
    counters: Vec<Mutex<Counter>>,
}

/// One counter, which every increment grows by one.
#[derive(Debug, Default)]
struct Counter {
    /// Increments that were acknowledged.
    acknowledged: u64,
    /// Increments whose outcome is unknown.
    doubtful: u64,
    /// The sums that were answered, a bit each.
    sums: Vec<u64>,
    /// Sums that were answered twice: between the two an acknowledged increment was lost.
    repeated: u64,
    /// What the audit read.
    found: Option<u64>,
}

impl Ledger {
    /// An empty ledger for key indexes `0..keys`.
    pub(super) fn new(keys: u64) -> Self {
        let versions = (0..keys).map(|_| AtomicU64::new(0)).collect();
        // Counters of earlier runs on the same servers have another tag: seconds are enough for that.
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            versions,
            beyond: AtomicU64::new(0),
            overtaken: AtomicU64::new(0),
            unasked: AtomicU64::new(0),
            doubtful: Mutex::default(),
            counter_tag: since_epoch.as_secs() as u32,
            counters: (0..COUNTERS).map(|_| Mutex::default()).collect(),
        }
    }

    /// Tells this run's counters from those of others.
    pub(super) fn counter_tag(&self) -> u32 {
        self.counter_tag
    }

    /// A write of the key was acknowledged with this version.
    #[inline]
    pub(super) fn acknowledge(&self, key_index: u64, version: u64) {
        match self.versions.get(key_index as usize) {
            Some(known) => drop(known.fetch_max(version, Ordering::Relaxed)),
            None => drop(self.beyond.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// An increment was acknowledged with this sum, eight bytes.
    pub(super) fn count(&self, key_index: u64, sum: &[u8]) {
        let mut counter = self.counter(key_index);
        counter.acknowledged += 1;
        let sum = sum.try_into().map_or(0, u64::from_le_bytes);
        let (word, bit) = ((sum / 64) as usize, 1 << (sum % 64));
        // A sum beyond anything that this run can have counted up to is found out by the audit.
        if word < SUM_WORDS_MAX {
            if counter.sums.len() <= word {
                counter.sums.resize(word + 1, 0);
            }
            counter.repeated += u64::from(counter.sums[word] & bit != 0);
            counter.sums[word] |= bit;
        }
    }

    /// Nobody knows how a write ended.
    pub(super) fn note_unknown(&self, op: &Op) {
        if counter_number(op.key_index).is_some() {
            self.counter(op.key_index).doubtful += 1;
        } else {
            self.doubtful.lock().unwrap_or_else(PoisonError::into_inner).insert(op.key_index);
        }
    }

    /// Whether the key has a write whose outcome is unknown.
    pub(super) fn is_in_doubt(&self, key_index: u64) -> bool {
        self.doubtful.lock().unwrap_or_else(PoisonError::into_inner).contains(&key_index)
    }

    fn counter(&self, key_index: u64) -> std::sync::MutexGuard<'_, Counter> {
        let number = counter_number(key_index).expect("it is a counter's index") % self.counters.len();
        self.counters[number].lock().unwrap_or_else(PoisonError::into_inner)
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

    /// A key was written once more than anybody can have asked for.
    pub(super) fn note_unasked(&self) {
        self.unasked.fetch_add(1, Ordering::Relaxed);
    }

    /// An audit read a counter.
    ///
    /// # Errors
    ///
    /// When its sum cannot have come about by what was asked for: in words.
    pub(super) fn check_sum(&self, key_index: u64, sum: u64) -> Result<(), String> {
        let mut counter = self.counter(key_index);
        counter.found = Some(sum);
        let Counter { acknowledged, doubtful, repeated, .. } = *counter;
        if (acknowledged..=acknowledged + doubtful).contains(&sum) && repeated == 0 {
            return Ok(());
        }
        Err(format!(
            "a counter holds {sum} after {acknowledged} acknowledged increments and {doubtful} of unknown outcome; \
             {repeated} sums were answered twice"
        ))
    }

    /// Key indexes with an acknowledged write, each `step`-th from `first` on, and then those of counters.
    pub(super) fn written(&self, first: usize, step: usize) -> impl Iterator<Item = u64> {
        let versions = self.versions.iter().enumerate().skip(first).step_by(step);
        let keys = versions.filter(|(_, version)| version.load(Ordering::Relaxed) > 0).map(|(index, _)| index as u64);
        let counters = (first as u64..COUNTERS).step_by(step).map(|number| counter_index(self.counter_tag, number));
        keys.chain(counters.filter(|&index| self.counter(index).acknowledged > 0))
    }

    /// What is known before the audit has read anything.
    pub(super) fn report(&self) -> AuditReport {
        let counters = self.counters.iter().map(|counter| counter.lock().unwrap_or_else(PoisonError::into_inner));
        let mut report = AuditReport {
            keys: self.written(0, 1).filter(|&index| counter_number(index).is_none()).count() as u64,
            unaudited: self.beyond.load(Ordering::Relaxed),
            overtaken: self.overtaken.swap(0, Ordering::Relaxed),
            ..AuditReport::default()
        };
        for counter in counters {
            report.counters += u64::from(counter.acknowledged > 0);
            report.increments += counter.acknowledged;
        }
        report
    }

    /// What the audit has read says more.
    pub(super) fn complete(&self, report: &mut AuditReport) {
        report.lost = self.overtaken.swap(0, Ordering::Relaxed);
        report.doubled = self.unasked.swap(0, Ordering::Relaxed);
        for counter in &self.counters {
            let counter = counter.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(found) = counter.found else { continue };
            report.lost += counter.acknowledged.saturating_sub(found).max(counter.repeated);
            report.doubled += found.saturating_sub(counter.acknowledged + counter.doubtful);
        }
    }
}

/// The highest sum that is looked for among those answered before: two mebibytes of bits for each counter.
const SUM_WORDS_MAX: usize = 1 << 18;

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
        assert_eq!(ledger.report().unaudited, 1);
    }

    /// A ledger in which one counter's increments were answered with these sums, and the audit's finding of `found`.
    fn counted(sums: &[u64], doubtful: usize, found: u64) -> AuditReport {
        let ledger = Ledger::new(1);
        let key_index = counter_index(ledger.counter_tag(), 5);
        sums.iter().for_each(|sum| ledger.count(key_index, &sum.to_le_bytes()));
        let op = Op { kind: crate::plan::OpKind::Increment, key_index, value_len: 0, nonce: 0 };
        (0..doubtful).for_each(|_| ledger.note_unknown(&op));
        let mut report = ledger.report();
        assert_eq!(ledger.written(5, 8).collect::<Vec<_>>(), [key_index]);
        let is_right = ledger.check_sum(key_index, found).is_ok();
        ledger.complete(&mut report);
        assert_eq!(is_right, report.is_clean(), "{report}");
        assert_eq!((report.counters, report.increments), (1, sums.len() as u64));
        report
    }

    #[test]
    fn a_counters_sum_is_what_was_acknowledged_and_perhaps_what_is_unknown() {
        assert!(counted(&[2, 1, 3], 0, 3).is_clean());
        assert!(counted(&[1, 2, 4], 2, 4).is_clean());
        assert_eq!(counted(&[1, 2, 3], 1, 2).lost, 1);
        assert_eq!(counted(&[1, 2, 3], 1, 6).doubled, 2);
    }

    #[test]
    fn an_increment_that_was_lost_shows_although_another_was_doubled() {
        // The sum is right, but the state went back to 1 in between.
        assert_eq!(counted(&[1, 2, 2], 0, 3).lost, 1);
    }

    #[test]
    fn a_nonsense_sum_costs_no_memory() {
        assert_eq!(counted(&[u64::MAX], 0, 2).doubled, 1);
    }
}
