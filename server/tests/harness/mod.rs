//! Real servers for tests: processes of the built binary, in folders of their own, on ports that the system chose.
//!
//! A test ends what it started: dropping a [`Cluster`] kills its servers and removes their folders.

#![allow(dead_code, reason = "each test file uses a part of the harness")]

pub mod damage;
pub mod links;
pub mod recorder;
pub mod small_disk;
pub mod story;
pub mod workload;

use std::{
    fs::File,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    ops::Range,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use serde_json::Value;

use links::Links;

/// How long a test waits for a condition before it fails. Long, because the machine may be busy with other tests.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Waits until `condition` gives a value.
///
/// # Panics
///
/// If it does not within [`DEADLINE`].
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The server binary that was built with the tests.
pub fn server_binary() -> &'static str {
    env!("CARGO_BIN_EXE_lockstep-server")
}

/// What a process does at SIGHUP unless it asks for another thing. It has this from who starts it, so with tests that
/// run under `nohup` it would ignore the signal.
#[derive(Clone, Copy)]
pub enum Hangup {
    Ends,
    IsIgnored,
}

/// Settles what the process does at SIGHUP, whatever the tests themselves do.
pub fn set_hangup(command: &mut Command, hangup: Hangup) -> &mut Command {
    let action = match hangup {
        Hangup::Ends => libc::SIG_DFL,
        Hangup::IsIgnored => libc::SIG_IGN,
    };
    // SAFETY: between fork and exec only a system call is made, and no memory is allocated.
    unsafe {
        command.pre_exec(move || {
            libc::signal(libc::SIGHUP, action);
            Ok(())
        })
    }
}

/// A loopback address of a cluster's own, so that nobody else listens there.
fn own_host() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let process = std::process::id();
    let number = COUNTER.fetch_add(1, Ordering::Relaxed) % 250 + 1;
    format!("127.{}.{}.{number}", process % 250 + 1, process / 250 % 250 + 1)
}

/// Ports to look at: `count` of them in a row, and nobody else of this process is given the same ones.
///
/// They are below those that the system gives to outgoing connections. A client that tries again and again to reach a
/// server which is down would otherwise be given the server's own port one day, connect to itself, and hold the port.
fn next_ports(count: u16) -> Range<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = 10_000 + (NEXT.fetch_add(u32::from(count), Ordering::Relaxed) % 20_000) as u16;
    first..first + count
}

/// Ports at which nobody listens on `host`: `count` of them in a row. Where the test itself listens,
/// [`free_listeners`] it is.
///
/// Nothing is bound to them, not even for a look: a process that another thread is just starting would keep such a
/// socket for a moment longer, and the server that is given the port could not have it.
fn free_ports(host: &str, count: u16) -> u16 {
    wait_for("free ports in a row", || {
        let mut ports = next_ports(count);
        let first = ports.start;
        let is_refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        ports.all(|port| TcpStream::connect((host, port)).is_err_and(is_refused)).then_some(first)
    })
}

/// Listeners on free ports in a row.
fn free_listeners(host: &str, count: u16) -> Vec<TcpListener> {
    wait_for("free ports in a row", || next_ports(count).map(|port| TcpListener::bind((host, port)).ok()).collect())
}

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Number of servers.
    pub servers: u8,
    /// Number of shards.
    pub shards: u16,
    /// Further options of `lockstep-server start`.
    pub options: Vec<String>,
    /// Size of each journal.
    pub journal_size: String,
    /// Whether servers reach each other through links that a test can cut.
    pub has_links: bool,
    /// Whether the servers also speak RESP.
    pub has_resp: bool,
}

impl Spec {
    /// A cluster with one shard and default settings.
    pub fn of(servers: u8) -> Spec {
        Spec {
            servers,
            shards: 1,
            options: Vec::new(),
            journal_size: "16MiB".to_string(),
            has_links: false,
            has_resp: false,
        }
    }

    /// Puts links between the servers that a test can cut: see [`Cluster::links`].
    pub fn with_links(self) -> Spec {
        Spec { has_links: true, ..self }
    }

    /// Has the servers speak RESP too: see [`Server::resp`].
    pub fn with_resp(self) -> Spec {
        Spec { has_resp: true, ..self }
    }

    /// Has the servers be patient with each other, for tests that are about other things: on a busy machine, too, a
    /// primary that nothing happens to stays.
    pub fn patient(self) -> Spec {
        self.with(&["--view-timeout=3s", "--stall-timeout=30s"])
    }

    /// Adds options of `lockstep-server start`.
    pub fn with(mut self, options: &[&str]) -> Spec {
        self.options.extend(options.iter().map(ToString::to_string));
        self
    }
}

