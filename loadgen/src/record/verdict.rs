//! Whether a run's numbers can be trusted.

use super::{Latency, Summary};

/// The verdict on a run, with every reason against it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Verdict {
    /// `VALID` or `VOID`.
    pub word: VerdictWord,
    /// Why it is void, one sentence each; empty when it is valid.
    pub reasons: Vec<String>,
}

/// The two verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum VerdictWord {
    /// The numbers say what they seem to say.
    Valid,
    /// They do not; a plot shows them hollow and the command ends with exit code 3.
    Void,
}

impl Verdict {
    /// A verdict without objections.
    pub fn valid() -> Self {
        Self { word: VerdictWord::Valid, reasons: Vec::new() }
    }

    /// Void for `reason`, in addition to any reason before.
    pub fn object(&mut self, reason: String) {
        self.word = VerdictWord::Void;
        self.reasons.push(reason);
    }

    /// Whether the run is void.
    pub fn is_void(&self) -> bool {
        self.word == VerdictWord::Void
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.word {
            VerdictWord::Valid => out.write_str("VALID"),
            VerdictWord::Void => write!(out, "VOID: {}", self.reasons.join("; ")),
        }
    }
}

/// The bounds of the verdict. The defaults are what `docs` and `--help` state.
#[derive(Debug, Clone, PartialEq)]
pub struct VerdictRules {
    /// The generator's p99 lateness may be this share of the p99 response time...
    pub lateness_share_max: f64,
    /// ...or this many microseconds, whichever is more.
    pub lateness_floor_us: f64,
    /// The achieved rate must be this share of the offered one.
    pub achieved_share_min: f64,
    /// The p50 of the last third may differ from the first by this factor, either way...
    pub trend_factor_p50: f64,
    /// ...and the p99 by this one, when each third has at least [`VerdictRules::TREND_COUNT_MIN`] requests.
    pub trend_factor_p99: f64,
    /// Differences below this many microseconds are noise.
    pub trend_floor_us: f64,
    /// Whether a trend is looked for at all.
    pub expects_steadiness: bool,
}

impl Default for VerdictRules {
    fn default() -> Self {
        Self {
            lateness_share_max: 0.1,
            lateness_floor_us: 100.0,
            achieved_share_min: 0.98,
            trend_factor_p50: 1.5,
            trend_factor_p99: 3.0,
            trend_floor_us: 100.0,
            expects_steadiness: true,
        }
    }
}

impl VerdictRules {
    /// Thirds with fewer requests than this have no trend to speak of.
    pub const TREND_COUNT_MIN: u64 = 1000;

    /// Judges a summary by its numbers.
    pub fn judge(&self, summary: &Summary) -> Verdict {
        let mut verdict = Verdict::valid();
        if summary.response.count == 0 {
            verdict.object("no request was answered or given up within the measured window".to_owned());
            return verdict;
        }
        if summary.counts.corrupt > 0 {
            verdict.object(format!("{} reads returned a value that is not the one of its key", summary.counts.corrupt));
        }
        // Only a run with a rate has intended times apart from the actual ones.
        if let Some(offered) = summary.offered_per_s {
            self.judge_lateness(summary, &mut verdict);
            self.judge_rate(offered, summary, &mut verdict);
            // What happens to a run with faults is meant to move its latencies.
            if let Some(thirds) = &summary.thirds
                && self.expects_steadiness
            {
                self.judge_trend(thirds, &mut verdict);
            }
        } else if summary.counts.unknown + summary.counts.failed > 0 {
            // Without a rate that is missed, nothing else tells that the servers stopped answering.
            let (unknown, failed) = (summary.counts.unknown, summary.counts.failed);
            verdict.object(format!("{unknown} requests were never answered, and {failed} failed"));
        }
        verdict
    }

    fn judge_lateness(&self, summary: &Summary, verdict: &mut Verdict) {
        let bound_us = (summary.response.p99_us * self.lateness_share_max).max(self.lateness_floor_us);
        if summary.lateness.p99_us > bound_us {
            verdict.object(format!(
                "the generator was late: its p99 lateness of {:.0} µs is above {bound_us:.0} µs",
                summary.lateness.p99_us
            ));
        }
    }

    fn judge_rate(&self, offered: f64, summary: &Summary, verdict: &mut Verdict) {
        // A Poisson plan has a random number of arrivals: three standard deviations of it are no shortfall.
        let expected = offered * summary.elapsed_s;
        let chance = 3.0 / expected.max(1.0).sqrt();
        let share = summary.achieved_per_s / offered;
        if share < self.achieved_share_min - chance {
            verdict.object(format!(
                "the offered rate was not reached: {:.0} of {offered:.0} requests/s ({:.1} %) were answered",
                summary.achieved_per_s,
                share * 100.0
            ));
        }
    }

