//! What Redis says about a command in `COMMAND INFO`, as bits.

macro_rules! flags {
    ( $( $(#[doc = $meaning:literal])+ $name:ident = $bit:literal $text:literal; )+ ) => {
        $( $(#[doc = $meaning])+ pub const $name: u32 = 1 << $bit; )+

        /// Every flag with the name that clients know it by, in Redis's order.
        pub const ALL: &[(u32, &str)] = &[ $( ($name, $text), )+ ];
    };
}

flags! {
    /// May change keys.
    WRITE = 0 "write";
    /// Reads keys and changes none.
    READONLY = 1 "readonly";
    /// Refused when memory is full.
    DENYOOM = 2 "denyoom";
    /// For administrators.
    ADMIN = 3 "admin";
    /// About publish and subscribe.
    PUBSUB = 4 "pubsub";
    /// Not in scripts.
    NOSCRIPT = 5 "noscript";
    /// Blocks.
    BLOCKING = 6 "blocking";
    /// While loading.
    LOADING = 7 "loading";
    /// On a stale replica.
    STALE = 8 "stale";
    /// Not shown by MONITOR.
    SKIP_MONITOR = 9 "skip_monitor";
    /// Not in the slow log.
    SKIP_SLOWLOG = 10 "skip_slowlog";
    /// Asks of a cluster client.
    ASKING = 11 "asking";
    /// Constant or logarithmic time.
    FAST = 12 "fast";
    /// Before authentication.
    NO_AUTH = 13 "no_auth";
    /// May be executed on a replica.
    MAY_REPLICATE = 14 "may_replicate";
    /// Not from the sentinel.
    SENTINEL = 15 "sentinel";
    /// Only by the sentinel.
    ONLY_SENTINEL = 16 "only_sentinel";
    /// Keys are not given as arguments.
    NO_MANDATORY_KEYS = 17 "no_mandatory_keys";
    /// Guarded.
    PROTECTED = 18 "protected";
    /// Not while a data set is loaded in the background.
    NO_ASYNC_LOADING = 19 "no_async_loading";
    /// Not inside MULTI.
    NO_MULTI = 20 "no_multi";
    /// While a script runs for long.
    ALLOW_BUSY = 21 "allow_busy";
    /// Key positions cannot be told from first, last and step.
    MOVABLEKEYS = 22 "movablekeys";
}

/// Of this server only: the command is taken when everything asked for before on its connection has been answered.
pub const BARRIER: u32 = 1 << 31;
/// Of this server only: carried out at once inside MULTI instead of queued (EXEC, DISCARD, MULTI, WATCH, QUIT, RESET).
pub const UNQUEUED: u32 = 1 << 30;
