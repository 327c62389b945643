//! Merges what the threads recorded, interval by interval.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use super::recorder::{Interval, SILENCE_NS_MIN, Silence};
use super::{Counts, Event, Histograms, Latency, ProcessRef, ProcessUsage, UsageSample, Window};

/// One row of the time series.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct IntervalRow {
    /// The beginning of the interval, in seconds after the warm-up.
    pub start_s: f64,
    /// Its length, in seconds.
    pub length_s: f64,
    /// Requests that ended in it.
    pub counts: Counts,
    /// Answered requests per second.
    pub ok_per_s: f64,
    /// Response times of requests that ended in it.
    pub response: Latency,
    /// Service times of the same.
    pub service: Latency,
    /// How late the generator was with the same.
    pub lateness: Latency,
}

/// Everything that was measured in one run.
#[derive(Debug, Clone)]
pub struct RunRecord {
    /// When the run began (warm-up included).
    pub started_at: SystemTime,
    /// The part that counts.
    pub window: Window,
    /// From the end of the warm-up to the end of the plan or the last answer, whichever was later, in nanoseconds.
    pub elapsed_ns: u64,
    /// Latencies of the whole window.
    pub histograms: Histograms,
    /// Requests by outcome.
    pub counts: Counts,
    /// The time series.
    pub intervals: Vec<IntervalRow>,
    /// Response times by third of the run; `None` when there are too few intervals to tell thirds apart.
    pub thirds: Option<[Latency; 3]>,
    /// Histograms of each interval as lines of an HdrHistogram interval log, tagged `response`, `service`, `lateness`.
    pub interval_log: Vec<u8>,
    /// CPU time and memory of each process during the window.
    pub processes: Vec<ProcessUsage>,
    /// What else happened.
    pub events: Vec<Event>,
    /// Times of a millisecond and more in which no thread got a good answer, warm-up included, in order.
    pub silences: Vec<Silence>,
}

/// Receives what recorders hand over. Runs on the thread that coordinates a run.
#[derive(Debug)]
pub struct Collector {
    window: Window,
    arrivals: Receiver<Box<Interval>>,
    returns: Vec<Sender<Box<Interval>>>,
    open: BTreeMap<u64, Merged>,
    record: RunRecord,
    third_histograms: [Histograms; 3],
    /// Intervals without answers after the end of the plan, that no interval with answers has followed yet.
    empty_ends: Vec<u64>,
    rows_after_plan: usize,
    last_done_ns: u64,
    /// By thread.
    silences: Vec<Vec<Silence>>,
}

#[derive(Debug, Default)]
struct Merged {
    histograms: Histograms,
    counts: Counts,
    /// Threads that have handed over their share, and those of them that have ended with it.
    threads: usize,
    ended: usize,
    last_done_ns: u64,
}

impl Collector {
    pub(crate) fn new(window: Window, arrivals: Receiver<Box<Interval>>, returns: Vec<Sender<Box<Interval>>>) -> Self {
        let record = RunRecord {
            started_at: SystemTime::now(),
            window,
            elapsed_ns: 0,
            histograms: Histograms::new(),
            counts: Counts::default(),
            intervals: Vec::new(),
            thirds: None,
            interval_log: Vec::new(),
            processes: Vec::new(),
            events: Vec::new(),
            silences: Vec::new(),
        };
        let third_histograms = std::array::from_fn(|_| Histograms::new());
        let silences = vec![Vec::new(); returns.len()];
        Self {
            window,
            arrivals,
            returns,
            open: BTreeMap::new(),
            record,
            third_histograms,
            empty_ends: Vec::new(),
            rows_after_plan: 0,
            last_done_ns: 0,
            silences,
        }
    }

