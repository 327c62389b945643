//! The command line.

mod cluster;
mod effect;
mod load;
mod numbers;
mod targets;

pub use cluster::{ClusterOptions, CommonClusterOptions};
pub(crate) use load::loading;
pub use load::{LoadOptions, PacingOptions, TargetOptions};
pub use numbers::{parse_count, parse_duration, parse_share, parse_size};

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::cluster::{Ack, Durability, Fanout};
use crate::failover::FailoverFault;
use crate::faults::{Fault, GRAMMAR};
use numbers::parse_server_counts;

/// Open-loop load and latency measurement for Lockstep.
///
/// Latency is counted from the time at which a request was meant to be sent, so a server that stalls is charged for every
/// request it held up. Each run ends with a verdict; a VOID one (generator late, offered rate not reached, latencies still
/// trending, wrong values) has exit code 3.
#[derive(Debug, Parser)]
#[command(name = "lockstep-loadgen", version, max_term_width = 120)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Above the options that say how the servers are started, in the help.
const CLUSTER_HEADING: &str = "Cluster started by this command";

impl Cli {
    /// Reads a command line, and refuses options that would have no effect.
    ///
    /// # Errors
    ///
    /// What is wrong with it, or the help that it asks for.
    pub fn parse_checked<T: Into<OsString> + Clone>(words: impl IntoIterator<Item = T>) -> Result<Self, clap::Error> {
        let mut command = effect::hide(Self::command());
        let matches = command.try_get_matches_from_mut(words)?;
        effect::check(&mut command, &matches)?;
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }

    /// The error of settings that do not fit each other, with the usage of their `command`.
    pub fn wrong_settings(command: &str, reason: &str) -> clap::Error {
        let mut cli = Self::command();
        cli.build();
        match cli.find_subcommand_mut(command) {
            Some(command) => command.error(ErrorKind::ValueValidation, reason),
            None => cli.error(ErrorKind::ValueValidation, reason),
        }
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send a workload at a rate, or as fast as answers come, and measure it.
    Run(RunCommand),
    /// Put every key once, as fast as answers come.
    Load(LoadCommand),
    /// Measure latency at one offered rate after the other.
    Sweep(SweepCommand),
    /// Measure clusters of several sizes, fan-outs and ack policies, in shuffled order with repeats.
    Matrix(MatrixCommand),
    /// Kill the primary again and again, or let it be replaced, and measure how long nothing is answered.
    ///
    /// A cluster is started and loaded; each time the primary is lost, the gap from the last good answer to the next is
    /// measured over all connections, the server is started again, and all is waited for to be in sync. In the end every
    /// acknowledged write is read back. Exit code 1: one was lost or doubled, or the gap is longer than --gap-max.
    Failover(FailoverCommand),
    /// Start Lockstep, Redis and Valkey, whatever is installed, and measure them with the same loads in turns.
    Compare(CompareCommand),
    /// Measure what this machine can do at best: round trip, synced write, and the floor that follows from them.
    Calibrate(CalibrateCommand),
    /// Make one offline HTML page of any set of results.
    Report(ReportCommand),
}

/// Options of every command that writes a result.
#[derive(Debug, Clone, Args)]
// Without a heading of its own it would be below the one of the options before it.
#[command(next_help_heading = "Result")]
pub struct ResultOptions {
    /// The folder in which the result's own folder `<utc>-<sha7>-<scenario>` is made.
    #[arg(long, value_name = "DIR", default_value = "results")]
    pub results: PathBuf,
    /// The scenario's part of the folder name [default: made from the settings].
    #[arg(long, value_name = "TEXT")]
    pub name: Option<String>,
}

/// `run`.
#[derive(Debug, Args)]
#[command(after_long_help = GRAMMAR)]
pub struct RunCommand {
    /// Which servers.
    #[command(flatten)]
    pub target: TargetOptions,
    /// How fast and how long.
    #[command(flatten)]
    pub pacing: PacingOptions,
    /// What to send.
    #[command(flatten)]
    pub load: LoadOptions,
    /// Do something to the servers meanwhile, such as 'at=10s kill-primary'; may be repeated. --help says all that can be done.
    #[arg(long = "fault", value_name = "FAULT")]
    pub faults: Vec<Fault>,
    /// Settings of a cluster started by this command.
    #[command(flatten)]
    pub cluster: ClusterOptions,
    /// Where results go.
    #[command(flatten)]
    pub result: ResultOptions,
}

/// `failover`.
#[derive(Debug, Args)]
pub struct FailoverCommand {
    /// What is done to the primary.
    #[arg(long, value_name = "FAULT", value_enum, default_value_t = FailoverFault::KillPrimary)]
    pub fault: FailoverFault,
    /// How many times, 1 to 10000.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub repeat: u32,
    /// Servers of the cluster that is started, 3 to 7.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=7))]
    pub servers: u8,
    /// Offered rate in requests per second, open loop.
    #[arg(long, value_name = "RATE", default_value = "5000", value_parser = numbers::parse_rate)]
    pub rate: f64,
    /// How long all is well between being in sync again and the next fault; up to 100 ms are added by chance.
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = parse_duration)]
    pub pause: Duration,
    /// How long requests are sent before measuring.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    pub warmup: Duration,
    /// Longest gap that is right, such as 250ms: the command fails when the 99th percentile is longer [default: any is right].
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub gap_max: Option<Duration>,
    /// What to send.
    #[command(flatten)]
    pub load: LoadOptions,
    /// Settings of the cluster.
    #[command(flatten)]
    pub cluster: ClusterOptions,
    /// Where results go.
    #[command(flatten)]
    pub result: ResultOptions,
}

