//! The command line: what can be asked for, with its units, defaults, reasons and dangers.

mod address;
mod options;
mod resp;
mod start;
mod units;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use lockstep_proto::limits::{SERVERS_MAX, SHARDS_MAX};

use crate::journal::{
    folder::{JOURNAL_SIZE_MAX, JOURNAL_SIZE_MIN},
    inspect::{InspectFormat, InspectOptions},
};
pub use address::Address;
pub use options::StartOptions;
pub use resp::{PASSWORD_SIZE_MAX, Password, RespArgs, RespOptions};
pub use start::{Ack, BATCH_BYTES_MIN, Durability, FanOut, LogFormat, PIPELINE_LIMIT, Pinning, StartArgs, TuningArgs};
pub use units::{count_of, parse_size, parse_time, show_size, show_time};

/// The server of Lockstep: a replicated, durable, linearizable key-value store.
///
/// Format a data folder on each host, then start the server there. To try it out, `lockstep-server dev` runs a whole
/// cluster on this host.
#[derive(Debug, Parser)]
#[command(name = "lockstep-server", version, max_term_width = 110, subcommand_required = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Prepare a data folder for one server of a cluster
    ///
    /// Writes the identity of the server and a journal for each shard, filled with zeroes, so that later writes never have to
    /// wait for the file system to allocate. Refuses a folder that is formatted already.
    Format(FormatArgs),
    /// Make a new data folder for a server that has lost its own
    ///
    /// For a server that takes part in its cluster already: after its disk has been replaced, or its folder deleted or damaged beyond
    /// use. The new folder says of itself that it has lost everything; started with it, the server asks the others which view to
    /// join, is sent their state, and only then counts again. (`format` would be wrong: the cluster could forget acknowledged writes
    /// with a server that does not know that it has forgotten.)
    ///
    /// A folder that is whole is refused. One that is damaged beyond use is renamed to `DIR.damaged-TIME`, not deleted. Wants
    /// a clock that is not set back behind the time at which the lost folder was made.
    Recover(FormatArgs),
    /// Run a server
    ///
    /// Runs until SIGTERM, SIGINT or SIGHUP (the terminal was closed): then it hands over to another server if it is primary, accepts
    /// no more, finishes what is in flight and exits with 0. A second SIGTERM or SIGINT ends it at once. With `nohup` SIGHUP is
    /// ignored. Exits with 1 when it fails and with 2 when the command line is wrong.
    Start(Box<StartArgs>),
    /// Run a whole cluster on this host, to try things out
    ///
    /// Each server is a process of its own, with a data folder of its own. Ends with Ctrl-C, and when its terminal is closed.
    Dev(Box<DevArgs>),
    /// Print what is in a data folder
    ///
    /// The folder is only read; its server may be running. Exits with 1 when something is damaged.
    Inspect(InspectArgs),
}

/// Options of `format` and of `recover`.
#[derive(Args, Clone, Debug)]
pub struct FormatArgs {
    /// The data folder; made if it does not exist
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,

    /// Name of the cluster, the same on all its servers
    ///
    /// Servers of different clusters refuse each other, so that a wrong address cannot mix their data.
    #[arg(long, value_name = "NAME")]
    pub cluster: String,

    /// This server's id, from 0 to one less than the number of servers
    ///
    /// Its place in `--peers`. Two servers with the same id would lose data.
    #[arg(long, value_name = "I", value_parser = clap::value_parser!(u8).range(0..SERVERS_MAX as i64))]
    pub id: u8,

    /// Number of servers in the cluster, 1 to 7
    ///
    /// Cannot be changed later. Of 3 servers one may fail, of 5 two, of 7 three.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=SERVERS_MAX as i64))]
    pub servers: u8,

    /// Number of shards, 1 to 256, the same on all servers
    ///
    /// Cannot be changed later. Each shard has a thread, a journal and a port of its own, so there is no use in more shards than a
    /// server has cores.
    #[arg(long, value_name = "S", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=SHARDS_MAX as i64))]
    pub shards: u16,

