//! What an answer means for its request.

use lockstep_proto::Status;
use lockstep_proto::reply::Reply;
use lockstep_proto::request::FrameError;

use super::engine::Engine;
use super::handshake::view_of;
use super::inflight::InFlight;
use super::resp::{Protocol, RespError};
use crate::plan::{OpKind, counter_number};
use crate::record::Outcome;

/// A server that was full is asked again after this long.
const BUSY_RETRY_NS: u64 = 2_000_000;

/// What becomes of the connection after the bytes that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// It stays.
    Stay,
    /// Another server is the primary, of this view if that was said; requests without an answer go there.
    Leave(Option<u64>),
    /// The session is unknown to the servers: a new one is needed.
    Register,
}

/// Bytes that are no answers.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    /// No frame of the native protocol.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// No RESP.
    #[error("{0}")]
    Resp(#[from] RespError),
    /// More replies than requests.
    #[error("a reply that nobody asked for")]
    Unasked,
}

impl Engine {
    /// Takes in what was read on a lane. Returns how many bytes were whole replies.
    ///
    /// # Errors
    ///
    /// When the bytes are no replies.
    #[inline]
    pub(super) fn on_bytes(&mut self, lane: usize, bytes: &[u8], now_ns: u64) -> Result<(usize, After), Unreadable> {
        if self.frames.protocol() == Protocol::Resp {
            return self.on_resp_bytes(lane, bytes, now_ns);
        }
        self.tick(now_ns);
        let mut consumed = 0;
        let mut after = After::Stay;
        while let Some(reply) = Reply::parse(&bytes[consumed..])? {
            consumed += reply.size();
            if let Some(verdict) = self.on_reply(lane, &reply, now_ns) {
                after = verdict;
            }
        }
        Ok((consumed, after))
    }

    #[inline]
    fn on_reply(&mut self, lane: usize, reply: &Reply<'_>, now_ns: u64) -> Option<After> {
        if !matches!(reply.status(), Status::Ok | Status::NotFound) {
            return self.on_refusal(lane, reply, now_ns);
        }
        // An answer to a request that was given up, or a second answer to one that was sent twice, counts for nothing;
        // nor does a keep-alive, whose sequence no request has.
        let taken = self.lanes[lane].take(reply.sequence())?;
        let group = self.lanes[lane].group;
        if taken.asked.is_write() {
            if let Some(ledger) = &self.ledger {
                if taken.asked.op.kind == OpKind::Increment {
                    ledger.count(taken.asked.op.key_index, reply.body());
                } else {
                    ledger.acknowledge(taken.asked.op.key_index, reply.version());
                }
            }
            let outcome = if reply.status() == Status::Ok { Outcome::Ok } else { Outcome::Failed };
            self.end(group, &taken.asked, now_ns, outcome);
            return None;
        }
        let outcome = self.judge_read(&taken, reply);
        if taken.asked.op.kind == OpKind::ReadModifyWrite && outcome != Outcome::Corrupt {
            // The same request, counted once: its put follows its get.
            self.lanes[lane].queue.push_back(taken.asked.second_step());
            self.touch(lane);
        } else {
            self.end(group, &taken.asked, now_ns, outcome);
        }
        None
    }

    #[inline]
    fn judge_read(&mut self, taken: &InFlight, reply: &Reply<'_>) -> Outcome {
        let key_index = taken.asked.op.key_index;
        if counter_number(key_index).is_some() {
            return self.judge_counter(key_index, reply);
        }
        if self.bounds.is_audit
            && let Some(ledger) = &self.ledger
            && reply.version() > taken.version_floor
            && !ledger.is_in_doubt(key_index)
        {
            ledger.note_unasked();
            self.report(format!(
                "key {key_index} has version {}, but its last write was acknowledged with version {}",
                reply.version(),
                taken.version_floor
            ));
        }
        if let Some(ledger) = &self.ledger
            && (reply.status() == Status::NotFound || reply.version() < taken.version_floor)
            && taken.version_floor > 0
        {
            ledger.note_overtaken();
            let seen = if reply.status() == Status::Ok { reply.version() } else { 0 };
            self.report(format!(
                "key {key_index} was read with version {seen} after version {} had been acknowledged",
                taken.version_floor
            ));
        }
        if reply.status() == Status::NotFound {
            return Outcome::Missing;
        }
        self.judge_value(key_index, reply.body())
    }

    /// Whether a value is one that was written under its key.
    #[inline]
    pub(super) fn judge_value(&mut self, key_index: u64, value: &[u8]) -> Outcome {
        if !self.bounds.is_verifying || counter_number(key_index).is_some() {
            return Outcome::Ok;
        }
        match self.values.check(key_index, value) {
            Ok(_) => Outcome::Ok,
            Err(fault) => {
                self.report(format!("key {key_index}: {fault}"));
                Outcome::Corrupt
            }
        }
    }

    /// Takes in a counter's sum, in an audit.
    #[cold]
    fn judge_counter(&mut self, key_index: u64, reply: &Reply<'_>) -> Outcome {
        let sum = match reply.status() {
            Status::NotFound => Some(0),
            _ => std::str::from_utf8(reply.body()).ok().and_then(|text| text.parse::<u64>().ok()),
        };
        let (Some(sum), Some(ledger)) = (sum, &self.ledger) else {
            self.report(format!("counter {key_index:x} holds no number"));
            return Outcome::Corrupt;
        };
        if let Err(fault) = ledger.check_sum(key_index, sum) {
            self.report(fault);
        }
        Outcome::Ok
    }

    /// Notes the first thing that should never happen; a thousand more of them would say no more.
    #[cold]
    pub(super) fn report(&mut self, text: String) {
        if !std::mem::replace(&mut self.has_reported_fault, true) {
            self.events.add("wrong-answer", text);
        }
    }

    /// Why a connection is left, after [`After::Leave`] or [`After::Register`].
    pub(super) fn take_leave_words(&mut self) -> String {
        self.refusal.take().unwrap_or_else(|| "the server is not the primary, or does not know the session".to_owned())
    }

    /// An answer that is no plain success.
    #[cold]
    fn on_refusal(&mut self, lane: usize, reply: &Reply<'_>, now_ns: u64) -> Option<After> {
        let sequence = reply.sequence();
        let asked = self.lanes[lane].ring.get(sequence)?.asked;
        let group = self.lanes[lane].group;
        match reply.status() {
            // These keep their sequence and are sent again.
            Status::NotPrimary => return Some(After::Leave(view_of(reply))),
            Status::Unavailable => return Some(After::Leave(None)),
            Status::Busy if now_ns.saturating_sub(asked.intended_ns) < self.bounds.timeout_ns => {
                let state = &mut self.lanes[lane];
                if state.resend.is_empty() {
                    state.resend_at_ns = now_ns + BUSY_RETRY_NS;
                }
                state.resend.push_back(sequence);
                return None;
            }
            _ => {}
        }
        self.lanes[lane].take(sequence);
        let outcome = match reply.status() {
            Status::Busy => Outcome::Busy,
            Status::UnknownSession | Status::StaleSequence => Outcome::Unknown,
            _ => Outcome::Failed,
        };
        if outcome == Outcome::Failed {
            let text = String::from_utf8_lossy(reply.body());
            self.report(format!("a server answered {:?} to {:?} {text}", reply.status(), reply.operation()));
        }
        self.end(group, &asked, now_ns, outcome);
        (reply.status() == Status::UnknownSession).then_some(After::Register)
    }
}
