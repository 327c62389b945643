//! What clients hold of the server's memory, all together: the bound, and who goes when it is passed.
//!
//! Every client has bounds of its own, but a thousand clients within theirs can hold more than there is. So what each
//! holds (answers it has not taken, commands that are not complete, a transaction's queue, names it watches or listens
//! to) is added up over all shards, and beyond `maxmemory-clients` the clients that hold most are closed, as Redis does
//! it.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::{Rc, Weak},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use tracing::warn;

use super::{client::ClientShared, server::Server, stats::lock};
use crate::shard::connections::Connection;

/// Bytes of one client that are not counted: every connection has buffers, and most commands need no more.
pub const UNCOUNTED_BYTES: usize = 16 << 10;

/// The smallest bound, in bytes: one client has to be able to take the largest answers.
pub const CLIENT_MEMORY_MIN: u64 = 32 << 20;

/// Where the clients of one shard are, by number.
#[derive(Debug, Default)]
pub struct Holders(RefCell<BTreeMap<u64, Weak<Connection>>>);

impl Holders {
    /// Remembers where the client with this number is.
    pub fn enter(&self, id: u64, connection: Weak<Connection>) {
        self.0.borrow_mut().insert(id, connection);
    }

    /// Forgets it again.
    pub fn leave(&self, id: u64) {
        self.0.borrow_mut().remove(&id);
    }

    fn find(&self, id: u64) -> Option<Rc<Connection>> {
        self.0.borrow().get(&id).and_then(Weak::upgrade)
    }
}

impl Server {
    /// Notes how many bytes a client holds. Whether that makes it too much for all together.
    pub fn hold(&self, client: &ClientShared, bytes: usize) -> bool {
        let is_counted = bytes > UNCOUNTED_BYTES && !client.is_evicted.load(Relaxed);
        let counted = if is_counted { bytes as u64 } else { 0 };
        if client.held_bytes.load(Relaxed) == counted {
            return false;
        }
        let before = client.held_bytes.swap(counted, Relaxed);
        self.shards[client.shard as usize].client_bytes.fetch_add(counted.wrapping_sub(before), Relaxed);
        counted > before && self.clients_hold_too_much()
    }

    /// What the clients of all shards hold, in bytes.
    pub fn client_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.client_bytes.load(Relaxed)).fold(0, u64::wrapping_add)
    }

    fn clients_hold_too_much(&self) -> bool {
        let bytes_max = self.settings.client_bytes_max.load(Relaxed);
        bytes_max > 0 && self.client_bytes() > bytes_max
    }

    /// Closes the clients that hold most, until all together hold clearly less than they may: an eighth less, so that
    /// this does not have to be done for each answer. `own` are those of the calling shard, whose memory is free at
    /// once.
    pub fn evict_clients(&self, own: &Holders) {
        let _guard = lock(&self.evicting);
        if !self.clients_hold_too_much() {
            return;
        }
        let bytes_max = self.settings.client_bytes_max.load(Relaxed);
        let mut held = self.client_bytes();
        let may_go = |client: &Arc<ClientShared>| client.held_bytes.load(Relaxed) > 0 && !client.no_evict.load(Relaxed);
        let mut clients: Vec<_> = self.clients.all().into_iter().filter(may_go).collect();
        clients.sort_by_key(|client| std::cmp::Reverse(client.held_bytes.load(Relaxed)));
        for client in clients {
            if held <= bytes_max - bytes_max / 8 {
                return;
            }
            client.is_evicted.store(true, Relaxed);
            let bytes = client.held_bytes.swap(0, Relaxed);
            let shard = &self.shards[client.shard as usize];
            shard.client_bytes.fetch_sub(bytes, Relaxed);
            held = held.saturating_sub(bytes);
            warn!(
                id = client.id,
                peer = %client.peer,
                bytes,
                all_bytes = held,
                "clients hold more memory than --resp-clients-memory allows, closing the one that holds most"
            );
            match own.find(client.id) {
                Some(connection) => connection.evict(),
                None => self.kill(&client),
            }
        }
    }
}
