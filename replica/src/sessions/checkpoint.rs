//! The table as it was at one moment, given out in pieces while it goes on changing.
//!
//! A large table takes tens of milliseconds to encode, which no request may wait for. So a checkpoint remembers how far
//! it has come, and a session that is about to change before its turn is encoded there and then and kept. The bytes are
//! those that [`Sessions::encode`] would have given at the cut.

use std::collections::BTreeMap;

use lockstep_proto::{
    checksum::Checksum128,
    mutant::{self, Mutant},
};

use super::{Sessions, codec::encode_session, window::Window};

/// How far a checkpoint of the table has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionsProgress {
    /// There is more to give out.
    More,
    /// All has been given out, and the checkpoint is no longer active.
    Done {
        /// What [`Sessions::content_hash`] was at the cut.
        hash: u128,
    },
}

/// A checkpoint that is being given out.
pub(super) struct Checkpoint {
    /// Sessions from this number on have not been given out.
    cursor: u64,
    /// The newest session at the cut; 0 if there was none.
    newest: u64,
    /// What comes before the sessions, until it is given out.
    head: Vec<u8>,
    /// Sessions that have changed since the cut, as they were.
    kept: BTreeMap<u64, Vec<u8>>,
    checksum: Checksum128,
}

impl Checkpoint {
    /// Keeps a session that is about to change or to go, if it belongs into the checkpoint and is not there yet.
    pub(super) fn keep(&mut self, session: u64, window: &Window) {
        if mutant::is(Mutant::CheckpointMixesOps) {
            return;
        }
        if (self.cursor..=self.newest).contains(&session) && !self.kept.contains_key(&session) {
            let mut bytes = Vec::new();
            let is_settled = encode_session(session, window, &mut bytes);
            assert!(is_settled, "a checkpoint is made between batches");
            self.kept.insert(session, bytes);
        }
    }
}

impl Sessions {
    /// Begins a checkpoint: the table as it is now is what [`Sessions::checkpoint_step`] will give out. To be called
    /// between batches. A checkpoint that was begun before is given up.
    pub fn checkpoint_begin(&mut self) {
        let mut head = Vec::new();
        self.encode_head(&mut head);
        self.checkpoint = Some(Box::new(Checkpoint {
            cursor: 0,
            newest: self.iter().last().map_or(0, |(session, _)| session),
            head,
            kept: BTreeMap::new(),
            checksum: Checksum128::new(),
        }));
    }

    /// Appends the next piece of the active checkpoint to `out`: about `budget_bytes`, and at most one session more.
    ///
    /// # Panics
    ///
    /// If no checkpoint is active.
    pub fn checkpoint_step(&mut self, budget_bytes: usize, out: &mut Vec<u8>) -> SessionsProgress {
        let mut checkpoint = self.checkpoint.take().expect("a checkpoint has been begun");
        let start = out.len();
        out.append(&mut checkpoint.head);
        let mut at = self.numbers.partition_point(|&number| number < checkpoint.cursor);
        let is_complete = loop {
            if out.len() - start >= budget_bytes {
                break false;
            }
            while at < self.numbers.len() && self.windows[at].is_none() {
                at += 1;
            }
            let live = self.numbers.get(at).copied().filter(|&number| number <= checkpoint.newest);
            let kept = checkpoint.kept.first_key_value().map(|(&number, _)| number);
            let Some(session) = live.into_iter().chain(kept).min() else { break true };
            if kept == Some(session) {
                let (_, bytes) = checkpoint.kept.pop_first().expect("it was just seen");
                out.extend_from_slice(&bytes);
            } else {
                let window = self.windows[at].as_deref().expect("empty places were passed over");
                let is_settled = encode_session(session, window, out);
                assert!(is_settled, "a checkpoint is made between batches");
            }
            at += usize::from(live == Some(session));
            checkpoint.cursor = session + 1;
        };
        checkpoint.checksum.update(&out[start..]);
        if is_complete {
            return SessionsProgress::Done { hash: checkpoint.checksum.finish() };
        }
        self.checkpoint = Some(checkpoint);
        SessionsProgress::More
    }
}
