//! CLUSTER and its subcommands, READONLY, READWRITE, ASKING.

use std::{fmt::Write, sync::atomic::Ordering::Relaxed};

use lockstep_proto::{
    program::Opcode,
    slot::{shard_of_slot, slot_of, slots_of_shard},
};

use super::{
    super::{
        arguments::Arguments,
        context::{Action, Context},
        numbers::{NOT_AN_INTEGER, integer},
        registry::shown,
        server::Server,
        topology::{Node, nodes_of, shard_id},
        writer::Writer,
    },
    connection::SYNTAX_ERROR,
    help::{help, subcommand_error},
};

/// Number of slots.
const SLOTS: i64 = 16_384;

/// Whether this server is part of a Redis Cluster; if not, that has been answered.
fn is_cluster(context: &mut Context<'_>) -> bool {
    let is_cluster = context.server.is_cluster();
    if !is_cluster {
        context.out.error("ERR This instance has cluster support disabled");
    }
    is_cluster
}

/// The shards with their nodes.
fn shards(server: &Server) -> impl Iterator<Item = (u16, Vec<Node>)> + use<'_> {
    (0..server.identity.shards).map(|shard| (shard, nodes_of(server, shard)))
}

/// CLUSTER alone.
pub fn cluster_<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    subcommand_error(context, "CLUSTER", arguments)
}

/// CLUSTER HELP.
pub fn cluster_help<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    if is_cluster(context) { help(context, "cluster") } else { Action::Done }
}

/// CLUSTER MYID.
pub fn cluster_myid<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    if is_cluster(context) {
        let id = own_id(context);
        context.out.bulk(id.as_bytes());
    }
    Action::Done
}

fn own_id(context: &Context<'_>) -> String {
    let server = context.server;
    let nodes = nodes_of(server, context.shard);
    nodes.iter().find(|node| node.is_self).map_or_else(String::new, |node| node.id(server.identity.cluster))
}

/// CLUSTER MYSHARDID.
pub fn cluster_myshardid<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    if is_cluster(context) {
        context.out.bulk(shard_id(context.server.identity.cluster, context.shard).as_bytes());
    }
    Action::Done
}

/// CLUSTER KEYSLOT.
pub fn cluster_keyslot<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    if is_cluster(context) {
        context.out.integer(slot_of(arguments.get(2)).into());
    }
    Action::Done
}

/// CLUSTER LINKS.
pub fn cluster_links<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    if is_cluster(context) {
        context.out.array(0);
    }
    Action::Done
}

/// CLUSTER RESET.
pub fn cluster_reset<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    if !is_cluster(context) {
        return Action::Done;
    }
    let is_known = arguments.is(2, "hard") || arguments.is(2, "soft");
    match arguments.len() {
        3 if !is_known => context.out.error(SYNTAX_ERROR),
        2 | 3 => context
            .out
            .error("ERR CLUSTER RESET is not there: a server belongs to its cluster as long as its data does"),
        _ => return subcommand_error(context, "CLUSTER", arguments),
    }
    Action::Done
}

/// CLUSTER INFO.
pub fn cluster_info<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    if !is_cluster(context) {
        return Action::Done;
    }
    let server = context.server;
    let identity = &server.identity;
    let served: i64 = (0..identity.shards)
        .filter(|&shard| server.shards[shard as usize].primary(identity.servers).is_some())
        .map(|shard| slots_of_shard(shard, identity.shards).len() as i64)
        .sum();
    let epoch = server.shards.iter().map(|shard| shard.view()).max().unwrap_or(0);
    let text = format!(
        "cluster_state:{}\r\ncluster_slots_assigned:{SLOTS}\r\ncluster_slots_ok:{served}\r\ncluster_slots_pfail:0\r\n\
         cluster_slots_fail:{}\r\ncluster_known_nodes:{}\r\ncluster_size:{}\r\ncluster_current_epoch:{epoch}\r\n\
         cluster_my_epoch:{}\r\ncluster_stats_messages_sent:0\r\ncluster_stats_messages_received:0\r\n\
         total_cluster_links_buffer_limit_exceeded:0\r\n",
        if served == SLOTS { "ok" } else { "fail" },
        SLOTS - served,
        u32::from(identity.servers) * u32::from(identity.shards),
        identity.shards,
        server.shards[context.shard as usize].view(),
    );
    context.out.verbatim("txt", text.as_bytes());
    Action::Done
}

/// CLUSTER SLOTS.
pub fn cluster_slots<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    if !is_cluster(context) {
        return Action::Done;
    }
    let server = context.server;
    let out = &mut context.out;
    out.array(server.identity.shards.into());
    for (shard, mut nodes) in shards(server) {
        nodes.retain(|node| node.is_primary || node.is_up);
        let slots = slots_of_shard(shard, server.identity.shards);
        out.array(2 + nodes.len());
        out.integer(slots.start.into());
        out.integer(i64::from(slots.end) - 1);
        for node in &nodes {
            out.array(4);
            out.bulk(node.host.as_bytes());
            out.integer(node.port.into());
            out.bulk(node.id(server.identity.cluster).as_bytes());
            out.map(0);
        }
    }
    Action::Done
}

/// CLUSTER SHARDS.
pub fn cluster_shards<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    if !is_cluster(context) {
        return Action::Done;
    }
    let server = context.server;
    let out = &mut context.out;
    out.array(server.identity.shards.into());
    for (shard, nodes) in shards(server) {
        let slots = slots_of_shard(shard, server.identity.shards);
        out.map(2);
        out.bulk(b"slots");
        out.array(2);
        out.integer(slots.start.into());
        out.integer(i64::from(slots.end) - 1);
        out.bulk(b"nodes");
        out.array(nodes.len());
        for node in &nodes {
            write_node(node, server.identity.cluster, out);
        }
    }
    Action::Done
}

