//! Commands of the front door about the running of the server: checkpoints, handing over, stopping, waiting for copies.

use std::rc::Rc;

use lockstep_replica::Role;

use super::{
    Core, Shard,
    clock::Now,
    connections::ConnectionRef,
    front::{Asker, Desk, Taken},
};
use crate::resp::{context::AdminRequest, mailbox::Notice, writer::Writer};

/// Most WAITs that a shard keeps.
const WAITS_MAX: usize = 10_000;

/// A WAIT that is not answered yet.
pub(super) struct Waiting {
    connection: ConnectionRef,
    sequence: u64,
    /// Op of the write that is waited for.
    op: u64,
    copies: u8,
    local: Option<u8>,
    deadline_ns: u64,
}

impl Core {
    pub(super) fn administer(
        &mut self,
        desk: &mut Desk,
        asker: &mut Asker<'_>,
        request: AdminRequest,
    ) -> Option<Taken> {
        match request {
            AdminRequest::Checkpoint => {
                tell_all(desk, || Notice::Checkpoint);
                asker.reply(|out| out.simple("Background saving started"));
            }
            AdminRequest::MovePrimary { to } => {
                tell_all(desk, || Notice::MovePrimary(to));
                asker.reply(|out| out.ok());
            }
            AdminRequest::Shutdown => {
                // The way of SIGTERM, which is how everything else asks for it.
                let own = rustix::process::getpid();
                let _ = rustix::process::kill_process(own, rustix::process::Signal::TERM);
                asker.door.is_closing = true;
            }
            AdminRequest::Wait { copies, timeout_ms, local } => {
                if asker.door.writes > 0 {
                    // What it waits for must be in the log and answered before its copies can be counted.
                    return Some(Taken::NeedsAnswers);
                }
                let timeout_ns = if timeout_ms == 0 { u64::MAX } else { timeout_ms.saturating_mul(1_000_000) };
                let waiting = Waiting {
                    connection: asker.name,
                    sequence: asker.door.pending.next(),
                    op: asker.connection.last_write_op.get(),
                    copies,
                    local,
                    deadline_ns: asker.now.monotonic_ns.saturating_add(timeout_ns),
                };
                let holding = self.holding(waiting.op);
                if waiting.is_satisfied(holding) || self.waits.len() >= WAITS_MAX {
                    asker.reply(|out| waiting.write(holding, out));
                    return None;
                }
                asker.door.owe_hole();
                self.waits.push(waiting);
            }
        }
        None
    }

    /// Who is known to hold the log up to `op` durably.
    fn holding(&self, op: u64) -> Holding {
        let own = self.identity.replica;
        let status = self.replica.status();
        let others = status.peers.iter().filter(|peer| peer.replica != own && peer.durable >= op).count() as u8;
        Holding { own: u8::from(status.durable >= op), others }
    }

    /// Answers the WAITs that have what they wait for, or have waited long enough. When the next of them is to be looked at.
    pub(super) fn answer_waits(&mut self, now: Now) -> Option<u64> {
        let waits = std::mem::take(&mut self.waits);
        for waiting in waits {
            let holding = self.holding(waiting.op);
            if !waiting.is_satisfied(holding)
                && waiting.deadline_ns > now.monotonic_ns
                && self.replica_role == Role::Primary
            {
                self.waits.push(waiting);
                continue;
            }
            let Some(connection) = self.connections.get(waiting.connection).cloned() else { continue };
            let Some(door) = connection.door() else { continue };
            let door = &mut *door.borrow_mut();
            let mut bytes = Vec::new();
            waiting.write(holding, &mut Writer::new(&mut bytes, door.pending.version_of(waiting.sequence)));
            door.pending.fill(waiting.sequence, &bytes, &mut connection.replies.borrow_mut());
            self.connections.mark_dirty(&connection);
            connection.settled.notify();
        }
        // What the others hold becomes known with their heartbeats; the deadline needs a turn of its own.
        self.waits.iter().map(|waiting| waiting.deadline_ns).min().filter(|&deadline_ns| deadline_ns < u64::MAX)
    }

    /// BGSAVE: cuts a checkpoint at what is applied now, unless one is being written.
    pub(super) fn want_checkpoint(&mut self, shard: &Rc<Shard>, now: Now) {
        self.cut();
        self.look_after_checkpoint(shard, now);
    }
}

/// Who holds a write durably.
#[derive(Clone, Copy)]
struct Holding {
    /// 1 if this server does: a write can be committed by others before.
    own: u8,
    /// How many others do.
    others: u8,
}

impl Waiting {
    fn is_satisfied(&self, holding: Holding) -> bool {
        holding.others >= self.copies && self.local.is_none_or(|local| holding.own >= local)
    }

    fn write(&self, holding: Holding, out: &mut Writer<'_>) {
        if self.local.is_some() {
            out.array(2);
            out.integer(i64::from(holding.own));
        }
        out.integer(i64::from(holding.others));
    }
}

/// Tells every shard, this one too.
fn tell_all(desk: &mut Desk, notice: impl Fn() -> Notice) {
    for parcel in &mut desk.outbox {
        parcel.notices.push(notice());
    }
}
