//! `lockstep-server dev`: a whole cluster as a person starts it, and what becomes of its processes and folders.

mod harness;

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use harness::{Hangup, get_from, scratch_folder, server_binary, set_hangup, wait_for};
use rustix::{
    fs::FlockOperation,
    process::{Pid, Signal, kill_process},
};

/// A running `dev`, with what it prints in files.
struct Dev {
    process: Child,
    folder: tempfile::TempDir,
}

fn temporary_folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("lockstep-test-").tempdir_in(scratch_folder()).unwrap()
}

impl Dev {
    /// Starts `dev`. Its temporary folders are made in one of the test's own.
    ///
    /// It looks for free ports below those that the system gives to outgoing connections, since one of another test
    /// could take a port in the moment before a server does; and every time in another place, for the same reason.
    fn start(options: &[&str]) -> Dev {
        let folder = temporary_folder();
        let stderr = File::create(folder.path().join("stderr")).unwrap();
        Dev::start_in(folder, options, stderr.into())
    }

    /// The same with another standard error.
    fn start_with(options: &[&str], stderr: Stdio) -> Dev {
        Dev::start_in(temporary_folder(), options, stderr)
    }

    fn start_in(folder: tempfile::TempDir, options: &[&str], stderr: Stdio) -> Dev {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = std::process::id().wrapping_mul(8) + COUNTER.fetch_add(1, Ordering::Relaxed);
        let port = format!("--port={}", 10_000 + number % 1000 * 20);
        let process = set_hangup(&mut Command::new(server_binary()), Hangup::Ends)
            .args(["dev", &port, "--journal-size=16MiB"])
            .args(options)
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            .stdout(File::create(folder.path().join("stdout")).unwrap())
            .stderr(stderr)
            .spawn()
            .unwrap();
        Dev { process, folder }
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    fn wait_for_line(&mut self, text: &str) {
        wait_for(text, || {
            let is_there = self.read("stderr").contains(text);
            if let (false, Some(status)) = (is_there, self.process.try_wait().unwrap()) {
                panic!("dev ended with {status}:\n{}", self.read("stderr"));
            }
            is_there.then_some(())
        });
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    fn wait_for_exit(&mut self) -> ExitStatus {
        wait_for("dev to end", || self.process.try_wait().unwrap())
    }

    /// Admin ports of the servers, as printed. A line may be there in part only.
    fn admin_ports(&self) -> Vec<u16> {
        let text = self.read("stdout");
        let urls = text.lines().filter_map(|line| line.split_once("admin http://127.0.0.1:"));
        urls.filter_map(|(_, rest)| Some(rest.strip_suffix("/status")?.parse().unwrap())).collect()
    }

    /// What `dev` has made in its place for temporary folders.
    fn temporary_folders(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_dir()).collect()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default();
            eprintln!("--- dev, which has ended with {:?}\n{said}", self.process.try_wait());
            for port in self.admin_ports() {
                eprintln!(
                    "{:?}\n{:?}",
                    get_from("127.0.0.1", port, "/healthz"),
                    get_from("127.0.0.1", port, "/status")
                );
            }
        }
        // The servers end with it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether a server runs in the folder.
fn is_in_use(folder: &Path) -> bool {
    let lock = File::open(folder.join("LOCK")).unwrap();
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_err()
}

/// The process that runs in the folder.
fn process_of(folder: &Path) -> Pid {
    let mut text = String::new();
    File::open(folder.join("LOCK")).unwrap().read_to_string(&mut text).unwrap();
    Pid::from_raw(text.trim().parse().unwrap()).unwrap()
}

#[test]
fn a_cluster_comes_up_outlives_a_server_and_ends_with_ctrl_c_leaving_nothing() {
    let mut dev = Dev::start(&["--servers=3", "--shards=2"]);
    dev.wait_for_line("ready after");
    let text = dev.read("stdout");
    let (_, addresses) = text.split_once("lockstep --cluster ").expect("a line to paste");
    assert_eq!(addresses.lines().next().unwrap().split(',').count(), 3, "{text}");
    assert!(!text.contains('\x1b'), "colour is for terminals: {text:?}");
    let admin_ports = dev.admin_ports();
    assert_eq!(admin_ports.len(), 3, "{text}");
    for &port in &admin_ports {
        let (code, status) = get_from("127.0.0.1", port, "/status").expect("the admin port answers");
        assert_eq!(code, 200);
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        assert_eq!(status.as_array().unwrap().len(), 2, "two shards: {status}");
    }

    let folders = dev.temporary_folders();
    assert_eq!(folders.len(), 1, "{folders:?}");
    kill_process(process_of(&folders[0].join("server-2")), Signal::KILL).unwrap();
    dev.wait_for_line("server 2 was killed by signal 9; 2 go on");
    wait_for("the others to go on", || {
        get_from("127.0.0.1", admin_ports[0], "/healthz").filter(|(code, _)| *code == 200)
    });

    dev.signal(Signal::INT);
    let status = dev.wait_for_exit();
    assert!(status.success(), "{status}:\n{}", dev.read("stderr"));
    assert_eq!(dev.temporary_folders(), Vec::<PathBuf>::new());
}

/// All servers are asked to stop at once: the primary must not wait for one of the others to take over.
#[test]
fn servers_that_are_stopped_together_do_not_wait_for_each_other() {
    let mut dev = Dev::start(&["--servers=3"]);
    dev.wait_for_line("ready after");
    dev.signal(Signal::INT);
    assert!(dev.wait_for_exit().success(), "{}", dev.read("stderr"));
    assert!(!dev.read("stderr").contains("no other server has taken over in time"), "{}", dev.read("stderr"));
}

#[test]
fn a_given_folder_is_kept_and_used_again() {
    let kept = temporary_folder();
    let folder = kept.path().join("cluster");
    let options = [format!("--data-dir={}", folder.display()), "--servers=2".to_string()];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let mut view = 0;
    for run in 0..2 {
        let mut dev = Dev::start(&options);
        dev.wait_for_line("ready after");
        assert_eq!(dev.read("stderr").contains("formatting"), run == 0);
        let (_, status) = get_from("127.0.0.1", dev.admin_ports()[0], "/status").expect("the admin port answers");
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let now = status[0]["view"].as_u64().unwrap();
        assert!(now > view, "a primary that starts again begins a later view: {view}, then {now}");
        view = now;
        dev.signal(Signal::TERM);
        assert!(dev.wait_for_exit().success(), "{}", dev.read("stderr"));
        assert!(folder.join("server-1/shard-000/journal").exists());
    }

    let mut other = Dev::start(&[options[0], "--servers=3"]);
    assert_eq!(other.wait_for_exit().code(), Some(1));
    assert!(other.read("stderr").contains("servers"), "{}", other.read("stderr"));
}

/// The kernel sends the signal to what runs in the foreground, and the shell to all its jobs: twice is not twice as
/// urgent.
#[test]
fn a_closed_terminal_left_servers_and_a_folder_behind() {
    let mut dev = Dev::start(&["--servers=2"]);
    dev.wait_for_line("ready after");
    dev.signal(Signal::HUP);
    dev.wait_for_line("stopping");
    dev.signal(Signal::HUP);
    let status = dev.wait_for_exit();
    assert!(status.success(), "{status}:\n{}", dev.read("stderr"));
    assert_eq!(dev.temporary_folders(), Vec::<PathBuf>::new());
}

/// As when the terminal that everything is printed to has gone.
#[test]
fn a_dev_that_could_print_nothing_any_more_left_its_folder_behind() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut dev = Dev::start_with(&["--servers=2"], full.into());
    wait_for("the servers to serve", || {
        let ports = dev.admin_ports();
        let serves = |&port: &u16| get_from("127.0.0.1", port, "/healthz").is_some_and(|(code, _)| code == 200);
        (ports.len() == 2 && ports.iter().all(serves)).then_some(())
    });
    dev.signal(Signal::HUP);
    assert!(dev.wait_for_exit().success());
    assert_eq!(dev.temporary_folders(), Vec::<PathBuf>::new());
}

#[test]
fn servers_do_not_outlive_a_dev_that_was_killed() {
    let mut dev = Dev::start(&["--servers=2"]);
    dev.wait_for_line("ready after");
    let folders = dev.temporary_folders();
    let servers = ["server-0", "server-1"].map(|name| folders[0].join(name));
    assert!(servers.iter().all(|server| is_in_use(server)));
    dev.signal(Signal::KILL);
    assert!(!dev.wait_for_exit().success());
    wait_for("the servers to end", || servers.iter().all(|server| !is_in_use(server)).then_some(()));
}
