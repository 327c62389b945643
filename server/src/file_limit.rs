//! How many files this process may have open, and what of them is kept from those who connect.
//!
//! Connections are files. If callers could use all of them up, the next checkpoint could not be written, which ends the
//! server, and the other servers could not connect. The kernel gives out the lowest number that is free, so the number
//! of a new connection says how many are open at least, and nothing has to be counted.

use std::os::fd::{AsRawFd, RawFd};

use rustix::process::{Resource, getrlimit, setrlimit};
use tracing::{info, warn};

/// Files that the process has or may need whatever the number of shards: the admin port, the standard
/// streams, the runtime's.
const FILES_OF_PROCESS: u64 = 24;

/// The same for each shard: its ring, its journal, a checkpoint that is written and one that is read, connections from
/// and to six other servers, and as many again that are just being replaced.
const FILES_OF_SHARD: u64 = 32;

/// How many files may be open, and how many of them are not for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLimit {
    limit: u64,
    reserve: u64,
}

impl FileLimit {
    /// The limit as it is now: it can be changed from outside.
    pub fn now(shards: u16) -> FileLimit {
        FileLimit::new(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), shards)
    }

    /// A `limit` that a server of so many `shards` has. Half of a limit that is very low stays with clients.
    fn new(limit: u64, shards: u16) -> FileLimit {
        let reserve = FILES_OF_PROCESS + FILES_OF_SHARD * u64::from(shards);
        FileLimit { limit, reserve: reserve.min(limit / 2) }
    }

    /// How many clients fit, other callers left out.
    pub fn room(self) -> u64 {
        self.limit - self.reserve
    }

    /// Whether a client may keep a file of this number.
    pub fn has_room_for_client(self, file: &impl AsRawFd) -> bool {
        self.is_below(file.as_raw_fd(), self.reserve)
    }

    /// Whether a caller that has not said yet who it is, another server perhaps, may.
    pub fn has_room_for_caller(self, file: &impl AsRawFd) -> bool {
        self.is_below(file.as_raw_fd(), self.reserve / 2)
    }

    fn is_below(self, file: RawFd, kept: u64) -> bool {
        u64::try_from(file).is_ok_and(|number| number < self.limit - kept)
    }

    /// Why a client is refused for want of files.
    pub fn refusal(self) -> String {
        format!(
            "of the {} files that this process may have open (ulimit -n), those are in use that are for connections",
            self.limit
        )
    }

    /// Whether `clients` at once are more than fit, in words.
    fn shortage(self, clients: u64) -> Option<String> {
        let room = self.room();
        (room < clients).then(|| {
            format!(
                "this process may have {} files open, so about {room} clients fit, not the {clients} that --connections-max and \
                 --resp-clients-max allow; for more, raise the hard limit (`ulimit -Hn`, LimitNOFILE= in a systemd unit)",
                self.limit
            )
        })
    }
}

/// Raises the number of files this process may have open to what the system allows.
pub fn raise() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        warn!("cannot raise the number of open files to its hard limit: {error}");
    }
}

/// Says so in the log if not as many clients can connect as they may. Somebody who has asked for that many is warned;
/// the usual bounds are far beyond what most need, and most containers have fewer files than that.
pub fn tell_of_shortage(shards: u16, clients: u64, are_asked_for: bool) {
    match FileLimit::now(shards).shortage(clients) {
        Some(text) if are_asked_for => warn!("{text}"),
        Some(text) => info!("{text}"),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_callers_and_the_server_itself_each_have_their_part() {
        let limit = FileLimit::new(1000, 2);
        let rooms = |number: RawFd| (limit.is_below(number, limit.reserve), limit.is_below(number, limit.reserve / 2));
        assert_eq!(limit.reserve, 88);
        assert_eq!([911, 912, 955, 956].map(rooms), [(true, true), (false, true), (false, true), (false, false)]);
        assert_eq!(FileLimit::new(60, 1), FileLimit { limit: 60, reserve: 30 });
        assert_eq!(FileLimit::new(40, 8), FileLimit { limit: 40, reserve: 20 });
        assert!(FileLimit::new(0, 1).shortage(1).is_some() && !FileLimit::new(0, 1).is_below(0, 0));
    }

    #[test]
    fn too_few_files_for_the_clients_that_are_allowed_are_told() {
        let text = FileLimit::new(4096, 1).shortage(20_000).expect("too few");
        assert!(text.contains("about 4040 clients fit, not the 20000"), "{text}");
        assert_eq!(FileLimit::new(1 << 20, 1).shortage(20_000), None);
        assert_eq!(FileLimit::new(u64::MAX, 64).shortage(20_000), None, "no limit");
    }
}