    /// Size of the journal of each shard
    ///
    /// The journal is a ring that is reused below the last checkpoint; it is written in full now. It must hold what comes in while a
    /// checkpoint is being written, or writes wait: at 100 MB/s the default holds five seconds. It also decides how long a
    /// backup may be away and still catch up from the journal. Larger makes a restart replay more. At least 16 MiB.
    #[arg(long, value_name = "SIZE", default_value = "512MiB", value_parser = parse_size)]
    pub journal_size: u64,
}

/// Options of `dev`.
#[derive(Args, Clone, Debug)]
pub struct DevArgs {
    /// Number of servers, 1 to 7
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=SERVERS_MAX as i64))]
    pub servers: u8,

    /// Number of shards, 1 to 256
    #[arg(long, value_name = "S", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=SHARDS_MAX as i64))]
    pub shards: u16,

    /// Where to keep the data [default: a temporary folder, removed at the end]
    ///
    /// A folder that was used before is used again, with its data; it must have been made for the same numbers of servers and
    /// shards.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Where to look for free ports
    ///
    /// Ports from here on are used, those in use are skipped. 0 lets the system choose.
    #[arg(long, value_name = "PORT", default_value_t = 7400)]
    pub port: u16,

    /// Size of the journal of each shard of each server
    #[arg(long, value_name = "SIZE", default_value = "128MiB", value_parser = parse_size)]
    pub journal_size: u64,

    /// Serve Redis clients, too
    #[arg(long)]
    pub resp: bool,

    /// Be a Redis Cluster to them, each shard a node
    #[arg(long, requires = "resp")]
    pub cluster_mode: bool,

    /// How the servers replicate, batch and bound themselves.
    #[command(flatten)]
    pub tuning: TuningArgs,
}

/// Options of `inspect`.
#[derive(Args, Clone, Debug)]
pub struct InspectArgs {
    /// The data folder
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,

    /// Only this shard [default: all]
    #[arg(long, value_name = "I")]
    pub shard: Option<u16>,

    /// Most entries of the journal to list per shard; the last ones are listed
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub entries: usize,

    /// How to write it
    #[arg(long, value_enum, default_value_t = InspectOutput::Text)]
    pub output: InspectOutput,
}

/// How `inspect` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InspectOutput {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

impl InspectArgs {
    /// The options as the journal takes them.
    pub fn options(&self) -> InspectOptions {
        let format = match self.output {
            InspectOutput::Text => InspectFormat::Text,
            InspectOutput::Json => InspectFormat::Json,
        };
        InspectOptions { format, entries_max: self.entries, shard: self.shard }
    }
}

impl FormatArgs {
    /// Checks what options say together.
    ///
    /// # Errors
    ///
    /// A text that names the option and says what to do.
    pub fn validate(&self) -> Result<(), String> {
        if self.id >= self.servers {
            return Err(format!(
                "--id {} with --servers {}: ids go from 0 to {}",
                self.id,
                self.servers,
                self.servers - 1
            ));
        }
        if self.cluster.is_empty() {
            return Err("--cluster is empty: give the cluster a name, the same on all its servers".to_owned());
        }
        check_journal_size(self.journal_size)
    }
}

impl DevArgs {
    /// Checks what options say together.
    ///
    /// # Errors
    ///
    /// A text that names the option and says what to do.
    pub fn validate(&self) -> Result<(), String> {
        self.tuning.check()?;
        check_journal_size(self.journal_size)
    }
}

fn check_journal_size(bytes: u64) -> Result<(), String> {
    if !(JOURNAL_SIZE_MIN..=JOURNAL_SIZE_MAX).contains(&bytes) {
        return Err(format!(
            "--journal-size is {}: choose from {} to {}",
            show_size(bytes),
            show_size(JOURNAL_SIZE_MIN),
            show_size(JOURNAL_SIZE_MAX)
        ));
    }
    if !bytes.is_multiple_of(lockstep_proto::limits::SECTOR_SIZE as u64) {
        return Err(format!("--journal-size is {bytes} bytes: choose a multiple of 4096"));
    }
    Ok(())
}
