//! Talking to the Redis front door of a cluster, in lines of words.

use std::net::ToSocketAddrs;

use crate::{
    harness::{Cluster, Spec, wait_for},
    wire::{Answer, Connection, encode},
};

/// A connection to the port of a shard.
pub fn open(cluster: &Cluster, id: u8, shard: u16) -> Option<Connection> {
    let server = &cluster.servers[id as usize];
    let address = (server.host.as_str(), server.resp + shard).to_socket_addrs().unwrap().next().unwrap();
    Connection::open(address).ok()
}

/// A connection to a server, which has to be there.
pub fn client(cluster: &Cluster, id: u8) -> Connection {
    open(cluster, id, 0).expect("the server listens")
}

/// The server that is primary of all shards. In cluster mode each shard may have its own.
pub fn primary_of_all(cluster: &Cluster) -> u8 {
    wait_for("one primary for all shards", || {
        let id = cluster.primary(0);
        (1..usize::from(cluster.spec.shards)).all(|shard| cluster.primary(shard) == id).then_some(id)
    })
}

/// A cluster, and its primary: of all shards, or of the first one in cluster mode.
pub fn start(spec: Spec) -> (Cluster, u8) {
    let has_nodes = spec.options.iter().any(|option| option == "--cluster-mode");
    let cluster = Cluster::start(spec.with_resp());
    let id = if has_nodes { cluster.primary(0) } else { primary_of_all(&cluster) };
    (cluster, id)
}

/// Two shards of patient servers.
pub fn sharded(servers: u8) -> Spec {
    Spec { shards: 2, ..Spec::of(servers) }.patient()
}

/// The words of a line.
pub fn words(line: &str) -> Vec<Vec<u8>> {
    line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

/// A reply in short.
pub fn shown(answer: &Answer) -> String {
    let shown = answer.as_ref().map_or_else(|broken| format!("{broken:?}"), |reply| format!("{reply:?}"));
    shown.replace("\\'", "'")
}

/// Sends one command, a word between blanks each, and shows the reply.
pub fn ask(connection: &mut Connection, line: &str) -> String {
    let mut bytes = Vec::new();
    encode(&words(line), &mut bytes);
    connection.send(&bytes);
    shown(&connection.receive())
}

/// Sends all commands at once, and shows all replies.
pub fn pipeline<T: AsRef<str>>(connection: &mut Connection, lines: &[T]) -> Vec<String> {
    let mut bytes = Vec::new();
    lines.iter().for_each(|line| encode(&words(line.as_ref()), &mut bytes));
    connection.send(&bytes);
    lines.iter().map(|_| shown(&connection.receive())).collect()
}
