//! The set of histograms that every run keeps.

use hdrhistogram::Histogram;

/// Ten minutes: longer than any time-out that makes sense; slower answers are counted at this value.
const LATENCY_NS_MAX: u64 = 600_000_000_000;

/// An empty latency histogram: nanoseconds up to ten minutes, three significant digits.
pub fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are constants that fit")
}

/// Latencies of one interval or of a whole run, in nanoseconds.
#[derive(Debug, Clone)]
pub struct Histograms {
    /// From the intended time to the answer, of reads.
    pub reads: Histogram<u64>,
    /// From the intended time to the answer, of everything that writes.
    pub writes: Histogram<u64>,
    /// From the actual send to the answer.
    pub service: Histogram<u64>,
    /// From the intended time to the moment the generator took notice of it: its own fault, not the server's.
    pub lateness: Histogram<u64>,
}

impl Histograms {
    /// An empty set.
    pub fn new() -> Self {
        Self {
            reads: latency_histogram(),
            writes: latency_histogram(),
            service: latency_histogram(),
            lateness: latency_histogram(),
        }
    }

    /// Response times of reads and writes together.
    pub fn response(&self) -> Histogram<u64> {
        let mut all = self.reads.clone();
        all.add(&self.writes).expect("histograms of a set have the same bounds");
        all
    }

    /// Adds another set.
    pub fn add(&mut self, other: &Self) {
        for (to, from) in [
            (&mut self.reads, &other.reads),
            (&mut self.writes, &other.writes),
            (&mut self.service, &other.service),
            (&mut self.lateness, &other.lateness),
        ] {
            // An empty histogram is common (a mix without reads) and need not be walked.
            if !from.is_empty() {
                to.add(from).expect("histograms of a set have the same bounds");
            }
        }
    }

    /// Empties the set without giving its memory back.
    pub fn reset(&mut self) {
        for histogram in [&mut self.reads, &mut self.writes, &mut self.service, &mut self.lateness] {
            if !histogram.is_empty() {
                histogram.reset();
            }
        }
    }
}

impl Default for Histograms {
    fn default() -> Self {
        Self::new()
    }
}
