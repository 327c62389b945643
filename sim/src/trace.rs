//! What happened: a number that stands for all of it, and lines for a person if they are wanted.

use lockstep_proto::checksum::checksum_64;

/// The transcript of a run.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    steps: u64,
    is_kept: bool,
    lines: Vec<String>,
}

impl Trace {
    /// A transcript; its lines are kept only if asked for, because they cost far more than the run.
    pub fn new(is_kept: bool) -> Trace {
        Trace { is_kept, ..Trace::default() }
    }

    /// Notes a step: numbers that would differ if anything before had gone differently.
    pub fn step(&mut self, now_ns: u64, numbers: [u64; 2]) {
        self.steps += 1;
        let mut bytes = [0; 32];
        for (place, number) in bytes.chunks_exact_mut(8).zip([self.hash, now_ns, numbers[0], numbers[1]]) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        self.hash = checksum_64(&bytes);
    }

    /// Whether lines are kept.
    pub fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Adds a line, if lines are kept.
    pub fn line(&mut self, now_ns: u64, text: impl FnOnce() -> String) {
        if self.is_kept {
            let (ms, us) = (now_ns / 1_000_000, now_ns / 1000 % 1000);
            self.lines.push(format!("{ms:>6}.{us:03} {}", text()));
        }
    }

    /// Stands for every step so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Number of steps.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The lines.
    pub fn take_lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }
}
