//! SENTINEL and its subcommands: every server is a sentinel of the one master that the cluster is.

use super::{
    super::{
        arguments::Arguments,
        context::{Action, Context},
        server::Server,
        topology::{Node, nodes_of, server_id},
    },
    help::{help, subcommand_error},
};

/// SENTINEL alone.
pub fn sentinel_<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    subcommand_error(context, "SENTINEL", arguments)
}

/// SENTINEL HELP.
pub fn sentinel_help<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    help(context, "sentinel")
}

/// SENTINEL MYID.
pub fn sentinel_myid<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    let identity = &context.server.identity;
    let id = server_id(identity.cluster, identity.replica);
    context.out.bulk(id.as_bytes());
    Action::Done
}

fn nodes(context: &Context<'_>) -> Vec<Node> {
    nodes_of(context.server, context.server.node_shard(context.shard))
}

/// Whether the argument names this cluster; if not, that has been answered.
fn is_known(context: &mut Context<'_>, arguments: &Arguments<'_>) -> bool {
    let is_known = arguments.get(2) == context.server.master_name().as_bytes();
    if !is_known {
        context.out.error("ERR No such master with that name");
    }
    is_known
}

/// SENTINEL GET-MASTER-ADDR-BY-NAME.
pub fn sentinel_get_master_addr_by_name<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let nodes = nodes(context);
    let is_known = arguments.get(2) == context.server.master_name().as_bytes();
    match nodes.iter().find(|node| node.is_primary).filter(|_| is_known) {
        Some(primary) => {
            context.out.array(2);
            context.out.bulk(primary.host.as_bytes());
            context.out.bulk(primary.port.to_string().as_bytes());
        }
        None => context.out.null_array(),
    }
    Action::Done
}

/// SENTINEL CKQUORUM.
pub fn sentinel_ckquorum<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    if !is_known(context, arguments) {
        return Action::Done;
    }
    let up = nodes(context).iter().filter(|node| node.is_up).count();
    let quorum = quorum(context.server);
    if up >= quorum {
        context.out.simple(&format!("OK {up} usable Sentinels. Quorum and failover authorization can be reached"));
    } else {
        context.out.error(&format!("NOQUORUM {up} usable Sentinels. Not enough available Sentinels to reach the specified quorum for this master"));
    }
    Action::Done
}

/// Number of servers that a change of the view needs.
fn quorum(server: &Server) -> usize {
    let servers = usize::from(server.identity.servers);
    // With two servers both are needed: to commit, and to change the view.
    if servers == 2 { 2 } else { servers - servers.div_ceil(2) + 1 }
}

type Fields = Vec<(&'static str, String)>;

fn write_fields(context: &mut Context<'_>, fields: &Fields) {
    context.out.map(fields.len());
    for (name, value) in fields {
        context.out.bulk(name.as_bytes());
        context.out.bulk(value.as_bytes());
    }
}

/// The fields that everything has.
fn instance_fields(name: String, node: &Node, runid: String, kind: &str) -> Fields {
    let mut flags = kind.to_owned();
    if !node.is_up {
        flags = format!("s_down,{flags},disconnected");
    }
    vec![
        ("name", name),
        ("ip", node.host.clone()),
        ("port", node.port.to_string()),
        ("runid", runid),
        ("flags", flags),
        ("link-pending-commands", "0".to_owned()),
        ("link-refcount", "1".to_owned()),
        ("last-ping-sent", "0".to_owned()),
        ("last-ok-ping-reply", "0".to_owned()),
        ("last-ping-reply", "0".to_owned()),
        ("down-after-milliseconds", "250".to_owned()),
    ]
}

fn master_fields(server: &Server, nodes: &[Node], shard: u16) -> Fields {
    let Some(primary) = nodes.iter().find(|node| node.is_primary) else { return Fields::new() };
    let runid = primary.id(server.identity.cluster);
    let mut fields = instance_fields(server.master_name().to_owned(), primary, runid, "master");
    let down_after_ms = server.options.view_timeout_ns / 1_000_000;
    fields.retain(|(name, _)| *name != "down-after-milliseconds");
    fields.extend([
        ("down-after-milliseconds", down_after_ms.to_string()),
        ("info-refresh", "0".to_owned()),
        ("role-reported", "master".to_owned()),
        ("role-reported-time", "0".to_owned()),
        ("config-epoch", server.shards[shard as usize].view().to_string()),
        ("num-slaves", (nodes.len() - 1).to_string()),
        ("num-other-sentinels", (nodes.len() - 1).to_string()),
        ("quorum", quorum(server).to_string()),
        ("failover-timeout", down_after_ms.to_string()),
        ("parallel-syncs", "1".to_owned()),
    ]);
    fields
}

/// SENTINEL MASTER.
pub fn sentinel_master<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    if is_known(context, arguments) {
        let fields = master_fields(context.server, &nodes(context), context.server.node_shard(context.shard));
        write_fields(context, &fields);
    }
    Action::Done
}

/// SENTINEL MASTERS.
pub fn sentinel_masters<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    let fields = master_fields(context.server, &nodes(context), context.server.node_shard(context.shard));
    context.out.array(1);
    write_fields(context, &fields);
    Action::Done
}

/// SENTINEL REPLICAS and SENTINEL SLAVES.
pub fn sentinel_replicas<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    if !is_known(context, arguments) {
        return Action::Done;
    }
    let nodes = nodes(context);
    let cluster = context.server.identity.cluster;
    let primary = nodes.iter().find(|node| node.is_primary);
    let (host, port) = primary.map_or((String::new(), 0), |node| (node.host.clone(), node.port));
    let link = if primary.is_some_and(|node| node.is_up) { "ok" } else { "err" };
    let backups: Vec<&Node> = nodes.iter().filter(|node| !node.is_primary).collect();
    context.out.array(backups.len());
    for node in backups {
        let name = format!("{}:{}", node.host, node.port);
        let mut fields = instance_fields(name, node, node.id(cluster), "slave");
        fields.extend([
            ("info-refresh", "0".to_owned()),
            ("role-reported", "slave".to_owned()),
            ("role-reported-time", "0".to_owned()),
            ("master-link-down-time", "0".to_owned()),
            ("master-link-status", link.to_owned()),
            ("master-host", host.clone()),
            ("master-port", port.to_string()),
            ("slave-priority", "100".to_owned()),
            ("slave-repl-offset", node.durable.to_string()),
            ("replica-announced", "1".to_owned()),
        ]);
        write_fields(context, &fields);
    }
    Action::Done
}

/// SENTINEL SENTINELS.
pub fn sentinel_sentinels<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    if !is_known(context, arguments) {
        return Action::Done;
    }
    let cluster = context.server.identity.cluster;
    let others: Vec<Node> = nodes(context).into_iter().filter(|node| !node.is_self).collect();
    context.out.array(others.len());
    for node in others {
        let id = server_id(cluster, node.server);
        let mut fields = instance_fields(id.clone(), &node, id, "sentinel");
        fields.extend([
            ("last-hello-message", "0".to_owned()),
            ("voted-leader", "?".to_owned()),
            ("voted-leader-epoch", "0".to_owned()),
        ]);
        write_fields(context, &fields);
    }
    Action::Done
}