    /// Collects until every recorder has been dropped. `started` is the moment that recorders count from; `watch` is
    /// called with each finished row but the few answers that come just after the end of the plan; CPU time of
    /// `processes` is taken from the end of the warm-up to the end of the run.
    pub fn run(mut self, started: Instant, processes: &[ProcessRef], mut watch: impl FnMut(&IntervalRow)) -> RunRecord {
        self.record.started_at = SystemTime::now() - started.elapsed();
        let window_opens = started + Duration::from_nanos(self.window.start_ns);
        let window_closes = started.checked_add(Duration::from_nanos(self.window.end_ns));
        let mut usage = UsageWindow::new(processes, window_opens, window_closes);
        loop {
            let arrival = match usage.next_sample() {
                None => self.arrivals.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(moment) => self.arrivals.recv_timeout(moment.saturating_duration_since(Instant::now())),
            };
            usage.sample(Instant::now());
            match arrival {
                Ok(interval) => self.merge(interval, &mut watch),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.record.processes = usage.finish();
        self.finish(&mut watch)
    }

    fn merge(&mut self, mut interval: Box<Interval>, watch: &mut impl FnMut(&IntervalRow)) {
        self.last_done_ns = self.last_done_ns.max(interval.last_done_ns);
        let merged = self.open.entry(interval.index).or_default();
        merged.histograms.add(&interval.histograms);
        merged.counts.add(&interval.counts);
        merged.threads += 1;
        merged.ended += usize::from(interval.is_last);
        merged.last_done_ns = merged.last_done_ns.max(interval.last_done_ns);
        let thread = interval.thread;
        self.silences[thread].append(&mut interval.silences);
        interval.reset();
        // A thread that has ended takes nothing back.
        let _ = self.returns[thread].send(interval);
        // Threads hand intervals over in order, so the oldest is complete first.
        while let Some(oldest) = self.open.first_entry()
            && oldest.get().threads == self.returns.len()
        {
            let (index, merged) = oldest.remove_entry();
            let is_end = merged.ended == self.returns.len();
            self.close(index, &merged, is_end, watch);
        }
    }

    fn is_after_plan(&self, index: u64) -> bool {
        let start_ns = index.saturating_mul(self.window.interval_ns);
        self.window.planned_ns().is_some_and(|planned_ns| start_ns >= planned_ns)
    }

    fn close(&mut self, index: u64, merged: &Merged, is_end: bool, watch: &mut impl FnMut(&IntervalRow)) {
        // After the end of the plan an interval without answers is a row only if one with answers follows; without a
        // plan it is none when nothing follows.
        let is_after = self.is_after_plan(index) || is_end && self.window.planned_ns().is_none();
        if is_after && merged.counts == Counts::default() {
            self.empty_ends.push(index);
            return;
        }
        let full_ns = self.window.interval_ns;
        for index in std::mem::take(&mut self.empty_ends) {
            self.add_row(index, full_ns, &Merged::default(), watch);
        }
        // A run that ends when its work is done ends within an interval, and its rate is that of the part until then.
        let start_ns = self.window.start_ns + index.saturating_mul(full_ns);
        let is_cut = is_end && self.window.planned_ns().is_none() && merged.last_done_ns > start_ns;
        let length_ns = if is_cut { full_ns.min(merged.last_done_ns - start_ns) } else { full_ns };
        self.add_row(index, length_ns, merged, watch);
    }

    fn add_row(&mut self, index: u64, length_ns: u64, merged: &Merged, watch: &mut impl FnMut(&IntervalRow)) {
        let length_s = length_ns as f64 / 1e9;
        let response = merged.histograms.response();
        let row = IntervalRow {
            start_s: index as f64 * (self.window.interval_ns as f64 / 1e9),
            length_s,
            counts: merged.counts,
            ok_per_s: merged.counts.ok as f64 / length_s,
            response: Latency::of(&response),
            service: Latency::of(&merged.histograms.service),
            lateness: Latency::of(&merged.histograms.lateness),
        };
        self.show(index, &row, watch);
        let start = Duration::from_nanos(index.saturating_mul(self.window.interval_ns));
        append_log(&mut self.record.interval_log, start, self.window, &response, &merged.histograms);
        if let Some(third) = self.third_of(index) {
            self.third_histograms[third].add(&merged.histograms);
        }
        self.record.histograms.add(&merged.histograms);
        self.record.counts.add(&merged.counts);
        self.record.intervals.push(row);
    }

    /// The few answers that come just after the end of the plan look like a collapse of the throughput, and are told
    /// only when they take more than one interval: then they show a backlog.
    fn show(&mut self, index: u64, row: &IntervalRow, watch: &mut impl FnMut(&IntervalRow)) {
        self.rows_after_plan += usize::from(self.is_after_plan(index));
        match self.rows_after_plan {
            1 => return,
            2 => self.record.intervals.last().into_iter().for_each(&mut *watch),
            _ => {}
        }
        watch(row);
    }

    /// Which third of the plan an interval belongs to; answers after the end of the plan belong to the last.
    fn third_of(&self, index: u64) -> Option<usize> {
        let planned = self.window.planned_ns()? / self.window.interval_ns.max(1);
        (planned >= 3).then(|| (index * 3 / planned).min(2) as usize)
    }

    fn finish(mut self, watch: &mut impl FnMut(&IntervalRow)) -> RunRecord {
        // A thread that ended early leaves intervals that will not fill up any more.
        while let Some((index, merged)) = self.open.pop_first() {
            if merged.counts != Counts::default() {
                let is_end = self.open.is_empty();
                self.close(index, &merged, is_end, watch);
            }
        }
        self.record.silences = common_silences(std::mem::take(&mut self.silences));
        let answered_ns = self.last_done_ns.saturating_sub(self.window.start_ns);
        self.record.elapsed_ns = answered_ns.max(self.window.planned_ns().unwrap_or(0));
        if self.third_of(0).is_some() {
            self.record.thirds = Some(self.third_histograms.map(|third| Latency::of(&third.response())));
        }
        self.record
    }
}

/// The times in which all threads were silent.
fn common_silences(threads: Vec<Vec<Silence>>) -> Vec<Silence> {
    let mut threads = threads.into_iter();
    let first = threads.next().unwrap_or_default();
    threads.fold(first, |common, thread| {
        let mut both = Vec::new();
        let (mut left, mut right) = (common.iter().peekable(), thread.iter().peekable());
        while let (Some(one), Some(other)) = (left.peek(), right.peek()) {
            let (from_ns, to_ns) = (one.from_ns.max(other.from_ns), one.to_ns.min(other.to_ns));
            if to_ns.saturating_sub(from_ns) >= SILENCE_NS_MIN {
                both.push(Silence { from_ns, to_ns, has_ended: one.has_ended || other.has_ended });
            }
            if one.to_ns <= other.to_ns {
                left.next()
            } else {
                right.next()
            };
        }
        both
    })
}

/// Appends the histograms of one interval to an interval log in memory.
fn append_log(
    log: &mut Vec<u8>,
    start: Duration,
    window: Window,
    response: &hdrhistogram::Histogram<u64>,
    all: &Histograms,
) {
    let length = Duration::from_nanos(window.interval_ns);
    let mut serializer = V2DeflateSerializer::new();
    let mut writer =
        IntervalLogWriterBuilder::new().begin_log_with(log, &mut serializer).expect("writing to memory does not fail");
    for (tag, histogram) in [("response", response), ("service", &all.service), ("lateness", &all.lateness)] {
        writer
            .write_histogram(histogram, start, length, Tag::new(tag))
            .expect("a histogram with our bounds can be encoded in memory");
    }
}

/// Takes CPU samples at the two ends of the window.
struct UsageWindow<'a> {
    processes: &'a [ProcessRef],
    opens: Instant,
    closes: Option<Instant>,
    before: Option<Vec<Option<UsageSample>>>,
    after: Option<Vec<Option<UsageSample>>>,
}

impl<'a> UsageWindow<'a> {
    fn new(processes: &'a [ProcessRef], opens: Instant, closes: Option<Instant>) -> Self {
        Self { processes, opens, closes, before: None, after: None }
    }

