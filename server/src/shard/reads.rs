//! Reads that wait for their view to be confirmed.
//!
//! All reads of a turn share one ticket, so one round of messages confirms them all.

use std::collections::VecDeque;

use lockstep_proto::request::Request;
use lockstep_store::READS_AHEAD;

use super::connections::ConnectionRef;

/// A read that waits.
#[derive(Clone, Copy)]
struct Read {
    connection: ConnectionRef,
    op_min: u64,
    arrival_ns: u64,
}

#[derive(Default)]
struct Group {
    ticket: u64,
    /// What the reads ask for, end to end.
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
    ///
    /// # Panics
    ///
    /// If the ticket is below that of an earlier read.
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
        group.reads.push(Read { connection, op_min, arrival_ns });
        self.bytes += frame.len();
    }

    /// All reads with this ticket or an earlier one may be answered, as far as `op_min` allows.
    pub fn confirm(&mut self, ticket: u64) {
        while self.groups.front().is_some_and(|group| group.ticket <= ticket) {
            self.ready.extend(self.groups.pop_front());
        }
    }

    /// Hands confirmed reads whose `op_min` is applied to `answer`: connection, request, time of arrival. It says how
    /// many bytes it has answered with; when those are `bytes_max` or more, the others keep waiting. Whether none waits
    /// for that reason. `ahead` is shown the reads that come next, some [`READS_AHEAD`] at a time.
    pub fn answer_ready(
        &mut self,
        applied: u64,
        bytes_max: usize,
        ahead: impl Fn(&[Request<'_>]),
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
            let (mut reads, mut frames) = (&group.reads[..], &group.frames[..]);
            let mut requests = Vec::with_capacity(READS_AHEAD.min(reads.len()));
            while bytes < bytes_max && !reads.is_empty() {
                requests.clear();
                requests.extend(requests_in(frames).take(READS_AHEAD));
                ahead(&requests);
                for request in &requests {
                    let (Some((read, later_reads)), true) = (reads.split_first(), bytes < bytes_max) else { break };
                    let (frame, later_frames) = frames.split_at(request.size());
                    (reads, frames) = (later_reads, later_frames);
                    if read.op_min > applied {
                        waiting.frames.extend_from_slice(frame);
                        waiting.reads.push(*read);
                        continue;
                    }
                    self.bytes -= frame.len();
                    bytes += answer(read.connection, request, read.arrival_ns);
                }
            }
            waiting.frames.extend_from_slice(frames);
            waiting.reads.extend_from_slice(reads);
            if !waiting.reads.is_empty() {
                self.ready.push_back(waiting);
            }
            group.frames.clear();
            group.reads.clear();
            if self.spare.len() < 8 {
                self.spare.push(group);
            }
        }
        bytes < bytes_max
    }

    /// Gives every read to `refuse`, confirmed or not: the server is no longer the primary.
    pub fn drain(&mut self, mut refuse: impl FnMut(ConnectionRef, &Request<'_>)) {
        self.ready.extend(self.groups.drain(..));
        let refuse_all = |connection, request: &Request<'_>, _| {
            refuse(connection, request);
            0
        };
        self.answer_ready(u64::MAX, usize::MAX, |_| (), refuse_all);
        assert!(self.is_empty() && self.bytes == 0);
    }
}

/// The requests whose frames stand end to end in `frames`.
fn requests_in(mut frames: &[u8]) -> impl Iterator<Item = Request<'_>> {
    std::iter::from_fn(move || {
        if frames.is_empty() {
            return None;
        }
        let (request, rest) = Request::parse_trusted(frames).expect("the frame was checked when it arrived");
        frames = rest;
        Some(request)
    })
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
        let ahead = |requests: &[Request<'_>]| assert!((1..=READS_AHEAD).contains(&requests.len()));
        queue.answer_ready(applied, usize::MAX, ahead, |_, request, _| {
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
            let is_done = queue.answer_ready(
                0,
                200,
                |_| (),
                |_, request, _| {
                    sequences.push(request.sequence());
                    100
                },
            );
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

    #[test]
    fn reads_that_wait_stay_in_order_whatever_they_wait_for() {
        let (connection, _) = ConnectionTable::default().open();
        let mut queue = ReadQueue::default();
        let count = 3 * READS_AHEAD as u64 + 5;
        // Every third waits for a write.
        (1..=count).for_each(|sequence| queue.push(1, connection, &get(sequence), (sequence % 3 == 0).into(), 0));
        queue.confirm(1);
        let (mut first, mut left) = (Vec::new(), READS_AHEAD + 3);
        let is_done = queue.answer_ready(
            0,
            left,
            |_| (),
            |_, request, _| {
                first.push(request.sequence());
                left -= 1;
                1
            },
        );
        assert!(!is_done && left == 0, "some wait for the next turn");
        let last = *first.last().expect("some are answered");
        assert!(first.iter().copied().eq((1..=last).filter(|sequence| sequence % 3 != 0)));
        let rest = answered(&mut queue, 1);
        assert!(rest.iter().copied().eq((1..=count).filter(|sequence| *sequence > last || sequence % 3 == 0)));
        assert!(queue.is_empty() && queue.bytes == 0);
    }
}
