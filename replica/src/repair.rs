//! Repair of what has rotted in the journal of a running server: noticed when a prepare is read back for another
//! server, and fetched from whoever holds it. Only committed ops are repaired this way: they are the same everywhere.

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
    /// Checksum of the header of what was there. A stray of another view may have the same op.
    checksum: u128,
    /// Who waits for it.
    peer: u8,
    /// How many servers were asked, some of them more than once.
    asked: u32,
}

impl<P: BatchPool> Replica<P> {
    /// What the journal holds of `op`, which `peer` needs, is damaged. Its header had this checksum.
    pub(crate) fn begin_repair(&mut self, peer: u8, op: u64, checksum: u128) {
        if op > self.commit.min(self.verified) {
            return self.fatal(format!("op {op}, which is not known to be committed, has rotted in the journal"));
        }
        if self.repairs.iter().any(|repair| (repair.op, repair.peer) == (op, peer)) {
            return;
        }
        if self.repairs.len() == REPAIRS_MAX {
            // It is read once more when some of the others are mended.
            return self.peers[peer as usize].reads.drop_from(op);
        }
        self.repairs.push(Repair { op, checksum, peer, asked: 0 });
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
        let is_it = |repair: &Repair| repair.op == op && repair.checksum == header.checksum.get();
        if !self.repairs.iter().any(is_it) {
            return false;
        }
        self.outputs.push_back(Output::RepairJournal { op, message: message.clone() });
        let mut waiting = Vec::new();
        self.repairs.retain(|repair| {
            let is_it = is_it(repair);
            if is_it {
                waiting.push(repair.peer);
            }
            !is_it
        });
        for peer in waiting {
            self.on_journal_read(peer, op, Some(message.clone()));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use lockstep_proto::message::MessageHeader;
    use zerocopy::{
        IntoBytes,
        little_endian::{U32, U128},
    };

    use super::*;
    use crate::{Input, Recovered, ViewRecord, config::tests::config};

    struct NoBatches;

    impl BatchPool for NoBatches {
        type Buffer = Vec<u8>;

        fn take(&mut self, _: usize) -> Vec<u8> {
            unreachable!("a backup makes no batches")
        }

        fn freeze(&mut self, _: Vec<u8>, _: usize) -> Bytes {
            unreachable!("a backup makes no batches")
        }
    }

    fn prepare_of_view(view: u64, op: u64) -> (u128, Bytes) {
        let mut header = MessageHeader::new(Command::Prepare, 7, 0, (view % 3) as u8, view);
        header.op = U64::new(op);
        header.parent = U128::new(5);
        header.revision = U64::new(op);
        header.request_count = U32::new(1);
        header.seal(&[]);
        (header.checksum.get(), Bytes::copy_from_slice(header.as_bytes()))
    }

    #[test]
    fn what_rots_is_not_repaired_with_another_prepare_of_the_same_op() {
        let record = ViewRecord { view: 9, log_view: 9, ..ViewRecord::default() };
        // Op 3 is in the journal, but its header is not in memory any more.
        let recovered = Recovered {
            record,
            commit: 600,
            commit_checksum: 1,
            revision: 601,
            journal_first_op: 2,
            checkpoint_op: 1,
            ..Recovered::default()
        };
        let mut backup = Replica::new(config(1, 3), recovered, NoBatches, 0);
        let ((stray_checksum, stray), (checksum, prepare)) = (prepare_of_view(3, 3), prepare_of_view(6, 3));
        assert_ne!(stray_checksum, checksum);
        backup.step(1, 1, Input::PeerConnected(0));
        backup.step(1, 1, Input::JournalRead { peer: 2, op: 3, message: None, rotten: Some(checksum) });
        while backup.next_output().is_some() {}
        let mut repairs_with = |message: &Bytes| {
            backup.step(2, 2, Input::Message(message.clone()));
            std::iter::from_fn(|| backup.next_output())
                .filter(|output| matches!(output, Output::RepairJournal { .. } | Output::Send { to: 2, .. }))
                .count()
        };
        assert_eq!(repairs_with(&stray), 0, "it is neither written nor sent on");
        assert_eq!(repairs_with(&prepare), 2, "it is written, and sent to whom it was for");
    }
}