    fn next_sample(&self) -> Option<Instant> {
        match (&self.before, &self.after) {
            (None, _) => Some(self.opens),
            (Some(_), None) => self.closes,
            _ => None,
        }
    }

    fn sample(&mut self, now: Instant) {
        let read = || self.processes.iter().map(UsageSample::read).collect();
        if self.before.is_none() && now >= self.opens {
            self.before = Some(read());
        } else if self.after.is_none() && self.closes.is_some_and(|closes| now >= closes) {
            self.after = Some(read());
        }
    }

    /// A process that ended during the run has no last sample and is left out, for half a number would mislead.
    fn finish(self) -> Vec<ProcessUsage> {
        let read = || self.processes.iter().map(UsageSample::read).collect::<Vec<_>>();
        let before = self.before.unwrap_or_else(read);
        let after = self.after.unwrap_or_else(read);
        let samples = before.into_iter().zip(after);
        let usage = |(process, (before, after)): (&ProcessRef, (Option<_>, Option<_>))| {
            Some(ProcessUsage::between(process, before?, after?))
        };
        self.processes.iter().zip(samples).filter_map(usage).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Outcome, Side, Timing, channel};
    use super::*;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    const MILLI: u64 = 1_000_000;

    fn window() -> Window {
        Window { start_ns: 10 * MILLI, end_ns: 40 * MILLI, interval_ns: 10 * MILLI }
    }

