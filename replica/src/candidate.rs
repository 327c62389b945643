//! The primary of a new view, before the view begins: it asks the others what they hold, and makes its log the one to
//! go on with.

use std::collections::BTreeMap;

use bytes::Bytes;
use lockstep_proto::{
    limits::SERVERS_MAX,
    message::{Command, MessageHeader},
    mutant::{self, Mutant},
};
use zerocopy::{
    FromBytes,
    little_endian::{U64, U128},
};

use crate::{
    batch::BatchPool, io::Output, log_end::LogEnd, peers::Peer, replica::Replica, status::Role, timers::Timer,
    view::Phase,
};

/// A replica that will be the primary of its view.
#[derive(Default)]
pub(crate) struct Candidate {
    has_announced: bool,
    has_persisted: bool,
    answers: [Option<Answer>; SERVERS_MAX as usize],
    chosen: Option<Chosen>,
}

/// The end of somebody's log, and what it says of itself.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) log_view: u64,
    pub(crate) op: u64,
    pub(crate) vouch_op: u64,
    pub(crate) commit: u64,
    pub(crate) checksum: u128,
    pub(crate) incarnations: [u64; SERVERS_MAX as usize],
    pub(crate) headers: Vec<MessageHeader>,
}

impl Answer {
    /// Whether whoever answers has never taken part in anything.
    fn is_fresh(&self) -> bool {
        self.log_view == 0 && self.op == 0 && self.commit == 0
    }

    /// Whether the log lacks something that may have been acknowledged. It may even be short of its log_view's
    /// beginning, and what was fetched since need not be of that view: only a whole member of a later view is free of
    /// it again.
    fn is_deficient(&self) -> bool {
        self.vouch_op > 0 && !mutant::is(Mutant::VouchIgnored)
    }

    /// Whether it is certain that whoever answers has acknowledged nothing that `best`, the choice, lacks.
    fn vouches_for(&self, best: &Answer) -> bool {
        // What it holds counts as well as what it has lost: it votes again before it is durable that it has made up for
        // that.
        let acknowledged_op = if mutant::is(Mutant::VouchIgnored) { 0 } else { self.vouch_op.max(self.op) };
        // A later log_view was itself chosen with the answers of a quorum: it holds all that was committed before it.
        self.log_view < best.log_view || (self.log_view == best.log_view && acknowledged_op <= best.op)
    }
}

/// The log that the view begins with.
struct Chosen {
    from: u8,
    end: LogEnd,
    commit: u64,
    /// Up to here our log is certain to be the chosen one.
    common: u64,
    /// The first op that was asked for last.
    asked_op: u64,
    /// Prepares that have come before the one that must come next: some are read from a journal, some are not. At most
    /// [`SERVED_OPS`].
    early: BTreeMap<u64, Bytes>,
    /// Bytes of prepares that were fetched so far.
    fetched_bytes: usize,
}

/// Prepares that are served for one request during a view change.
const SERVED_OPS: u64 = 16;

/// A primary that misses more prepares than this leaves its view to the next one, for whom it may be less.
const FETCHED_OPS_MAX: u64 = 4096;

impl<P: BatchPool> Replica<P> {
    /// The part of the log that may be counted on: durable, and certain to be the log of `log_view`.
    fn own_answer(&self) -> Answer {
        let op = self.log.durable().min(self.verified);
        Answer {
            log_view: self.log_view,
            op,
            vouch_op: self.vouch_op,
            commit: self.commit.min(op),
            checksum: self.log.checksum(op).unwrap_or(0),
            incarnations: self.incarnations,
            headers: self.log.headers_to(op, self.config.headers_kept()).copied().collect(),
        }
    }

    pub(crate) fn send_start_view_change(&mut self, replica: u8) {
        let header = self.header(Command::StartViewChange);
        self.send(replica, header);
    }

    pub(crate) fn send_do_view_change(&mut self) {
        let op = self.log.durable().min(self.verified);
        let mut header = self.header(Command::DoViewChange);
        header.log_view = U64::new(self.log_view);
        header.vouch_op = U64::new(self.vouch_op);
        header.commit = U64::new(self.commit.min(op));
        header.parent = U128::new(self.log.checksum(op).unwrap_or(0));
        header.incarnations = self.incarnations.map(U64::new);
        self.send_with_headers(self.config.primary_of(self.view), header, op);
    }

