//! What one generating thread decides: which request goes where and when, and when one is given up. No I/O.

use std::sync::Arc;

use lockstep_proto::slot::shard_of_key;

use super::inflight::Asked;
use super::lane::{FrameMaker, Lane};
use super::ledger::Ledger;
use super::source::Source;
use super::{Pacing, RunSpec};
use crate::plan::{ArrivalPlan, OpKind, ValueMaker};
use crate::record::{EventLog, Outcome, Recorder, Side, Timing};

/// Answers are remembered by the servers for this many sequences of a session, so no more may be open at a time.
const WINDOW: usize = lockstep_proto::limits::SESSION_WINDOW;

/// Longest time for which a thread is awake before a request is due.
const ALERTNESS_MAX_NS: u64 = 200_000;

/// What the pacer does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The next request is due at this moment.
    At(u64),
    /// Everything is full; wait for an answer.
    Full,
    /// Every request of the plan is on its way.
    Ended,
}

/// How long before a request is due a thread is to be awake whose requests are `mean_gap_ns` apart.
///
/// A processor that sleeps takes its time to wake up: on a virtual machine some 50 µs, and a fifth of a millisecond at
/// the 99th percentile. Being awake costs at most a fifth of one processor, and nothing where the gaps are short.
pub(super) fn alertness_ns(mean_gap_ns: u64) -> u64 {
    (mean_gap_ns / 5).min(ALERTNESS_MAX_NS)
}

/// The numbers that an engine is bounded by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) shards: u16,
    pub(super) open_per_lane: usize,
    pub(super) timeout_ns: u64,
    pub(super) is_verifying: bool,
    /// Whether the run reads back what another one wrote, and nobody writes any more.
    pub(super) is_audit: bool,
}

/// What a thread counted beside its requests' outcomes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Requests that have ended, warm-up included.
    pub(super) ended: u64,
    /// Of these, requests that were answered as asked.
    pub(super) answered: u64,
    /// Requests that were sent again on a new connection.
    pub(super) resent: u64,
    /// Connections lost.
    pub(super) lost_connections: u64,
}

/// One thread's state.
pub(super) struct Engine {
    pub(super) bounds: Bounds,
    pub(super) lanes: Vec<Lane>,
    pub(super) frames: FrameMaker,
    pub(super) values: ValueMaker,
    pub(super) ledger: Option<Arc<Ledger>>,
    pub(super) events: EventLog,
    pub(super) has_reported_fault: bool,
    pub(super) has_reported_refusal: bool,
    /// What the last answer said that sent its request elsewhere.
    pub(super) refusal: Option<String>,
    pub(super) tally: Tally,
    touched: Vec<usize>,
    /// Whether the pacer waits for an answer.
    pub(super) is_pacer_waiting: bool,
    recorder: Recorder,
    source: Source,
    /// `None` when saturating.
    arrivals: Option<ArrivalPlan>,
    /// Requests asked for and not ended, per connection and in all.
    group_open: Vec<usize>,
    open: usize,
    next_group: usize,
    /// When the pacer found everything full: what became due since then was noticed in time.
    full_since_ns: Option<u64>,
    is_source_empty: bool,
    end_ns: u64,
}

impl Engine {
    /// An engine for `groups` of the spec's connections, as thread `thread` of `threads`.
    pub(super) fn new(
        spec: &RunSpec,
        source: Source,
        recorder: Recorder,
        ledger: Option<Arc<Ledger>>,
        events: EventLog,
        (thread, threads): (usize, usize),
        groups: usize,
    ) -> Self {
        let shards = usize::from(spec.shards);
        let values = ValueMaker::new(spec.seed);
        let end_ns = recorder.window().end_ns;
        let arrivals = match spec.pacing {
            Pacing::Saturate => None,
            Pacing::Rate(rate) => Some(ArrivalPlan::new(spec.arrivals, rate, thread, threads, spec.seed, end_ns)),
        };
        Self {
            bounds: Bounds {
                shards: spec.shards,
                open_per_lane: spec.in_flight,
                timeout_ns: spec.timeout.as_nanos() as u64,
                is_verifying: spec.verify,
                is_audit: false,
            },
            lanes: (0..groups * shards).map(|lane| Lane::new(lane / shards, WINDOW)).collect(),
            frames: FrameMaker::new(spec),
            values,
            ledger,
            events,
            has_reported_fault: false,
            has_reported_refusal: false,
            refusal: None,
            tally: Tally::default(),
            touched: Vec::with_capacity(groups * shards),
            is_pacer_waiting: false,
            recorder,
            source,
            arrivals,
            group_open: vec![0; groups],
            open: 0,
            next_group: 0,
            full_since_ns: None,
            is_source_empty: false,
            end_ns,
        }
    }

    /// Whether the plan says when requests are sent.
    pub(super) fn is_open_loop(&self) -> bool {
        self.arrivals.is_some()
    }

