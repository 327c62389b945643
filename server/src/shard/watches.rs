//! WATCH where the log is made: what is watched, and whether a transaction may still go into the log.
//!
//! Every replica compares version and expiry of watched keys when it applies a transaction. That a key has come back to what
//! it was does not show there, so the shard of the primary looks at it before the transaction gets its place. What it finds is
//! only ever a reason not to put the transaction into the log, so replicas need not know of it.

use lockstep_proto::{
    limits::REPLY_BODY_SIZE_MAX,
    program::{Commands, Opcode, ResultWriter},
    request::Request,
};
use lockstep_replica::Role;

use super::Core;

impl Core {
    /// What a program means for what is watched. Returns false for a transaction that must not be carried out: a key that it
    /// watches was touched. `revisions` are those at which its keys were looked at, in the order of its checks.
    #[inline]
    pub(super) fn look_after_watches(&mut self, program: &[u8], revisions: &[u64]) -> bool {
        match Commands::new(program).next().map(|command| command.opcode) {
            Some(Opcode::Stamp | Opcode::Check) if self.replica_role == Role::Primary => {
                self.watch_or_check(program, revisions)
            }
            _ => true,
        }
    }

    #[cold]
    fn watch_or_check(&mut self, program: &[u8], revisions: &[u64]) -> bool {
        let (store, applied) = (&mut self.machine.store, self.machine.applied);
        let commands = || Commands::new(program);
        for command in commands().take_while(|command| command.opcode == Opcode::Stamp) {
            command.keys().for_each(|key| store.watch(key));
        }
        let checks = commands().take_while(|command| command.opcode == Opcode::Check);
        let is_touched = |key: &[u8], revision: u64| {
            // What was in the log when this server became the primary was not looked at when it was put there.
            applied < self.watches_from_op || store.is_touched_since(key, revision, applied)
        };
        let mut revisions = revisions.iter();
        !checks
            .filter_map(|check| check.keys().next())
            .any(|key| revisions.next().is_none_or(|&at| is_touched(key, at)))
    }

    /// Notes a request that was put into the log.
    #[inline]
    pub(super) fn note_offered(&mut self, op: u64, frame: &[u8]) {
        if self.machine.store.is_watching() {
            let (request, _) = Request::parse_trusted(frame).expect("it was checked before it was offered");
            self.machine.store.note_offered(op, &request);
        }
    }

    /// Forgets what was watched: another server orders the transactions from now on, or this one does.
    pub(super) fn forget_watches(&mut self) {
        self.machine.store.forget_watched();
        self.watches_from_op = self.replica.status().op;
    }
}

/// What a program answers of which a check does not hold.
pub(super) fn aborted() -> Vec<u8> {
    let mut body = Vec::new();
    ResultWriter::new(&mut body, REPLY_BODY_SIZE_MAX, 1).aborted();
    body
}