fn write_node(node: &Node, cluster: u128, out: &mut Writer<'_>) {
    out.map(7);
    out.bulk(b"id");
    out.bulk(node.id(cluster).as_bytes());
    out.bulk(b"port");
    out.integer(node.port.into());
    for name in ["ip", "endpoint"] {
        out.bulk(name.as_bytes());
        out.bulk(node.host.as_bytes());
    }
    out.bulk(b"role");
    out.bulk(if node.is_primary { b"master" } else { b"replica" });
    out.bulk(b"replication-offset");
    out.integer(node.durable as i64);
    out.bulk(b"health");
    out.bulk(if node.is_up { b"online" } else { b"fail" });
}

/// The line of CLUSTER NODES about a node.
fn describe(node: &Node, own_shard: u16, server: &Server) -> String {
    let identity = &server.identity;
    let mut flags = String::new();
    if node.is_self && node.shard == own_shard {
        flags.push_str("myself,");
    }
    flags.push_str(if node.is_primary { "master" } else { "slave" });
    if !node.is_up {
        flags.push_str(",fail");
    }
    let primary = (!node.is_primary).then(|| {
        let nodes = nodes_of(server, node.shard);
        nodes.iter().find(|node| node.is_primary).map(|node| node.id(identity.cluster))
    });
    let mut line = format!(
        "{} {}:{}@0 {flags} {} 0 0 {} {}",
        node.id(identity.cluster),
        node.host,
        node.port,
        primary.flatten().unwrap_or_else(|| "-".to_owned()),
        server.shards[node.shard as usize].view(),
        if node.is_up { "connected" } else { "disconnected" },
    );
    if node.is_primary {
        let slots = slots_of_shard(node.shard, identity.shards);
        write!(line, " {}-{}", slots.start, slots.end - 1).expect("a string takes everything");
    }
    line
}

/// CLUSTER NODES.
pub fn cluster_nodes<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    if !is_cluster(context) {
        return Action::Done;
    }
    let server = context.server;
    let nodes = shards(server).flat_map(|(_, nodes)| nodes);
    let text: String = nodes.map(|node| describe(&node, context.shard, server) + "\n").collect();
    context.out.verbatim("txt", text.as_bytes());
    Action::Done
}

/// CLUSTER REPLICAS and CLUSTER SLAVES.
pub fn cluster_replicas<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    if !is_cluster(context) {
        return Action::Done;
    }
    let server = context.server;
    let name = arguments.get(2);
    let is_named = |node: &&Node| node.id(server.identity.cluster).as_bytes() == name;
    let Some((_, nodes)) = shards(server).find(|(_, nodes)| nodes.iter().any(|node| is_named(&node))) else {
        context.out.error_bytes(&[b"ERR Unknown node ", shown(name)].concat());
        return Action::Done;
    };
    if !nodes.iter().find(is_named).is_some_and(|node| node.is_primary) {
        context.out.error("ERR The specified node is not a master");
        return Action::Done;
    }
    let replicas: Vec<&Node> = nodes.iter().filter(|node| !node.is_primary).collect();
    context.out.array(replicas.len());
    for node in replicas {
        context.out.bulk(describe(node, context.shard, server).as_bytes());
    }
    Action::Done
}

/// CLUSTER COUNTKEYSINSLOT.
pub fn cluster_countkeysinslot<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    if !is_cluster(context) {
        return Action::Done;
    }
    let slot = match integer(arguments.get(2)) {
        Some(slot) if (0..SLOTS).contains(&slot) => slot as u16,
        Some(_) => {
            context.out.error("ERR Invalid slot");
            return Action::Done;
        }
        None => {
            context.out.error(NOT_AN_INTEGER);
            return Action::Done;
        }
    };
    if shard_of_slot(slot, context.server.identity.shards) != context.shard {
        context.out.integer(0);
        return Action::Done;
    }
    context.program.command(Opcode::SlotKeyCount, &[&u64::from(slot).to_le_bytes()]);
    Action::Run { slot, is_write: false }
}

/// Most keys that CLUSTER GETKEYSINSLOT lists.
const SLOT_KEYS_MAX: i64 = 10_000;

/// CLUSTER GETKEYSINSLOT.
pub fn cluster_getkeysinslot<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    if !is_cluster(context) {
        return Action::Done;
    }
    let (Some(slot), Some(count)) = (integer(arguments.get(2)), integer(arguments.get(3))) else {
        context.out.error(NOT_AN_INTEGER);
        return Action::Done;
    };
    if !(0..SLOTS).contains(&slot) || count < 0 {
        context.out.error("ERR Invalid slot or number of keys");
        return Action::Done;
    }
    let slot = slot as u16;
    if shard_of_slot(slot, context.server.identity.shards) != context.shard {
        context.out.array(0);
        return Action::Done;
    }
    let count = count.min(SLOT_KEYS_MAX) as u64;
    context.program.command(Opcode::SlotKeys, &[&u64::from(slot).to_le_bytes(), &count.to_le_bytes()]);
    Action::Run { slot, is_write: false }
}

/// READONLY.
pub fn readonly<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    set_readonly(context, true)
}

/// READWRITE.
pub fn readwrite<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    set_readonly(context, false)
}

fn set_readonly<'a>(context: &mut Context<'_>, is_readonly: bool) -> Action<'a> {
    context.client.is_readonly = is_readonly;
    context.client.shared.is_readonly.store(is_readonly, Relaxed);
    context.out.ok();
    Action::Done
}

/// ASKING.
pub fn asking<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    if is_cluster(context) {
        context.out.ok();
    }
    Action::Done
}
