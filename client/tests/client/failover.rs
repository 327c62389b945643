//! What callers see while one server takes another's place: latency, not errors; and planned handovers.

use std::time::{Duration, Instant};

use lockstep_client::{Client, ClientOptions, Error, Outcome};
use lockstep_proto::{Operation, Status};
use tokio::task::JoinSet;

use crate::fake::{Action, Fake, PATIENCE, bind_again, options};

/// Starts a put and waits until server 0, whose answers are held back, has carried it out.
async fn put_in_flight(fake: &Fake, client: &Client) -> tokio::task::JoinHandle<Result<(), Error>> {
    fake.hook(|seen| if seen.server == 0 { Action::Hold } else { Action::Answer });
    let put = tokio::spawn({
        let client = client.clone();
        async move { client.put("key", "new").await.map(drop) }
    });
    fake.until("the put is carried out but not answered", |state| state.held.len() == 1).await;
    put
}

#[tokio::test]
async fn with_the_default_settings_a_failover_is_latency_and_not_an_error() {
    let mut fake = Fake::start(3, 1).await;
    // No timeout of a test's own: what is tested is that nothing but the request timeout ends a request.
    let client = Client::connect(fake.addresses(), ClientOptions::new().request_timeout(PATIENCE)).await.unwrap();
    client.increment("sum", 0).await.unwrap();
    for round in 0..2u64 {
        let primary = (round % 3) as usize;
        let mut increments = JoinSet::new();
        let mut arrived = 0;
        fake.hook(move |seen| {
            if seen.server != primary || seen.operation != Operation::Increment {
                return Action::Answer;
            }
            arrived += 1;
            // Some are carried out, some are not, and none of them is answered.
            if arrived % 2 == 0 { Action::Hold } else { Action::Ignore }
        });
        for _ in 0..500 {
            let client = client.clone();
            increments.spawn(async move { client.increment("sum", 1).await });
        }
        fake.until("the window is full", |state| state.held.len() >= 100).await;
        fake.stop(primary).await;
        // Far more rounds of asking pass than a request may be repeated.
        tokio::time::sleep(Duration::from_millis(700)).await;
        fake.state().view = round + 1;
        fake.hook(|_| Action::Answer);
        fake.state().held.clear();
        let answers = increments.join_all().await;
        assert!(answers.iter().all(Result::is_ok), "{:?}", answers.iter().find(|answer| answer.is_err()));
        fake.restart(primary).await;
    }
    assert_eq!(client.increment("sum", 0).await.unwrap().value, 1000);
    assert_eq!(fake.seen(Operation::Register).len(), 1);
}

#[tokio::test]
async fn a_new_primary_is_found_within_milliseconds() {
    // Other tests may delay any one failover, not all of them.
    let mut quickest = Duration::MAX;
    let deadline = Instant::now() + PATIENCE;
    while quickest > Duration::from_millis(30) && Instant::now() < deadline {
        let mut fake = Fake::start(3, 1).await;
        let client = Client::connect(fake.addresses(), ClientOptions::new()).await.unwrap();
        client.put("key", "old").await.unwrap();
        let put = put_in_flight(&fake, &client).await;
        fake.stop(0).await;
        tokio::time::sleep(Duration::from_millis(250)).await;
        let elected = Instant::now();
        fake.state().view = 1;
        put.await.unwrap().unwrap();
        quickest = quickest.min(elected.elapsed());
    }
    assert!(quickest <= Duration::from_millis(30), "{quickest:?}");
}

#[tokio::test]
async fn a_server_that_is_stopped_but_whose_port_still_accepts_holds_nobody_up() {
    let mut fake = Fake::start(3, 1).await;
    let client = fake.client().await;
    client.put("key", "old").await.unwrap();
    let port = fake.addresses()[0].rsplit_once(':').unwrap().1.parse().unwrap();
    let put = put_in_flight(&fake, &client).await;
    fake.stop(0).await;
    // As the kernel does for a process under SIGSTOP: connections come about, and nothing follows.
    let _silent = bind_again(port).await;
    let started = Instant::now();
    fake.state().view = 1;
    put.await.unwrap().unwrap();
    assert!(started.elapsed() < PATIENCE / 2, "the connect timeout of {PATIENCE:?} was waited for");
    // A new client is in no better place.
    assert_eq!(fake.client().await.get("key").await.unwrap().unwrap().value, "new");
}

#[tokio::test]
async fn a_primary_that_answers_pings_but_no_requests_is_left_for_the_one_of_a_later_view() {
    let fake = Fake::start(3, 1).await;
    let client = fake.client().await;
    client.put("key", "old").await.unwrap();
    fake.state().left_behind = Some((0, 0));
    fake.state().view = 1;
    client.put("key", "new").await.unwrap();
    assert_eq!(client.get("key").await.unwrap().unwrap().value, "new");
    let puts = fake.seen(Operation::Put);
    assert_eq!(puts.iter().map(|seen| seen.server).collect::<Vec<_>>(), [0, 0, 1]);
    assert_eq!((puts[1].session, puts[1].sequence), (puts[2].session, puts[2].sequence));
    assert_eq!(fake.state().machine.writes, 2);
}

