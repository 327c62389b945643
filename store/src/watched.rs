//! Which keys are watched, and when they were last touched in a way that their version and expiry need not show.
//!
//! A key that did not exist, was made and removed again looks as before, and so does one whose expiry was changed to
//! something else and back. Redis lets a transaction fail then (WATCH), so whoever orders the transactions asks here
//! before it puts one into the log. This is the knowledge of one process and no part of the replicated state: nothing
//! that is applied depends on it.

use std::collections::{BTreeMap, VecDeque};

use lockstep_proto::{
    operation::Operation,
    program::{Commands, Opcode},
    request::Request,
};

use crate::store::Store;

/// Keys that are remembered, about 4 MiB of memory; the one for which nobody has asked for the longest time is
/// forgotten first.
const KEYS_MAX: usize = 65_536;

/// What is known of a watched key.
#[derive(Debug, Default)]
struct Trace {
    /// Revision that was the last one applied when this began: of what was before, nothing is known.
    since: u64,
    /// Latest revision at which it was touched, as far as that does not show in the key itself.
    touched: u64,
    /// Place in the log of the last request that may touch it so, applied or not.
    offered_op: u64,
    /// When it was last watched, in calls.
    tick: u64,
}

/// The keys that are watched, by their hash. Keys that share all 64 bits of a hash share their touches: one too many is
/// noticed then, never one too few.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    traces: BTreeMap<u64, Trace>,
    /// Hash and tick, the oldest tick first; a trace with a later tick has been watched again since.
    order: VecDeque<(u64, u64)>,
    tick: u64,
    /// Place in the log of the last request that may touch any key.
    flushed_op: u64,
}

impl Watched {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.traces.is_empty()
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.traces.len()
    }

    /// Notes that a key was touched at `revision`.
    #[inline]
    pub fn touch(&mut self, hash: u64, revision: u64) {
        if !self.is_empty()
            && let Some(trace) = self.traces.get_mut(&hash)
        {
            trace.touched = trace.touched.max(revision);
        }
    }

    /// Notes of each watched key that it was touched at the revision, if any, that `revision_of` says of its hash.
    pub fn touch_all(&mut self, revision_of: impl Fn(u64) -> Option<u64>) {
        for (hash, trace) in &mut self.traces {
            trace.touched = trace.touched.max(revision_of(*hash).unwrap_or(0));
        }
    }

    fn watch(&mut self, hash: u64, revision: u64) {
        self.tick += 1;
        let tick = self.tick;
        self.traces
            .entry(hash)
            .or_insert_with(|| {
                self.order.push_back((hash, tick));
                Trace { since: revision, ..Trace::default() }
            })
            .tick = tick;
        while self.traces.len() > KEYS_MAX {
            let (hash, tick) = self.order.pop_front().expect("each key has its place in the order");
            match self.traces[&hash].tick {
                latest if latest > tick => self.order.push_back((hash, latest)),
                _ => _ = self.traces.remove(&hash),
            }
        }
    }

    fn offer(&mut self, hash: u64, op: u64) {
        if let Some(trace) = self.traces.get_mut(&hash) {
            trace.offered_op = op;
        }
    }
}

impl Store {
    /// From now on it is noted when this key is touched. To be called before it is looked at; `revision` is the last
    /// one applied.
    pub fn watch(&mut self, key: &[u8], revision: u64) {
        self.watched.watch(self.hash(key), revision);
    }

    /// How many keys are watched, or were and are not forgotten yet.
    pub fn watched_len(&self) -> usize {
        self.watched.len()
    }

    /// Forgets what is watched: nobody asks for it any more. Whoever does all the same is told that all was touched.
    pub fn forget_watched(&mut self) {
        self.watched = Watched::default();
    }

    /// Whether a key is watched: if not, [`Store::note_offered`] does nothing.
    #[inline]
    pub fn is_watching(&self) -> bool {
        !self.watched.is_empty()
    }

    /// Notes that a request has got its place in the log, in the prepare `op`, and will be applied: it may touch keys.
    pub fn note_offered(&mut self, op: u64, request: &Request<'_>) {
        match request.operation() {
            Operation::Transact => {
                for command in Commands::new(request.program()).filter(|command| leaves_no_trace(command.opcode)) {
                    if command.opcode == Opcode::Flush {
                        self.watched.flushed_op = op;
                    }
                    for key in command.keys() {
                        self.watched.offer(self.hash(key), op);
                    }
                }
            }
            Operation::MultiPut if request.ttl_ms().is_some() => {
                for (key, _) in request.multi_put_items() {
                    self.watched.offer(self.hash(key), op);
                }
            }
            Operation::Delete | Operation::Expire => self.watched.offer(self.hash(request.key()), op),
            Operation::Put | Operation::CompareAndSet if request.ttl_ms().is_some() => {
                self.watched.offer(self.hash(request.key()), op);
            }
            _ => {}
        }
    }

