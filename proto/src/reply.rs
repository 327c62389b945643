//! Reply frames: a 32-byte header, then what the operation gives back.
//!
//! | operation | body when the status is `Ok` |
//! |---|---|
//! | get | the value |
//! | increment | the sum, `i64` |
//! | time-to-live | remaining milliseconds, `u64`; `u64::MAX` for a key that does not expire |
//! | multi-get | items: `found u8`, `version u64`, `value_size u32`, value |
//! | scan | [`crate::items::ScanReplyHeader`], then items: `key_size u16`, `value_size u32`, `version u64`, key, value |
//! | status | [`crate::items::StatusBody`], then one [`crate::items::PeerStatus`] per server |
//! | transact, query | one result per command of the program: [`crate::program`] |
//! | move-primary | the view that was handed over to, `u64`; the present one if the server asked for is the primary already |
//! | all others | nothing |
//!
//! When the status is `NotPrimary`, the body is the view (`u64`); with all other refusals it is a text for a person, which may
//! be empty. The answers that are not `Ok` (`NotFound`, `VersionMismatch`, `NotANumber`) have no body.

use zerocopy::{
    FromBytes, IntoBytes,
    little_endian::{U32, U64},
};

use crate::{
    layout::layout,
    limits::REPLY_BODY_SIZE_MAX,
    operation::{Operation, Status},
    request::{FrameError, RequestHeader, check_size, check_size_early, frame_checksum},
};

layout! {
    /// Header of a server's reply.
    pub struct ReplyHeader: 32 {
        0 size: U32 = "Size of the frame, this header included, in bytes.",
        4 status: u8 = "How the request ended: a `Status`.",
        5 operation: u8 = "The operation of the request.",
        6 copies: u8 = "Number of servers on which the write was durable when it was answered; 0 for what is not logged.",
        7 reserved: u8 = "Zero.",
        8 sequence: U64 = "The sequence of the request.",
        16 version: U64 = "Version of the key: the log position of the write that made it. After a register: the session.",
        24 checksum: U64 = "Frame checksum: XXH3-64 of the 24 bytes before, mixed with XXH3-64 of all that follows the header.",
    }
}

const _: () = assert!(ReplyHeader::SIZE == RequestHeader::SIZE);

/// Largest reply frame, in bytes.
const REPLY_SIZE_MAX: usize = ReplyHeader::SIZE + REPLY_BODY_SIZE_MAX;

impl ReplyHeader {
    /// The bytes under the checksum.
    #[inline]
    fn checksummed(&self) -> &[u8; 24] {
        self.as_bytes().first_chunk().expect("the header is larger")
    }
}

/// A complete, checked reply frame, viewed in place.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    header: &'a ReplyHeader,
    body: &'a [u8],
    status: Status,
    operation: Operation,
}

impl<'a> Reply<'a> {
    /// Looks for a frame at the start of `bytes`. Returns `None` while the frame is not complete.
    ///
    /// # Errors
    ///
    /// If the bytes cannot be the start of a valid frame.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Option<Reply<'a>>, FrameError> {
        let Ok((header, rest)) = ReplyHeader::ref_from_prefix(bytes) else {
            return check_size_early(bytes, REPLY_SIZE_MAX).map(|()| None);
        };
        let body_size = check_size(header.size.get(), REPLY_SIZE_MAX)?;
        let Some(body) = rest.get(..body_size) else {
            return Ok(None);
        };
        if frame_checksum(header.checksummed(), body) != header.checksum.get() {
            return Err(FrameError::Checksum);
        }
        let status = Status::from_wire(header.status).ok_or(FrameError::UnknownStatus(header.status))?;
        let operation = Operation::from_wire(header.operation).ok_or(FrameError::UnknownOperation(header.operation))?;
        if header.reserved != 0 {
            return Err(FrameError::Reserved);
        }
        Ok(Some(Reply { header, body, status, operation }))
    }

    /// How the request ended.
    #[inline]
    pub fn status(&self) -> Status {
        self.status
    }

    /// The operation of the request.
    #[inline]
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// The sequence of the request.
    #[inline]
    pub fn sequence(&self) -> u64 {
        self.header.sequence.get()
    }

    /// Version of the key, or the session after a register.
    #[inline]
    pub fn version(&self) -> u64 {
        self.header.version.get()
    }

    /// Number of servers on which the write was durable when it was answered.
    #[inline]
    pub fn copies(&self) -> u8 {
        self.header.copies
    }

    /// What follows the header.
    #[inline]
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Whether it answers nothing, and only says that the server is there: see [`encode_keep_alive`].
    #[inline]
    pub fn is_keep_alive(&self) -> bool {
        self.sequence() == 0 && self.operation == Operation::Ping && self.status == Status::Ok
    }

    /// Size of the frame, in bytes.
    #[inline]
    pub fn size(&self) -> usize {
        ReplyHeader::SIZE + self.body.len()
    }
}

/// Appends the frame by which a server that owes answers says that it is there: the reply to a ping that nobody has sent, with
/// the sequence 0.
pub fn encode_keep_alive(out: &mut Vec<u8>) {
    let parts = ReplyParts { status: Status::Ok, operation: Operation::Ping, copies: 0, sequence: 0, version: 0 };
    encode_reply(&parts, &[], out);
}

/// The fixed part of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyParts {
    /// How the request ended.
    pub status: Status,
    /// The operation of the request.
    pub operation: Operation,
    /// Number of durable copies of a write.
    pub copies: u8,
    /// The sequence of the request.
    pub sequence: u64,
    /// Version of the key, or the session after a register.
    pub version: u64,
}

/// Appends a reply frame to `out`.
///
/// # Panics
///
/// If the body is larger than [`REPLY_BODY_SIZE_MAX`].
#[inline]
pub fn encode_reply(parts: &ReplyParts, body: &[u8], out: &mut Vec<u8>) {
    let start = begin_reply(out);
    out.extend_from_slice(body);
    finish_reply(parts, start, out);
}

/// Makes room for a reply's header, so that its body can be written straight into `out`. Returns where the frame starts,
/// for [`finish_reply`].
#[inline]
pub fn begin_reply(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; ReplyHeader::SIZE]);
    start
}

/// Writes the header of the reply that starts at `start` and ends where `out` ends.
///
/// # Panics
///
/// If `start` did not come from [`begin_reply`] on `out`, or the body is larger than [`REPLY_BODY_SIZE_MAX`].
#[inline]
pub fn finish_reply(parts: &ReplyParts, start: usize, out: &mut [u8]) {
    let size = out.len() - start;
    assert!((ReplyHeader::SIZE..=REPLY_SIZE_MAX).contains(&size));
    let mut header = ReplyHeader {
        size: U32::new(size as u32),
        status: parts.status.to_wire(),
        operation: parts.operation.to_wire(),
        copies: parts.copies,
        reserved: 0,
        sequence: U64::new(parts.sequence),
        version: U64::new(parts.version),
        checksum: U64::ZERO,
    };
    let (header_bytes, body) = out[start..].split_at_mut(ReplyHeader::SIZE);
    header.checksum = U64::new(frame_checksum(header.checksummed(), body));
    header_bytes.copy_from_slice(header.as_bytes());
}
