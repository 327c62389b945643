//! Faults on the clock of a run: what is done to the servers, and when.
//!
//! [`Fault`] is what `--fault` says, [`conduct`] does it while arrivals go on. What a fault meant for the users of the
//! cluster is worked out afterwards from the answers: [`crate::record::FaultOutcome`].

mod conductor;
mod grammar;

use std::time::{Duration, Instant};

use crate::record::{FaultOutcome, RunRecord, gap_between};

pub use conductor::{Inflicted, conduct};
pub use grammar::{Action, Fault, GRAMMAR, Target};

/// What came of each fault that was inflicted on a run whose measured part began at `opens`.
pub fn outcomes(opens: Instant, inflicted: &[Inflicted], record: &RunRecord) -> Vec<FaultOutcome> {
    let since = |moment: Instant| moment.saturating_duration_since(opens);
    let run_ns = |moment: Instant| record.window.start_ns + since(moment).as_nanos() as u64;
    let mut outcomes = Vec::new();
    for (index, Inflicted { at, until, what, error }) in inflicted.iter().enumerate() {
        let next_ns = inflicted.get(index + 1).map_or(u64::MAX, |next| run_ns(next.at));
        let gap = gap_between(&record.silences, run_ns(*at), next_ns);
        let seconds = |ns: u64| (ns as f64 - record.window.start_ns as f64) / 1e9;
        outcomes.push(FaultOutcome {
            what: what.clone(),
            at_s: since(*at).as_secs_f64(),
            until_s: until.map(|until| since(until).as_secs_f64()),
            gap_ms: gap.map_or(0.0, |gap| Duration::from_nanos(gap.to_ns - gap.from_ns).as_secs_f64() * 1e3),
            gap_from_s: gap.map_or(since(*at).as_secs_f64(), |gap| seconds(gap.from_ns)),
            has_ended: gap.is_none_or(|gap| gap.has_ended),
            error: error.clone(),
        });
    }
    outcomes
}
