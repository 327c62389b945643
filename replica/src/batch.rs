//! The open batch: requests copied once, from the receive buffer into what becomes the prepare.

use bytes::Bytes;
use lockstep_proto::{
    Operation,
    message::MessageHeader,
    mutant::{self, Mutant},
    request::{Request, RequestHeader},
};
use zerocopy::IntoBytes;

/// Where the memory of prepares comes from. The host gives out memory that its journal can write from.
pub trait BatchPool {
    /// Memory that is being filled.
    type Buffer: AsMut<[u8]>;

    /// Memory of at least `capacity` bytes, with arbitrary contents.
    fn take(&mut self, capacity: usize) -> Self::Buffer;

    /// The first `len` bytes, immutable from now on. What comes back may be longer: padded, with zeroes, to what the
    /// journal writes.
    fn freeze(&mut self, buffer: Self::Buffer, len: usize) -> Bytes;
}

/// Memory of a new batch, in bytes. It grows by doubling, so that a server that gets little does not hold much.
const CAPACITY_MIN: usize = 64 << 10;

/// A batch that requests are being added to.
pub(crate) struct OpenBatch<B> {
    buffer: B,
    capacity: usize,
    len: usize,
    count: u32,
    /// When the first request came, in ns.
    pub(crate) opened_ns: u64,
}

impl<B: AsMut<[u8]>> OpenBatch<B> {
    pub(crate) fn open<P: BatchPool<Buffer = B>>(pool: &mut P, now_ns: u64) -> OpenBatch<B> {
        OpenBatch {
            buffer: pool.take(CAPACITY_MIN),
            capacity: CAPACITY_MIN,
            len: MessageHeader::SIZE,
            count: 0,
            opened_ns: now_ns,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Adds a request frame.
    #[inline]
    pub(crate) fn push<P: BatchPool<Buffer = B>>(&mut self, pool: &mut P, frame: &[u8]) {
        let end = self.len + frame.len();
        if end > self.capacity {
            self.grow(pool, end);
        }
        self.buffer.as_mut()[self.len..end].copy_from_slice(frame);
        if mutant::is(Mutant::WholeSeconds) {
            round_up_time_to_live(&mut self.buffer.as_mut()[self.len..end]);
        }
        self.len = end;
        self.count += 1;
    }

    #[cold]
    fn grow<P: BatchPool<Buffer = B>>(&mut self, pool: &mut P, needed: usize) {
        self.capacity = needed.next_power_of_two();
        let mut larger = pool.take(self.capacity);
        larger.as_mut()[..self.len].copy_from_slice(&self.buffer.as_mut()[..self.len]);
        self.buffer = larger;
    }

    /// Puts the header in front, seals it, and makes the prepare immutable.
    pub(crate) fn close<P: BatchPool<Buffer = B>>(
        mut self,
        pool: &mut P,
        mut header: MessageHeader,
    ) -> (MessageHeader, Bytes) {
        let bytes = self.buffer.as_mut();
        header.seal(&bytes[MessageHeader::SIZE..self.len]);
        bytes[..MessageHeader::SIZE].copy_from_slice(header.as_bytes());
        (header, pool.freeze(self.buffer, self.len))
    }
}

/// What [`Mutant::WholeSeconds`] does.
#[cold]
fn round_up_time_to_live(frame: &mut [u8]) {
    let Some((request, _)) = Request::parse_trusted(frame) else { return };
    let Some(ttl_ms) = request.ttl_ms() else { return };
    let version_size = if request.operation() == Operation::CompareAndSet { 8 } else { 0 };
    let at = RequestHeader::SIZE + request.key().len() + version_size;
    frame[at..at + 8].copy_from_slice(&ttl_ms.next_multiple_of(1000).to_le_bytes());
}
