//! What Lockstep is to reach beside Redis, as ratios on the same machine in the same run.

use super::{Comparison, Kind};

/// One ratio of Lockstep to a peer.
#[derive(Debug, Clone, Copy)]
pub struct Goal {
    /// What is compared, in words.
    pub what: &'static str,
    /// Whom Lockstep is compared with.
    pub peer: Kind,
    /// Where the numbers come from.
    pub source: Source,
    /// The bound of the ratio.
    pub bound: f64,
    /// Whether the ratio has to be at most the bound; otherwise at least.
    pub is_at_most: bool,
}

/// Where the numbers of a goal come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Requests per second of a benchmark.
    BenchmarkRate(&'static str),
    /// Requests per second of a load.
    LoadRate(&'static str),
    /// Median latency of a load.
    LoadP50(&'static str),
}

/// The loads that saturate: their names, connections, and requests in flight on each.
pub(crate) const SATURATING: [(&str, u16, u16, bool); 5] = [
    ("saturated, 50 x 16", 50, 16, false),
    ("saturated, 128 x 1", 128, 1, false),
    ("saturated, 128 x 16", 128, 16, false),
    ("one at a time", 1, 1, false),
    ("saturated reads, 50 x 16", 50, 16, true),
];

/// All of them.
pub const GOALS: &[Goal] = &[
    Goal {
        what: "redis-benchmark -t set -c 50 -P 16 -d 100",
        peer: Kind::RedisFast,
        source: Source::BenchmarkRate("SET -c 50 -P 16"),
        bound: 0.8,
        is_at_most: false,
    },
    Goal {
        what: "redis-benchmark -t set -c 256 -P 1 -d 100",
        peer: Kind::RedisFast,
        source: Source::BenchmarkRate("SET -c 256 -P 1"),
        bound: 0.9,
        is_at_most: false,
    },
    Goal {
        what: "redis-benchmark -t get -c 50 -P 16 -d 100 (ours linearizable)",
        peer: Kind::RedisFast,
        source: Source::BenchmarkRate("GET -c 50 -P 16"),
        bound: 0.9,
        is_at_most: false,
    },
    Goal {
        what: "writes/s with 128 connections, one request each",
        peer: Kind::RedisDurable,
        source: Source::LoadRate("saturated, 128 x 1"),
        bound: 8.0,
        is_at_most: false,
    },
    Goal {
        what: "writes/s with 128 connections, 16 requests each",
        peer: Kind::RedisDurable,
        source: Source::LoadRate("saturated, 128 x 16"),
        bound: 8.0,
        is_at_most: false,
    },
    Goal {
        what: "p50 of a write with one connection, one request at a time",
        peer: Kind::RedisDurable,
        source: Source::LoadP50("one at a time"),
        bound: 0.6,
        is_at_most: true,
    },
];

/// A goal and what was measured for it.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// The goal.
    pub goal: &'static Goal,
    /// Lockstep's number.
    pub ours: Option<f64>,
    /// The peer's.
    pub theirs: Option<f64>,
}

impl Goal {
    pub(super) fn stand(&'static self, comparison: &Comparison) -> Standing {
        let of = |peer| match self.source {
            Source::BenchmarkRate(name) => comparison.of_benchmark(name, peer, |run| run.requests_per_s),
            Source::LoadRate(name) => comparison.of_load(name, peer, |summary| summary.achieved_per_s),
            Source::LoadP50(name) => comparison.of_load(name, peer, |summary| summary.response.p50_us),
        };
        Standing { goal: self, ours: of(Kind::Lockstep), theirs: of(self.peer) }
    }
}

impl Standing {
    /// Lockstep's number divided by the peer's.
    pub fn ratio(&self) -> Option<f64> {
        Some(self.ours? / self.theirs.filter(|theirs| *theirs > 0.0)?)
    }

    /// Whether the goal is reached.
    pub fn is_reached(&self) -> Option<bool> {
        let ratio = self.ratio()?;
        Some(if self.goal.is_at_most { ratio <= self.goal.bound } else { ratio >= self.goal.bound })
    }

    /// The goal's bound, in words.
    pub fn bound_words(&self) -> String {
        format!("{} {}", if self.goal.is_at_most { "at most" } else { "at least" }, self.goal.bound)
    }
}
