//! The journal fills up faster than checkpoints make room: writes wait, and go on.

mod harness;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use harness::{Cluster, Spec, scratch_folder, wait_for};
use lockstep_client::{Client, ClientOptions};

/// The write that waited for room in the journal stood in front of the superblock write that would have made the room.
#[test]
fn a_checkpoint_makes_room_while_writes_wait_for_it() {
    let cluster = Cluster::start(Spec::of(1));
    let writers = Writers::start(&cluster, Writes { clients: 16, keys_per_client: 1, value_size: 768 << 10 });
    // Each makes room for a half of the journal, and the clients ask for more at once.
    wait_for("checkpoints", || (checkpoint_lines(&cluster, 0, "checkpoint complete") >= 6).then_some(()));
    writers.finish().check(&cluster);
}

/// A primary whose journal is full may have applied what waits for room there, because the backups have committed it;
/// so its next checkpoint is ahead of its journal. Waiting until the journal has caught up would be waiting for the
/// room that this very checkpoint makes.
#[test]
fn a_full_journal_begins_anew_behind_a_checkpoint_that_is_ahead_of_it() {
    // The journals of the backups have room when that of the primary has none, and it does not give way because of
    // that.
    let tuning =
        ["--batch-max-ops=1", "--pipeline=64", "--checkpoint-every=1", "--stall-timeout=5m", "--view-timeout=30s"];
    let mut cluster = Cluster::format(Spec { journal_size: "128MiB".to_string(), ..Spec::of(3).with(&tuning) });
    let folder = tempfile::Builder::new().prefix("lockstep-test-").tempdir_in(scratch_folder()).unwrap();
    cluster.spec.journal_size = "16MiB".to_string();
    cluster.move_folder(0, folder.path().join("server-0"));
    cluster.start_all();
    // What clients have on its way fills the journal at once.
    let writes = Writes { clients: 80, keys_per_client: 2, value_size: 256 << 10 };
    let writers = Writers::start(&cluster, writes);
    wait_for("as many keys as there will be", || {
        let keys = cluster.status(0, 0)?["keys"].as_u64()?;
        (keys == writes.clients as u64 * writes.keys_per_client).then_some(())
    });
    writers.finish().check(&cluster);
    let is_ahead = || checkpoint_lines(&cluster, 0, "begins anew behind a checkpoint that is ahead of it") > 0;
    let written = loop {
        // The second of these finds hardly anything in the journal, which is full before all of the state is written.
        // So it makes room for little of what waits, and when the next one is cut what goes on waiting has been
        // applied.
        begin_checkpoint(&cluster);
        begin_checkpoint(&cluster);
        let complete = checkpoint_lines(&cluster, 0, "checkpoint complete");
        let writers = Writers::start(&cluster, writes);
        wait_for("the checkpoint after it", || {
            let is_over = checkpoint_lines(&cluster, 0, "checkpoint complete") > complete + 2;
            (is_over || is_ahead()).then_some(())
        });
        let written = writers.finish();
        if is_ahead() {
            break written;
        }
    };
    written.check(&cluster);
    // What it had in its journal is gone, and the checkpoint has taken its place.
    cluster.kill(0);
    written.check(&cluster);
    cluster.start_server(0);
    cluster.wait_until_healthy();
    cluster.wait_for_equal_state();
}

/// Writes small values, one after the other, until one of them begins a checkpoint of the primary.
fn begin_checkpoint(cluster: &Cluster) {
    wait_for("the end of the checkpoint before", || (!is_checkpoint_active(cluster)).then_some(()));
    runtime().block_on(async {
        let client = connect(&cluster.addresses()).await;
        while !is_checkpoint_active(cluster) {
            client.put("small", "value").await.unwrap();
        }
    });
}

fn is_checkpoint_active(cluster: &Cluster) -> bool {
    cluster.metric(0, "lockstep_checkpoint_active", &[]).expect("the server runs") > 0.0
}

fn checkpoint_lines(cluster: &Cluster, server: u8, text: &str) -> usize {
    cluster.log(server).lines().filter(|line| line.contains(text)).count()
}

/// What clients write, each to keys of its own, one value after the other.
#[derive(Clone, Copy)]
struct Writes {
    clients: usize,
    keys_per_client: u64,
    value_size: usize,
}

/// Clients at work.
struct Writers {
    writes: Writes,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<u64>>,
}

/// What clients have written: how many values each.
struct Written {
    writes: Writes,
    counts: Vec<u64>,
}

impl Writers {
    fn start(cluster: &Cluster, writes: Writes) -> Writers {
        let (addresses, stop) = (cluster.addresses(), Arc::new(AtomicBool::new(false)));
        let is_over = stop.clone();
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                let writers: Vec<_> = (0..writes.clients)
                    .map(|index| tokio::spawn(write(addresses.clone(), writes, index, is_over.clone())))
                    .collect();
                let mut counts = Vec::new();
                for writer in writers {
                    counts.push(writer.await.unwrap());
                }
                counts
            })
        });
        Writers { writes, stop, thread }
    }

    /// Lets every client finish its write.
    fn finish(self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        Written { writes: self.writes, counts: self.thread.join().unwrap() }
    }
}

impl Written {
    /// Every client's last values are there.
    fn check(&self, cluster: &Cluster) {
        runtime().block_on(async {
            let client = connect(&cluster.addresses()).await;
            for (index, &count) in self.counts.iter().enumerate() {
                for number in count.saturating_sub(self.writes.keys_per_client) + 1..=count {
                    let key = self.writes.key(index, number);
                    let entry = client.get(key.clone()).await.unwrap().expect("it was written");
                    assert!(entry.value == self.writes.value(number), "{key} is not the {number}. value of its client");
                }
            }
        });
    }
}

impl Writes {
    fn key(&self, client: usize, number: u64) -> String {
        format!("key-{client}-{}", number % self.keys_per_client)
    }

    fn value(&self, number: u64) -> Vec<u8> {
        number.to_le_bytes().repeat(self.value_size / size_of::<u64>())
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn connect(addresses: &str) -> Client {
    let options = ClientOptions::new().request_timeout(harness::DEADLINE);
    Client::connect(addresses.split(','), options).await.unwrap()
}

async fn write(addresses: String, writes: Writes, index: usize, is_over: Arc<AtomicBool>) -> u64 {
    let client = connect(&addresses).await;
    let mut number = 0;
    while !is_over.load(Ordering::Relaxed) {
        number += 1;
        let put = client.put(writes.key(index, number), writes.value(number));
        put.await.expect("there is room again, sooner or later");
    }
    number
}
