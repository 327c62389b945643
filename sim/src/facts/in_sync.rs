//! The in-sync set of a primary: no safety rests on it, but what `all` promises does.

use std::collections::VecDeque;

use super::{Check, Facts};

/// Heartbeats after which a primary has certainly sent one: its clock may go at half the speed of time.
const HEARTBEATS: u64 = 4;

/// What a server has done as a primary.
#[derive(Clone, Debug)]
pub(super) struct InSync {
    /// The set that it has told of last: all, at first.
    pub(super) mask: u8,
    /// What it has applied, and when.
    applied: VecDeque<(u64, u64)>,
}

impl Default for InSync {
    fn default() -> InSync {
        InSync { mask: u8::MAX, applied: VecDeque::new() }
    }
}

impl InSync {
    pub(super) fn applies(&mut self, now_ns: u64, op: u64) {
        self.applied.push_back((now_ns, op));
    }

    /// The last op that it had applied by a time.
    fn applied_by(&mut self, at_ns: u64) -> u64 {
        let later = self.applied.partition_point(|(applied_ns, _)| *applied_ns <= at_ns);
        // Times that were asked for are never asked for again.
        self.applied.drain(..later.saturating_sub(1));
        self.applied.front().filter(|_| later > 0).map_or(0, |(_, op)| *op)
    }
}

impl Facts {
    /// A primary has another in-sync set: it is a commit quorum at least, and whoever is taken back has held what was
    /// committed one heartbeat ago.
    pub fn in_sync_changes(&mut self, server: u8, mask: u8) {
        let quorum = u32::from(self.quorums.commit);
        self.ensure(mask.count_ones() >= quorum, Check::CommittedHeld, || {
            format!("{server} has an in-sync set of {mask:07b}, less than a commit quorum")
        });
        let at_ns = self.now_ns.saturating_sub(HEARTBEATS * self.heartbeat_ns);
        let own = &mut self.in_sync[server as usize];
        let added = mask & !std::mem::replace(&mut own.mask, mask);
        let op = own.applied_by(at_ns);
        let Some(&checksum) = op.checked_sub(1).and_then(|index| self.committed.get(index as usize)) else { return };
        let missing = added & !self.holders.get(&(op, checksum)).copied().unwrap_or(0);
        self.ensure(missing == 0, Check::CommittedHeld, || {
            format!("{server} takes {missing:07b} back into its in-sync set, which have not held op {op}")
        });
    }

    /// A server has another role: what it has done as a primary is over.
    pub fn changes_role(&mut self, server: u8) {
        self.in_sync[server as usize] = InSync::default();
    }

    /// A process has not run for a while, and so has sent no heartbeats.
    pub fn has_slept(&mut self, server: u8) {
        self.in_sync[server as usize].applied.clear();
    }
}
