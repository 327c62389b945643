//! Discovery by cluster clients and by sentinel clients.

use super::{
    super::commands::{cluster::*, sentinel::*},
    spec::{ADMIN, CAT_CONNECTION, FAST, Group, LOADING, NOSCRIPT, STALE, Spec},
};

const fn cluster(name: &'static str, arity: i8, flags: u32, since: &'static str, run: super::Run) -> Spec {
    Spec::new(name, arity, flags | STALE, Group::Cluster, since, run).of("cluster")
}

const fn sentinel(name: &'static str, arity: i8, syntax: &'static str, summary: &'static str, run: super::Run) -> Spec {
    Spec::new(name, arity, ADMIN | LOADING | STALE, Group::Sentinel, "2.8.4", run).of("sentinel").about(syntax, summary)
}

const VARIES: &[&str] = &["nondeterministic_output"];
const SAME_PORT: &str = "On the same port as everything else; the master is named by `--master-name`.";

/// The table.
pub const COMMANDS: &[Spec] = &[
    Spec::new("asking", 1, FAST | CAT_CONNECTION, Group::Cluster, "3.0.0", asking)
        .about("", "Announces a redirected request.")
        .differs("Accepted and without effect: slots do not move."),
    Spec::new("cluster", -2, 0, Group::Cluster, "3.0.0", cluster_)
        .about("", "Tells which server and shard has which slots.")
        .differs("Answered in cluster mode only; what would change the assignment of slots is not there: it is fixed when a cluster is formatted.")
        .contains(&[
            cluster("countkeysinslot", 3, 0, "3.0.0", cluster_countkeysinslot)
                .about("slot", "Counts the keys of a slot that this shard has."),
            cluster("getkeysinslot", 4, 0, "3.0.0", cluster_getkeysinslot)
                .tips(VARIES)
                .about("slot count", "Lists keys of a slot that this shard has."),
            cluster("help", 2, LOADING, "5.0.0", cluster_help).about("", "Lists the subcommands."),
            cluster("info", 2, 0, "3.0.0", cluster_info).tips(VARIES).about("", "Tells the state of the cluster."),
            cluster("keyslot", 3, 0, "3.0.0", cluster_keyslot).about("key", "Tells the slot of a key."),
            cluster("links", 2, 0, "7.0.0", cluster_links)
                .tips(VARIES)
                .about("", "Lists the connections between nodes.")
                .differs("Is empty: nodes do not gossip, and `INFO replication` tells of the connections between servers."),
            cluster("myid", 2, 0, "3.0.0", cluster_myid).about("", "Tells the id of this node."),
            cluster("myshardid", 2, 0, "7.2.0", cluster_myshardid)
                .tips(VARIES)
                .about("", "Tells the id of the shard that this node is of."),
            cluster("nodes", 2, 0, "3.0.0", cluster_nodes).tips(VARIES).about("", "Lists the nodes, as text."),
            cluster("replicas", 3, ADMIN, "5.0.0", cluster_replicas)
                .tips(VARIES)
                .about("node-id", "Lists the replicas of a node, as text."),
            cluster("reset", -2, ADMIN | NOSCRIPT, "3.0.0", cluster_reset)
                .about("[HARD | SOFT]", "Would take this node out of the cluster.")
                .differs("Always refused: a server belongs to its cluster as long as its data folder does."),
            cluster("shards", 2, 0, "7.0.0", cluster_shards).tips(VARIES).about("", "Lists the shards and their nodes."),
            cluster("slaves", 3, ADMIN, "3.0.0", cluster_replicas)
                .tips(VARIES)
                .about("node-id", "The old name of `CLUSTER REPLICAS`."),
            cluster("slots", 2, 0, "3.0.0", cluster_slots)
                .tips(VARIES)
                .about("", "Lists the ranges of slots and their nodes."),
        ]),
    Spec::new("readonly", 1, LOADING | STALE | FAST | CAT_CONNECTION, Group::Cluster, "3.0.0", readonly)
        .about("", "Lets a backup answer reads from what it has.")
        .differs("Works in plain mode too. Such reads may be older than writes that were answered."),
    Spec::new("readwrite", 1, LOADING | STALE | FAST | CAT_CONNECTION, Group::Cluster, "3.0.0", readwrite)
        .about("", "Takes `READONLY` back.")
        .differs("Works in plain mode too."),
    Spec::new("sentinel", -2, 0, Group::Sentinel, "2.8.4", sentinel_)
        .about("", "Tells sentinel clients which server is primary.")
        .differs(SAME_PORT)
        .contains(&[
            sentinel("ckquorum", 3, "master-name", "Tells whether a failover would be possible.", sentinel_ckquorum),
            sentinel(
                "get-master-addr-by-name",
                3,
                "master-name",
                "Tells the address of the primary.",
                sentinel_get_master_addr_by_name,
            ),
            sentinel("help", 2, "", "Lists the subcommands.", sentinel_help),
            sentinel("master", 3, "master-name", "Tells what is known of the primary.", sentinel_master),
            sentinel("masters", 2, "", "Tells what is known of all primaries: of the one.", sentinel_masters),
            sentinel("myid", 2, "", "Tells the id of this server.", sentinel_myid),
            sentinel("replicas", 3, "master-name", "Tells what is known of the backups.", sentinel_replicas),
            sentinel("sentinels", 3, "master-name", "Tells what is known of the other servers.", sentinel_sentinels),
            sentinel("slaves", 3, "master-name", "The old name of `SENTINEL REPLICAS`.", sentinel_replicas),
        ]),
];
