//! Who is in the cluster, and which server is a shard's primary.

use std::sync::{Arc, Mutex, PoisonError};

use lockstep_proto::hello::{Hello, Topology};

use crate::{
    config::ClientOptions,
    error::{Failure, FailureKind},
    socket::Socket,
};

/// What every server of a cluster says alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The cluster's id.
    pub id: u128,
    /// The servers' base addresses, `host:port`, in the order of their ids. Shard i is at port + i.
    pub servers: Vec<String>,
    /// Number of shards.
    pub shards: u16,
    /// Requests of one session that may be in flight.
    pub window: u16,
}

impl Cluster {
    fn from_topology(topology: &Topology) -> Cluster {
        Cluster {
            id: topology.cluster,
            servers: topology.addresses().map(str::to_owned).collect(),
            shards: topology.shards,
            window: topology.window,
        }
    }
}

/// The address of a shard, given the server's base address.
pub(crate) fn shard_address(base: &str, shard: u16) -> Result<String, Failure> {
    let address = || {
        let (host, port) = base.rsplit_once(':')?;
        let port = port.parse::<u16>().ok()?.checked_add(shard)?;
        (!host.is_empty() && port != 0).then(|| format!("{host}:{port}"))
    };
    address().ok_or_else(|| FailureKind::Address.at(base))
}

/// What is known about the cluster, shared by the links of all shards.
#[derive(Debug)]
pub(crate) struct Directory {
    seeds: Vec<String>,
    cluster: Mutex<Arc<Cluster>>,
}

