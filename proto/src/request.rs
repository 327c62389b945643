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
    limits::{KEY_SIZE_MAX, REQUEST_SIZE_MAX, TTL_MS_MAX, VALUE_SIZE_MAX},
    operation::Operation,
};

layout! {
    /// Header of a client's request.
    pub struct RequestHeader: 32 {
        0 size: U32 = "Size of the frame, this header included, in bytes.",
        4 operation: u8 = "What is asked for: an `Operation`.",
        5 flags: u8 = "`FLAG_TTL` and `FLAG_STALE`; all other bits are zero.",
        6 key_size: U16 = "Size of the key that follows the header, in bytes.",
        8 session: U64 = "The session of a logged operation, as its register was answered; 0 for all others.",
        16 sequence: U64 = "The client's number for this request, counted up from 1; comes back in the reply.",
        24 checksum: U64 = "XXH3-64 of the first 24 bytes of the header and of all that follows the header.",
    }
}

/// The request carries a time-to-live: 8 bytes of milliseconds.
pub const FLAG_TTL: u8 = 1;
/// The read may be answered from this replica's own state, which may be old.
pub const FLAG_STALE: u8 = 2;

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
            return Ok(None);
        };
        let size = header.size.get();
        if (size as usize) < RequestHeader::SIZE {
            return Err(FrameError::TooSmall(size));
        }
        if size as usize > REQUEST_SIZE_MAX {
            return Err(FrameError::TooLarge { size, max: REQUEST_SIZE_MAX });
        }
        let Some(body) = rest.get(..size as usize - RequestHeader::SIZE) else {
            return Ok(None);
        };
        let frame = &bytes[..size as usize];
        if frame_checksum(frame) != header.checksum.get() {
            return Err(FrameError::Checksum);
        }
        let operation = Operation::from_wire(header.operation).ok_or(FrameError::UnknownOperation(header.operation))?;
        let request = Request { header, body, operation };
        request.check_shape()?;
        Ok(Some(request))
    }

    /// Views a frame that was checked before: one out of a prepare whose checksum is right.
    ///
    /// Returns the request and the bytes after it; `None` if `bytes` does not start with a whole, well-shaped frame. The frame's own
    /// checksum is not computed again, because the prepare's checksum covers it.
    #[inline]
    pub fn parse_trusted(bytes: &'a [u8]) -> Option<(Request<'a>, &'a [u8])> {
        let (header, rest) = RequestHeader::ref_from_prefix(bytes).ok()?;
        let body_size = (header.size.get() as usize).checked_sub(RequestHeader::SIZE)?;
        if rest.len() < body_size {
            return None;
        }
        let (body, rest) = rest.split_at(body_size);
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

    fn check_shape(&self) -> Result<(), FrameError> {
        let header = self.header;
        let key_size = header.key_size;
        if key_size.get() as usize > self.body.len() {
            return Err(FrameError::KeySize(key_size.get()));
        }
        let has_key = !matches!(
            self.operation,
            Operation::Register
                | Operation::MultiGet
                | Operation::MultiPut
                | Operation::Scan
                | Operation::Ping
                | Operation::Status
        );
        if has_key != (key_size.get() != 0) {
            return Err(FrameError::KeySize(key_size.get()));
        }
        let flags_allowed = match self.operation {
            Operation::Put | Operation::CompareAndSet | Operation::MultiPut => FLAG_TTL,
            operation if operation.is_read() => FLAG_STALE,
            _ => 0,
        };
        if header.flags & !flags_allowed != 0 {
            return Err(FrameError::Flags(header.flags));
        }
        let has_session = self.operation.is_logged() && self.operation != Operation::Register;
        if has_session != (header.session.get() != 0) || header.sequence.get() == 0 {
            return Err(FrameError::Session);
        }
        self.check_arguments()
    }

    #[inline]
    fn check_arguments(&self) -> Result<(), FrameError> {
        let arguments = self.arguments();
        let ttl_size = if self.header.flags & FLAG_TTL != 0 { 8 } else { 0 };
        let fixed_size = match self.operation {
            Operation::Put | Operation::MultiPut => ttl_size,
            Operation::CompareAndSet => 8 + ttl_size,
            Operation::Increment | Operation::Expire => 8,
            Operation::Scan => ScanArguments::SIZE,
            _ => 0,
        };
        let Some(variable_size) = arguments.len().checked_sub(fixed_size) else {
            return Err(FrameError::Body);
        };
        match self.operation {
            Operation::Put | Operation::CompareAndSet if variable_size > VALUE_SIZE_MAX => {
                return Err(FrameError::ValueSize(variable_size));
            }
            Operation::Put | Operation::CompareAndSet => {}
            Operation::MultiGet => MultiGetItems::check(arguments)?,
            Operation::MultiPut => MultiPutItems::check(&arguments[ttl_size..])?,
            _ if variable_size != 0 => return Err(FrameError::Body),
            _ => {}
        }
        if ttl_size != 0 || self.operation == Operation::Expire {
            let ttl_ms = self.ttl_ms().unwrap_or(0);
            let is_zero_allowed = self.operation == Operation::Expire;
            if ttl_ms > TTL_MS_MAX || (ttl_ms == 0 && !is_zero_allowed) {
                return Err(FrameError::TimeToLive(ttl_ms));
            }
        }
        if let Some(scan) = self.scan_arguments() {
            scan.check()?;
        }
        Ok(())
    }
}

#[inline]
fn read_u64(bytes: &[u8]) -> u64 {
    let (number, _) = U64::read_from_prefix(bytes).expect("the shape of the request was checked");
    number.get()
}

/// Checksum of a frame, request or reply: everything but the last 8 bytes of its 32-byte header.
#[inline]
pub(crate) fn frame_checksum(frame: &[u8]) -> u64 {
    // The header's part is mixed in through a multiplication by an odd constant, so that the two sums do not cancel.
    let (header, body) = frame.split_at(RequestHeader::SIZE);
    let header = checksum_64(&header[..24]);
    if body.is_empty() { header } else { header.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ checksum_64(body) }
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
    let header = RequestHeader {
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
    let checksum = frame_checksum(&out[start..]);
    out[start + 24..start + 32].copy_from_slice(&checksum.to_le_bytes());
    size
}
