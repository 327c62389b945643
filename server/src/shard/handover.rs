//! Planned handover: another server becomes primary because somebody wants it, not because this one has failed.
//!
//! The replica does it: it stops taking requests, lets everything in flight be answered, and tells the others. Here is
//! who asks, and how they are told how it ended: a client, the admin port, or this server when it is about to stop.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use lockstep_proto::{
    Operation, Status,
    reply::{ReplyParts, encode_reply},
    request::Request,
};
use lockstep_replica::{Input, Role};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::{
    Core, Shard,
    clock::Now,
    connections::{Connection, ConnectionRef},
};
use crate::ring;

/// How long a primary that is about to stop waits for another one to take over.
const STOP_HANDOVER_TIMEOUT: Duration = Duration::from_secs(3);

/// How a request to move the primary has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveOutcome {
    /// The server asked for is primary, or about to be: in this view.
    Done {
        /// The view.
        view: u64,
    },
    /// This server is not the primary.
    NotPrimary {
        /// The view that it knows of.
        view: u64,
    },
    /// There is no such server.
    NoSuchServer,
    /// A handover is under way already.
    Busy,
    /// It was given up, and this server goes on as primary.
    GivenUp,
}

impl MoveOutcome {
    /// What to say to a person.
    pub fn text(self) -> &'static str {
        match self {
            MoveOutcome::Done { .. } => "done",
            MoveOutcome::NotPrimary { .. } => "this server is not the primary",
            MoveOutcome::NoSuchServer => "the cluster has no such server",
            MoveOutcome::Busy => "a handover is under way already",
            MoveOutcome::GivenUp => {
                "the handover was given up and this server goes on as primary: no other server, or not the one asked for, \
                 is connected and has caught up"
            }
        }
    }

    fn status(self) -> Status {
        match self {
            MoveOutcome::Done { .. } => Status::Ok,
            MoveOutcome::NotPrimary { .. } => Status::NotPrimary,
            MoveOutcome::NoSuchServer => Status::BadRequest,
            MoveOutcome::Busy => Status::Busy,
            MoveOutcome::GivenUp => Status::Unavailable,
        }
    }
}

/// Who waits for the end of a handover.
pub(super) enum MoveAsker {
    /// A client, for the answer to this request.
    Client { connection: ConnectionRef, sequence: u64 },
    /// The admin port.
    Admin(oneshot::Sender<MoveOutcome>),
    /// This server, which looks for itself.
    Own,
    /// This server, which is about to stop.
    Leaving,
}

impl Core {
    /// Takes a client's request to move the primary. Whether it will be answered later; else it was answered.
    pub(super) fn take_move(
        &mut self,
        now: Now,
        name: ConnectionRef,
        connection: &Rc<Connection>,
        request: &Request<'_>,
    ) -> bool {
        let asker = MoveAsker::Client { connection: name, sequence: request.sequence() };
        match self.begin_handover(now, request.move_to(), asker) {
            Ok(()) => true,
            Err((outcome, _)) => {
                self.encode_move_reply(connection, request.sequence(), outcome);
                false
            }
        }
    }

    /// Begins a handover, unless there is nothing to be begun; then says why not and gives the asker back.
    pub(super) fn begin_handover(
        &mut self,
        now: Now,
        to: Option<u8>,
        asker: MoveAsker,
    ) -> Result<(), (MoveOutcome, MoveAsker)> {
        let view = self.replica.view();
        let outcome = match to {
            Some(to) if to >= self.identity.servers => MoveOutcome::NoSuchServer,
            _ if self.replica_role != Role::Primary => MoveOutcome::NotPrimary { view },
            Some(to) if to == self.identity.replica => MoveOutcome::Done { view },
            _ if self.handover.is_some() => MoveOutcome::Busy,
            _ => {
                info!(shard = self.shard, view, to, "handing over to another primary");
                self.handover = Some(asker);
                self.replica.step(now.monotonic_ns, now.wall_ns, Input::Handover { to });
                return Ok(());
            }
        };
        Err((outcome, asker))
    }

    /// The replica says how a handover has ended.
    pub(super) fn end_handover(&mut self, is_done: bool) {
        let Some(asker) = self.handover.take() else { return };
        let view = self.replica.view();
        let outcome = if is_done { MoveOutcome::Done { view } } else { MoveOutcome::GivenUp };
        if is_done {
            info!(shard = self.shard, view, "handed over: another server begins the view");
        } else if !matches!(asker, MoveAsker::Leaving) {
            warn!(shard = self.shard, view, "the handover was given up: going on as primary");
        }
        match asker {
            MoveAsker::Own | MoveAsker::Leaving => {}
            MoveAsker::Admin(answer) => drop(answer.send(outcome)),
            MoveAsker::Client { connection, sequence } => {
                let Some(connection) = self.connections.get(connection).cloned() else { return };
                self.encode_move_reply(&connection, sequence, outcome);
                connection.answered();
                self.connections.mark_dirty(&connection);
            }
        }
    }

    fn encode_move_reply(&self, connection: &Rc<Connection>, sequence: u64, outcome: MoveOutcome) {
        let (operation, status) = (Operation::MovePrimary, outcome.status());
        let parts = ReplyParts { status, operation, copies: 0, sequence, version: 0 };
        let view = match outcome {
            MoveOutcome::Done { view } | MoveOutcome::NotPrimary { view } => Some(view.to_le_bytes()),
            _ => None,
        };
        let body = view.as_ref().map_or(outcome.text().as_bytes(), |view| view.as_slice());
        encode_reply(&parts, body, &mut connection.replies.borrow_mut());
        self.metrics.count_requests(operation, status, 1);
    }
}

/// Before a primary stops, it lets another server take over: its clients then wait for milliseconds and not for the
/// others to miss it.
pub(super) async fn hand_over_before_stop(shard: &Rc<Shard>) {
    {
        let core = &mut *shard.core.borrow_mut();
        if core.replica_role != Role::Primary || core.identity.servers == 1 {
            return;
        }
        let now = core.clock.now();
        // One that somebody else has asked for is as good.
        let _ = core.begin_handover(now, None, MoveAsker::Leaving);
    }
    shard.turn.notify();
    let start = Instant::now();
    while start.elapsed() < STOP_HANDOVER_TIMEOUT {
        let is_over = {
            let core = shard.core.borrow();
            if core.peers.iter().flatten().all(|peer| !peer.is_connected()) {
                // All are stopped together, or were before.
                info!(shard = shard.shard, "no other server is there to hand over to");
                return;
            }
            // As a backup of the new view it knows that that has begun; its vote may be needed until then.
            core.failure.is_some()
                || core.replica_role == Role::Backup
                || (core.replica_role == Role::Primary && core.handover.is_none())
        };
        if is_over {
            return;
        }
        ring::sleep(Duration::from_millis(1)).await;
    }
    warn!(shard = shard.shard, "no other server has taken over in time: stopping all the same");
}
