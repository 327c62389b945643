//! Commands of the front door about the running of the server: checkpoints, handing over, stopping, waiting for copies.

use std::{collections::BTreeMap, rc::Rc, sync::atomic::Ordering::Relaxed};

use lockstep_replica::Role;

use super::{
    Core, Shard,
    clock::Now,
    connections::ConnectionRef,
    front::{Asker, Desk, Taken},
};
use crate::resp::{context::AdminRequest, mailbox::Notice, server::Server, writer::Writer};

/// Most WAITs that a shard keeps.
const WAITS_MAX: usize = 10_000;

/// A WAIT that is not answered yet.
pub(super) struct Waiting {
    connection: ConnectionRef,
    sequence: u64,
    /// The writes that are waited for: shards, and ops of their logs.
    ops: Vec<(u16, u64)>,
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
                    ops: asker
                        .door
                        .elsewhere
                        .iter()
                        .copied()
                        .chain([(self.shard, asker.connection.last_write_op.get())])
                        .collect(),
                    copies,
                    local,
                    deadline_ns: asker.now.monotonic_ns.saturating_add(timeout_ns),
                };
                let holding = self.holding(&desk.server, &waiting.ops, &mut Known::default());
                if waiting.is_satisfied(holding) || self.waits.len() >= WAITS_MAX {
                    asker.reply(|out| waiting.write(holding, out));
                    return None;
                }
                asker.door.owe_hole();
                asker.door.client.shared.is_blocked.store(true, Relaxed);
                self.waits.push(waiting);
            }
        }
        None
    }

    /// Who is known to hold these logs up to these ops durably: as many as hold each of them.
    fn holding(&self, server: &Server, ops: &[(u16, u64)], known: &mut Known) -> Holding {
        let mut holding = Holding { own: 1, others: self.identity.servers - 1 };
        for &(shard, op) in ops {
            let own = self.identity.replica;
            let durable = known.0.entry(shard).or_insert_with(|| self.durable_of(server, shard));
            let holders = durable.iter().filter(|(_, durable)| *durable >= op).map(|(server, _)| *server);
            let (all, here) = (holders.clone().count() as u8, holders.filter(|server| *server == own).count() as u8);
            holding.own = holding.own.min(here);
            holding.others = holding.others.min(all - here);
        }
        holding
    }

    /// How far each server is known to hold a shard's log durably; nothing if that is not known.
    fn durable_of(&self, server: &Server, shard: u16) -> Vec<(u8, u64)> {
        let own = self.identity.replica;
        if shard == self.shard {
            let status = self.replica.status();
            let others = status.peers.iter().filter(|peer| peer.replica != own);
            return others.map(|peer| (peer.replica, peer.durable)).chain([(own, status.durable)]).collect();
        }
        // As of a tenth of a second ago at most.
        let Some(status) = server.shards[shard as usize].reported().status else { return Vec::new() };
        let others = status.peers.iter().filter(|peer| peer.server != own);
        others.map(|peer| (peer.server, peer.durable)).chain([(own, status.durable)]).collect()
    }

    /// Answers the WAITs that have what they wait for, or have waited long enough. When the next of them is to be
    /// looked at.
    pub(super) fn answer_waits(&mut self, now: Now) -> Option<u64> {
        let server = self.desk.as_ref()?.server.clone();
        let waits = std::mem::take(&mut self.waits);
        let mut known = Known::default();
        for waiting in waits {
            if self.connections.get(waiting.connection).is_none() {
                continue;
            }
            let holding = self.holding(&server, &waiting.ops, &mut known);
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
            door.client.shared.is_blocked.store(false, Relaxed);
            self.connections.mark_dirty(&connection);
            connection.settled.notify();
        }
        // What the others hold becomes known with their heartbeats; the deadline needs a turn of its own.
        self.waits.iter().map(|waiting| waiting.deadline_ns).min().filter(|&deadline_ns| deadline_ns < u64::MAX)
    }

    /// CONFIG SET timeout: closes clients that have asked for nothing for so long. As in Redis, not those that wait for
    /// an answer or listen to channels.
    pub(super) fn cut_idle_clients(&mut self) {
        let Some(desk) = &self.desk else { return };
        let timeout_s = desk.server.settings.idle_timeout_s.load(Relaxed);
        if timeout_s == 0 {
            return;
        }
        let idle_since_ns = self.clock.now().wall_ns.saturating_sub(timeout_s.saturating_mul(1_000_000_000));
        for connection in self.connections.iter() {
            let Some(door) = connection.door() else { continue };
            let door = door.borrow();
            let is_waiting = !door.pending.is_empty() || !door.client.subscriptions.is_empty();
            if !is_waiting && door.client.shared.active_ns.load(Relaxed) < idle_since_ns {
                connection.cut();
            }
        }
    }

    /// BGSAVE: cuts a checkpoint at what is applied now, unless one is being written.
    pub(super) fn want_checkpoint(&mut self, shard: &Rc<Shard>, now: Now) {
        self.cut();
        self.look_after_checkpoint(shard, now);
    }
}

impl Shard {
    /// Lets what a connection waits for be answered as it is: nothing more will come from it, and perhaps nobody is
    /// there.
    pub fn end_waits(&self, name: ConnectionRef) {
        let core = &mut *self.core.borrow_mut();
        for waiting in core.waits.iter_mut().filter(|waiting| waiting.connection == name) {
            waiting.deadline_ns = 0;
            self.turn.notify();
        }
    }
}

/// How far the servers hold the logs of the shards that were asked about in one turn.
#[derive(Default)]
struct Known(BTreeMap<u16, Vec<(u8, u64)>>);

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
pub(super) fn tell_all(desk: &mut Desk, notice: impl Fn() -> Notice) {
    for parcel in &mut desk.outbox {
        parcel.notices.push(notice());
    }
}