    pub(crate) fn on_do_view_change(&mut self, header: &MessageHeader, message: &[u8]) {
        let view = header.view.get();
        if view < self.view {
            return self.tell_view(header.replica);
        }
        if view > self.view {
            self.enter_view(view);
        }
        if self.role == Role::Primary {
            // It has not heard that the view has begun.
            return self.send_start_view(header.replica, 0);
        }
        let Some(headers) = headers_in(message, header.op.get()) else { return };
        let answer = Answer {
            log_view: header.log_view.get(),
            op: header.op.get(),
            vouch_op: header.vouch_op.get(),
            commit: header.commit.get(),
            checksum: header.parent.get(),
            incarnations: header.incarnations.map(U64::get),
            headers,
        };
        self.learn_incarnations(header);
        let Phase::Candidate(candidate) = &mut self.phase else { return };
        if candidate.answers[header.replica as usize].replace(answer).is_none() {
            self.note_progress();
        }
        self.advance_view();
    }

    pub(crate) fn advance_candidate(&mut self) {
        let own = self.own_answer();
        let me = self.config.replica;
        let Phase::Candidate(candidate) = &mut self.phase else { return };
        if !std::mem::replace(&mut candidate.has_announced, true) {
            candidate.answers[me as usize] = Some(own);
            for replica in self.other_ids() {
                self.send_start_view_change(replica);
            }
        }
        self.try_to_choose();
        self.try_to_begin();
    }

    pub(crate) fn resend_as_candidate(&mut self) {
        // The others wait for as long as they hear that something is going on.
        for replica in self.other_ids() {
            self.send_start_view_change(replica);
        }
        self.fetch();
    }

    /// Chooses the log to go on with, once enough others have said what they hold.
    fn try_to_choose(&mut self) {
        let Phase::Candidate(candidate) = &self.phase else { return };
        if candidate.chosen.is_some() {
            return;
        }
        let me = self.config.replica;
        let all: Vec<(u8, &Answer)> = (0..self.config.servers)
            .filter_map(|replica| Some((replica, candidate.answers[replica as usize].as_ref()?)))
            .filter(|(replica, answer)| {
                // What a server said before its disk was wiped binds it no longer.
                answer.incarnations[*replica as usize] >= self.incarnations[*replica as usize]
                    || mutant::is(Mutant::StaleIncarnationCounts)
            })
            .collect();
        let quorum = self.quorums.view_change as usize - usize::from(mutant::is(Mutant::ViewQuorumTooSmall));
        if all.len() < quorum {
            return;
        }
        let is_complete = all.len() == self.config.servers as usize;
        // Only a log that lacks nothing can be gone on with.
        let best = all
            .iter()
            .filter(|(_, answer)| !answer.is_deficient() || mutant::is(Mutant::DeficientIsChosen))
            .max_by_key(|(replica, answer)| {
                let log_view = if mutant::is(Mutant::ChoiceByLength) { 0 } else { answer.log_view };
                (log_view, answer.op, *replica == me)
            })
            .copied();
        let has_memory = all.iter().any(|(_, answer)| !answer.is_fresh());
        let count = best.map_or(0, |(_, best)| {
            all.iter()
                .filter(|(_, answer)| answer.vouches_for(best))
                // A server without a memory cannot vouch that nothing was committed: beside others who have one, it is
                // not counted, unless everybody has answered and nobody is left who could know more.
                .filter(|(_, answer)| !has_memory || !answer.is_fresh() || is_complete)
                .count()
        });
        let needed = self.quorums.vouchers as usize - usize::from(mutant::is(Mutant::ViewQuorumTooSmall));
        let Some((from, best)) = best.filter(|_| count >= needed.max(1)) else {
            if is_complete {
                let reason = format!(
                    "too many servers have lost what they had acknowledged: all {} have answered, and only {count} of them \
                     can vouch for what was committed; restore the data folder of one that can",
                    self.config.servers
                );
                self.fatal(reason);
            }
            return;
        };
        let chosen = Chosen {
            from,
            end: LogEnd { op: best.op, checksum: best.checksum, headers: best.headers.clone() },
            commit: all.iter().map(|(_, answer)| answer.commit).max().unwrap_or(0),
            common: 0,
            asked_op: 0,
            early: BTreeMap::new(),
            fetched_bytes: 0,
        };
        if chosen.end.op < chosen.commit && !is_complete {
            // Somebody who has not answered holds more.
            return;
        }
        self.choose(chosen);
    }

