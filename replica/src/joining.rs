//! Everybody else in a new view: how it began, and what is missed of it.

use lockstep_proto::{
    message::{Command, MessageHeader},
    mutant::{self, Mutant},
};
use zerocopy::little_endian::{U64, U128};

use crate::{
    batch::BatchPool, candidate::headers_in, log_end::LogEnd, replica::Replica, status::Role, timers::Timer,
    view::Phase,
};

impl<P: BatchPool> Replica<P> {
    /// Tells a backup which log this view has begun with, unless it was told just now. An answer to a question carries
    /// the question's nonce, and is always given.
    pub(crate) fn send_start_view(&mut self, replica: u8, nonce: u64) {
        let peer = &mut self.peers[replica as usize];
        let wait_ns = self.config.resend_ns / 4;
        let was_just_told = peer.last_start_view_ns.is_some_and(|last_ns| self.now_ns - last_ns < wait_ns);
        if !peer.is_connected || (was_just_told && nonce == 0) {
            return;
        }
        peer.last_start_view_ns = Some(self.now_ns);
        let mut header = self.header(Command::StartView);
        header.in_sync = self.in_sync_mask();
        header.parent = U128::new(self.view_start_checksum);
        header.nonce = U64::new(nonce);
        header.vouch_op = U64::new(self.log.op());
        header.incarnations = self.incarnations.map(U64::new);
        // Later prepares are of this view and prove themselves.
        self.send_with_headers(replica, header, self.view_start_op);
    }

    /// Asks the primary of this view how it began, after a restart. If it has not begun, it may still need our log.
    pub(crate) fn ask_how_view_began(&mut self) {
        if self.log_view < self.view {
            return self.send_do_view_change();
        }
        let mut header = self.ok_header(Command::HeartbeatOk);
        header.nonce = U64::new(self.nonce);
        self.send(self.config.primary_of(self.view), header);
    }

    pub(crate) fn on_start_view_change(&mut self, header: &MessageHeader) {
        let view = header.view.get();
        if view < self.view {
            return self.tell_view(header.replica);
        }
        if view > self.view {
            return self.enter_view(view);
        }
        if !self.may_speak() || self.config.primary_of(view) != header.replica || self.is_installing() {
            return;
        }
        match self.phase {
            Phase::Participant { .. } => {
                self.note_progress();
                self.phase = Phase::Participant { has_answered: true };
                self.send_do_view_change();
            }
            Phase::Waiting if self.log_view < self.view => {
                self.note_progress();
                self.send_do_view_change();
            }
            _ => {}
        }
    }

    pub(crate) fn on_start_view(&mut self, header: &MessageHeader, message: &[u8]) {
        let view = header.view.get();
        if self.config.primary_of(view) != header.replica || view < self.view || self.is_installing() {
            return;
        }
        if view == self.view && !matches!(self.phase, Phase::Waiting | Phase::Participant { .. }) {
            self.owes_ok = true;
            return;
        }
        // A server that has lost a part of what it had acknowledged in this view asks how far that can reach; what was
        // said before it asked does not tell.
        let is_rejoining = view == self.view && self.log_view == view;
        if is_rejoining && header.nonce.get() != self.nonce && !mutant::is(Mutant::RejoinsWithoutNonce) {
            return;
        }
        let view_start_op = header.op.get();
        let Some(headers) = headers_in(message, view_start_op) else { return };
        if view > self.view {
            self.leave_view(view);
        }
        let mut target_op = view_start_op;
        let beginning = LogEnd { op: view_start_op, checksum: header.parent.get(), headers };
        // What we hold of an earlier view's log may not be part of this one's.
        let common = self.common_op(&beginning);
        if is_rejoining {
            self.vouch_op = self.vouch_op.min(header.vouch_op.get());
            target_op = target_op.max(if mutant::is(Mutant::RejoinsAtBeginning) { 0 } else { self.vouch_op });
            // Some of it may have been taken in just before the last crash. What is certain without the list was
            // ordered in this view, or is committed.
            let certain = common.max(self.verified);
            self.truncate_to(certain);
            self.verified = certain;
        } else {
            // What was ordered in this view may have been applied before a restart, when this server was joining it
            // already.
            let next = self.log.header(view_start_op + 1);
            let is_cut = view_start_op < self.applied && next.is_some_and(|next| next.view.get() < view);
            if is_cut || common < self.applied {
                return self.fatal(format!(
                    "view {view} begins with a log that ends before op {} or differs there from this server's, where it was committed",
                    view_start_op.min(common) + 1
                ));
            }
            if mutant::is(Mutant::TailNotTruncated) {
                self.verified = self.log.op();
            } else {
                self.truncate_to(common);
                self.verified = common;
            }
        }
        self.learn_incarnations(header);
        self.in_sync_heard = header.in_sync;
        self.phase = Phase::Joining { target_op, beginning, has_greeted: false, has_persisted: false };
        self.note_progress();
        self.learn_commit(header.commit.get());
        self.timers.set(Timer::Resend, self.now_ns + self.config.resend_ns);
        self.advance_view();
    }

    /// Becomes a whole member of the view once everything is held that a member holds.
    pub(crate) fn advance_joining(&mut self) {
        let view = self.view;
        let is_durable = self.durable.log_view == view && self.durable.vouch_op == 0;
        let held = self.log.durable().min(self.verified);
        let Phase::Joining { target_op, has_greeted, has_persisted, .. } = &mut self.phase else { return };
        self.owes_ok |= !std::mem::replace(has_greeted, true);
        if held < *target_op {
            return;
        }
        if *has_persisted && is_durable {
            self.phase = Phase::Normal;
            self.failed_views = 0;
            self.timers.stop(Timer::Resend);
            self.note_progress();
            self.set_role(Role::Backup);
            self.owes_ok = true;
        } else if !std::mem::replace(has_persisted, true) {
            // True from now on, whatever view comes before it is durable.
            self.log_view = view;
            self.vouch_op = 0;
            self.persist_record();
        }
    }
}