    /// How long before a request is due its thread is to be awake.
    pub(super) fn alertness_ns(&self) -> u64 {
        self.arrivals.as_ref().map_or(0, |arrivals| alertness_ns(arrivals.mean_gap_ns()))
    }

    /// Once per turn.
    #[inline]
    pub(super) fn tick(&mut self, now_ns: u64) {
        self.recorder.tick(now_ns);
    }

    /// Requests that one connection may have open, all shards together.
    #[inline]
    fn group_open_max(&self) -> usize {
        self.bounds.open_per_lane * usize::from(self.bounds.shards)
    }

    /// Open loop: takes every request that is due and for which there is room.
    pub(super) fn pull_due(&mut self, now_ns: u64) -> Next {
        let group_open_max = self.group_open_max();
        let open_max = group_open_max * self.group_open.len();
        // What is due at once goes to one connection until that is full: then it costs one write.
        self.next_group = (self.next_group + 1) % self.group_open.len();
        loop {
            let Some(intended_ns) = self.arrivals.as_ref().and_then(ArrivalPlan::peek) else { return Next::Ended };
            if intended_ns > now_ns {
                self.full_since_ns = None;
                return Next::At(intended_ns);
            }
            if self.open == open_max {
                self.full_since_ns.get_or_insert(now_ns);
                self.is_pacer_waiting = true;
                return Next::Full;
            }
            while self.group_open[self.next_group] == group_open_max {
                self.next_group = (self.next_group + 1) % self.group_open.len();
            }
            if self.is_source_empty {
                return Next::Ended;
            }
            self.arrivals.as_mut().expect("there is a plan").next();
            let was_full = self.full_since_ns.is_some_and(|since_ns| intended_ns >= since_ns);
            let noticed_ns = if was_full { intended_ns } else { now_ns };
            if !self.ask(self.next_group, intended_ns, noticed_ns) {
                return Next::Ended;
            }
        }
    }

    /// Closed loop: fills a connection up.
    #[inline]
    fn refill(&mut self, group: usize, now_ns: u64) {
        let group_open_max = self.group_open_max();
        while self.group_open[group] < group_open_max && now_ns < self.end_ns && self.ask(group, now_ns, now_ns) {}
    }

    /// Queues the next operation; false when there are no more.
    #[inline]
    fn ask(&mut self, group: usize, intended_ns: u64, noticed_ns: u64) -> bool {
        let Some(op) = self.source.next() else {
            self.is_source_empty = true;
            return false;
        };
        let shards = self.bounds.shards;
        let shard = if shards == 1 { 0 } else { shard_of_key(self.frames.key(op.key_index), shards) };
        let lane = group * usize::from(shards) + usize::from(shard);
        self.lanes[lane].queue.push_back(Asked::new(op, intended_ns, noticed_ns));
        self.group_open[group] += 1;
        self.open += 1;
        self.touch(lane);
        true
    }

    /// Marks a lane as having something to send.
    #[inline]
    pub(super) fn touch(&mut self, lane: usize) {
        if !std::mem::replace(&mut self.lanes[lane].is_touched, true) {
            self.touched.push(lane);
        }
    }

    /// A lane that was marked. It counts as marked until it is [`settle`](Self::settle)d, so that what is asked for
    /// while it is being filled does not mark it again.
    #[inline]
    pub(super) fn pop_touched(&mut self) -> Option<usize> {
        self.touched.pop()
    }

    /// Everything that a lane may send now has been sent.
    #[inline]
    pub(super) fn settle(&mut self, lane: usize) {
        self.lanes[lane].is_touched = false;
    }

    /// Appends everything that a lane may send now to `out`.
    #[inline]
    pub(super) fn fill(&mut self, lane: usize, now_ns: u64, out: &mut Vec<u8>) {
        if self.arrivals.is_none() && !self.is_source_empty {
            self.refill(self.lanes[lane].group, now_ns);
        }
        let ledger = self.ledger.as_deref();
        let floor = |key_index| ledger.map_or(0, |ledger| ledger.floor(key_index));
        self.lanes[lane].fill(now_ns, self.bounds.open_per_lane, &mut self.frames, floor, out);
    }

    /// A request has ended: its place is free.
    #[inline]
    pub(super) fn end(&mut self, group: usize, asked: &Asked, done_ns: u64, outcome: Outcome) {
        self.group_open[group] -= 1;
        self.open -= 1;
        self.tally.ended += 1;
        match outcome {
            Outcome::Ok | Outcome::Missing => self.tally.answered += 1,
            Outcome::Unknown => self.note_unknown(asked),
            _ => {}
        }
        self.write_down(asked, done_ns, outcome);
    }

    #[inline]
    fn write_down(&mut self, asked: &Asked, done_ns: u64, outcome: Outcome) {
        let timing = Timing {
            intended_ns: asked.intended_ns,
            noticed_ns: asked.noticed_ns(),
            sent_ns: asked.waits_since_ns(),
            done_ns,
        };
        let side = if asked.op.kind == OpKind::Read { Side::Read } else { Side::Write };
        self.recorder.record(timing, side, outcome);
    }

