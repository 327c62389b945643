//! The first bytes of every connection, and the topology in answer.

use thiserror::Error;
use zerocopy::{
    FromBytes, IntoBytes,
    little_endian::{U16, U32, U64, U128},
};

use crate::{
    checksum::{Checksum128, checksum_128},
    layout::layout,
    limits::{SERVERS_MAX, SESSION_WINDOW, SHARDS_MAX, TOPOLOGY_BODY_SIZE_MAX, WIRE_VERSION},
    operation::byte_enum,
};

/// "LOCKSTEP", the first eight bytes of every connection in both directions.
pub const MAGIC: u64 = u64::from_le_bytes(*b"LOCKSTEP");

/// The `replica` of a client.
pub const REPLICA_NONE: u8 = u8::MAX;

layout! {
    /// The first bytes that whoever opens a connection sends.
    pub struct Hello: 64 {
        0 magic: U64 = "`LOCKSTEP`.",
        8 version: U16 = "Version of the protocol.",
        10 role: u8 = "Who is calling: a `Role`.",
        11 replica: u8 = "The calling server's id; 255 for a client.",
        12 shard: U16 = "The shard that the caller wants to reach.",
        14 shards: U16 = "Number of shards that the caller believes in; 0 for a client that does not know yet.",
        16 cluster: U128 = "The cluster; 0 for a client that takes any.",
        32 servers: u8 = "Number of servers that the caller believes in; 0 for a client.",
        33 reserved: [u8; 3] = "Zero.",
        36 sessions_max: U32 = "The calling server's bound on the number of sessions; 0 when not said.",
        40 instance: U64 = "A number that each process of a server draws anew: two processes under one id are told apart; 0 when not said.",
        48 checksum: U128 = "XXH3-128 of the 48 bytes before.",
    }
}

layout! {
    /// The answer to a hello; a body of text follows.
    pub struct TopologyHeader: 64 {
        0 magic: U64 = "`LOCKSTEP`.",
        8 version: U16 = "Version of the protocol that the server speaks.",
        10 answer: u8 = "Welcome, or why not: an `Answer`. After anything but a welcome the server closes the connection.",
        11 replica: u8 = "Who answers.",
        12 shard: U16 = "The shard that this port serves.",
        14 shards: U16 = "Number of shards; shard i is at each server's base port + i.",
        16 cluster: U128 = "The cluster.",
        32 view: U64 = "The view; its primary is server `view mod servers`.",
        40 servers: u8 = "Number of servers.",
        41 reserved: u8 = "Zero.",
        42 window: U16 = "Requests of one session that may be in flight.",
        44 body_size: U32 = "Size of the text that follows, in bytes, at most 4096: the servers' base addresses, `host:port` with commas between; or why the caller is refused.",
        48 checksum: U128 = "XXH3-128 of the 48 bytes before and of the text.",
    }
}

byte_enum! {
    /// Who opens a connection.
    pub enum Role {
        /// A client: request frames follow, reply frames come back.
        Client = 1,
        /// A server of the cluster: replica messages follow, nothing comes back.
        Replica = 2,
    }
}

byte_enum! {
    /// What a server says to a hello.
    pub enum Answer {
        /// Come in.
        Welcome = 0,
        /// Not a hello, or a damaged one.
        Malformed = 1,
        /// Another version of the protocol.
        Version = 2,
        /// Another cluster, or another number of servers or shards, or a server id that does not fit.
        Cluster = 3,
        /// This port serves another shard.
        Shard = 4,
        /// As many connections as the server takes are open.
        Full = 5,
        /// The server is stopping.
        Stopping = 6,
        /// Another process is connected as the same server.
        Identity = 7,
    }
}

/// Why a hello or a topology cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HelloError {
    /// The first bytes are not ours.
    #[error("this is not the Lockstep protocol")]
    Magic,
    /// Another version of the protocol.
    #[error("wire version {0} is not supported (this build speaks {WIRE_VERSION})")]
    Version(u16),
    /// The checksum does not fit.
    #[error("checksum does not match")]
    Checksum,
    /// A field is out of its range.
    #[error("a field of the hello is out of range")]
    Field,
}

impl Hello {
    /// A client's hello. `cluster` is 0 and `shards` is 0 when the client does not know them yet.
    pub fn client(cluster: u128, shard: u16, shards: u16) -> Hello {
        Hello::sealed(Role::Client, REPLICA_NONE, shard, shards, cluster, 0)
    }

    /// A server's hello to another server.
    pub fn replica(cluster: u128, shard: u16, shards: u16, replica: u8, servers: u8) -> Hello {
        Hello::sealed(Role::Replica, replica, shard, shards, cluster, servers)
    }

    fn sealed(role: Role, replica: u8, shard: u16, shards: u16, cluster: u128, servers: u8) -> Hello {
        let mut hello = Hello {
            magic: U64::new(MAGIC),
            version: U16::new(WIRE_VERSION),
            role: role.to_wire(),
            replica,
            shard: U16::new(shard),
            shards: U16::new(shards),
            cluster: U128::new(cluster),
            servers,
            reserved: [0; 3],
            sessions_max: U32::ZERO,
            instance: U64::ZERO,
            checksum: U128::ZERO,
        };
        hello.seal();
        hello
    }

    /// The same hello, of the server's process `instance`, which keeps up to `sessions_max` sessions.
    pub fn of_process(mut self, instance: u64, sessions_max: u32) -> Hello {
        self.instance = U64::new(instance);
        self.sessions_max = U32::new(sessions_max);
        self.seal();
        self
    }

    fn seal(&mut self) {
        self.checksum = U128::new(checksum_128(&self.as_bytes()[..48]));
    }

