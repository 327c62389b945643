//! Replicas that have the same log must have the same state. Their checkpoints are made at the same ops, so that the
//! content hashes can be compared: each tells the primary its own with its acknowledgements.

use lockstep_proto::message::{Command, FLAG_FRESH, MessageHeader};
use zerocopy::little_endian::{U64, U128};

use crate::{batch::BatchPool, io::Output, recovery::FORMATTED, replica::Replica, status::Role};

/// Own checkpoints that are remembered for comparison.
const REMEMBERED: usize = 4;

/// A checkpoint's op and content hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) op: u64,
    pub(crate) state_hash: u128,
}

impl<P: BatchPool> Replica<P> {
    /// The newest checkpoint of this server; at op 0 if there is none.
    pub(crate) fn checkpoint(&self) -> Checkpoint {
        self.checkpoints.back().copied().unwrap_or_default()
    }

    /// A checkpoint of this server is in force.
    pub(crate) fn note_checkpoint(&mut self, op: u64, state_hash: u128) {
        if op <= self.checkpoint().op {
            return;
        }
        if self.checkpoints.len() == REMEMBERED {
            self.checkpoints.pop_front();
        }
        self.checkpoints.push_back(Checkpoint { op, state_hash });
        if self.role == Role::Primary {
            self.compare_checkpoints(op);
        }
    }

    /// A backup has told its newest checkpoint.
    pub(crate) fn on_backup_checkpoint(&mut self, header: &MessageHeader) {
        let told = Checkpoint { op: header.checkpoint.get(), state_hash: header.state_hash.get() };
        let peer = &mut self.peers[header.replica as usize];
        if told.op > 0 && peer.checkpoint != told {
            peer.checkpoint = told;
            self.compare_checkpoints(told.op);
        }
    }

    /// Compares all checkpoints at `op` that are known.
    fn compare_checkpoints(&mut self, op: u64) {
        let me = self.config.replica;
        let Some(own) = self.checkpoints.iter().find(|checkpoint| checkpoint.op == op).copied() else { return };
        let told: Vec<(u8, u128)> = self
            .others()
            .filter(|(_, peer)| peer.checkpoint.op == op)
            .map(|(replica, peer)| (replica, peer.checkpoint.state_hash))
            .chain([(me, own.state_hash)])
            .collect();
        if told.iter().all(|&(_, hash)| hash == own.state_hash) {
            return;
        }
        let is_majority =
            |wanted: u128| 2 * told.iter().filter(|&&(_, hash)| hash == wanted).count() > self.config.servers as usize;
        let right = told.iter().map(|&(_, hash)| hash).find(|&hash| is_majority(hash));
        for &(replica, hash) in &told {
            match right {
                Some(right) if hash == right => {}
                Some(_) if replica == me => return self.state_has_diverged(op),
                Some(right) => {
                    let mut header = self.header(Command::Diverged);
                    header.checkpoint = U64::new(op);
                    header.state_hash = U128::new(right);
                    self.send(replica, header);
                }
                None if hash != own.state_hash => self.outputs.push_back(Output::HashMismatch {
                    op,
                    peer: replica,
                    own_hash: own.state_hash,
                    peer_hash: hash,
                }),
                None => {}
            }
        }
    }

    fn state_has_diverged(&mut self, op: u64) {
        self.fatal(format!(
            "the state of this server at op {op} differs from that of a majority: its memory or disk is faulty, or there is a \
             bug; wipe its folder and let it `recover` from the others"
        ));
    }

    pub(crate) fn on_diverged(&mut self, header: &MessageHeader) {
        if header.flags & FLAG_FRESH != 0 {
            let is_formatted = self.incarnations[self.config.replica as usize] == FORMATTED;
            if self.view == 0 && is_formatted {
                self.fatal(
                    "this server's data folder is freshly formatted, but the other servers know it with data: what it had \
                     promised is forgotten; make the folder with `recover` instead of `format`"
                        .to_string(),
                );
            }
            return;
        }
        let (op, hash) = (header.checkpoint.get(), header.state_hash.get());
        let own = self.checkpoints.iter().find(|checkpoint| checkpoint.op == op);
        if own.is_some_and(|own| own.state_hash != hash) {
            self.state_has_diverged(op);
        }
    }
}
