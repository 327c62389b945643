//! Commands on the server.

use super::{
    super::commands::{catalogue::*, config::*, info::*, latency::*, server::*, slow_log::*},
    spec::{
        ADMIN, ALLOW_BUSY, BARRIER, BLOCKING, CAT_ADMIN, CAT_CONNECTION, CAT_DANGEROUS, FAST, Group, LOADING,
        NO_ASYNC_LOADING, NO_MULTI, NOSCRIPT, READONLY, STALE, Spec,
    },
};

const fn spec(name: &'static str, arity: i8, flags: u32, since: &'static str, run: super::Run) -> Spec {
    Spec::new(name, arity, flags, Group::Server, since, run)
}

const fn container(name: &'static str, since: &'static str, summary: &'static str, run: super::Run) -> Spec {
    spec(name, -2, 0, since, run).about("", summary)
}

const fn help(container: &'static str, since: &'static str, run: super::Run) -> Spec {
    spec("help", 2, LOADING | STALE, since, run).of(container).about("", "Lists the subcommands.")
}

const ANY_ORDER: &[&str] = &["nondeterministic_output_order"];
const ALL_NODES: &[&str] = &["nondeterministic_output", "request_policy:all_nodes", "response_policy:special"];
const AT_ONCE: &str =
    "True at once: an answered write is on as many servers as the quorum, durably. Waits only for more than that.";
const NO_EVENTS: &str = "There are no latency events here: `/metrics` has histograms of what takes time.";

/// The table.
pub const COMMANDS: &[Spec] = &[
    spec("bgsave", -1, ADMIN | NOSCRIPT | NO_ASYNC_LOADING, "1.0.0", bgsave)
        .about("[SCHEDULE]", "Begins a checkpoint of every shard.")
        .differs("A checkpoint is not needed for durability: it makes journal space reusable. One that is under way is an answer as good as a new one."),
    spec("command", -1, LOADING | STALE | CAT_CONNECTION, "2.8.13", command)
        .tips(ANY_ORDER)
        .about("", "Tells of the commands that there are.")
        .differs("Tells only of the commands that are supported.")
        .contains(COMMAND),
    container("config", "2.0.0", "Tells and changes settings.", config)
        .differs("Knows the settings that exist here, under Redis's names where Redis has them.")
        .contains(CONFIG),
    spec("failover", -1, ADMIN | NOSCRIPT | STALE, "6.2.0", failover)
        .about("[TO host port [FORCE]] [ABORT] [TIMEOUT milliseconds]", "Lets another server become primary.")
        .differs("A handover of every shard that this server is primary of: nothing is lost, `FORCE` is not needed and refused, and it cannot be aborted. Not in a transaction, whose own connection would end by it."),
    spec("info", -1, LOADING | STALE | CAT_DANGEROUS, "1.0.0", info)
        .tips(&["nondeterministic_output", "request_policy:all_shards", "response_policy:special"])
        .about("[section ...]", "Tells how the server is.")
        .differs("Has the sections and fields that exist here; see above."),
    spec("lastsave", 1, LOADING | STALE | FAST | CAT_ADMIN | CAT_DANGEROUS, "1.0.0", lastsave)
        .tips(&["nondeterministic_output"])
        .about("", "Tells when the last checkpoint was finished.")
        .differs("The moment of the shard whose checkpoint is oldest, or of the server's start."),
    container("latency", "2.8.13", "Tells what takes time.", latency).contains(LATENCY),
    container("memory", "4.0.0", "Tells what takes memory.", memory).contains(&[
        help("memory", "4.0.0", memory_help),
        spec("usage", -3, READONLY, "4.0.0", memory_usage)
            .of("memory")
            .keys(2, 2, 1, &["RO"])
            .about("key [SAMPLES count]", "Estimates the memory that a key takes.")
            .differs("A key whose time is up takes none; Redis still finds it until it comes by."),
    ]),
    spec("role", 1, NOSCRIPT | LOADING | STALE | FAST | CAT_ADMIN | CAT_DANGEROUS, "2.8.12", role)
        .about("", "Tells whether this server is primary."),
    spec("shutdown", -1, ADMIN | NOSCRIPT | LOADING | STALE | NO_MULTI | ALLOW_BUSY, "1.0.0", shutdown)
        .about("[NOSAVE | SAVE] [NOW] [FORCE] [ABORT]", "Stops the server.")
        .differs("As with SIGTERM: hands over, answers what is in flight, and ends. Nothing is left to be saved; `ABORT` finds nothing to abort."),
    container("slowlog", "2.2.12", "Tells what took long.", slowlog)
        .differs("Measured from the arrival of a command to its answer, with replication and disk: that is what the client waited for. Of the arguments only how the first begins is kept.")
        .contains(SLOWLOG),
    spec("time", 1, LOADING | STALE | FAST, "2.6.0", time)
        .tips(&["nondeterministic_output"])
        .about("", "Tells the time."),
    Spec::new("wait", 3, BARRIER | BLOCKING | CAT_CONNECTION, Group::Generic, "3.0.0", wait)
        .tips(&["request_policy:all_shards", "response_policy:agg_min"])
        .about("numreplicas timeout", "Waits until so many backups have the connection's writes.")
        .differs(AT_ONCE),
    Spec::new("waitaof", 4, BARRIER | BLOCKING | CAT_CONNECTION, Group::Generic, "7.2.0", waitaof)
        .tips(&["request_policy:all_shards", "response_policy:agg_min"])
        .about("numlocal numreplicas timeout", "Waits until so many disks have the connection's writes.")
        .differs(AT_ONCE),
];

