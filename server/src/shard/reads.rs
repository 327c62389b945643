//! Reads that wait for their view to be confirmed.
//!
//! All reads of a turn share one ticket, so one round of messages confirms them all.

use std::collections::VecDeque;

use lockstep_proto::request::Request;

use super::connections::ConnectionRef;

/// A read that waits.
struct Read {
    connection: ConnectionRef,
    frame_end: u32,
    op_min: u64,
    arrival_ns: u64,
}

#[derive(Default)]
struct Group {
    ticket: u64,
    frames: Vec<u8>,
    reads: Vec<Read>,
}

/// Reads of all connections, in order of their tickets.
#[derive(Default)]
pub struct ReadQueue {
    groups: VecDeque<Group>,
    ready: VecDeque<Group>,
    spare: Vec<Group>,
    bytes: usize,
}

/// Largest total size of waiting read requests, in bytes.
const BYTES_MAX: usize = 64 << 20;

impl ReadQueue {
    /// Whether another read may be added.
    pub fn has_room(&self) -> bool {
        self.bytes < BYTES_MAX
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.ready.is_empty()
    }

    /// Adds a read. It is answered once its ticket is confirmed and `op_min` is applied.
    pub fn push(&mut self, ticket: u64, connection: ConnectionRef, frame: &[u8], op_min: u64, arrival_ns: u64) {
        let is_new = self.groups.back().is_none_or(|group| group.ticket != ticket);
        if is_new {
            assert!(self.groups.back().is_none_or(|group| group.ticket < ticket), "tickets count up");
            let mut group = self.spare.pop().unwrap_or_default();
            group.ticket = ticket;
            self.groups.push_back(group);
        }
        let group = self.groups.back_mut().expect("a group was just ensured");
        group.frames.extend_from_slice(frame);
        let frame_end = group.frames.len() as u32;
        group.reads.push(Read { connection, frame_end, op_min, arrival_ns });
        self.bytes += frame.len();
    }

    /// All reads with this ticket or an earlier one may be answered, as far as `op_min` allows.
    pub fn confirm(&mut self, ticket: u64) {
        while self.groups.front().is_some_and(|group| group.ticket <= ticket) {
            self.ready.extend(self.groups.pop_front());
        }
    }

    /// Hands confirmed reads whose `op_min` is applied to `answer`: connection, request, time of arrival. It says how many bytes it has
    /// answered with; when those are `bytes_max` or more, the others keep waiting. Whether none waits for that reason.
    pub fn answer_ready(
        &mut self,
        applied: u64,
        bytes_max: usize,
        mut answer: impl FnMut(ConnectionRef, &Request<'_>, u64) -> usize,
    ) -> bool {
        let mut bytes = 0;
        for _ in 0..self.ready.len() {
            let Some(mut group) = self.ready.pop_front() else { break };
            if bytes >= bytes_max {
                self.ready.push_back(group);
                continue;
            }
            let mut waiting = Group { ticket: group.ticket, ..Group::default() };
            let mut start = 0;
            for read in group.reads.drain(..) {
                let frame = &group.frames[start..read.frame_end as usize];
                start = read.frame_end as usize;
                if read.op_min > applied || bytes >= bytes_max {
                    waiting.frames.extend_from_slice(frame);
                    waiting.reads.push(Read { frame_end: waiting.frames.len() as u32, ..read });
                    continue;
                }
                self.bytes -= frame.len();
                let (request, _) = Request::parse_trusted(frame).expect("the frame was checked when it arrived");
                bytes += answer(read.connection, &request, read.arrival_ns);
            }
            if !waiting.reads.is_empty() {
                self.ready.push_back(waiting);
            }
            group.frames.clear();
            if self.spare.len() < 8 {
                self.spare.push(group);
            }
        }
        bytes < bytes_max
    }

    /// Takes every read out, confirmed or not: the server is no longer the primary.
    pub fn drain(&mut self, mut refuse: impl FnMut(ConnectionRef, &Request<'_>)) {
        self.ready.extend(self.groups.drain(..));
        self.answer_ready(u64::MAX, usize::MAX, |connection, request, _| {
            refuse(connection, request);
            0
        });
        assert!(self.is_empty() && self.bytes == 0);
    }
}

#[cfg(test)]
mod tests {
    use lockstep_proto::{
        Operation,
        request::{RequestParts, encode_request},
    };

    use super::*;
    use crate::shard::connections::ConnectionTable;

    fn get(sequence: u64) -> Vec<u8> {
        let mut frame = Vec::new();
        let parts = RequestParts {
            operation: Operation::Get,
            flags: 0,
            session: 0,
            sequence,
            key: b"key",
            arguments: &[],
            value: &[],
        };
        encode_request(&parts, &mut frame);
        frame
    }

    fn answered(queue: &mut ReadQueue, applied: u64) -> Vec<u64> {
        let mut sequences = Vec::new();
        queue.answer_ready(applied, usize::MAX, |_, request, _| {
            sequences.push(request.sequence());
            0
        });
        sequences
    }

    /// Thousands of large answers in one turn held a shard up for so long that the others chose another primary.
    #[test]
    fn large_answers_are_spread_over_several_turns() {
        let (connection, _) = ConnectionTable::default().open();
        let mut queue = ReadQueue::default();
        (1..=3).for_each(|sequence| queue.push(1, connection, &get(sequence), 0, 0));
        (4..=5).for_each(|sequence| queue.push(2, connection, &get(sequence), 0, 0));
        queue.confirm(2);
        let mut turns = Vec::new();
        loop {
            let mut sequences = Vec::new();
            let is_done = queue.answer_ready(0, 200, |_, request, _| {
                sequences.push(request.sequence());
                100
            });
            turns.push(sequences);
            if is_done {
                break;
            }
        }
        assert_eq!(turns, [vec![1, 2], vec![3, 4], vec![5]], "one after the other, and none is forgotten");
        assert!(queue.is_empty() && queue.bytes == 0);
    }

    #[test]
    fn a_read_waits_for_its_ticket_and_for_its_connections_writes() {
        let (connection, _) = ConnectionTable::default().open();
        let mut queue = ReadQueue::default();
        queue.push(1, connection, &get(1), 0, 0);
        queue.push(1, connection, &get(2), 7, 0);
        queue.push(2, connection, &get(3), 0, 0);
        assert_eq!(answered(&mut queue, 6), Vec::<u64>::new(), "nothing is confirmed");
        queue.confirm(1);
        assert_eq!(answered(&mut queue, 6), [1]);
        assert_eq!(answered(&mut queue, 7), [2]);
        queue.confirm(2);
        assert_eq!(answered(&mut queue, 7), [3]);
        assert!(queue.is_empty());
    }
}
