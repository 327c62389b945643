//! One server process and its log.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

/// How much of a log is shown when something went wrong.
const TAIL_LEN: u64 = 4096;
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A running child whose output goes to a file. Dropping it kills it.
#[derive(Debug)]
pub(super) struct ServerProcess {
    child: Child,
    log: PathBuf,
}

impl ServerProcess {
    /// Starts `program` with `arguments`; its output is appended to `log`.
    pub(super) fn spawn(program: &Path, arguments: &[String], log: &Path) -> io::Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // In a process group of its own a Ctrl-C on the terminal reaches us only, and we stop the servers in good order.
        command.process_group(0);
        // SAFETY: between fork and exec only a system call without allocation or locks is made.
        unsafe {
            command.pre_exec(|| {
                // Should we be killed, no server stays behind.
                set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from)
            });
        }
        Ok(Self { child: command.spawn()?, log: log.to_owned() })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, if it has ended.
    pub(super) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits until it has ended by itself; `None` when it has not by `deadline`.
    pub(super) fn wait_until(&mut self, deadline: Instant) -> io::Result<Option<ExitStatus>> {
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
    pub(super) fn signal(&mut self, signal: Signal) -> io::Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("the child has no process id"))?;
        Ok(kill_process(pid, signal)?)
    }

    /// The end of what it has written.
    pub(super) fn log_tail(&self) -> String {
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
    fn dropping_kills() {
        let (process, _folder) = shell("sleep 600");
        let stat = format!("/proc/{}/stat", process.pid());
        assert!(Path::new(&stat).exists());
        drop(process);
        assert!(!Path::new(&stat).exists(), "it has been killed and waited for");
    }
}