/// `load`.
#[derive(Debug, Args)]
pub struct LoadCommand {
    /// Which servers.
    #[command(flatten)]
    pub target: TargetOptions,
    /// What to send.
    #[command(flatten)]
    pub load: LoadOptions,
    /// Settings of a cluster started by this command.
    #[command(flatten)]
    pub cluster: ClusterOptions,
    /// Where results go.
    #[command(flatten)]
    pub result: ResultOptions,
}

/// `sweep`.
#[derive(Debug, Args)]
pub struct SweepCommand {
    /// Which servers.
    #[command(flatten)]
    pub target: TargetOptions,
    /// Offered rates in requests per second, comma-separated (5k,20k,80k), or a range with a number of steps in equal
    /// ratios (5k..320k:7). Measured in ascending order; the sweep ends after two rates in a row that were not reached.
    #[arg(long, value_name = "RATES", value_parser = numbers::parse_rates)]
    pub rates: numbers::Rates,
    /// How long each rate is measured.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub duration: Duration,
    /// How long each rate is offered before it is measured.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    pub warmup: Duration,
    /// What to send.
    #[command(flatten)]
    pub load: LoadOptions,
    /// Settings of a cluster started by this command.
    #[command(flatten)]
    pub cluster: ClusterOptions,
    /// Where results go.
    #[command(flatten)]
    pub result: ResultOptions,
}

/// `matrix`.
#[derive(Debug, Args)]
pub struct MatrixCommand {
    /// Numbers of servers: a range (1..5) or a list (1,3,5), from 1 to 7.
    #[arg(long, value_name = "N,..", default_value = "1..5", value_parser = parse_server_counts)]
    pub servers: numbers::ServerCounts,
    /// Fan-outs to compare, comma-separated.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "parallel,sequential")]
    pub fanout: Vec<Fanout>,
    /// Ack policies to compare, comma-separated.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "majority,all")]
    pub ack: Vec<Ack>,
    /// Durabilities to compare, comma-separated.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "disk")]
    pub durability: Vec<Durability>,
    /// Measurements of each combination, 1 to 100; a point is their median.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = parse_repeat)]
    pub repeat: usize,
    /// Measure a control as well: as many processes alive, of which only K (1 if not said) make up the cluster under load.
    #[arg(long, value_name = "K", num_args = 0..=1, default_missing_value = "1")]
    pub control: Option<usize>,
    /// How fast and how long.
    #[command(flatten)]
    pub pacing: PacingOptions,
    /// What to send.
    #[command(flatten)]
    pub load: LoadOptions,
    /// Settings common to all clusters.
    #[command(flatten)]
    pub cluster: CommonClusterOptions,
    /// Where results go.
    #[command(flatten)]
    pub result: ResultOptions,
}

/// `compare`.
#[derive(Debug, Args)]
pub struct CompareCommand {
    /// Offered rates of writes per second, comma-separated or as a range: see sweep.
    #[arg(long, value_name = "RATES", default_value = "2k,5k,10k,20k,40k", value_parser = numbers::parse_rates)]
    pub rates: numbers::Rates,
    /// How often everything is measured, 1 to 100; tables and ratios are of medians.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = parse_repeat)]
    pub repeat: usize,
    /// How long each load is measured.
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_duration)]
    pub duration: Duration,
    /// How long each load is sent before it is measured.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    pub warmup: Duration,
    /// What to send.
    #[command(flatten)]
    pub load: LoadOptions,
    /// Settings of the Lockstep cluster.
    #[command(flatten)]
    pub cluster: CommonClusterOptions,
    /// Where results go.
    #[command(flatten)]
    pub result: ResultOptions,
}

