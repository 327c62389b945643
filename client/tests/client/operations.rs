//! Each operation, there and back.

use std::{collections::BTreeSet, time::Duration};

use lockstep_client::{Client, Error, Outcome, ScanContent, ScanCursor, Ttl};
use lockstep_proto::{
    Operation, Status,
    limits::{ITEMS_MAX, KEY_SIZE_MAX, VALUE_SIZE_MAX},
};

use crate::fake::{Action, Fake};

async fn start() -> (Fake, Client) {
    let fake = Fake::start(1, 3).await;
    let client = fake.client().await;
    (fake, client)
}

#[tokio::test]
async fn a_key_is_written_read_and_removed() {
    let (_fake, client) = start().await;
    assert_eq!(client.get("key").await.unwrap(), None);
    assert!(!client.exists("key").await.unwrap());
    let written = client.put("key", b"\x00\xff".as_slice()).await.unwrap();
    let entry = client.get("key").await.unwrap().unwrap();
    assert_eq!((&entry.value[..], entry.version), (&b"\x00\xff"[..], written.version));
    assert_eq!(client.version("key").await.unwrap(), Some(written.version));
    assert!(client.exists("key").await.unwrap());
    assert!(client.delete("key").await.unwrap().is_some());
    assert_eq!(client.delete("key").await.unwrap(), None);
    assert_eq!(client.get("key").await.unwrap(), None);
}

#[tokio::test]
async fn an_empty_value_is_a_value() {
    let (_fake, client) = start().await;
    client.put("key", "").await.unwrap();
    assert_eq!(client.get("key").await.unwrap().unwrap().value, "");
}

#[tokio::test]
async fn compare_and_set_tells_the_present_version() {
    let (_fake, client) = start().await;
    let first = client.compare_and_set("key", 0, "one", None).await.unwrap();
    let error = client.compare_and_set("key", 0, "two", None).await.unwrap_err();
    assert!(matches!(error, Error::VersionMismatch { current } if current == first.version), "{error}");
    assert_eq!(error.outcome(), Outcome::NotExecuted);
    client.compare_and_set("key", first.version, "two", Some(Duration::from_secs(9))).await.unwrap();
    assert_eq!(client.get("key").await.unwrap().unwrap().value, "two");
    assert_eq!(client.ttl("key").await.unwrap(), Ttl::Remaining(Duration::from_secs(9)));
}

#[tokio::test]
async fn increments_count_and_other_values_do_not() {
    let (_fake, client) = start().await;
    assert_eq!(client.increment("sum", 5).await.unwrap().value, 5);
    assert_eq!(client.increment("sum", -7).await.unwrap().value, -2);
    client.put("text", "abc").await.unwrap();
    assert!(matches!(client.increment("text", 1).await.unwrap_err(), Error::WrongType));
    client.put("large", i64::MAX.to_string()).await.unwrap();
    assert!(matches!(client.increment("large", 1).await.unwrap_err(), Error::WrongType));
}

#[tokio::test]
async fn times_to_live_are_given_read_and_taken_away() {
    let (_fake, client) = start().await;
    assert_eq!(client.ttl("key").await.unwrap(), Ttl::Missing);
    assert_eq!(client.expire("key", None).await.unwrap(), None);
    client.put_with_ttl("key", "value", Duration::from_millis(1500)).await.unwrap();
    assert_eq!(client.ttl("key").await.unwrap(), Ttl::Remaining(Duration::from_millis(1500)));
    client.expire("key", Some(Duration::from_secs(60))).await.unwrap().unwrap();
    assert_eq!(client.ttl("key").await.unwrap(), Ttl::Remaining(Duration::from_secs(60)));
    client.expire("key", None).await.unwrap().unwrap();
    assert_eq!(client.ttl("key").await.unwrap(), Ttl::Persistent);
}

