//! Client request frames: a 32-byte header, then the key, then what the operation needs.
//!
//! | operation | key | after the key |
//! |---|---|---|
//! | register, ping, status | none | nothing |
//! | get, exists, delete, time-to-live | the key | nothing |
//! | put | the key | `[ttl_ms u64]` if flagged, then the value |
//! | compare-and-set | the key | `version u64`, `[ttl_ms u64]` if flagged, then the value |
//! | increment | the key | `delta i64` |
//! | expire | the key | `ttl_ms u64`, 0 to take a time-to-live away |
//! | multi-get | none | items: `key_size u16`, key |
//! | multi-put | none | `[ttl_ms u64]` if flagged, then items: `key_size u16`, `value_size u32`, key, value |
//! | scan | none | [`crate::items::ScanArguments`] |
//! | move-primary | none | `server u8`: the one that is to become primary, 255 if any other will do |
//! | transact, query | none | a program: [`crate::program`] |
//!
//! A frame is journalled, sent to the backups and applied as the bytes that arrived: nothing is parsed into another form.

use thiserror::Error;
use zerocopy::{
    FromBytes, IntoBytes,
    little_endian::{U16, U32, U64},
};

use crate::{
    checksum::checksum_64,
    items::{MultiGetItems, MultiPutItems, ScanArguments},
    layout::layout,
    limits::{COUNTER_MAX, KEY_SIZE_MAX, REQUEST_SIZE_MAX, TTL_MS_MAX, VALUE_SIZE_MAX},
    operation::Operation,
    program,
    shape::{Rest, Shape},
};

layout! {
    /// Header of a client's request.
    pub struct RequestHeader: 32 {
        0 size: U32 = "Size of the frame, this header included, in bytes.",
        4 operation: u8 = "What is asked for: an `Operation`.",
        5 flags: u8 = "`FLAG_TTL` and `FLAG_STALE`; all other bits are zero.",
        6 key_size: U16 = "Size of the key that follows the header, in bytes.",
        8 session: U64 = "The session of a logged operation, as its register was answered; 0 for all others, and for what the Redis front door puts into the log.",
        16 sequence: U64 = "The client's number for this request, counted up from 1; comes back in the reply.",
        24 checksum: U64 = "Frame checksum: XXH3-64 of the 24 bytes before, mixed with XXH3-64 of all that follows the header. 0 in a request of the Redis front door, which is covered by the checksum of its prepare.",
    }
}

impl RequestHeader {
    /// The bytes under the checksum.
    #[inline]
    fn checksummed(&self) -> &[u8; 24] {
        self.as_bytes().first_chunk().expect("the header is larger")
    }
}

/// The request carries a time-to-live: 8 bytes of milliseconds.
pub const FLAG_TTL: u8 = 1;
/// The read may be answered from this replica's own state, which may be old.
pub const FLAG_STALE: u8 = 2;

/// The server of a move-primary request that leaves the choice to the primary.
pub const MOVE_TO_ANY: u8 = u8::MAX;

/// Why a frame is refused. The connection it came on cannot be trusted any more and is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Smaller than its own header.
    #[error("frame size {0} is smaller than its header")]
    TooSmall(u32),
    /// Beyond the bound.
    #[error("frame size {size} is beyond the bound of {max} bytes")]
    TooLarge {
        /// What the frame says.
        size: u32,
        /// The bound it breaks.
        max: usize,
    },
    /// The checksum does not fit the bytes.
    #[error("checksum does not match the frame's bytes")]
    Checksum,
    /// No such operation.
    #[error("unknown operation {0}")]
    UnknownOperation(u8),
    /// No such status.
    #[error("unknown status {0}")]
    UnknownStatus(u8),
    /// A flag that does not exist or that the operation does not take.
    #[error("flags {0:#04x} are not valid for this operation")]
    Flags(u8),
    /// The key size does not fit the frame or the operation.
    #[error("key size {0} is not valid here")]
    KeySize(u16),
    /// The body is not what the operation needs.
    #[error("the body does not have the shape its operation needs")]
    Body,
    /// A value is larger than the bound.
    #[error("value of {0} bytes is larger than the bound")]
    ValueSize(usize),
    /// A time-to-live of zero or beyond the bound.
    #[error("time-to-live of {0} ms is out of range")]
    TimeToLive(u64),
    /// A logged operation without a session or sequence, or another one with a session.
    #[error("session or sequence missing, or given where there is none")]
    Session,
    /// Bytes that must be zero are not.
    #[error("reserved bytes are not zero")]
    Reserved,
}

/// A complete, checked request frame, viewed in place.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    header: &'a RequestHeader,
    body: &'a [u8],
    operation: Operation,
}

