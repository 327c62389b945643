//! The table as bytes, for checkpoints, and as a number, for comparing replicas.
//!
//! The bytes follow from the content alone: equal tables have equal bytes, whatever they went through. All numbers are
//! little-endian.
//!
//! | what | bytes |
//! |---|---|
//! | format version | 4 |
//! | bound on the number of sessions | 8 |
//! | sessions evicted so far | 8 |
//! | number of sessions | 8 |
//! | then for each session, ascending: number, last op, highest sequence | 8 + 8 + 8 |
//! | number of its requests | 2 |
//! | then for each request, the highest first: how far below the highest, status, version, value | 1 + 1 + 8 + 8 |

use lockstep_proto::{
    Status,
    checksum::Checksum128,
    limits::{COUNTER_MAX, SESSION_WINDOW},
};
use thiserror::Error;

use super::{Begin, Sessions, StoredReply, window::Window};

/// Version of the format.
const FORMAT: u32 = 1;

/// Bytes of a session without requests.
const SESSION_SIZE: usize = 26;

/// Stands in the hash for the status of a request in progress. Not the wire value of any [`Status`].
const IN_PROGRESS: u8 = u8::MAX;

/// Why bytes are not a table of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SessionsError {
    /// Written by another version.
    #[error("format {0} of the session table is not known")]
    Format(u32),
    /// The table was kept under another bound.
    #[error(
        "the session table was kept for at most {theirs} sessions, and this server is set to {ours}: replicas with \
         different bounds would evict different sessions; set it back to {theirs}"
    )]
    Bound {
        /// The bound under which it was kept.
        theirs: u64,
        /// The bound given now.
        ours: u64,
    },
    /// The bytes end too early.
    #[error("the session table ends too early")]
    Truncated,
    /// There are bytes after the table.
    #[error("{0} bytes follow the session table")]
    Trailing(usize),
    /// More sessions than the bound, or more requests in a session than the window has.
    #[error("{0} entries are more than the session table can hold")]
    Count(u64),
    /// Sessions, or a session's requests, are not in order.
    #[error("session {0} is damaged or out of order")]
    Session(u64),
    /// A session is from after the point that the table is said to be from.
    #[error("session {session} is newer than the log position of its table")]
    Newer {
        /// The session.
        session: u64,
    },
}

impl Sessions {
    /// Appends the table to `out`.
    ///
    /// # Panics
    ///
    /// If a request is in progress: a checkpoint is made between batches.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_pieces(|piece, is_settled| {
            assert!(is_settled, "a checkpoint is made between batches");
            out.extend_from_slice(piece);
        });
    }

    /// A number for the content: equal for equal tables, on every replica.
    pub fn content_hash(&self) -> u128 {
        let mut checksum = Checksum128::new();
        self.encode_pieces(|piece, _| checksum.update(piece));
        checksum.finish()
    }

    /// Gives the bytes of the table to `take`, piece by piece, each with whether none of its requests is in progress.
    fn encode_pieces(&self, mut take: impl FnMut(&[u8], bool)) {
        let mut piece = Vec::with_capacity(SESSION_SIZE + SESSION_WINDOW * 18);
        self.encode_head(&mut piece);
        take(&piece, true);
        for (session, window) in self.iter() {
            piece.clear();
            let is_settled = encode_session(session, window, &mut piece);
            take(&piece, is_settled);
        }
    }

    /// Appends what comes before the sessions.
    pub(super) fn encode_head(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&FORMAT.to_le_bytes());
        for number in [self.sessions_max as u64, self.evicted_total, self.len() as u64] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    /// Reads a table that [`Sessions::encode`] wrote.
    ///
    /// What is accepted is a table that could have been written, byte for byte. Memory is bounded by `sessions_max`,
    /// and by the length of `bytes`.
    ///
    /// # Errors
    ///
    /// If it is not such a table, or was kept under another bound than `sessions_max`.
    ///
    /// # Panics
    ///
    /// If `sessions_max` is 0.
    pub fn decode(bytes: &[u8], sessions_max: usize) -> Result<Sessions, SessionsError> {
        let mut sessions = Sessions::new(sessions_max);
        let mut rest = Rest(bytes);
        let format = u32::from_le_bytes(rest.take()?);
        if format != FORMAT {
            return Err(SessionsError::Format(format));
        }
        let (theirs, ours) = (rest.number()?, sessions_max as u64);
        if theirs != ours {
            return Err(SessionsError::Bound { theirs, ours });
        }
        sessions.evicted_total = rest.number()?;
        let count = rest.number()?;
        if count > ours || sessions.evicted_total > COUNTER_MAX {
            return Err(SessionsError::Count(count));
        }
        let mut newest = 0;
        for _ in 0..count {
            let session = rest.number()?;
            if session <= newest || session > COUNTER_MAX {
                return Err(SessionsError::Session(session));
            }
            newest = session;
            sessions.insert(session, decode_window(session, &mut rest)?);
        }
        // Only a full table evicts, and it stays full.
        if sessions.evicted_total > 0 && count < ours {
            return Err(SessionsError::Count(count));
        }
        if rest.0.is_empty() { Ok(sessions) } else { Err(SessionsError::Trailing(rest.0.len())) }
    }

    /// Checks that every session was registered below `revision`, the next one to be given, and used at or below `op`,
    /// the last one applied. To be asked after reading a table from a file, before it is used.
    ///
    /// # Errors
    ///
    /// If a session is newer than that.
    pub fn check_within(&self, op: u64, revision: u64) -> Result<(), SessionsError> {
        match self.iter().find(|(session, window)| *session >= revision || window.last_op > op) {
            Some((session, _)) => Err(SessionsError::Newer { session }),
            None => Ok(()),
        }
    }
}