#[tokio::test]
async fn a_multi_get_spans_shards_and_keeps_the_order() {
    let (fake, client) = start().await;
    let keys: Vec<String> = (0..60).map(|number| format!("key-{number}")).collect();
    for key in keys.iter().step_by(2) {
        client.put(key, key).await.unwrap();
    }
    let entries = client.multi_get(&keys).await.unwrap();
    for (number, (key, entry)) in keys.iter().zip(entries).enumerate() {
        assert_eq!(entry.map(|entry| entry.value), (number % 2 == 0).then(|| key.clone().into()));
    }
    assert_eq!(fake.seen(Operation::MultiGet).len(), 3);
    assert_eq!(client.multi_get::<&str>(&[]).await.unwrap(), []);
}

#[tokio::test]
async fn a_multi_get_whose_values_do_not_fit_one_reply_is_split() {
    let (fake, client) = start().await;
    let keys: Vec<String> = (0..20).map(|number| format!("{{tag}}-{number}")).collect();
    for key in &keys {
        client.put(key, key).await.unwrap();
    }
    fake.hook(|seen| if seen.items > 3 { Action::Refuse(Status::BadRequest) } else { Action::Answer });
    let entries = client.multi_get(&keys).await.unwrap();
    assert!(keys.iter().zip(entries).all(|(key, entry)| entry.unwrap().value == key.as_str()));
    fake.hook(|_| Action::Refuse(Status::BadRequest));
    let error = client.multi_get(&keys).await.unwrap_err();
    assert!(matches!(error, Error::Refused { status: Status::BadRequest, .. }), "{error}");
}

#[tokio::test]
async fn a_multi_put_stays_within_a_shard_and_the_error_names_the_remedy() {
    let (fake, client) = start().await;
    let written = client.multi_put(&[("{7}a", "1"), ("{7}b", "2")], None).await.unwrap();
    assert_eq!(client.get("{7}b").await.unwrap().unwrap().version, written.version);
    client.multi_put(&[("{7}a", "1")], Some(Duration::from_secs(3))).await.unwrap();
    assert_eq!(client.ttl("{7}a").await.unwrap(), Ttl::Remaining(Duration::from_secs(3)));

    let before = fake.seen(Operation::MultiPut).len();
    let error = client.multi_put(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")], None).await.unwrap_err();
    assert!(matches!(error, Error::CrossShard { .. }), "{error}");
    assert!(error.to_string().contains("hash tag"), "{error}");
    let none: [(&str, &str); 0] = [];
    assert!(matches!(client.multi_put(&none, None).await.unwrap_err(), Error::InvalidArgument(_)));
    assert_eq!(fake.seen(Operation::MultiPut).len(), before);
}

#[tokio::test]
async fn what_is_beyond_the_bounds_is_refused_before_it_is_sent() {
    let (fake, client) = start().await;
    let (key, value) = (vec![b'k'; KEY_SIZE_MAX], vec![b'v'; VALUE_SIZE_MAX]);
    client.put(&key, &value).await.unwrap();
    assert_eq!(client.get(&key).await.unwrap().unwrap().value, value);
    let before = fake.state().seen.len();
    let (long_key, long_value) = (vec![b'k'; KEY_SIZE_MAX + 1], vec![b'v'; VALUE_SIZE_MAX + 1]);
    let too_large = [
        client.get(&long_key).await.map(|_| ()).unwrap_err(),
        client.put("key", &long_value).await.map(|_| ()).unwrap_err(),
        client.compare_and_set("key", 0, &long_value, None).await.map(|_| ()).unwrap_err(),
        client.multi_put(&[("{7}a", &value), ("{7}b", &value)], None).await.map(|_| ()).unwrap_err(),
        client.multi_put(&vec![("{7}a", "1"); ITEMS_MAX + 1], None).await.map(|_| ()).unwrap_err(),
    ];
    for error in too_large {
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    }
    let invalid = [
        client.get("").await.map(|_| ()).unwrap_err(),
        client.put("", "value").await.map(|_| ()).unwrap_err(),
        client.multi_get(&["key", ""]).await.map(|_| ()).unwrap_err(),
        client.put_with_ttl("key", "value", Duration::from_micros(999)).await.map(|_| ()).unwrap_err(),
        client.put_with_ttl("key", "value", Duration::MAX).await.map(|_| ()).unwrap_err(),
        client.expire("key", Some(Duration::ZERO)).await.map(|_| ()).unwrap_err(),
        client.scan_page(ScanCursor::start(), 0, ScanContent::Values).await.map(|_| ()).unwrap_err(),
        client.scan_page(ScanCursor::of_shard(3), 1, ScanContent::Values).await.map(|_| ()).unwrap_err(),
        client.ping_shard(3).await.map(|_| ()).unwrap_err(),
    ];
    for error in invalid {
        assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
    }
    assert_eq!(fake.state().seen.len(), before);
}

#[tokio::test]
async fn a_large_multi_get_is_sent_in_pieces_that_fit() {
    let (fake, client) = start().await;
    let keys: Vec<Vec<u8>> = (0..40u8).map(|number| [&b"{7}"[..], &[number; 50_000]].concat()).collect();
    client.put(&keys[39], "last").await.unwrap();
    let entries = client.multi_get(&keys).await.unwrap();
    assert_eq!(entries.len(), 40);
    assert_eq!(entries[39].as_ref().unwrap().value, "last");
    assert!(fake.seen(Operation::MultiGet).len() > 1);
}

#[tokio::test]
async fn a_scan_sees_every_key_of_every_shard_once() {
    let (_fake, client) = start().await;
    let keys: BTreeSet<String> = (0..100).map(|number| format!("key-{number}")).collect();
    for key in &keys {
        client.put(key, format!("value of {key}")).await.unwrap();
    }
    for page_size in [1, 7, 1000] {
        let mut scan = client.scan(ScanContent::Values, page_size);
        let mut found = Vec::new();
        while let Some(entry) = scan.next().await.unwrap() {
            let key = String::from_utf8(entry.key.to_vec()).unwrap();
            assert_eq!(entry.value, format!("value of {key}"));
            found.push(key);
        }
        assert_eq!(found.len(), 100);
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), keys);
        assert!(scan.next().await.unwrap().is_none());
    }
    let entry = client.scan(ScanContent::KeysOnly, 10).next().await.unwrap().unwrap();
    assert_eq!(entry.value, "");
    assert!(entry.version > 0);
}

