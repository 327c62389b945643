//! The end of somebody's log, as a message has told it.

use lockstep_proto::message::MessageHeader;

use crate::log::Log;

/// The last op of a log, and the headers of its last prepares.
///
/// There may be no headers at all: whoever tells may have a checkpoint at `op` and nothing before it.
#[derive(Clone, Debug)]
pub(crate) struct LogEnd {
    pub(crate) op: u64,
    /// Checksum of the header of `op`.
    pub(crate) checksum: u128,
    /// Chained; the last one, if any, is that of `op`.
    pub(crate) headers: Vec<MessageHeader>,
}

impl LogEnd {
    /// The checksum of an op's header, as far as it was told: of all ops in the list, and of the one before it.
    pub(crate) fn checksum_of(&self, op: u64) -> Option<u128> {
        if op == self.op {
            return Some(self.checksum);
        }
        let first = self.headers.first()?;
        if op + 1 == first.op.get() {
            return Some(first.parent.get());
        }
        let place = op.checked_sub(first.op.get())?;
        self.headers.get(place as usize).map(|header| header.checksum.get())
    }

    /// The highest op up to which `log` is certain to be the same.
    pub(crate) fn common_op(&self, log: &Log) -> Option<u64> {
        let is_ours = |op: &u64| self.checksum_of(*op).is_some_and(|theirs| log.checksum(*op) == Some(theirs));
        let first = self.headers.first().map_or(self.op, |first| first.op.get().saturating_sub(1));
        (first..=self.op).rev().find(is_ours)
    }
}

#[cfg(test)]
mod tests {
    use lockstep_proto::message::Command;
    use zerocopy::little_endian::{U64, U128};

    use super::*;

    /// Ops `first` to `last`, each with a hundred times its op for a checksum.
    fn end(first: u64, last: u64) -> LogEnd {
        let header = |op: u64| {
            let mut header = MessageHeader::new(Command::Prepare, 7, 0, 0, 3);
            (header.op, header.parent) = (U64::new(op), U128::new(u128::from(op - 1) * 100));
            header.checksum = U128::new(u128::from(op) * 100);
            header
        };
        LogEnd { op: last, checksum: u128::from(last) * 100, headers: (first..=last).map(header).collect() }
    }

    #[test]
    fn the_op_before_the_list_is_known_by_what_follows_it() {
        let known = |end: &LogEnd| (0..9).filter(|op| end.checksum_of(*op) == Some(u128::from(*op) * 100)).collect();
        let list: Vec<u64> = known(&end(5, 7));
        assert_eq!(list, [4, 5, 6, 7]);
        let nothing_but_the_end: Vec<u64> = known(&end(8, 7));
        assert_eq!(nothing_but_the_end, [7]);
        let all: Vec<u64> = known(&end(1, 2));
        assert_eq!(all, [0, 1, 2]);
    }
}
