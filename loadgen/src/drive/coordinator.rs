//! Starts the generating threads together, and collects while they work.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::engine::{Engine, Tally};
use super::handshake::Finder;
use super::ledger::Ledger;
use super::resp::Access;
use super::source::Source;
use super::{DriveContext, DriveError, Pacing, RunSpec, StopFlag, ring, slice, worker};
use crate::record::{EventLog, Recorder, RunRecord, Window, channel as record_channel};

/// How long the first connections may take to come about, and no longer than a request: a cluster that was just started
/// agrees on its view first.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// Threads begin together this long after the last one is ready.
const START_DELAY: Duration = Duration::from_millis(2);

/// What the threads of a run say beside the record.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    pub(super) tally: Tally,
    /// CPU time of the generating threads while requests were being sent, user and kernel, in nanoseconds.
    pub(super) cpu_ns: u64,
}

/// What ends a run before its plan does.
#[derive(Debug, Clone, Default)]
pub(super) struct Flags {
    /// At once: what is in flight is recorded as unknown.
    pub(super) stop: StopFlag,
    /// In good order: nothing more is asked for, and what is in flight is waited for.
    pub(super) finish: StopFlag,
}

/// Where the requests of a run come from.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// What the spec says.
    Planned,
    /// A read of every key with an acknowledged write.
    Audit,
}

/// What one thread needs.
struct Job {
    spec: Arc<RunSpec>,
    kind: Kind,
    ledger: Option<Arc<Ledger>>,
    thread: usize,
    threads: usize,
    recorder: Recorder,
    events: EventLog,
    flags: Flags,
    ready: Sender<Result<(), DriveError>>,
    start: Receiver<Instant>,
}

/// Runs `spec` on as many threads as it says.
///
/// # Errors
///
/// When a thread could not set up its ring or its connections.
pub(super) fn conduct(
    spec: &RunSpec,
    kind: Kind,
    ledger: Option<Arc<Ledger>>,
    window: Window,
    context: &mut DriveContext<'_>,
) -> Result<(RunRecord, Totals), DriveError> {
    let threads = spec.threads.min(spec.connections);
    let (recorders, collector) = record_channel(window, threads);
    let (ready, readiness) = channel();
    let spec = Arc::new(spec.clone());
    let mut starts = Vec::with_capacity(threads);
    let mut handles: Vec<JoinHandle<Totals>> = Vec::with_capacity(threads);
    for (thread, recorder) in recorders.into_iter().enumerate() {
        let (start_sender, start) = channel();
        starts.push(start_sender);
        let job = Job {
            spec: spec.clone(),
            kind: kind.clone(),
            ledger: ledger.clone(),
            thread,
            threads,
            recorder,
            events: context.events.clone(),
            flags: Flags { stop: context.stop.clone(), finish: context.finish.clone() },
            ready: ready.clone(),
            start,
        };
        let handle = Builder::new().name(format!("generator-{thread}")).spawn(move || job.run());
        handles.push(handle.map_err(|error| DriveError::Refused(format!("cannot start a thread: {error}")))?);
    }
    drop(ready);
    // A thread that fails says so and ends; the others end when their start channels are dropped with `starts`.
    for _ in 0..threads {
        readiness.recv().expect("every thread reports once")?;
    }
    let started = Instant::now() + START_DELAY;
    for start in starts {
        start.send(started).expect("a thread that is ready waits for its start");
    }
    if matches!(kind, Kind::Planned) {
        let opens = started + Duration::from_nanos(window.start_ns);
        context.events.count_from(opens);
        if let Some(opening) = &context.opening {
            // Whoever wanted to know may have gone away.
            let _ = opening.send(opens);
        }
    }
    let watch = &mut *context.watch;
    let mut record = collector.run(started, context.processes, |row| watch(row));
    record.events = context.events.snapshot();
    let mut totals = Totals::default();
    for handle in handles {
        let thread = handle.join().expect("a generating thread does not panic");
        totals.cpu_ns += thread.cpu_ns;
        totals.tally.ended += thread.tally.ended;
        totals.tally.resent += thread.tally.resent;
        totals.tally.lost_connections += thread.tally.lost_connections;
    }
    Ok((record, totals))
}

