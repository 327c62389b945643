//! Commands on keys.

use super::{
    super::commands::keys::*,
    spec::{CAT_DANGEROUS, CAT_KEYSPACE as K, DENYOOM, FAST, Group, LOADING, READONLY, STALE, Spec, WRITE},
};

const fn spec(name: &'static str, arity: i8, flags: u32, since: &'static str, run: super::Run) -> Spec {
    Spec::new(name, arity, flags | K, Group::Generic, since, run)
}

const READ: &[&str] = &["RO"];
const ACCESS: &[&str] = &["RO access"];
const UPDATE: &[&str] = &["RW update"];
const SUM: &[&str] = &["request_policy:multi_shard", "response_policy:agg_sum"];
const ONE_SHARD: &str =
    "Keys of more than one shard are `-CROSSSLOT`: each shard has a log of its own, and this is one entry.";
const SPLIT: &str = "Keys of several shards are dealt with at one moment per shard, not at one moment for all: shards do not wait for each other.";

/// The arguments of a command that sets an expiry.
macro_rules! expiry {
    ($unit:literal) => {
        concat!("key ", $unit, " [NX | XX | GT | LT]")
    };
}

/// The table.
pub const COMMANDS: &[Spec] = &[
    spec("copy", -3, WRITE | DENYOOM, "6.2.0", copy)
        .keys(1, 2, 1, &["RO access", "OW update"])
        .about("source destination [DB destination-db] [REPLACE]", "Copies a key.")
        .differs(ONE_SHARD),
    spec("dbsize", 1, READONLY | FAST, "1.0.0", dbsize)
        .in_server()
        .tips(&["request_policy:all_shards", "response_policy:agg_sum"])
        .about("", "Counts the keys."),
    spec("del", -2, WRITE, "1.0.0", del)
        .keys(1, -1, 1, &["RM delete"])
        .tips(SUM)
        .about("key ...", "Deletes keys.")
        .differs(SPLIT),
    spec("exists", -2, READONLY | FAST, "1.0.0", exists)
        .keys(1, -1, 1, READ)
        .tips(SUM)
        .about("key ...", "Counts those of the keys that exist.")
        .differs(SPLIT),
    spec("expire", -3, WRITE | FAST, "1.0.0", expire)
        .key(UPDATE)
        .about(expiry!("seconds"), "Lets a key expire after some seconds."),
    spec("expireat", -3, WRITE | FAST, "1.2.0", expireat)
        .key(UPDATE)
        .about(expiry!("unix-time-seconds"), "Lets a key expire at a moment, in seconds."),
    spec("expiretime", 2, READONLY | FAST, "7.0.0", expiretime)
        .key(ACCESS)
        .about("key", "Tells the moment at which a key expires, in seconds."),
    spec("flushall", -1, WRITE | CAT_DANGEROUS, "1.0.0", flushall)
        .in_server()
        .tips(&["request_policy:all_shards", "response_policy:all_succeeded"])
        .about("[ASYNC | SYNC]", "Deletes all keys.")
        .differs("Each shard deletes its keys at a moment of its own; `ASYNC` is the same as `SYNC`."),
    spec("flushdb", -1, WRITE | CAT_DANGEROUS, "1.0.0", flushdb)
        .in_server()
        .tips(&["request_policy:all_shards", "response_policy:all_succeeded"])
        .about("[ASYNC | SYNC]", "Deletes all keys.")
        .differs("Each shard deletes its keys at a moment of its own; `ASYNC` is the same as `SYNC`."),
    spec("keys", 2, READONLY | CAT_DANGEROUS, "1.0.0", keys)
        .tips(&["request_policy:all_shards", "nondeterministic_output_order"])
        .about("pattern", "Lists the keys that match a pattern.")
        .differs("An error if a shard has more than 4 MiB of them, or some millions of keys to look at: use `SCAN`."),
    Spec::new("object", -2, 0, Group::Generic, "2.2.3", object).about("", "Looks into keys.").contains(&[
        spec("encoding", 3, READONLY, "2.2.3", object_encoding)
            .of("object")
            .keys(2, 2, 1, READ)
            .tips(&["nondeterministic_output"])
            .about("key", "Tells how a value is represented."),
        spec("help", 2, LOADING | STALE, "6.2.0", object_help).of("object").about("", "Lists the subcommands."),
        spec("idletime", 3, READONLY, "2.2.3", object_idletime)
            .of("object")
            .keys(2, 2, 1, READ)
            .tips(&["nondeterministic_output"])
            .about("key", "Tells how long a key has not been used.")
            .differs("Tells how long ago its value was written: when keys are read is not kept."),
    ]),
    spec("persist", 2, WRITE | FAST, "2.2.0", persist).key(UPDATE).about("key", "Lets a key no longer expire."),
    spec("pexpire", -3, WRITE | FAST, "2.6.0", pexpire)
        .key(UPDATE)
        .about(expiry!("milliseconds"), "Lets a key expire after some milliseconds."),
    spec("pexpireat", -3, WRITE | FAST, "2.6.0", pexpireat)
        .key(UPDATE)
        .about(expiry!("unix-time-milliseconds"), "Lets a key expire at a moment, in milliseconds."),
    spec("pexpiretime", 2, READONLY | FAST, "7.0.0", pexpiretime)
        .key(ACCESS)
        .about("key", "Tells the moment at which a key expires, in milliseconds."),
    spec("pttl", 2, READONLY | FAST, "2.6.0", pttl)
        .key(ACCESS)
        .tips(&["nondeterministic_output"])
        .about("key", "Tells how long a key has to live, in milliseconds."),
    spec("randomkey", 1, READONLY, "1.0.0", randomkey)
        .tips(&["request_policy:all_shards", "nondeterministic_output"])
        .about("", "Tells a key drawn at random."),
    spec("rename", 3, WRITE, "1.0.0", rename)
        .keys(1, 2, 1, &["RW access delete", "OW update"])
        .about("key newkey", "Gives a key another name.")
        .differs(ONE_SHARD),
    spec("renamenx", 3, WRITE | FAST, "1.0.0", renamenx)
        .keys(1, 2, 1, &["RW access delete", "OW insert"])
        .about("key newkey", "Gives a key another name if that is free.")
        .differs(ONE_SHARD),
    spec("scan", -2, READONLY, "2.8.0", scan)
        .tips(&["nondeterministic_output", "request_policy:special"])
        .about("cursor [MATCH pattern] [COUNT count] [TYPE type]", "Lists the keys piece by piece.")
        .differs(
            "One step stays within a shard, and returns no more than `COUNT`; a cursor holds on every server, also after a failover.",
        ),
    spec("touch", -2, READONLY | FAST, "3.2.1", touch)
        .keys(1, -1, 1, READ)
        .tips(SUM)
        .about("key ...", "Marks keys as used and counts them.")
        .differs("Only counts them, as `EXISTS`: when keys are read is not kept. Keys of several shards are dealt with at one moment per shard."),
    spec("ttl", 2, READONLY | FAST, "1.0.0", ttl)
        .key(ACCESS)
        .tips(&["nondeterministic_output"])
        .about("key", "Tells how long a key has to live, in seconds."),
    spec("type", 2, READONLY | FAST, "1.0.0", type_).key(READ).about("key", "Tells the type of a value."),
    spec("unlink", -2, WRITE | FAST, "4.0.0", unlink)
        .keys(1, -1, 1, &["RM delete"])
        .tips(SUM)
        .about("key ...", "Deletes keys.")
        .differs(SPLIT),
];
