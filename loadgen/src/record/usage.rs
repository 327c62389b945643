//! CPU time and memory of processes, from `/proc`.

use std::fs;

/// Whose CPU time is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessRef {
    /// The name in the result, such as `server 0`.
    pub name: String,
    /// The process.
    pub pid: u32,
    /// One thread of it alone, when given: the link proxy lives inside the generator and is told apart by this.
    pub tid: Option<u32>,
}

impl ProcessRef {
    /// A whole process.
    pub fn process(name: impl Into<String>, pid: u32) -> Self {
        Self { name: name.into(), pid, tid: None }
    }

    /// The calling process.
    pub fn own(name: impl Into<String>) -> Self {
        Self::process(name, std::process::id())
    }
}

/// What a process has used since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct UsageSample {
    /// In user space, in seconds.
    pub user_s: f64,
    /// In the kernel on its behalf, in seconds.
    pub system_s: f64,
    /// The most memory it has had resident, in bytes.
    pub rss_max_bytes: u64,
}

impl UsageSample {
    /// Reads it; `None` when the process has ended.
    pub fn read(process: &ProcessRef) -> Option<Self> {
        let folder = match process.tid {
            Some(tid) => format!("/proc/{}/task/{tid}", process.pid),
            None => format!("/proc/{}", process.pid),
        };
        let (user_ticks, system_ticks) = parse_stat(&fs::read_to_string(format!("{folder}/stat")).ok()?)?;
        let ticks_per_s = rustix::param::clock_ticks_per_second() as f64;
        let status = fs::read_to_string(format!("{folder}/status")).ok()?;
        Some(Self {
            user_s: user_ticks as f64 / ticks_per_s,
            system_s: system_ticks as f64 / ticks_per_s,
            rss_max_bytes: parse_high_water(&status).unwrap_or(0),
        })
    }
}

/// What a process used between two samples.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ProcessUsage {
    /// Which process.
    pub name: String,
    /// Its process id.
    pub pid: u32,
    /// User-space CPU time during the measured window, in seconds.
    pub user_s: f64,
    /// Kernel CPU time during the measured window, in seconds.
    pub system_s: f64,
    /// The most memory it has had resident so far, in bytes.
    pub rss_max_bytes: u64,
}

impl ProcessUsage {
    pub(crate) fn between(process: &ProcessRef, before: UsageSample, after: UsageSample) -> Self {
        Self {
            name: process.name.clone(),
            pid: process.pid,
            user_s: (after.user_s - before.user_s).max(0.0),
            system_s: (after.system_s - before.system_s).max(0.0),
            // A process that has ended but was not waited for has CPU times but no memory any more.
            rss_max_bytes: before.rss_max_bytes.max(after.rss_max_bytes),
        }
    }
}

/// User and system ticks of a `stat` line. The second field is the name in parentheses and may itself contain spaces
/// and parentheses, so fields are counted from the last one.
fn parse_stat(line: &str) -> Option<(u64, u64)> {
    let (_, fields) = line.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn parse_high_water(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let line = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 25 0 0 20 0 1";
        assert_eq!(parse_stat(line), Some((150, 25)));
        assert_eq!(parse_stat("42 (truncated) S 1 2"), None);
    }

    #[test]
    fn the_high_water_mark_is_in_kilobytes() {
        assert_eq!(parse_high_water("Name:\tx\nVmHWM:\t  2048 kB\nVmRSS: 1 kB\n"), Some(2048 * 1024));
        assert_eq!(parse_high_water("Name:\tx\n"), None);
    }

    #[test]
    fn own_cpu_time_grows_while_working() {
        let own = ProcessRef::own("generator");
        let before = UsageSample::read(&own).expect("this process runs");
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut work = 0u64;
        loop {
            work = (0..100_000u64).fold(work, |sum, i| std::hint::black_box(sum.wrapping_mul(31) ^ i));
            let used = ProcessUsage::between(&own, before, UsageSample::read(&own).expect("this process runs"));
            if used.user_s >= 0.02 {
                assert!(used.rss_max_bytes > 100_000);
                break;
            }
            assert!(Instant::now() < deadline, "no CPU time was counted ({work})");
        }
    }

    #[test]
    fn a_process_that_is_gone_has_no_sample() {
        let mut child = std::process::Command::new("true").spawn().expect("true can be started");
        let gone = ProcessRef::process("true", child.id());
        child.wait().expect("it ends");
        assert_eq!(UsageSample::read(&gone), None);
    }
}
