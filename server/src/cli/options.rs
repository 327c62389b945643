//! Options of `start` as the server uses them.

use std::{net::SocketAddr, path::PathBuf};

use super::{
    address::Address,
    resp::RespOptions,
    start::{Ack, Durability, FanOut, LogFormat, Pinning},
    units::show_size,
};
use crate::shard::Identity;

/// The settings of a running server, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartOptions {
    /// The data folder.
    pub data_dir: PathBuf,
    /// The servers' base addresses as servers use them, by id.
    pub peers: Vec<Address>,
    /// The servers' base addresses as clients are told them, by id.
    pub advertise: Vec<Address>,
    /// Where to listen; `None` for this server's entry in `peers`.
    pub listen: Option<Address>,
    /// Where the admin port listens, if there is to be one.
    pub admin: Option<Address>,
    /// How Redis clients are served, if they are.
    pub resp: Option<RespOptions>,
    /// Ack policy.
    pub ack: Ack,
    /// Fan-out.
    pub fanout: FanOut,
    /// Durability.
    pub durability: Durability,
    /// Time between heartbeats, in nanoseconds.
    pub heartbeat_interval_ns: u64,
    /// Silence of the primary after which the others look for a new one, in nanoseconds.
    pub view_timeout_ns: u64,
    /// Standstill of a primary after which it gives way, in nanoseconds.
    pub stall_timeout_ns: u64,
    /// Silence after which a backup leaves the in-sync set, in nanoseconds.
    pub backup_silence_ns: u64,
    /// Largest number of requests in a prepare.
    pub batch_ops_max: u32,
    /// Largest prepare, header included, in bytes.
    pub batch_bytes_max: u32,
    /// How long a batch that is not full waits, in nanoseconds.
    pub batch_linger_ns: u64,
    /// Requests up to which a batch grows while others are on their way.
    pub batch_gather_ops: u32,
    /// How long it does so at most, in nanoseconds.
    pub batch_gather_ns: u64,
    /// Largest number of prepares that are closed and not yet committed.
    pub pipeline_max: u32,
    /// Bytes of journal between checkpoints, if not the default: see [`StartOptions::checkpoint_every_bytes`].
    pub checkpoint_every: Option<u64>,
    /// Largest number of connections of a shard.
    pub connections_max: u32,
    /// Memory that the waiting replies of a shard's clients may take, in bytes; 0 for no bound.
    pub client_bytes_max: u64,
    /// Largest number of sessions of a shard.
    pub sessions_max: u32,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which CPUs the shards' threads run on.
    pub pinning: Pinning,
    /// How long a shard's thread looks for work before it sleeps, in nanoseconds.
    pub busy_poll_ns: u64,
}

impl StartOptions {
    /// Clients that may be connected to a server with so many `shards`.
    pub fn clients_max(&self, shards: u16) -> u64 {
        let of_front_door = self.resp.as_ref().map_or(0, |resp| u64::from(resp.clients_max));
        u64::from(self.connections_max) * u64::from(shards) + of_front_door
    }

    /// Whether more clients are asked for than by default.
    pub fn asks_for_many_clients(&self) -> bool {
        self.connections_max > super::start::CONNECTIONS_MAX
            || self.resp.as_ref().is_some_and(|resp| resp.clients_max > super::resp::CLIENTS_MAX)
    }

    /// Checks what has to fit the data folder's identity.
    ///
    /// # Errors
    ///
    /// A text that names the option and says what to do.
    pub fn check_identity(&self, identity: &Identity) -> Result<(), String> {
        let servers = identity.servers as usize;
        if self.peers.len() != servers {
            return Err(format!(
                "--peers has {} addresses, but {} was formatted for {servers} servers: give the address of each, in the order of their ids",
                self.peers.len(),
                self.data_dir.display()
            ));
        }
        let own = [("--listen", self.listen.as_ref())];
        let others = self.peers.iter().map(|address| ("--peers", Some(address)));
        let told = self.advertise.iter().map(|address| ("--advertise", Some(address)));
        let resp = self.resp.iter().flat_map(RespOptions::addresses);
        for (option, address) in own.into_iter().chain(others).chain(told).chain(resp) {
            let Some(address) = address else { continue };
            if address.port() == 0 {
                return Err(format!("{option}: {address} has port 0; the servers have to know each other's ports"));
            }
            if u32::from(address.port()) + u32::from(identity.shards) > 65_536 {
                return Err(format!(
                    "{option}: {address} with {} shards needs ports beyond 65535; choose a lower base port",
                    identity.shards
                ));
            }
        }
        Ok(())
    }

    /// Bytes of journal after which a checkpoint is begun, for a journal of `journal_size` bytes.
    ///
    /// At least two of the largest prepares must fit above it: one that is on its way, and the end of the ring that is left
    /// out when the next one does not fit there. With less, writes could wait for a checkpoint that never becomes due.
    ///
    /// # Errors
    ///
    /// If there is no such room. A text that names the option and says what to do.
    pub fn checkpoint_every_bytes(&self, journal_size: u64) -> Result<u64, String> {
        let prepare_max = u64::from(self.batch_bytes_max);
        let every = self.checkpoint_every.unwrap_or(journal_size / 2);
        if every == 0 || every.saturating_add(2 * prepare_max) > journal_size {
            return Err(format!(
                "--checkpoint-every is {}: with a journal of {} and prepares of up to {} choose from 1 byte to {}, or format \
                 with a larger --journal-size",
                show_size(every),
                show_size(journal_size),
                show_size(prepare_max),
                show_size(journal_size.saturating_sub(2 * prepare_max)),
            ));
        }
        Ok(every)
    }

    /// Where a shard of this server has to listen.
    ///
    /// # Errors
    ///
    /// If a name cannot be resolved.
    pub fn listen_address(&self, identity: &Identity, shard: u16) -> std::io::Result<SocketAddr> {
        self.listen.as_ref().unwrap_or(&self.peers[identity.replica as usize]).resolve(shard)
    }
}
