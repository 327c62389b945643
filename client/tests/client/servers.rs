//! Finding the cluster, its primaries, and the way back to them.

use std::time::Duration;

use lockstep_client::{Client, Error, FailureKind, Outcome};
use lockstep_proto::Operation;
use tokio::net::TcpSocket;

use crate::fake::{Action, Fake, options};

/// An address at which nobody listens, and what keeps others from it.
fn dead_address() -> (String, TcpSocket) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    (socket.local_addr().unwrap().to_string(), socket)
}

#[tokio::test]
async fn any_address_that_answers_leads_to_the_primary() {
    let fake = Fake::start(3, 1).await;
    fake.state().view = 1;
    let (dead, _taken) = dead_address();
    let addresses = [dead, fake.addresses()[2].clone()];
    let client = Client::connect(addresses, options()).await.unwrap();
    assert_eq!(client.cluster().servers, fake.addresses());
    client.put("key", "value").await.unwrap();
    assert_eq!(fake.seen(Operation::Put)[0].server, 1);
}

#[tokio::test]
async fn an_address_that_has_become_another_clusters_does_not_lead_astray() {
    let fake = Fake::start(2, 1).await;
    let other = Fake::start(1, 1).await;
    other.state().cluster += 1;
    let addresses = [other.addresses(), fake.addresses()].concat();
    for _ in 0..5 {
        let client = Client::connect(addresses.clone(), options()).await.unwrap();
        assert_eq!(client.cluster().servers, fake.addresses());
        client.put("key", "value").await.unwrap();
    }
    assert_eq!(other.seen(Operation::Put), []);
}

#[tokio::test]
async fn each_shard_has_a_connection_of_its_own_to_its_own_port() {
    let fake = Fake::start(1, 4).await;
    let client = fake.client().await;
    for number in 0..40 {
        // The machine refuses keys that come to the wrong shard's port.
        client.put(format!("key-{number}"), "value").await.unwrap();
    }
    let connections: std::collections::BTreeSet<usize> =
        fake.seen(Operation::Put).iter().map(|seen| seen.connection).collect();
    assert_eq!(connections.len(), 4);
}

#[tokio::test]
async fn a_server_that_is_no_longer_the_primary_sends_the_client_on() {
    let fake = Fake::start(3, 1).await;
    let client = fake.client().await;
    client.put("key", "old").await.unwrap();
    fake.state().view = 2;
    client.put("key", "new").await.unwrap();
    let puts = fake.seen(Operation::Put);
    assert_eq!(puts.iter().map(|seen| seen.server).collect::<Vec<_>>(), [0, 0, 2]);
    assert_eq!((puts[1].session, puts[1].sequence), (puts[2].session, puts[2].sequence));
}

#[tokio::test]
async fn when_the_primary_dies_the_others_lead_to_the_next_one() {
    let mut fake = Fake::start(3, 1).await;
    let client = fake.client().await;
    client.put("key", "old").await.unwrap();
    fake.hook(|seen| if seen.server == 0 { Action::Hold } else { Action::Answer });
    let put = tokio::spawn({
        let client = client.clone();
        async move { client.put("key", "new").await }
    });
    fake.until("the put is carried out but not answered", |state| state.held.len() == 1).await;
    fake.stop(0).await;
    fake.state().view = 1;
    put.await.unwrap().unwrap();
    assert_eq!(client.get("key").await.unwrap().unwrap().value, "new");
    assert_eq!(fake.state().machine.writes, 2);
}

#[tokio::test]
async fn a_server_that_comes_back_is_connected_to_again() {
    let mut fake = Fake::start(1, 1).await;
    let client = fake.client().await;
    client.put("key", "value").await.unwrap();
    fake.stop(0).await;
    let get = tokio::spawn({
        let client = client.clone();
        async move { client.get("key").await }
    });
    fake.restart(0).await;
    assert_eq!(get.await.unwrap().unwrap().unwrap().value, "value");
    client.put("key", "again").await.unwrap();
    assert_eq!(fake.seen(Operation::Register).len(), 1);
}

#[tokio::test]
async fn when_no_server_answers_nothing_was_executed() {
    let mut fake = Fake::start(2, 1).await;
    let client = Client::connect(fake.addresses(), options().retries_max(3)).await.unwrap();
    fake.stop(0).await;
    fake.stop(1).await;
    let error = client.put("key", "value").await.unwrap_err();
    assert!(
        matches!(&error, Error::Unavailable { cause, outcome: Outcome::NotExecuted }
        if matches!(cause.kind, FailureKind::Connect(_))),
        "{error}"
    );
    let error = Client::connect(fake.addresses(), options().retries_max(3)).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { outcome: Outcome::NotExecuted, .. }), "{error}");
}

#[tokio::test]
async fn backups_alone_are_no_primary() {
    let mut fake = Fake::start(3, 1).await;
    let client = Client::connect(fake.addresses(), options().retries_max(3)).await.unwrap();
    fake.stop(0).await;
    let error = client.get("key").await.unwrap_err();
    assert!(
        matches!(&error, Error::Unavailable { cause, .. }
        if matches!(cause.kind, FailureKind::NoPrimary { shard: 0, view: 0 })),
        "{error}"
    );
}

#[tokio::test]
async fn the_deadline_holds_while_there_is_no_connection() {
    let mut fake = Fake::start(1, 1).await;
    let client = Client::connect(fake.addresses(), options().retries_max(u32::MAX)).await.unwrap();
    fake.stop(0).await;
    let hasty = client.with_request_timeout(Duration::from_millis(100));
    let mut errors = Vec::new();
    // That nobody can be connected to has to be noticed first.
    while errors.len() < 100 && !matches!(errors.last(), Some(Error::Unavailable { .. })) {
        errors.push(hasty.put("key", "value").await.unwrap_err());
    }
    let error = errors.pop().unwrap();
    assert!(matches!(error, Error::Unavailable { outcome: Outcome::NotExecuted, .. }), "{error}");
}

#[tokio::test]
async fn when_the_servers_own_addresses_are_no_good_from_here_the_given_ones_are_used() {
    let fake = Fake::start(1, 1).await;
    let (dead, _taken) = dead_address();
    fake.advertise(vec![dead]);
    let client = fake.client().await;
    client.put("key", "value").await.unwrap();
    assert_eq!(client.get("key").await.unwrap().unwrap().value, "value");
}

#[tokio::test]
async fn an_address_that_cannot_be_one_is_refused_at_once() {
    for address in ["nonsense", "127.0.0.1", "127.0.0.1:port", ""] {
        let error = Client::connect([address], options()).await.unwrap_err();
        assert!(error.to_string().contains("not an address"), "{error}");
    }
    let none: [&str; 0] = [];
    assert!(Client::connect(none, options()).await.is_err());
}
