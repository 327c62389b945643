//! Channels.

use super::{
    super::commands::channels::*,
    spec::{BARRIER, FAST, Group, LOADING, NOSCRIPT, PUBSUB, STALE, SUBSCRIBED, Spec},
};

const fn spec(name: &'static str, arity: i8, flags: u32, since: &'static str, run: super::Run) -> Spec {
    Spec::new(name, arity, flags | LOADING | STALE, Group::PubSub, since, run)
}

const LISTEN: u32 = BARRIER | PUBSUB | NOSCRIPT | SUBSCRIBED;

/// The table.
pub const COMMANDS: &[Spec] = &[
    spec("psubscribe", -2, LISTEN, "2.0.0", psubscribe)
        .about("pattern ...", "Listens to the channels whose names match patterns."),
    spec("publish", 3, PUBSUB | FAST, "2.0.0", publish)
        .about("channel message", "Sends a message to those who listen.")
        .differs("Reaches the clients of this server, on all its shards, and not those of other servers: messages are not logged."),
    Spec::new("pubsub", -2, 0, Group::PubSub, "2.8.0", pubsub).about("", "Looks into channels.").contains(&[
        spec("channels", -2, PUBSUB, "2.8.0", pubsub_channels)
            .of("pubsub")
            .about("[pattern]", "Lists the channels that somebody listens to."),
        spec("help", 2, 0, "6.2.0", pubsub_help).of("pubsub").about("", "Lists the subcommands."),
        spec("numpat", 2, PUBSUB, "2.8.0", pubsub_numpat)
            .of("pubsub")
            .about("", "Counts the patterns that somebody listens to."),
        spec("numsub", -2, PUBSUB, "2.8.0", pubsub_numsub)
            .of("pubsub")
            .about("[channel ...]", "Counts those who listen to channels."),
    ]),
    spec("punsubscribe", -1, LISTEN, "2.0.0", punsubscribe).about("[pattern ...]", "Listens to patterns no longer."),
    spec("subscribe", -2, LISTEN, "2.0.0", subscribe).about("channel ...", "Listens to channels."),
    spec("unsubscribe", -1, LISTEN, "2.0.0", unsubscribe).about("[channel ...]", "Listens to channels no longer."),
];
