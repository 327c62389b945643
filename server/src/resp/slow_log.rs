//! The commands that took long: SLOWLOG.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};

use super::{arguments::Arguments, stats::lock};

/// Bytes of a command that are kept until it is answered.
pub(super) const GLIMPSE_SIZE: usize = 32;

/// What is kept of a command until it is answered, for the case that it takes long: no more than fits in place, because
/// it is kept of every command.
#[derive(Clone, Copy, Debug, Default)]
pub struct Glimpse {
    /// Arguments, the name included.
    count: u32,
    /// Size of the first argument behind the name or the subcommand's name, in bytes.
    size: u32,
    /// How it begins.
    begin: [u8; GLIMPSE_SIZE],
}

impl Glimpse {
    /// Looks at a command whose name consists of so many words.
    #[inline]
    pub fn of(arguments: &Arguments<'_>, words: usize) -> Glimpse {
        let mut glimpse = Glimpse { count: arguments.len() as u32, ..Glimpse::default() };
        if let Some(argument) = arguments.find(words) {
            glimpse.size = argument.len() as u32;
            let size = argument.len().min(GLIMPSE_SIZE);
            glimpse.begin[..size].copy_from_slice(&argument[..size]);
        }
        glimpse
    }

    fn show(&self, name: &str) -> Vec<Vec<u8>> {
        let mut words: Vec<Vec<u8>> = name.split('|').map(|word| word.as_bytes().to_vec()).collect();
        let count = self.count as usize;
        if count > words.len() {
            let shown = (self.size as usize).min(GLIMPSE_SIZE);
            let mut word = self.begin[..shown].to_vec();
            if self.size as usize > shown {
                word.extend_from_slice(format!("... ({} more bytes)", self.size as usize - shown).as_bytes());
            }
            words.push(word);
        }
        if count > words.len() {
            words.push(format!("... ({} more arguments)", count - words.len()).into_bytes());
        }
        words
    }
}

/// A command that took long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowCommand {
    /// Its number in the log.
    pub id: u64,
    /// When it was answered, in s since 1970.
    pub answered_s: u64,
    /// How long it took, in µs.
    pub latency_us: u64,
    /// Its name and how its arguments begin.
    pub words: Vec<Vec<u8>>,
    /// Who gave it.
    pub peer: SocketAddr,
    /// What that client is called.
    pub client_name: Vec<u8>,
}

/// The commands that took longest ago to last.
#[derive(Debug)]
pub struct SlowLog {
    /// Time beyond which a command is entered, in µs; negative for never.
    pub threshold_us: AtomicI64,
    /// Most entries.
    pub len_max: AtomicU64,
    next_id: AtomicU64,
    entries: Mutex<VecDeque<SlowCommand>>,
}

/// Most entries that `slowlog-max-len` can ask for.
pub const SLOW_LOG_LEN_LIMIT: u64 = 10_000;

impl Default for SlowLog {
    fn default() -> SlowLog {
        SlowLog {
            threshold_us: AtomicI64::new(10_000),
            len_max: AtomicU64::new(128),
            next_id: AtomicU64::new(0),
            entries: Mutex::default(),
        }
    }
}

impl SlowLog {
    /// Whether a command took so long that it is to be entered.
    #[inline]
    pub fn takes(&self, latency_ns: u64) -> bool {
        let threshold_us = self.threshold_us.load(Relaxed);
        threshold_us >= 0 && latency_ns / 1000 >= threshold_us as u64
    }

    /// Enters a command. `name` is its full name.
    pub fn enter(
        &self,
        name: &str,
        glimpse: &Glimpse,
        latency_ns: u64,
        wall_ns: u64,
        peer: SocketAddr,
        client_name: Vec<u8>,
    ) {
        let entry = SlowCommand {
            id: self.next_id.fetch_add(1, Relaxed),
            answered_s: wall_ns / 1_000_000_000,
            latency_us: latency_ns / 1000,
            words: glimpse.show(name),
            peer,
            client_name,
        };
        lock(&self.entries).push_front(entry);
        self.trim();
    }

    /// Forgets what is beyond the bound.
    pub fn trim(&self) {
        lock(&self.entries).truncate(self.len_max.load(Relaxed).min(SLOW_LOG_LEN_LIMIT) as usize);
    }

    /// The latest entries first, at most so many.
    pub fn latest(&self, count: usize) -> Vec<SlowCommand> {
        lock(&self.entries).iter().take(count).cloned().collect()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        lock(&self.entries).len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets all.
    pub fn clear(&self) {
        lock(&self.entries).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slow_log_keeps_the_latest_and_shows_how_commands_begin() {
        let log = SlowLog::default();
        assert!(!log.takes(9_999_999) && log.takes(10_000_000));
        log.threshold_us.store(-1, Relaxed);
        assert!(!log.takes(u64::MAX));
        log.len_max.store(2, Relaxed);
        let peer = "127.0.0.1:5".parse().expect("an address");
        let buffer = [b'k'; 40];
        let spans = [(0, 3), (0, 40), (0, 1), (0, 1)];
        let glimpse = Glimpse::of(&Arguments::new(&buffer, &spans), 1);
        for _ in 0..3 {
            log.enter("set", &glimpse, 20_000_000, 5_000_000_000, peer, b"me".to_vec());
        }
        let entries = log.latest(10);
        assert_eq!(entries.iter().map(|entry| entry.id).collect::<Vec<_>>(), [2, 1]);
        let words: Vec<_> = entries[0].words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        assert_eq!(
            words,
            ["set".to_owned(), "k".repeat(32) + "... (8 more bytes)", "... (2 more arguments)".to_owned()]
        );
        log.clear();
        assert!(log.is_empty());
    }
}
