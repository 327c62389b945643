//! The bounds that every frame, message and file obeys.

use crate::request::RequestHeader;

/// One bound, as data: what `docs/protocol.md` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Name of the constant.
    pub name: &'static str,
    /// Its value.
    pub value: u64,
    /// What it bounds.
    pub meaning: &'static str,
}

/// Declares the bounds as constants, and lists them with their documentation in `ALL`.
macro_rules! limits {
    ( $( $(#[doc = $meaning:literal])+ $name:ident: $type:ty = $value:expr; )+ ) => {
        $( $(#[doc = $meaning])+ pub const $name: $type = $value; )+

        /// Every bound, in the order of this file.
        pub const ALL: &[Limit] = &[ $( Limit {
            name: stringify!($name),
            value: $name as u64,
            meaning: concat!($($meaning),+).trim_ascii_start(),
        }, )+ ];
    };
}

limits! {
    /// Version of what is said on connections. Servers and clients with another version are refused.
    WIRE_VERSION: u16 = 3;

    /// Version of what is on disk: superblocks, checkpoints, and messages, since prepares lie in the journal as they were sent. Data
    /// folders with another version are refused.
    DISK_FORMAT_VERSION: u16 = 2;

    /// Largest number of servers in a cluster.
    SERVERS_MAX: u8 = 7;

    /// Largest number of shards in a cluster.
    SHARDS_MAX: u16 = 256;

    /// Largest key, in bytes: what the 16-bit key size of a frame can say.
    KEY_SIZE_MAX: usize = u16::MAX as usize;

    /// Largest value, in bytes.
    VALUE_SIZE_MAX: usize = 1 << 20;

    /// Largest body of a client request (arguments, keys and values together), in bytes.
    REQUEST_BODY_SIZE_MAX: usize = VALUE_SIZE_MAX + KEY_SIZE_MAX + 64;

    /// Largest request frame, in bytes.
    REQUEST_SIZE_MAX: usize = RequestHeader::SIZE + REQUEST_BODY_SIZE_MAX;

    /// Largest body of a reply, in bytes. Replies with several values stop before it (a scan gives a cursor to go on from).
    REPLY_BODY_SIZE_MAX: usize = 4 << 20;

    /// Largest number of keys in a multi-get or multi-put, and largest limit of a scan.
    ITEMS_MAX: usize = 16_384;

    /// Largest replica message, header included, in bytes: what a batch may grow to.
    MESSAGE_SIZE_MAX: usize = 4 << 20;

    /// Largest piece of a checkpoint's file in one message, in bytes.
    CHECKPOINT_CHUNK_SIZE_MAX: usize = 256 << 10;

    /// Largest number of requests in one prepare.
    BATCH_OPS_MAX: usize = MESSAGE_SIZE_MAX / RequestHeader::SIZE;

    /// Largest text in a topology answer, in bytes.
    TOPOLOGY_BODY_SIZE_MAX: usize = 4096;

    /// Number of hash slots, as in Redis Cluster.
    SLOTS: u16 = 16_384;

    /// Requests of one session that may be in flight: a request is refused as stale once a request of the same session
    /// with a sequence higher by this much has been executed.
    SESSION_WINDOW: usize = 256;

    /// Unit of journal space and of direct I/O, in bytes. A prepare on disk starts at a multiple of it and is padded
    /// with zeroes to a multiple of it.
    SECTOR_SIZE: usize = 4096;

    /// Largest time-to-live, in milliseconds: one hundred years.
    TTL_MS_MAX: u64 = 100 * 366 * 24 * 3600 * 1000;

    /// Largest sequence of a request, and largest view, op, revision, round and timestamp in a replica message. Counting
    /// does not get there, so what is beyond is an error, and whoever adds to such a number cannot overflow.
    COUNTER_MAX: u64 = i64::MAX as u64;
}

// A largest request fits a batch, and a largest item fits the reply that has to carry it: neither can be stuck.
const _: () = {
    assert!(REQUEST_SIZE_MAX + crate::message::MessageHeader::SIZE <= MESSAGE_SIZE_MAX);
    assert!(VALUE_SIZE_MAX + KEY_SIZE_MAX + 64 <= REPLY_BODY_SIZE_MAX);
    assert!(REPLY_BODY_SIZE_MAX <= u32::MAX as usize && MESSAGE_SIZE_MAX <= u32::MAX as usize);
    assert!(MESSAGE_SIZE_MAX.is_multiple_of(SECTOR_SIZE));
    assert!(CHECKPOINT_CHUNK_SIZE_MAX + crate::message::MessageHeader::SIZE <= MESSAGE_SIZE_MAX);
    assert!(CHECKPOINT_CHUNK_SIZE_MAX.is_multiple_of(SECTOR_SIZE));
    assert!(SESSION_WINDOW <= u16::MAX as usize);
    // An expiry is a timestamp plus a time-to-live, in nanoseconds.
    assert!(COUNTER_MAX.checked_add(TTL_MS_MAX * 1_000_000).is_some());
};
