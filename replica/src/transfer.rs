//! State transfer: a replica whose primary's journal no longer reaches back to it fetches a checkpoint, piece by piece,
//! and then the rest of the log as usual.
//!
//! A checkpoint is a state that is committed, so it may come from any server and in any view. It takes the place of the
//! log up to its op: what this replica has acknowledged up to there is in it. While it is being installed nothing else
//! happens to the log, and no view is entered.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use lockstep_proto::{
    limits::CHECKPOINT_CHUNK_SIZE_MAX,
    message::{Command, MessageHeader},
};
use zerocopy::{IntoBytes, little_endian::U64};

use crate::{batch::BatchPool, io::Output, log::Position, replica::Replica, status::Role, timers::Timer, view::Phase};

/// Bytes of a checkpoint that may be asked for and not yet written.
const WINDOW_BYTES: u64 = 4 * CHECKPOINT_CHUNK_SIZE_MAX as u64;

/// After this many repetitions without an answer the transfer begins anew, from the present primary.
const RESENDS_MAX: u32 = 10;

/// A checkpoint on its way to this replica.
#[derive(Debug)]
pub(crate) struct Transfer {
    from: u8,
    /// The checkpoint's op; 0 until the first answer.
    op: u64,
    /// Size of its file, in bytes; 0 until the first answer.
    size: u64,
    /// Everything before this byte was asked for.
    asked: u64,
    /// Everything before this byte was handed to the host.
    received: u64,
    /// Everything before this byte was taken by the host.
    written: u64,
    /// Where each piece that the host has not taken yet begins and ends.
    unwritten: VecDeque<(u64, u64)>,
    /// Pieces that came before an earlier one. Within the window.
    early: BTreeMap<u64, Bytes>,
    is_installing: bool,
    resends: u32,
}

impl Transfer {
    fn new(from: u8) -> Transfer {
        Transfer {
            from,
            op: 0,
            size: 0,
            asked: 0,
            received: 0,
            written: 0,
            unwritten: VecDeque::new(),
            early: BTreeMap::new(),
            is_installing: false,
            resends: 0,
        }
    }
}

/// What a checkpoint says of itself once it is installed.
pub(crate) struct Installed {
    pub(crate) op: u64,
    pub(crate) position: Position,
    pub(crate) state_hash: u128,
}

impl<P: BatchPool> Replica<P> {
    /// Whether a checkpoint is taking the place of this replica's state.
    pub(crate) fn is_installing(&self) -> bool {
        self.transfer.as_ref().is_some_and(|transfer| transfer.is_installing)
    }

    /// The primary, or whoever was asked, no longer holds what we need.
    pub(crate) fn on_behind(&mut self, header: &MessageHeader) {
        let op = header.op.get();
        if header.view.get() == self.view && self.takes_prepares() && op == self.verified + 1 && op <= self.log.op() {
            // The primary can no longer prove what we hold beyond what is certain. All of it was taken in since this
            // view is being joined, and never acknowledged: whatever names an op, ok or do_view_change, names at most
            // `verified`, which only goes up meanwhile.
            self.truncate_to(self.verified);
        }
        if header.view.get() != self.view || op != self.log.op() + 1 {
            return;
        }
        if let Phase::Candidate(_) = self.phase {
            // Somebody else may need less.
            return self.give_up_candidacy();
        }
        if !self.takes_prepares() {
            return;
        }
        if !std::mem::replace(&mut self.is_behind, true) {
            self.outputs.push_back(Output::Behind {
                op: header.op.get(),
                first_op: header.commit.get(),
                checkpoint_op: header.checkpoint.get(),
            });
        }
        if self.transfer.is_none() {
            self.begin_transfer(header.replica);
        }
    }

    fn begin_transfer(&mut self, from: u8) {
        self.transfer = Some(Transfer::new(from));
        self.request_chunks();
        self.timers.set(Timer::Transfer, self.now_ns + self.config.resend_ns);
    }

    /// Asks for the next pieces, as far as the window allows.
    fn request_chunks(&mut self) {
        if !self.may_speak() {
            return;
        }
        loop {
            let Some(transfer) = &mut self.transfer else { return };
            // The size is not known before the first answer, so the first question is alone.
            let is_open = if transfer.size == 0 {
                transfer.asked == 0
            } else {
                transfer.asked < transfer.size && transfer.asked < transfer.written + WINDOW_BYTES
            };
            if !is_open || transfer.is_installing {
                return;
            }
            let (from, op, offset) = (transfer.from, transfer.op, transfer.asked);
            transfer.asked += CHECKPOINT_CHUNK_SIZE_MAX as u64;
            let mut header = self.header(Command::RequestCheckpoint);
            header.op = U64::new(op);
            header.offset = U64::new(offset);
            self.send(from, header);
        }
    }

    /// Asks again for what was asked for and has not come.
    fn repeat_requests(&mut self) {
        if let Some(transfer) = &mut self.transfer {
            transfer.asked = transfer.received;
            self.request_chunks();
        }
    }

    /// A server can be reached again that a checkpoint was coming from.
    pub(crate) fn resume_transfer(&mut self, replica: u8) {
        if self.transfer.as_ref().is_some_and(|transfer| transfer.from == replica && !transfer.is_installing) {
            self.repeat_requests();
        }
    }

    pub(crate) fn on_transfer_timer(&mut self) {
        let Some(transfer) = &mut self.transfer else { return };
        if transfer.is_installing {
            return;
        }
        if transfer.received == transfer.size && transfer.size > 0 {
            // It waits for the host, or for a moment in which it may be installed.
            self.try_to_install();
        } else if self.log.op() >= transfer.op && transfer.op > 0 {
            // The log has caught up by itself.
            self.transfer = None;
            return;
        } else {
            // While the host has something to write, it is its disk that is slow.
            transfer.resends += u32::from(transfer.unwritten.is_empty());
            if transfer.resends > RESENDS_MAX {
                self.transfer = None;
                self.is_behind = false;
                return;
            }
            self.repeat_requests();
        }
        self.timers.set(Timer::Transfer, self.now_ns + self.config.resend_ns);
    }

