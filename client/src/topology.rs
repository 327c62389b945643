//! Who is in the cluster, and where its shards are.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use lockstep_proto::hello::{Hello, Topology};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

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

/// How long an address may answer later than the first, at least, and still be heard.
const DISCOVERY_PATIENCE_MIN: Duration = Duration::from_millis(20);

/// What most answers speak of: one address of many may have become another cluster's. When there are as many for each,
/// the address that was given first decides.
fn likely_cluster(mut answers: Vec<(usize, Cluster)>) -> Option<Cluster> {
    answers.sort_by_key(|(place, _)| *place);
    let votes = |id: u128| answers.iter().filter(|(_, cluster)| cluster.id == id).count();
    let most = answers.iter().map(|(_, cluster)| votes(cluster.id)).max()?;
    answers.iter().find(|(_, cluster)| votes(cluster.id) == most).map(|(_, cluster)| cluster.clone())
}

/// What is known about the cluster, shared by the links of all shards.
#[derive(Debug)]
pub(crate) struct Directory {
    seeds: Vec<String>,
    cluster: Mutex<Arc<Cluster>>,
}

impl Directory {
    /// Asks all addresses at once, and takes the cluster that most of those speak of that answer about as soon as the
    /// first.
    pub(crate) async fn discover(seeds: Vec<String>, options: &ClientOptions) -> Result<Directory, Failure> {
        let started = Instant::now();
        let mut last = FailureKind::Address.at("(no address given)");
        let mut questions = JoinSet::new();
        for (place, seed) in seeds.iter().enumerate() {
            let (seed, options) = (seed.clone(), options.clone());
            questions.spawn(async move { (place, Directory::ask(&seed, &options).await) });
        }
        let mut answers: Vec<(usize, Cluster)> = Vec::new();
        let mut until = None;
        loop {
            let answer = match until {
                None => questions.join_next().await,
                Some(until) => timeout_at(until, questions.join_next()).await.ok().flatten(),
            };
            match answer {
                Some(Ok((place, Ok(cluster)))) => {
                    answers.push((place, cluster));
                    until.get_or_insert_with(|| Instant::now() + started.elapsed().max(DISCOVERY_PATIENCE_MIN));
                }
                Some(Ok((_, Err(failure)))) => last = failure,
                // A question that panicked; it has been printed.
                Some(Err(_)) => {}
                None => break,
            }
        }
        match likely_cluster(answers) {
            Some(cluster) => Ok(Directory { cluster: Mutex::new(Arc::new(cluster)), seeds }),
            None => Err(last),
        }
    }

    async fn ask(seed: &str, options: &ClientOptions) -> Result<Cluster, Failure> {
        let address = shard_address(seed, 0)?;
        let socket = Socket::open(&address, Hello::client(0, 0, 0), options.connect_timeout).await?;
        Ok(Cluster::from_topology(&socket.topology))
    }

    /// The addresses that the client was given.
    pub(crate) fn seeds(&self) -> &[String] {
        &self.seeds
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
    fn the_cluster_that_most_addresses_speak_of_is_taken_and_the_first_of_as_many() {
        let of = |id| Cluster { id, servers: Vec::new(), shards: 1, window: 1 };
        let likely = |ids: &[(usize, u128)]| {
            likely_cluster(ids.iter().map(|&(place, id)| (place, of(id))).collect()).map(|cluster| cluster.id)
        };
        assert_eq!(likely(&[(2, 9), (0, 7), (1, 7)]), Some(7));
        assert_eq!(likely(&[(1, 9), (0, 7)]), Some(7));
        assert_eq!(likely(&[]), None);
    }
}
