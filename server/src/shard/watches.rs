//! WATCH where the log is made: what is watched, and whether a transaction may still go into the log.
//!
//! Every replica compares version and expiry of watched keys when it applies a transaction. That a key has come back to
//! what it was does not show there, so the shard looks at it before the transaction gets its place. What it finds is
//! only ever a reason not to put the transaction into the log, so replicas need not know of it.
//!
//! A backup notes what it applies as a primary does: what a client watched there still counts when the backup becomes
//! the primary. A server whose state was replaced by another's checkpoint knows nothing any more, and says of every key
//! that it was touched.

use lockstep_proto::{
    limits::REPLY_BODY_SIZE_MAX,
    program::{Commands, Opcode, ResultWriter},
    request::Request,
};
use lockstep_replica::Role;

use super::Core;

impl Core {
    /// What a program means for what is watched. Returns false for a transaction that must not be carried out: a key
    /// that it watches was touched. `revisions` are those at which its keys were looked at, in the order of its checks.
    #[inline]
    pub(super) fn look_after_watches(&mut self, program: &[u8], revisions: &[u64]) -> bool {
        match Commands::new(program).next().map(|command| command.opcode) {
            Some(Opcode::Stamp | Opcode::Check) => self.watch_or_check(program, revisions),
            _ => true,
        }
    }

    #[cold]
    fn watch_or_check(&mut self, program: &[u8], revisions: &[u64]) -> bool {
        let (applied, revision) = (self.machine.applied, self.machine.revision - 1);
        let is_unknown = self.replica_role == Role::Primary && applied < self.watches_from_op;
        let store = &mut self.machine.store;
        let commands = || Commands::new(program);
        for command in commands().take_while(|command| command.opcode == Opcode::Stamp) {
            command.keys().for_each(|key| store.watch(key, revision));
        }
        let checks = commands().take_while(|command| command.opcode == Opcode::Check);
        let is_touched = |key: &[u8], revision: u64| {
            // What was in the log when this server became the primary was not looked at when it was put there.
            is_unknown || store.is_touched_since(key, revision, applied)
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

    /// Notes no longer what happens to keys that were watched, once nobody watches any.
    #[inline]
    pub(super) fn forget_watches_of_nobody(&mut self) {
        // Who counts here has entered before its WATCH was sent on its way, and leaves after its EXEC was looked at.
        if self.machine.store.is_watching() && self.watchers.is_empty() {
            self.machine.store.forget_watched();
        }
    }
}

/// What a program answers of which a check does not hold.
pub(super) fn aborted() -> Vec<u8> {
    let mut body = Vec::new();
    ResultWriter::new(&mut body, REPLY_BODY_SIZE_MAX, 1).aborted();
    body
}
