//! Transactions.

use super::{
    super::commands::transactions::*,
    spec::{ALLOW_BUSY, CAT_TRANSACTION as T, FAST, Group, LOADING, NOSCRIPT, SKIP_SLOWLOG, STALE, Spec, UNQUEUED},
};

const fn spec(name: &'static str, arity: i8, flags: u32, since: &'static str, run: super::Run) -> Spec {
    Spec::new(name, arity, flags | NOSCRIPT | LOADING | STALE | T, Group::Transactions, since, run)
}

/// The table.
pub const COMMANDS: &[Spec] = &[
    spec("discard", 1, UNQUEUED | FAST | ALLOW_BUSY, "2.0.0", discard).about("", "Forgets the transaction."),
    spec("exec", 1, UNQUEUED | SKIP_SLOWLOG, "1.2.0", exec)
        .about("", "Carries out the transaction as one entry of the log.")
        .differs(
            "Keys of more than one shard are `-CROSSSLOT`: each shard has a log of its own, and a transaction is one entry. \
             A backup refuses it when keys are watched, after `READONLY` too.",
        ),
    spec("multi", 1, UNQUEUED | FAST | ALLOW_BUSY, "1.2.0", multi).about("", "Begins a transaction."),
    spec("unwatch", 1, FAST | ALLOW_BUSY, "2.2.0", unwatch).about("", "Forgets the watched keys."),
    spec("watch", -2, UNQUEUED | FAST | ALLOW_BUSY, "2.2.0", watch)
        .keys(1, -1, 1, &["RO"])
        .about("key ...", "Lets the next transaction fail if one of these keys changes before.")
        .differs("Keys of more than one shard are `-CROSSSLOT`, as for `EXEC`."),
];
