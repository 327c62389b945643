//! Redis and Valkey as processes on this machine.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cluster::ports::PortRange;
use crate::cluster::process::ServerProcess;
use crate::record::ProcessRef;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
const START_TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A primary and its replicas; they end when dropped.
#[derive(Debug)]
pub(super) struct RedisGroup {
    servers: Vec<(SocketAddr, ServerProcess)>,
    _folder: tempfile::TempDir,
}

impl RedisGroup {
    /// Starts a primary and `replicas` replicas and waits until all of them replicate.
    pub(super) fn start(program: &Path, data_root: &Path, replicas: usize, is_durable: bool) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("lockstep-compare-").tempdir_in(data_root)?;
        let mut group = Self { servers: Vec::new(), _folder: folder };
        for number in 0..=replicas {
            let data = group._folder.path().join(number.to_string());
            std::fs::create_dir(&data)?;
            let mut ports = PortRange::hold(1)?;
            let address = ports.base();
            let mut arguments = words("--bind 127.0.0.1 --daemonize no --repl-diskless-sync-delay 0");
            arguments.extend(["--port".to_owned(), address.port().to_string()]);
            arguments.extend(["--save".to_owned(), String::new()]);
            arguments.extend(["--dir".to_owned(), data.to_string_lossy().into_owned()]);
            let persistence = if is_durable { "--appendonly yes --appendfsync always" } else { "--appendonly no" };
            arguments.extend(words(persistence));
            if let Some((primary, _)) = group.servers.first() {
                arguments.extend(["--replicaof".to_owned(), "127.0.0.1".to_owned(), primary.port().to_string()]);
            }
            ports.release();
            let process = ServerProcess::spawn(program, &arguments, &data.join("log"))?;
            group.servers.push((address, process));
            group.wait_for(number, |_| true)?;
        }
        group.wait_for(0, |info| {
            let online = info.lines().filter(|line| line.starts_with("slave") && line.contains("state=online"));
            online.count() == replicas
        })?;
        Ok(group)
    }

    /// Where the primary listens.
    pub(super) fn primary(&self) -> SocketAddr {
        self.servers[0].0
    }

    /// Its processes.
    pub(super) fn processes(&self, name: &str) -> Vec<ProcessRef> {
        let named = |(number, (_, process)): (usize, &(SocketAddr, ServerProcess))| {
            ProcessRef::process(format!("{name} {number}"), process.pid())
        };
        self.servers.iter().enumerate().map(named).collect()
    }

    /// Waits until what a server says about its replication is as wished.
    fn wait_for(&mut self, number: usize, is_good: impl Fn(&str) -> bool) -> io::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let (address, process) = &mut self.servers[number];
            if let Some(status) = process.ended()? {
                return Err(io::Error::other(format!("it ended with {status}:\n{}", process.log_tail())));
            }
            let heard = replication_info(*address);
            if heard.as_ref().is_ok_and(|info| is_good(info)) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let log = process.log_tail();
                return Err(io::Error::other(format!("not ready after {START_TIMEOUT:?}: {heard:?}\n{log}")));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// What a server that speaks RESP says about its replication.
pub(super) fn replication_info(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(b"*2\r\n$4\r\nINFO\r\n$11\r\nreplication\r\n*1\r\n$4\r\nQUIT\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with('$') { Ok(answer) } else { Err(io::Error::other(answer)) }
}