#[tokio::test]
async fn status_asks_every_server_and_shows_those_that_do_not_answer() {
    let mut fake = Fake::start(3, 2).await;
    let client = fake.client().await;
    fake.stop(2).await;
    let lines = client.status().await;
    assert_eq!(
        lines.iter().map(|line| (line.shard, line.server)).collect::<Vec<_>>(),
        [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    );
    let primary = lines[0].replica.as_ref().unwrap();
    assert_eq!((primary.role, primary.op), (lockstep_client::ReplicaRole::Primary, 70));
    assert_eq!(primary.in_sync, [0, 1]);
    assert_eq!(primary.peers[2].lag, 20);
    assert!(lines[2].replica.is_none());
    assert!(lines[2].error.as_ref().unwrap().contains("cannot connect"));
}

#[tokio::test]
async fn pings_are_timed() {
    let (fake, client) = start().await;
    assert!(client.ping().await.unwrap() > Duration::ZERO);
    client.ping_shard(2).await.unwrap();
    assert_eq!(fake.seen(Operation::Ping).len(), 2);
}

#[tokio::test]
async fn the_handle_and_its_futures_can_go_anywhere() {
    fn goes_anywhere<T: Send + Sync + Clone + 'static>(_: &T) {}
    fn can_be_spawned<T: Send>(_: &T) {}
    let (_fake, client) = start().await;
    goes_anywhere(&client);
    can_be_spawned(&client.put("key", "value"));
    can_be_spawned(&client.multi_get(&["key"]));
    can_be_spawned(&client.status());
    let other = client.clone();
    let from_another_runtime = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(other.put("key", "value"))
    });
    from_another_runtime.await.unwrap().unwrap();
}
