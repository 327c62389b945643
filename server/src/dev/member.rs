//! One server of the cluster: its folder, its process, its log lines.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpStream},
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{ChildStderr, Command, ExitStatus, Stdio},
    sync::mpsc::Sender,
    time::Duration,
};

use anyhow::{Context, bail};
use lockstep_proto::checksum::cluster_id;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::{CLUSTER, Event, ports::ServerPorts};
use crate::{
    cli::DevArgs,
    journal::{
        folder::Identity,
        format::format_folder,
        open::{Expected, open_folder},
    },
};

/// A server of the cluster.
#[derive(Debug)]
pub struct Member {
    /// The server's id.
    pub id: u8,
    /// Its ports.
    pub ports: ServerPorts,
    folder: PathBuf,
    process: Option<OwnedFd>,
}

impl Member {
    /// Server `id`, with its folder in `dir`.
    pub fn new(id: u8, ports: ServerPorts, dir: &Path) -> Member {
        Member { id, ports, folder: dir.join(format!("server-{id}")), process: None }
    }

    /// Where clients and servers find it.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.base)
    }

    /// Where Redis clients find it, if they are served.
    pub fn resp_address(&self) -> Option<String> {
        self.ports.resp.map(|port| format!("127.0.0.1:{port}"))
    }

    /// Formats the folder, or checks that it was formatted for this cluster.
    ///
    /// # Errors
    ///
    /// If the folder cannot be made, or belongs to something else.
    pub fn prepare(&self, args: &DevArgs) -> anyhow::Result<()> {
        let identity =
            Identity { cluster: cluster_id(CLUSTER), replica: self.id, servers: args.servers, shards: args.shards };
        if self.folder.exists() {
            let expected = Expected {
                cluster: Some(identity.cluster),
                replica: Some(identity.replica),
                servers: Some(identity.servers),
                shards: Some(identity.shards),
                journal_size: None,
            };
            open_folder(&self.folder, &expected)?;
            return Ok(());
        }
        Ok(format_folder(&self.folder, &identity, args.journal_size, &mut |_| {})?)
    }

    /// Starts the process. Its log lines and its end are told through `events`.
    ///
    /// # Errors
    ///
    /// If the process cannot be started.
    pub fn start(
        &mut self,
        args: &DevArgs,
        peers: &str,
        resp_peers: &str,
        events: &Sender<Event>,
    ) -> anyhow::Result<()> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut child = Command::new(program)
            .args(self.arguments(args, peers, resp_peers))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C goes to everything in the terminal's foreground group. The servers are to be stopped by us, once.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start server {}", self.id))?;
        let process = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
        let lines = child.stderr.take();
        let (id, to_lines, to_end) = (self.id, events.clone(), events.clone());
        std::thread::spawn(move || {
            if let Some(lines) = lines {
                forward_lines(id, lines, &to_lines);
            }
            // Waited for only after its last line, so that the line comes before the end.
            let status = child.wait();
            let _ = to_end.send(Event::Ended(id, status.unwrap_or_default()));
        });
        self.process = Some(process.with_context(|| format!("cannot watch server {}", self.id))?);
        Ok(())
    }

    fn arguments(&self, args: &DevArgs, peers: &str, resp_peers: &str) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["start".into(), "--data-dir".into(), self.folder.clone().into()];
        arguments.push(format!("--peers={peers}").into());
        arguments.push(format!("--admin=127.0.0.1:{}", self.ports.admin).into());
        if let Some(address) = self.resp_address() {
            arguments.push(format!("--resp={address}").into());
            arguments.push(format!("--resp-peers={resp_peers}").into());
            if args.cluster_mode {
                arguments.push("--cluster-mode".into());
            }
        }
        arguments.push("--stop-with-parent".into());
        let mut tuning = args.tuning.clone();
        // All servers would otherwise pile up on the first CPUs.
        tuning.no_pin = tuning.cpus.is_empty();
        arguments.extend(tuning.to_arguments().into_iter().map(OsString::from));
        arguments
    }

    /// Asks the process to stop. Nothing happens if it has ended already.
    pub fn stop(&self) {
        if let Some(process) = &self.process {
            // The only way to fail is that it has ended, which is what is wanted.
            let _ = rustix::process::pidfd_send_signal(process, Signal::TERM);
        }
    }

    /// Notes that the process has ended.
    pub fn set_ended(&mut self) {
        self.process = None;
    }

    /// Whether the process runs.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }
}

fn forward_lines(id: u8, lines: ChildStderr, events: &Sender<Event>) {
    for line in BufReader::new(lines).split(b'\n') {
        let Ok(line) = line else { break };
        if events.send(Event::Line(id, String::from_utf8_lossy(&line).into_owned())).is_err() {
            break;
        }
    }
}

/// Whether a server says that all its shards serve.
///
/// # Errors
///
/// If it cannot be asked, or says no.
pub fn check_health(ports: ServerPorts) -> anyhow::Result<()> {
    let timeout = Duration::from_secs(1);
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, ports.admin))?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(4096).read_to_string(&mut answer)?;
    if !answer.starts_with("HTTP/1.1 200 ") {
        bail!("not healthy: {answer}");
    }
    Ok(())
}

/// How a process ended, for a person.
pub fn describe_end(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(0), _) => "has stopped".to_owned(),
        (Some(code), _) => format!("has failed with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "has ended".to_owned(),
    }
}

/// Removes what `dev` has made in a temporary folder.
///
/// # Errors
///
/// If a file cannot be removed.
pub fn remove(dir: &Path) -> anyhow::Result<()> {
    fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))
}
