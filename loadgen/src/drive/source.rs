//! Where a thread's requests come from.

use std::sync::Arc;

use super::ledger::Ledger;
use super::{Phase, RunSpec};
use crate::plan::{Op, OpKind, OpStream};

/// The operations of one thread.
pub(super) enum Source {
    /// The workload, without end.
    Workload(OpStream),
    /// A list that ends: the keys to load, or to audit.
    List(Box<dyn Iterator<Item = Op>>),
}

impl Source {
    /// What the spec asks for.
    pub(super) fn of(spec: &RunSpec, counter_tag: u32, thread: usize, threads: usize) -> Self {
        match spec.phase {
            Phase::Run => {
                let stream = OpStream::new(&spec.stream(), spec.seed, thread, threads);
                Self::Workload(stream.with_counter_tag(counter_tag))
            }
            Phase::Load => Self::List(Box::new(OpStream::load(spec.keys, spec.values, spec.seed, thread, threads))),
        }
    }

    /// A read of every key with an acknowledged write.
    pub(super) fn audit(ledger: &Arc<Ledger>, thread: usize, threads: usize) -> Self {
        // Collected once, for the ledger cannot be borrowed by what outlives this call.
        let keys: Vec<u64> = ledger.written(thread, threads).collect();
        let read = |key_index| Op { kind: OpKind::Read, key_index, value_len: 0, nonce: 0 };
        Self::List(Box::new(keys.into_iter().map(read)))
    }

    /// The next operation; `None` when a list has ended.
    #[inline]
    pub(super) fn next(&mut self) -> Option<Op> {
        match self {
            Self::Workload(stream) => Some(stream.next_op()),
            Self::List(list) => list.next(),
        }
    }
}
