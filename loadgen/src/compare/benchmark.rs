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
    /// Requests per second of its duration: about what it makes.
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

/// Runs redis-benchmark for about `duration_s` seconds.
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
    let requests = ((benchmark.requests_per_s as f64 * duration_s) as u64).max(1_000).to_string();
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
    let [requests_per_s, p50_ms, p99_ms] = read_csv(&text).ok_or_else(|| explain("is not understood"))?;
    let command_line = format!("redis-benchmark {}", arguments.join(" "));
    let name = benchmark.name.to_owned();
    Ok(BenchmarkRun { benchmark: name, peer, repeat, command_line, requests_per_s, p50_ms, p99_ms })
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
    fn the_table_is_read_by_the_names_of_its_columns() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\
                    \"p99_latency_ms\",\"max_latency_ms\"\n\
                    \"SET\",\"123456.78\",\"0.200\",\"0.100\",\"0.250\",\"0.4\",\"0.500\",\"1.0\"\n";
        assert_eq!(read_csv(text), Some([123_456.78, 0.25, 0.5]));
        assert_eq!(read_csv("WARNING: something\n"), None);
        assert_eq!(read_csv("\"test\",\"rps\"\n\"SET\",\"x\"\n"), None);
    }
}
