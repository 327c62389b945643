//! Many requests at one time: one connection, answers in any order, and the bounds.

use std::{collections::BTreeSet, time::Duration};

use lockstep_client::{Client, Error, Outcome};
use lockstep_proto::Operation;
use tokio::task::JoinSet;

use crate::fake::{Action, Fake, Seen, options};

fn hold_puts(seen: &Seen) -> Action {
    if seen.operation == Operation::Put { Action::Hold } else { Action::Answer }
}

/// Puts `count` keys at the same time; each key's value is its name.
fn put_many(client: &Client, count: usize) -> JoinSet<Result<(), Error>> {
    let mut puts = JoinSet::new();
    for number in 0..count {
        let client = client.clone();
        puts.spawn(async move {
            let key = format!("key-{number}");
            client.put(&key, &key).await.map(|_| ())
        });
    }
    puts
}

#[tokio::test]
async fn requests_are_in_flight_together_on_one_connection_and_may_be_answered_in_any_order() {
    let fake = Fake::single(|_| Action::Answer).await;
    let client = fake.client().await;
    for number in 0..50 {
        client.put(format!("key-{number}"), format!("value-{number}")).await.unwrap();
    }
    fake.hook(|_| Action::Hold);
    let mut gets = JoinSet::new();
    for number in 0..50 {
        let client = client.clone();
        gets.spawn(async move { (number, client.get(format!("key-{number}")).await) });
    }
    fake.until("50 gets arrive though none is answered", |state| state.count(Operation::Get) == 50).await;
    fake.release(|held| held.drain(..).rev().collect());
    for (number, entry) in gets.join_all().await {
        assert_eq!(entry.unwrap().unwrap().value, format!("value-{number}"));
    }
    let connections: BTreeSet<usize> = fake.seen(Operation::Get).iter().map(|seen| seen.connection).collect();
    assert_eq!(connections.len(), 1);
}

#[tokio::test]
async fn the_window_holds_writes_back_but_not_reads() {
    let fake = Fake::single(hold_puts).await;
    fake.state().window = 8;
    let client = fake.client().await;
    let puts = put_many(&client, 100);
    fake.until("the window fills", |state| state.held.len() == 8).await;
    // The read is taken in after the writes, so when it is answered, every write that may go has gone.
    client.get("other").await.unwrap();
    assert_eq!(fake.state().count(Operation::Put), 8);

    // All but the oldest are answered: the window stands still.
    fake.release(|held| held.split_off(1));
    client.get("other").await.unwrap();
    assert_eq!(fake.state().count(Operation::Put), 8);

    fake.hook(|_| Action::Answer);
    fake.release(std::mem::take);
    assert!(puts.join_all().await.into_iter().all(|result| result.is_ok()));
    assert_eq!(fake.state().widest_window, 7);
}

#[tokio::test]
async fn the_window_moves_on_with_its_oldest_sequence_and_no_sequence_is_used_twice() {
    let fake = Fake::single(hold_puts).await;
    fake.state().window = 8;
    let client = fake.client().await;
    let puts = put_many(&client, 100);
    let mut answered = 0;
    while answered < 100 {
        let due = (100 - answered).min(8);
        fake.until("the window fills again", move |state| state.held.len() == due).await;
        // Newest first: only the last answer makes room.
        fake.release(|held| held.drain(..).rev().collect());
        answered += due;
    }
    assert!(puts.join_all().await.into_iter().all(|result| result.is_ok()));
    let sequences: BTreeSet<u64> = fake.seen(Operation::Put).iter().map(|seen| seen.sequence).collect();
    assert_eq!(sequences, (1..=100).collect());
    let state = fake.state();
    assert_eq!((state.widest_window, state.machine.writes), (7, 100));
}

#[tokio::test]
async fn a_servers_full_window_is_used_and_not_exceeded() {
    let fake = Fake::single(hold_puts).await;
    let client = fake.client().await;
    let puts = put_many(&client, 600);
    let mut answered = 0;
    while answered < 600 {
        let due = (600 - answered).min(256);
        fake.until("the window fills again", move |state| state.held.len() == due).await;
        fake.release(std::mem::take);
        answered += due;
    }
    assert!(puts.join_all().await.into_iter().all(|result| result.is_ok()));
    assert_eq!(fake.state().widest_window, 255);
}

#[tokio::test]
async fn beyond_the_bound_on_requests_callers_wait_and_then_know_that_nothing_was_sent() {
    let fake = Fake::single(hold_puts).await;
    let client = Client::connect(fake.addresses(), options().in_flight_max(4)).await.unwrap();
    let out = put_many(&client, 4);
    fake.until("as many as may be are out", |state| state.held.len() == 4).await;
    let hasty = client.with_request_timeout(Duration::from_millis(200));
    for result in put_many(&hasty, 6).join_all().await {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Timeout { outcome: Outcome::NotExecuted, .. }), "{error}");
    }
    assert_eq!(fake.state().count(Operation::Put), 4);
    fake.release(std::mem::take);
    assert!(out.join_all().await.into_iter().all(|result| result.is_ok()));
}

#[tokio::test]
async fn a_request_larger_than_the_bound_on_bytes_still_passes() {
    let fake = Fake::single(|_| Action::Answer).await;
    let client = Client::connect(fake.addresses(), options().in_flight_bytes_max(4096)).await.unwrap();
    let value = vec![7; 1 << 20];
    let mut puts = JoinSet::new();
    for number in 0..4 {
        let (client, value) = (client.clone(), value.clone());
        puts.spawn(async move { client.put(format!("key-{number}"), value).await });
    }
    assert!(puts.join_all().await.into_iter().all(|result| result.is_ok()));
    assert_eq!(client.get("key-3").await.unwrap().unwrap().value, value);
}

#[tokio::test]
async fn cancelled_requests_leave_connection_window_and_bounds_in_order() {
    let fake = Fake::single(hold_puts).await;
    fake.state().window = 8;
    let client = Client::connect(fake.addresses(), options().in_flight_max(16)).await.unwrap();
    let mut puts = put_many(&client, 40);
    fake.until("the window fills", |state| state.held.len() == 8).await;
    puts.shutdown().await;
    // Eight are out and stay out; the others are forgotten before they get a sequence.
    fake.hook(|_| Action::Answer);
    fake.release(std::mem::take);
    let puts = put_many(&client, 200);
    assert!(puts.join_all().await.into_iter().all(|result| result.is_ok()));
    let state = fake.state();
    assert!(state.widest_window < 8);
    let puts: Vec<&Seen> = state.seen.iter().filter(|seen| seen.operation == Operation::Put).collect();
    assert_eq!(puts.len(), 208);
    assert_eq!(puts.iter().map(|seen| seen.sequence).collect::<BTreeSet<_>>().len(), 208);
    assert_eq!(puts.iter().map(|seen| seen.connection).collect::<BTreeSet<_>>().len(), 1);
}

#[tokio::test]
async fn a_dropped_client_closes_its_connections() {
    let fake = Fake::single(|_| Action::Hold).await;
    let client = fake.client().await;
    let pending = tokio::spawn({
        let client = client.clone();
        async move { client.get("key").await }
    });
    fake.until("the get arrives", |state| state.held.len() == 1).await;
    pending.abort();
    drop(client);
    let _ = pending.await;
    fake.until("the connection is closed", |state| state.held[0].is_closed()).await;
}