    /// Whether a key that was looked at when `revision` was the last one applied has been touched since, or may be by
    /// what is in the log and not applied: ops after `applied`. What shows in its version and expiry is left to a
    /// comparison of these where the transaction stands in the log. True as well if the key is no longer remembered, or
    /// was forgotten in between.
    pub fn is_touched_since(&self, key: &[u8], revision: u64, applied: u64) -> bool {
        let hash = self.hash(key);
        let Some(trace) = self.watched.traces.get(&hash) else { return true };
        // One that has come into being may be gone again, its time up, before the transaction is applied.
        let version = self.find(hash, key).map_or(0, |handle| self.entry(handle).header.version());
        revision < trace.since
            || trace.touched.max(version) > revision
            || trace.offered_op.max(self.watched.flushed_op) > applied
    }
}

/// Whether a command may touch its keys so that they do not show it later: it removes them, or changes when they
/// expire.
fn leaves_no_trace(opcode: Opcode) -> bool {
    opcode.is_write()
        && !matches!(
            opcode,
            Opcode::Set
                | Opcode::MultiSet
                | Opcode::Append
                | Opcode::SetRange
                | Opcode::Increment
                | Opcode::IncrementFloat
        )
}

#[cfg(test)]
mod tests {
    use lockstep_proto::{
        Operation,
        program::Builder,
        request::{RequestParts, encode_request},
    };

    use super::*;
    use crate::StoreConfig;

    const TIME_NS: u64 = 1_700_000_000_000_000_000;

    fn store() -> Store {
        Store::new(StoreConfig { hash_seed: [1, 2, 3, 4], shard: 0, shards: 1, bytes_max: u64::MAX })
    }

    fn frame(commands: &[(Opcode, u8, &[&[u8]])]) -> Vec<u8> {
        let mut program = Builder::new();
        commands.iter().for_each(|(opcode, flags, arguments)| program.command_with(*opcode, *flags, arguments));
        let (operation, value) = (Operation::Transact, program.as_bytes());
        let mut frame = Vec::new();
        encode_request(
            &RequestParts { operation, flags: 0, session: 0, sequence: 1, key: &[], arguments: &[], value },
            &mut frame,
        );
        frame
    }

    fn apply(store: &mut Store, revision: u64, timestamp_ns: u64, commands: &[(Opcode, u8, &[&[u8]])]) {
        let frame = frame(commands);
        let (request, _) = Request::parse_trusted(&frame).expect("a valid frame");
        store.apply_batch(timestamp_ns, &[(revision, request)], &mut Vec::new());
    }

    const SET: (Opcode, u8, &[&[u8]]) = (Opcode::Set, 0, &[b"a", b"1"]);
    const DELETE: (Opcode, u8, &[&[u8]]) = (Opcode::Delete, 0, &[b"a"]);

    #[test]
    fn a_key_that_was_made_and_removed_again_was_touched_and_one_that_never_was_there_was_not() {
        for (commands, is_touched) in [
            (&[&[SET][..], &[DELETE]][..], true),
            (&[&[SET, DELETE]], true),
            (&[&[SET], &[(Opcode::Flush, 0, &[])]], true),
            (&[&[SET], &[(Opcode::Rename, 0, &[b"a", b"b"])]], true),
            (&[&[DELETE]], false),
            (&[&[(Opcode::Flush, 0, &[])]], false),
            (&[&[(Opcode::Set, 0, &[b"b", b"1"])], &[(Opcode::Delete, 0, &[b"b"])]], false),
        ] {
            let mut store = store();
            // It was there before, and is not any more.
            apply(&mut store, 1, TIME_NS, &[SET]);
            apply(&mut store, 2, TIME_NS, &[DELETE]);
            store.watch(b"a", 2);
            for (commands, revision) in commands.iter().zip(3..) {
                apply(&mut store, revision, TIME_NS, commands);
            }
            assert_eq!(store.is_touched_since(b"a", 2, 0), is_touched, "{commands:?}");
            assert!(!store.is_touched_since(b"a", 9, 0), "whoever has looked later has seen it: {commands:?}");
        }
    }

    #[test]
    fn a_key_that_came_and_whose_time_is_up_was_touched_and_one_whose_time_was_up_before_was_not() {
        let ms = |ms: i64| ms.to_le_bytes();
        let short: &[&[u8]] = &[b"a", b"1", &ms(5), b""];
        let set = [(Opcode::SetWith, lockstep_proto::program::flags::RELATIVE, short)];
        let other: (Opcode, u8, &[&[u8]]) = (Opcode::Set, 0, &[b"b", b"1"]);
        let later_ns = TIME_NS + 6_000_000;
        let mut store = store();
        apply(&mut store, 1, TIME_NS, &set);
        store.watch(b"a", 1);
        // It is swept after it was seen gone.
        apply(&mut store, 2, later_ns, &[other]);
        assert_eq!((store.len(), store.is_touched_since(b"a", 1, 0)), (1, false));
        apply(&mut store, 3, later_ns, &set);
        assert!(store.is_touched_since(b"a", 2, 0), "it is there, and will be gone soon");
        apply(&mut store, 4, later_ns + 6_000_000, &[other]);
        assert_eq!((store.len(), store.is_touched_since(b"a", 2, 0)), (1, true));
    }

