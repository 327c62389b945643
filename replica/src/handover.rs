//! A primary hands its view over, without anybody having to suspect anything.
//!
//! It takes nothing new in, waits until everything that it took is committed and answered and the chosen backup holds
//! it all, and then tells all others to leave for the next view of which that backup is the primary. It follows at
//! once.

use lockstep_proto::message::{Command, MessageHeader};
use zerocopy::little_endian::U64;

use crate::{batch::BatchPool, io::Output, replica::Replica, status::Role};

/// A handover that waits for its moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handover {
    to: Option<u8>,
    /// When it is given up.
    until_ns: u64,
}

/// How long a handover may wait, in view timeouts.
const HANDOVER_VIEW_TIMEOUTS: u64 = 2;

impl<P: BatchPool> Replica<P> {
    pub(crate) fn on_handover_wanted(&mut self, to: Option<u8>) {
        let is_possible = |replica: u8| {
            replica < self.config.servers && replica != self.config.replica && self.peers[replica as usize].is_connected
        };
        let has_somebody = match to {
            Some(replica) => is_possible(replica),
            None => self.other_ids().any(is_possible),
        };
        if self.role != Role::Primary || self.handover.is_some() || !has_somebody {
            self.outputs.push_back(Output::HandoverEnded { is_done: false });
            return;
        }
        let until_ns = self.now_ns + HANDOVER_VIEW_TIMEOUTS * self.config.view_timeout_ns;
        self.handover = Some(Handover { to, until_ns });
    }

    /// Ends a handover that is under way, if there is one.
    pub(crate) fn end_handover(&mut self, is_done: bool) {
        if self.handover.take().is_some() {
            self.outputs.push_back(Output::HandoverEnded { is_done });
        }
    }

    /// Hands over if the moment has come. Called at the end of a primary's turn, when nothing more can be closed.
    pub(crate) fn advance_handover(&mut self) {
        let Some(handover) = self.handover else { return };
        let op = self.log.op();
        let is_idle = self.open.is_none()
            && self.applied == op
            && !self.has_reads
            && self.round_confirmed == self.round
            && self.may_speak();
        if !is_idle {
            return;
        }
        let is_ready = |replica: u8| {
            let peer = &self.peers[replica as usize];
            replica != self.config.replica && peer.is_connected && peer.acked >= op
        };
        let view_of = |replica: u8| {
            let servers = u64::from(self.config.servers);
            let next = self.view + 1;
            next + (u64::from(replica) + servers - next % servers) % servers
        };
        let target = match handover.to {
            Some(replica) => Some(replica).filter(|&replica| is_ready(replica)),
            None => self.other_ids().filter(|&replica| is_ready(replica)).min_by_key(|&replica| view_of(replica)),
        };
        let Some(target) = target else { return };
        let view = view_of(target);
        for replica in self.other_ids() {
            let mut header = self.header(Command::Handover);
            header.op = U64::new(view);
            self.send(replica, header);
        }
        self.enter_view(view);
    }

    /// Gives up a handover that has waited for too long.
    pub(crate) fn check_handover(&mut self) {
        if self.handover.is_some_and(|handover| self.now_ns >= handover.until_ns) {
            self.end_handover(false);
        }
    }

    pub(crate) fn on_handover(&mut self, header: &MessageHeader) {
        let (view, next) = (header.view.get(), header.op.get());
        if view == self.view && self.config.primary_of(view) == header.replica && next > view {
            self.enter_view(next);
        }
    }
}
