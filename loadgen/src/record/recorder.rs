//! What one generating thread writes down.

use std::sync::mpsc::{Receiver, Sender};

use super::{Histograms, Window};

/// The moments of one request, in nanoseconds since the start of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// When the plan wanted it sent.
    pub intended_ns: u64,
    /// When the generator saw that it was due. Later than intended only when the generator is too slow; waiting for a
    /// free place among the requests in flight comes after this.
    pub noticed_ns: u64,
    /// When it was handed to the kernel.
    pub sent_ns: u64,
    /// When its answer had been read, or when it was given up.
    pub done_ns: u64,
}

/// Which response histogram a request belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It reads only.
    Read,
    /// It writes.
    Write,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered as asked.
    Ok,
    /// Answered: there is no such key. Counts as answered.
    Missing,
    /// Answered with a value that is not the one of its key.
    Corrupt,
    /// Answered with an error.
    Failed,
    /// Refused: the server was full.
    Busy,
    /// No answer within the time-out, or the connection broke: it may or may not have happened. Enters the histograms
    /// at its elapsed time.
    Unknown,
}

/// Requests by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Answered, missing keys included.
    pub ok: u64,
    /// Of these, reads that found no such key.
    pub missing: u64,
    /// Reads whose value was not the one of its key.
    pub corrupt: u64,
    /// Answered with an error.
    pub failed: u64,
    /// Refused because the server was full.
    pub busy: u64,
    /// Never answered.
    pub unknown: u64,
    /// Intended during warm-up, and in no other number here.
    pub warmup: u64,
}

impl Counts {
    /// Requests that were asked for, warm-up aside.
    pub fn asked(&self) -> u64 {
        self.ok + self.corrupt + self.failed + self.busy + self.unknown
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.ok += other.ok;
        self.missing += other.missing;
        self.corrupt += other.corrupt;
        self.failed += other.failed;
        self.busy += other.busy;
        self.unknown += other.unknown;
        self.warmup += other.warmup;
    }

    #[inline]
    fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Ok => self.ok += 1,
            Outcome::Missing => {
                self.ok += 1;
                self.missing += 1;
            }
            Outcome::Corrupt => self.corrupt += 1,
            Outcome::Failed => self.failed += 1,
            Outcome::Busy => self.busy += 1,
            Outcome::Unknown => self.unknown += 1,
        }
    }
}

/// One thread's share of one interval.
#[derive(Debug)]
pub(crate) struct Interval {
    pub(crate) thread: usize,
    pub(crate) index: u64,
    pub(crate) histograms: Histograms,
    pub(crate) counts: Counts,
    pub(crate) last_done_ns: u64,
    /// None follows from this thread.
    pub(crate) is_last: bool,
    /// Times without a good answer that ended in this interval.
    pub(crate) silences: Vec<Silence>,
}

/// A time without a good answer: from one to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// The last good answer before, in nanoseconds since the start of the run.
    pub from_ns: u64,
    /// The first good answer after; when there was none, the end of the run.
    pub to_ns: u64,
    /// Whether there was a good answer after.
    pub has_ended: bool,
}

/// Shorter times without an answer are not remembered one by one.
pub const SILENCE_NS_MIN: u64 = 1_000_000;

impl Interval {
    pub(crate) fn new(thread: usize) -> Self {
        Self {
            thread,
            index: 0,
            histograms: Histograms::new(),
            counts: Counts::default(),
            last_done_ns: 0,
            is_last: false,
            silences: Vec::new(),
        }
    }

    pub(crate) fn reset(&mut self) {
        self.histograms.reset();
        self.counts = Counts::default();
        self.last_done_ns = 0;
        self.is_last = false;
        self.silences.clear();
    }
}

/// Records the requests of one thread. Call [`record`](Self::record) for every request and [`tick`](Self::tick) once
/// per turn of the loop; dropping it hands over what is left.
#[derive(Debug)]
pub struct Recorder {
    window: Window,
    current: Option<Box<Interval>>,
    interval_end_ns: u64,
    to_collector: Sender<Box<Interval>>,
    emptied: Receiver<Box<Interval>>,
    spare: Option<Box<Interval>>,
    last_good_ns: Option<u64>,
    now_ns: u64,
}

impl Recorder {
    pub(crate) fn new(
        window: Window,
        thread: usize,
        to_collector: Sender<Box<Interval>>,
        emptied: Receiver<Box<Interval>>,
    ) -> Self {
        Self {
            window,
            current: Some(Box::new(Interval::new(thread))),
            interval_end_ns: window.start_ns.saturating_add(window.interval_ns),
            to_collector,
            emptied,
            spare: Some(Box::new(Interval::new(thread))),
            last_good_ns: None,
            now_ns: 0,
        }
    }

    /// The part of the run that counts.
    pub fn window(&self) -> Window {
        self.window
    }

    /// Enters one request that has ended. Its interval is the one that is open, that is, the one in which it ended.
    ///
    /// Requests that were answered or never answered enter the histograms; refused and failed ones are only counted,
    /// for a quick refusal would make the server look fast.
    #[inline]
    pub fn record(&mut self, timing: Timing, side: Side, outcome: Outcome) {
        let interval = self.current.as_deref_mut().expect("an interval is open until the recorder is dropped");
        if matches!(outcome, Outcome::Ok | Outcome::Missing) {
            if let Some(from_ns) = self.last_good_ns
                && timing.done_ns.saturating_sub(from_ns) >= SILENCE_NS_MIN
            {
                interval.silences.push(Silence { from_ns, to_ns: timing.done_ns, has_ended: true });
            }
            self.last_good_ns = Some(timing.done_ns);
        }
        if timing.intended_ns < self.window.start_ns {
            interval.counts.warmup += 1;
            return;
        }
        interval.counts.count(outcome);
        let histograms = &mut interval.histograms;
        histograms.lateness.saturating_record(timing.noticed_ns.saturating_sub(timing.intended_ns));
        if matches!(outcome, Outcome::Failed | Outcome::Busy) {
            return;
        }
        interval.last_done_ns = interval.last_done_ns.max(timing.done_ns);
        let response = match side {
            Side::Read => &mut histograms.reads,
            Side::Write => &mut histograms.writes,
        };
        response.saturating_record(timing.done_ns.saturating_sub(timing.intended_ns));
        histograms.service.saturating_record(timing.done_ns.saturating_sub(timing.sent_ns));
    }

    /// Closes the open interval when its time is over. One comparison when it is not.
    #[inline]
    pub fn tick(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        while now_ns >= self.interval_end_ns {
            self.close_interval();
        }
    }

    #[cold]
    fn close_interval(&mut self) {
        let closed = self.current.take().expect("an interval is open until the recorder is dropped");
        let (thread, index) = (closed.thread, closed.index);
        // The collector has usually returned the last one long ago; when it has not, a fresh one costs a page fault or
        // two.
        let next = self.spare.take().or_else(|| self.emptied.try_recv().ok());
        let mut next = next.unwrap_or_else(|| Box::new(Interval::new(thread)));
        next.index = index + 1;
        self.current = Some(next);
        self.interval_end_ns = self.interval_end_ns.saturating_add(self.window.interval_ns);
        // A collector that has gone away has nobody left to tell.
        let _ = self.to_collector.send(closed);
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Some(mut last) = self.current.take() {
            last.is_last = true;
            if let Some(from_ns) = self.last_good_ns
                && self.now_ns.saturating_sub(from_ns) >= SILENCE_NS_MIN
            {
                last.silences.push(Silence { from_ns, to_ns: self.now_ns, has_ended: false });
            }
            let _ = self.to_collector.send(last);
        }
    }
}
