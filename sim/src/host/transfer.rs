//! State transfer at a simulated server: its checkpoint goes to one that needs it, or another's becomes its own.

use std::collections::VecDeque;

use bytes::Bytes;
use lockstep_proto::limits::{CHECKPOINT_CHUNK_SIZE_MAX, SECTOR_SIZE};
use lockstep_replica::Input;
use lockstep_server::{journal::file::BlockFile, shard::replay::read_received_machine};

use super::{
    CLUSTER, Server,
    journal::{Command, Installation, Purpose},
    start::replay_settings,
};
use crate::{
    disk::{SimFile, Work},
    shared::Shared,
};

/// What is being sent to others, and what is being received.
#[derive(Default)]
pub(super) struct Transfer {
    /// For each server the checkpoint that it is reading.
    kept: [Option<(u64, SimFile)>; 7],
    /// The one that is being received: its op, size, and how much has been asked of the disk.
    received: Option<(u64, u64, u64)>,
    /// Pieces that wait for the one before to be written.
    pieces: VecDeque<Work>,
    is_writing: bool,
    /// The one that gets its name.
    installing: Option<Box<Installation>>,
}

impl Server {
    pub(super) fn read_checkpoint(&mut self, shared: &mut Shared, peer: u8, op: u64, offset: u64) {
        let Some(process) = self.process.as_deref_mut() else { return };
        let in_force = process.journal.superblock.durable().checkpoint.get();
        let kept = &mut process.transfer.kept[peer as usize];
        if kept.as_ref().is_none_or(|(kept_op, _)| op == 0 || *kept_op != op) {
            let is_it = in_force != 0 && (op == 0 || op == in_force);
            *kept = self.disk.checkpoint(in_force).filter(|_| is_it).map(|file| (in_force, file.clone()));
        }
        let found = kept.as_ref().and_then(|(op, file)| Some((*op, file.size().ok()?, file)));
        let input = match found {
            Some((op, size, file)) if offset < size => {
                let len = (size - offset).min(shared.plan.disk.chunk_bytes.min(CHECKPOINT_CHUNK_SIZE_MAX) as u64);
                let bytes = Some(Bytes::from(file.read(offset, len as usize)));
                Input::CheckpointRead { peer, op, offset, size, bytes }
            }
            _ => Input::CheckpointRead { peer, op, offset, size: 0, bytes: None },
        };
        self.step(shared, input);
    }

    pub(super) fn write_received(&mut self, shared: &mut Shared, op: u64, offset: u64, size: u64, bytes: &Bytes) {
        let Some(process) = self.process.as_deref_mut() else { return };
        let is_in_sectors =
            [offset, bytes.len() as u64, size].iter().all(|place| place.is_multiple_of(SECTOR_SIZE as u64));
        if !is_in_sectors || offset + bytes.len() as u64 > size {
            return self.reject_received(shared, op);
        }
        let received = &mut process.transfer.received;
        match received {
            _ if offset == 0 => *received = Some((op, size, 0)),
            Some((their_op, their_size, _)) if (*their_op, *their_size) == (op, size) => {}
            _ => return,
        }
        if let Some((_, _, written)) = received {
            *written = offset + bytes.len() as u64;
        }
        if offset == 0 {
            process.transfer.pieces.clear();
        }
        let work = Work::WriteCheckpoint { op, is_received: true, offset, bytes: bytes.clone() };
        process.transfer.pieces.push_back(work);
        self.write_next_piece(shared);
    }

    /// Pieces are written one after the other.
    fn write_next_piece(&mut self, shared: &mut Shared) {
        let Some(process) = self.process.as_deref_mut() else { return };
        if process.transfer.is_writing {
            return;
        }
        let Some(work) = process.transfer.pieces.pop_front() else { return };
        let Work::WriteCheckpoint { op, offset, .. } = work else { return };
        process.transfer.is_writing = true;
        self.ask_disk(shared, vec![(work, Purpose::Received { op, offset })]);
    }

    /// A piece is written.
    pub(super) fn piece_is_written(&mut self, shared: &mut Shared, op: u64, offset: u64) {
        if let Some(process) = self.process.as_deref_mut() {
            process.transfer.is_writing = false;
        }
        self.step(shared, Input::CheckpointWritten { op, offset });
        self.write_next_piece(shared);
    }

    pub(super) fn install_received(&mut self, shared: &mut Shared, op: u64, size: u64) {
        let Some(process) = self.process.as_deref_mut() else { return };
        if process.transfer.received != Some((op, size, size)) {
            return self.reject_received(shared, op);
        }
        let settings = replay_settings(shared);
        let Some(file) = self.disk.received(op) else { return self.reject_received(shared, op) };
        let loaded = read_received_machine(file, CLUSTER, op, &settings, &shared.pool);
        let id = self.id;
        match loaded {
            Ok((machine, checkpoint)) if checkpoint.size == size => {
                process.transfer.installing = Some(Box::new(Installation { checkpoint, machine }));
                let work = Work::Install { op, is_received: true };
                self.ask_disk(shared, vec![(work, Purpose::ReceivedInstall { op })]);
            }
            Ok(_) => self.reject_received(shared, op),
            Err(error) => {
                shared.line(|| format!("{id}: the checkpoint of op={op} is of no use: {error:#}"));
                self.reject_received(shared, op);
            }
        }
    }

    pub(super) fn received_is_installed(&mut self, shared: &mut Shared, op: u64) {
        let Some(process) = self.process.as_deref_mut() else { return };
        let installation = process.transfer.installing.take();
        if let Some(installation) = installation.filter(|installation| installation.checkpoint.meta.op == op) {
            process.journal.push(Command::Install(installation));
            self.pump(shared);
        }
    }

    pub(super) fn reject_received(&mut self, shared: &mut Shared, op: u64) {
        if let Some(process) = self.process.as_deref_mut() {
            process.transfer.received = None;
        }
        self.step(shared, Input::CheckpointRejected { op });
    }

    /// A received checkpoint is in force, and the log has begun anew behind it.
    pub(super) fn take_over(&mut self, shared: &mut Shared, installation: Installation) {
        let Installation { checkpoint, machine } = installation;
        let (id, meta) = (self.id, checkpoint.meta);
        let op = meta.op;
        let Some(process) = self.process.as_deref_mut() else { return };
        shared.line(|| format!("{id}: has taken over the state after op={op}"));
        process.checkpointer.give_up();
        process.transfer.received = None;
        process.applies.clear();
        process.machine = machine;
        shared.facts.has_installed(id, op, meta.parent);
        shared.facts.has_state(id, op, checkpoint.state_hash);
        let input = Input::CheckpointInstalled {
            op,
            checksum: meta.parent,
            revision: meta.revision,
            timestamp_ns: meta.timestamp_ns,
            state_hash: checkpoint.state_hash,
        };
        self.step(shared, input);
        self.ask_disk(shared, vec![(Work::Clean { keep: op }, Purpose::Clean)]);
    }
}
