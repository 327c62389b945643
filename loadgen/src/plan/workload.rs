//! Mixes of operations, by name.

use std::fmt;
use std::str::FromStr;

use super::KeyDistribution;

/// Shares of each kind of operation; they add up to one.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Mix {
    /// Gets of existing keys.
    pub read: f64,
    /// Puts over existing keys.
    pub update: f64,
    /// Puts of new keys.
    pub insert: f64,
    /// A get, then a put of the same key once the get has answered; one operation.
    pub read_modify_write: f64,
}

/// A workload by name: the mixes of the Yahoo Cloud Serving Benchmark, or a share of reads.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// YCSB A: half reads, half updates.
    A,
    /// YCSB B: 95 % reads, 5 % updates.
    B,
    /// YCSB C: reads only.
    C,
    /// YCSB D: 95 % reads of recent keys, 5 % inserts.
    D,
    /// YCSB F: half reads, half read-modify-writes.
    F,
    /// Gets in this share, puts for the rest.
    ReadShare(f64),
}

impl Workload {
    /// Puts only.
    pub const WRITES: Self = Self::ReadShare(0.0);

    /// The shares of each kind of operation.
    pub fn mix(&self) -> Mix {
        let none = Mix { read: 0.0, update: 0.0, insert: 0.0, read_modify_write: 0.0 };
        match *self {
            Self::A => Mix { read: 0.5, update: 0.5, ..none },
            Self::B => Mix { read: 0.95, update: 0.05, ..none },
            Self::C => Mix { read: 1.0, ..none },
            Self::D => Mix { read: 0.95, insert: 0.05, ..none },
            Self::F => Mix { read: 0.5, read_modify_write: 0.5, ..none },
            Self::ReadShare(share) => Mix { read: share, update: 1.0 - share, ..none },
        }
    }

    /// The key distribution that the workload has unless another is asked for.
    pub fn keys_default(&self) -> KeyDistribution {
        match self {
            Self::A | Self::B | Self::C | Self::F => KeyDistribution::Zipfian { theta: 0.99 },
            Self::D => KeyDistribution::Latest { theta: 0.99 },
            Self::ReadShare(_) => KeyDistribution::Uniform,
        }
    }

    /// Whether it reads at all, so that keys must have been loaded before.
    pub fn reads(&self) -> bool {
        let mix = self.mix();
        mix.read + mix.read_modify_write > 0.0
    }

    /// Whether it writes at all.
    pub fn writes(&self) -> bool {
        let mix = self.mix();
        mix.update + mix.insert + mix.read_modify_write > 0.0
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "a" | "A" => Ok(Self::A),
            "b" | "B" => Ok(Self::B),
            "c" | "C" => Ok(Self::C),
            "d" | "D" => Ok(Self::D),
            "f" | "F" => Ok(Self::F),
            "write" => Ok(Self::WRITES),
            "read" => Ok(Self::ReadShare(1.0)),
            _ => Err(format!("'{text}' is no workload: use a, b, c, d or f (YCSB), write or read")),
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::A => out.write_str("YCSB A"),
            Self::B => out.write_str("YCSB B"),
            Self::C => out.write_str("YCSB C"),
            Self::D => out.write_str("YCSB D"),
            Self::F => out.write_str("YCSB F"),
            Self::ReadShare(share) if *share == 0.0 => out.write_str("writes only"),
            Self::ReadShare(share) if *share == 1.0 => out.write_str("reads only"),
            Self::ReadShare(share) => write!(out, "{:.0} % reads", share * 100.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_one() {
        use Workload::*;
        for workload in [A, B, C, D, F, ReadShare(0.3), Workload::WRITES] {
            let mix = workload.mix();
            let sum = mix.read + mix.update + mix.insert + mix.read_modify_write;
            assert!((sum - 1.0).abs() < 1e-12, "{workload}: {sum}");
        }
    }

    #[test]
    fn names_are_read_in_either_case_and_others_refused() {
        assert_eq!("F".parse(), Ok(Workload::F));
        assert_eq!("write".parse(), Ok(Workload::WRITES));
        assert!("e".parse::<Workload>().is_err(), "scans are not part of the mixes");
        assert!(Workload::C.reads() && !Workload::WRITES.reads());
        assert!(!Workload::C.writes() && Workload::D.writes() && Workload::F.writes());
    }
}
