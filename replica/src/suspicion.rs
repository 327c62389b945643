//! When a view ends: suspicion, the timers behind it, and a primary that gives way.
//!
//! A replica that hears nothing of its primary for a while suspects it and says so to all, again and again. It *stays*
//! what it is. It leaves the view only when a view-change quorum, itself included, suspects the same view at the same
//! time. So a replica that is merely cut off, even from one side only, cannot disturb a primary that the others hear;
//! and a view above all others exists only because a quorum has left the one before.
//!
//! A primary that cannot do its work suspects its own view ([`Replica::abdicate`]). Whoever hears that from it has no
//! reason to wait, and suspects at once.
//!
//! Once anybody has entered a higher view, every message from there moves the others: the quorum has spoken.

use lockstep_proto::message::{Command, MessageHeader};

use crate::{batch::BatchPool, config::SILENT_HEARTBEATS, replica::Replica, status::Role, timers::Timer, view::Phase};

/// By how many doublings the view timeout grows at most, while views do not begin.
const BACKOFF_DOUBLINGS_MAX: u32 = 3;

/// Said again this often within a view timeout.
const SUSPECT_REPEATS: u64 = 4;

impl<P: BatchPool> Replica<P> {
    /// Draws the time until which there must be a sign of life, and starts to wait for it.
    pub(crate) fn expect_progress(&mut self) {
        let timeout_ns = self.config.view_timeout_ns << self.failed_views.min(BACKOFF_DOUBLINGS_MAX);
        self.view_wait_ns = timeout_ns + self.chance.below(timeout_ns / 5 + 1);
        self.progress_due_ns = self.now_ns + self.view_wait_ns;
        self.has_grace = false;
        self.timers.set(Timer::View, self.progress_due_ns);
    }

    /// There was a sign of life of the view's primary, or a step towards the view's beginning. On the hot path, so the
    /// timer stays as it is: when it fires, it is set anew.
    #[inline]
    pub(crate) fn note_progress(&mut self) {
        self.progress_due_ns = self.now_ns + self.view_wait_ns;
        self.is_suspecting = false;
        self.has_grace = false;
    }

    /// The connection to the primary is lost: it must be heard again soon.
    pub(crate) fn expect_progress_soon(&mut self) {
        let soon_ns = self.now_ns + SILENT_HEARTBEATS * self.config.heartbeat_interval_ns;
        if soon_ns < self.progress_due_ns {
            self.progress_due_ns = soon_ns;
            self.timers.set(Timer::View, soon_ns);
        }
    }

    /// `due_ns` is when the timer should have fired.
    pub(crate) fn on_view_timer(&mut self, due_ns: u64) {
        if self.role == Role::Primary || self.is_recovering {
            return;
        }
        let was_asleep = self.now_ns - due_ns > self.config.view_timeout_ns / 2;
        if self.now_ns < self.progress_due_ns {
            self.timers.set(Timer::View, self.progress_due_ns);
        } else if was_asleep && !self.has_grace {
            // This process did not run for a while; what has been sent to it meanwhile is still to be read.
            self.has_grace = true;
            self.progress_due_ns = self.now_ns + SILENT_HEARTBEATS * self.config.heartbeat_interval_ns;
            self.timers.set(Timer::View, self.progress_due_ns);
        } else {
            if matches!(self.phase, Phase::Candidate(_)) && self.may_speak() {
                return self.give_up_candidacy();
            }
            self.suspect();
        }
    }

    /// This replica will not be the primary of its view: it is the next one's turn.
    pub(crate) fn give_up_candidacy(&mut self) {
        self.phase = Phase::Former;
        self.failed_views = self.failed_views.saturating_add(1);
        self.suspect();
    }

