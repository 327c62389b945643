//! Normal operation at a backup: prepares, acknowledgements, and what it may apply.
//!
//! # What is certain
//!
//! A prepare carries the view in which it was ordered, which may be an earlier one than the view in which it is sent,
//! and its bytes cannot be changed. So a prepare of an earlier view may be a stray: part of a log that this view's
//! primary did not take over. `verified` is the highest op up to which the log is certain to be this view's:
//!
//! - a prepare *of this view* that follows our log proves it, and with it everything before it, by the hash chain;
//! - a start_view's list of headers proves those of our prepares that are in it;
//! - a heartbeat carries op and checksum of the last prepare sent, and proves it if ours is the same;
//! - what an entry of the log calls committed is part of every later view's log.
//!
//! Nothing above `verified` is acknowledged or applied, and when the primary's log turns out to differ, that is what is
//! dropped.

use bytes::Bytes;
use lockstep_proto::{
    message::{Command, MessageHeader},
    mutant::{self, Mutant},
};
use zerocopy::little_endian::U64;

use crate::{batch::BatchPool, io::Output, replica::Replica, status::Role, view::Phase};

impl<P: BatchPool> Replica<P> {
    pub(crate) fn on_prepare(&mut self, header: MessageHeader, message: Bytes) {
        if let Phase::Candidate(_) = self.phase {
            return self.on_fetched_prepare(header, message);
        }
        if !self.repairs.is_empty() && self.take_repair(&header, &message) {
            return;
        }
        let view = header.view.get();
        if view > self.view {
            return self.ask_for_view(view);
        }
        let op = header.op.get();
        let may_be_older = self.is_part_of_beginning(&header);
        if !self.takes_prepares() || (view < self.view && !may_be_older) || self.is_installing() {
            return;
        }
        if op <= self.log.op() {
            let is_same = self.log.header(op).is_none_or(|ours| ours.checksum.get() == header.checksum.get());
            if is_same {
                // The primary repeats what it has no answer to.
                self.owes_ok = true;
                if view == self.view {
                    self.verify_to(op);
                }
            } else if view == self.view && op > self.verified {
                self.drop_unverified();
            }
            return;
        }
        if self.log.is_next(&header) {
            self.log.push(header, message.clone(), false);
            self.outputs.push_back(Output::WriteJournal { op, message });
            if mutant::is(Mutant::UnverifiedTrusted) {
                self.verify_to(op);
            }
            if view == self.view {
                self.verify_to(op);
                self.note_progress();
                self.in_sync_heard = header.in_sync;
                self.confirm_round(header.round.get());
            }
            self.learn_commit(header.commit.get());
        } else if op == self.log.op() + 1 && view == self.view && self.verified < self.log.op() {
            self.drop_unverified();
        } else if op > self.log.op() + 1 {
            self.request_prepares();
        }
    }

    /// Whether a prepare of an earlier view may be part of the log with which the view that is being joined has begun.
    ///
    /// What a view has beyond its beginning was ordered in it. And a stray of a log that was given up is not let into
    /// the journal if the view's primary has said what belongs there: after a crash it would pass for what was
    /// acknowledged. Of what is below the primary's list a stray may get in; it does no harm there, since a commit
    /// quorum holds more (`docs/replication.md`, Safety, 14).
    fn is_part_of_beginning(&self, header: &MessageHeader) -> bool {
        let Phase::Joining { beginning, .. } = &self.phase else { return false };
        let op = header.op.get();
        let is_let_in = [Mutant::UnverifiedTrusted, Mutant::ParentUnchecked, Mutant::ApplyUnverified]
            .map(mutant::is)
            .contains(&true);
        let is_it = |expected: u128| expected == header.checksum.get() || is_let_in;
        op <= beginning.op && beginning.checksum_of(op).is_none_or(is_it)
    }

    /// Whether this server follows a primary at present.
    pub(crate) fn takes_prepares(&self) -> bool {
        self.role == Role::Backup || matches!(self.phase, Phase::Joining { .. })
    }