impl<'a> Request<'a> {
    /// Looks for a frame at the start of `bytes`.
    ///
    /// Returns `None` while the frame is not complete. A returned request has passed the checksum and every check of shape,
    /// so its accessors cannot fail.
    ///
    /// # Errors
    ///
    /// If the bytes cannot be the start of a valid frame, as early as that can be seen.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Option<Request<'a>>, FrameError> {
        let Ok((header, rest)) = RequestHeader::ref_from_prefix(bytes) else {
            return check_size_early(bytes, REQUEST_SIZE_MAX).map(|()| None);
        };
        let body_size = check_size(header.size.get(), REQUEST_SIZE_MAX)?;
        let Some(body) = rest.get(..body_size) else {
            return Ok(None);
        };
        if frame_checksum(header.checksummed(), body) != header.checksum.get() {
            return Err(FrameError::Checksum);
        }
        let operation = Operation::from_wire(header.operation).ok_or(FrameError::UnknownOperation(header.operation))?;
        let request = Request { header, body, operation };
        request.check_shape()?;
        // What has no session is carried out each time it arrives, which only the server's own front door may ask for.
        if request.is_sessionless() {
            return Err(FrameError::Session);
        }
        Ok(Some(request))
    }

    /// Views a frame that was checked before: one out of a prepare whose checksum is right, or one that this server made.
    ///
    /// Returns the request and the bytes after it; `None` if `bytes` does not start with a whole, well-shaped frame. The frame's own
    /// checksum is not computed again, because the prepare's checksum covers it.
    /// Unlike [`Request::parse`] it takes logged requests without a session.
    #[inline]
    pub fn parse_trusted(bytes: &'a [u8]) -> Option<(Request<'a>, &'a [u8])> {
        let (header, rest) = RequestHeader::ref_from_prefix(bytes).ok()?;
        let body_size = check_size(header.size.get(), REQUEST_SIZE_MAX).ok()?;
        let (body, rest) = rest.split_at_checked(body_size)?;
        let request = Request { header, body, operation: Operation::from_wire(header.operation)? };
        request.check_shape().ok()?;
        Some((request, rest))
    }

    /// What is asked for.
    #[inline]
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// The header, in place.
    #[inline]
    pub fn header(&self) -> &'a RequestHeader {
        self.header
    }

    /// The client's number for this request.
    #[inline]
    pub fn sequence(&self) -> u64 {
        self.header.sequence.get()
    }

    /// The session, 0 when the operation has none.
    #[inline]
    pub fn session(&self) -> u64 {
        self.header.session.get()
    }

    /// Size of the frame, in bytes.
    #[inline]
    pub fn size(&self) -> usize {
        RequestHeader::SIZE + self.body.len()
    }

    /// Whether it goes through the log outside of any session: it is carried out as often as it is in the log. The Redis front
    /// door, whose clients cannot name a request when they ask again, puts such requests there, each once.
    #[inline]
    pub fn is_sessionless(&self) -> bool {
        self.header.session.get() == 0 && self.operation.is_logged() && self.operation != Operation::Register
    }

    /// The program of a transact or query; empty for all other operations.
    #[inline]
    pub fn program(&self) -> &'a [u8] {
        match self.operation {
            Operation::Transact | Operation::Query => self.body,
            _ => &[],
        }
    }

    /// Whether an answer from this replica's own, possibly old, state is allowed.
    #[inline]
    pub fn is_stale_allowed(&self) -> bool {
        self.header.flags & FLAG_STALE != 0
    }

    /// The key; empty for operations without one.
    #[inline]
    pub fn key(&self) -> &'a [u8] {
        &self.body[..self.header.key_size.get() as usize]
    }

    /// Everything after the key.
    #[inline]
    pub fn arguments(&self) -> &'a [u8] {
        &self.body[self.header.key_size.get() as usize..]
    }

    /// The version a compare-and-set expects, 0 for "does not exist".
    ///
    /// # Panics
    ///
    /// If the operation is not a compare-and-set.
    pub fn expected_version(&self) -> u64 {
        assert_eq!(self.operation, Operation::CompareAndSet);
        read_u64(self.arguments())
    }

    /// What an increment adds.
    ///
    /// # Panics
    ///
    /// If the operation is not an increment.
    pub fn delta(&self) -> i64 {
        assert_eq!(self.operation, Operation::Increment);
        read_u64(self.arguments()) as i64
    }

    /// The time-to-live in milliseconds; `None` if the request gives none (for expire: takes it away).
    #[inline]
    pub fn ttl_ms(&self) -> Option<u64> {
        match self.operation {
            Operation::Expire => Some(read_u64(self.arguments())).filter(|&ttl_ms| ttl_ms != 0),
            Operation::CompareAndSet if self.header.flags & FLAG_TTL != 0 => Some(read_u64(&self.arguments()[8..])),
            Operation::Put | Operation::MultiPut if self.header.flags & FLAG_TTL != 0 => {
                Some(read_u64(self.arguments()))
            }
            _ => None,
        }
    }

    /// The value that a put or compare-and-set writes; empty for all others.
    #[inline]
    pub fn value(&self) -> &'a [u8] {
        let ttl_size = if self.header.flags & FLAG_TTL != 0 { 8 } else { 0 };
        match self.operation {
            Operation::Put => &self.arguments()[ttl_size..],
            Operation::CompareAndSet => &self.arguments()[8 + ttl_size..],
            _ => &[],
        }
    }

    /// The keys of a multi-get; none for all other operations.
    pub fn multi_get_items(&self) -> MultiGetItems<'a> {
        let items = if self.operation == Operation::MultiGet { self.arguments() } else { &[] };
        MultiGetItems::new(items)
    }

    /// The keys and values of a multi-put; none for all other operations.
    pub fn multi_put_items(&self) -> MultiPutItems<'a> {
        let ttl_size = if self.header.flags & FLAG_TTL != 0 { 8 } else { 0 };
        let items = if self.operation == Operation::MultiPut { &self.arguments()[ttl_size..] } else { &[] };
        MultiPutItems::new(items)
    }

    /// The arguments of a scan; `None` for all other operations.
    pub fn scan_arguments(&self) -> Option<&'a ScanArguments> {
        if self.operation != Operation::Scan {
            return None;
        }
        ScanArguments::ref_from_bytes(self.arguments()).ok()
    }

    /// The server that a move-primary request names; `None` if it leaves the choice to the primary.
    ///
    /// # Panics
    ///
    /// If the operation is not a move of the primary.
    pub fn move_to(&self) -> Option<u8> {
        assert_eq!(self.operation, Operation::MovePrimary);
        Some(self.arguments()[0]).filter(|&server| server != MOVE_TO_ANY)
    }

    /// Checks everything that the accessors take for granted.
    #[inline]
    fn check_shape(&self) -> Result<(), FrameError> {
        let shape = Shape::of(self.operation);
        let header = self.header;
        let key_size = header.key_size.get();
        let Some(arguments) = self.body.get(usize::from(key_size)..) else {
            return Err(FrameError::KeySize(key_size));
        };
        if shape.has_key != (key_size != 0) {
            return Err(FrameError::KeySize(key_size));
        }
        if header.flags & !shape.flags != 0 {
            return Err(FrameError::Flags(header.flags));
        }
        let is_sequence_valid = (1..=COUNTER_MAX).contains(&header.sequence.get());
        let has_session = header.session.get() != 0;
        if (has_session && !shape.has_session) || !is_sequence_valid {
            return Err(FrameError::Session);
        }
        let Some(rest) = arguments.get(usize::from(shape.version_size)..) else {
            return Err(FrameError::Body);
        };
        let rest = if header.flags & FLAG_TTL == 0 { rest } else { split_ttl(rest)? };
        match shape.rest {
            Rest::Value if rest.len() > VALUE_SIZE_MAX => Err(FrameError::ValueSize(rest.len())),
            Rest::Value => Ok(()),
            kind => check_rest(kind, rest),
        }
    }
}