    fn judge_trend(&self, thirds: &[Latency; 3], verdict: &mut Verdict) {
        if thirds.iter().any(|third| third.count < Self::TREND_COUNT_MIN) {
            return;
        }
        for (name, factor, values) in [
            ("p50", self.trend_factor_p50, thirds.map(|third| third.p50_us)),
            ("p99", self.trend_factor_p99, thirds.map(|third| third.p99_us)),
        ] {
            if let Some(direction) = trend(values, factor, self.trend_floor_us) {
                verdict.object(format!(
                    "latencies were still {direction}: {name} of {:.0}, {:.0} and {:.0} µs in the thirds of the run",
                    values[0], values[1], values[2]
                ));
                return;
            }
        }
    }
}

/// Rising or falling: the last differs from the first by more than the factor and the floor, with the middle in
/// between.
fn trend([first, middle, last]: [f64; 3], factor: f64, floor_us: f64) -> Option<&'static str> {
    let moved = |from: f64, to: f64| to > from * factor && to - from > floor_us && (from..=to).contains(&middle);
    if moved(first, last) {
        Some("rising")
    } else if moved(last, first) {
        Some("falling")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::Counts;
    use super::*;

    fn latency(p50_us: f64, p99_us: f64) -> Latency {
        Latency { count: 50_000, p50_us, p99_us, ..Latency::default() }
    }

    fn good() -> Summary {
        Summary {
            scenario: String::new(),
            verdict: Verdict::valid(),
            offered_per_s: Some(10_000.0),
            achieved_per_s: 9_990.0,
            elapsed_s: 15.0,
            planned_s: Some(15.0),
            counts: Counts { ok: 150_000, ..Counts::default() },
            response: latency(400.0, 2000.0),
            reads: Latency::default(),
            writes: latency(400.0, 2000.0),
            service: latency(390.0, 1900.0),
            lateness: latency(5.0, 50.0),
            thirds: Some([latency(400.0, 2000.0), latency(410.0, 1900.0), latency(390.0, 2200.0)]),
            processes: Vec::new(),
            faults: Vec::new(),
            audit: None,
        }
    }

    #[track_caller]
    fn assert_void(summary: &Summary, word: &str) {
        let verdict = VerdictRules::default().judge(summary);
        assert!(verdict.is_void(), "{word}");
        assert_eq!(verdict.reasons.len(), 1, "{verdict}");
        assert!(verdict.reasons[0].contains(word), "{verdict}");
    }

    #[test]
    fn a_steady_run_at_its_rate_is_valid() {
        assert_eq!(VerdictRules::default().judge(&good()), Verdict::valid());
    }

    #[test]
    fn a_late_generator_voids() {
        assert_void(&Summary { lateness: latency(5.0, 201.0), ..good() }, "late");
    }

    #[test]
    fn a_small_lateness_beside_a_tiny_response_is_no_fault() {
        let quick = Summary { response: latency(30.0, 60.0), lateness: latency(5.0, 90.0), ..good() };
        assert!(!VerdictRules::default().judge(&quick).is_void());
    }

    #[test]
    fn a_missed_rate_voids() {
        assert_void(&Summary { achieved_per_s: 9_000.0, ..good() }, "not reached");
    }

    #[test]
    fn a_rate_of_few_requests_may_miss_by_chance() {
        let few = Summary { offered_per_s: Some(10.0), achieved_per_s: 9.0, elapsed_s: 2.0, ..good() };
        assert!(!VerdictRules::default().judge(&few).is_void());
    }

    #[test]
    fn a_rising_or_falling_latency_voids() {
        let rising = [latency(400.0, 900.0), latency(500.0, 900.0), latency(900.0, 900.0)];
        assert_void(&Summary { thirds: Some(rising), ..good() }, "rising");
        let falling = [latency(400.0, 9000.0), latency(400.0, 4000.0), latency(400.0, 1000.0)];
        assert_void(&Summary { thirds: Some(falling), ..good() }, "falling");
    }

    #[test]
    fn one_slow_third_in_the_middle_is_no_trend() {
        let bump = [latency(400.0, 900.0), latency(9000.0, 9900.0), latency(450.0, 950.0)];
        assert!(!VerdictRules::default().judge(&Summary { thirds: Some(bump), ..good() }).is_void());
    }

    #[test]
    fn wrong_values_and_silence_void() {
        let corrupt = Counts { ok: 10, corrupt: 1, ..Counts::default() };
        assert_void(&Summary { counts: corrupt, ..good() }, "not the one of its key");
        assert_void(&Summary { response: Latency::default(), ..good() }, "no request");
    }

    #[test]
    fn a_saturated_run_has_no_rate_to_miss() {
        let full = Summary { offered_per_s: None, lateness: latency(0.0, 900.0), ..good() };
        assert_eq!(VerdictRules::default().judge(&full), Verdict::valid());
        let counts = Counts { ok: 3990, unknown: 2048, ..Counts::default() };
        assert_void(&Summary { counts, ..full }, "never answered");
    }

    #[test]
    fn the_word_is_upper_case_in_json() {
        assert_eq!(serde_json::to_string(&VerdictWord::Void).expect("an enum has a JSON form"), "\"VOID\"");
    }
}
