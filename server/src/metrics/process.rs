//! What the kernel knows of this process.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Memory and CPU time of this process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProcessUsage {
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
    /// CPU time in user mode.
    pub user: Duration,
    /// CPU time in the kernel.
    pub system: Duration,
    /// Threads.
    pub threads: u64,
    /// When the process began, in seconds since 1970.
    pub start_seconds: f64,
}

impl ProcessUsage {
    /// Reads `/proc/self/stat` and `/proc/uptime`; `None` where they cannot be read.
    pub fn read() -> Option<ProcessUsage> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
        let uptime_seconds: f64 = uptime.split_ascii_whitespace().next()?.parse().ok()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
        let ticks_per_second = rustix::param::clock_ticks_per_second();
        Self::parse(&stat, ticks_per_second, rustix::param::page_size() as u64, now - uptime_seconds)
    }

    fn parse(stat: &str, ticks_per_second: u64, page_bytes: u64, boot_seconds: f64) -> Option<ProcessUsage> {
        // The second field is the program's name in brackets and may contain anything, brackets and spaces too.
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        // Numbered as in proc(5), where the state after the name is field 3.
        let field = |number: usize| -> Option<u64> { fields.get(number - 3)?.parse().ok() };
        let time = |ticks: u64| Duration::from_secs_f64(ticks as f64 / ticks_per_second as f64);
        Some(ProcessUsage {
            user: time(field(14)?),
            system: time(field(15)?),
            threads: field(20)?,
            start_seconds: boot_seconds + field(22)? as f64 / ticks_per_second as f64,
            resident_bytes: field(24)? * page_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_confuse_the_fields() {
        let stat = "42 (a ) b (c) R 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 7 0 1000 99999 300 rest 1 2";
        let usage = ProcessUsage::parse(stat, 100, 4096, 5000.0).expect("well-formed");
        let expected = ProcessUsage {
            resident_bytes: 300 * 4096,
            user: Duration::from_millis(2500),
            system: Duration::from_millis(500),
            threads: 7,
            start_seconds: 5010.0,
        };
        assert_eq!(usage, expected);
    }

    #[test]
    fn this_process_has_memory_and_began_before_now() {
        let usage = ProcessUsage::read().expect("/proc is mounted");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
        assert!(usage.resident_bytes > 100_000, "{usage:?}");
        assert!(usage.threads >= 1, "{usage:?}");
        assert!(usage.start_seconds <= now + 1.0 && usage.start_seconds > now - 100_000.0, "{usage:?}");
    }

    #[test]
    fn a_short_line_is_not_read() {
        assert_eq!(ProcessUsage::parse("1 (x) R 1 2", 100, 4096, 0.0), None);
        assert_eq!(ProcessUsage::parse("", 100, 4096, 0.0), None);
    }
}
