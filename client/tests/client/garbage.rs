//! Servers that do not speak the protocol: an error that says so, another connection, never a panic.

use lockstep_client::{Client, Error, FailureKind, Outcome};
use lockstep_proto::{
    Operation, Status,
    hello::Answer,
    reply::{ReplyParts, encode_reply},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::fake::{Action, Fake, options};

fn frame(operation: Operation, status: Status, sequence: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_reply(&ReplyParts { status, operation, copies: 0, sequence, version: 0 }, body, &mut bytes);
    bytes
}

/// What a put is answered with that no server should send, and what the error says about it.
fn wrong_answers() -> Vec<(Vec<u8>, &'static str)> {
    let mut damaged = frame(Operation::Put, Status::Ok, 1, b"body");
    *damaged.last_mut().unwrap() ^= 1;
    let mut huge = frame(Operation::Put, Status::Ok, 1, b"");
    huge[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    vec![
        (vec![0xAA; 100], "beyond the bound"),
        (vec![0; 100], "smaller than its header"),
        (damaged, "checksum"),
        (huge, "beyond the bound"),
        (frame(Operation::Get, Status::Ok, 1, b""), "reply to Get where one to Put was due"),
        (frame(Operation::Put, Status::Ok, 77, b""), "reply to request 77, which was never sent"),
        (frame(Operation::Get, Status::Ok, u64::MAX, b""), "never sent"),
        (frame(Operation::Put, Status::Ok, 0, b""), "reply to request 0"),
        (frame(Operation::Ping, Status::BadRequest, 0, b"what is this?"), "malformed: what is this?"),
    ]
}

#[tokio::test]
async fn garbage_instead_of_an_answer_is_a_protocol_error_and_the_next_request_gets_a_new_connection() {
    for (bytes, message) in wrong_answers() {
        let fake = Fake::single(|_| Action::Answer).await;
        let client = Client::connect(fake.addresses(), options().retries_max(0)).await.unwrap();
        client.get("key").await.unwrap();
        fake.hook(move |seen| match seen.operation {
            Operation::Put => Action::CarryOutAndSend(bytes.clone()),
            _ => Action::Answer,
        });
        let error = client.put("key", "value").await.unwrap_err();
        assert!(matches!(error, Error::Protocol { outcome: Outcome::Unknown, .. }), "{error}");
        assert!(error.to_string().contains(message), "{error}, expected: {message}");
        assert_eq!(client.get("key").await.unwrap().unwrap().value, "value");
        let gets = fake.seen(Operation::Get);
        assert_ne!(gets[0].connection, gets[1].connection);
    }
}

#[tokio::test]
async fn a_write_that_is_answered_with_garbage_once_is_repeated_and_takes_effect_once() {
    for (bytes, _) in wrong_answers() {
        let fake = Fake::single(move |seen| match seen.operation {
            Operation::Put if seen.repeats == 0 => Action::CarryOutAndSend(bytes.clone()),
            _ => Action::Answer,
        })
        .await;
        let client = fake.client().await;
        client.put("key", "value").await.unwrap();
        assert_eq!((fake.seen(Operation::Put).len(), fake.state().machine.writes), (2, 1));
    }
}

#[tokio::test]
async fn noise_of_any_kind_does_no_lasting_harm() {
    let mut random = StdRng::seed_from_u64(7);
    let mut noise = vec![];
    let fake = Fake::single(move |seen| {
        if !random.random_bool(0.5) {
            return Action::Answer;
        }
        noise.clear();
        let size = random.random_range(0..200);
        noise.extend((0..size).map(|_| random.random::<u8>()));
        if random.random_bool(0.5) {
            // A frame that is sound, but not what is due.
            let status = Status::ALL[random.random_range(0..Status::ALL.len())];
            let operation = Operation::ALL[random.random_range(0..Operation::ALL.len())];
            let sequence = if random.random_bool(0.5) { seen.sequence } else { random.random_range(0..20) };
            return Action::CarryOutAndSend(frame(operation, status, sequence, &noise));
        }
        Action::CarryOutAndSend(noise.clone())
    })
    .await;
    // Noise that looks like the start of a huge reply is found out by the silence that follows.
    let [request, silence] = [40, 100].map(std::time::Duration::from_millis);
    let options = options().silence_timeout(silence).retries_max(3);
    let client = Client::connect(fake.addresses(), options).await.unwrap().with_request_timeout(request);
    for number in 0..150i64 {
        // Whatever the answer, there is one.
        let _ = client.increment("sum", number).await;
        let _ = client.get("sum").await;
        let _ = client.ttl("sum").await;
        let _ = client.multi_get(&["sum", "none"]).await;
        let _ = client.scan_page(Default::default(), 10, lockstep_client::ScanContent::Values).await;
    }
    fake.hook(|_| Action::Answer);
    let client = client.with_request_timeout(crate::fake::PATIENCE);
    client.put("key", "value").await.unwrap();
    assert_eq!(client.get("key").await.unwrap().unwrap().value, "value");
}

#[tokio::test]
async fn answers_with_a_body_of_the_wrong_shape_are_protocol_errors() {
    let fake = Fake::single(|seen| {
        let body = vec![0xAB; 5];
        Action::CarryOutAndSend(frame(seen.operation, Status::Ok, seen.sequence, &body))
    })
    .await;
    let client = fake.client().await;
    let errors = [
        client.ttl("key").await.map(|_| ()).unwrap_err(),
        client.multi_get(&["key"]).await.map(|_| ()).unwrap_err(),
        client.scan(lockstep_client::ScanContent::Values, 10).next().await.map(|_| ()).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::Protocol { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_scan_that_would_go_round_for_ever_is_a_protocol_error() {
    let fake =
        Fake::single(|seen| Action::CarryOutAndSend(frame(Operation::Scan, Status::Ok, seen.sequence, &[0; 24]))).await;
    let error = fake.client().await.scan(lockstep_client::ScanContent::Values, 10).next().await.unwrap_err();
    assert!(error.to_string().contains("does not move on"), "{error}");
}

#[tokio::test]
async fn a_server_of_another_kind_is_recognised_when_it_is_connected_to() {
    let fake = Fake::single(|_| Action::Answer).await;
    fake.state().topology_bytes = Some(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
    let error = Client::connect(fake.addresses(), options().retries_max(2)).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { outcome: Outcome::NotExecuted, .. }), "{error}");
    assert!(error.to_string().contains("not the Lockstep protocol"), "{error}");
}

#[tokio::test]
async fn a_server_that_refuses_the_hello_for_good_is_not_asked_again() {
    let fake = Fake::single(|_| Action::Answer).await;
    fake.state().refusal = Some(Answer::Version);
    let error = Client::connect(fake.addresses(), options()).await.unwrap_err();
    assert!(
        matches!(&error, Error::Unavailable { cause, .. }
        if matches!(cause.kind, FailureKind::Hello { answer: Answer::Version, .. })),
        "{error}"
    );
    assert!(error.to_string().contains("go away"), "{error}");
    assert_eq!(fake.state().connections, 1);
}

#[tokio::test]
async fn a_server_that_is_full_is_asked_again() {
    let fake = Fake::single(|_| Action::Answer).await;
    fake.state().refusal = Some(Answer::Full);
    let client = tokio::spawn({
        let addresses = fake.addresses();
        async move { Client::connect(addresses, options()).await }
    });
    fake.until("it is asked twice", |state| state.connections >= 2).await;
    fake.state().refusal = None;
    client.await.unwrap().unwrap().get("key").await.unwrap();
}
