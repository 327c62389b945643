//! The end of the log, in memory: headers of the last prepares, and the prepares that somebody may still need.

use std::collections::VecDeque;

use bytes::Bytes;
use lockstep_proto::{
    message::MessageHeader,
    mutant::{self, Mutant},
};

/// A prepare of the log.
pub(crate) struct Entry {
    pub(crate) header: MessageHeader,
    /// `None` once nobody needs it from memory any more.
    pub(crate) message: Option<Bytes>,
    is_durable: bool,
}

/// The end of the log.
pub(crate) struct Log {
    /// Op of the first entry, or of the next one if there is none.
    first_op: u64,
    entries: VecDeque<Entry>,
    /// The op before the first entry: what the next one follows when there are no entries.
    base: Position,
    durable: u64,
    /// Entries below this op hold no message any more.
    messages_from: u64,
    message_bytes: usize,
    /// Op and checksum of what was dropped while it was being written, in the order in which it was handed out: the
    /// journal will say that it is written, and then drop it.
    dropped_in_flight: Vec<(u64, u128)>,
}

/// What the next prepare has to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// Checksum of the last prepare's header.
    pub(crate) checksum: u128,
    /// Revision of the next request.
    pub(crate) revision: u64,
    /// Timestamp of the last prepare.
    pub(crate) timestamp_ns: u64,
}

impl Position {
    fn after(header: &MessageHeader) -> Position {
        Position {
            checksum: header.checksum.get(),
            revision: header.revision.get() + u64::from(header.request_count.get()),
            timestamp_ns: header.timestamp_ns.get(),
        }
    }
}

impl Log {
    /// A log that has applied everything up to `op`, of which only `headers`, its last ones, are known.
    pub(crate) fn new(op: u64, position: Position, headers: Vec<MessageHeader>) -> Log {
        let first_op = op + 1 - headers.len() as u64;
        let mut checksum = headers.first().map_or(position.checksum, |header| header.parent.get());
        for (expected, header) in (first_op..).zip(&headers) {
            assert_eq!(header.op.get(), expected, "recovered headers have no gaps");
            assert_eq!(header.parent.get(), checksum, "recovered headers are chained");
            checksum = header.checksum.get();
        }
        assert_eq!(checksum, position.checksum, "recovered headers end where the log does");
        let entries = headers.into_iter().map(|header| Entry { header, message: None, is_durable: true }).collect();
        Log {
            first_op,
            entries,
            base: position,
            durable: op,
            messages_from: op + 1,
            message_bytes: 0,
            dropped_in_flight: Vec::new(),
        }
    }

    /// Begins anew behind a checkpoint.
    pub(crate) fn restart_after(&mut self, op: u64, position: Position) {
        assert!(op > self.op(), "a checkpoint takes the place of a shorter log");
        let dropped_in_flight = std::mem::take(&mut self.dropped_in_flight);
        *self = Log { dropped_in_flight, ..Log::new(op, position, Vec::new()) };
    }

    /// The last op.
    pub(crate) fn op(&self) -> u64 {
        self.first_op + self.entries.len() as u64 - 1
    }

    /// Highest op of which it and all before are durable.
    pub(crate) fn durable(&self) -> u64 {
        self.durable
    }

    /// What the next prepare has to follow.
    pub(crate) fn position(&self) -> Position {
        self.entries.back().map_or(self.base, |entry| Position::after(&entry.header))
    }

    fn entry(&self, op: u64) -> Option<&Entry> {
        self.entries.get(op.checked_sub(self.first_op)? as usize)
    }

    /// The header of `op`, if it is still known.
    pub(crate) fn header(&self, op: u64) -> Option<&MessageHeader> {
        self.entry(op).map(|entry| &entry.header)
    }

    /// The checksum of the header of `op`, if it is still known: also for the op before the first one in memory.
    pub(crate) fn checksum(&self, op: u64) -> Option<u128> {
        if op + 1 == self.first_op {
            return Some(self.entries.front().map_or(self.base.checksum, |entry| entry.header.parent.get()));
        }
        self.header(op).map(|header| header.checksum.get())
    }

    /// The prepare of `op`, if it is still in memory.
    pub(crate) fn message(&self, op: u64) -> Option<&Bytes> {
        self.entry(op)?.message.as_ref()
    }

    /// Whether a prepare follows the last one.
    pub(crate) fn is_next(&self, header: &MessageHeader) -> bool {
        let position = self.position();
        header.op.get() == self.op() + 1
            && (header.parent.get() == position.checksum || mutant::is(Mutant::ParentUnchecked))
            && header.revision.get() == position.revision
            && header.timestamp_ns.get() >= position.timestamp_ns
    }

