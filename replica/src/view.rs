//! How a replica leaves a view and gets into the next one.
//!
//! A view ends when a view-change quorum suspects its primary (`suspicion.rs`) or when the primary hands it over
//! (`handover.rs`). Then:
//!
//! 1. Each replica makes the new view durable, which ends its part in earlier views ([`Replica::enter_view`]). The new
//!    view's primary asks the others to follow (start_view_change).
//! 2. They answer with the end of their log (do_view_change).
//! 3. With answers that can vouch for everything that may have been committed, the new primary takes the log with the
//!    highest log_view, and among these the longest: it fetches what it misses, drops what is not in it, and makes both
//!    durable (`candidate.rs`).
//! 4. It makes its log_view durable and tells the others which log this view begins with (start_view). They drop what
//!    is not in it, fetch what they miss, and make their log_view durable once they hold it all: only then do they vote
//!    (`joining.rs`).
//!
//! A primary may have acknowledged what its own disk never got, since a commit may come before the primary's own write
//! is durable. So a primary that restarts never goes on in its view: it waits for the others to leave it.
//!
//! Every commit quorum has a member in common with the quorum of step 3, so the chosen log holds everything that was
//! committed before. The order of the durable writes is what makes a crash between any two of these steps harmless: a
//! durable log_view says "my log is this view's log, as far as it goes, and at least as far as the view's beginning". A
//! replica that has lost a part of what it had says so, durably, in its vouch_op: see `recovery.rs`.

use lockstep_proto::{
    message::Command,
    mutant::{self, Mutant},
};

use crate::{
    batch::BatchPool, candidate::Candidate, io::Output, log_end::LogEnd, record::ViewRecord, recovery::Recovering,
    replica::Replica, status::Role, timers::Timer,
};

/// What a replica is doing about its view.
pub(crate) enum Phase {
    /// The view was begun; this replica's log is its log.
    Normal,
    /// Restarted in a view that it is not a whole member of: waits to hear from its primary how it began.
    Waiting,
    /// Was to be, or has been, the primary of this view, and is it no more: waits for the others to leave it.
    Former,
    /// Will be the primary, once enough others have answered.
    Candidate(Box<Candidate>),
    /// Has left earlier views, and waits for the new one to begin.
    Participant {
        /// Whether the end of the log was sent.
        has_answered: bool,
    },
    /// Knows the log with which the view has begun, and fetches what it misses of it.
    Joining {
        /// The last op that it must hold to be a whole member.
        target_op: u64,
        /// The end of the log with which the view has begun.
        beginning: LogEnd,
        /// Whether the primary was told how far this replica is.
        has_greeted: bool,
        /// Whether the new log_view was handed to the disk.
        has_persisted: bool,
    },
    /// Its folder was wiped: asks the others for their views.
    Recovering(Recovering),
}

impl<P: BatchPool> Replica<P> {
    /// Takes up work after a start.
    pub(crate) fn restart(&mut self) {
        self.expect_progress();
        if self.is_recovering {
            self.begin_recovery();
        } else if self.config.primary_of(self.view) == self.config.replica {
            let is_whole = self.view > 0 && self.log_view == self.view && self.vouch_op == 0;
            if mutant::is(Mutant::RestartedPrimaryGoesOn) && is_whole {
                return self.become_primary();
            }
            // What it has acknowledged may not be on its disk.
            self.phase = Phase::Former;
            self.suspect();
        } else if self.log_view == self.view && self.vouch_op == 0 {
            // What it acknowledged as a member of this view is durable, so it goes on where it was.
            self.phase = Phase::Normal;
            self.set_role(Role::Backup);
            self.owes_ok = true;
        } else {
            self.phase = Phase::Waiting;
            self.nonce = self.chance.next();
            self.timers.set(Timer::Resend, self.now_ns + self.config.resend_ns);
        }
    }

    /// The view after `view`. Nobody is primary in view 0, which all servers are formatted in; the first one after it
    /// is server 0's.
    pub(crate) fn next_view(&self, view: u64) -> u64 {
        if view == 0 { u64::from(self.config.servers) } else { view + 1 }
    }

    /// Leaves the present view for a higher one, and does there what is this replica's to do.
    pub(crate) fn enter_view(&mut self, view: u64) {
        self.leave_view(view);
        self.phase = if self.config.primary_of(view) == self.config.replica {
            Phase::Candidate(Box::default())
        } else {
            Phase::Participant { has_answered: false }
        };
    }

    /// Ends the part in the present view, durably.
    pub(crate) fn leave_view(&mut self, view: u64) {
        assert!(view > self.view, "views only go up");
        self.end_handover(true);
        self.view = view;
        self.stop_serving();
        self.round = 0;
        self.round_confirmed = 0;
        self.round_seen = 0;
        self.is_behind = false;
        self.last_request_ns = None;
        self.nonce = 0;
        self.forget_suspicions();
        self.expect_progress();
        self.timers.set(Timer::Resend, self.now_ns + self.config.resend_ns);
        self.persist_record();
    }