impl Job {
    fn run(self) -> Totals {
        if matches!(self.spec.pacing, Pacing::Rate(_)) {
            slice::ask_for_short_slices();
        }
        let runtime = match ring::runtime() {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = self.ready.send(Err(no_ring(&error)));
                return Totals::default();
            }
        };
        runtime.block_on(self.run_on_ring())
    }

    async fn run_on_ring(self) -> Totals {
        let groups = share(self.spec.connections, self.thread, self.threads);
        let lanes = groups * usize::from(self.spec.shards);
        let finder = Finder::new(self.spec.servers.clone());
        let patience = CONNECT_PATIENCE.min(self.spec.timeout);
        let opened = match worker::open_all(&finder, lanes, &self.spec, patience).await {
            Ok(opened) => opened,
            Err((address, error)) => {
                let hint = if error.is_final() { "" } else { "; is the server running and serving?" };
                let _ = self.ready.send(Err(DriveError::Connect { address, reason: format!("{error}{hint}") }));
                return Totals::default();
            }
        };
        let source = match (&self.kind, &self.ledger) {
            (Kind::Audit, Some(ledger)) => Source::audit(ledger, self.thread, self.threads),
            (_, ledger) => {
                let counter_tag = ledger.as_ref().map_or(0, |ledger| ledger.counter_tag());
                Source::of(&self.spec, counter_tag, self.thread, self.threads)
            }
        };
        let place = (self.thread, self.threads);
        let is_audit = matches!(self.kind, Kind::Audit);
        let mut engine = Engine::new(&self.spec, source, self.recorder, self.ledger, self.events, place, groups);
        engine.bounds.is_audit = is_audit;
        let _ = self.ready.send(Ok(()));
        // Nothing else happens on this thread's ring yet, so it may wait here.
        let Ok(started) = self.start.recv() else { return Totals::default() };
        let before_ns = thread_cpu_ns();
        let tally = worker::run(engine, Access::of(&self.spec), opened, started, &self.flags).await;
        Totals { tally, cpu_ns: thread_cpu_ns() - before_ns }
    }
}

/// Thread `thread`'s share of `count` connections.
fn share(count: usize, thread: usize, threads: usize) -> usize {
    count / threads + usize::from(thread < count % threads)
}

/// CPU time of the calling thread.
pub(super) fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn no_ring(error: &std::io::Error) -> DriveError {
    DriveError::Refused(format!(
        "no io_uring on this machine ({error}): it needs Linux 5.15 or later, sysctl kernel.io_uring_disabled=0, and a \
         container whose seccomp profile allows io_uring_setup"
    ))
}

/// Refuses what no thread could do.
///
/// # Errors
///
/// Names the setting and its bound.
pub(super) fn check(spec: &RunSpec) -> Result<(), DriveError> {
    let window = lockstep_proto::limits::SESSION_WINDOW;
    let refuse = |text: String| Err(DriveError::Refused(text));
    if spec.servers.is_empty() {
        return refuse("no server was given".to_owned());
    }
    if !(1..=window).contains(&spec.in_flight) {
        return refuse(format!("{} requests in flight on a connection: use 1 to {window}", spec.in_flight));
    }
    if spec.increments > 0.0 && spec.key_layout.len() < 16 {
        return refuse(format!("counters need keys of at least 16 bytes, not {}", spec.key_layout.len()));
    }
    if spec.protocol == super::Protocol::Resp && spec.shards != 1 {
        return refuse("with the protocol resp there is one address, whatever the shards behind it".to_owned());
    }
    if spec.protocol == super::Protocol::Native && spec.wait_replicas > 0 {
        return refuse("WAIT for replicas belongs to the protocol resp".to_owned());
    }
    if spec.connections == 0 || spec.threads == 0 || spec.shards == 0 || spec.keys == 0 {
        return refuse("connections, threads, shards and keys must be at least 1".to_owned());
    }
    Ok(())
}
