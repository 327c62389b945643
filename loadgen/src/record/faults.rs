//! What a fault meant for those who waited for answers.

use super::Silence;

/// One fault and what came of it.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct FaultOutcome {
    /// What was done to whom, in words.
    pub what: String,
    /// When, in seconds after the warm-up.
    pub at_s: f64,
    /// When it was undone, if it was.
    pub until_s: Option<f64>,
    /// The longest time without a good answer from then until the next fault: from the last one to the next, in
    /// milliseconds. Zero when it is below one millisecond.
    pub gap_ms: f64,
    /// When that time began, in seconds after the warm-up.
    pub gap_from_s: f64,
    /// Whether there was a good answer after it; if not, the gap is at least as long as given.
    pub has_ended: bool,
    /// Why it could not be inflicted.
    pub error: Option<String>,
}

/// The longest of `silences` that lies for the most part between `from_ns` and `to_ns`: the last good answer comes a
/// little before what silences. Times in nanoseconds since the start of the run.
pub fn gap_between(silences: &[Silence], from_ns: u64, to_ns: u64) -> Option<Silence> {
    let middle_ns = |silence: &Silence| silence.from_ns + (silence.to_ns - silence.from_ns) / 2;
    let touching = silences.iter().filter(|silence| (from_ns..to_ns).contains(&middle_ns(silence)));
    touching.copied().max_by_key(|silence| silence.to_ns - silence.from_ns)
}

impl FaultOutcome {
    /// How long nothing was answered, for people.
    pub fn gap_words(&self) -> String {
        match (self.gap_ms, self.has_ended) {
            (0.0, _) => "below 1 ms".to_owned(),
            (gap_ms, true) => format!("{gap_ms:.1} ms"),
            (gap_ms, false) => format!("more than {gap_ms:.1} ms: nothing was answered any more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_of_a_fault_is_the_longest_until_the_next_one() {
        let silence = |from_ns, to_ns| Silence { from_ns, to_ns, has_ended: true };
        let silences = [silence(10, 13), silence(95, 140), silence(150, 170), silence(300, 400)];
        // The last good answer may have come just before the fault.
        assert_eq!(gap_between(&silences, 100, 290), Some(silence(95, 140)));
        assert_eq!(gap_between(&silences, 141, 290), Some(silence(150, 170)));
        assert_eq!(gap_between(&silences, 200, 290), None);
        // What the next fault, at 302, silences is not this one's.
        assert_eq!(gap_between(&silences, 200, 302), None);
        assert_eq!(gap_between(&silences, 302, u64::MAX), Some(silence(300, 400)));
    }
}