    /// Makes our log a beginning of the chosen one.
    fn choose(&mut self, mut chosen: Chosen) {
        let op = chosen.end.op;
        if op < chosen.commit || op < self.applied {
            return self.fatal(format!(
                "the servers that answered hold the log up to op {op} only, but op {} was committed",
                chosen.commit.max(self.applied)
            ));
        }
        chosen.common = if chosen.from == self.config.replica { op } else { self.common_op(&chosen.end) };
        if op.saturating_sub(chosen.common) > FETCHED_OPS_MAX {
            return self.give_up_candidacy();
        }
        self.truncate_to(chosen.common.min(self.log.op()));
        self.commit = self.commit.max(chosen.commit);
        if let Phase::Candidate(candidate) = &mut self.phase {
            candidate.chosen = Some(chosen);
        }
        self.fetch();
    }

    /// The highest op up to which our log is certain to be the one of which this is the end.
    ///
    /// If nothing of ours is in the list, all of the list is above what we hold of that log, or differs from it; and
    /// whoever made it knows what is below the list to be committed. What we know to be committed is common then, and
    /// what we drop of the rest is nothing that anybody counts on us for: `docs/replication.md`, Safety, 5.
    pub(crate) fn common_op(&self, end: &LogEnd) -> u64 {
        // What we know to be committed is part of every later log.
        let committed = self.commit.min(self.log.op()).min(self.verified);
        end.common_op(&self.log).map_or(committed, |op| op.max(committed))
    }

    /// Asks for the next part of the chosen log that we miss.
    fn fetch(&mut self) {
        let op = self.log.op() + 1;
        let mut header = self.header(Command::RequestPrepare);
        let Phase::Candidate(candidate) = &mut self.phase else { return };
        let Some(chosen) = &mut candidate.chosen else { return };
        if op > chosen.end.op {
            return;
        }
        chosen.asked_op = op;
        header.op = U64::new(op);
        let from = chosen.from;
        self.send(from, header);
    }

    /// Serves the log's end to a primary that has chosen it.
    pub(crate) fn serve_view_change(&mut self, to: u8, op: u64) {
        if self.config.primary_of(self.view) != to || matches!(self.phase, Phase::Candidate(_)) || !self.may_speak() {
            return;
        }
        for op in op..(op + SERVED_OPS).min(self.log.durable() + 1) {
            if let Some(message) = self.log.message(op) {
                self.outputs.push_back(Output::Send { to, message: message.clone() });
            } else if op >= self.journal_first_op {
                self.outputs.push_back(Output::ReadJournal { peer: to, op });
            } else {
                return self.send_behind(to, op);
            }
        }
    }

    /// A prepare that we have asked for, to complete our log.
    pub(crate) fn on_fetched_prepare(&mut self, header: MessageHeader, message: Bytes) {
        let (op, next_op) = (header.op.get(), self.log.op() + 1);
        let Phase::Candidate(candidate) = &mut self.phase else { return };
        let Some(chosen) = &mut candidate.chosen else { return };
        if (next_op..=chosen.end.op).contains(&op) && op < chosen.asked_op + SERVED_OPS {
            chosen.early.insert(op, message);
        }
        while let Phase::Candidate(candidate) = &mut self.phase
            && let Some(chosen) = &mut candidate.chosen
            && let Some(message) = chosen.early.remove(&(self.log.op() + 1))
            && self.take_fetched(message)
        {}
    }

    /// Adds a fetched prepare to our log. Returns whether it fits.
    fn take_fetched(&mut self, message: Bytes) -> bool {
        let header = *MessageHeader::view(&message).expect("a prepare has a header");
        let op = header.op.get();
        let Phase::Candidate(candidate) = &self.phase else { return false };
        let Some(chosen) = &candidate.chosen else { return false };
        if chosen.end.checksum_of(op).is_some_and(|theirs| theirs != header.checksum.get()) {
            // A stray of a log that was given up. It must not get into the journal: see `is_part_of_beginning`.
            return false;
        }
        if !self.log.is_next(&header) {
            // It, or what came before it, is not of the chosen log.
            let common = chosen.common;
            self.truncate_to(common);
            return false;
        }
        let is_last_asked = op + 1 == chosen.asked_op + SERVED_OPS;
        // Nothing is applied before the view begins, so all of it stays in memory, and must fit the journal.
        if chosen.fetched_bytes > self.config.log_memory_bytes_max.max(FETCHED_BYTES_MIN) {
            self.give_up_candidacy();
            return false;
        }
        if let Phase::Candidate(candidate) = &mut self.phase
            && let Some(chosen) = &mut candidate.chosen
        {
            chosen.fetched_bytes += message.len();
        }
        self.log.push(header, message.clone(), false);
        self.outputs.push_back(Output::WriteJournal { op, message });
        self.note_progress();
        if is_last_asked {
            self.fetch();
        }
        true
    }

