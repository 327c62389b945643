//! The stream of operations that one thread sends.

use rand_xoshiro::rand_core::Rng;

use super::{KeyChooser, KeyDistribution, PlanRng, Stream, ValueSizes, Workload, below, stream_rng};

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpKind {
    /// Get a key.
    Read,
    /// Put over a loaded key.
    Update,
    /// Put a new key.
    Insert,
    /// Get a key, then put it.
    ReadModifyWrite,
    /// Add one to a counter.
    Increment,
}

/// How many counters a run has.
pub const COUNTERS: u64 = 64;

/// Counters have key indexes from here on, far from all keys that are loaded or inserted.
const COUNTER_BASE: u64 = 1 << 56;

/// The key index of counter `number` of the run with this tag.
pub(crate) fn counter_index(tag: u32, number: u64) -> u64 {
    COUNTER_BASE | u64::from(tag) << 8 | number
}

/// Which counter a key index belongs to; `None` if it is a key's.
#[inline]
pub(crate) fn counter_number(key_index: u64) -> Option<usize> {
    (key_index >= COUNTER_BASE).then_some((key_index & 0xff) as usize)
}

impl OpKind {
    /// Whether the operation changes the store.
    #[inline]
    pub fn writes(self) -> bool {
        !matches!(self, Self::Read)
    }
}

/// One operation, as plain data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op {
    /// What it does.
    pub kind: OpKind,
    /// Which key: see [`super::KeyLayout`] for its bytes.
    pub key_index: u64,
    /// The length of the value to write, in bytes; zero for a read.
    pub value_len: u32,
    /// Different for every operation of a run, for [`super::ValueMaker::fill`].
    pub nonce: u64,
}

/// What a stream of operations is made from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StreamSpec {
    /// The mix of operations.
    pub workload: Workload,
    /// In this share of the updates a counter is incremented instead.
    pub increments: f64,
    /// How many keys were loaded: indexes `0..keys`.
    pub keys: u64,
    /// How requests are spread over them.
    pub distribution: KeyDistribution,
    /// Lengths of written values.
    pub values: ValueSizes,
}

/// An endless stream of operations for one thread.
#[derive(Debug, Clone)]
pub struct OpStream {
    rng: PlanRng,
    keys: KeyChooser,
    values: ValueSizes,
    read_below: u64,
    update_below: u64,
    insert_below: u64,
    increment_below: u64,
    counter_tag: u32,
    inserted: u64,
    nonce: u64,
}

impl OpStream {
    /// The operations of thread `thread` of `threads`.
    ///
    /// # Panics
    ///
    /// As [`KeyChooser::new`].
    pub fn new(spec: &StreamSpec, seed: u64, thread: usize, threads: usize) -> Self {
        let mix = spec.workload.mix();
        Self {
            rng: stream_rng(seed, Stream::Operations, thread),
            keys: KeyChooser::new(spec.distribution, spec.keys, thread, threads),
            values: spec.values,
            read_below: threshold(mix.read),
            update_below: threshold(mix.read + mix.update),
            insert_below: threshold(mix.read + mix.update + mix.insert),
            increment_below: if spec.increments > 0.0 { threshold(spec.increments) } else { 0 },
            counter_tag: 0,
            inserted: 0,
            nonce: (thread as u64) << 48,
        }
    }

    /// Tells this run's counters from those of others on the same servers.
    pub(crate) fn with_counter_tag(self, tag: u32) -> Self {
        Self { counter_tag: tag, ..self }
    }

    /// Puts every key in `0..keys` once, shared out among the threads: what `load` sends.
    pub fn load(keys: u64, values: ValueSizes, seed: u64, thread: usize, threads: usize) -> impl Iterator<Item = Op> {
        let mut rng = stream_rng(seed, Stream::Operations, thread);
        (thread as u64..keys).step_by(threads).map(move |key_index| Op {
            kind: OpKind::Insert,
            key_index,
            value_len: values.draw(rng.next_u64()),
            nonce: key_index,
        })
    }

    /// The next operation.
    #[inline]
    pub fn next_op(&mut self) -> Op {
        let kind = self.next_kind();
        if kind == OpKind::Update && self.increment_below > 0 && self.rng.next_u64() < self.increment_below {
            self.nonce += 1;
            let key_index = counter_index(self.counter_tag, below(self.rng.next_u64(), COUNTERS));
            return Op { kind: OpKind::Increment, key_index, value_len: 0, nonce: self.nonce };
        }
        let key_index = match kind {
            OpKind::Insert => {
                self.inserted += 1;
                self.keys.inserted_index(self.inserted - 1)
            }
            _ => self.keys.next(&mut self.rng, self.inserted),
        };
        self.nonce += 1;
        let value_len = match kind {
            OpKind::Read => 0,
            _ if self.values.is_fixed() => self.values.min,
            _ => self.values.draw(self.rng.next_u64()),
        };
        Op { kind, key_index, value_len, nonce: self.nonce }
    }