    #[test]
    fn a_key_whose_time_was_up_when_it_was_set_was_touched() {
        let past: &[&[u8]] = &[b"a", b"1", &1i64.to_le_bytes(), b""];
        let set = [(Opcode::SetWith, lockstep_proto::program::flags::ABSOLUTE, past)];
        let mut store = store();
        store.watch(b"a", 0);
        apply(&mut store, 1, TIME_NS, &set);
        assert_eq!((store.len(), store.is_touched_since(b"a", 0, 0)), (0, true));
    }

    #[test]
    fn a_change_of_the_expiry_touches_a_key_even_if_it_is_the_same_again() {
        let absolute = lockstep_proto::program::flags::ABSOLUTE;
        let at = |ms: i64| (2_000_000_000_000 + ms).to_le_bytes();
        let (at, other) = (at(0), at(1));
        let expire: (Opcode, u8, &[&[u8]]) = (Opcode::Expire, absolute, &[b"a", &at]);
        let expire_other: (Opcode, u8, &[&[u8]]) = (Opcode::Expire, absolute, &[b"a", &other]);
        let persist: (Opcode, u8, &[&[u8]]) = (Opcode::Persist, 0, &[b"a"]);
        let mut store = store();
        apply(&mut store, 1, TIME_NS, &[SET]);
        store.watch(b"a", 1);
        apply(&mut store, 2, TIME_NS, &[persist]);
        assert!(!store.is_touched_since(b"a", 1, 0), "there was nothing to take away");
        for (revision, commands) in (3..).zip([&[expire][..], &[expire], &[expire_other, expire], &[persist, expire]]) {
            apply(&mut store, revision, TIME_NS, commands);
            assert!(store.is_touched_since(b"a", revision - 1, 0), "{commands:?}");
            assert!(!store.is_touched_since(b"a", revision, 0), "{commands:?}");
        }
    }

    #[test]
    fn what_is_in_the_log_and_not_applied_counts_if_it_may_remove_the_key_or_change_its_expiry() {
        for (command, may_touch) in [
            (SET, false),
            (DELETE, true),
            ((Opcode::Flush, 0, &[][..]), true),
            ((Opcode::Get, 0, &[b"a"]), false),
            ((Opcode::Persist, 0, &[b"a"]), true),
            ((Opcode::Delete, 0, &[b"b"]), false),
            ((Opcode::Rename, 0, &[b"b", b"a"]), true),
        ] {
            let mut store = store();
            store.watch(b"a", 1);
            let frame = frame(&[command]);
            let (request, _) = Request::parse_trusted(&frame).expect("a valid frame");
            store.note_offered(7, &request);
            assert_eq!(store.is_touched_since(b"a", 1, 6), may_touch, "{command:?}");
            assert!(!store.is_touched_since(b"a", 1, 7), "it is applied: {command:?}");
        }
    }

    #[test]
    fn so_many_keys_are_remembered_and_one_that_is_forgotten_counts_as_touched() {
        let mut store = store();
        let name = |number: usize| number.to_string().into_bytes();
        (0..KEYS_MAX).for_each(|number| store.watch(&name(number), 1));
        assert!((0..KEYS_MAX).all(|number| !store.is_touched_since(&name(number), 1, 0)));
        // The first is watched again, so the second is the one to go.
        (0..100_000).for_each(|_| store.watch(&name(0), 1));
        store.watch(b"one more", 1);
        let forgotten: Vec<usize> = (0..KEYS_MAX).filter(|&it| store.is_touched_since(&name(it), 1, 0)).collect();
        assert_eq!(forgotten, [1]);
        assert_eq!(store.watched.order.len(), KEYS_MAX, "what keeps the order is bounded, too");
        store.forget_watched();
        assert!(!store.is_watching() && store.is_touched_since(&name(0), 1, 0));
    }

    #[test]
    fn what_one_remembers_of_a_key_from_now_on_says_nothing_of_what_another_saw_before() {
        let mut store = store();
        store.watch(b"a", 0);
        store.forget_watched();
        apply(&mut store, 1, TIME_NS, &[SET]);
        apply(&mut store, 2, TIME_NS, &[DELETE]);
        store.watch(b"a", 2);
        assert!(store.is_touched_since(b"a", 0, 0), "the first has not seen that it came and went");
        assert!(!store.is_touched_since(b"a", 2, 0), "the second has");
        // Watching again does not make what is known any younger.
        store.watch(b"a", 5);
        assert!(!store.is_touched_since(b"a", 2, 0));
    }
}