    fn try_to_begin(&mut self) {
        let (op, durable, view) = (self.log.op(), self.log.durable(), self.view);
        let is_log_view_durable = self.durable.log_view == view;
        let Phase::Candidate(candidate) = &mut self.phase else { return };
        let Some(chosen) = &candidate.chosen else { return };
        if op < chosen.end.op || durable < chosen.end.op {
            return;
        }
        assert_eq!(op, chosen.end.op, "our log is the chosen one");
        if is_log_view_durable {
            return self.become_primary();
        }
        if !std::mem::replace(&mut candidate.has_persisted, true) {
            self.log_view = view;
            self.vouch_op = 0;
            self.verified = op;
            self.persist_record();
        }
    }

    pub(crate) fn become_primary(&mut self) {
        self.log_view = self.view;
        self.phase = Phase::Normal;
        self.view_start_op = self.log.op();
        self.view_start_checksum = self.log.position().checksum;
        self.verified = self.log.op();
        self.in_sync_told = 0;
        self.heartbeat_commit = self.commit;
        self.failed_views = 0;
        self.watch_itself();
        for peer in &mut self.peers {
            let round = if mutant::is(Mutant::RoundOutlivesView) { peer.round } else { 0 };
            *peer = Peer::new(peer.is_connected, self.now_ns);
            peer.round = round;
        }
        self.forget_suspicions();
        self.timers.stop(Timer::Resend);
        self.timers.stop(Timer::View);
        self.timers.set(Timer::Heartbeat, self.now_ns + self.config.heartbeat_interval_ns);
        self.set_role(Role::Primary);
        for replica in self.other_ids() {
            self.send_start_view(replica, 0);
        }
        self.advance_commit();
    }
}

/// Bytes of prepares that a candidate may always fetch: what can be uncommitted in the usual case.
const FETCHED_BYTES_MIN: usize = 64 << 20;

/// The headers in the body of a message, if they are the chained end of a log whose last op is `op`.
pub(crate) fn headers_in(message: &[u8], op: u64) -> Option<Vec<MessageHeader>> {
    let outer = MessageHeader::view(message)?;
    let (size, cluster, shard) = (outer.size.get() as usize, outer.cluster.get(), outer.shard.get());
    let body = message.get(MessageHeader::SIZE..size)?;
    let headers = <[MessageHeader]>::ref_from_bytes(body).ok()?;
    let is_chained =
        headers.windows(2).all(|pair| pair[1].op.get() == pair[0].op.get() + 1 && pair[1].parent == pair[0].checksum);
    let ends_at_op = headers.last().is_none_or(|last| last.op.get() == op);
    let are_sound = headers.iter().all(|header| header.check(cluster, shard) == Ok(Command::Prepare));
    (is_chained && ends_at_op && are_sound).then(|| headers.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(log_view: u64, op: u64, vouch_op: u64) -> Answer {
        Answer { log_view, op, vouch_op, commit: 0, checksum: 0, incarnations: Default::default(), headers: Vec::new() }
    }

    #[test]
    fn a_server_that_has_acknowledged_beyond_what_it_had_lost_does_not_vouch_for_a_shorter_log() {
        let rejoined = answer(5, 15, 10);
        assert!(!rejoined.vouches_for(&answer(5, 12, 0)), "ops 13 to 15 may have been committed with it");
        assert!(rejoined.vouches_for(&answer(5, 15, 0)));
        assert!(rejoined.vouches_for(&answer(6, 12, 0)), "a later view began with all that was committed");
        assert!(!answer(5, 8, 10).vouches_for(&answer(5, 9, 0)) && answer(5, 8, 10).vouches_for(&answer(5, 10, 0)));
        assert!(!answer(6, 1, 0).vouches_for(&answer(5, 9, 0)));
    }
}