const fn command_(name: &'static str, arity: i8, since: &'static str, run: super::Run) -> Spec {
    spec(name, arity, LOADING | STALE | CAT_CONNECTION, since, run).of("command")
}

const COMMAND: &[Spec] = &[
    command_("count", 2, "2.8.13", command_count).about("", "Counts the commands."),
    command_("docs", -2, "7.0.0", command_docs)
        .tips(ANY_ORDER)
        .about("[command-name ...]", "Tells what commands do.")
        .differs("Without the history and complexity of each."),
    command_("getkeys", -4, "2.8.13", command_getkeys).about("command [arg ...]", "Tells which arguments are keys."),
    command_("getkeysandflags", -4, "7.0.0", command_getkeysandflags)
        .about("command [arg ...]", "Tells which arguments are keys, and what is done to them."),
    command_("help", 2, "5.0.0", command_help).about("", "Lists the subcommands."),
    command_("info", -2, "2.8.13", command_info)
        .tips(ANY_ORDER)
        .about("[command-name ...]", "Tells how commands are called.")
        .differs("Without the notes for people in the key specifications of `GETEX` and `SET`."),
    command_("list", -2, "7.0.0", command_list).tips(ANY_ORDER).about(
        "[FILTERBY <MODULE module-name | ACLCAT category | PATTERN pattern>]",
        "Lists the names of the commands.",
    ),
];

const fn config_(name: &'static str, arity: i8, run: super::Run) -> Spec {
    spec(name, arity, ADMIN | NOSCRIPT | LOADING | STALE, "2.0.0", run).of("config")
}

const CONFIG: &[Spec] = &[
    config_("get", -3, config_get).about("parameter ...", "Tells settings."),
    help("config", "5.0.0", config_help),
    config_("resetstat", 2, config_resetstat).about("", "Lets the statistics of `INFO` begin anew."),
    config_("set", -4, config_set)
        .tips(&["request_policy:all_nodes", "response_policy:all_succeeded"])
        .about("{parameter value} ...", "Changes settings of this server until it stops.")
        .differs("Most settings are given on the command line and cannot be changed while the server runs."),
];

const fn latency_(name: &'static str, arity: i8, since: &'static str, run: super::Run) -> Spec {
    spec(name, arity, ADMIN | NOSCRIPT | LOADING | STALE, since, run).of("latency").tips(ALL_NODES)
}

const LATENCY: &[Spec] = &[
    help("latency", "2.8.13", latency_help),
    latency_("histogram", -2, "7.0.0", latency_histogram)
        .about("[command ...]", "Tells how long commands have taken.")
        .differs("Measured from the arrival of a command to its answer, with replication and disk."),
    latency_("history", 3, "2.8.13", latency_history)
        .about("event", "Tells the samples of an event.")
        .differs(NO_EVENTS),
    latency_("latest", 2, "2.8.13", latency_latest).about("", "Tells the latest events.").differs(NO_EVENTS),
    latency_("reset", -2, "2.8.13", latency_reset)
        .tips(&["request_policy:all_nodes", "response_policy:all_succeeded"])
        .about("[event ...]", "Forgets the events.")
        .differs(NO_EVENTS),
];

const fn slowlog_(name: &'static str, arity: i8, run: super::Run) -> Spec {
    spec(name, arity, ADMIN | LOADING | STALE, "2.2.12", run).of("slowlog")
}

const SLOWLOG: &[Spec] = &[
    slowlog_("get", -2, slowlog_get)
        .tips(&["request_policy:all_nodes", "nondeterministic_output"])
        .about("[count]", "Tells the latest slow commands."),
    help("slowlog", "6.2.0", slowlog_help),
    slowlog_("len", 2, slowlog_len)
        .tips(&["request_policy:all_nodes", "response_policy:agg_sum", "nondeterministic_output"])
        .about("", "Counts the slow commands."),
    slowlog_("reset", 2, slowlog_reset)
        .tips(&["request_policy:all_nodes", "response_policy:all_succeeded"])
        .about("", "Forgets the slow commands."),
];
