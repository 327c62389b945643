//! The log of a server with durability `memory`: the last prepares, bounded as the journal would be.

use std::collections::VecDeque;

use bytes::Bytes;

/// Prepares in op order, without gaps.
#[derive(Debug)]
pub struct MemoryLog {
    first_op: u64,
    prepares: VecDeque<Bytes>,
    bytes: u64,
    /// Prepares below this op may be dropped: a checkpoint covers them.
    released_below: u64,
    live_bytes: u64,
    bytes_max: u64,
}

impl MemoryLog {
    /// A log of up to `bytes_max` bytes whose first prepare is `next_op`.
    pub fn new(bytes_max: u64, next_op: u64) -> MemoryLog {
        MemoryLog::holding(bytes_max, next_op, [])
    }

    /// The log of a server that had it on a disk before: `prepares` are those from `first_op` on, and not known to be
    /// committed, so that they may have to be dropped.
    pub fn holding(bytes_max: u64, first_op: u64, prepares: impl IntoIterator<Item = Bytes>) -> MemoryLog {
        let prepares: VecDeque<Bytes> = prepares.into_iter().collect();
        let bytes = prepares.iter().map(|message| message.len() as u64).sum();
        MemoryLog { first_op, prepares, bytes, released_below: first_op, live_bytes: bytes, bytes_max }
    }

    /// The lowest op that is still there, or the next one.
    pub fn first_op(&self) -> u64 {
        self.first_op
    }

    /// The highest op that is there; one less than the first if there is none.
    pub fn last_op(&self) -> u64 {
        self.first_op + self.prepares.len() as u64 - 1
    }

    /// Bytes that no checkpoint covers.
    pub fn used_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Bytes that it may hold.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Takes the next prepare in.
    ///
    /// # Errors
    ///
    /// The prepare, if it must wait for a checkpoint.
    ///
    /// # Panics
    ///
    /// If it is not the next one.
    pub fn push(&mut self, op: u64, message: Bytes) -> Result<(), Bytes> {
        assert_eq!(op, self.last_op() + 1, "the log has no gaps");
        let size = message.len() as u64;
        if self.live_bytes > 0 && self.live_bytes + size > self.bytes_max {
            return Err(message);
        }
        self.bytes += size;
        self.live_bytes += size;
        self.prepares.push_back(message);
        while self.bytes > self.bytes_max && self.first_op < self.released_below {
            let dropped = self.prepares.pop_front().map_or(0, |dropped| dropped.len() as u64);
            self.bytes -= dropped;
            self.first_op += 1;
        }
        Ok(())
    }

    /// A prepare, for as long as it is there.
    pub fn get(&self, op: u64) -> Option<Bytes> {
        self.prepares.get(op.checked_sub(self.first_op)? as usize).cloned()
    }

    /// Drops every prepare above `op`.
    ///
    /// # Panics
    ///
    /// If a checkpoint covers one of them.
    pub fn truncate_after(&mut self, op: u64) {
        assert!(op + 1 >= self.released_below, "a checkpoint covers what would be dropped");
        while self.last_op() > op {
            let Some(dropped) = self.prepares.pop_back() else { return };
            self.bytes -= dropped.len() as u64;
            self.live_bytes -= dropped.len() as u64;
        }
    }

    /// A checkpoint covers everything below `op`.
    ///
    /// # Panics
    ///
    /// If prepares below `op` are not here yet.
    pub fn release_below(&mut self, op: u64) {
        assert!(op <= self.last_op() + 1, "a checkpoint covers what was there");
        while self.released_below < op {
            let released = self.get(self.released_below).expect("what is not released is kept");
            self.live_bytes -= released.len() as u64;
            self.released_below += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepare(size: usize) -> Bytes {
        Bytes::from(vec![7; size])
    }

    #[test]
    fn what_no_checkpoint_covers_is_never_dropped() {
        let mut log = MemoryLog::new(100, 5);
        for op in 5..15 {
            log.push(op, prepare(10)).expect("there is room");
        }
        assert_eq!(log.push(15, prepare(10)), Err(prepare(10)), "it has to wait for a checkpoint");
        log.release_below(8);
        for op in 15..18 {
            log.push(op, prepare(10)).expect("there is room");
        }
        assert_eq!((log.first_op(), log.last_op(), log.used_bytes()), (8, 17, 100));
        assert!(log.get(7).is_none() && log.get(8).is_some());
        log.truncate_after(10);
        assert_eq!((log.last_op(), log.used_bytes()), (10, 30));
        log.push(11, prepare(10)).expect("there is room");
    }

    #[test]
    fn what_came_from_the_disk_and_is_not_committed_may_be_dropped() {
        let mut log = MemoryLog::holding(100, 5, [prepare(10), prepare(20)]);
        assert_eq!((log.first_op(), log.last_op(), log.used_bytes()), (5, 6, 30));
        log.truncate_after(5);
        log.push(6, prepare(30)).expect("there is room");
        assert_eq!((log.last_op(), log.used_bytes()), (6, 40));
        log.truncate_after(4);
        log.push(5, prepare(10)).expect("there is room");
        log.release_below(6);
        assert_eq!((log.first_op(), log.last_op(), log.used_bytes()), (5, 5, 0));
    }

    #[test]
    fn released_prepares_stay_as_long_as_there_is_room() {
        let mut log = MemoryLog::new(100, 1);
        for op in 1..=5 {
            log.push(op, prepare(10)).expect("there is room");
        }
        log.release_below(6);
        assert_eq!((log.first_op(), log.used_bytes()), (1, 0));
        log.push(6, prepare(80)).expect("there is room");
        assert_eq!((log.first_op(), log.last_op()), (4, 6));
        log.push(7, prepare(500)).expect_err("op 6 is in the way");
        log.release_below(7);
        log.push(7, prepare(500)).expect("a prepare of any size finds room once");
        assert_eq!((log.first_op(), log.last_op()), (7, 7));
    }
}
