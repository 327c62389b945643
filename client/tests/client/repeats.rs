//! Requests that are sent again: under the same session and sequence, within limits, and with an honest end.

use std::time::{Duration, Instant};

use lockstep_client::{Client, Error, FailureKind, Outcome};
use lockstep_proto::{Operation, Status};
use tokio::task::JoinSet;

use crate::fake::{Action, Fake, PATIENCE, Seen, options};

/// Does `action` to the first put that arrives, and answers everything else.
fn first_put(action: Action) -> impl FnMut(&Seen) -> Action + Send + 'static {
    let mut action = Some(action);
    move |seen| match seen.operation {
        Operation::Put => action.take().unwrap_or(Action::Answer),
        _ => Action::Answer,
    }
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_repeated_under_the_same_session_and_sequence_and_takes_effect_once() {
    for action in [Action::CarryOutAndClose, Action::CarryOutAndTear] {
        let fake = Fake::single(first_put(action)).await;
        let client = fake.client().await;
        let written = client.put("key", "value").await.unwrap();
        let puts = fake.seen(Operation::Put);
        assert_eq!(puts.len(), 2);
        assert_eq!((puts[0].session, puts[0].sequence), (puts[1].session, puts[1].sequence));
        assert_ne!(puts[0].connection, puts[1].connection);
        assert_eq!(fake.state().machine.writes, 1);
        // The register has revision 1 and the put revision 2: the first answer, not one of a second write.
        assert_eq!((written.version, written.copies), (2, 2));
    }
}

#[tokio::test]
async fn a_write_that_never_took_effect_is_repeated_too() {
    let fake = Fake::single(first_put(Action::Close)).await;
    let client = fake.client().await;
    client.put("key", "value").await.unwrap();
    assert_eq!(fake.state().machine.value(b"key"), Some(&b"value"[..]));
    assert_eq!(fake.state().machine.writes, 1);
}

#[tokio::test]
async fn increments_add_up_exactly_under_lost_torn_doubled_and_refused_answers() {
    let faults = [
        Action::CarryOutAndClose,
        Action::Close,
        Action::AnswerTwice,
        Action::Refuse(Status::Busy),
        Action::CarryOutAndTear,
        Action::Refuse(Status::Unavailable),
        Action::CarryOutAndSend(vec![0xEE; 40]),
    ];
    let mut arrived = 0usize;
    let fake = Fake::single(move |seen| {
        arrived += usize::from(seen.operation == Operation::Increment);
        match seen.operation {
            Operation::Increment if arrived.is_multiple_of(5) => faults[arrived / 5 % faults.len()].clone(),
            _ => Action::Answer,
        }
    })
    .await;
    let client = Client::connect(fake.addresses(), options().retries_max(10_000).retry_budget(100_000)).await.unwrap();
    let mut increments = JoinSet::new();
    for task in 0..20i64 {
        let client = client.clone();
        increments.spawn(async move {
            for _ in 0..15 {
                client.increment("sum", task).await.unwrap();
            }
        });
    }
    increments.join_all().await;
    let sum = client.increment("sum", 0).await.unwrap();
    assert_eq!(sum.value, 15 * (0..20).sum::<i64>());
    assert_eq!(fake.state().machine.writes, 301);
}

#[tokio::test]
async fn a_refused_write_is_repeated_after_a_pause_on_the_same_connection() {
    let fake = Fake::single(first_put(Action::Refuse(Status::Busy))).await;
    let client = fake.client().await;
    client.put("key", "value").await.unwrap();
    let puts = fake.seen(Operation::Put);
    assert_eq!(puts.len(), 2);
    assert_eq!((puts[0].sequence, puts[0].connection), (puts[1].sequence, puts[1].connection));
}

#[tokio::test]
async fn reads_are_repeated() {
    let fake = Fake::single(|_| Action::Answer).await;
    let client = fake.client().await;
    client.put("key", "value").await.unwrap();
    let mut faults = vec![Action::Close, Action::CarryOutAndTear, Action::Refuse(Status::Busy)];
    fake.hook(move |_| faults.pop().unwrap_or(Action::Answer));
    assert_eq!(client.get("key").await.unwrap().unwrap().value, "value");
}