    /// Says that this replica does not hear the view's primary, or cannot be it.
    pub(crate) fn suspect(&mut self) {
        self.is_suspecting = true;
        let repeat_ns = (self.view_wait_ns / SUSPECT_REPEATS).max(1);
        self.timers.set(Timer::View, self.now_ns + repeat_ns);
        if !self.may_speak() {
            return;
        }
        for replica in self.other_ids() {
            self.send_suspect(replica);
        }
        self.leave_if_agreed();
    }

    pub(crate) fn send_suspect(&mut self, replica: u8) {
        if self.peers[replica as usize].is_connected {
            let header = self.header(Command::Suspect);
            self.send(replica, header);
        }
    }

    pub(crate) fn forget_suspicions(&mut self) {
        self.is_suspecting = false;
        self.suspected_ns = Default::default();
    }

    pub(crate) fn on_suspect(&mut self, header: &MessageHeader) {
        let (view, from) = (header.view.get(), header.replica);
        if view < self.view {
            return self.tell_view(from);
        }
        if view > self.view {
            self.enter_view(view);
        }
        self.suspected_ns[from as usize] = Some(self.now_ns);
        if self.config.primary_of(view) == from {
            if self.is_suspecting {
                self.leave_if_agreed();
            } else {
                self.suspect();
            }
        } else if self.role == Role::Primary {
            // It does not hear us. Perhaps it has missed how the view began.
            if self.peers[from as usize].has_joined {
                self.send_heartbeat(from);
            } else {
                self.send_start_view(from, 0);
            }
        } else if self.is_suspecting {
            self.leave_if_agreed();
        }
    }

    /// Leaves the view if a quorum suspects it.
    pub(crate) fn leave_if_agreed(&mut self) {
        if !self.is_suspecting || self.role == Role::Primary || !self.may_speak() {
            return;
        }
        let oldest_ns = self.now_ns.saturating_sub(self.view_wait_ns);
        let count = self.suspected_ns.iter().flatten().filter(|&&heard_ns| heard_ns >= oldest_ns).count();
        if count + 1 >= self.quorums.view_change as usize {
            self.failed_views = match self.phase {
                Phase::Normal => 0,
                Phase::Former => self.failed_views,
                _ => self.failed_views.saturating_add(1),
            };
            self.enter_view(self.next_view(self.view));
        }
    }

    /// Gives the view up: this primary cannot do its work.
    pub(crate) fn abdicate(&mut self) {
        self.end_handover(false);
        self.stop_serving();
        self.timers.stop(Timer::Resend);
        self.phase = Phase::Former;
        self.expect_progress();
        self.suspect();
    }

    /// Whether this primary should give way: it hears too few others, nothing is committed although something waits, or
    /// its disk stands still.
    pub(crate) fn should_abdicate(&mut self) -> bool {
        if self.config.servers == 1 {
            return false;
        }
        let now_ns = self.now_ns;
        if self.commit > self.seen_commit || self.log.op() == self.commit {
            (self.seen_commit, self.commit_moved_ns) = (self.commit, now_ns);
        }
        if self.log.durable() > self.seen_durable || self.log.op() == self.log.durable() {
            (self.seen_durable, self.durable_moved_ns) = (self.log.durable(), now_ns);
        }
        let stalled_ns = now_ns - self.commit_moved_ns.min(self.durable_moved_ns);
        let silence_ns = self.config.view_timeout_ns;
        let heard = self.others().filter(|(_, peer)| now_ns.saturating_sub(peer.last_heard_ns) <= silence_ns).count();
        stalled_ns > self.config.stall_timeout_ns || heard + 1 < self.quorums.commit as usize
    }

    /// Starts to watch over itself: as a new primary, or one whose process did not run for a while.
    pub(crate) fn watch_itself(&mut self) {
        let now_ns = self.now_ns;
        (self.seen_commit, self.commit_moved_ns) = (self.commit, now_ns);
        (self.seen_durable, self.durable_moved_ns) = (self.log.durable(), now_ns);
        for replica in self.other_ids() {
            self.peers[replica as usize].last_heard_ns = now_ns;
        }
    }
}
