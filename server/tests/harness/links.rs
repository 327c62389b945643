//! Links between servers that can be cut, each direction by itself: what server i sends to server j is one link.

use std::{net::SocketAddr, time::Duration};

use lockstep_loadgen::cluster::proxy::{LinkProxy, Route};

use super::{Server, free_listeners};

/// The links between all servers of a cluster. Clients do not use them.
pub struct Links {
    proxy: LinkProxy,
    /// Who sends and who receives on each route of the proxy.
    ends: Vec<(u8, u8)>,
    /// For each sender the base addresses at which it finds the others, and itself.
    addresses: Vec<Vec<String>>,
}

impl Links {
    /// Links between all pairs of servers.
    pub fn between(servers: &[Server], shards: u16) -> Links {
        let (mut routes, mut ends, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
        for from in servers {
            let mut seen = Vec::new();
            for to in servers {
                if to.id == from.id {
                    seen.push(format!("{}:{}", to.host, to.port));
                    continue;
                }
                let listeners = free_listeners(&from.host, shards);
                seen.push(listeners[0].local_addr().unwrap().to_string());
                for (shard, listener) in (0..shards).zip(listeners) {
                    let target = SocketAddr::new(to.host.parse().unwrap(), to.port + shard);
                    routes.push(Route { listener, target });
                    ends.push((from.id, to.id));
                }
            }
            addresses.push(seen);
        }
        Links { proxy: LinkProxy::start(routes, Duration::ZERO).unwrap(), ends, addresses }
    }

    /// The servers' addresses as one of them has to be told them.
    pub fn peers_of(&self, server: &Server) -> String {
        self.addresses[usize::from(server.id)].join(",")
    }

    /// Cuts the links of which `is_cut(from, to)` holds, and mends all others.
    pub fn cut(&self, is_cut: impl Fn(u8, u8) -> bool) {
        let places = self.ends.iter().enumerate().filter(|(_, ends)| is_cut(ends.0, ends.1));
        self.proxy.cut(places.map(|(place, _)| place));
    }

    /// Mends all links.
    pub fn mend(&self) {
        self.cut(|_, _| false);
    }
}
