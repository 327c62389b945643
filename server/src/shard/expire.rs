//! Expired keys that nobody comes across: the primary sees to it that they do not stay.
//!
//! A batch that enters the log takes some expired keys with it, and a write takes the one that it comes across. Without
//! writes there are no batches, and expired keys would keep their memory. So the primary puts a program into the log
//! that comes across them. It must not delete them: a key that is expired now may have been written again by what
//! stands before the program in the log. It asks for an expiry that is later than the present one and not later than
//! 1970, which changes no key that exists.

use std::{rc::Rc, time::Duration};

use lockstep_proto::program::{
    Builder, Opcode,
    flags::{ABSOLUTE, GT},
};
use lockstep_replica::Role;

use super::{Core, Shard};
use crate::{resp::submission::Payload, ring};

/// How often the primary looks for expired keys.
const INTERVAL: Duration = Duration::from_millis(100);

/// The same after it has found some.
const BACKLOG_INTERVAL: Duration = Duration::from_millis(10);

/// Keys of one program: some tenths of a millisecond on each server.
const KEYS_MAX: usize = 1024;

/// The program's number: it belongs to no session, where these would count up.
const SEQUENCE: u64 = 1;

/// Size of the keys of one program, in bytes.
const KEYS_SIZE_MAX: usize = 64 << 10;

/// Looks after expired keys for as long as the shard runs.
pub(super) async fn expire_loop(shard: Rc<Shard>) {
    while !shard.is_stopping() {
        let are_left = shard.core.borrow_mut().come_across_expired();
        if are_left {
            shard.turn.notify();
        }
        ring::sleep(if are_left { BACKLOG_INTERVAL } else { INTERVAL }).await;
    }
}

impl Core {
    /// Puts a program into the log that comes across the keys that expired first, unless an earlier one is on its way.
    /// Whether there were any.
    fn come_across_expired(&mut self) -> bool {
        let now = self.clock.now();
        // An earlier one that was on its way when this server ceased to be primary may not be in the log any more.
        let last_op = self.expired_op.min(self.replica.status().op);
        let is_ready = self.replica_role == Role::Primary
            && self.machine.applied >= last_op
            && !self.journal_is_full()
            && self.machine.store.expired_keys(now.wall_ns).next().is_some();
        if !is_ready {
            return false;
        }
        let mut program = Builder::new();
        for key in self.machine.store.expired_keys(now.wall_ns).take(KEYS_MAX) {
            program.command_with(Opcode::Expire, GT | ABSOLUTE, &[key, &0i64.to_le_bytes()]);
            if program.size() > KEYS_SIZE_MAX {
                break;
            }
        }
        let payload = Payload::Program(program.as_bytes());
        assert!(payload.is_sound(true), "no server could take it out of the log again");
        let mut frame = Vec::new();
        payload.encode(true, 0, SEQUENCE, &mut frame);
        // Without room it is tried again: those who write come across expired keys themselves.
        if let Ok(op) = self.replica.offer(now.monotonic_ns, &frame) {
            self.origins.push(op, self.nobody, now.monotonic_ns);
            self.note_offered(op, &frame);
            self.expired_op = op;
        }
        true
    }
}
