//! What can be written on the command line, and at the prompt.

use std::{ffi::OsString, os::unix::ffi::OsStrExt, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};
use lockstep_client::ScanCursor;

/// Reads and writes keys of a Lockstep cluster.
///
/// Without a command: an interactive prompt, or, when standard input is not a terminal, one command per line from there.
#[derive(Debug, Parser)]
#[command(
    name = "lockstep",
    version,
    max_term_width = 100,
    after_help = "Exit codes:\n  \
        0  done\n  \
        1  the key does not exist, or the condition does not hold; move-primary: the primary stays\n  \
        2  the command line does not make sense\n  \
        3  no server answers (in time), or the answer cannot be used\n\n\
        A command file (or pipe) is run to its end; the exit code is that of the first command that failed.\n\
        Values are printed as they are. A newline follows only on a terminal and when several commands are run.\n\
        Lists (scan, mget) have one key per line, `key TAB value`, with control bytes written as \\n, \\t, \\xNN.\n\
        NO_COLOR is honoured."
)]
pub struct Arguments {
    /// Base addresses of servers of the cluster; any one that answers will do [env: LOCKSTEP_CLUSTER] [default:
    /// 127.0.0.1:7400]
    // The variable is read by `addresses`: clap would show an option that has its value from there in the usage of every error,
    // as if it had to be given.
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',', global = true, help_heading = COMMON)]
    pub cluster: Vec<String>,

    /// How long a request may take, repeats included: 500ms, 5s, 1m
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_timeout, global = true,
        help_heading = COMMON)]
    pub timeout: Duration,

    /// How answers are printed
    #[arg(long, value_enum, default_value_t = Format::Text, global = true, help_heading = COMMON)]
    pub output: Format,

    /// What to do
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Under which heading the options stand that every command has.
const COMMON: &str = "Options of every command";

/// Where the cluster is, unless the command line says it.
const CLUSTER_VARIABLE: &str = "LOCKSTEP_CLUSTER";
const CLUSTER_DEFAULT: &str = "127.0.0.1:7400";

impl Arguments {
    /// The addresses of the command line, else of the environment, else the default.
    pub fn addresses(&self) -> Vec<String> {
        let trimmed = |addresses: &mut dyn Iterator<Item = &str>| -> Vec<String> {
            addresses.map(str::trim).filter(|address| !address.is_empty()).map(str::to_owned).collect()
        };
        if !self.cluster.is_empty() {
            return trimmed(&mut self.cluster.iter().map(String::as_str));
        }
        match std::env::var_os(CLUSTER_VARIABLE).filter(|value| !value.is_empty()) {
            Some(value) => trimmed(&mut value.to_string_lossy().split(',')),
            None => vec![CLUSTER_DEFAULT.to_owned()],
        }
    }
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people and for pipes
    Text,
    /// One JSON object per answer, and for what fails one with `error` and `message`; bytes that are not UTF-8 are given in
    /// hexadecimal as `value_hex`, `key_hex`
    Json,
}

/// A line at the prompt or in a command file.
#[derive(Debug, Parser)]
#[command(
    multicall = true,
    max_term_width = 100,
    override_usage = "COMMAND [ARGUMENTS]",
    subcommand_value_name = "COMMAND",
    subcommand_help_heading = "Commands"
)]
pub struct Line {
    /// What to do.
    #[command(subcommand)]
    pub command: LineCommand,
}

/// What can be written at the prompt.
#[derive(Debug, Subcommand)]
pub enum LineCommand {
    /// Ask the cluster.
    #[command(flatten)]
    Ask(Command),
    /// Leave (also: exit, Ctrl-D)
    #[command(visible_alias = "exit")]
    Quit,
}

