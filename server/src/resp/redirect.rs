//! Cluster mode: each shard of a server is a node, and a command goes to the node that is primary of its keys' slot.

use lockstep_proto::slot::{shard_of_slot, slot_of};

use super::{client::Client, context::Spec, flags, server::Server};

/// Whether the node of `shard` on this server is the one for these keys; if not, where to go instead, as Redis says it.
///
/// # Errors
///
/// The error to answer.
pub fn check<'a>(
    server: &Server,
    shard: u16,
    spec: &Spec,
    mut keys: impl Iterator<Item = &'a [u8]>,
    client: &Client,
) -> Result<(), String> {
    let shards = server.identity.shards;
    let is_write = spec.has(flags::WRITE);
    let Some(first) = keys.next() else {
        // A command without keys is about this node's own.
        let view = &server.shards[shard as usize];
        return match view.primary(server.identity.servers) {
            Some(_) if view.is_primary() || !is_write => Ok(()),
            Some(_) => Err(super::values::READ_ONLY.to_owned()),
            None => Err(DOWN.to_owned()),
        };
    };
    let slot = slot_of(first);
    let owner = shard_of_slot(slot, shards);
    if keys.any(|key| shard_of_slot(slot_of(key), shards) != owner) {
        return Err("CROSSSLOT Keys in request don't hash to the same slot".to_owned());
    }
    let view = &server.shards[owner as usize];
    let is_here = owner == shard;
    if is_here && (view.is_primary() || (client.is_readonly && !is_write)) {
        return Ok(());
    }
    match view.primary(server.identity.servers) {
        // The view's primary is this server, which has not taken its place yet.
        Some(primary) if is_here && primary == server.identity.replica => Err(DOWN.to_owned()),
        Some(primary) => match server.address(primary, owner) {
            Some((host, port)) => Err(format!("MOVED {slot} {host}:{port}")),
            None => Err(DOWN.to_owned()),
        },
        None => Err(DOWN.to_owned()),
    }
}

/// What is answered while a shard has no primary.
pub const DOWN: &str = "CLUSTERDOWN The cluster is down";