/// One server: its folder, its ports, and its process while it runs.
pub struct Server {
    /// Its id.
    pub id: u8,
    /// Its address, without a port.
    pub host: String,
    /// Port of its first shard.
    pub port: u16,
    /// Port of its admin endpoints.
    pub admin: u16,
    /// Port of its first shard's Redis front door, which is open with [`Spec::with_resp`].
    pub resp: u16,
    /// Its data folder.
    pub folder: PathBuf,
    process: Option<Child>,
}

/// A cluster of real servers.
pub struct Cluster {
    /// What it was made of.
    pub spec: Spec,
    /// Its servers, by id.
    pub servers: Vec<Server>,
    links: Option<Links>,
    folder: tempfile::TempDir,
}

impl Cluster {
    /// Formats all servers' folders; none is started.
    pub fn format(spec: Spec) -> Cluster {
        let folder = tempfile::Builder::new().prefix("lockstep-test-").tempdir_in(scratch_folder()).unwrap();
        let host = own_host();
        let servers: Vec<Server> = (0..spec.servers)
            .map(|id| {
                let server = Server {
                    id,
                    host: host.clone(),
                    port: free_ports(&host, spec.shards),
                    admin: free_ports(&host, 1),
                    resp: if spec.has_resp { free_ports(&host, spec.shards) } else { 0 },
                    folder: folder.path().join(format!("server-{id}")),
                    process: None,
                };
                make_folder("format", &spec, id, &server.folder);
                server
            })
            .collect();
        let links = spec.has_links.then(|| Links::between(&servers, spec.shards));
        Cluster { spec, servers, links, folder }
    }

    /// Has a server that was never started keep its data in `folder`.
    pub fn move_folder(&mut self, id: u8, folder: PathBuf) {
        make_folder("format", &self.spec, id, &folder);
        self.servers[id as usize].folder = folder;
    }

    /// Makes the folder of a server whose data is gone, with `lockstep-server recover`.
    pub fn recover(&self, id: u8) {
        make_folder("recover", &self.spec, id, &self.servers[id as usize].folder);
    }

    /// The links between the servers.
    ///
    /// # Panics
    ///
    /// If there are none.
    pub fn links(&self) -> &Links {
        self.links.as_ref().expect("the cluster was made with links")
    }

    /// Whether a server's process runs, as far as is known.
    pub fn is_running(&self, id: u8) -> bool {
        self.servers[id as usize].process.is_some()
    }

    /// Formats and starts all servers, and waits until they serve.
    pub fn start(spec: Spec) -> Cluster {
        let mut cluster = Cluster::format(spec);
        cluster.start_all();
        cluster
    }

    /// Starts all servers, and waits until they serve.
    pub fn start_all(&mut self) {
        for id in 0..self.spec.servers {
            self.start_server(id);
        }
        self.wait_until_healthy();
    }

    /// The servers' addresses, as `--peers` and clients take them.
    pub fn addresses(&self) -> String {
        let addresses: Vec<String> =
            self.servers.iter().map(|server| format!("{}:{}", server.host, server.port)).collect();
        addresses.join(",")
    }

    /// The command that starts one server.
    pub fn start_command(&self, id: u8) -> Command {
        let server = &self.servers[id as usize];
        let mut command = Command::new(server_binary());
        let peers = self.links.as_ref().map_or_else(|| self.addresses(), |links| links.peers_of(server));
        command.arg("start").arg("--data-dir").arg(&server.folder).args(["--peers", &peers]);
        // Clients go to the servers themselves: a link that is cut is one between servers.
        command.args(["--advertise", &self.addresses()]);
        if self.spec.has_resp {
            let all: Vec<String> =
                self.servers.iter().map(|server| format!("{}:{}", server.host, server.resp)).collect();
            command.args(["--resp", &all[id as usize], "--resp-peers", &all.join(",")]);
        }
        command.args(["--admin", &format!("{}:{}", server.host, server.admin), "--no-pin"]).args(&self.spec.options);
        command
    }

    /// Starts one server; does not wait.
    pub fn start_server(&mut self, id: u8) {
        let command = self.start_command(id);
        self.start_by(id, command);
    }

    /// Starts one server by a `command` that was made for it; does not wait.
    pub fn start_by(&mut self, id: u8, mut command: Command) {
        let log = self.folder.path().join(format!("server-{id}.log"));
        let log = File::options().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.adopt(id, command.spawn().unwrap());
    }

    /// Takes over a server that was started elsewhere.
    pub fn adopt(&mut self, id: u8, process: Child) {
        let server = &mut self.servers[id as usize];
        assert!(server.process.is_none(), "server {id} runs already");
        server.process = Some(process);
    }

    /// Waits until every server that runs says that it serves.
    pub fn wait_until_healthy(&mut self) {
        for id in 0..self.spec.servers {
            if self.servers[id as usize].process.is_none() {
                continue;
            }
            wait_for(&format!("server {id} to serve"), || {
                if let Some(status) = self.poll_exit(id) {
                    panic!("server {id} ended with {status}:\n{}", self.log(id));
                }
                (get(&self.servers[id as usize], "/healthz")?.0 == 200).then_some(())
            });
        }
    }