fn parse_repeat(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=100).contains(count));
    count.ok_or_else(|| format!("'{text}' is no number of repeats: use 1 to 100"))
}

/// `calibrate`.
#[derive(Debug, Args)]
pub struct CalibrateCommand {
    /// How long each part is measured.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    pub duration: Duration,
    /// The folder whose disk is measured [default: where clusters would keep their data, /var/tmp].
    #[arg(long, value_name = "DIR")]
    pub data_root: Option<PathBuf>,
    /// What the generator sends to a server that only answers, to find its own ceiling.
    #[command(flatten)]
    pub load: LoadOptions,
    /// Where results go.
    #[command(flatten)]
    pub result: ResultOptions,
}

/// `report`.
#[derive(Debug, Args)]
pub struct ReportCommand {
    /// Result folders, or folders that hold some.
    #[arg(value_name = "FOLDER", required = true)]
    pub folders: Vec<PathBuf>,
    /// The page to write.
    #[arg(long, short, value_name = "FILE", default_value = "report.html")]
    pub output: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_documented_in_the_long_help() {
        let help =
            Cli::try_parse_from(["lockstep-loadgen", "run", "--help"]).expect_err("help is no command").to_string();
        assert!(help.contains("at=TIME [for=TIME] FAULT") && help.contains("kill-primary"), "{help}");
        let line = [
            "lockstep-loadgen",
            "run",
            "--servers",
            "3",
            "--rate",
            "1k",
            "--fault",
            "at=1s heal",
            "--fault",
            "at=2s stop",
        ];
        let Command::Run(run) = Cli::try_parse_from(line).expect("the line is right").command else { panic!("a run") };
        assert_eq!(run.faults.len(), 2);
    }

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_full_matrix_line_is_understood() {
        let line = "lockstep-loadgen matrix --servers 1..5 --fanout parallel,sequential --ack majority,all \
                    --durability disk --link-delay 1ms --repeat 3 --rate 5k --duration 5s --seed 7 --control";
        let Command::Matrix(matrix) = parse(line).expect("the line is right").command else { panic!("a matrix") };
        assert_eq!(matrix.servers.0, [1, 2, 3, 4, 5]);
        assert_eq!((matrix.repeat, matrix.control), (3, Some(1)));
        assert_eq!(matrix.cluster.link_delay, Some(Duration::from_millis(1)));
        assert_eq!(matrix.pacing.rate, Some(5000.0));
    }

    #[test]
    fn a_rate_or_saturation_is_needed_but_not_both() {
        assert!(parse("lockstep-loadgen run --servers 3").is_err());
        assert!(parse("lockstep-loadgen run --servers 3 --rate 10 --saturate").is_err());
        assert!(parse("lockstep-loadgen run --servers 3 --saturate").is_ok());
    }

    #[test]
    fn servers_are_started_or_named_but_not_both() {
        assert!(parse("lockstep-loadgen run --rate 10").is_err());
        assert!(parse("lockstep-loadgen run --rate 10 --servers 1 --targets 127.0.0.1:1").is_err());
        assert!(parse("lockstep-loadgen run --rate 10 --targets 127.0.0.1:1,127.0.0.1:9").is_ok());
    }

    #[test]
    fn settings_that_do_not_fit_showed_the_usage_of_the_whole_program() {
        let error = Cli::wrong_settings("run", "--duration is below 10ms");
        let text = error.to_string();
        assert!(text.contains("Usage: lockstep-loadgen run [OPTIONS]"), "{text}");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn wrong_values_are_refused_with_what_is_right() {
        for (line, hint) in [
            ("run --servers 3 --rate 0", "above 0"),
            ("run --servers 3 --rate 1k --values 5..2", "64..1024"),
            ("run --servers 3 --rate 1k --workload e", "a, b, c, d or f"),
            ("run --servers 3 --rate 1k --keys-distribution zipf", "zipfian"),
            ("run --servers 3 --rate 1k --duration 5", "5s"),
            ("run --servers 8 --rate 1k", "1 to 7"),
            ("run --targets foo --rate 1k", "such as 127.0.0.1:7400"),
            ("run --servers 3 --rate 1k --fault kill-primary", "'at=10s kill-primary'"),
            ("failover --servers 2", "3..=7"),
            ("failover --fault kill", "kill-primary"),
            ("matrix --servers 5..1 --rate 1k", "1..5"),
            ("sweep --servers 3 --rates 10..", "5k..320k:7"),
        ] {
            let error = parse(&format!("lockstep-loadgen {line}")).expect_err(line).to_string();
            assert!(error.contains(hint), "{line}: {error}");
        }
    }
}