#[tokio::test]
async fn a_slow_primary_of_the_latest_view_is_not_left() {
    let fake = Fake::start(3, 1).await;
    let client = Client::connect(fake.addresses(), options().probe_after(Duration::from_millis(5))).await.unwrap();
    client.put("key", "old").await.unwrap();
    let put = put_in_flight(&fake, &client).await;
    let connections = fake.state().connections;
    fake.until("the others are asked several times", |state| state.connections >= connections + 9).await;
    fake.hook(|_| Action::Answer);
    fake.release(std::mem::take);
    put.await.unwrap().unwrap();
    client.get("key").await.unwrap();
    let seen = fake.state().seen.clone();
    assert!(seen.iter().all(|request| request.connection == seen[0].connection), "{seen:?}");
    // Once nothing is owed any more, nobody is asked any more.
    let connections = fake.state().connections;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(fake.state().connections <= connections + 3, "the search goes on");
}

#[tokio::test]
async fn a_server_that_cannot_serve_for_now_is_asked_again_soon() {
    let mut refusals = 20;
    let fake = Fake::start(3, 1).await;
    fake.hook(move |seen| match seen.operation {
        Operation::Put if refusals > 0 => {
            refusals -= 1;
            Action::Refuse(Status::Unavailable)
        }
        _ => Action::Answer,
    });
    // More refusals than retries: while nobody can serve, time counts and not attempts.
    let client = Client::connect(fake.addresses(), options().retries_max(10)).await.unwrap();
    client.put("key", "value").await.unwrap();
    let puts = fake.seen(Operation::Put);
    assert_eq!(puts.len(), 21);
    assert!(puts.iter().all(|put| put.sequence == puts[0].sequence));
    assert_eq!(fake.state().machine.writes, 1);
}

#[tokio::test]
async fn a_write_that_no_new_primary_answers_in_time_has_an_unknown_outcome_and_a_waiting_one_was_not_executed() {
    let mut fake = Fake::start(3, 1).await;
    let client = fake.client().await;
    client.put("key", "old").await.unwrap();
    // Long enough for the steps before its end.
    let hasty = client.with_request_timeout(Duration::from_secs(3));
    let sent = put_in_flight(&fake, &hasty).await;
    fake.stop(0).await;
    // So that the loss of the connection has been noticed, and nothing more is sent on it.
    client.with_request_timeout(Duration::from_millis(100)).get("key").await.unwrap_err();
    let waiting = hasty.put("other", "value").await.unwrap_err();
    assert!(matches!(waiting, Error::Unavailable { outcome: Outcome::NotExecuted, .. }), "{waiting}");
    let sent = sent.await.unwrap().unwrap_err();
    assert!(matches!(sent, Error::Unavailable { outcome: Outcome::Unknown, .. }), "{sent}");
}

#[tokio::test]
async fn the_primary_is_moved_to_the_server_that_is_named_or_to_any() {
    let fake = Fake::start(3, 2).await;
    let client = fake.client().await;
    let moved = client.move_primary(1, Some(2)).await.unwrap();
    assert_eq!((moved.shard, moved.from, moved.to, moved.view), (1, 0, 2, 2));
    let moved = client.move_primary(0, None).await.unwrap();
    assert_eq!((moved.from, moved.to, moved.view), (2, 0, 3));
    let moved = client.move_primary(0, Some(0)).await.unwrap();
    assert_eq!((moved.from, moved.to, moved.view), (0, 0, 3));
    client.put("key", "value").await.unwrap();
    assert_eq!(fake.seen(Operation::Put)[0].server, 0);
}

#[tokio::test]
async fn a_primary_that_keeps_its_place_says_why() {
    let fake = Fake::start(3, 1).await;
    fake.hook(|_| Action::Refuse(Status::Unavailable));
    let client = fake.client().await;
    let error = client.move_primary(0, Some(1)).await.unwrap_err();
    assert!(matches!(&error, Error::Refused { status: Status::Unavailable, message } if message.contains("test says")));
    for (shard, to) in [(1, None), (0, Some(3))] {
        let error = client.move_primary(shard, to).await.unwrap_err();
        assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
    }
}

#[tokio::test]
async fn a_move_whose_answer_is_lost_is_not_made_twice() {
    let fake = Fake::start(3, 1).await;
    fake.hook(|seen| match seen.operation {
        Operation::MovePrimary => Action::CarryOutAndClose,
        _ => Action::Answer,
    });
    let moved = fake.client().await.move_primary(0, None).await.unwrap();
    assert_eq!((moved.from, moved.to, moved.view), (0, 1, 1));
    assert_eq!(fake.seen(Operation::MovePrimary).len(), 1);
}
