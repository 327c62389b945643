//! Prepares that are read back from the journal for a backup that lags: several at a time, handed on in the order of
//! the log.
//!
//! With one at a time a backup that has been away comes nearer only as fast as a disk answers single reads, and under
//! load the log may grow faster than that.

use std::collections::VecDeque;

use bytes::Bytes;

/// Prepares that are being read, or have been and are not sent yet. A batch is rarely large, but 4 MiB at most.
const READS_MAX: usize = 16;

#[derive(Clone, Debug)]
enum Read {
    Asked,
    Done(Bytes),
    /// The journal does not hold it any more.
    Gone,
}

/// What is known of the prepare that is to be sent next.
pub(crate) enum Next {
    /// Nobody has asked for it.
    Unasked,
    /// It is being read.
    Asked,
    Done(Bytes),
    /// The journal does not hold it any more.
    Gone,
}

/// The reads for one backup: of consecutive ops.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReadAhead {
    first_op: u64,
    reads: VecDeque<Read>,
}

impl ReadAhead {
    /// The op to read next if `next` is the one to be sent next; `None` while enough is being read.
    pub(crate) fn op_to_ask(&self, next: u64) -> Option<u64> {
        match self.reads.len() {
            0 => Some(next),
            READS_MAX.. => None,
            count => Some(self.first_op + count as u64),
        }
    }

    /// Notes that `op` is being read.
    pub(crate) fn ask(&mut self, op: u64) {
        if self.reads.is_empty() {
            self.first_op = op;
        }
        assert_eq!(self.first_op + self.reads.len() as u64, op, "reads have no gaps");
        self.reads.push_back(Read::Asked);
    }

    /// Notes the end of a read, `None` if the journal does not hold the op. Returns whether anybody waits for it.
    pub(crate) fn answer(&mut self, op: u64, message: Option<Bytes>) -> bool {
        let read = op.checked_sub(self.first_op).and_then(|index| self.reads.get_mut(index as usize));
        let Some(read @ Read::Asked) = read else { return false };
        *read = message.map_or(Read::Gone, Read::Done);
        true
    }

    /// Takes the prepare that is to be sent next, `op`, if it has been read.
    pub(crate) fn take(&mut self, op: u64) -> Next {
        let Some(read) = self.reads.front_mut() else { return Next::Unasked };
        assert_eq!(self.first_op, op, "what is read is sent in order");
        let next = match std::mem::replace(read, Read::Asked) {
            Read::Asked => return Next::Asked,
            Read::Done(message) => Next::Done(message),
            Read::Gone => Next::Gone,
        };
        self.drop_below(op + 1);
        next
    }

    /// Forgets the reads of ops below `op`, which the backup has got otherwise.
    pub(crate) fn drop_below(&mut self, op: u64) {
        while self.first_op < op && self.reads.pop_front().is_some() {
            self.first_op += 1;
        }
    }

    /// Forgets the reads of `op` and of all above.
    pub(crate) fn drop_from(&mut self, op: u64) {
        self.reads.truncate(op.saturating_sub(self.first_op) as usize);
    }

    /// Forgets all reads.
    pub(crate) fn clear(&mut self) {
        self.reads.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(ops: std::ops::RangeInclusive<u64>) -> ReadAhead {
        let mut reads = ReadAhead::default();
        ops.for_each(|op| reads.ask(op));
        reads
    }

    #[test]
    fn what_is_read_in_any_order_is_taken_in_the_order_of_the_log() {
        let mut reads = asked(5..=7);
        assert!(reads.answer(7, None) && reads.answer(6, Some(Bytes::from_static(b"six"))));
        assert!(matches!(reads.take(5), Next::Asked));
        assert!(reads.answer(5, Some(Bytes::from_static(b"five"))));
        assert!(!reads.answer(5, None), "it was answered");
        assert!(matches!(reads.take(5), Next::Done(message) if &message[..] == b"five"));
        assert!(matches!(reads.take(6), Next::Done(message) if &message[..] == b"six"));
        assert!(matches!(reads.take(7), Next::Gone));
        assert!(matches!(reads.take(8), Next::Unasked));
    }

    #[test]
    fn late_answers_are_of_no_interest() {
        let mut reads = asked(5..=8);
        reads.drop_below(6);
        reads.drop_from(8);
        assert!(!reads.answer(5, None) && !reads.answer(8, None) && !reads.answer(4, None));
        assert_eq!(reads.op_to_ask(6), Some(8));
        reads.drop_from(3);
        assert_eq!(reads.op_to_ask(9), Some(9));
    }

    #[test]
    fn only_so_much_is_read_at_a_time() {
        let reads = asked(1..=READS_MAX as u64);
        assert_eq!(reads.op_to_ask(1), None);
    }
}