/// Checks a time-to-live and returns what follows it.
fn split_ttl(bytes: &[u8]) -> Result<&[u8], FrameError> {
    let (ttl_ms, rest) = U64::read_from_prefix(bytes).map_err(|_| FrameError::Body)?;
    match ttl_ms.get() {
        1..=TTL_MS_MAX => Ok(rest),
        ttl_ms => Err(FrameError::TimeToLive(ttl_ms)),
    }
}

/// Checks what stands at the end of a frame.
fn check_rest(kind: Rest, rest: &[u8]) -> Result<(), FrameError> {
    let is_sound = match kind {
        Rest::Nothing => rest.is_empty(),
        Rest::Value => rest.len() <= VALUE_SIZE_MAX,
        Rest::Keys => return MultiGetItems::check(rest),
        Rest::KeysAndValues => return MultiPutItems::check(rest),
        Rest::Delta => rest.len() == 8,
        Rest::Server => rest.len() == 1,
        Rest::Program(is_read_only) => return program::check(rest, is_read_only),
        Rest::TimeToLive if rest.len() == 8 => match read_u64(rest) {
            0..=TTL_MS_MAX => true,
            ttl_ms => return Err(FrameError::TimeToLive(ttl_ms)),
        },
        Rest::TimeToLive => false,
        Rest::Scan => match ScanArguments::ref_from_bytes(rest) {
            Ok(scan) => return scan.check(),
            Err(_) => false,
        },
    };
    if is_sound { Ok(()) } else { Err(FrameError::Body) }
}

