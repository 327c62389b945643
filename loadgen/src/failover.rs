//! How long nothing is answered when the primary fails or gives way, over many repeats.

use std::fmt;

use crate::record::{AuditReport, Summary};

/// What is done to the primary in each repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailoverFault {
    /// SIGKILL; started again once another server serves.
    KillPrimary,
    /// Another server is asked to take its place.
    Handover,
    /// SIGSTOP; it goes on once another server serves.
    StopPrimary,
}

impl fmt::Display for FailoverFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::KillPrimary => "kill -9 of the primary",
            Self::Handover => "planned handover",
            Self::StopPrimary => "SIGSTOP of the primary",
        })
    }
}

/// `failover.json`.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Failover {
    /// What was measured, in words.
    pub scenario: String,
    /// What was done.
    pub fault: FailoverFault,
    /// One for each fault, in order.
    pub repeats: Vec<FailoverRepeat>,
    /// The distribution of the gaps; `None` when there are none.
    pub gap: Option<GapDistribution>,
    /// The whole run, gaps and what was between them.
    pub summary: Summary,
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct FailoverRepeat {
    /// When, in seconds after the warm-up.
    pub at_s: f64,
    /// The server that was the primary.
    pub from: usize,
    /// The server that was found to be the primary afterwards.
    pub to: usize,
    /// The view of that one.
    pub view: u64,
    /// From the last good answer before to the first one after, over all connections, in milliseconds. Zero when it is
    /// below one millisecond.
    pub gap_ms: f64,
    /// From the moment that the former primary was let run again until all servers were in sync, in seconds.
    pub whole_after_s: f64,
}

/// Quantiles of gaps in milliseconds: of 30 values the 99th percentile is the largest.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct GapDistribution {
    /// The shortest.
    pub min_ms: f64,
    /// Half of them were at most this long.
    pub p50_ms: f64,
    /// 90 %.
    pub p90_ms: f64,
    /// 99 %.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// The mean.
    pub mean_ms: f64,
}

impl GapDistribution {
    /// The distribution of `gaps_ms`, each quantile by nearest rank; `None` when there are none.
    pub fn of(gaps_ms: &[f64]) -> Option<Self> {
        let mut sorted = gaps_ms.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |quantile: f64| {
            let rank = (quantile * sorted.len() as f64).ceil() as usize;
            sorted.get(rank.clamp(1, sorted.len()) - 1).copied()
        };
        if sorted.is_empty() {
            return None;
        }
        Some(Self {
            min_ms: at(0.0)?,
            p50_ms: at(0.5)?,
            p90_ms: at(0.9)?,
            p99_ms: at(0.99)?,
            max_ms: at(1.0)?,
            mean_ms: sorted.iter().sum::<f64>() / sorted.len() as f64,
        })
    }
}

impl Failover {
    /// Gaps, shortest first.
    pub fn sorted_gaps_ms(&self) -> Vec<f64> {
        let mut gaps: Vec<f64> = self.repeats.iter().map(|repeat| repeat.gap_ms).collect();
        gaps.sort_by(f64::total_cmp);
        gaps
    }

    /// What the audit found; an audit is part of every such measurement that went to its end.
    pub fn audit(&self) -> Option<&AuditReport> {
        self.summary.audit.as_ref()
    }

    /// One line per fault.
    pub fn csv(&self) -> String {
        let mut csv = "at_s,from,to,view,gap_ms,whole_after_s\n".to_owned();
        for FailoverRepeat { at_s, from, to, view, gap_ms, whole_after_s } in &self.repeats {
            csv += &format!("{at_s:.3},{from},{to},{view},{gap_ms:.3},{whole_after_s:.3}\n");
        }
        csv
    }
}

impl fmt::Display for Failover {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}", self.scenario)?;
        let counts = &self.summary.counts;
        writeln!(
            out,
            "{} times {}; {} requests: {} answered, {} failed, {} of unknown outcome",
            self.repeats.len(),
            self.fault,
            counts.asked(),
            counts.ok,
            counts.failed + counts.busy,
            counts.unknown
        )?;
        if let Some(gap) = &self.gap {
            writeln!(out, "{:<26}{:>9}{:>9}{:>9}{:>9}{:>9}", "", "min", "p50", "p90", "p99", "max")?;
            let GapDistribution { min_ms, p50_ms, p90_ms, p99_ms, max_ms, .. } = gap;
            writeln!(
                out,
                "{:<26}{min_ms:>9.1}{p50_ms:>9.1}{p90_ms:>9.1}{p99_ms:>9.1}{max_ms:>9.1}",
                "gap without answers (ms)"
            )?;
        }
        let mut whole: Vec<f64> = self.repeats.iter().map(|repeat| repeat.whole_after_s * 1e3).collect();
        whole.sort_by(f64::total_cmp);
        if let Some(whole) = GapDistribution::of(&whole) {
            let GapDistribution { min_ms, p50_ms, p90_ms, p99_ms, max_ms, .. } = whole;
            writeln!(
                out,
                "{:<26}{min_ms:>9.1}{p50_ms:>9.1}{p90_ms:>9.1}{p99_ms:>9.1}{max_ms:>9.1}",
                "until all in sync (ms)"
            )?;
        }
        if let Some(audit) = self.audit() {
            writeln!(out, "audit: {audit}")?;
        }
        write!(out, "{}", self.summary.verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let gaps: Vec<f64> = (1..=30).rev().map(f64::from).collect();
        let gap = GapDistribution::of(&gaps).expect("there are gaps");
        assert_eq!((gap.min_ms, gap.p50_ms, gap.p90_ms, gap.p99_ms, gap.max_ms), (1.0, 15.0, 27.0, 30.0, 30.0));
        assert_eq!(gap.mean_ms, 15.5);
        assert_eq!(GapDistribution::of(&[]), None);
        assert_eq!(GapDistribution::of(&[4.0]).expect("one is enough").p99_ms, 4.0);
    }
}
