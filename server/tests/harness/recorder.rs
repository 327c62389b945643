//! Clients that share keys while servers suffer, and note every question and every answer for the checker.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use lockstep_client::{Client, ClientOptions, Error, Moved, Outcome, Ttl};
use lockstep_sim::checker::{Answer, Call, CheckOptions, History, Report};
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::{DEADLINE, wait_for};

/// Keys that hold values, each written once only.
const REGISTERS: u32 = 6;
/// Keys that are counted up.
const COUNTERS: u32 = 4;
/// Keys that expire.
const LEASES: u32 = 2;
/// How long a client pauses between two questions: what is tested is order, not load.
const PAUSE: Duration = Duration::from_millis(2);

/// What the clients share.
struct Shared {
    addresses: Vec<String>,
    begun: Instant,
    history: Mutex<History>,
    answered: AtomicU64,
    is_over: AtomicBool,
    seed: u64,
}

/// Clients at work.
pub struct Recorder {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
    shards: u16,
}

fn options(request_timeout: Duration) -> ClientOptions {
    ClientOptions::new().request_timeout(request_timeout).retries_max(100_000).retry_budget(100_000)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

impl Recorder {
    /// Starts `clients` clients, each with a connection of its own. What they ask follows from `seed`.
    pub fn start(addresses: &str, shards: u16, clients: u32, seed: u64) -> Recorder {
        let shared = Arc::new(Shared {
            addresses: addresses.split(',').map(str::to_owned).collect(),
            begun: Instant::now(),
            history: Mutex::default(),
            answered: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            seed,
        });
        let thread = std::thread::spawn({
            let shared = shared.clone();
            move || {
                runtime().block_on(async {
                    let tasks: Vec<_> =
                        (0..clients).map(|client| tokio::spawn(ask_on(shared.clone(), client))).collect();
                    for task in tasks {
                        task.await.unwrap();
                    }
                });
            }
        });
        Recorder { shared, thread, shards }
    }

    /// Questions that have been answered.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Waits until this many more questions are answered.
    pub fn wait_for_more(&self, count: u64) {
        let target = self.answered() + count;
        wait_for("answers to clients", || (self.answered() >= target).then_some(()));
    }

    /// Lets every client finish, reads every key once more, and has the checker judge.
    ///
    /// # Panics
    ///
    /// With an explanation, if what the clients saw is not linearizable.
    pub fn finish(self) -> Report {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        runtime().block_on(async {
            let client = connect(&self.shared, DEADLINE).await;
            for key in (0..REGISTERS).map(register).chain((0..COUNTERS).map(counter)).chain((0..LEASES).map(lease)) {
                let asked = Asked::new(&self.shared, u32::MAX, &key, Call::Get);
                asked.note(client.get(&key).await.map(found));
            }
        });
        let history = self.shared.history.lock().unwrap();
        let options = CheckOptions { shards: self.shards, ..CheckOptions::default() };
        history.check(&options).unwrap_or_else(|failure| panic!("{failure}"))
    }
}

fn register(number: u32) -> String {
    format!("register-{number}")
}

fn counter(number: u32) -> String {
    format!("counter-{number}")
}

fn lease(number: u32) -> String {
    format!("lease-{number}")
}

async fn connect(shared: &Shared, request_timeout: Duration) -> Client {
    Client::connect(shared.addresses.clone(), options(DEADLINE)).await.unwrap().with_request_timeout(request_timeout)
}

/// Asks shard 0 for another primary, until none of the others happens to lag, and what comes of it is not that a later
/// view has the old one again.
///
/// # Panics
///
/// If it does not get one.
pub fn move_primary(addresses: &str) -> Moved {
    wait_for("the primary to move", || {
        let moved = runtime().block_on(async {
            let client = Client::connect(addresses.split(','), options(DEADLINE)).await.unwrap();
            client.move_primary(0, None).await
        });
        match moved {
            Err(Error::Refused { .. }) => None,
            moved => Some(moved.unwrap()).filter(|moved| moved.from != moved.to),
        }
    })
}

/// A question under way.
struct Asked<'a> {
    shared: &'a Shared,
    id: lockstep_sim::checker::OperationId,
}

/// An answer that owns its bytes.
enum Told {
    Found(lockstep_client::Entry),
    Other(Answer<'static>),
}

fn found(entry: Option<lockstep_client::Entry>) -> Told {
    entry.map_or(Told::Other(Answer::NotFound), Told::Found)
}

fn written(written: Option<lockstep_client::Written>) -> Told {
    Told::Other(written.map_or(Answer::NotFound, |written| Answer::Written { version: written.version }))
}

impl<'a> Asked<'a> {
    fn new(shared: &'a Shared, client: u32, key: &str, call: Call<'_>) -> Asked<'a> {
        // The lock is taken before the clock is read, so that times in the history are true.
        let mut history = shared.history.lock().unwrap();
        let id = history.invoke(client, shared.begun.elapsed().as_nanos() as u64, key.as_bytes(), call);
        Asked { shared, id }
    }