#[tokio::test]
async fn an_unanswered_request_is_repeated_on_its_connection_and_the_second_answer_is_passed_over() {
    let is_put = |seen: &Seen| seen.operation == Operation::Put;
    let fake = Fake::single(move |seen| if is_put(seen) { Action::Hold } else { Action::Answer }).await;
    let options = options().attempt_timeout(Duration::from_millis(50));
    let client = Client::connect(fake.addresses(), options).await.unwrap();
    let put = tokio::spawn({
        let client = client.clone();
        async move { client.put("key", "value").await }
    });
    fake.until("the put is repeated", |state| state.held.len() >= 2).await;
    fake.release(std::mem::take);
    put.await.unwrap().unwrap();
    assert_eq!(client.get("key").await.unwrap().unwrap().value, "value");
    let puts = fake.seen(Operation::Put);
    assert!(puts.iter().all(|put| (put.sequence, put.connection) == (puts[0].sequence, puts[0].connection)));
    assert_eq!(fake.state().machine.writes, 1);
}

/// A server whose journal is full reads nothing, not even a ping, and whatever its clients send again has to wait too.
#[tokio::test]
async fn nothing_is_sent_again_to_a_server_that_says_that_it_is_there() {
    let fake = Fake::single(|seen| match seen.operation {
        Operation::Put => Action::Hold,
        Operation::Ping => Action::Ignore,
        _ => Action::Answer,
    })
    .await;
    let options = options().attempt_timeout(Duration::from_secs(2)).silence_timeout(Duration::from_secs(3));
    let client = Client::connect(fake.addresses(), options).await.unwrap();
    let put = tokio::spawn({
        let client = client.clone();
        async move { client.put("key", "value").await }
    });
    fake.until("the put arrives", |state| state.held.len() == 1).await;
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(6) {
        fake.keep_alive();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let held = fake.state().held.len();
    fake.release(std::mem::take);
    put.await.unwrap().unwrap();
    let connections: std::collections::BTreeSet<usize> = fake.state().seen.iter().map(|seen| seen.connection).collect();
    assert_eq!((held, connections.len()), (1, 1));
}

#[tokio::test]
async fn a_write_that_is_not_answered_in_time_has_an_unknown_outcome_and_a_read_has_not() {
    let fake = Fake::single(|_| Action::Answer).await;
    let client = fake.client().await;
    client.put("key", "opens the session").await.unwrap();
    fake.hook(|_| Action::Ignore);
    let client = client.with_request_timeout(Duration::from_millis(100));
    let mut error = client.put("key", "value").await.unwrap_err();
    let begin = Instant::now();
    while error.outcome() == Outcome::NotExecuted && begin.elapsed() < PATIENCE {
        // The machine was so busy that it was not even sent.
        error = client.put("key", "value").await.unwrap_err();
    }
    assert!(matches!(error, Error::Timeout { operation: Operation::Put, outcome: Outcome::Unknown, .. }), "{error}");
    let error = client.get("key").await.unwrap_err();
    assert!(
        matches!(error, Error::Timeout { operation: Operation::Get, outcome: Outcome::NotExecuted, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_write_that_waits_for_its_session_was_not_executed_when_time_is_up() {
    let fake = Fake::single(|_| Action::Ignore).await;
    let client = fake.client().await.with_request_timeout(Duration::from_millis(100));
    let error = client.put("key", "value").await.unwrap_err();
    assert!(matches!(error, Error::Timeout { outcome: Outcome::NotExecuted, .. }), "{error}");
    assert_eq!(fake.seen(Operation::Put), []);
}

#[tokio::test]
async fn requests_after_a_timeout_go_on_with_new_sequences() {
    let mut ignored = 3;
    let fake = Fake::single(move |seen| {
        if seen.operation == Operation::Put && ignored > 0 {
            ignored -= 1;
            return Action::Ignore;
        }
        Action::Answer
    })
    .await;
    fake.state().window = 2;
    let client = fake.client().await;
    let hasty = client.with_request_timeout(Duration::from_millis(50));
    let begin = Instant::now();
    let mut unknown = 0;
    while unknown < 3 && begin.elapsed() < PATIENCE {
        // On a busy machine one may not even be sent, and then it takes no sequence.
        unknown += usize::from(hasty.put("key", "old").await.unwrap_err().outcome() == Outcome::Unknown);
    }
    client.put("key", "new").await.unwrap();
    let sequences: Vec<u64> = fake.seen(Operation::Put).iter().map(|seen| seen.sequence).collect();
    assert_eq!(sequences, [1, 2, 3, 4]);
}

#[tokio::test]
async fn without_retries_a_lost_connection_is_an_error_that_says_what_is_known() {
    let fake = Fake::single(|_| Action::Answer).await;
    let client = Client::connect(fake.addresses(), options().retries_max(0)).await.unwrap();
    client.put("key", "value").await.unwrap();
    fake.hook(|_| Action::CarryOutAndClose);
    let error = client.put("key", "new").await.unwrap_err();
    assert!(
        matches!(&error, Error::Unavailable { cause, outcome: Outcome::Unknown }
        if matches!(cause.kind, FailureKind::Closed | FailureKind::Lost(_))),
        "{error}"
    );
    let error = client.get("key").await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { outcome: Outcome::NotExecuted, .. }), "{error}");
    fake.hook(|_| Action::Answer);
    assert_eq!(client.get("key").await.unwrap().unwrap().value, "new");
}

#[tokio::test]
async fn a_write_that_was_always_refused_was_not_executed() {
    let fake = Fake::single(|seen| match seen.operation {
        Operation::Put => Action::Refuse(Status::Busy),
        _ => Action::Answer,
    })
    .await;
    let client = Client::connect(fake.addresses(), options().retries_max(3)).await.unwrap();
    let error = client.put("key", "value").await.unwrap_err();
    assert!(
        matches!(&error, Error::Unavailable { cause, outcome: Outcome::NotExecuted }
        if matches!(cause.kind, FailureKind::Status(Status::Busy))),
        "{error}"
    );
    assert_eq!(fake.seen(Operation::Put).len(), 4);
}

#[tokio::test]
async fn when_the_retry_budget_is_spent_requests_fail_instead_of_being_repeated() {
    let fake = Fake::single(|_| Action::Refuse(Status::Busy)).await;
    let client = Client::connect(fake.addresses(), options().retry_budget(3)).await.unwrap();
    let error = client.get("key").await.unwrap_err();
    assert!(
        matches!(&error, Error::Unavailable { cause, .. } if matches!(cause.kind, FailureKind::RetryBudget(_))),
        "{error}"
    );
    assert_eq!(fake.seen(Operation::Get).len(), 4);
    // A first attempt costs nothing, and successes fill the budget again.
    fake.hook(|_| Action::Answer);
    for _ in 0..5 {
        client.get("key").await.unwrap();
    }
    let mut refusals = 1;
    fake.hook(move |_| {
        refusals -= 1;
        if refusals == 0 { Action::Refuse(Status::Busy) } else { Action::Answer }
    });
    client.get("key").await.unwrap();
}

#[tokio::test]
async fn a_first_attempt_under_a_forgotten_session_is_repeated_under_a_new_one() {
    let fake = Fake::single(|_| Action::Answer).await;
    let client = fake.client().await;
    client.put("key", "old").await.unwrap();
    fake.state().machine.sessions.clear();
    client.put("key", "new").await.unwrap();
    let puts = fake.seen(Operation::Put);
    assert_eq!(puts.len(), 3);
    assert_eq!(puts[0].session, puts[1].session);
    assert_ne!(puts[1].session, puts[2].session);
    assert_ne!(puts[1].sequence, puts[2].sequence);
    assert_eq!(fake.seen(Operation::Register).len(), 2);
}

#[tokio::test]
async fn many_first_attempts_under_a_forgotten_session_share_one_new_session() {
    let fake = Fake::single(|_| Action::Answer).await;
    let client = fake.client().await;
    client.put("key", "value").await.unwrap();
    fake.state().machine.sessions.clear();
    let mut puts = JoinSet::new();
    for number in 0..50 {
        let client = client.clone();
        puts.spawn(async move { client.put(format!("key-{number}"), "value").await });
    }
    assert!(puts.join_all().await.into_iter().all(|result| result.is_ok()));
    assert_eq!(fake.seen(Operation::Register).len(), 2);
}

#[tokio::test]
async fn a_repeated_write_under_a_forgotten_session_has_an_unknown_outcome() {
    let fake = Fake::single(|_| Action::Answer).await;
    let client = fake.client().await;
    client.put("key", "value").await.unwrap();
    fake.hook(first_put(Action::Hold));
    let lost = tokio::spawn({
        let client = client.clone();
        async move { client.put("key", "lost").await }
    });
    fake.until("the put is carried out", |state| state.held.len() == 1).await;
    fake.state().machine.sessions.clear();
    // A read closes the connection, and with it the answer to the put is gone.
    let mut is_closed = false;
    fake.hook(move |seen| {
        if seen.operation == Operation::Get && !std::mem::replace(&mut is_closed, true) {
            Action::Close
        } else {
            Action::Answer
        }
    });
    client.get("key").await.unwrap();
    let error = lost.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::SessionLost), "{error}");
    assert_eq!(error.outcome(), Outcome::Unknown);
    client.put("key", "next").await.unwrap();
}

#[tokio::test]
async fn a_stale_sequence_is_an_unknown_outcome_only_for_a_repeated_write() {
    let fake = Fake::single(first_put(Action::Refuse(Status::StaleSequence))).await;
    let client = fake.client().await;
    let error = client.put("key", "value").await.unwrap_err();
    assert!(matches!(error, Error::Refused { status: Status::StaleSequence, .. }), "{error}");
    assert_eq!(error.outcome(), Outcome::NotExecuted);

    let mut attempts = 0;
    fake.hook(move |seen| match seen.operation {
        Operation::Put => {
            attempts += 1;
            if attempts == 1 { Action::Close } else { Action::Refuse(Status::StaleSequence) }
        }
        _ => Action::Answer,
    });
    let error = client.put("key", "value").await.unwrap_err();
    assert!(matches!(error, Error::SessionLost), "{error}");
}

#[tokio::test]
async fn a_cancelled_write_is_not_repeated() {
    let fake = Fake::single(first_put(Action::Hold)).await;
    let client = fake.client().await;
    let put = tokio::spawn({
        let client = client.clone();
        async move { client.put("key", "value").await }
    });
    fake.until("the put arrives", |state| state.held.len() == 1).await;
    put.abort();
    let _ = put.await;
    let mut is_closed = false;
    fake.hook(move |_| if std::mem::replace(&mut is_closed, true) { Action::Answer } else { Action::Close });
    client.get("key").await.unwrap();
    client.put("other", "value").await.unwrap();
    assert_eq!(fake.seen(Operation::Put).iter().filter(|seen| seen.key == b"key").count(), 1);
}

/// Lets the connection that carries the first request swallow everything, and later ones be fine.
fn first_connection_is_silent() -> impl FnMut(&Seen) -> Action + Send + 'static {
    let mut silent = None;
    move |seen| if *silent.get_or_insert(seen.connection) == seen.connection { Action::Ignore } else { Action::Answer }
}