/// Appends one session to `out`. Returns whether none of its requests is in progress.
pub(super) fn encode_session(session: u64, window: &Window, out: &mut Vec<u8>) -> bool {
    for number in [session, window.last_op, window.highest()] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    let count_at = out.len();
    out.extend_from_slice(&[0, 0]);
    let (mut count, mut is_settled) = (0u16, true);
    for (age, reply) in window.iter() {
        let (status, version, value) = match reply {
            Some(reply) => (reply.status.to_wire(), reply.version, reply.value),
            None => (IN_PROGRESS, 0, 0),
        };
        is_settled &= reply.is_some();
        count += 1;
        out.extend_from_slice(&[age, status]);
        out.extend_from_slice(&version.to_le_bytes());
        out.extend_from_slice(&value.to_le_bytes());
    }
    out[count_at..count_at + 2].copy_from_slice(&count.to_le_bytes());
    is_settled
}

fn decode_window(session: u64, rest: &mut Rest<'_>) -> Result<Window, SessionsError> {
    let damaged = SessionsError::Session(session);
    let (last_op, highest) = (rest.number()?, rest.number()?);
    let count = u16::from_le_bytes(rest.take()?) as usize;
    if last_op > COUNTER_MAX || highest > COUNTER_MAX {
        return Err(damaged);
    }
    // The highest request begun is always in the window, so one without the other cannot be.
    if (highest == 0) != (count == 0) {
        return Err(damaged);
    }
    if count > SESSION_WINDOW {
        return Err(SessionsError::Count(count as u64));
    }
    let mut window = Window::new(last_op);
    let mut age_expected_min = 0;
    for index in 0..count {
        let [age, status] = rest.take()?;
        let reply = StoredReply {
            status: Status::from_wire(status).ok_or(damaged)?,
            version: rest.number()?,
            value: rest.number()?,
        };
        let age = u64::from(age);
        if age < age_expected_min || age >= highest || (index == 0 && age > 0) {
            return Err(damaged);
        }
        age_expected_min = age + 1;
        // From the highest down, so each is new to a window whose end is known from the first.
        let begin = window.begin(highest - age);
        assert_eq!(begin, Begin::New);
        window.finish(highest - age, reply);
    }
    Ok(window)
}

/// Bytes not read yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const SIZE: usize>(&mut self) -> Result<[u8; SIZE], SessionsError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(SessionsError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn number(&mut self) -> Result<u64, SessionsError> {
        self.take().map(u64::from_le_bytes)
    }
}
