//! Which keys the committed log says were there, and when: what walks through the keys are held against.

use std::collections::BTreeMap;

use crate::keyspace::{Bytes, Entry};

/// Between what had been answered when something was asked for, and what was committed when it was answered.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// The last revision that had to be seen.
    pub low: u64,
    /// The last revision that could be seen.
    pub high: u64,
    /// The servers' time of day was not before this, in ns since 1970.
    pub earliest_ns: u64,
    /// Nor after this.
    pub latest_ns: u64,
}

/// All that the keys have been since the beginning.
#[derive(Clone, Debug, Default)]
pub struct Presence {
    /// For each key, what it became and at which revision, in order. Only a time of expiry says that it has expired.
    became: BTreeMap<Bytes, Vec<(u64, Option<Entry>)>>,
}

impl Presence {
    /// A request at `revision` has had to do with a key, which now is this.
    pub fn note(&mut self, revision: u64, key: &[u8], now: Option<&Entry>) {
        if !self.became.contains_key(key) {
            self.became.insert(key.into(), Vec::new());
        }
        let became = self.became.get_mut(key).expect("it was put there just now");
        if became.last().and_then(|(_, last)| last.as_ref()) != now {
            became.push((revision, now.cloned()));
        }
    }

    /// Every key that was ever there.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.became.keys().map(|key| &key[..])
    }

    /// What a key was in a window, one after the other; `None` stands for a key that is not there.
    fn within(&self, key: &[u8], window: &Window) -> impl Iterator<Item = Option<&Entry>> {
        let became = self.became.get(key).map_or(&[][..], Vec::as_slice);
        let first = became.partition_point(|(revision, _)| *revision <= window.low);
        let end = became.partition_point(|(revision, _)| *revision <= window.high).max(first);
        let before = first.checked_sub(1).and_then(|before| became[before].1.as_ref());
        std::iter::once(before).chain(became[first..end].iter().map(|(_, entry)| entry.as_ref()))
    }

    /// Whether a key was there all the time.
    pub fn was_always(&self, key: &[u8], window: &Window) -> bool {
        let lasts = |entry: &Entry| entry.expiry.is_none_or(|expiry| expiry.earliest_ns > window.latest_ns);
        self.within(key, window).all(|entry| entry.is_some_and(lasts))
    }

    /// Whether a key was there at some time, and then like this.
    pub fn was_once(&self, key: &[u8], window: &Window, is_it: impl Fn(&Entry) -> bool) -> bool {
        let may_last = |entry: &Entry| entry.expiry.is_none_or(|expiry| expiry.latest_ns > window.earliest_ns);
        self.within(key, window).flatten().any(|entry| may_last(entry) && is_it(entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyspace::{Time, Version};

    #[test]
    fn a_key_is_there_from_its_write_until_it_is_removed_or_expires() {
        let entry = |value: &[u8], expiry_ns: Option<u64>| Entry {
            value: value.into(),
            version: Version::Exact(1),
            expiry: expiry_ns.map(Time::exact),
        };
        let mut presence = Presence::default();
        presence.note(5, b"k", Some(&entry(b"a", None)));
        presence.note(7, b"k", Some(&entry(b"b", Some(100))));
        presence.note(9, b"k", None);
        let window = |low, high, ns| Window { low, high, earliest_ns: ns, latest_ns: ns };
        let always = |low, high, ns| presence.was_always(b"k", &window(low, high, ns));
        let once = |low, high, ns| presence.was_once(b"k", &window(low, high, ns), |_| true);
        assert!(always(5, 5, 0) && always(5, 8, 99) && always(6, 6, 1000));
        assert!(!always(4, 5, 0) && !always(5, 8, 100) && !always(8, 9, 0) && !always(9, 20, 0));
        assert!(once(0, 5, 0) && once(8, 9, 99) && once(6, 20, 1000) && once(8, 20, 0));
        assert!(!once(0, 4, 0) && !once(7, 20, 100) && !once(9, 20, 0));
        assert!(presence.was_once(b"k", &window(5, 7, 0), |entry| &entry.value[..] == b"b"));
        assert!(!presence.was_once(b"k", &window(5, 6, 0), |entry| &entry.value[..] == b"b"));
        assert!(!presence.was_once(b"other", &window(0, 20, 0), |_| true));
    }
}