#[tokio::test]
async fn a_server_that_falls_silent_is_given_up() {
    let fake = Fake::single(first_connection_is_silent()).await;
    let options = options().silence_timeout(Duration::from_secs(1));
    let client = Client::connect(fake.addresses(), options).await.unwrap();
    assert!(client.get("key").await.unwrap().is_none());
    let silent = fake.state().seen[0].connection;
    assert_eq!(fake.seen(Operation::Ping).iter().filter(|ping| ping.connection == silent).count(), 1);
}

#[tokio::test]
async fn silence_is_noticed_although_every_request_is_given_up_long_before() {
    let fake = Fake::single(first_connection_is_silent()).await;
    let options = options().silence_timeout(Duration::from_millis(400));
    let client = Client::connect(fake.addresses(), options).await.unwrap();
    let hasty = client.with_request_timeout(Duration::from_millis(20));
    let answered = tokio::time::timeout(PATIENCE, async { while hasty.get("key").await.is_err() {} }).await;
    assert!(answered.is_ok());
}

#[tokio::test]
async fn a_server_that_is_slow_but_answers_pings_is_not_given_up() {
    let fake = Fake::single(|seen| if seen.operation == Operation::Get { Action::Hold } else { Action::Answer }).await;
    let options = options().silence_timeout(Duration::from_secs(1));
    let client = Client::connect(fake.addresses(), options).await.unwrap();
    let slow = tokio::spawn({
        let client = client.clone();
        async move { client.get("key").await }
    });
    fake.until("several pings are answered", |state| state.count(Operation::Ping) >= 4).await;
    fake.release(std::mem::take);
    assert!(slow.await.unwrap().unwrap().is_none());
    let connections: std::collections::BTreeSet<usize> = fake.state().seen.iter().map(|seen| seen.connection).collect();
    assert_eq!((fake.seen(Operation::Get).len(), connections.len()), (1, 1));
}
