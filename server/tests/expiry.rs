//! Keys that have expired go away by themselves, and on every server alike.

mod harness;
#[path = "redis/talk.rs"]
#[allow(dead_code, reason = "made for another test")]
mod talk;
#[path = "redis/wire.rs"]
#[allow(dead_code, reason = "made for another test")]
mod wire;

use harness::{Spec, wait_for};
use talk::{ask, client, pipeline, start};

/// They stayed until the next write, which took eighteen of them with it.
#[test]
fn expired_keys_go_although_nobody_writes() {
    const KEYS: u32 = 5000;
    let (cluster, id) = start(Spec::of(3).patient());
    let mut connection = client(&cluster, id);
    let sets: Vec<String> = (0..KEYS).map(|index| format!("set key{index} value px 300")).collect();
    assert!(pipeline(&mut connection, &sets).iter().all(|reply| reply == "+OK"));
    assert_eq!(pipeline(&mut connection, &["set stays value", "set later value ex 1000"]), ["+OK", "+OK"]);
    wait_for("the expired keys to be gone from all servers", || {
        let keys = |id| cluster.status(id, 0).and_then(|status| status["keys"].as_u64());
        (0..3).all(|id| keys(id) == Some(2)).then_some(())
    });
    assert_eq!(ask(&mut connection, "dbsize"), ":2");
    assert_eq!(pipeline(&mut connection, &["ttl stays", "ttl gone"]), [":-1", ":-2"]);
    cluster.wait_for_equal_state();
    let mut op = || cluster.status(id, 0).and_then(|status| status["op"].as_u64());
    let before = wait_for("a status", &mut op);
    assert_eq!(ask(&mut connection, "get stays"), "$\"value\"");
    assert_eq!(wait_for("a status", &mut op), before, "nothing is logged when nothing has expired");
}
