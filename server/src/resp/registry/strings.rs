//! Commands on values.

use super::{
    super::commands::strings::*,
    spec::{CAT_STRING as S, DENYOOM, FAST, Group, READONLY, Spec, WRITE},
};

const fn spec(name: &'static str, arity: i8, flags: u32, since: &'static str, run: super::Run) -> Spec {
    Spec::new(name, arity, flags | S, Group::String, since, run)
}

const ACCESS: &[&str] = &["RO access"];
const UPDATE: &[&str] = &["RW access update"];
const MULTI_SHARD: &[&str] = &["request_policy:multi_shard"];

/// The table.
pub const COMMANDS: &[Spec] = &[
    spec("append", 3, WRITE | DENYOOM | FAST, "2.0.0", append)
        .key(&["RW insert"])
        .about("key value", "Appends to a value, or sets it where there is none."),
    spec("decr", 2, WRITE | DENYOOM | FAST, "1.0.0", decr).key(UPDATE).about("key", "Takes one from a whole number."),
    spec("decrby", 3, WRITE | DENYOOM | FAST, "1.0.0", decrby)
        .key(UPDATE)
        .about("key decrement", "Takes an amount from a whole number."),
    spec("delifeq", 3, WRITE | FAST, "Valkey 9.0", delifeq)
        .key(&["RW delete"])
        .about("key value", "Deletes a key if it has this value.")
        .differs("Redis 7.2 does not have it; as Valkey 9.0 defines it."),
    spec("get", 2, READONLY | FAST, "1.0.0", get).key(ACCESS).about("key", "Tells a value."),
    spec("getdel", 2, WRITE | FAST, "6.2.0", getdel)
        .key(&["RW access delete"])
        .about("key", "Tells a value and deletes its key."),
    spec("getex", -2, WRITE | FAST, "6.2.0", getex).key(UPDATE).about(
        "key [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | PERSIST]",
        "Tells a value and changes when its key expires.",
    ),
    spec("getrange", 4, READONLY, "2.4.0", getrange).key(ACCESS).about("key start end", "Tells a part of a value."),
    spec("getset", 3, WRITE | DENYOOM | FAST, "1.0.0", getset)
        .key(UPDATE)
        .about("key value", "Sets a value and tells the one before."),
    spec("incr", 2, WRITE | DENYOOM | FAST, "1.0.0", incr).key(UPDATE).about("key", "Adds one to a whole number."),
    spec("incrby", 3, WRITE | DENYOOM | FAST, "1.0.0", incrby)
        .key(UPDATE)
        .about("key increment", "Adds an amount to a whole number."),
    spec("incrbyfloat", 3, WRITE | DENYOOM | FAST, "2.6.0", incrbyfloat)
        .key(UPDATE)
        .about("key increment-float", "Adds an amount to a number."),
    spec("mget", -2, READONLY | FAST, "1.0.0", mget)
        .keys(1, -1, 1, ACCESS)
        .tips(MULTI_SHARD)
        .about("key ...", "Tells the values of several keys.")
        .differs(
            "Keys of several shards are read at one moment per shard, not at one moment for all: shards do not wait for each other. An error if a shard's values are more than 4 MiB.",
        ),
    spec("mset", -3, WRITE | DENYOOM, "1.0.1", mset)
        .keys(1, -1, 2, &["OW update"])
        .tips(&["request_policy:multi_shard", "response_policy:all_succeeded"])
        .about("{key value} ...", "Sets several values at once.")
        .differs("Keys of more than one shard are `-CROSSSLOT`: each shard has a log of its own, and this is one entry."),
    spec("msetnx", -3, WRITE | DENYOOM, "1.0.1", msetnx)
        .keys(1, -1, 2, &["OW insert"])
        .tips(&["request_policy:multi_shard", "response_policy:agg_min"])
        .about("{key value} ...", "Sets several values at once if none of the keys exists.")
        .differs("Keys of more than one shard are `-CROSSSLOT`: each shard has a log of its own, and this is one entry."),
    spec("psetex", 4, WRITE | DENYOOM, "2.6.0", psetex)
        .key(&["OW update"])
        .about("key milliseconds value", "Sets a value that expires, in milliseconds."),
    spec("set", -3, WRITE | DENYOOM, "1.0.0", set)
        .key(&["RW access update variable_flags"])
        .about(
            "key value [NX | XX | IFEQ comparison-value] [GET] [EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds | KEEPTTL]",
            "Sets a value.",
        )
        .differs("Has `IFEQ` in addition, as Valkey 8.1 defines it: sets only if the present value is this one."),
    spec("setex", 4, WRITE | DENYOOM, "2.0.0", setex)
        .key(&["OW update"])
        .about("key seconds value", "Sets a value that expires, in seconds."),
    spec("setnx", 3, WRITE | DENYOOM | FAST, "1.0.0", setnx)
        .key(&["OW insert"])
        .about("key value", "Sets a value if the key does not exist."),
    spec("setrange", 4, WRITE | DENYOOM, "2.2.0", setrange)
        .key(&["RW update"])
        .about("key offset value", "Overwrites a part of a value."),
    spec("strlen", 2, READONLY | FAST, "2.2.0", strlen).key(&["RO"]).about("key", "Tells the length of a value."),
    spec("substr", 4, READONLY, "1.0.0", substr).key(ACCESS).about("key start end", "The old name of `GETRANGE`."),
];
