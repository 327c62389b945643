//! Servers that sequences are run on.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::{
    harness::{scratch_folder, wait_for},
    wire::Connection,
};

/// A `redis-server` of the test's own, in a folder of its own; it ends when dropped.
pub struct Redis {
    process: Child,
    /// Where it listens.
    pub address: SocketAddr,
    _folder: tempfile::TempDir,
}

/// One database, and values of a mebibyte at most: the bounds of ours.
const SAME_BOUNDS: [&str; 4] = ["--databases", "1", "--proto-max-bulk-len", "1048576"];

impl Redis {
    /// Starts one with the bounds of ours, and further options.
    pub fn start(program: &Path, options: &[&str]) -> Redis {
        let folder = tempfile::Builder::new().prefix("lockstep-redis-").tempdir_in(scratch_folder()).unwrap();
        // Between the look for a free port and its use, somebody else may take it: then another is tried.
        loop {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            let mut command = Command::new(program);
            command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]);
            command.arg(folder.path()).args(SAME_BOUNDS).args(options);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut redis = command.spawn().unwrap();
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let is_up = wait_for("redis-server to answer", || {
                if redis.try_wait().unwrap().is_some() {
                    return Some(false);
                }
                let reply = Connection::open(address).ok()?.ask(&["PING"]).ok()?;
                let is_locked = reply.text().is_some_and(|text| text.starts_with(b"NOAUTH"));
                (!reply.is_error() || is_locked).then_some(true)
            });
            if is_up {
                return Redis { process: redis, address, _folder: folder };
            }
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
