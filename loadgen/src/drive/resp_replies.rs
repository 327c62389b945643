//! What an answer in RESP means for its request.

use super::engine::Engine;
use super::inflight::{Asked, InFlight};
use super::replies::{After, Unreadable};
use super::resp::{RespReply, parse};
use crate::plan::OpKind;
use crate::record::Outcome;

/// A reply that is due on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expected {
    /// The request that it belongs to.
    pub(super) sequence: u64,
    /// Which of the request's replies it is.
    pub(super) part: Part,
}

/// The replies of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The only one.
    Whole,
    /// That of a write which is followed by a WAIT.
    BeforeWait,
    /// That of the WAIT.
    Wait,
}

/// Errors of servers that do not serve now, but somebody else does or will; nothing has been carried out.
const ELSEWHERE: [&[u8]; 5] = [b"READONLY ", b"MASTERDOWN ", b"CLUSTERDOWN ", b"LOADING ", b"MOVED "];

impl Engine {
    /// Takes in what was read on a lane; see [`Engine::on_bytes`].
    ///
    /// # Errors
    ///
    /// When the bytes are no replies.
    pub(super) fn on_resp_bytes(
        &mut self,
        lane: usize,
        bytes: &[u8],
        now_ns: u64,
    ) -> Result<(usize, After), Unreadable> {
        self.tick(now_ns);
        let mut consumed = 0;
        let mut after = After::Stay;
        while let Some((reply, size)) = parse(&bytes[consumed..])? {
            consumed += size;
            let Some(expected) = self.lanes[lane].expected.pop_front() else { return Err(Unreadable::Unasked) };
            // What was given up has been recorded.
            let Some(asked) = self.lanes[lane].ring.get(expected.sequence) else { continue };
            let asked = *asked;
            if let Some(verdict) = self.on_resp_reply(lane, expected, &asked, reply, now_ns) {
                after = verdict;
            }
        }
        Ok((consumed, after))
    }

    #[inline]
    fn on_resp_reply(
        &mut self,
        lane: usize,
        Expected { sequence, part }: Expected,
        asked: &InFlight,
        reply: RespReply<'_>,
        now_ns: u64,
    ) -> Option<After> {
        let is_write = asked.asked.is_write();
        let outcome = match (reply, part) {
            (RespReply::Error(text), _) => match self.judge_error(text) {
                Some(outcome) => outcome,
                None => {
                    // It has not been carried out, and goes to whoever serves next.
                    let state = &mut self.lanes[lane];
                    let taken = state.take(sequence)?;
                    state.queue.push_front(taken.asked);
                    return Some(After::Leave(None));
                }
            },
            (RespReply::Simple(b"OK") | RespReply::Integer(_), Part::BeforeWait) => return None,
            (RespReply::Integer(replicas), Part::Wait) => {
                if replicas >= i64::from(self.frames.wait_replicas()) {
                    Outcome::Ok
                } else {
                    self.report(format!("WAIT was answered with {replicas} replicas"));
                    Outcome::Unknown
                }
            }
            (RespReply::Simple(b"OK") | RespReply::Integer(_), Part::Whole) if is_write => Outcome::Ok,
            (RespReply::Null, Part::Whole) if !is_write => Outcome::Missing,
            (RespReply::Bulk(value), Part::Whole) if !is_write => self.judge_value(asked.asked.op.key_index, value),
            (other, _) => {
                self.report(format!("an answer that does not belong to its request: {other:?}"));
                Outcome::Failed
            }
        };
        let taken = self.lanes[lane].take(sequence)?;
        let is_first_step = taken.asked.op.kind == OpKind::ReadModifyWrite && !is_write;
        if is_first_step && matches!(outcome, Outcome::Ok | Outcome::Missing) {
            self.lanes[lane].queue.push_back(taken.asked.second_step());
            self.touch(lane);
        } else {
            let group = self.lanes[lane].group;
            self.end(group, &taken.asked, now_ns, outcome);
        }
        None
    }

    /// How a request with this error has ended; `None` if it is to be sent elsewhere.
    #[cold]
    fn judge_error(&mut self, text: &[u8]) -> Option<Outcome> {
        if ELSEWHERE.iter().any(|prefix| text.starts_with(prefix)) {
            self.note_refusal(text);
            return None;
        }
        if text.starts_with(b"OOM ") || text.starts_with(b"BUSY ") || text.starts_with(b"TRYAGAIN ") {
            return Some(Outcome::Busy);
        }
        self.report(format!("a server answered {}", String::from_utf8_lossy(text)));
        Some(Outcome::Failed)
    }

    /// Notes the first answer that sent a request elsewhere: where nobody else serves it, this is why it goes
    /// unanswered.
    #[cold]
    fn note_refusal(&mut self, text: &[u8]) {
        let mut words = format!("a server answered {}", String::from_utf8_lossy(text));
        if text.starts_with(b"MOVED ") {
            words += " (it is in cluster mode: this program does not follow to other shards)";
        }
        if !std::mem::replace(&mut self.has_reported_refusal, true) {
            self.events.add("refused-answer", words.clone());
        }
        self.refusal = Some(words);
    }

    /// A connection is gone: writes that were sent on it may or may not have happened. Reads are sent again.
    pub(super) fn lose_answers(&mut self, lane: usize, now_ns: u64) {
        self.lanes[lane].expected.clear();
        self.give_up_sent(lane, now_ns, Asked::is_write);
    }
}
