//! Commands on the connection itself.

use super::{
    super::commands::{client::*, connection::*},
    spec::{
        ADMIN, ALLOW_BUSY, BARRIER, CAT_CONNECTION as C, FAST, Group, LOADING, NO_AUTH, NOSCRIPT, STALE, SUBSCRIBED,
        Spec, UNQUEUED,
    },
};

const fn spec(name: &'static str, arity: i8, flags: u32, since: &'static str, run: super::Run) -> Spec {
    Spec::new(name, arity, flags | C, Group::Connection, since, run)
}

const fn client(name: &'static str, arity: i8, flags: u32, since: &'static str, run: super::Run) -> Spec {
    spec(name, arity, flags | LOADING | STALE, since, run).of("client")
}

const HANDSHAKE: u32 = NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY;

/// The table.
pub const COMMANDS: &[Spec] = &[
    spec("auth", -2, HANDSHAKE, "1.0.0", auth).about("[username] password", "Authenticates the connection.").differs(
        "There is one user, `default`, with the password of `--requirepass`: access control lists are not there.",
    ),
    Spec::new("client", -2, 0, Group::Connection, "2.4.0", client_)
        .about("", "Deals with connections.")
        .contains(CLIENT),
    spec("echo", 2, LOADING | STALE | FAST, "1.0.0", echo).about("message", "Answers with its argument."),
    spec("hello", -1, BARRIER | HANDSHAKE, "6.0.0", hello)
        .about("[protover [AUTH username password] [SETNAME clientname]]", "Chooses the version of the protocol."),
    spec("ping", -1, FAST | SUBSCRIBED, "1.0.0", ping)
        .tips(&["request_policy:all_shards", "response_policy:all_succeeded"])
        .about("[message]", "Answers with `PONG`, or its argument."),
    spec("quit", -1, UNQUEUED | HANDSHAKE | SUBSCRIBED, "1.0.0", quit)
        .about("", "Closes the connection once all is answered."),
    spec("reset", 1, UNQUEUED | BARRIER | HANDSHAKE | SUBSCRIBED, "6.2.0", reset)
        .about("", "Makes the connection as new."),
    spec("select", 2, LOADING | STALE | FAST, "1.0.0", select)
        .about("index", "Chooses a database.")
        .differs("There is only database 0, as in a Redis Cluster."),
];

const CLIENT: &[Spec] = &[
    client("getname", 2, NOSCRIPT, "2.6.9", client_getname).about("", "Tells the name of the connection."),
    client("help", 2, 0, "5.0.0", client_help).about("", "Lists the subcommands."),
    client("id", 2, NOSCRIPT, "5.0.0", client_id).about("", "Tells the number of the connection."),
    client("info", 2, NOSCRIPT, "6.2.0", client_info)
        .tips(&["nondeterministic_output"])
        .about("", "Tells what is known of the connection."),
    client("kill", -3, NOSCRIPT | ADMIN, "2.4.0", client_kill)
        .about(
            "<ip:port | <ID client-id | TYPE <NORMAL | MASTER | SLAVE | REPLICA | PUBSUB> | USER username | ADDR ip:port | LADDR ip:port | SKIPME yes/no> ...>",
            "Closes connections.",
        ),
    client("list", -2, NOSCRIPT | ADMIN, "2.4.0", client_list)
        .tips(&["nondeterministic_output"])
        .about(
            "[TYPE <NORMAL | MASTER | REPLICA | PUBSUB>] [ID client-id ...]",
            "Lists the connections of all shards of the server.",
        )
        .differs("Fields that have no meaning here are given as 0."),
    client("no-evict", 3, NOSCRIPT | ADMIN, "7.0.0", client_no_evict)
        .about("<ON | OFF>", "Exempts the connection from being closed when all together hold too much memory."),
    client("no-touch", 3, NOSCRIPT, "7.2.0", client_no_touch)
        .about("<ON | OFF>", "Lets the connection's commands not count as use of their keys.")
        .differs("Without effect but in `CLIENT LIST`: they never do."),
    client("pause", -3, NOSCRIPT | ADMIN, "2.9.50", client_pause)
        .about("timeout [WRITE | ALL]", "Lets all connections of the server wait for a while."),
    client("reply", 3, BARRIER | NOSCRIPT, "3.2.0", client_reply).about("<ON | OFF | SKIP>", "Switches answers off and on."),
    client("setinfo", 4, NOSCRIPT, "7.2.0", client_setinfo)
        .about("<LIB-NAME libname | LIB-VER libver>", "Tells the server which library the client uses."),
    client("setname", 3, NOSCRIPT, "2.6.9", client_setname).about("connection-name", "Names the connection."),
    client("unpause", 2, NOSCRIPT | ADMIN, "6.2.0", client_unpause).about("", "Ends a pause."),
];