    /// How a server ended, if it has.
    pub fn poll_exit(&mut self, id: u8) -> Option<ExitStatus> {
        self.servers[id as usize].process.as_mut()?.try_wait().unwrap()
    }

    /// `kill -9`.
    pub fn kill(&mut self, id: u8) {
        let mut process = self.servers[id as usize].process.take().expect("the server runs");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Sends a signal by name, such as `STOP` or `CONT`.
    pub fn signal(&self, id: u8, signal: &str) {
        let pid = self.process_id(id).to_string();
        let status = Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap();
        assert!(status.success());
    }

    /// The id of a server's process.
    pub fn process_id(&self, id: u8) -> u32 {
        self.servers[id as usize].process.as_ref().expect("the server runs").id()
    }

    /// Waits until a server has ended by itself.
    pub fn wait_for_exit(&mut self, id: u8) -> ExitStatus {
        let status = wait_for(&format!("server {id} to end"), || self.poll_exit(id));
        self.servers[id as usize].process = None;
        status
    }

    /// What a server has logged.
    pub fn log(&self, id: u8) -> String {
        std::fs::read_to_string(self.folder.path().join(format!("server-{id}.log"))).unwrap_or_default()
    }

    /// `/status` of a server's shard.
    pub fn status(&self, id: u8, shard: usize) -> Option<Value> {
        let (_, body) = get(&self.servers[id as usize], "/status")?;
        let status: Value = serde_json::from_str(&body).ok()?;
        status.get("shards").unwrap_or(&status).get(shard).cloned()
    }

    /// The primary of a shard, once one of the servers that run says that it is, and no other knows of a later view.
    pub fn primary(&self, shard: usize) -> u8 {
        wait_for("a primary", || {
            let running = (0..self.spec.servers).filter(|&id| self.is_running(id));
            let said = running.filter_map(|id| {
                let status = self.status(id, shard)?;
                Some((status["view"].as_u64()?, status["role"] == "primary", id))
            });
            said.max().filter(|(_, is_primary, _)| *is_primary).map(|(_, _, id)| id)
        })
    }

    /// One sample of a server's `/metrics`: the line that starts with `name` and holds all of `labels`.
    pub fn metric(&self, id: u8, name: &str, labels: &[&str]) -> Option<f64> {
        let (_, body) = get(&self.servers[id as usize], "/metrics")?;
        let is_wanted = |line: &&str| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        };
        body.lines().find(is_wanted)?.rsplit(' ').next()?.parse().ok()
    }

    /// Waits until all servers have applied the same ops of every shard, and returns the hash that they agree on.
    ///
    /// # Panics
    ///
    /// If they have applied the same ops and differ.
    pub fn wait_for_equal_state(&self) -> Vec<String> {
        (0..self.spec.shards).map(|shard| self.wait_for_equal_shard(shard)).collect()
    }

    fn wait_for_equal_shard(&self, shard: u16) -> String {
        wait_for("equal state on all servers", || {
            let hashes: Option<Vec<(u64, String)>> = self
                .servers
                .iter()
                .map(|server| {
                    let (_, body) = get(server, &format!("/state-hash?shard={shard}"))?;
                    let hash: Value = serde_json::from_str(&body).ok()?;
                    Some((hash["applied"].as_u64()?, hash["hash"].as_str()?.to_string()))
                })
                .collect();
            let hashes = hashes?;
            let (applied, hash) = hashes[0].clone();
            if hashes.iter().any(|(other, _)| *other != applied) {
                return None;
            }
            assert!(hashes.iter().all(|(_, other)| *other == hash), "states at op {applied} differ: {hashes:?}");
            Some(hash)
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for server in &mut self.servers {
            if let Some(mut process) = server.process.take() {
                let _ = process.kill();
                let _ = process.wait();
            }
        }
        if std::thread::panicking() {
            for server in &self.servers {
                eprintln!("--- log of server {}\n{}", server.id, tail(&self.log(server.id)));
            }
        }
    }
}

/// Runs a command of the server that makes a data folder.
fn make_folder(command: &str, spec: &Spec, id: u8, folder: &Path) {
    let mut make = Command::new(server_binary());
    make.args([command, "--cluster", "test", "--journal-size", &spec.journal_size]);
    make.args(["--id", &id.to_string(), "--servers", &spec.servers.to_string()]);
    make.args(["--shards", &spec.shards.to_string(), "--data-dir"]).arg(folder);
    let output = make.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Where test folders are made: on the disk that holds the build, since a file system in memory has no direct I/O.
pub fn scratch_folder() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// A GET from a server's admin port, over plain HTTP: status and body.
pub fn get(server: &Server, path: &str) -> Option<(u16, String)> {
    get_from(&server.host, server.admin, path)
}

/// A GET over plain HTTP: status and body.
pub fn get_from(host: &str, port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect((host, port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_string()))
}
