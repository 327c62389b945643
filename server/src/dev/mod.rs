//! A whole cluster on this host, to try things out: one process per server, in one folder, ended together.

mod member;
mod ports;

use std::{
    fmt, fs,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus},
    sync::mpsc::{Receiver, Sender, channel},
    time::{Duration, Instant},
};

use anyhow::Context;

use self::{
    member::{Member, check_health, describe_end},
    ports::ServerPorts,
};
use crate::{
    cli::{DevArgs, count_of, show_size},
    journal::folder::LOCK_NAME,
    stop_signals::StopSignals,
};

/// Name of every cluster that is made here.
const CLUSTER: &str = "dev";

/// Time between two questions whether the cluster is ready.
const READY_INTERVAL: Duration = Duration::from_millis(50);

/// Something that has happened while the cluster runs.
#[derive(Debug)]
enum Event {
    /// A server has logged a line.
    Line(u8, String),
    /// A server's process has ended.
    Ended(u8, ExitStatus),
    /// Every server that was started serves.
    Ready(Duration),
    /// We are asked to stop.
    Stop,
}

/// Runs a cluster until Ctrl-C, SIGTERM or SIGHUP, or until all its servers have ended.
///
/// # Errors
///
/// If folders or processes cannot be made. A server that fails later is reported and the others go on.
pub fn run(args: &DevArgs) -> anyhow::Result<ExitCode> {
    let (sender, events) = channel();
    // Before there is a folder that has to be removed.
    watch_signals(sender.clone())?;
    let folder = Folder::open(args.data_dir.as_deref())?;
    let ports =
        ports::find(args.port, args.servers, args.shards, args.resp).context("cannot find free ports on 127.0.0.1")?;
    let mut members: Vec<Member> = (0..).zip(ports).map(|(id, ports)| Member::new(id, ports, &folder.path)).collect();
    if !folder.has_data() {
        let total = args.journal_size * u64::from(args.servers) * u64::from(args.shards);
        let servers = count_of(args.servers.into(), "server");
        write_line(format_args!("formatting {servers}, {} of journals", show_size(total)));
    }
    for member in &members {
        member.prepare(args)?;
    }
    let peers = members.iter().map(Member::address).collect::<Vec<_>>().join(",");
    introduce(args, &folder, &members, &peers)?;
    let resp_peers = members.iter().filter_map(Member::resp_address).collect::<Vec<_>>().join(",");
    for member in &mut members {
        member.start(args, &peers, &resp_peers, &sender)?;
    }
    watch_health(members.iter().map(|member| member.ports).collect(), sender);
    let is_sound = supervise(&mut members, &events);
    folder.close()?;
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where the servers' folders are.
struct Folder {
    path: PathBuf,
    is_temporary: bool,
}

impl Folder {
    fn open(given: Option<&Path>) -> anyhow::Result<Folder> {
        if let Some(path) = given {
            fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
            let folder = Folder { path: path.to_owned(), is_temporary: false };
            folder.check_is_own()?;
            return Ok(folder);
        }
        let parent = std::env::temp_dir();
        for attempt in 0..1000 {
            let path = parent.join(format!("lockstep-dev-{}-{attempt}", std::process::id()));
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot make {}; give --data-dir", path.display()));
                }
                Ok(()) => return Ok(Folder { path, is_temporary: true }),
            }
        }
        anyhow::bail!("{} is full of folders of earlier runs; give --data-dir", parent.display())
    }

    /// Refuses a folder with anything in it that is not of an earlier `dev`: the data folder of a server, for instance.
    fn check_is_own(&self) -> anyhow::Result<()> {
        let dir = self.path.display();
        anyhow::ensure!(
            !self.path.join(LOCK_NAME).exists(),
            "{dir} is the data folder of a server: give a new folder, or one that `dev` has made"
        );
        if self.has_data() {
            return Ok(());
        }
        for entry in fs::read_dir(&self.path).with_context(|| format!("cannot list {dir}"))? {
            let name = entry?.file_name();
            // The root of a fresh file system is as good as an empty folder.
            anyhow::ensure!(
                name == "lost+found",
                "{dir} is not empty, it holds {}: give a new folder, or one that `dev` has made",
                name.display()
            );
        }
        Ok(())
    }

    fn has_data(&self) -> bool {
        self.path.join("server-0").exists()
    }

    fn close(mut self) -> anyhow::Result<()> {
        if std::mem::take(&mut self.is_temporary) {
            member::remove(&self.path)?;
        }
        Ok(())
    }
}

