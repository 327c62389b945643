//! The bounds that every frame, message and file obeys.

/// Version of the protocol and of the on-disk format. Servers and clients with another version are refused.
pub const PROTOCOL_VERSION: u16 = 1;

/// Largest number of servers in a cluster.
pub const SERVERS_MAX: u8 = 7;

/// Largest number of shards in a cluster.
pub const SHARDS_MAX: u16 = 256;

/// Largest key, in bytes: what the 16-bit key size of a frame can say.
pub const KEY_SIZE_MAX: usize = u16::MAX as usize;

/// Largest value, in bytes.
pub const VALUE_SIZE_MAX: usize = 1 << 20;

/// Largest body of a client request (arguments, keys and values together), in bytes.
pub const REQUEST_BODY_SIZE_MAX: usize = VALUE_SIZE_MAX + KEY_SIZE_MAX + 64;

/// Largest request frame, in bytes.
pub const REQUEST_SIZE_MAX: usize = crate::request::RequestHeader::SIZE + REQUEST_BODY_SIZE_MAX;

/// Largest body of a reply, in bytes. Replies with several values stop before it (a scan gives a cursor to go on from).
pub const REPLY_BODY_SIZE_MAX: usize = 4 << 20;

/// Largest number of keys in a multi-get or multi-put, and largest limit of a scan.
pub const ITEMS_MAX: usize = 16_384;

/// Largest replica message, header included, in bytes: what a batch may grow to.
pub const MESSAGE_SIZE_MAX: usize = 4 << 20;

/// Largest number of requests in one prepare.
pub const BATCH_OPS_MAX: usize = MESSAGE_SIZE_MAX / crate::request::RequestHeader::SIZE;

/// Largest text in a topology answer, in bytes.
pub const TOPOLOGY_BODY_SIZE_MAX: usize = 4096;

/// Number of hash slots, as in Redis Cluster.
pub const SLOTS: u16 = 16_384;

/// Requests of one session that may be in flight: a request is refused as stale once a request of the same session with
/// a sequence higher by this much has been executed.
pub const SESSION_WINDOW: usize = 256;

/// Unit of journal space and of direct I/O, in bytes. A prepare on disk starts at a multiple of it and is padded with
/// zeroes to a multiple of it.
pub const SECTOR_SIZE: usize = 4096;

/// Largest time-to-live, in milliseconds: one hundred years.
pub const TTL_MS_MAX: u64 = 100 * 366 * 24 * 3600 * 1000;
