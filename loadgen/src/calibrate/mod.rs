//! What this machine can do at best, so that a measured latency can be held against something.
//!
//! The floor of a replicated durable write is what remains when the software costs nothing: one round trip from the
//! client to the primary, one from the primary to a backup, and one synced write (the primary's own write happens at
//! the same time as the backup's).

mod ping_pong;
mod synced_write;

pub use ping_pong::ping_pong;
pub use synced_write::{synced_writes, synced_writes_at_once};

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::drive::Ceiling;
use crate::record::{Latency, file_system_of};

/// `calibrate.json`.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Calibration {
    /// Round trips of 64 bytes each way over TCP loopback between two pinned threads.
    pub round_trip: Latency,
    /// Synced 4 KiB writes, O_DIRECT with RWF_DSYNC through io_uring.
    pub synced_write: Latency,
    /// The same while two others write and sync to the same disk: what is left to each of three servers on this
    /// machine.
    #[serde(default)]
    pub synced_write_of_three: Option<Latency>,
    /// The floor of a replicated durable write, and of the same in memory.
    pub floor: Floor,
    /// Where the writes went.
    pub data_root: String,
    /// The file system there.
    pub data_file_system: Option<String>,
    /// What the generator alone can do against a server that only answers, when it was measured.
    pub generator_ceiling: Option<Ceiling>,
}

/// Sums of the parts that no implementation can avoid.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Floor {
    /// Two round trips and one synced write, each at its median.
    pub durable_p50_us: f64,
    /// The same with the 99th percentile of each part: more than the 99th percentile of the sum, as the parts are
    /// seldom slow together.
    pub durable_p99_us: f64,
    /// Two round trips at their median: what `--durability memory` has to be held against.
    pub memory_p50_us: f64,
    /// As `durable_p50_us`, but with the write of a server that shares its disk with two others, as all servers on one
    /// machine do: they wait for each other's flushes.
    #[serde(default)]
    pub one_disk_durable_p50_us: Option<f64>,
}

impl Floor {
    fn of(round_trip: &Latency, synced_write: &Latency, synced_write_of_three: Option<&Latency>) -> Self {
        Self {
            durable_p50_us: 2.0 * round_trip.p50_us + synced_write.p50_us,
            durable_p99_us: 2.0 * round_trip.p99_us + synced_write.p99_us,
            memory_p50_us: 2.0 * round_trip.p50_us,
            one_disk_durable_p50_us: synced_write_of_three.map(|write| 2.0 * round_trip.p50_us + write.p50_us),
        }
    }
}

impl Calibration {
    /// Measures round trips and synced writes, each for `duration`.
    ///
    /// # Errors
    ///
    /// When either measurement cannot be made; the error says what to change.
    pub fn measure(data_root: &Path, duration: Duration) -> io::Result<Self> {
        let round_trip = Latency::of(&ping_pong(duration)?);
        let synced_write = Latency::of(&synced_writes(data_root, duration)?);
        let synced_write_of_three = Latency::of(&synced_writes_at_once(data_root, duration, 3)?);
        Ok(Self {
            round_trip,
            synced_write,
            synced_write_of_three: Some(synced_write_of_three),
            floor: Floor::of(&round_trip, &synced_write, Some(&synced_write_of_three)),
            data_root: data_root.display().to_string(),
            data_file_system: file_system_of(data_root),
            generator_ceiling: None,
        })
    }
}

impl fmt::Display for Calibration {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{:<52}{:>10}{:>10}{:>10}{:>10}", "microseconds", "p50", "p99", "p99.9", "max")?;
        let measured = [
            ("round trip, 64 bytes over TCP loopback", Some(&self.round_trip)),
            ("synced write, 4 KiB, O_DIRECT and RWF_DSYNC", Some(&self.synced_write)),
            ("the same by three at once, to files of one disk", self.synced_write_of_three.as_ref()),
        ];
        for (name, latency) in measured.into_iter().filter_map(|(name, latency)| Some((name, latency?))) {
            let Latency { p50_us, p99_us, p999_us, max_us, .. } = latency;
            writeln!(out, "{name:<52}{p50_us:>10.1}{p99_us:>10.1}{p999_us:>10.1}{max_us:>10.1}")?;
        }
        let Floor { durable_p50_us, durable_p99_us, memory_p50_us, one_disk_durable_p50_us } = self.floor;
        writeln!(
            out,
            "{:<52}{durable_p50_us:>10.1}{durable_p99_us:>10.1}",
            "floor of a replicated durable write (sums)"
        )?;
        if let Some(one_disk_durable_p50_us) = one_disk_durable_p50_us {
            writeln!(out, "{:<52}{one_disk_durable_p50_us:>10.1}", "the same, three servers sharing this disk (sum)")?;
        }
        writeln!(out, "{:<52}{memory_p50_us:>10.1}", "floor of a replicated write in memory (sum)")?;
        if let Some(Ceiling { requests_per_s, generator_ns, server_ns }) = self.generator_ceiling {
            writeln!(
                out,
                "generator against a server that only answers: {requests_per_s:.0} requests/s; CPU time of each: \
                 {generator_ns:.0} ns in the generator, {server_ns:.0} ns in the server"
            )?;
        }
        let kind = self.data_file_system.as_deref().unwrap_or("an unknown file system");
        write!(out, "writes went to {} ({kind})", self.data_root)?;
        if kind == "tmpfs" {
            write!(out, ": that is memory, not a disk; choose another with --data-root")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latency(p50_us: f64, p99_us: f64) -> Latency {
        Latency { count: 10, p50_us, p99_us, ..Latency::default() }
    }

    #[test]
    fn the_floor_is_two_round_trips_and_one_write() {
        let floor = Floor::of(&latency(20.0, 50.0), &latency(300.0, 900.0), Some(&latency(500.0, 1000.0)));
        assert_eq!((floor.durable_p50_us, floor.durable_p99_us, floor.memory_p50_us), (340.0, 1000.0, 40.0));
        assert_eq!(floor.one_disk_durable_p50_us, Some(540.0));
    }

    #[test]
    fn the_table_warns_of_a_disk_that_is_none() {
        let (round_trip, synced_write) = (latency(20.0, 50.0), latency(3.0, 9.0));
        let calibration = Calibration {
            round_trip,
            synced_write,
            synced_write_of_three: None,
            floor: Floor::of(&round_trip, &synced_write, None),
            data_root: "/dev/shm".to_owned(),
            data_file_system: Some("tmpfs".to_owned()),
            generator_ceiling: None,
        };
        let table = calibration.to_string();
        assert!(table.contains("--data-root"), "{table}");
        assert!(
            table.lines().any(|line| line.starts_with("floor of a replicated durable write") && line.contains("43.0"))
        );
    }
}