    fn timing(intended_ns: u64, response_ns: u64) -> Timing {
        let done_ns = intended_ns + response_ns;
        Timing { intended_ns, noticed_ns: intended_ns + 1000, sent_ns: intended_ns + 2000, done_ns }
    }

    /// Two threads, one request per millisecond each from 0 to 40 ms; the response time grows by the interval.
    fn two_threads() -> RunRecord {
        let (recorders, collector) = channel(window(), 2);
        for mut recorder in recorders {
            for at in 0..40 {
                let response_ns = 100_000 * (1 + at / 10);
                recorder.tick(at * MILLI + response_ns);
                let side = if at % 2 == 0 { Side::Read } else { Side::Write };
                recorder.record(timing(at * MILLI, response_ns), side, Outcome::Ok);
            }
        }
        collector.run(Instant::now(), &[ProcessRef::own("generator")], |_| {})
    }

    #[test]
    fn intervals_of_all_threads_are_merged_and_warm_up_is_left_out() {
        let record = two_threads();
        assert_eq!(record.counts, Counts { ok: 60, warmup: 20, ..Counts::default() });
        let per_interval: Vec<_> = record.intervals.iter().map(|row| row.counts.ok).collect();
        assert_eq!(per_interval, [20, 20, 20]);
        assert_eq!(record.intervals[1].ok_per_s, 2000.0);
        assert_eq!(record.histograms.reads.len(), 30);
        assert_eq!(record.histograms.response().len(), 60);
        assert_eq!(record.elapsed_ns, 30 * MILLI, "the last answer came before the end of the plan");
    }

    #[test]
    fn thirds_of_a_growing_latency_grow() {
        let thirds = two_threads().thirds.expect("three intervals make three thirds");
        let p50: Vec<_> = thirds.iter().map(|third| third.p50_us.round()).collect();
        assert_eq!(p50, [200.0, 300.0, 400.0]);
    }

    #[test]
    fn the_interval_log_can_be_read_back() {
        let log = two_threads().interval_log;
        let mut responses = Vec::new();
        for entry in IntervalLogIterator::new(&log) {
            if let LogEntry::Interval(interval) = entry.expect("the log is well formed")
                && interval.tag().is_some_and(|tag| tag.as_str() == "response")
            {
                responses.push((interval.start_timestamp(), interval.duration()));
            }
        }
        let ms = Duration::from_millis;
        assert_eq!(responses, [(ms(0), ms(10)), (ms(10), ms(10)), (ms(20), ms(10))]);
    }

    #[test]
    fn an_unanswered_request_enters_at_its_elapsed_time_and_a_refused_one_does_not() {
        let (mut recorders, collector) = channel(window(), 1);
        let mut recorder = recorders.remove(0);
        recorder.record(timing(20 * MILLI, 500 * MILLI), Side::Write, Outcome::Unknown);
        recorder.record(timing(20 * MILLI, 10), Side::Write, Outcome::Busy);
        recorder.record(timing(20 * MILLI, 10), Side::Write, Outcome::Failed);
        drop(recorder);
        let record = collector.run(Instant::now(), &[], |_| {});
        assert_eq!(record.counts, Counts { unknown: 1, busy: 1, failed: 1, ..Counts::default() });
        assert_eq!(record.histograms.writes.len(), 1);
        assert!(record.histograms.writes.max() >= 500 * MILLI);
        assert_eq!(record.elapsed_ns, 510 * MILLI);
    }

    #[test]
    fn a_time_without_good_answers_is_remembered_from_the_last_one_to_the_next() {
        let (mut recorders, collector) = channel(window(), 2);
        // The first thread is silent from 5 to 30 ms, but for a failure; the second from 12 to 25 ms and at the end.
        let [first, second] = [vec![1, 5, 30], vec![1, 5, 12, 25]];
        for (recorder, answers) in recorders.iter_mut().zip([first, second]) {
            for at in answers {
                recorder.tick(at * MILLI);
                recorder.record(timing(at * MILLI - 500, 500), Side::Write, Outcome::Ok);
            }
            recorder.tick(20 * MILLI);
            recorder.record(timing(20 * MILLI, 0), Side::Write, Outcome::Failed);
            recorder.tick(31 * MILLI);
        }
        drop(recorders);
        let record = collector.run(Instant::now(), &[], |_| {});
        let silences: Vec<_> =
            record.silences.iter().map(|silence| (silence.from_ns / MILLI, silence.to_ns / MILLI)).collect();
        assert_eq!(silences, [(1, 5), (5, 12), (12, 25), (25, 30), (30, 31)]);
        assert!(!record.silences[4].has_ended);
    }

