//! Frames out of a byte stream that is handed over in arbitrary pieces.
//!
//! [`crate::request::Request::parse`] and its siblings view frames in place in a contiguous buffer. [`StreamDecoder`] is
//! that buffer for callers who do not have one: it takes pieces of any size and gives back whole frames. It never
//! holds more than one frame that is not complete, plus the piece handed over last.

use crate::request::FrameError;

/// A buffer between a byte stream and a parser of frames.
#[derive(Debug, Default)]
pub struct StreamDecoder {
    bytes: Vec<u8>,
    consumed: usize,
}

impl StreamDecoder {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece of the stream. Frames that were complete before should have been taken out.
    pub fn push(&mut self, piece: &[u8]) {
        if self.consumed == self.bytes.len() {
            self.bytes.clear();
        } else if self.consumed > 0 {
            self.bytes.drain(..self.consumed);
        }
        self.consumed = 0;
        self.bytes.extend_from_slice(piece);
    }

    /// Bytes that no frame was made of yet.
    pub fn pending(&self) -> &[u8] {
        &self.bytes[self.consumed..]
    }

    /// Gives the pending bytes to `parse`, which returns what it made of them and how many bytes that took; `None` if
    /// it needs more.
    ///
    /// # Errors
    ///
    /// What `parse` says is wrong. The stream cannot be used any more.
    ///
    /// # Panics
    ///
    /// If `parse` says that it took nothing, or more than there was.
    pub fn next_with<'a, T, E>(
        &'a mut self,
        parse: impl FnOnce(&'a [u8]) -> Result<Option<(T, usize)>, E>,
    ) -> Result<Option<T>, E> {
        let pending = &self.bytes[self.consumed..];
        let Some((frame, size)) = parse(pending)? else {
            return Ok(None);
        };
        assert!(size > 0 && size <= pending.len());
        self.consumed += size;
        Ok(Some(frame))
    }

    /// The next whole request frame; `None` if more bytes are needed.
    ///
    /// # Errors
    ///
    /// If the stream does not hold a valid frame at this place.
    pub fn next_request(&mut self) -> Result<Option<crate::request::Request<'_>>, FrameError> {
        self.next_with(|bytes| Ok(crate::request::Request::parse(bytes)?.map(|request| (request, request.size()))))
    }

    /// The next whole reply frame; `None` if more bytes are needed.
    ///
    /// # Errors
    ///
    /// If the stream does not hold a valid frame at this place.
    pub fn next_reply(&mut self) -> Result<Option<crate::reply::Reply<'_>>, FrameError> {
        self.next_with(|bytes| Ok(crate::reply::Reply::parse(bytes)?.map(|reply| (reply, reply.size()))))
    }
}