    /// Gives up what has waited too long. True for a lane whose connection should be replaced, for it is the likely
    /// cause.
    pub(super) fn expire(&mut self, lane: usize, now_ns: u64) -> bool {
        let bound_ns = now_ns.saturating_sub(self.bounds.timeout_ns);
        let is_late = |asked: &Asked| asked.waits_since_ns() < bound_ns;
        let state = &self.lanes[lane];
        if !state.queue.front().is_some_and(is_late)
            && !state.ring.oldest().is_some_and(|oldest| is_late(&oldest.asked))
        {
            return false;
        }
        self.give_up(lane, now_ns, is_late)
    }

    /// Records what is open in a lane, and matches, as unknown. True if some of it had been sent.
    fn give_up(&mut self, lane: usize, now_ns: u64, matches: impl Fn(&Asked) -> bool + Copy) -> bool {
        let group = self.lanes[lane].group;
        let waiting = self.lanes[lane].queue.len();
        for _ in 0..waiting {
            let asked = self.lanes[lane].queue.pop_front().expect("it was counted");
            if matches(&asked) {
                self.end(group, &asked, now_ns, Outcome::Unknown);
            } else {
                self.lanes[lane].queue.push_back(asked);
            }
        }
        self.give_up_sent(lane, now_ns, matches)
    }

    /// The same for what is in flight.
    pub(super) fn give_up_sent(&mut self, lane: usize, now_ns: u64, matches: impl Fn(&Asked) -> bool) -> bool {
        let group = self.lanes[lane].group;
        let sequences: Vec<u64> = self.lanes[lane].ring.sequences().collect();
        let mut has_sent = false;
        for sequence in sequences {
            if self.lanes[lane].ring.get(sequence).is_some_and(|slot| matches(&slot.asked)) {
                let taken = self.lanes[lane].take(sequence).expect("it was found");
                self.end(group, &taken.asked, now_ns, Outcome::Unknown);
                has_sent = true;
            }
        }
        has_sent
    }

    /// The session is gone: what was sent under it may or may not have happened. Reads are sent again.
    pub(super) fn forget_session(&mut self, lane: usize, now_ns: u64) {
        self.give_up(lane, now_ns, |asked| asked.is_write() && asked.sent_ns().is_some());
        self.lanes[lane].session = 0;
    }

    /// How a write ended is not known: the audit has to put up with both.
    #[cold]
    fn note_unknown(&mut self, asked: &Asked) {
        if let Some(ledger) = &self.ledger
            && asked.op.kind.writes()
        {
            ledger.note_unknown(&asked.op);
        }
    }

    /// Nothing more is asked for; what is on its way is waited for.
    pub(super) fn end_plan(&mut self, now_ns: u64) {
        if !self.is_source_empty {
            self.is_source_empty = true;
            self.end_ns = self.end_ns.min(now_ns);
        }
    }

    /// Whether nothing is left to send or to wait for.
    pub(super) fn is_done(&self, now_ns: u64) -> bool {
        let is_plan_over = match &self.arrivals {
            Some(arrivals) => arrivals.peek().is_none() || self.is_source_empty,
            None => now_ns >= self.end_ns || self.is_source_empty,
        };
        is_plan_over && self.open == 0
    }

    /// The last moment at which an answer is waited for.
    pub(super) fn drain_until_ns(&self) -> u64 {
        self.end_ns.saturating_add(self.bounds.timeout_ns)
    }

    /// The run is over: everything without an answer is recorded at its elapsed time, also what was due and never sent.
    pub(super) fn finish(&mut self, now_ns: u64) {
        for lane in 0..self.lanes.len() {
            self.give_up(lane, now_ns, |_| true);
        }
        while let Some(intended_ns) = self.arrivals.as_ref().and_then(ArrivalPlan::peek)
            && intended_ns <= now_ns
            && !self.is_source_empty
            && let Some(op) = self.source.next()
        {
            self.arrivals.as_mut().expect("there is a plan").next();
            self.write_down(&Asked::new(op, intended_ns, intended_ns), now_ns, Outcome::Unknown);
        }
    }

    /// Whether the pacer may go on, once.
    #[inline]
    pub(super) fn take_pacer_wake(&mut self) -> bool {
        self.is_pacer_waiting && self.open < self.group_open_max() * self.group_open.len() && {
            self.is_pacer_waiting = false;
            true
        }
    }

    /// A lane has a new connection: everything without an answer is sent again, oldest first.
    pub(super) fn resend_all(&mut self, lane: usize) {
        self.lanes[lane].resend_all();
        self.tally.resent += self.lanes[lane].resend.len() as u64;
    }

    /// Whether a lane has something to send again that had to wait.
    #[inline]
    pub(super) fn has_resend_due(&self, lane: usize, now_ns: u64) -> bool {
        let lane = &self.lanes[lane];
        !lane.resend.is_empty() && lane.resend_at_ns <= now_ns
    }
}
