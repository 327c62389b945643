//! What callers of the client library see while real servers take each other's place: latency, and no errors.

mod harness;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use harness::{Cluster, Spec, wait_for};
use lockstep_client::{Client, ClientOptions, Error};
use tokio::{runtime::Runtime, task::JoinSet};

/// Longer than any failover on a busy machine; everything else about the clients is as by default.
const REQUEST_TIMEOUT: Duration = harness::DEADLINE;
const CALLERS: i64 = 32;

/// Callers that share one client and increment one counter.
struct Callers {
    addresses: Vec<String>,
    acknowledged: Arc<AtomicI64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), Error>>,
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn connect(addresses: &[String]) -> Client {
    Client::connect(addresses.to_vec(), ClientOptions::new().request_timeout(REQUEST_TIMEOUT)).await.unwrap()
}

async fn call(client: Client, acknowledged: Arc<AtomicI64>, stop: Arc<AtomicBool>) -> Result<(), Error> {
    while !stop.load(Ordering::Relaxed) {
        client.increment("sum", 1).await?;
        acknowledged.fetch_add(1, Ordering::Relaxed);
        // A read may be repeated at will, and sees what was acknowledged before.
        client.get("sum").await?.expect("it was incremented");
    }
    Ok(())
}

impl Callers {
    fn start(cluster: &Cluster) -> Callers {
        let addresses: Vec<String> = cluster.addresses().split(',').map(str::to_owned).collect();
        let (acknowledged, stop) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (addresses, acknowledged, stop) = (addresses.clone(), acknowledged.clone(), stop.clone());
            move || {
                runtime().block_on(async {
                    let client = connect(&addresses).await;
                    let mut calls = JoinSet::new();
                    for _ in 0..CALLERS {
                        calls.spawn(call(client.clone(), acknowledged.clone(), stop.clone()));
                    }
                    calls.join_all().await.into_iter().collect()
                })
            }
        });
        Callers { addresses, acknowledged, stop, thread }
    }

    fn wait_for_more(&self, count: i64) {
        let target = self.acknowledged.load(Ordering::Relaxed) + count;
        wait_for("more increments", || {
            assert!(!self.thread.is_finished(), "a caller has seen an error");
            (self.acknowledged.load(Ordering::Relaxed) >= target).then_some(())
        });
    }

    /// Ends them; none may have seen an error, and the sum must be what they were told.
    fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap().unwrap();
        let sum = runtime().block_on(async { connect(&self.addresses).await.increment("sum", 0).await }).unwrap();
        assert_eq!(sum.value, self.acknowledged.load(Ordering::Relaxed));
    }
}

#[test]
fn callers_see_no_error_when_the_primary_is_killed() {
    let mut cluster = Cluster::start(Spec::of(3));
    let callers = Callers::start(&cluster);
    for _ in 0..3 {
        callers.wait_for_more(300);
        let victim = cluster.primary(0);
        cluster.kill(victim);
        callers.wait_for_more(300);
        cluster.start_server(victim);
        cluster.wait_until_healthy();
    }
    callers.finish();
    cluster.wait_for_equal_state();
}

#[test]
fn callers_see_no_error_when_the_primary_stands_still_and_goes_on_later() {
    let mut cluster = Cluster::start(Spec::of(3));
    let callers = Callers::start(&cluster);
    callers.wait_for_more(300);
    let victim = cluster.primary(0);
    cluster.signal(victim, "STOP");
    // Its connections stay open, and say nothing.
    callers.wait_for_more(300);
    cluster.signal(victim, "CONT");
    callers.wait_for_more(300);
    cluster.wait_until_healthy();
    callers.finish();
    cluster.wait_for_equal_state();
}

#[test]
fn the_primary_is_moved_under_load_and_callers_see_no_error() {
    let mut cluster = Cluster::start(Spec::of(3).patient());
    let callers = Callers::start(&cluster);
    for _ in 0..3 {
        callers.wait_for_more(300);
        let to = (cluster.primary(0) + 1) % 3;
        // A server that is not caught up at that moment is no reason to fail.
        let moved = wait_for("the primary to move", || {
            match runtime().block_on(async { connect(&callers.addresses).await.move_primary(0, Some(to)).await }) {
                Ok(moved) => Some(moved),
                Err(Error::Refused { .. }) => None,
                Err(error) => panic!("{error}"),
            }
        });
        assert_eq!(moved.to, to);
        callers.wait_for_more(300);
    }
    cluster.wait_until_healthy();
    callers.finish();
    cluster.wait_for_equal_state();
}
