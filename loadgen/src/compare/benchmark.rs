//! redis-benchmark, as people know it.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::Kind;

/// One command line of redis-benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Benchmark {
    /// How it is called in tables.
    pub name: &'static str,
    /// Its arguments, without address and number of requests.
    pub arguments: &'static str,
    /// A guess of the requests per second that it makes, which decides how long its first run takes.
    pub requests_per_s: u64,
}

/// What is run.
pub const BENCHMARKS: &[Benchmark] = &[
    Benchmark { name: "SET -c 50 -P 16", arguments: "-t set -c 50 -P 16 -d 100", requests_per_s: 200_000 },
    Benchmark { name: "SET -c 256 -P 1", arguments: "-t set -c 256 -P 1 -d 100", requests_per_s: 40_000 },
    Benchmark { name: "GET -c 50 -P 16", arguments: "-t get -c 50 -P 16 -d 100", requests_per_s: 300_000 },
    Benchmark { name: "SET -c 1 -P 1", arguments: "-t set -c 1 -P 1 -d 100", requests_per_s: 2_000 },
];

/// What one run of it said.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct BenchmarkRun {
    /// Which one.
    pub benchmark: String,
    /// Who was under load.
    pub peer: Kind,
    /// Which time, from 0.
    pub repeat: usize,
    /// The whole command line.
    pub command_line: String,
    /// Requests per second.
    pub requests_per_s: f64,
    /// Latency as redis-benchmark counts it, from the sending on.
    pub p50_ms: f64,
    /// The same, of the slowest hundredth.
    pub p99_ms: f64,
}

/// The first run makes one in so many of the requests that it would take by the guess.
const FIRST_RUN_SHARE: f64 = 10.0;

/// Fewer requests than this tell no rate, and nobody makes more than that in a second.
const REQUESTS_MIN: u64 = 1_000;
const RATE_MAX_PER_S: f64 = 1e7;

impl Benchmark {
    /// The number of requests of the first run.
    fn first_requests(&self, duration_s: f64) -> u64 {
        requests_of(self.requests_per_s as f64, duration_s / FIRST_RUN_SHARE)
    }
}

/// So many requests take about `duration_s` seconds at this rate.
fn requests_of(rate_per_s: f64, duration_s: f64) -> u64 {
    ((rate_per_s.min(RATE_MAX_PER_S) * duration_s) as u64).max(REQUESTS_MIN)
}

/// Runs redis-benchmark for about `duration_s` seconds. A short first run warms up, and tells how many requests that
/// takes.
///
/// # Errors
///
/// When it cannot be started, fails, or says something else than it used to.
pub fn run_benchmark(
    program: &Path,
    benchmark: &Benchmark,
    address: SocketAddr,
    duration_s: f64,
    (peer, repeat): (Kind, usize),
) -> io::Result<BenchmarkRun> {
    let (_, [first_rate_per_s, ..]) = run_once(program, benchmark, address, benchmark.first_requests(duration_s))?;
    let requests = requests_of(first_rate_per_s, duration_s);
    let (command_line, [requests_per_s, p50_ms, p99_ms]) = run_once(program, benchmark, address, requests)?;
    let name = benchmark.name.to_owned();
    Ok(BenchmarkRun { benchmark: name, peer, repeat, command_line, requests_per_s, p50_ms, p99_ms })
}

/// One run of so many requests: its command line, and what its table says.
fn run_once(
    program: &Path,
    benchmark: &Benchmark,
    address: SocketAddr,
    requests: u64,
) -> io::Result<(String, [f64; 3])> {
    let requests = requests.to_string();
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let mut arguments = vec!["-h", &host, "-p", &port, "-n", &requests, "--csv"];
    arguments.extend(benchmark.arguments.split(' '));
    let output = Command::new(program).args(&arguments).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let explain = |what: &str| {
        let errors = String::from_utf8_lossy(&output.stderr);
        io::Error::other(format!("redis-benchmark {}: {what}\n{text}\n{errors}", arguments.join(" ")))
    };
    if !output.status.success() {
        return Err(explain("failed"));
    }
    let told = read_csv(&text).ok_or_else(|| explain("is not understood"))?;
    Ok((format!("redis-benchmark {}", arguments.join(" ")), told))
}

/// Requests per second, p50 and p99 out of the table of one test.
fn read_csv(text: &str) -> Option<[f64; 3]> {
    let mut lines = text.lines().skip_while(|line| !line.starts_with("\"test\""));
    let cells = |line: &str| line.split(',').map(|cell| cell.trim_matches('"').to_owned()).collect::<Vec<_>>();
    let (names, values) = (cells(lines.next()?), cells(lines.next()?));
    let value = |name: &str| values.get(names.iter().position(|found| found == name)?)?.parse().ok();
    Some([value("rps")?, value("p50_latency_ms")?, value("p99_latency_ms")?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_lasted_as_long_as_a_guessed_rate_said_a_third_of_a_second_in_place_of_one() {
        let get = &Benchmark { name: "GET", arguments: "-t get", requests_per_s: 300_000 };
        assert_eq!(get.first_requests(2.0), 60_000, "a tenth of the guess");
        assert_eq!(requests_of(800_000.0, 2.0), 1_600_000, "two seconds at the rate that the first run told");
        assert_eq!(requests_of(1_900.0, 3.0), 5_700, "slower than guessed");
        assert_eq!(requests_of(20.0, 1.0), REQUESTS_MIN);
        assert_eq!(requests_of(f64::INFINITY, 1.0), 10_000_000, "a first run of no time at all");
        assert_eq!(requests_of(f64::NAN, 1.0), 10_000_000);
    }

    #[test]
    fn the_table_is_read_by_the_names_of_its_columns() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\
                    \"p99_latency_ms\",\"max_latency_ms\"\n\
                    \"SET\",\"123456.78\",\"0.200\",\"0.100\",\"0.250\",\"0.4\",\"0.500\",\"1.0\"\n";
        assert_eq!(read_csv(text), Some([123_456.78, 0.25, 0.5]));
        assert_eq!(read_csv("WARNING: something\n"), None);
        assert_eq!(read_csv("\"test\",\"rps\"\n\"SET\",\"x\"\n"), None);
    }
}
