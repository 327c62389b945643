//! Clusters of `lockstep-server` processes on this machine, started for a measurement and removed after it.
//!
//! [`Cluster::start`] formats and starts every server in a temporary folder on ports of its own, puts the link proxy
//! between them when a delay is asked for, and returns once all of them serve. [`Cluster::stop`] ends them in good
//! order; dropping a cluster kills them.

pub mod admin;
mod ask;
mod disk;
mod faults;
mod locate;
pub(crate) mod ports;
pub(crate) mod process;
pub mod proxy;
mod spec;

pub use faults::Way;
pub use locate::{data_root_default, find_server};
pub use spec::{Ack, Batching, ClusterSpec, Durability, Fanout};

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::drive::StopFlag;
use crate::record::{ProcessRef, file_system_of};
use disk::SmallDisk;
use ports::PortRange;
use process::ServerProcess;
use proxy::{LinkProxy, Route};

/// Between holding a port and the server's binding it somebody else may take it; then everything is tried again.
const START_ATTEMPTS: usize = 3;
/// Formatting writes the whole journal, which may be large and the disk slow.
const FORMAT_TIMEOUT: Duration = Duration::from_secs(120);
const SERVE_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const ADMIN_TIMEOUT: Duration = Duration::from_secs(2);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Why a cluster could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The server's program is not where it was looked for.
    #[error("no lockstep-server at {looked_for}; build it (cargo build --release) or name it with --server-bin")]
    NoServer {
        /// The path or paths tried.
        looked_for: String,
    },
    /// A command of the server failed.
    #[error("server {server}: {what}; the end of its log:\n{log}")]
    Server {
        /// Its number.
        server: usize,
        /// What failed.
        what: String,
        /// The end of what it wrote.
        log: String,
    },
    /// Ctrl-C.
    #[error("stopped while the cluster was starting")]
    Stopped,
    /// The operating system refused something.
    #[error("{what}: {reason}")]
    System {
        /// What was tried.
        what: String,
        /// Why it failed; told with what failed, and so no source of its own.
        reason: io::Error,
    },
}

impl ClusterError {
    /// Whether a server found its port taken.
    fn is_port_conflict(&self) -> bool {
        matches!(self, Self::Server { log, .. } if log.to_ascii_lowercase().contains("in use"))
    }
}

fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> ClusterError {
    move |reason| ClusterError::System { what: what.into(), reason }
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    spec: ClusterSpec,
    servers: Vec<Server>,
    proxy: Option<LinkProxy>,
    /// The routes of the proxy, from the first server to the second.
    links: BTreeMap<(usize, usize), Vec<usize>>,
    // Declared after the servers, so that their folders go only when they are gone.
    disks: Vec<SmallDisk>,
    folder: TempDir,
}

#[derive(Debug)]
struct Server {
    run: Mutex<ServerRun>,
    /// What it is started with.
    arguments: Vec<String>,
    log: PathBuf,
    address: SocketAddr,
    admin: SocketAddr,
    resp: Option<SocketAddr>,
}

/// A server's present process, and what has been done to it.
#[derive(Debug)]
struct ServerRun {
    process: ServerProcess,
    state: ServerState,
    /// Its disk was filled: that it ends is what it should do when a write fails.
    may_end: bool,
}

/// What has been done to a server's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ServerState {
    /// Nothing: it should be running.
    Running,
    /// It does not get any CPU time.
    Stopped,
    /// It is gone.
    Killed,
}

