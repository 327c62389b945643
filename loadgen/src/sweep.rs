//! Latency at one offered rate after the other.

use crate::record::Summary;

/// `sweep.json`.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Sweep {
    /// What was measured, in words.
    pub scenario: String,
    /// One run per rate, ascending.
    pub runs: Vec<SweepRun>,
}

/// The run at one rate.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SweepRun {
    /// Its folder, below that of the sweep.
    pub folder: String,
    /// What was measured.
    pub summary: Summary,
}

/// After this many rates in a row that were not reached, higher ones would show nothing new.
const UNREACHED_MAX: usize = 2;

impl Sweep {
    /// Whether the last rates were beyond what the servers can do.
    pub fn is_saturated(&self) -> bool {
        let unreached = |run: &SweepRun| {
            run.summary.offered_per_s.is_some_and(|offered| run.summary.achieved_per_s < 0.98 * offered)
        };
        self.runs.len() >= UNREACHED_MAX && self.runs.iter().rev().take(UNREACHED_MAX).all(unreached)
    }

    /// One line per rate.
    pub fn csv(&self) -> String {
        let mut csv = "offered_per_s,achieved_per_s,verdict,p50_us,p90_us,p99_us,p999_us,max_us,service_p50_us,\
                       service_p99_us,lateness_p99_us,folder\n"
            .to_owned();
        for SweepRun { folder, summary } in &self.runs {
            let (response, service) = (&summary.response, &summary.service);
            let verdict = if summary.verdict.is_void() { "VOID" } else { "VALID" };
            let offered = summary.offered_per_s.unwrap_or_default();
            csv += &format!("{offered:.1},{:.1},{verdict},", summary.achieved_per_s);
            csv += &format!("{:.3},{:.3},{:.3},", response.p50_us, response.p90_us, response.p99_us);
            csv += &format!("{:.3},{:.3},", response.p999_us, response.max_us);
            csv += &format!("{:.3},{:.3},", service.p50_us, service.p99_us);
            csv += &format!("{:.3},{folder}\n", summary.lateness.p99_us);
        }
        csv
    }
}
