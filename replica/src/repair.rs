//! Repair of what has rotted in the journal of a running server: noticed when a prepare is read back for another server, and
//! fetched from whoever holds it. Only committed ops are repaired this way: they are the same everywhere.

use bytes::Bytes;
use lockstep_proto::message::{Command, MessageHeader};
use zerocopy::little_endian::U64;

use crate::{batch::BatchPool, io::Output, replica::Replica, timers::Timer};

/// Ops that are repaired at a time.
const REPAIRS_MAX: usize = 16;

/// How often each server is asked before a repair is given up.
const ROUNDS_MAX: u32 = 3;

/// An op that is being fetched from the others.
#[derive(Debug)]
pub(crate) struct Repair {
    pub(crate) op: u64,
    /// Who waits for it.
    peer: u8,
    /// How many servers were asked, some of them more than once.
    asked: u32,
}

impl<P: BatchPool> Replica<P> {
    /// What the journal holds of `op`, which `peer` needs, is damaged.
    pub(crate) fn begin_repair(&mut self, peer: u8, op: u64) {
        if op > self.commit.min(self.verified) {
            return self.fatal(format!("op {op}, which is not known to be committed, has rotted in the journal"));
        }
        if self.repairs.iter().any(|repair| (repair.op, repair.peer) == (op, peer)) || self.repairs.len() == REPAIRS_MAX
        {
            return;
        }
        self.repairs.push(Repair { op, peer, asked: 0 });
        self.ask_for_repairs();
    }

    pub(crate) fn ask_for_repairs(&mut self) {
        if self.repairs.is_empty() || !self.may_speak() {
            return;
        }
        let me = self.config.replica;
        let servers = u32::from(self.config.servers);
        let mut given_up = Vec::new();
        let mut requests = Vec::new();
        self.repairs.retain_mut(|repair| {
            repair.asked += 1;
            let is_hopeless = repair.asked > ROUNDS_MAX * (servers - 1);
            if is_hopeless {
                given_up.push((repair.peer, repair.op));
            } else {
                let step = 1 + (repair.asked - 1) % (servers - 1);
                requests.push((((u32::from(me) + step) % servers) as u8, repair.op));
            }
            !is_hopeless
        });
        for (replica, op) in requests {
            let mut header = self.header(Command::RequestPrepare);
            header.op = U64::new(op);
            header.nonce = U64::new(op);
            self.send(replica, header);
        }
        for (peer, op) in given_up {
            self.on_journal_read(peer, op, None);
        }
        self.timers.set(Timer::Repair, self.now_ns + self.config.resend_ns);
    }

    /// Somebody's journal has lost a committed op, and asks for just this one.
    pub(crate) fn serve_repair(&mut self, to: u8, op: u64) {
        if op > self.commit.min(self.verified).min(self.log.durable()) {
            return;
        }
        if let Some(message) = self.log.message(op) {
            self.outputs.push_back(Output::Send { to, message: message.clone() });
        } else if op >= self.journal_first_op {
            self.peers[to as usize].repairing = Some(op);
            self.outputs.push_back(Output::ReadJournal { peer: to, op });
        }
    }

    /// Takes a prepare that is being waited for to repair the journal. Returns whether it was that.
    pub(crate) fn take_repair(&mut self, header: &MessageHeader, message: &Bytes) -> bool {
        let op = header.op.get();
        if !self.repairs.iter().any(|repair| repair.op == op)
            || self.log.checksum(op).is_some_and(|ours| ours != header.checksum.get())
        {
            return false;
        }
        self.outputs.push_back(Output::RepairJournal { op, message: message.clone() });
        let mut waiting = Vec::new();
        self.repairs.retain(|repair| {
            if repair.op == op {
                waiting.push(repair.peer);
            }
            repair.op != op
        });
        for peer in waiting {
            self.on_journal_read(peer, op, Some(message.clone()));
        }
        true
    }
}