    /// Whether these first bytes can still become a hello: false as soon as the magic is wrong.
    pub fn is_prefix_plausible(bytes: &[u8]) -> bool {
        let magic = MAGIC.to_le_bytes();
        let size = bytes.len().min(magic.len());
        bytes[..size] == magic[..size]
    }

    /// Looks for a hello at the start of `bytes`, and checks it as [`Hello::check`] does. Returns `None` while it is not
    /// complete.
    ///
    /// # Errors
    ///
    /// If the bytes cannot be a hello of this version, as early as that can be seen.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Hello, Role)>, HelloError> {
        if !Hello::is_prefix_plausible(bytes) {
            return Err(HelloError::Magic);
        }
        let Ok((hello, _)) = Hello::read_from_prefix(bytes) else {
            return Ok(None);
        };
        let role = hello.check()?;
        Ok(Some((hello, role)))
    }

    /// Checks the hello itself. Whether the caller belongs here is for the server to say.
    ///
    /// # Errors
    ///
    /// If it is not a hello of this version, or damaged.
    pub fn check(&self) -> Result<Role, HelloError> {
        if self.magic.get() != MAGIC {
            return Err(HelloError::Magic);
        }
        if self.version.get() != WIRE_VERSION {
            return Err(HelloError::Version(self.version.get()));
        }
        if checksum_128(&self.as_bytes()[..48]) != self.checksum.get() {
            return Err(HelloError::Checksum);
        }
        let role = Role::from_wire(self.role).ok_or(HelloError::Field)?;
        let is_replica_valid = match role {
            Role::Client => {
                self.replica == REPLICA_NONE
                    && self.servers == 0
                    && self.instance.get() == 0
                    && self.sessions_max.get() == 0
            }
            Role::Replica => self.replica < self.servers && self.servers <= SERVERS_MAX,
        };
        if !is_replica_valid || self.reserved != [0; 3] {
            return Err(HelloError::Field);
        }
        Ok(role)
    }
}

/// What a server says about itself and its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Welcome, or why not.
    pub answer: Answer,
    /// Who answers.
    pub replica: u8,
    /// The shard that the port serves.
    pub shard: u16,
    /// Number of shards.
    pub shards: u16,
    /// The cluster.
    pub cluster: u128,
    /// The view.
    pub view: u64,
    /// Number of servers.
    pub servers: u8,
    /// Requests of one session that may be in flight.
    pub window: u16,
    /// The servers' base addresses with commas between, or why the caller is refused.
    pub text: String,
}

impl Topology {
    /// The servers' base addresses, in the order of their ids; empty unless the answer is a welcome.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        let text = if self.answer == Answer::Welcome { self.text.as_str() } else { "" };
        text.split(',').filter(|address| !address.is_empty())
    }

    /// The answer's bytes. Text beyond the bound is cut off.
    pub fn encode(&self) -> Vec<u8> {
        let mut size = self.text.len().min(TOPOLOGY_BODY_SIZE_MAX);
        while !self.text.is_char_boundary(size) {
            size -= 1;
        }
        let text = &self.text.as_bytes()[..size];
        let mut header = TopologyHeader {
            magic: U64::new(MAGIC),
            version: U16::new(WIRE_VERSION),
            answer: self.answer.to_wire(),
            replica: self.replica,
            shard: U16::new(self.shard),
            shards: U16::new(self.shards),
            cluster: U128::new(self.cluster),
            view: U64::new(self.view),
            servers: self.servers,
            reserved: 0,
            window: U16::new(self.window),
            body_size: U32::new(size as u32),
            checksum: U128::ZERO,
        };
        header.checksum = U128::new(topology_checksum(&header, text));
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(text);
        bytes
    }

    /// Looks for an answer at the start of `bytes`. Returns it with its size; `None` while it is not complete.
    ///
    /// # Errors
    ///
    /// If the bytes cannot be the answer of a server of this version.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Topology, usize)>, HelloError> {
        if !Hello::is_prefix_plausible(bytes) {
            return Err(HelloError::Magic);
        }
        let Ok((header, rest)) = TopologyHeader::ref_from_prefix(bytes) else {
            return Ok(None);
        };
        if header.version.get() != WIRE_VERSION {
            return Err(HelloError::Version(header.version.get()));
        }
        let body_size = header.body_size.get() as usize;
        if body_size > TOPOLOGY_BODY_SIZE_MAX {
            return Err(HelloError::Field);
        }
        let Some(text) = rest.get(..body_size) else {
            return Ok(None);
        };
        if topology_checksum(header, text) != header.checksum.get() {
            return Err(HelloError::Checksum);
        }
        let topology = Topology {
            answer: Answer::from_wire(header.answer).ok_or(HelloError::Field)?,
            replica: header.replica,
            shard: header.shard.get(),
            shards: header.shards.get(),
            cluster: header.cluster.get(),
            view: header.view.get(),
            servers: header.servers,
            window: header.window.get(),
            text: String::from_utf8(text.to_vec()).map_err(|_| HelloError::Field)?,
        };
        let is_sound = topology.window as usize <= SESSION_WINDOW
            && header.reserved == 0
            && (topology.answer != Answer::Welcome
                || ((1..=SERVERS_MAX).contains(&topology.servers)
                    && topology.replica < topology.servers
                    && topology.shards <= SHARDS_MAX
                    && topology.shard < topology.shards
                    && topology.window > 0
                    && topology.addresses().count() == topology.servers as usize));
        if !is_sound {
            return Err(HelloError::Field);
        }
        Ok(Some((topology, TopologyHeader::SIZE + body_size)))
    }
}

fn topology_checksum(header: &TopologyHeader, text: &[u8]) -> u128 {
    let mut checksum = Checksum128::new();
    checksum.update(&header.as_bytes()[..48]);
    checksum.update(text);
    checksum.finish()
}