impl Server {
    fn run(&self) -> MutexGuard<'_, ServerRun> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ports of one server, before it runs.
#[derive(Debug)]
struct Place {
    data: PathBuf,
    log: PathBuf,
    ports: PortRange,
    admin: PortRange,
    resp: Option<PortRange>,
}

impl Cluster {
    /// Formats and starts all servers of `spec` and waits until each of them serves.
    ///
    /// # Errors
    ///
    /// When a server cannot be formatted or started; the error has the end of its log.
    pub fn start(spec: &ClusterSpec, stop: &StopFlag) -> Result<Self, ClusterError> {
        assert!((1..=spec.servers).contains(&spec.replicating), "the command line has checked the counts");
        let mut attempt = 1;
        loop {
            match Self::start_once(spec, stop) {
                Err(error) if error.is_port_conflict() && attempt < START_ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    fn start_once(spec: &ClusterSpec, stop: &StopFlag) -> Result<Self, ClusterError> {
        let folder = tempfile::Builder::new()
            .prefix("lockstep-cluster-")
            .tempdir_in(&spec.data_root)
            // The error's own words name the place once more.
            .map_err(|error| io::Error::from(error.kind()))
            .map_err(system(format!("cannot make a data folder in {}", spec.data_root.display())))?;
        let disks = disks(spec, folder.path())?;
        let mut places = places(spec, folder.path(), &disks)?;
        format_all(spec, &places, stop)?;
        let Connected { peers, proxy, links } = connect_places(spec, &places)?;
        let resp: Vec<SocketAddr> = places.iter().filter_map(|place| Some(place.resp.as_ref()?.base())).collect();
        let mut cluster = Self { spec: spec.clone(), servers: Vec::new(), proxy, links, disks, folder };
        for (server, place) in places.iter_mut().enumerate() {
            let arguments = cluster.start_arguments(place, &peers[server], &resp);
            place.ports.release();
            place.admin.release();
            if let Some(ports) = &mut place.resp {
                ports.release();
            }
            let process = ServerProcess::spawn(&spec.server_bin, &arguments, &place.log)
                .map_err(system(format!("cannot start {}", spec.server_bin.display())))?;
            cluster.servers.push(Server {
                run: Mutex::new(ServerRun { process, state: ServerState::Running, may_end: false }),
                arguments,
                log: place.log.clone(),
                address: place.ports.base(),
                admin: place.admin.base(),
                resp: place.resp.as_ref().map(PortRange::base),
            });
        }
        let deadline = Instant::now() + SERVE_TIMEOUT;
        for server in 0..cluster.servers.len() {
            cluster.wait_until_serving(server, deadline, stop)?;
        }
        Ok(cluster)
    }

    fn start_arguments(&self, place: &Place, peers: &[SocketAddr], resp: &[SocketAddr]) -> Vec<String> {
        let list = |addresses: &[SocketAddr]| addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",");
        let mut arguments = vec!["start".to_owned()];
        arguments.extend(["--data-dir".to_owned(), place.data.to_string_lossy().into_owned()]);
        arguments.extend(["--peers".to_owned(), list(peers)]);
        arguments.extend(["--admin".to_owned(), place.admin.base().to_string()]);
        if let Some(own) = &place.resp {
            arguments.extend(["--resp".to_owned(), own.base().to_string()]);
            // Idle servers are clusters of one, and know only themselves.
            let others = if peers.len() == 1 { list(&[own.base()]) } else { list(&resp[..self.spec.replicating]) };
            arguments.extend(["--resp-peers".to_owned(), others]);
        }
        // Every server would pin its first shard to the same CPU of this host.
        arguments.push("--no-pin".to_owned());
        arguments.extend(self.spec.start_options());
        arguments
    }

    fn wait_until_serving(&self, index: usize, deadline: Instant, stop: &StopFlag) -> Result<(), ClusterError> {
        loop {
            let server = &self.servers[index];
            let fail = |what: String| Err(ClusterError::Server { server: index, what, log: self.log_tail(index) });
            let ended = server.run().process.ended().map_err(system("cannot wait for a server"))?;
            if let Some(status) = ended {
                return fail(format!("ended while starting ({status})"));
            }
            if stop.is_set() {
                return Err(ClusterError::Stopped);
            }
            let answer = admin::get(server.admin, "/healthz", ADMIN_TIMEOUT);
            if matches!(answer, Ok((200, _))) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let last = match answer {
                    Ok((status, body)) => format!("/healthz says {status} {}", body.trim()),
                    Err(error) => format!("/healthz does not answer: {error}"),
                };
                return fail(format!("does not serve after {SERVE_TIMEOUT:?}: {last}"));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Base addresses of the servers that make up the cluster under load, in the order of their ids.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.servers[..self.spec.replicating].iter().map(|server| server.address).collect()
    }

    /// Base addresses of the servers' Redis front doors, in the order of their ids; none without
    /// [`ClusterSpec::has_resp`].
    pub fn resp_addresses(&self) -> Vec<SocketAddr> {
        self.servers[..self.spec.replicating].iter().filter_map(|server| server.resp).collect()
    }

    /// The server processes, the idle ones last.
    pub fn servers(&self) -> Vec<ProcessRef> {
        let name = |index: usize| {
            if index < self.spec.replicating { format!("server {index}") } else { format!("idle server {index}") }
        };
        let servers = self.servers.iter().enumerate();
        servers.map(|(index, server)| ProcessRef::process(name(index), server.run().process.pid())).collect()
    }

    /// Every process and the link proxy's thread, for CPU accounting.
    pub fn processes(&self) -> Vec<ProcessRef> {
        let mut all = self.servers();
        all.extend(self.proxy.as_ref().map(LinkProxy::process));
        all
    }

    /// The end of what a server has written.
    pub fn log_tail(&self, server: usize) -> String {
        self.servers[server].run().process.log_tail()
    }

    /// The settings it was started with.
    pub fn spec(&self) -> &ClusterSpec {
        &self.spec
    }

    /// The type of the file system under its data.
    pub fn data_file_system(&self) -> Option<String> {
        file_system_of(self.folder.path())
    }

    /// `/metrics` of each server, as text; an error's text where it does not answer.
    pub fn metrics(&self) -> Vec<String> {
        let is_stopped = |server: &Server| server.run().state == ServerState::Stopped;
        let ask = |server: &Server| match admin::get(server.admin, "/metrics", ADMIN_TIMEOUT) {
            Ok((_, body)) => body,
            Err(error) => format!("# not available: {error}\n"),
        };
        let ask = |server| if is_stopped(server) { "# not available: it is stopped\n".to_owned() } else { ask(server) };
        self.servers.iter().map(ask).collect()
    }

    /// The names of servers that have ended by themselves, and without a reason that was given them.
    pub fn ended(&self) -> Vec<String> {
        let has_ended = |server: &Server| {
            let mut run = server.run();
            let has_ended = run.state == ServerState::Running && matches!(run.process.ended(), Ok(Some(_)));
            if has_ended && run.may_end {
                run.state = ServerState::Killed;
            }
            has_ended && !run.may_end
        };
        let ended = self.servers.iter().map(has_ended).collect::<Vec<_>>();
        self.servers().into_iter().zip(ended).filter(|(_, ended)| *ended).map(|(server, _)| server.name).collect()
    }

    /// Asks all servers to end, waits for them, and removes their data.
    ///
    /// # Errors
    ///
    /// When a server had to be killed or ended with an error, although everything is removed then as well.
    pub fn stop(self) -> Result<(), ClusterError> {
        for server in &self.servers {
            let mut run = server.run();
            for signal in [Signal::CONT, Signal::TERM] {
                run.process.signal(signal).map_err(system("cannot signal a server"))?;
            }
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        let mut result = Ok(());
        for (index, server) in self.servers.iter().enumerate() {
            let mut run = server.run();
            let ended = run.process.wait_until(deadline).map_err(system("cannot wait for a server"))?;
            let what = match ended {
                Some(status) if status.success() || run.state == ServerState::Killed || run.may_end => continue,
                Some(status) => format!("ended badly ({status})"),
                None => format!("did not end within {STOP_TIMEOUT:?} of SIGTERM and was killed"),
            };
            result = result.and(Err(ClusterError::Server { server: index, what, log: run.process.log_tail() }));
        }
        result
    }
}

/// A small disk for each server, if they are to have one.
fn disks(spec: &ClusterSpec, folder: &Path) -> Result<Vec<SmallDisk>, ClusterError> {
    let Some(size) = spec.disk_size else { return Ok(Vec::new()) };
    let mount = |server: usize| SmallDisk::mount(folder.join(format!("disk-{server}")), size);
    let mounted = (0..spec.servers).map(mount).collect::<io::Result<_>>();
    mounted.map_err(system("cannot mount a small disk for each server, which a disk-full fault takes (run it as root)"))
}

fn places(spec: &ClusterSpec, folder: &Path, disks: &[SmallDisk]) -> Result<Vec<Place>, ClusterError> {
    let place = |server: usize| -> io::Result<Place> {
        Ok(Place {
            data: disks.get(server).map_or(folder, SmallDisk::path).join(format!("server-{server}")),
            log: folder.join(format!("server-{server}.log")),
            ports: PortRange::hold(spec.shards)?,
            admin: PortRange::hold(1)?,
            resp: spec.has_resp.then(|| PortRange::hold(spec.shards)).transpose()?,
        })
    };
    (0..spec.servers).map(place).collect::<io::Result<_>>().map_err(system("cannot reserve ports"))
}

/// Formats all data folders at the same time.
fn format_all(spec: &ClusterSpec, places: &[Place], stop: &StopFlag) -> Result<(), ClusterError> {
    let mut formatting = Vec::new();
    for (server, place) in places.iter().enumerate() {
        let (cluster, id, servers) = if server < spec.replicating {
            ("loadgen".to_owned(), server, spec.replicating)
        } else {
            (format!("loadgen-idle-{server}"), 0, 1)
        };
        let mut arguments = vec!["format".to_owned()];
        let mut add = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        add("--data-dir", place.data.to_string_lossy().into_owned());
        add("--cluster", cluster);
        add("--id", id.to_string());
        add("--servers", servers.to_string());
        add("--shards", spec.shards.to_string());
        if let Some(size) = spec.journal_size {
            add("--journal-size", size.to_string());
        }
        arguments.extend(spec.format_arguments.iter().cloned());
        let process = ServerProcess::spawn(&spec.server_bin, &arguments, &place.log)
            .map_err(system(format!("cannot start {}", spec.server_bin.display())))?;
        formatting.push(process);
    }
    let deadline = Instant::now() + FORMAT_TIMEOUT;
    for (server, process) in formatting.iter_mut().enumerate() {
        let ended = process.wait_until(deadline).map_err(system("cannot wait for a server"))?;
        if stop.is_set() {
            return Err(ClusterError::Stopped);
        }
        let what = match ended {
            Some(status) if status.success() => continue,
            Some(status) => format!("`format` failed ({status})"),
            None => format!("`format` did not end within {FORMAT_TIMEOUT:?}"),
        };
        return Err(ClusterError::Server { server, what, log: process.log_tail() });
    }
    Ok(())
}

/// What each server is told about its peers.
struct Connected {
    peers: Vec<Vec<SocketAddr>>,
    /// The proxy between them, if there is one.
    proxy: Option<LinkProxy>,
    links: BTreeMap<(usize, usize), Vec<usize>>,
}

/// Puts the proxy between the servers if there is a use for one.
fn connect_places(spec: &ClusterSpec, places: &[Place]) -> Result<Connected, ClusterError> {
    let mut peers = Vec::new();
    let mut routes = Vec::new();
    let mut links = BTreeMap::new();
    let is_direct = spec.link_delay.is_none() && !spec.has_cuttable_links;
    for (from, place) in places.iter().enumerate() {
        if from >= spec.replicating {
            peers.push(vec![place.ports.base()]);
            continue;
        }
        let mut seen = Vec::new();
        for (to, other) in places[..spec.replicating].iter().enumerate() {
            if to == from || is_direct {
                seen.push(other.ports.base());
                continue;
            }
            let front = PortRange::hold(spec.shards).map_err(system("cannot reserve ports for the link proxy"))?;
            seen.push(front.base());
            let first = routes.len();
            routes.extend(routes_of(front.into_listeners(), other.ports.base()));
            links.insert((from, to), (first..routes.len()).collect());
        }
        peers.push(seen);
    }
    let proxy = if routes.is_empty() {
        None
    } else {
        let delay = spec.link_delay.unwrap_or_default();
        Some(LinkProxy::start(routes, delay).map_err(system("cannot start the link proxy"))?)
    };
    Ok(Connected { peers, proxy, links })
}

/// One route per shard.
fn routes_of(fronts: Vec<TcpListener>, target: SocketAddr) -> impl Iterator<Item = Route> {
    fronts.into_iter().enumerate().map(move |(shard, listener)| {
        let target = SocketAddr::new(target.ip(), target.port() + shard as u16);
        Route { listener, target }
    })
}

#[cfg(test)]
mod tests;
