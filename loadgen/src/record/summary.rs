//! The numbers of a run that people quote.

use hdrhistogram::Histogram;

use super::{AuditReport, Counts, FaultOutcome, ProcessUsage, RunRecord, Verdict, VerdictRules};

/// Quantiles of a latency histogram, in microseconds. All zero when it is empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Latency {
    /// How many requests.
    pub count: u64,
    /// The arithmetic mean.
    pub mean_us: f64,
    /// Half of the requests were at most this slow.
    pub p50_us: f64,
    /// 90 %.
    pub p90_us: f64,
    /// 99 %.
    pub p99_us: f64,
    /// 99.9 %.
    pub p999_us: f64,
    /// 99.99 %.
    pub p9999_us: f64,
    /// The slowest.
    pub max_us: f64,
}

impl Latency {
    /// The quantiles of `histogram`, which is in nanoseconds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            count: histogram.len(),
            mean_us: histogram.mean() / 1e3,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            p9999_us: at(0.9999),
            max_us: histogram.max() as f64 / 1e3,
        }
    }
}

/// `summary.json`.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Summary {
    /// What was measured, in words.
    pub scenario: String,
    /// Whether the numbers can be trusted.
    pub verdict: Verdict,
    /// The rate asked for, in requests per second; none when the run kept all connections full instead.
    pub offered_per_s: Option<f64>,
    /// Answered requests per second.
    pub achieved_per_s: f64,
    /// From the end of the warm-up to the end of the plan or the last answer, whichever was later, in seconds.
    pub elapsed_s: f64,
    /// For how long requests were intended after the warm-up, in seconds; none when the run ended by itself.
    pub planned_s: Option<f64>,
    /// Requests by outcome.
    pub counts: Counts,
    /// From the intended time to the answer: what a user would have seen.
    pub response: Latency,
    /// Response times of reads alone.
    pub reads: Latency,
    /// Response times of writes alone.
    pub writes: Latency,
    /// From the actual send to the answer.
    pub service: Latency,
    /// How late the generator was.
    pub lateness: Latency,
    /// Response times of the first, second and last third of the run.
    pub thirds: Option<[Latency; 3]>,
    /// CPU time and memory of the generator and of the servers it started.
    pub processes: Vec<ProcessUsage>,
    /// What was done to the servers meanwhile, and what came of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<FaultOutcome>,
    /// What reading back every acknowledged write showed, if that was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditReport>,
}

#[cfg(test)]
impl Summary {
    /// The summary of nothing, for tests of what is around it.
    pub(crate) fn empty() -> Self {
        Self {
            scenario: String::new(),
            verdict: Verdict::valid(),
            offered_per_s: None,
            achieved_per_s: 0.0,
            elapsed_s: 0.0,
            planned_s: None,
            counts: Counts::default(),
            response: Latency::default(),
            reads: Latency::default(),
            writes: Latency::default(),
            service: Latency::default(),
            lateness: Latency::default(),
            thirds: None,
            processes: Vec::new(),
            faults: Vec::new(),
            audit: None,
        }
    }
}

impl Summary {
    /// Summarises a run that was offered `offered_per_s` requests per second, or was kept full.
    pub fn of(record: &RunRecord, scenario: &str, offered_per_s: Option<f64>, rules: &VerdictRules) -> Self {
        let elapsed_s = record.elapsed_ns as f64 / 1e9;
        let achieved_per_s = if elapsed_s > 0.0 { record.counts.ok as f64 / elapsed_s } else { 0.0 };
        let mut summary = Self {
            scenario: scenario.to_owned(),
            verdict: Verdict::valid(),
            offered_per_s,
            achieved_per_s,
            elapsed_s,
            planned_s: record.window.planned_ns().map(|planned_ns| planned_ns as f64 / 1e9),
            counts: record.counts,
            response: Latency::of(&record.histograms.response()),
            reads: Latency::of(&record.histograms.reads),
            writes: Latency::of(&record.histograms.writes),
            service: Latency::of(&record.histograms.service),
            lateness: Latency::of(&record.histograms.lateness),
            thirds: record.thirds,
            processes: record.processes.clone(),
            faults: Vec::new(),
            audit: None,
        };
        summary.verdict = rules.judge(&summary);
        summary
    }
}