    #[inline]
    fn next_kind(&mut self) -> OpKind {
        // A mix of one kind needs no die.
        if self.read_below == u64::MAX {
            return OpKind::Read;
        }
        if self.read_below == 0 && self.update_below == u64::MAX {
            return OpKind::Update;
        }
        let die = self.rng.next_u64();
        if die < self.read_below {
            OpKind::Read
        } else if die < self.update_below {
            OpKind::Update
        } else if die < self.insert_below {
            OpKind::Insert
        } else {
            OpKind::ReadModifyWrite
        }
    }
}

/// The share of all 64-bit words below which a die counts; a share of one includes them all but the last, which is as
/// close as matters.
fn threshold(share: f64) -> u64 {
    if share >= 1.0 { u64::MAX } else { (share * u64::MAX as f64) as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(workload: Workload) -> StreamSpec {
        StreamSpec {
            workload,
            increments: 0.0,
            keys: 1000,
            distribution: workload.keys_default(),
            values: ValueSizes { min: 10, max: 20 },
        }
    }

    fn ops(workload: Workload, count: usize) -> Vec<Op> {
        let mut stream = OpStream::new(&spec(workload), 11, 0, 2);
        (0..count).map(|_| stream.next_op()).collect()
    }

    #[test]
    fn kinds_have_their_shares() {
        let share = |ops: &[Op], kind| ops.iter().filter(|op| op.kind == kind).count() as f64 / ops.len() as f64;
        for workload in [Workload::A, Workload::B, Workload::C, Workload::D, Workload::F, Workload::ReadShare(0.3)] {
            let (ops, mix) = (ops(workload, 100_000), workload.mix());
            for (kind, expected) in [
                (OpKind::Read, mix.read),
                (OpKind::Update, mix.update),
                (OpKind::Insert, mix.insert),
                (OpKind::ReadModifyWrite, mix.read_modify_write),
            ] {
                assert!((share(&ops, kind) - expected).abs() < 0.01, "{workload} {kind:?}");
            }
        }
    }

    #[test]
    fn inserts_take_new_keys_in_turn_and_nonces_never_repeat() {
        let ops = ops(Workload::D, 10_000);
        let inserted: Vec<u64> = ops.iter().filter(|op| op.kind == OpKind::Insert).map(|op| op.key_index).collect();
        assert!(inserted.iter().enumerate().all(|(nth, &index)| index == 1000 + 2 * nth as u64));
        assert!(ops.windows(2).all(|pair| pair[0].nonce < pair[1].nonce));
    }

    #[test]
    fn increments_take_their_share_of_the_updates_and_spread_over_all_counters() {
        let spec = StreamSpec { increments: 0.25, ..spec(Workload::A) };
        let mut stream = OpStream::new(&spec, 11, 0, 2).with_counter_tag(7);
        let ops: Vec<Op> = (0..100_000).map(|_| stream.next_op()).collect();
        let count = |kind| ops.iter().filter(|op| op.kind == kind).count() as f64;
        assert!((count(OpKind::Increment) / 100_000.0 - 0.125).abs() < 0.01);
        assert!((count(OpKind::Read) / 100_000.0 - 0.5).abs() < 0.01);
        let counters: std::collections::BTreeSet<_> =
            ops.iter().filter(|op| op.kind == OpKind::Increment).map(|op| op.key_index).collect();
        assert_eq!(counters.len() as u64, COUNTERS);
        assert!(counters.iter().all(|&index| counter_number(index).is_some_and(|number| number < 64)));
        assert!(counters.contains(&counter_index(7, 63)));
        assert_eq!(counter_number(u64::from(u32::MAX)), None);
    }

    #[test]
    fn only_writes_have_a_value() {
        for op in ops(Workload::A, 1000) {
            assert_eq!(op.value_len == 0, op.kind == OpKind::Read);
            assert!(op.kind == OpKind::Read || (10..=20).contains(&op.value_len));
        }
    }

    #[test]
    fn loading_puts_every_key_once() {
        let mut seen: Vec<u64> = (0..3)
            .flat_map(|thread| OpStream::load(100, ValueSizes::fixed(8), 1, thread, 3).map(|op| op.key_index))
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn the_same_seed_gives_the_same_operations() {
        assert_eq!(ops(Workload::A, 100), ops(Workload::A, 100));
        let mut other = OpStream::new(&spec(Workload::A), 12, 0, 2);
        assert_ne!(ops(Workload::A, 100), (0..100).map(|_| other.next_op()).collect::<Vec<_>>());
    }
}
