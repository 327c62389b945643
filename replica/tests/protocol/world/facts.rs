//! What must be true of the whole cluster, whatever happens: checked at every output of every replica.

use std::collections::{BTreeMap, BTreeSet};

use lockstep_proto::message::Command;
use lockstep_replica::{AckPolicy, Quorums, ReplicaStatus};

use super::{
    disk::Disk,
    message::{checksum_of, header_of, sequences_of},
};

/// What the cluster has promised so far.
#[derive(Debug, Default)]
pub struct Facts {
    /// The one header that each committed op has, everywhere and for ever.
    committed: BTreeMap<u64, u128>,
    /// Highest op that was answered, so that it must never be lost.
    acknowledged: u64,
    /// Requests that were applied, by the op that held them: none is in two.
    requests: BTreeMap<u64, u64>,
    /// Requests that were offered.
    offered: BTreeSet<u64>,
}

impl Facts {
    /// Highest op that was answered.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub fn offered(&mut self, sequence: u64) {
        assert!(self.offered.insert(sequence));
    }

    /// A server holds `op` to be committed.
    pub fn is_committed(&mut self, op: u64, checksum: u128) {
        let known = *self.committed.entry(op).or_insert(checksum);
        assert_eq!(known, checksum, "op {op} is committed with two different prepares");
    }

    /// A server applies a prepare.
    pub fn is_applied(&mut self, message: &[u8]) {
        let header = header_of(message);
        let op = header.op.get();
        self.is_committed(op, header.checksum.get());
        let before = self.committed.get(&(op - 1)).copied();
        assert!(before.is_none_or(|checksum| checksum == header.parent.get()), "op {op} does not follow op {}", op - 1);
        for sequence in sequences_of(message) {
            assert!(self.offered.contains(&sequence), "request {sequence} was never offered");
            let holder = *self.requests.entry(sequence).or_insert(op);
            assert_eq!(holder, op, "request {sequence} is in two ops");
        }
    }

    /// A primary answers the requests of a prepare.
    pub fn is_answered(
        &mut self,
        primary: u8,
        message: &[u8],
        copies: u8,
        status: &ReplicaStatus,
        ack: AckPolicy,
        disks: &[&Disk],
    ) {
        let (op, checksum) = (header_of(message).op.get(), checksum_of(message));
        let holders: Vec<u8> =
            (0..disks.len() as u8).filter(|&server| disks[server as usize].has_held(op, checksum)).collect();
        let quorum = Quorums::of(disks.len() as u8).commit as usize;
        assert!(holders.len() >= quorum, "{primary} answers op {op}, which only {holders:?} hold");
        assert!(holders.len() >= copies as usize, "{primary} claims {copies} copies of op {op}, held by {holders:?}");
        match ack {
            AckPolicy::Majority => {}
            AckPolicy::All => {
                assert!(status.in_sync.count_ones() as usize >= quorum, "the in-sync set is below a quorum");
                for server in 0..disks.len() as u8 {
                    let is_needed = status.in_sync & (1 << server) != 0;
                    assert!(!is_needed || holders.contains(&server), "op {op} is answered without {server}");
                }
            }
            AckPolicy::Strict => assert_eq!(holders.len(), disks.len(), "op {op} is answered without all"),
        }
        self.acknowledged = self.acknowledged.max(op);
    }

    /// A server has become primary: its log holds whatever was answered.
    pub fn is_primary(&self, primary: u8, status: &ReplicaStatus, disk: &Disk) {
        assert_eq!((disk.record.view, disk.record.log_view), (status.view, status.view), "a primary's view is durable");
        assert!(
            status.op >= self.acknowledged,
            "{primary} lost ops: has {}, answered {}",
            status.op,
            self.acknowledged
        );
        let log = disk.log_to_come();
        for (op, checksum) in self.committed.range(..=self.acknowledged).filter(|(op, _)| **op > disk.checkpoint_op()) {
            assert_eq!(log.get(op), Some(checksum), "{primary} begins a view without op {op}, which was answered");
        }
    }

    /// A message leaves a server: it promises nothing that is not durable.
    pub fn is_sent(&self, from: u8, message: &[u8], disk: &Disk) {
        let header = header_of(message);
        let command = header.command().expect("the command is known");
        if command != Command::Prepare {
            assert_eq!(header.replica, from);
            assert!(header.view.get() <= disk.record.view, "{from} sends a view that is not durable");
        }
        if command == Command::PrepareOk && header.op.get() > 0 && header.op.get() > disk.checkpoint_op() {
            let op = header.op.get();
            assert!(disk.holds(op, header.parent.get()), "{from} acknowledges op {op}, which is not durable");
        }
        if matches!(command, Command::DoViewChange | Command::StartView | Command::PrepareOk) {
            assert!(header.log_view.get() <= disk.record.log_view, "{from} sends a log_view that is not durable");
        }
    }
}