    /// Adds the next prepare.
    pub(crate) fn push(&mut self, header: MessageHeader, message: Bytes, is_durable: bool) {
        assert!(self.is_next(&header), "a log has no gaps and no forks");
        self.message_bytes += message.len();
        self.entries.push_back(Entry { header, message: Some(message), is_durable });
        self.advance_durable();
    }

    /// Notes that a prepare is durable. One that was truncated meanwhile is no longer of interest, even if the very same
    /// one is there again: the journal still has to drop it and to write it once more.
    pub(crate) fn set_durable(&mut self, op: u64, checksum: u128) {
        let dropped = self.dropped_in_flight.iter().position(|dropped| *dropped == (op, checksum));
        if let Some(index) = dropped.filter(|_| !mutant::is(Mutant::DroppedWriteCounts)) {
            self.dropped_in_flight.remove(index);
            return;
        }
        let Some(index) = op.checked_sub(self.first_op) else { return };
        if let Some(entry) = self.entries.get_mut(index as usize)
            && entry.header.checksum.get() == checksum
        {
            entry.is_durable = true;
            self.advance_durable();
        }
    }

    fn advance_durable(&mut self) {
        while self.entry(self.durable + 1).is_some_and(|entry| entry.is_durable) {
            self.durable += 1;
        }
    }

    /// Drops everything above `op`.
    pub(crate) fn truncate_after(&mut self, op: u64) {
        assert!(op + 1 >= self.messages_from, "what was applied is never dropped");
        while self.op() > op
            && let Some(entry) = self.entries.pop_back()
        {
            self.message_bytes -= entry.message.map_or(0, |message| message.len());
            if !entry.is_durable {
                self.dropped_in_flight.push((entry.header.op.get(), entry.header.checksum.get()));
            }
        }
        self.durable = self.durable.min(op);
        assert!(self.op() <= op || self.entries.is_empty());
    }

    /// Bytes of prepares in memory.
    pub(crate) fn message_bytes(&self) -> usize {
        self.message_bytes
    }

    /// Lets go of the prepare at the front, if it is not above `op_max`. Returns whether there was one.
    pub(crate) fn forget_message(&mut self, op_max: u64) -> bool {
        if self.messages_from > op_max.min(self.op()) {
            return false;
        }
        let index = (self.messages_from - self.first_op) as usize;
        let message = self.entries[index].message.take();
        self.message_bytes -= message.map_or(0, |message| message.len());
        self.messages_from += 1;
        true
    }

    /// Lets go of headers beyond the last `count`, as far as their prepares were let go of.
    pub(crate) fn forget_headers(&mut self, count: usize) {
        while self.entries.len() > count && self.first_op < self.messages_from {
            if let Some(entry) = self.entries.pop_front() {
                self.base = Position::after(&entry.header);
                self.first_op += 1;
            }
        }
    }

    /// The last headers up to `op`, oldest first, at most `count_max`: a message holds no more.
    pub(crate) fn headers_to(&self, op: u64, count_max: usize) -> impl Iterator<Item = &MessageHeader> {
        let count = ((op + 1).saturating_sub(self.first_op) as usize).min(self.entries.len());
        let skipped = count.saturating_sub(count_max);
        self.entries.range(skipped..count).map(|entry| &entry.header)
    }
}

#[cfg(test)]
mod tests {
    use lockstep_proto::message::Command;
    use zerocopy::little_endian::{U32, U64, U128};

    use super::*;

    fn prepare_after(log: &Log) -> (MessageHeader, Bytes) {
        let position = log.position();
        let mut header = MessageHeader::new(Command::Prepare, 7, 0, 0, 3);
        (header.op, header.parent) = (U64::new(log.op() + 1), U128::new(position.checksum));
        (header.revision, header.request_count) = (U64::new(position.revision), U32::new(1));
        header.seal(&[]);
        (header, Bytes::new())
    }

    /// A server joins a view whose primary tells too little for it to know that what it drops is what it will get
    /// again. The journal writes it, drops it, and writes it once more; only then it is durable.
    #[test]
    fn the_end_of_a_write_that_was_dropped_does_not_count_for_the_same_prepare_written_again() {
        let mut log = Log::new(0, Position { checksum: 0, revision: 1, timestamp_ns: 0 }, Vec::new());
        let (header, message) = prepare_after(&log);
        let checksum = header.checksum.get();
        log.push(header, message.clone(), false);
        log.truncate_after(0);
        log.push(header, message.clone(), false);
        log.set_durable(1, checksum);
        assert_eq!(log.durable(), 0, "this one is dropped again");
        log.set_durable(1, checksum);
        assert_eq!(log.durable(), 1);
        // What was durable when it was dropped is not waited for.
        log.truncate_after(0);
        log.push(header, message, false);
        log.set_durable(1, checksum);
        assert_eq!(log.durable(), 1);
    }
}