#[inline]
fn read_u64(bytes: &[u8]) -> u64 {
    let (number, _) = U64::read_from_prefix(bytes).expect("the shape of the request was checked");
    number.get()
}

/// Checksum of a frame, request or reply: everything but the last 8 bytes of its 32-byte header.
///
/// With `h` for XXH3-64 it is `h(header)` when nothing follows the header, else `h(header) * 0x9E3779B97F4A7C15 ^ h(body)`.
/// The multiplication, by an odd number and so without loss, keeps equal sums of header and body from cancelling each other.
#[inline]
pub(crate) fn frame_checksum(header: &[u8; 24], body: &[u8]) -> u64 {
    let header = checksum_64(header);
    if body.is_empty() { header } else { header.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ checksum_64(body) }
}

/// What is known of a frame whose header is not complete: its size, once there are four bytes.
#[cold]
pub(crate) fn check_size_early(bytes: &[u8], size_max: usize) -> Result<(), FrameError> {
    match U32::read_from_prefix(bytes) {
        Ok((size, _)) => check_size(size.get(), size_max).map(|_| ()),
        Err(_) => Ok(()),
    }
}

/// The size of a frame's body, if the frame's size is within its bounds.
#[inline]
pub(crate) fn check_size(size: u32, size_max: usize) -> Result<usize, FrameError> {
    if size as usize > size_max {
        return Err(FrameError::TooLarge { size, max: size_max });
    }
    (size as usize).checked_sub(RequestHeader::SIZE).ok_or(FrameError::TooSmall(size))
}

/// The header of a request that the server makes itself: without a session, and without a checksum, because the one of the
/// prepare covers it.
///
/// The request is for [`Request::parse_trusted`]: it never goes over a client's connection.
///
/// # Panics
///
/// If the key or the whole frame is beyond the bounds of [`crate::limits`].
#[inline]
pub fn own_header(operation: Operation, flags: u8, sequence: u64, key_size: usize, rest_size: usize) -> RequestHeader {
    let size = RequestHeader::SIZE + key_size + rest_size;
    assert!(key_size <= KEY_SIZE_MAX && size <= REQUEST_SIZE_MAX);
    RequestHeader {
        size: U32::new(size as u32),
        operation: operation.to_wire(),
        flags,
        key_size: U16::new(key_size as u16),
        session: U64::ZERO,
        sequence: U64::new(sequence),
        checksum: U64::ZERO,
    }
}

/// What goes into a request frame.
#[derive(Clone, Copy, Debug)]
pub struct RequestParts<'a> {
    /// What is asked for.
    pub operation: Operation,
    /// [`FLAG_TTL`] and [`FLAG_STALE`].
    pub flags: u8,
    /// The session, 0 for operations that have none.
    pub session: u64,
    /// The client's number for this request.
    pub sequence: u64,
    /// The key, at most [`KEY_SIZE_MAX`] bytes.
    pub key: &'a [u8],
    /// Fixed-size arguments that stand before the value: version, delta, time-to-live, scan arguments.
    pub arguments: &'a [u8],
    /// The value, or the items of an operation with several keys.
    pub value: &'a [u8],
}

/// Appends a request frame to `out`. Returns its size in bytes.
///
/// The frame is not checked for shape; a server refuses what is wrong with it.
///
/// # Panics
///
/// If the key or the whole frame is beyond the bounds of [`crate::limits`].
pub fn encode_request(parts: &RequestParts<'_>, out: &mut Vec<u8>) -> usize {
    assert!(parts.key.len() <= KEY_SIZE_MAX);
    let size = RequestHeader::SIZE + parts.key.len() + parts.arguments.len() + parts.value.len();
    assert!(size <= REQUEST_SIZE_MAX);
    let start = out.len();
    let mut header = RequestHeader {
        size: U32::new(size as u32),
        operation: parts.operation.to_wire(),
        flags: parts.flags,
        key_size: U16::new(parts.key.len() as u16),
        session: U64::new(parts.session),
        sequence: U64::new(parts.sequence),
        checksum: U64::ZERO,
    };
    out.reserve(size);
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(parts.key);
    out.extend_from_slice(parts.arguments);
    out.extend_from_slice(parts.value);
    header.checksum = U64::new(frame_checksum(header.checksummed(), &out[start + RequestHeader::SIZE..]));
    out[start + 24..start + 32].copy_from_slice(header.checksum.as_bytes());
    size
}