/// What a cluster can be asked.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a key
    Put {
        /// The key
        key: OsString,
        /// The value; `-` reads it from standard input
        #[arg(allow_negative_numbers = true)]
        value: OsString,
        /// Let the key expire after this time: 500ms, 90s, 2h
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        ttl: Option<Duration>,
    },
    /// Print a key's value
    Get {
        /// The key
        key: OsString,
        /// Say the key's version too, on standard error
        #[arg(long)]
        show_version: bool,
    },
    /// Remove a key
    Del {
        /// The key
        key: OsString,
    },
    /// Write a key if it still has the version that was read
    Cas {
        /// The key
        key: OsString,
        /// The version that the key must have; 0: it must not exist
        version: u64,
        /// The value; `-` reads it from standard input
        #[arg(allow_negative_numbers = true)]
        value: OsString,
        /// Let the key expire after this time
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        ttl: Option<Duration>,
    },
    /// Add to a key that holds a decimal number, and print the sum
    Incr {
        /// The key
        key: OsString,
        /// What to add; may be negative
        #[arg(default_value_t = 1, allow_negative_numbers = true)]
        delta: i64,
    },
    /// Print all keys and their values
    Scan {
        /// Only keys that begin with this
        #[arg(long, value_name = "BYTES")]
        prefix: Option<OsString>,
        /// Print at most this many keys, and then say where to go on
        #[arg(long, value_name = "KEYS", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
        /// Go on where an earlier scan stopped: the cursor that it printed
        #[arg(long, value_name = "CURSOR")]
        cursor: Option<ScanCursor>,
        /// Print keys only
        #[arg(long)]
        keys: bool,
    },
    /// Print the values of several keys
    Mget {
        /// The keys
        #[arg(required = true)]
        keys: Vec<OsString>,
    },
    /// Write several keys, all or none of them
    ///
    /// They must belong to one shard; keys with a common hash tag do: {user:7}:name and {user:7}:mail.
    Mput {
        /// Keys, each followed by its value
        #[arg(required = true, value_names = ["KEY", "VALUE"], num_args = 2.., allow_negative_numbers = true)]
        entries: Vec<OsString>,
        /// Let the keys expire after this time
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        ttl: Option<Duration>,
    },
    /// Say whether a key exists
    Exists {
        /// The key
        key: OsString,
    },
    /// Give a key a time to live, or take it away
    Expire {
        /// The key
        key: OsString,
        /// 500ms, 90s, 2h; or `never`
        #[arg(value_name = "DURATION|never", value_parser = parse_expiry)]
        ttl: Expiry,
    },
    /// Print how long a key has to live, in milliseconds; `never` if it does not expire
    Ttl {
        /// The key
        key: OsString,
    },
    /// Print what every server says about every shard
    Status,
    /// Let another server become the primary, for maintenance or to spread the load
    ///
    /// Every shard is handed over, one after the other, or the one that is named. Requests in flight are answered as always. A
    /// server that is the primary already stays it. Exit code 1: a primary keeps its place, and says why.
    MovePrimary {
        /// The id of the server that is to become primary; without it each primary chooses the best of the others
        #[arg(long, value_name = "SERVER")]
        to: Option<u8>,
        /// Only this shard
        #[arg(long)]
        shard: Option<u16>,
    },
    /// Measure the time to the primaries and back
    Ping {
        /// How many times
        #[arg(long, short = 'n', default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        count: u32,
        /// Only this shard's primary
        #[arg(long)]
        shard: Option<u16>,
    },
}

/// When a key expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// After this time.
    After(Duration),
    /// Not at all.
    Never,
}

/// The bytes of an argument.
pub fn bytes(argument: &OsString) -> &[u8] {
    argument.as_bytes()
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write a duration such as 500ms, 90s or 2h"))
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("a timeout must be longer than nothing".to_owned()),
        timeout => Ok(timeout),
    }
}

fn parse_expiry(text: &str) -> Result<Expiry, String> {
    if text == "never" { Ok(Expiry::Never) } else { parse_duration(text).map(Expiry::After) }
}
