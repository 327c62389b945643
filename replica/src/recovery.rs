//! A server whose disk was wiped, and servers that may have lost a part of theirs.
//!
//! # Wiped
//!
//! The folder of a wiped server does not know its view, so the server could vote in a view that it had promised to
//! leave. It takes part in nothing, asks the others for their views, and waits for as many answers as any view-change
//! quorum must share a member with, other than itself: N - V + 1. The highest view among them is at least as high as
//! any that began with its help before it was wiped. But a promise for a higher view may still be on its way. So a data
//! folder has an *incarnation*: a server that answers notes the new one first, durably; every later do_view_change of
//! that server carries the number, and a candidate that sees it drops answers of the earlier incarnation. Without it
//! the recovery of the published protocol is wrong (E. Michael et al., "Recovering Shared Objects Without Stable
//! Storage", DISC 2017).
//!
//! From then on it is a server of that view, and of that log_view, which may have acknowledged anything and holds
//! nothing: its vouch_op is [`VOUCH_UNKNOWN`].
//!
//! # Who can vouch
//!
//! `vouch_op` is the highest op that a server may have acknowledged in its log_view and does not hold. It answers for
//! that in three places: its own log is not chosen while it is short of it; its answer is not counted towards a choice
//! that is short of it (`candidate.rs`); and after a restart it is not a whole member of its view before it has made up
//! for it (`joining.rs`). If it does not know how far that reaches, it asks the primary of its view: with a fresh
//! nonce, so that the answer is later than anything it has acknowledged, and the primary's log reaches at least as far.

use lockstep_proto::{
    limits::SERVERS_MAX,
    message::{Command, FLAG_FRESH, MessageHeader},
    mutant::{self, Mutant},
};
use zerocopy::little_endian::U64;

use crate::{batch::BatchPool, record::VOUCH_UNKNOWN, replica::Replica, timers::Timer, view::Phase};

/// Incarnation of a folder made by `format`.
pub(crate) const FORMATTED: u64 = 1;

/// A wiped server that asks the others.
pub(crate) struct Recovering {
    /// Who has answered, with its view.
    views: [Option<u64>; SERVERS_MAX as usize],
    has_persisted: bool,
}

impl<P: BatchPool> Replica<P> {
    pub(crate) fn begin_recovery(&mut self) {
        self.nonce = self.chance.next();
        self.phase = Phase::Recovering(Recovering { views: Default::default(), has_persisted: false });
        self.timers.set(Timer::Resend, self.now_ns + self.config.resend_ns);
        if self.config.servers == 1 {
            self.fatal("the only server of a cluster cannot recover from the others".to_string());
        }
    }

    pub(crate) fn send_recovery(&mut self, replica: u8) {
        if !self.peers[replica as usize].is_connected {
            return;
        }
        let mut header = self.header(Command::Recovery);
        header.nonce = U64::new(self.nonce);
        header.incarnations = self.incarnations.map(U64::new);
        self.send(replica, header);
    }

    pub(crate) fn on_recovery(&mut self, header: &MessageHeader) {
        let from = header.replica as usize;
        let incarnation = header.incarnations[from].get();
        if incarnation < self.durable.incarnations[from] && self.may_speak() {
            // A late message of the server as it was before, which ignores this; or its clock was set back, and it must
            // be told.
            return self.send_recovery_response(header.replica, header.nonce.get());
        }
        if incarnation < self.incarnations[from] {
            return;
        }
        self.recoveries[from] = Some(header.nonce.get());
        self.incarnations[from] = incarnation;
        // It may have been learned from others before, which alone does not make it durable.
        if self.durable.incarnations[from] < incarnation {
            self.persist_record();
        }
        self.answer_recoveries();
    }

    /// Answers wiped servers whose incarnation is known durably.
    pub(crate) fn answer_recoveries(&mut self) {
        if !self.may_speak() {
            return;
        }
        for replica in self.other_ids() {
            let from = replica as usize;
            if self.durable.incarnations[from] < self.incarnations[from] {
                continue;
            }
            if let Some(nonce) = self.recoveries[from].take() {
                self.send_recovery_response(replica, nonce);
            }
        }
    }

    fn send_recovery_response(&mut self, replica: u8, nonce: u64) {
        let mut header = self.header(Command::RecoveryResponse);
        header.nonce = U64::new(nonce);
        header.incarnations = self.incarnations.map(U64::new);
        self.send(replica, header);
    }

    pub(crate) fn on_recovery_response(&mut self, header: &MessageHeader) {
        let nonce = self.nonce;
        let Phase::Recovering(recovering) = &mut self.phase else { return };
        if header.nonce.get() != nonce || recovering.has_persisted {
            return;
        }
        let me = self.config.replica as usize;
        if header.incarnations[me].get() > self.incarnations[me] {
            return self.fatal(
                "the other servers know this server with a later data folder than this one: the clock was set back between two \
                 runs of `recover`; set it right and make the folder with `recover` again"
                    .to_string(),
            );
        }
        recovering.views[header.replica as usize] = Some(header.view.get());
        let count = recovering.views.iter().flatten().count();
        let view = recovering.views.iter().flatten().max().copied().unwrap_or(0);
        let mut wiped = *header;
        // Whoever answers knows its own number, though it may never have been in a view: see `is_reformatted`.
        wiped.incarnations.iter_mut().filter(|number| number.get() == FORMATTED).for_each(|number| number.set(0));
        self.learn_incarnations(&wiped);
        let needed = if mutant::is(Mutant::RecoverFromOne) { 1 } else { self.quorums.recovery as usize };
        if count < needed {
            return;
        }
        let Phase::Recovering(recovering) = &mut self.phase else { return };
        recovering.has_persisted = true;
        (self.view, self.log_view) = (view, view);
        self.vouch_op = if mutant::is(Mutant::RecoveredVouches) { 0 } else { VOUCH_UNKNOWN };
        self.is_recovering = false;
        self.persist_record();
    }

    /// The view to join is durable: goes on as after a restart in it.
    pub(crate) fn advance_recovery(&mut self) {
        if !self.is_recovering && !self.durable.is_recovering {
            self.restart();
            if let Phase::Waiting = self.phase {
                self.ask_how_view_began();
            }
        }
    }

    /// Notes what others know of wiped servers. It becomes durable with the next record.
    pub(crate) fn learn_incarnations(&mut self, header: &MessageHeader) {
        let me = self.config.replica as usize;
        for (server, theirs) in header.incarnations.iter().enumerate() {
            if server != me {
                self.incarnations[server] = self.incarnations[server].max(theirs.get());
            }
        }
    }

    /// Whether a message of a server in view 0 comes from one that had been in a later one: then its folder was
    /// formatted anew, and all it had promised is forgotten. It is told. If it is a late message of the server as it
    /// was before, that does no harm: it knows better.
    pub(crate) fn is_reformatted(&mut self, header: &MessageHeader) -> bool {
        let from = header.replica as usize;
        let (incarnation, known) = (header.incarnations[from].get(), self.durable.incarnations[from]);
        // A server that has recovered has another number, and may have found the cluster in view 0 still.
        if known == 0 || incarnation != FORMATTED {
            return false;
        }
        if self.may_speak() {
            let mut answer = self.header(Command::Diverged);
            answer.flags = FLAG_FRESH;
            self.send(header.replica, answer);
        }
        true
    }
}
