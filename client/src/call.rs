//! A request on its way from a caller to a shard's link, and its answer on the way back.

use std::time::Duration;

use bytes::Bytes;
use lockstep_proto::{
    Operation, Status,
    request::{RequestParts, encode_request},
};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::Instant,
};

use crate::error::{Error, Failure, Outcome};

/// What an operation needs besides its number: the stub's part of a request.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) operation: Operation,
    pub(crate) flags: u8,
    pub(crate) key_size: usize,
    /// Key, arguments and value, end to end, as in the frame.
    pub(crate) bytes: Vec<u8>,
}

impl Body {
    pub(crate) fn empty(operation: Operation) -> Body {
        Body { operation, flags: 0, key_size: 0, bytes: Vec::new() }
    }

    pub(crate) fn encode(&self, session: u64, sequence: u64, out: &mut Vec<u8>) {
        let (key, value) = self.bytes.split_at(self.key_size);
        let (operation, flags) = (self.operation, self.flags);
        encode_request(&RequestParts { operation, flags, session, sequence, key, arguments: &[], value }, out);
    }
}

/// A reply that the state machine gave: its status is one of the answers.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: Status,
    pub(crate) version: u64,
    pub(crate) copies: u8,
    pub(crate) body: Bytes,
}

/// A request with what its link needs to carry it through.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) body: Body,
    pub(crate) timeout: Duration,
    pub(crate) deadline: Instant,
    /// `None` for what the link asks on its own behalf.
    pub(crate) reply: Option<oneshot::Sender<Result<Answer, Error>>>,
    /// The call's share of the bounds on what is in flight. It goes with the call, not with the caller, so that a
    /// caller who stops waiting does not make room for a request that is still out.
    pub(crate) permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
    /// How many attempts have come to nothing.
    pub(crate) failed_attempts: u32,
}

impl Call {
    /// A call whose answer only the link itself looks at.
    pub(crate) fn internal(operation: Operation, timeout: Duration, now: Instant) -> Call {
        Call {
            body: Body::empty(operation),
            timeout,
            deadline: now + timeout,
            reply: None,
            permits: None,
            failed_attempts: 0,
        }
    }

    pub(crate) fn operation(&self) -> Operation {
        self.body.operation
    }

    /// Whether the caller has stopped waiting.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.reply.as_ref().is_some_and(oneshot::Sender::is_closed)
    }

    pub(crate) fn settle(self, result: Result<Answer, Error>) {
        // A caller that goes on at once with its next call should find the place free.
        drop(self.permits);
        if let Some(reply) = self.reply {
            // A caller that has stopped waiting has no use for the answer.
            let _ = reply.send(result);
        }
    }

    pub(crate) fn fail(self, failure: &Failure, outcome: Outcome) {
        self.settle(Err(Error::from_failure(failure.clone(), outcome)));
    }

    /// The deadline has passed. `failure` is what has kept the call from being sent, if it is known.
    pub(crate) fn expire(self, failure: Option<&Failure>, outcome: Outcome) {
        match failure {
            Some(failure) => self.fail(failure, outcome),
            None => {
                let (operation, after) = (self.operation(), self.timeout);
                self.settle(Err(Error::Timeout { operation, after, outcome }));
            }
        }
    }
}
