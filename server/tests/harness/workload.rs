//! Clients that write while servers are being killed, and remember what was acknowledged.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use lockstep_client::{Client, ClientOptions};

use super::{DEADLINE, wait_for};

/// What one client knows.
#[derive(Debug, Default)]
pub struct History {
    /// Increments that were acknowledged.
    pub increments: i64,
    /// Increments that may or may not have been carried out.
    pub increments_unknown: i64,
    /// Numbered puts that were acknowledged.
    pub puts: Vec<u64>,
}

/// Clients that are at work.
pub struct Workload {
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<History>>,
}

fn options() -> ClientOptions {
    // Longer than any outage in a test.
    ClientOptions::new().request_timeout(DEADLINE).retries_max(100_000).retry_budget(100_000)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn connect(addresses: &str) -> Client {
    Client::connect(addresses.split(','), options()).await.unwrap()
}

impl Workload {
    /// Starts `clients` clients, each with a connection of its own.
    pub fn start(addresses: &str, clients: usize) -> Workload {
        let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (addresses, acknowledged, stop) = (addresses.to_string(), acknowledged.clone(), stop.clone());
            move || {
                runtime().block_on(async {
                    let tasks: Vec<_> = (0..clients)
                        .map(|index| tokio::spawn(write(addresses.clone(), index, acknowledged.clone(), stop.clone())))
                        .collect();
                    let mut histories = Vec::new();
                    for task in tasks {
                        histories.push(task.await.unwrap());
                    }
                    histories
                })
            }
        });
        Workload { acknowledged, stop, thread }
    }

    /// Requests acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until this many more requests are acknowledged.
    pub fn wait_for_more(&self, count: u64) {
        let target = self.acknowledged() + count;
        wait_for("more acknowledged writes", || (self.acknowledged() >= target).then_some(()));
    }

    /// Lets every client finish its request, and returns what they know.
    pub fn finish(self) -> Vec<History> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

async fn write(addresses: String, index: usize, acknowledged: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> History {
    let client = connect(&addresses).await;
    let mut history = History::default();
    let counter = format!("counter-{index}");
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        match client.increment(&counter, 1).await {
            Ok(_) => history.increments += 1,
            Err(_) => history.increments_unknown += 1,
        }
        if client.put(format!("key-{index}-{number}"), format!("value-{number}")).await.is_ok() {
            history.puts.push(number);
        }
        acknowledged.fetch_add(2, Ordering::Relaxed);
    }
    history
}

/// Reads everything back.
///
/// # Panics
///
/// If something acknowledged is missing or was carried out twice.
pub fn audit(addresses: &str, histories: &[History]) {
    runtime().block_on(async {
        let client = connect(addresses).await;
        for (index, history) in histories.iter().enumerate() {
            let entry = client.get(format!("counter-{index}")).await.unwrap();
            let counter: i64 = entry.map_or(0, |entry| std::str::from_utf8(&entry.value).unwrap().parse().unwrap());
            let possible = history.increments..=history.increments + history.increments_unknown;
            assert!(possible.contains(&counter), "counter {index} is {counter}, not in {possible:?}");
            for numbers in history.puts.chunks(500) {
                let keys: Vec<String> = numbers.iter().map(|number| format!("key-{index}-{number}")).collect();
                let entries = client.multi_get(&keys).await.unwrap();
                for (number, entry) in numbers.iter().zip(entries) {
                    let entry = entry.unwrap_or_else(|| panic!("acknowledged key-{index}-{number} is lost"));
                    assert_eq!(&entry.value[..], format!("value-{number}").as_bytes());
                }
            }
        }
    });
}

/// One put, with the result that the caller's time allows.
pub fn put_within(addresses: &str, key: &str, value: &str, timeout: Duration) -> Result<(), lockstep_client::Error> {
    runtime().block_on(async {
        let client = Client::connect(addresses.split(','), options()).await?.with_request_timeout(timeout);
        client.put(key, value).await.map(|_| ())
    })
}

/// One get.
pub fn get(addresses: &str, key: &str) -> Option<Vec<u8>> {
    runtime().block_on(async {
        let entry = connect(addresses).await.get(key).await.unwrap();
        entry.map(|entry| entry.value.to_vec())
    })
}
