//! `lockstep-server`: format or recover a data folder, run a server, run a whole cluster to try things out, look into a
//! folder.
//!
//! Exit codes: 0 when all went well, 1 when it failed, 2 when the command line is wrong.

use std::{
    io::{self, BufWriter, IsTerminal, Write},
    process::ExitCode,
    sync::Arc,
};

use clap::{CommandFactory, Parser, error::ErrorKind};
use lockstep_proto::checksum::cluster_id;
use lockstep_server::{
    cli::{Cli, Command, Durability, FormatArgs, InspectArgs, StartArgs, count_of, show_size},
    dev, file_limit, huge_pages,
    journal::{
        folder::{FolderError, Identity},
        format::{FormatProgress, format_folder},
        inspect::{InspectError, Verdict, inspect},
        open::open_folder,
        recover::recover_folder,
    },
    shard, supervise, telemetry, uring,
};
use tracing::{info, warn};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Format(args) => format(&args),
        Command::Recover(args) => recover(&args),
        Command::Start(args) => start(&args),
        Command::Dev(args) => {
            or_usage("dev", args.validate());
            uring::check_available().and_then(|()| dev::run(&args))
        }
        Command::Inspect(args) => look(&args),
    };
    result.unwrap_or_else(|error| {
        // The reason may be that nothing can be written there.
        let _ = writeln!(io::stderr(), "lockstep-server: {error:#}");
        ExitCode::FAILURE
    })
}

/// Ends the program in the manner of the argument parser if a check over several options of `command` has failed.
fn or_usage<T>(command: &str, checked: Result<T, String>) -> T {
    checked.unwrap_or_else(|text| {
        let mut cli = Cli::command();
        cli.build();
        let command = cli.find_subcommand_mut(command).expect("the command that was parsed exists");
        command.error(ErrorKind::ValueValidation, text).exit()
    })
}

fn identity_of(args: &FormatArgs) -> Identity {
    Identity { cluster: cluster_id(&args.cluster), replica: args.id, servers: args.servers, shards: args.shards }
}

/// Lets `work` show how far it has come, on a terminal, and leaves nothing of that behind.
fn with_progress<T>(work: impl FnOnce(&mut dyn FnMut(FormatProgress)) -> T) -> T {
    let is_shown = io::stderr().is_terminal();
    let mut show = |progress: FormatProgress| {
        if is_shown {
            let percent = progress.written * 100 / progress.total.max(1);
            eprint!(
                "\rwriting journals: {} of {} ({percent} %) ",
                show_size(progress.written),
                show_size(progress.total)
            );
        }
    };
    let result = work(&mut show);
    if is_shown {
        eprint!("\r\x1b[K");
    }
    result
}

fn say_made(args: &FormatArgs, how: &str) {
    println!(
        "{}: {how} for server {} of {} in cluster `{}`, {}, journal of {} each",
        args.data_dir.display(),
        args.id,
        args.servers,
        args.cluster,
        count_of(args.shards.into(), "shard"),
        show_size(args.journal_size)
    );
}

fn format(args: &FormatArgs) -> anyhow::Result<ExitCode> {
    or_usage("format", args.validate());
    with_progress(|show| format_folder(&args.data_dir, &identity_of(args), args.journal_size, show))?;
    say_made(args, "formatted");
    Ok(ExitCode::SUCCESS)
}

fn recover(args: &FormatArgs) -> anyhow::Result<ExitCode> {
    or_usage("recover", args.validate());
    let aside = with_progress(|show| recover_folder(&args.data_dir, &identity_of(args), args.journal_size, show))?;
    if let Some(aside) = aside {
        println!("{}: was damaged, and is now {}", args.data_dir.display(), aside.display());
    }
    say_made(args, "made anew");
    println!("start the server with it: it gets its data from the others before it counts again");
    Ok(ExitCode::SUCCESS)
}

fn start(args: &StartArgs) -> anyhow::Result<ExitCode> {
    let options = or_usage("start", args.validate());
    telemetry::init(options.log_format)?;
    if args.stop_with_parent {
        supervise::stop_with_parent()?;
    }
    uring::check_available()?;
    file_limit::raise();
    let name_cluster = |error: FolderError| match &args.cluster {
        Some(name) => error.with_cluster_name(name),
        None => error,
    };
    let folder = open_folder(&options.data_dir, &args.expected()).map_err(name_cluster)?;
    let identity = folder.identity;
    options.check_identity(&identity).map_err(anyhow::Error::msg)?;
    for files in &folder.shards {
        options.checkpoint_every_bytes(files.superblock.journal_size.get()).map_err(anyhow::Error::msg)?;
    }
    let clients = options.clients_max(identity.shards);
    file_limit::tell_of_shortage(identity.shards, clients, options.asks_for_many_clients());
    let listeners = supervise::Listeners::bind(&options, &identity)?;
    info!(
        "server {} of {} in cluster {:032x}, {}, ack {}, fan-out {}, durability {}",
        identity.replica,
        identity.servers,
        identity.cluster,
        count_of(identity.shards.into(), "shard"),
        options.ack.name(),
        options.fanout.name(),
        options.durability.name()
    );
    if options.durability == Durability::Memory {
        let _ = huge_pages::avoid();
        warn!(
            "--durability memory: this server forgets at a restart what it has acknowledged and gets it back from the others; if a \
             quorum restarts together, acknowledged writes are lost"
        );
    }
    supervise::serve(Arc::new(options), identity, folder.shards, listeners, shard::run)?;
    drop(folder.lock);
    Ok(ExitCode::SUCCESS)
}

fn look(args: &InspectArgs) -> anyhow::Result<ExitCode> {
    let mut out = BufWriter::new(io::stdout().lock());
    let result = inspect(&args.data_dir, &args.options(), &mut out);
    let flushed = out.flush();
    match (result, flushed) {
        // Whoever read along has seen enough, as `head` does.
        (Err(InspectError::Output(error)), _) | (Ok(_), Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            Ok(ExitCode::SUCCESS)
        }
        (Ok(verdict), Ok(())) => Ok(if verdict == Verdict::Sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        (Ok(_), Err(error)) => Err(error.into()),
        (Err(error), _) => Err(error.into()),
    }
}
