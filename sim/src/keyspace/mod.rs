//! What operations and programs make of keys: a second implementation, naive and independent of the store's.
//!
//! It is used in two ways. The facts carry the committed log out on it, where time and place of everything are known.
//! The checker of groups of keys carries out what clients asked for, where they are known within bounds only: when a
//! program ran, and so when a key expires, and which version a write of unknown outcome made. So times are intervals
//! here, and versions may be open. With exact times and versions, every answer is exact, too.

mod expected;
mod extended;
mod native;
mod program;
mod room;

use std::{collections::BTreeMap, rc::Rc};

use lockstep_proto::{Operation, Status, program::Commands, request::Request};

pub use expected::{Body, Expect, Expected, says_otherwise};

/// Some bytes that are never changed.
pub type Bytes = Rc<[u8]>;

/// The version of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// This.
    Exact(u64),
    /// That of a write of unknown outcome: between two bounds, both excluded.
    Open {
        /// Which write.
        writer: u32,
        /// It is higher than this.
        above: u64,
        /// It is lower than this.
        below: u64,
    },
}

impl Version {
    /// No version.
    pub const NONE: Version = Version::Exact(0);

    /// It is at least this.
    pub fn least(&self) -> u64 {
        match *self {
            Version::Exact(own) => own,
            Version::Open { above, .. } => above + 1,
        }
    }

    /// Whether it can be this.
    pub fn may_be(&self, version: u64) -> bool {
        match *self {
            Version::Exact(own) => own == version,
            Version::Open { above, below, .. } => (above + 1..below).contains(&version),
        }
    }
}

/// A time that is known within bounds, both included, in ns since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Time {
    /// Not before this.
    pub earliest_ns: u64,
    /// Not after this.
    pub latest_ns: u64,
}

impl Time {
    /// A time that is known.
    pub fn exact(ns: u64) -> Time {
        Time { earliest_ns: ns, latest_ns: ns }
    }

    fn map(self, change: impl Fn(u64) -> u64) -> Time {
        Time { earliest_ns: change(self.earliest_ns), latest_ns: change(self.latest_ns) }
    }

    /// Whether it can be this.
    pub fn may_be(&self, ns: u64) -> bool {
        (self.earliest_ns..=self.latest_ns).contains(&ns)
    }

    fn is_exact(&self) -> bool {
        self.earliest_ns == self.latest_ns
    }

    /// The later of two times, as far as that is known.
    fn later(self, other: Time) -> Time {
        let earliest_ns = self.earliest_ns.max(other.earliest_ns);
        Time { earliest_ns, latest_ns: self.latest_ns.max(other.latest_ns) }
    }

    /// The earlier of two times, as far as that is known.
    fn earlier(self, other: Time) -> Time {
        let earliest_ns = self.earliest_ns.min(other.earliest_ns);
        Time { earliest_ns, latest_ns: self.latest_ns.min(other.latest_ns) }
    }

    /// Whether it is before another.
    fn is_before(&self, other: &Time) -> Is {
        match (self.latest_ns < other.earliest_ns, self.earliest_ns < other.latest_ns) {
            (true, _) => Is::So,
            (false, true) => Is::Perhaps,
            (false, false) => Is::No,
        }
    }
}

/// Whether something is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Is {
    No,
    Perhaps,
    So,
}

/// When and as what an operation is carried out.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// When.
    pub time: Time,
    /// The version of what it writes.
    pub version: Version,
}

/// A key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Its value.
    pub value: Bytes,
    /// Its version.
    pub version: Version,
    /// When it expires.
    pub expiry: Option<Time>,
}

/// Keys and what they hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Keyspace {
    entries: BTreeMap<Bytes, Entry>,
}

impl Keyspace {
    /// A key, if it exists; one that may have expired does.
    pub fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// The keys that may have expired by a time.
    pub fn may_expire_by(&self, now_ns: u64) -> impl Iterator<Item = &Bytes> {
        let may = move |entry: &Entry| entry.expiry.is_some_and(|expiry| expiry.earliest_ns <= now_ns);
        self.entries.iter().filter(move |(_, entry)| may(entry)).map(|(key, _)| key)
    }

    /// The keys go that have certainly expired.
    pub fn drop_expired(&mut self, now: Time) {
        self.entries.retain(|_, entry| entry.expiry.is_none_or(|expiry| expiry.latest_ns > now.earliest_ns));
    }

    /// A key goes.
    pub fn remove(&mut self, key: &[u8]) -> Option<Entry> {
        self.entries.remove(key)
    }

    /// Every key.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, &Entry)> {
        self.entries.iter()
    }

    /// The versions that are open are below this.
    pub fn bound(&mut self, revision: u64) {
        for entry in self.entries.values_mut() {
            if let Version::Open { below, .. } = &mut entry.version {
                *below = revision.min(*below);
            }
        }
    }

    /// The write of unknown outcome has made this version.
    pub fn bind(&mut self, bound: u32, version: u64) {
        for entry in self.entries.values_mut() {
            if matches!(entry.version, Version::Open { writer, .. } if writer == bound) {
                entry.version = Version::Exact(version);
            }
        }
    }

    /// Carries out a request, a read or one of the log. `is_otherwise` is followed where it cannot be known whether a
    /// key is as the request asks it to be: by the checks of a program, or by a compare-and-set.
    pub fn carry_out(&mut self, moment: &Moment, request: &Request<'_>, is_otherwise: bool) -> Expected {
        self.drop_expired(moment.time);
        match request.operation() {
            Operation::Transact | Operation::Query => {
                let version = if request.operation() == Operation::Query { Version::NONE } else { moment.version };
                let results = self.program(moment, request.program(), is_otherwise);
                Expected { status: Status::Ok, version, body: Body::Results(results) }
            }
            _ => self.native(moment, request, is_otherwise),
        }
    }

    fn write(&mut self, moment: &Moment, key: &[u8], value: Bytes, expiry: Option<Time>) {
        self.entries.insert(key.into(), Entry { value, version: moment.version, expiry });
    }

    fn set_expiry(&mut self, moment: &Moment, key: &[u8], expiry: Option<Time>) {
        if is_over(moment, expiry) {
            self.remove(key);
        } else if let Some(entry) = self.entries.get_mut(key) {
            entry.expiry = expiry;
        }
    }
}

/// Whether an expiry has certainly come.
fn is_over(moment: &Moment, expiry: Option<Time>) -> bool {
    expiry.is_some_and(|expiry| expiry.latest_ns <= moment.time.earliest_ns)
}

/// The keys that a request has to do with.
pub fn keys_of<'a>(request: &Request<'a>) -> Vec<&'a [u8]> {
    match request.operation() {
        Operation::Transact | Operation::Query => {
            Commands::new(request.program()).flat_map(|command| command.keys().collect::<Vec<_>>()).collect()
        }
        _ => vec![request.key()],
    }
}

/// A whole number as an increment writes it.
fn number(value: &[u8]) -> Option<i64> {
    let number: i64 = str::from_utf8(value).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == value).then_some(number)
}
