//! Clients that wait for an answer are told now and then that this server is there.
//!
//! While there is no room in the log, nothing is read from the connections whose requests wait for it, and so no ping
//! is either. A client that heard nothing for seconds would take the server for dead, connect again and send everything
//! that has no answer once more; the repetitions are harmless one by one, but they fill the very log that is full.
//!
//! It is also how a connection that its client has given up is found out: what it is sent makes the other side's kernel
//! reset it, and its request that waits is dropped instead of being carried out for nobody. A Redis client cannot be
//! told anything unasked, so where a command of it waits the kernel is asked whether the connection was reset.

use lockstep_proto::reply::encode_keep_alive;

use super::Shard;

impl Shard {
    /// Says so to each client that has been owed an answer since the last call and was sent nothing.
    pub(super) fn keep_clients(&self) {
        let core = &mut *self.core.borrow_mut();
        if core.origins.is_empty() && core.reads.is_empty() && core.handover.is_none() && !self.room.has_waiters() {
            return;
        }
        let mut is_left_waiting = false;
        for connection in core.connections.iter() {
            if connection.door().is_some() {
                is_left_waiting |= connection.cut_if_gone();
            } else if connection.visitor().is_some() {
                continue;
            } else if connection.is_broken.get() {
                is_left_waiting |= connection.is_waiting.get();
            } else if connection.was_silent() {
                encode_keep_alive(&mut connection.replies.borrow_mut());
                connection.flush.notify();
                self.metrics.keep_alives.increment();
            }
        }
        if is_left_waiting {
            self.room.notify_all();
        }
    }
}