    pub(crate) fn on_heartbeat(&mut self, header: &MessageHeader) {
        let view = header.view.get();
        if view > self.view {
            return self.ask_for_view(view);
        }
        if view < self.view || header.replica != self.config.primary_of(view) {
            if mutant::is(Mutant::RoundOfOldViewConfirmed) && self.may_speak() {
                let mut ok = self.ok_header(Command::HeartbeatOk);
                (ok.view, ok.round) = (header.view, header.round);
                self.send(header.replica, ok);
            }
            return;
        }
        self.note_progress();
        if !self.takes_prepares() || self.is_installing() {
            return;
        }
        self.in_sync_heard = header.in_sync;
        self.learn_commit(header.commit.get());
        let op = header.op.get();
        if op > self.log.op() {
            self.request_prepares();
        } else if let Some(ours) = self.log.checksum(op) {
            if ours == header.parent.get() {
                self.verify_to(op);
            } else if op > self.verified {
                self.drop_unverified();
            }
        }
        if !self.confirm_round(header.round.get()) {
            self.send_ok(Command::HeartbeatOk);
        }
    }

    /// Answers a read round at once; no disk is waited for. Returns whether there was a new one.
    fn confirm_round(&mut self, round: u64) -> bool {
        if round <= self.round_seen {
            return false;
        }
        self.round_seen = round;
        self.send_ok(Command::HeartbeatOk);
        true
    }

    fn send_ok(&mut self, command: Command) {
        if !self.may_speak() {
            return;
        }
        let header = self.ok_header(command);
        self.send(self.config.primary_of(self.view), header);
    }

    /// Tells the primary of a higher view which view we are in, so that it says how that one began.
    fn ask_for_view(&mut self, view: u64) {
        let primary = self.config.primary_of(view);
        if primary == self.config.replica || !self.may_speak() || !self.is_request_due() {
            return;
        }
        let header = self.ok_header(Command::HeartbeatOk);
        self.send(primary, header);
    }

    pub(crate) fn learn_commit(&mut self, commit: u64) {
        self.commit = self.commit.max(commit);
    }

    fn verify_to(&mut self, op: u64) {
        if op > self.verified {
            // An answer is due if what was durable already has become certain; else it comes with the journal's.
            self.owes_ok |= self.log.durable() > self.verified;
            self.verified = op;
        }
    }

    /// The primary's log differs from ours above what is verified.
    fn drop_unverified(&mut self) {
        self.truncate_to(self.verified);
        self.request_prepares();
    }

    pub(crate) fn truncate_to(&mut self, op: u64) {
        assert!(op >= self.applied, "what was applied is never dropped");
        if self.log.op() > op {
            self.log.truncate_after(op);
            self.outputs.push_back(Output::TruncateJournal { op });
        }
        self.verified = self.verified.min(op);
    }

    pub(crate) fn request_prepares(&mut self) {
        if !self.may_speak() || !self.is_request_due() {
            return;
        }
        // Whoever joins with the whole log in hand lacks only the proof that it is the view's. It comes with the
        // prepares, and may have been lost, or overtaken them.
        let lacks_proof = matches!(self.phase, Phase::Joining { target_op, .. } if target_op <= self.log.op());
        let held = if lacks_proof { self.verified } else { self.log.op() };
        let mut header = self.header(Command::RequestPrepare);
        header.op = U64::new(held + 1);
        self.send(self.config.primary_of(self.view), header);
    }

    /// Whether enough time has passed since something was last asked for; if so, it counts as asked for now.
    pub(crate) fn is_request_due(&mut self) -> bool {
        let wait_ns = self.config.resend_ns / 4;
        let is_due = self.last_request_ns.is_none_or(|last_ns| self.now_ns - last_ns >= wait_ns);
        if is_due {
            self.last_request_ns = Some(self.now_ns);
        }
        is_due
    }

    pub(crate) fn end_backup_turn(&mut self) {
        if matches!(self.phase, Phase::Joining { .. }) {
            self.advance_view();
        }
        // A role that changed just now has said what it has to.
        if !self.takes_prepares() {
            return;
        }
        if std::mem::take(&mut self.owes_ok) {
            // A replica that has not joined the view yet says how far it is, but that is no vote: see `ok_header`.
            self.send_ok(Command::PrepareOk);
        }
        if !self.is_installing() {
            // A checkpoint is cut at what is applied, and waits until that is durable. If it could be cut at a prepare
            // that waits for room in a full journal, each would wait for the other.
            let mut op = self.commit.min(self.verified).min(self.log.durable());
            if mutant::is(Mutant::ApplyUncommitted) {
                op = self.verified;
            } else if mutant::is(Mutant::ApplyUnverified) {
                op = self.commit.min(self.log.op());
            }
            self.apply_to(op.max(self.applied), 0);
        }
    }
}