    fn note(self, told: Result<Told, Error>) {
        let end_ns = self.shared.begun.elapsed().as_nanos() as u64;
        let mut history = self.shared.history.lock().unwrap();
        let mut complete = |answer: Answer<'_>| history.complete(self.id, end_ns, answer);
        match &told {
            Ok(Told::Found(entry)) => complete(Answer::Found { value: &entry.value, version: entry.version }),
            Ok(Told::Other(answer)) => complete(*answer),
            Err(Error::VersionMismatch { current }) => complete(Answer::Mismatch { version: *current }),
            Err(Error::WrongType) => complete(Answer::NotANumber { version: 0 }),
            Err(error) if error.outcome() == Outcome::NotExecuted => complete(Answer::Refused),
            Err(_) => return,
        }
        self.shared.answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// Asks one thing after the other until it is over.
async fn ask_on(shared: Arc<Shared>, client: u32) {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(shared.seed ^ u64::from(client) << 32);
    // Some have no patience, so that there are unknown outcomes; the others wait out every outage.
    let patience = if client.is_multiple_of(4) { Duration::from_millis(100) } else { DEADLINE };
    let connection = connect(&shared, patience).await;
    let mut seen = vec![0; REGISTERS as usize];
    let mut number = 0;
    while !shared.is_over.load(Ordering::Relaxed) {
        number += 1;
        let value = format!("{client}-{number}");
        if random.random_ratio(1, 3) {
            count(&shared, &connection, client, &mut random).await;
        } else if random.random_ratio(1, 8) {
            hold(&shared, &connection, client, &value, &mut random).await;
        } else {
            let which = random.random_range(0..REGISTERS);
            write_or_read(&shared, &connection, client, which, &value, &mut seen[which as usize], &mut random).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn count(shared: &Shared, connection: &Client, client: u32, random: &mut Xoshiro256PlusPlus) {
    let key = counter(random.random_range(0..COUNTERS));
    if random.random_ratio(1, 4) {
        let asked = Asked::new(shared, client, &key, Call::Get);
        asked.note(connection.get(&key).await.map(found));
    } else {
        let asked = Asked::new(shared, client, &key, Call::Increment { delta: 1 });
        let sum = connection.increment(&key, 1).await;
        asked.note(sum.map(|sum| Told::Other(Answer::Summed { sum: sum.value, version: sum.version })));
    }
}

async fn hold(shared: &Shared, connection: &Client, client: u32, value: &str, random: &mut Xoshiro256PlusPlus) {
    let key = lease(random.random_range(0..LEASES));
    let ask = |call| Asked::new(shared, client, &key, call);
    let ttl_ms = random.random_range(10..2000);
    let ttl = Duration::from_millis(ttl_ms);
    match random.random_range(0..10) {
        0..4 => {
            let asked = ask(Call::Put { value: value.as_bytes(), ttl_ms: Some(ttl_ms) });
            asked.note(connection.put_with_ttl(&key, value, ttl).await.map(|done| written(Some(done))));
        }
        4 => ask(Call::Expire { ttl_ms: Some(ttl_ms) }).note(connection.expire(&key, Some(ttl)).await.map(written)),
        5 => ask(Call::Expire { ttl_ms: None }).note(connection.expire(&key, None).await.map(written)),
        6 => {
            let asked = ask(Call::TimeToLive);
            asked.note(connection.ttl(&key).await.map(|ttl| {
                Told::Other(match ttl {
                    Ttl::Missing => Answer::NotFound,
                    Ttl::Persistent => Answer::Persistent,
                    Ttl::Remaining(left) => Answer::Remaining { ms: left.as_millis() as u64 },
                })
            }));
        }
        _ => ask(Call::Get).note(connection.get(&key).await.map(found)),
    }
}

async fn write_or_read(
    shared: &Shared,
    connection: &Client,
    client: u32,
    which: u32,
    value: &str,
    seen: &mut u64,
    random: &mut Xoshiro256PlusPlus,
) {
    let key = register(which);
    let ask = |call| Asked::new(shared, client, &key, call);
    match random.random_range(0..20) {
        0..6 => {
            let asked = ask(Call::Put { value: value.as_bytes(), ttl_ms: None });
            asked.note(connection.put(&key, value).await.map(|done| written(Some(done))));
        }
        6..9 => {
            let asked = ask(Call::CompareAndSet { expected: *seen, value: value.as_bytes(), ttl_ms: None });
            let done = connection.compare_and_set(&key, *seen, value, None).await;
            asked.note(done.map(|done| written(Some(done))));
        }
        9 => ask(Call::Delete).note(connection.delete(&key).await.map(written)),
        10 => {
            let asked = ask(Call::Exists);
            let version = connection.version(&key).await;
            asked
                .note(version.map(|version| {
                    Told::Other(version.map_or(Answer::NotFound, |version| Answer::Exists { version }))
                }));
        }
        _ => {
            let asked = ask(Call::Get);
            let entry = connection.get(&key).await;
            if let Ok(entry) = &entry {
                *seen = entry.as_ref().map_or(0, |entry| entry.version);
            }
            asked.note(entry.map(found));
        }
    }
}
