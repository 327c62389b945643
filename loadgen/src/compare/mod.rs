//! Lockstep beside Redis: the same loads on each, in turns.

mod benchmark;
mod goals;
mod peers;
mod redis;

pub use benchmark::{BENCHMARKS, Benchmark, BenchmarkRun, run_benchmark};
pub(crate) use goals::SATURATING;
pub use goals::{GOALS, Goal, Source, Standing};
pub use peers::{Kind, Peer, PeerError, Programs};

use crate::record::Summary;

/// `compare.json`.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Comparison {
    /// What was measured, in words.
    pub scenario: String,
    /// Who took part: a name and a sentence for each.
    pub peers: Vec<(Kind, String)>,
    /// Runs of the load generator.
    pub runs: Vec<ComparedRun>,
    /// Runs of redis-benchmark.
    pub benchmarks: Vec<BenchmarkRun>,
}

/// One load on one peer.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ComparedRun {
    /// Which load: what it is called on all peers.
    pub load: String,
    /// Who was under load.
    pub peer: Kind,
    /// Which time, from 0.
    pub repeat: usize,
    /// The run's folder, below that of the comparison.
    pub folder: String,
    /// What was measured.
    pub summary: Summary,
}

/// The middle of the values; of two, their mean.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

impl Comparison {
    /// The median over the repeats of a load on a peer.
    pub fn of_load(&self, load: &str, peer: Kind, pick: impl Fn(&Summary) -> f64) -> Option<f64> {
        let runs = self.runs.iter().filter(|run| run.load == load && run.peer == peer);
        median(runs.map(|run| pick(&run.summary)).collect())
    }

    /// The median over the repeats of a benchmark on a peer.
    pub fn of_benchmark(&self, name: &str, peer: Kind, pick: impl Fn(&BenchmarkRun) -> f64) -> Option<f64> {
        let runs = self.benchmarks.iter().filter(|run| run.benchmark == name && run.peer == peer);
        median(runs.map(pick).collect())
    }

    /// The loads in the order in which they were first run.
    pub fn loads(&self) -> Vec<&str> {
        let mut loads: Vec<&str> = Vec::new();
        for run in &self.runs {
            if !loads.contains(&run.load.as_str()) {
                loads.push(&run.load);
            }
        }
        loads
    }

    /// How the goals stand.
    pub fn standings(&self) -> Vec<Standing> {
        GOALS.iter().map(|goal| goal.stand(self)).collect()
    }

    /// One line per run. Names of loads have commas in them, so they are quoted.
    pub fn csv(&self) -> String {
        let mut csv =
            "load,peer,repeat,verdict,offered_per_s,answered_per_s,p50_us,p90_us,p99_us,p999_us,max_us\n".to_owned();
        for ComparedRun { load, peer, repeat, summary, .. } in &self.runs {
            let verdict = if summary.verdict.is_void() { "VOID" } else { "VALID" };
            let response = &summary.response;
            let offered = summary.offered_per_s.map_or_else(String::new, |rate| format!("{rate:.0}"));
            csv += &format!("\"{load}\",{peer},{repeat},{verdict},{offered},{:.1},", summary.achieved_per_s);
            csv += &format!("{:.1},{:.1},{:.1},", response.p50_us, response.p90_us, response.p99_us);
            csv += &format!("{:.1},{:.1}\n", response.p999_us, response.max_us);
        }
        for BenchmarkRun { benchmark, peer, repeat, requests_per_s, p50_ms, p99_ms, .. } in &self.benchmarks {
            let (p50_us, p99_us) = (p50_ms * 1e3, p99_ms * 1e3);
            csv += &format!("\"{benchmark}\",{peer},{repeat},,,{requests_per_s:.1},{p50_us:.1},,{p99_us:.1},,\n");
        }
        csv
    }
}

#[cfg(test)]
mod tests;