    /// Takes no more requests and reads; what was taken and not answered is the next primary's.
    pub(crate) fn stop_serving(&mut self) {
        self.open = None;
        self.has_reads = false;
        self.timers.stop(Timer::Heartbeat);
        self.timers.stop(Timer::Linger);
        self.set_role(Role::Recovering);
    }

    /// Hands to the disk what must not be forgotten.
    pub(crate) fn persist_record(&mut self) {
        self.outputs.push_back(Output::PersistView(ViewRecord {
            view: self.view,
            log_view: self.log_view,
            vouch_op: self.vouch_op,
            incarnations: self.incarnations,
            is_recovering: self.is_recovering,
        }));
    }

    pub(crate) fn on_record_durable(&mut self, record: ViewRecord) {
        assert!(record.view >= self.durable.view && record.log_view >= self.durable.log_view, "views only go up");
        self.durable = record;
        self.answer_recoveries();
        self.advance_view();
        if self.is_suspecting {
            // It could not be said before.
            self.suspect();
        }
    }

    /// Whether this replica may speak: no message carries a view that is not durable.
    pub(crate) fn may_speak(&self) -> bool {
        self.durable.view >= self.view || mutant::is(Mutant::ViewFenceSkipped)
    }

    /// Goes on with a change of view as far as what is durable allows.
    pub(crate) fn advance_view(&mut self) {
        if !self.may_speak() || self.is_installing() {
            return;
        }
        match &mut self.phase {
            Phase::Normal | Phase::Waiting => {}
            Phase::Former => self.leave_if_agreed(),
            Phase::Participant { has_answered } => {
                if !std::mem::replace(has_answered, true) {
                    self.send_do_view_change();
                }
            }
            Phase::Candidate(_) => self.advance_candidate(),
            Phase::Joining { .. } => self.advance_joining(),
            Phase::Recovering(_) => self.advance_recovery(),
        }
    }

    /// Somebody is in an earlier view than ours.
    pub(crate) fn tell_view(&mut self, replica: u8) {
        if self.role == Role::Primary {
            self.send_start_view(replica, 0);
        } else if self.may_speak() {
            let ok = self.ok_header(Command::HeartbeatOk);
            self.send(replica, ok);
        }
    }

    pub(crate) fn on_peer_connected(&mut self, replica: u8) {
        let peer = &mut self.peers[replica as usize];
        peer.is_connected = true;
        peer.rewind(peer.received);
        peer.last_start_view_ns = None;
        if !self.may_speak() {
            return;
        }
        if self.is_suspecting {
            self.send_suspect(replica);
        }
        self.resume_transfer(replica);
        match self.phase {
            Phase::Candidate(_) => self.send_start_view_change(replica),
            Phase::Recovering(_) => self.send_recovery(replica),
            Phase::Normal if self.role == Role::Primary => {
                if self.peers[replica as usize].has_joined {
                    self.pump_all();
                } else {
                    self.send_start_view(replica, 0);
                }
            }
            _ if self.config.primary_of(self.view) != replica => {}
            Phase::Participant { .. } => self.send_do_view_change(),
            Phase::Waiting => self.ask_how_view_began(),
            Phase::Normal | Phase::Joining { .. } => {
                let ok = self.ok_header(Command::HeartbeatOk);
                self.send(replica, ok);
            }
            Phase::Former => {}
        }
    }

    pub(crate) fn on_peer_disconnected(&mut self, replica: u8) {
        let peer = &mut self.peers[replica as usize];
        peer.is_connected = false;
        peer.rewind(peer.received);
        if self.role != Role::Primary && self.config.primary_of(self.view) == replica {
            self.expect_progress_soon();
        }
    }

    pub(crate) fn on_resend_timer(&mut self) {
        if self.may_speak() && !self.is_installing() {
            self.resend();
        }
        if !matches!(self.phase, Phase::Normal | Phase::Former) {
            self.timers.set(Timer::Resend, self.now_ns + self.config.resend_ns);
        }
    }

    fn resend(&mut self) {
        match &self.phase {
            Phase::Normal if self.role == Role::Primary => self.resend_round(),
            Phase::Normal | Phase::Former => {}
            Phase::Candidate(_) => self.resend_as_candidate(),
            Phase::Participant { .. } => self.send_do_view_change(),
            Phase::Waiting => self.ask_how_view_began(),
            Phase::Joining { .. } => {
                self.owes_ok = true;
                self.request_prepares();
            }
            Phase::Recovering(_) => self.other_ids().for_each(|replica| self.send_recovery(replica)),
        }
    }
}
