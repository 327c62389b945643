//! What happened: from single requests to a folder of files.
//!
//! Each generating thread owns a [`Recorder`] and shares nothing. Once per interval it hands its histograms over to the
//! one [`Collector`] and takes back an emptied set, so that merging, encoding and printing cost the generating thread
//! no more than a swap of two pointers. The collector ends with a [`RunRecord`]; [`Summary`] and [`Verdict`] are
//! computed from that alone, and [`ResultFolder`] writes everything down.
//!
//! All times are nanoseconds since the start of the run, on the monotonic clock.

mod audit;
mod collector;
mod events;
mod faults;
mod folder;
mod histograms;
mod meta;
mod recorder;
mod summary;
mod usage;
mod verdict;

pub use audit::AuditReport;
pub use collector::{Collector, IntervalRow, RunRecord};
pub use events::{Event, EventLog};
pub use faults::{FaultOutcome, gap_between};
pub(crate) use folder::read_json;
pub use folder::{ResultFolder, RunFolder, folder_name, utc_compact};
pub use histograms::{Histograms, latency_histogram};
pub(crate) use meta::utc;
pub use meta::{Checkout, Machine, Meta, file_system_of};
pub use recorder::{Counts, Outcome, Recorder, SILENCE_NS_MIN, Side, Silence, Timing};
pub use summary::{Latency, Summary};
pub use usage::{ProcessRef, ProcessUsage, UsageSample};
pub use verdict::{Verdict, VerdictRules};

/// The part of a run that counts, and how it is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Requests intended before this moment are warm-up: counted, otherwise left out.
    pub start_ns: u64,
    /// The end of the plan; `u64::MAX` when the run ends by itself, as a load does. Answers may come later.
    pub end_ns: u64,
    /// The length of one row of the time series.
    pub interval_ns: u64,
}

impl Window {
    /// A window of `duration_ns` after a warm-up, in intervals of one second, or of a tenth of the run where that is
    /// shorter.
    pub fn new(warmup_ns: u64, duration_ns: Option<u64>) -> Self {
        let interval_ns = duration_ns.map_or(1_000_000_000, |duration| (duration / 10).clamp(1_000_000, 1_000_000_000));
        let end_ns = duration_ns.map_or(u64::MAX, |duration| warmup_ns.saturating_add(duration));
        Self { start_ns: warmup_ns, end_ns, interval_ns }
    }

    /// For how long requests are intended; `None` when the run ends by itself.
    pub fn planned_ns(&self) -> Option<u64> {
        (self.end_ns != u64::MAX).then(|| self.end_ns - self.start_ns)
    }
}

/// A fresh pair: one recorder for each thread, and the collector that they feed. The collector's
/// [`run`](Collector::run) ends once every recorder has been dropped.
pub fn channel(window: Window, threads: usize) -> (Vec<Recorder>, Collector) {
    let (to_collector, arrivals) = std::sync::mpsc::channel();
    let (recorders, returns) = (0..threads)
        .map(|thread| {
            let (give_back, emptied) = std::sync::mpsc::channel();
            (Recorder::new(window, thread, to_collector.clone(), emptied), give_back)
        })
        .unzip();
    (recorders, Collector::new(window, arrivals, returns))
}
