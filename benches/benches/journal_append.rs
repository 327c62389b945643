//! Durable appends to a journal, as a shard makes them: a prepare is filled in a buffer of the pool, sealed, placed,
//! and written through io_uring past the page cache, synced. An iteration is one prepare, from its first byte until it
//! is durable.
//!
//! With several in flight, as many writes are with the disk at a time; then an iteration takes less than any one write.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lockstep_benches::requests::puts_in_order;
use lockstep_proto::{
    limits::SECTOR_SIZE,
    message::{Command, MessageHeader},
};
use lockstep_server::{
    buffers::Pool,
    journal::{
        file::DirectFile,
        folder::Identity,
        format::format_folder,
        lock::FolderLock,
        open::{Expected, open_folder},
        ring::JournalRing,
    },
    park,
    ring::{self, Sync},
    uring,
};
use tempfile::TempDir;
use zerocopy::{
    IntoBytes,
    little_endian::{U32, U64, U128},
};

/// Requests in a prepare.
const GROUPS: [u64; 4] = [1, 8, 64, 512];

/// Writes with the disk at the same time.
const IN_FLIGHT: [u64; 3] = [1, 4, 16];

const CLUSTER: u128 = 1;

/// Enough that the disk does not see the same sectors all the time.
const JOURNAL_SIZE: u64 = 64 << 20;

const POOL_IDLE_MAX: usize = 16 << 20;

/// A journal in a folder that goes with it.
struct Journal {
    ring: RefCell<JournalRing>,
    file: Rc<DirectFile>,
    pool: Pool,
    parent: Cell<u128>,
    _lock: FolderLock,
    // Declared last, so that the folder goes only when nothing in it is in use.
    _folder: TempDir,
}

impl Journal {
    fn format() -> anyhow::Result<Journal> {
        let build = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let folder = tempfile::Builder::new().prefix("journal-").tempdir_in(build).context("no temporary folder")?;
        let data = folder.path().join("data");
        let identity = Identity { cluster: CLUSTER, replica: 0, servers: 1, shards: 1 };
        format_folder(&data, &identity, JOURNAL_SIZE, &mut |_| {})?;
        let mut opened = open_folder(&data, &Expected::default())?;
        let shard = opened.shards.remove(0);
        if !shard.journal.is_direct() {
            eprintln!("note: {} knows no direct I/O: these are no latencies of a disk", build.display());
        }
        Ok(Journal {
            ring: RefCell::new(JournalRing::new(JOURNAL_SIZE, 0, 1)),
            file: Rc::new(shard.journal),
            pool: Pool::new(POOL_IDLE_MAX),
            parent: Cell::new(0),
            _lock: opened.lock,
            _folder: folder,
        })
    }

    /// Makes the next prepare out of `requests`, `count` frames, and waits until it is durable.
    async fn append(&self, requests: &[u8], count: u64) -> anyhow::Result<()> {
        let (header, message) = self.prepare(requests, count);
        let place = self.ring.borrow_mut().append(&header, message.len())?;
        ring::write_at(self.file.clone(), message, place.offset, Sync::Durable).await?;
        let ring = &mut *self.ring.borrow_mut();
        let durable_op = ring.complete(header.op.get());
        // As if a checkpoint covered it at once: the journal goes round and round and is never full.
        ring.release_below(durable_op + 1);
        Ok(())
    }

    fn prepare(&self, requests: &[u8], count: u64) -> (MessageHeader, Bytes) {
        let op = self.ring.borrow().last_op() + 1;
        let mut header = MessageHeader::new(Command::Prepare, CLUSTER, 0, 0, 0);
        header.parent = U128::new(self.parent.get());
        header.op = U64::new(op);
        header.commit = U64::new(op - 1);
        header.revision = U64::new(op * count);
        header.request_count = U32::new(count as u32);
        let len = MessageHeader::SIZE + requests.len();
        let padded = len.next_multiple_of(SECTOR_SIZE);
        let mut buffer = self.pool.take(padded);
        buffer[MessageHeader::SIZE..len].copy_from_slice(requests);
        buffer[len..padded].fill(0);
        header.seal(requests);
        buffer[..MessageHeader::SIZE].copy_from_slice(header.as_bytes());
        self.parent.set(header.checksum.get());
        (header, Pool::freeze(buffer, padded))
    }
}

/// Appends `prepares` prepares, at most `in_flight` at a time. Returns how long that took.
async fn append_all(journal: Rc<Journal>, requests: Rc<Group>, prepares: u64, in_flight: u64) -> Duration {
    let left = Rc::new(Cell::new(prepares));
    let start = Instant::now();
    let writers: Vec<_> = (0..in_flight.min(prepares))
        .map(|_| {
            let (journal, requests, left) = (journal.clone(), requests.clone(), left.clone());
            park::spawn(async move {
                while left.get() > 0 {
                    left.set(left.get() - 1);
                    journal.append(&requests.frames, requests.count).await.expect("the disk takes the write");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("a writer runs to its end");
    }
    start.elapsed()
}

/// What goes into each prepare.
struct Group {
    count: u64,
    frames: Vec<u8>,
}

/// Prepares to be appended.
struct Job {
    group: u64,
    prepares: u64,
    in_flight: u64,
}

/// A thread with a journal, and the one ring that all its appends go through: a ring stays for as long as the process
/// does, so one for each measurement would use up the process's descriptors.
struct Appender {
    jobs: Option<Sender<Job>>,
    times: Receiver<Duration>,
    thread: Option<JoinHandle<()>>,
}

impl Appender {
    fn start() -> Appender {
        let ((jobs, to_do), (done, times)) = (channel::<Job>(), channel());
        let run = move || async move {
            let journal = Rc::new(Journal::format().expect("a journal in the target folder"));
            // Nothing else runs on this thread, so it may as well wait for the next job without its ring.
            while let Ok(Job { group, prepares, in_flight }) = to_do.recv() {
                let requests = Rc::new(Group { count: group, frames: puts_in_order(group) });
                let time = append_all(journal.clone(), requests, prepares, in_flight).await;
                done.send(time).expect("the bench waits for it");
            }
        };
        let thread = std::thread::spawn(|| uring::start(Duration::ZERO, run()).expect("io_uring on this host"));
        Appender { jobs: Some(jobs), times, thread: Some(thread) }
    }

    fn append(&self, job: Job) -> Duration {
        self.jobs.as_ref().and_then(|jobs| jobs.send(job).ok()).expect("the appender runs");
        self.times.recv().expect("the appender runs")
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        self.jobs = None;
        // It has said itself why it failed, if it did.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn appends(criterion: &mut Criterion) {
    let mut benches = criterion.benchmark_group("journal_append");
    // Formatted by the first bench that the filter lets through.
    let mut appender = None;
    for group in GROUPS {
        benches.throughput(Throughput::Elements(group));
        for in_flight in IN_FLIGHT {
            let id = BenchmarkId::new(format!("requests={group}"), format!("in_flight={in_flight}"));
            benches.bench_function(id, |bencher| {
                let appender = appender.get_or_insert_with(Appender::start);
                bencher.iter_custom(|prepares| appender.append(Job { group, prepares, in_flight }));
            });
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = appends
}
criterion_main!(benches);