impl Directory {
    /// Asks the addresses in turn until one of them answers.
    pub(crate) async fn discover(seeds: Vec<String>, options: &ClientOptions) -> Result<Directory, Failure> {
        let mut last = FailureKind::Address.at("(no address given)");
        for seed in &seeds {
            match Directory::ask(seed, options).await {
                Ok(cluster) => return Ok(Directory { cluster: Mutex::new(Arc::new(cluster)), seeds }),
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    async fn ask(seed: &str, options: &ClientOptions) -> Result<Cluster, Failure> {
        let address = shard_address(seed, 0)?;
        let socket = Socket::open(&address, Hello::client(0, 0, 0), options.connect_timeout).await?;
        Ok(Cluster::from_topology(&socket.topology))
    }

    pub(crate) fn cluster(&self) -> Arc<Cluster> {
        // The lock is held for an assignment only, so even a poisoned one guards a whole value.
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens a connection to a server's shard and checks that it is the cluster and the shard that it should be.
    pub(crate) async fn open(&self, base: &str, shard: u16, options: &ClientOptions) -> Result<Socket, Failure> {
        let known = self.cluster();
        let address = shard_address(base, shard)?;
        let socket =
            Socket::open(&address, Hello::client(known.id, shard, known.shards), options.connect_timeout).await?;
        let found = Cluster::from_topology(&socket.topology);
        let mismatch = |what| Err(FailureKind::Mismatch(what).at(&address));
        if found.id != known.id {
            return mismatch("belongs to another cluster");
        }
        if found.shards != known.shards || found.servers.len() != known.servers.len() {
            return mismatch("has another number of shards or servers than the rest of the cluster");
        }
        if socket.topology.shard != shard {
            return mismatch("serves another shard than its port should");
        }
        if found != *known {
            *self.cluster.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(found);
        }
        Ok(socket)
    }

    /// Finds the primary of a shard and connects to it.
    ///
    /// `view` is the highest view heard of so far. The server that it makes the primary is asked first; if that one is
    /// not the primary, or does not answer, the others are asked, and then the addresses that the client was given, in case
    /// the servers' own idea of their addresses is no good from here.
    pub(crate) async fn connect_primary(
        &self,
        shard: u16,
        view: u64,
        options: &ClientOptions,
    ) -> Result<Socket, Failure> {
        let mut search = Search::new(view, self.cluster().servers.len());
        while let Some(server) = search.next_server() {
            // Looked up anew for each server, since an answer may have brought other addresses.
            let base = self.cluster().servers[server].clone();
            search.heard(self.open(&base, shard, options).await);
            if let Some(primary) = search.take_certain_primary() {
                return Ok(primary);
            }
        }
        if search.candidate.is_none() {
            for seed in &self.seeds {
                if !self.cluster().servers.contains(seed) {
                    search.heard(self.open(seed, shard, options).await);
                }
            }
        }
        search.finish(shard)
    }
}

/// One round of asking the servers of a shard.
struct Search {
    /// The highest view heard of, in this round or before.
    view: u64,
    is_asked: Vec<bool>,
    /// The connection to the server with the highest view of those that are the primary of their own view.
    candidate: Option<Socket>,
    /// The highest view that any server spoke of in this round.
    view_heard: u64,
    has_answer: bool,
    last_failure: Option<Failure>,
}

impl Search {
    fn new(view: u64, servers: usize) -> Search {
        Search {
            view,
            is_asked: vec![false; servers],
            candidate: None,
            view_heard: 0,
            has_answer: false,
            last_failure: None,
        }
    }

    /// Whom to ask next: the primary of the highest view, or else who was not asked yet.
    fn next_server(&mut self) -> Option<usize> {
        let servers = self.is_asked.len();
        let primary = (self.view % servers as u64) as usize;
        let server = (0..servers).map(|offset| (primary + offset) % servers).find(|&server| !self.is_asked[server])?;
        self.is_asked[server] = true;
        Some(server)
    }

    fn heard(&mut self, answer: Result<Socket, Failure>) {
        let socket = match answer {
            Ok(socket) => socket,
            Err(failure) => {
                self.last_failure = Some(failure);
                return;
            }
        };
        let topology = &socket.topology;
        self.has_answer = true;
        self.view_heard = self.view_heard.max(topology.view);
        self.view = self.view.max(topology.view);
        let is_primary = u64::from(topology.replica) == topology.view % u64::from(topology.servers);
        let is_newest = self.candidate.as_ref().is_none_or(|candidate| candidate.topology.view < topology.view);
        if is_primary && is_newest {
            self.candidate = Some(socket);
        }
    }

    /// The candidate, if no server can be the primary of a later view as far as is known.
    fn take_certain_primary(&mut self) -> Option<Socket> {
        let is_certain = self.candidate.as_ref()?.topology.view >= self.view;
        if is_certain { self.candidate.take() } else { None }
    }

    /// The best candidate after everyone was asked. A view heard of in an earlier round does not count against it: it
    /// may have come from a server that was wrong.
    fn finish(self, shard: u16) -> Result<Socket, Failure> {
        match self.candidate {
            Some(candidate) if candidate.topology.view >= self.view_heard => Ok(candidate),
            _ => match self.last_failure {
                Some(failure) if !self.has_answer => Err(failure),
                _ => Err(FailureKind::NoPrimary { shard, view: self.view }.at("cluster")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shards_port_is_the_base_port_plus_its_number() {
        assert_eq!(shard_address("127.0.0.1:7000", 3).unwrap(), "127.0.0.1:7003");
        assert_eq!(shard_address("[::1]:7000", 0).unwrap(), "[::1]:7000");
        assert_eq!(shard_address("host.example:65535", 0).unwrap(), "host.example:65535");
    }

    #[test]
    fn an_address_without_a_port_or_without_room_above_it_is_refused() {
        for base in ["", "host", ":7000", "host:", "host:port", "host:0", "host:70000"] {
            assert!(shard_address(base, 0).is_err(), "{base}");
        }
        let failure = shard_address("host:65535", 1).unwrap_err();
        assert!(failure.to_string().starts_with("host:65535: not an address"), "{failure}");
    }

    #[test]
    fn a_search_begins_at_the_primary_of_the_highest_view_and_asks_everyone_once() {
        let mut search = Search::new(5, 3);
        let asked: Vec<usize> = std::iter::from_fn(|| search.next_server()).collect();
        assert_eq!(asked, [2, 0, 1]);
    }
}