    #[test]
    fn the_end_of_a_run_was_followed_by_a_row_without_answers() {
        for late_ms in [None, Some(75)] {
            let (mut recorders, collector) = channel(window(), 1);
            let mut recorder = recorders.remove(0);
            for at in 10..40 {
                recorder.tick(at * MILLI);
                recorder.record(timing(at * MILLI, 1000), Side::Write, Outcome::Ok);
            }
            // The thread looks at the time once more, and in one case an answer comes long after the last request.
            recorder.tick(51 * MILLI);
            recorder.tick(62 * MILLI);
            if let Some(late_ms) = late_ms {
                recorder.tick(late_ms * MILLI);
                recorder.record(timing(39 * MILLI, (late_ms - 39) * MILLI), Side::Write, Outcome::Ok);
            }
            drop(recorder);
            let mut rows = Vec::new();
            let record = collector.run(Instant::now(), &[], |row| rows.push(row.counts.ok));
            let expected: &[u64] = if late_ms.is_some() { &[10, 10, 10, 0, 0, 0, 1] } else { &[10, 10, 10] };
            assert_eq!(rows, expected);
            assert_eq!(record.intervals.len(), rows.len());
        }
    }

    #[test]
    fn a_run_ended_with_a_line_that_looked_like_a_collapse() {
        let (mut recorders, collector) = channel(window(), 1);
        let mut recorder = recorders.remove(0);
        for at in 10..40 {
            recorder.tick(at * MILLI);
            recorder.record(timing(at * MILLI, 1000), Side::Write, Outcome::Ok);
        }
        recorder.tick(41 * MILLI);
        recorder.record(timing(39 * MILLI, 2 * MILLI), Side::Write, Outcome::Ok);
        drop(recorder);
        let mut rows = Vec::new();
        let record = collector.run(Instant::now(), &[], |row| rows.push(row.counts.ok));
        assert_eq!(rows, [10, 10, 10], "what is shown");
        assert_eq!(record.intervals.len(), 4, "what is kept");
    }

    #[test]
    fn the_rate_of_the_last_interval_was_that_of_a_whole_one_although_the_work_was_done_before() {
        let endless = Window { start_ns: 0, end_ns: u64::MAX, interval_ns: 10 * MILLI };
        // One thread has done its share in the interval before the last, or both end together.
        for first_ends_ms in [12, 24] {
            let (recorders, collector) = channel(endless, 2);
            for (mut recorder, end_ms) in recorders.into_iter().zip([first_ends_ms, 24]) {
                for at in 0..end_ms {
                    recorder.tick(at * MILLI);
                    recorder.record(timing(at * MILLI, MILLI), Side::Write, Outcome::Ok);
                }
            }
            let record = collector.run(Instant::now(), &[], |_| {});
            let lengths: Vec<_> = record.intervals.iter().map(|row| (row.length_s * 1e3).round()).collect();
            assert_eq!(lengths, [10.0, 10.0, 4.0]);
            let last = &record.intervals[2];
            assert_eq!(last.ok_per_s.round(), last.counts.ok as f64 * 250.0);
        }
    }

    #[test]
    fn a_thread_that_ends_early_loses_nothing() {
        let (mut recorders, collector) = channel(window(), 2);
        let (mut long, mut short) = (recorders.remove(0), recorders.remove(0));
        short.record(timing(11 * MILLI, 1000), Side::Read, Outcome::Ok);
        drop(short);
        for at in 10..40 {
            long.tick(at * MILLI);
            long.record(timing(at * MILLI, 1000), Side::Read, Outcome::Ok);
        }
        drop(long);
        let mut rows = Vec::new();
        let record = collector.run(Instant::now(), &[], |row| rows.push(row.counts.ok));
        assert_eq!(rows, [11, 10, 10]);
        assert_eq!(record.counts.ok, 31);
    }
}