impl Drop for Folder {
    /// On the way out after a failure.
    fn drop(&mut self) {
        if self.is_temporary
            && let Err(error) = member::remove(&self.path)
        {
            write_line(format_args!("{error:#}"));
        }
    }
}

fn introduce(args: &DevArgs, folder: &Folder, members: &[Member], peers: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let (bold, plain) = if out.is_terminal() { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    let kept = if folder.is_temporary { "removed at the end" } else { "kept" };
    let (servers, shards) = (count_of(args.servers.into(), "server"), count_of(args.shards.into(), "shard"));
    writeln!(out, "cluster `{CLUSTER}`: {servers} with {shards}, data in {} ({kept})\n", folder.path.display())?;
    for member in members {
        let admin = format!("http://127.0.0.1:{}", member.ports.admin);
        let resp = member.resp_address().map_or(String::new(), |address| format!("  redis {address}"));
        writeln!(out, "  server {}  {}  admin {admin}/status{resp}", member.id, member.address())?;
    }
    if let Some(port) = members.first().and_then(|member| member.ports.resp) {
        let mode = if args.cluster_mode { " -c" } else { "" };
        writeln!(out, "\n  {bold}redis-cli{mode} -p {port}{plain}")?;
    }
    writeln!(out, "\n  {bold}lockstep --cluster {peers}{plain}\n\nCtrl-C stops it.\n")?;
    out.flush()
}

/// Turns signals into events.
fn watch_signals(events: Sender<Event>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut stop = {
        let _context = runtime.enter();
        StopSignals::new()?
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            stop.first().await;
            while events.send(Event::Stop).is_ok() {
                stop.further().await;
            }
        });
    });
    Ok(())
}

/// Asks the servers until all of them serve, and tells so.
fn watch_health(servers: Vec<ServerPorts>, events: Sender<Event>) {
    std::thread::spawn(move || {
        let begin = Instant::now();
        while !servers.iter().all(|&ports| check_health(ports).is_ok()) {
            std::thread::sleep(READY_INTERVAL);
        }
        let _ = events.send(Event::Ready(begin.elapsed()));
    });
}

/// Tells what happens until the last server has ended. Whether that was asked for, and those that ran then ended well.
fn supervise(members: &mut [Member], events: &Receiver<Event>) -> bool {
    let screen = Screen::new();
    let mut is_stopping = false;
    let mut is_sound = true;
    while members.iter().any(Member::is_running) {
        let Ok(event) = events.recv() else { break };
        match event {
            Event::Line(id, line) => screen.show(id, &line),
            Event::Ready(elapsed) => screen.say(&format!("ready after {:.1} s", elapsed.as_secs_f64())),
            Event::Ended(id, status) => {
                members[id as usize].set_ended();
                if is_stopping && !status.success() {
                    is_sound = false;
                    screen.say(&format!("server {id} {}", describe_end(status)));
                } else if !is_stopping {
                    let running = members.iter().filter(|member| member.is_running()).count();
                    screen.say(&format!("server {id} {}; {running} go on", describe_end(status)));
                }
            }
            Event::Stop => {
                if !is_stopping {
                    screen.say("stopping");
                }
                is_stopping = true;
                // A second request reaches the servers as a second signal, on which they end at once.
                members.iter().for_each(Member::stop);
            }
        }
    }
    is_stopping && is_sound
}

/// Standard error, with each server's lines marked, and coloured on a terminal.
struct Screen {
    is_coloured: bool,
}

/// One colour per server, as terminals number them.
const COLOURS: [u8; 7] = [36, 33, 35, 32, 34, 31, 37];

impl Screen {
    fn new() -> Screen {
        Screen { is_coloured: io::stderr().is_terminal() }
    }

    fn show(&self, id: u8, line: &str) {
        if self.is_coloured {
            write_line(format_args!("\x1b[{}mserver {id} |\x1b[0m {line}", COLOURS[id as usize % COLOURS.len()]));
        } else {
            write_line(format_args!("server {id} | {line}"));
        }
    }

    fn say(&self, text: &str) {
        write_line(format_args!("dev      | {text}"));
    }
}

/// A line for standard error. A terminal that has been closed, or a full disk, is no reason to end without having
/// cleaned up.
fn write_line(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}