    /// Somebody wants a piece of our checkpoint.
    pub(crate) fn on_request_checkpoint(&mut self, header: &MessageHeader) {
        self.outputs.push_back(Output::ReadCheckpoint {
            peer: header.replica,
            op: header.op.get(),
            offset: header.offset.get(),
        });
    }

    pub(crate) fn on_checkpoint_read(&mut self, peer: u8, op: u64, offset: u64, size: u64, bytes: Option<&Bytes>) {
        if !self.may_speak() || !self.is_server(peer) {
            return;
        }
        let mut header = self.header(Command::CheckpointChunk);
        header.op = U64::new(op);
        let body = match bytes {
            Some(bytes) if !bytes.is_empty() => {
                header.offset = U64::new(offset);
                header.total_size = U64::new(size);
                &bytes[..]
            }
            _ => &[],
        };
        header.seal(body);
        let message = Bytes::from([header.as_bytes(), body].concat());
        self.outputs.push_back(Output::Send { to: peer, message });
    }

    pub(crate) fn on_checkpoint_chunk(&mut self, header: &MessageHeader, message: &Bytes) {
        let (op, size, offset) = (header.op.get(), header.total_size.get(), header.offset.get());
        let Some(transfer) = &mut self.transfer else { return };
        if transfer.from != header.replica || transfer.is_installing || (transfer.op != 0 && transfer.op != op) {
            return;
        }
        let is_useful = size > 0 && op > self.log.op();
        let is_other = transfer.size != 0 && transfer.size != size;
        if !is_useful || is_other {
            // It has no such checkpoint, or no longer: what it has now may do, when the timer asks again.
            *transfer = Transfer { resends: transfer.resends, asked: u64::MAX, ..Transfer::new(transfer.from) };
            return;
        }
        (transfer.op, transfer.size) = (op, size);
        transfer.resends = 0;
        if offset < transfer.received || offset >= transfer.received + 2 * WINDOW_BYTES {
            return;
        }
        let body = message.slice(MessageHeader::SIZE..header.size.get() as usize);
        transfer.early.insert(offset, body);
        while let Some(bytes) = transfer.early.remove(&transfer.received) {
            let offset = transfer.received;
            transfer.received += bytes.len() as u64;
            transfer.unwritten.push_back((offset, transfer.received));
            self.outputs.push_back(Output::WriteCheckpoint { op, offset, size, bytes });
        }
        transfer.early = transfer.early.split_off(&transfer.received);
        transfer.asked = transfer.asked.max(transfer.received);
        self.note_transfer_progress();
        self.request_chunks();
    }

    fn note_transfer_progress(&mut self) {
        self.timers.set(Timer::Transfer, self.now_ns + self.config.resend_ns);
    }

    pub(crate) fn on_checkpoint_written(&mut self, op: u64, offset: u64) {
        let Some(transfer) = &mut self.transfer else { return };
        if transfer.op != op || transfer.is_installing {
            return;
        }
        match transfer.unwritten.front() {
            Some(&(begin, end)) if begin == offset => transfer.written = end,
            _ => return,
        }
        transfer.unwritten.pop_front();
        self.note_transfer_progress();
        self.request_chunks();
        self.try_to_install();
    }

    /// Has the checkpoint installed once it is whole and this is a replica that follows a primary.
    fn try_to_install(&mut self) {
        let log_op = self.log.op();
        let may_install = self.role == Role::Backup || matches!(self.phase, Phase::Joining { .. } | Phase::Waiting);
        let Some(transfer) = &mut self.transfer else { return };
        if transfer.size == 0 || transfer.written < transfer.size || !may_install || transfer.is_installing {
            return;
        }
        if log_op >= transfer.op {
            self.transfer = None;
            return;
        }
        transfer.is_installing = true;
        self.outputs.push_back(Output::InstallCheckpoint { op: transfer.op, size: transfer.size });
    }

    pub(crate) fn on_checkpoint_installed(&mut self, installed: Installed) {
        let Installed { op, position, state_hash } = installed;
        assert!(self.is_installing(), "only what was asked for is installed");
        assert!(op > self.log.op(), "a checkpoint takes the place of a shorter log");
        self.transfer = None;
        self.timers.stop(Timer::Transfer);
        self.log.restart_after(op, position);
        self.applied = op;
        self.commit = self.commit.max(op);
        // What is committed is part of every later view's log.
        self.verified = op;
        self.journal_first_op = op + 1;
        self.is_behind = false;
        self.owes_ok = true;
        self.note_checkpoint(op, state_hash);
        self.note_progress();
        self.advance_view();
        if self.takes_prepares() {
            self.request_prepares();
        }
    }

    pub(crate) fn on_checkpoint_rejected(&mut self, op: u64) {
        if self.transfer.as_ref().is_none_or(|transfer| transfer.op != op) {
            return;
        }
        // From another server, if there is one: this one's copy may be what is damaged.
        let from = self.transfer.take().map_or(0, |transfer| transfer.from);
        let servers = self.config.servers;
        let next = (1..servers)
            .map(|step| (from + step) % servers)
            .find(|&replica| replica != self.config.replica && self.peers[replica as usize].is_connected);
        let mut transfer = Transfer::new(next.unwrap_or(from));
        transfer.asked = u64::MAX;
        self.transfer = Some(transfer);
        self.timers.set(Timer::Transfer, self.now_ns + self.config.resend_ns);
        self.advance_view();
    }
}
