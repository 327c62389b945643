//! The servers and shards as Redis clients are told of them: each shard of each server is a node.

use super::server::Server;
use crate::metrics::Role;

/// One shard of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The server.
    pub server: u8,
    /// The shard.
    pub shard: u16,
    /// Where clients find it: its host.
    pub host: String,
    /// And its port.
    pub port: u16,
    /// Whether it is the shard's primary, as far as this server knows.
    pub is_primary: bool,
    /// Whether it is this server.
    pub is_self: bool,
    /// Whether it can be reached from here.
    pub is_up: bool,
    /// Highest op that it is known to hold durably; of this server, the highest that is committed.
    pub durable: u64,
}

impl Node {
    /// Forty hexadecimal digits that name the node on every server alike, and for ever.
    pub fn id(&self, cluster: u128) -> String {
        format!("{cluster:032x}{:04x}{:04x}", self.server, self.shard)
    }
}

/// Forty hexadecimal digits that name a shard on every server alike: where Redis names a shard or a replication
/// history.
pub fn shard_id(cluster: u128, shard: u16) -> String {
    format!("{cluster:032x}ffff{shard:04x}")
}

/// Forty hexadecimal digits that name a server.
pub fn server_id(cluster: u128, server: u8) -> String {
    format!("{cluster:032x}{server:04x}ffff")
}

/// The nodes of a shard, the primary first, then by server.
pub fn nodes_of(server: &Server, shard: u16) -> Vec<Node> {
    let view = &server.shards[shard as usize];
    let status = view.reported().status;
    // Without a view that this server takes part in, the primary of the last one is the best guess.
    let primary = (view.view() % u64::from(server.identity.servers)) as u8;
    let mut nodes = Vec::with_capacity(server.identity.servers as usize);
    for id in 0..server.identity.servers {
        let Some((host, port)) = server.address(id, shard) else { continue };
        let is_self = id == server.identity.replica;
        let peer = status.as_ref().and_then(|status| status.peers.iter().find(|peer| peer.server == id));
        let own = status.as_ref().filter(|_| is_self);
        nodes.push(Node {
            server: id,
            shard,
            host,
            port,
            is_primary: id == primary,
            is_self,
            is_up: match own {
                Some(status) => status.role != Role::Recovering,
                None => peer.is_some_and(|peer| peer.is_connected),
            },
            durable: own.map_or_else(|| peer.map_or(0, |peer| peer.durable), |status| status.commit),
        });
    }
    nodes.sort_by_key(|node| !node.is_primary);
    nodes
}

/// The primary as a server that is not primary itself tells of it: none, rather than this server, while there is no
/// other.
pub fn known_primary(nodes: &[Node]) -> Option<&Node> {
    nodes.iter().find(|node| node.is_primary && !node.is_self)
}
