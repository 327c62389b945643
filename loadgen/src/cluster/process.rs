//! One server process and its log.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

/// How much of a log is shown when something went wrong.
const TAIL_LEN: u64 = 4096;
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A running child whose output goes to a file. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    child: Child,
    log: PathBuf,
}

impl ServerProcess {
    /// Starts `program` with `arguments`; its output is appended to `log`.
    pub(crate) fn spawn(program: &Path, arguments: &[String], log: &Path) -> io::Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // In a process group of its own a Ctrl-C on the terminal reaches us only, and we stop the servers in good
        // order.
        command.process_group(0);
        // SAFETY: between fork and exec only a system call without allocation or locks is made.
        unsafe {
            command.pre_exec(|| {
                // Should we be killed, no server stays behind.
                set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from)
            });
        }
        Ok(Self { child: spawn_for_good(command)?, log: log.to_owned() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits until it has ended by itself; `None` when it has not by `deadline`.
    pub(crate) fn wait_until(&mut self, deadline: Instant) -> io::Result<Option<ExitStatus>> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Sends a signal, unless it has ended.
    pub(crate) fn signal(&mut self, signal: Signal) -> io::Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("the child has no process id"))?;
        Ok(kill_process(pid, signal)?)
    }

    /// Kills it and waits until it is gone.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// The end of what it has written.
    pub(crate) fn log_tail(&self) -> String {
        let read = || -> io::Result<String> {
            let mut log = File::open(&self.log)?;
            let len = log.metadata()?.len();
            log.seek(SeekFrom::Start(len.saturating_sub(TAIL_LEN)))?;
            let mut tail = Vec::new();
            log.take(TAIL_LEN).read_to_end(&mut tail)?;
            Ok(String::from_utf8_lossy(&tail).trim_end().to_owned())
        };
        match read() {
            Ok(tail) if tail.is_empty() => "(it wrote nothing)".to_owned(),
            Ok(tail) => tail,
            Err(error) => format!("(its log {} cannot be read: {error})", self.log.display()),
        }
    }
}

/// A command, and where to put the child that it becomes.
type Job = (Command, Sender<io::Result<Child>>);

/// Spawns on a thread that lives as long as this program: the kernel kills a child when the *thread* that has made it
/// ends, and servers are also started again by threads that end soon.
fn spawn_for_good(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, to_do) = channel::<Job>();
        let work = move || {
            for (mut command, reply) in to_do {
                let _ = reply.send(command.spawn());
            }
        };
        std::thread::Builder::new().name("spawner".to_owned()).spawn(work).expect("a thread can be started");
        Mutex::new(jobs)
    });
    let gone = |_| io::Error::other("the thread that starts servers has ended");
    let (reply, answer) = channel();
    let job = (command, reply);
    spawner.lock().unwrap_or_else(PoisonError::into_inner).send(job).map_err(|_| gone(()))?;
    answer.recv().map_err(|_| gone(()))?
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Both fail only when it has ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> (ServerProcess, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let arguments = ["-c".to_owned(), script.to_owned()];
        let process = ServerProcess::spawn(Path::new("sh"), &arguments, &folder.path().join("log"));
        (process.expect("a shell can be started"), folder)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn output_and_exit_status_are_kept() {
        let (mut process, _folder) = shell("echo out; echo err >&2; exit 3");
        let status = process.wait_until(soon()).expect("it can be waited for").expect("it ends");
        assert_eq!(status.code(), Some(3));
        assert_eq!(process.log_tail(), "out\nerr");
        assert!(process.signal(Signal::TERM).is_ok(), "a signal to one that has ended is no error");
    }

    #[test]
    fn only_the_end_of_a_long_log_is_shown() {
        let (mut process, _folder) = shell("i=0; while [ $i -lt 1000 ]; do echo line $i; i=$((i+1)); done");
        process.wait_until(soon()).expect("it can be waited for").expect("it ends");
        let tail = process.log_tail();
        assert!(tail.ends_with("line 999") && tail.len() <= TAIL_LEN as usize);
    }

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it() {
        let (mut process, _folder) =
            std::thread::spawn(|| shell("exec sleep 600")).join().expect("the thread ends well");
        // The signal that its parent has died would have come at once.
        let soon = Instant::now() + Duration::from_millis(100);
        assert_eq!(process.wait_until(soon).expect("it can be waited for"), None);
        process.kill().expect("it can be killed");
        assert!(process.ended().expect("it has been waited for").is_some());
    }

    #[test]
    fn dropping_kills() {
        let (process, _folder) = shell("exec sleep 600");
        let stat = format!("/proc/{}/stat", process.pid());
        assert!(Path::new(&stat).exists());
        drop(process);
        assert!(!Path::new(&stat).exists(), "it has been killed and waited for");
    }
}
