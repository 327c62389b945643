//! How a shard comes up and goes down.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::Context;
use lockstep_replica::{Replica, Role};
use tokio::sync::{mpsc, watch};
use tokio_uring::net::TcpListener;
use tracing::{info, warn};

use super::{
    AdminCommand, BatchBuffers, Core, FrontSetup, Identity, Phase, Shard, ShardSetup,
    checkpoints::Checkpointer,
    clock::Clock,
    connections::ConnectionTable,
    peers::Peer,
    recover::{random_u64, recover, replica_config},
    visitors,
};
use crate::{buffers::Pool, cli::StartOptions, park, resp, ring, socket, uring};

/// How long a stopping server waits for what is in flight.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Idle buffers that a shard keeps, in bytes.
const POOL_IDLE_BYTES: usize = 64 << 20;

/// Runs a shard on the calling thread until the server is asked to stop.
///
/// # Errors
///
/// If the shard cannot start, or meets something after which it must not go on: a failed write, a damaged journal, a
/// server that breaks the protocol.
pub fn run(setup: ShardSetup) -> anyhow::Result<()> {
    let shard = setup.shard;
    run_shard(setup).with_context(|| format!("shard {shard}"))
}

fn run_shard(setup: ShardSetup) -> anyhow::Result<()> {
    let pool = Pool::new(POOL_IDLE_BYTES);
    let ShardSetup { options, shard, identity, files, metrics, status, listener, front, shutdown, commands } = setup;
    let journal_size = files.superblock.journal_size.get();
    let every_bytes = options.checkpoint_every_bytes(journal_size).map_err(anyhow::Error::msg)?;
    let folder = files.dir.clone();
    let recovery = recover(files, &options, shard, &pool)?;
    let checkpointer = Checkpointer::new(folder, every_bytes, journal_size, recovery.checkpoint);
    let mut clock = Clock::new(recovery.machine.timestamp_ns);
    let now = clock.now();
    let replica = Replica::new(
        replica_config(&options, &identity, shard, random_u64()?),
        recovery.recovered,
        BatchBuffers(pool.clone()),
        now.monotonic_ns,
    );
    let mut connections = ConnectionTable::bounded(options.client_bytes_max);
    let (nobody, _) = connections.open();
    connections.close(nobody);
    let core = Core {
        shard,
        identity,
        options: options.clone(),
        clock,
        replica,
        replica_role: Role::Recovering,
        machine: recovery.machine,
        applies: VecDeque::new(),
        connections,
        origins: Default::default(),
        reads: Default::default(),
        peers: peers_of(&options, &identity, shard),
        pool,
        disk: recovery.disk,
        checkpointer,
        transfers: Default::default(),
        replay_settings: recovery.settings,
        handover: None,
        metrics,
        status,
        failure: None,
        desk: None,
        followed_ns: 0,
        visitors: Vec::new(),
        backlog: Default::default(),
        waits: Vec::new(),
        watchers: Default::default(),
        watches_from_op: 0,
        read_scratch: Vec::new(),
        nobody,
        expired_op: 0,
    };
    let shard = Rc::new(shared(core)?);
    if let Some(front) = &front {
        front.listener.set_nonblocking(false)?;
        shard.core.borrow_mut().open_front_door(front.server.clone(), random_u64()?);
    }
    listener.set_nonblocking(false)?;
    let busy_poll = Duration::from_nanos(options.busy_poll_ns);
    uring::start(busy_poll, serve(shard, listener, front, shutdown, commands)).context("cannot use a ring")?
}

/// The other servers, by id; none where this one would be.
fn peers_of(options: &StartOptions, identity: &Identity, shard: u16) -> Vec<Option<Rc<Peer>>> {
    let addresses = options.peers.iter().enumerate();
    let peers = addresses.map(|(id, address)| {
        let is_other = id != identity.replica as usize;
        is_other.then(|| Rc::new(Peer::new(id as u8, address.to_string(), shard)))
    });
    peers.collect()
}

/// What all tasks of a shard share.
fn shared(core: Core) -> anyhow::Result<Shard> {
    let identity = core.identity;
    Ok(Shard {
        turn: Default::default(),
        apply: Default::default(),
        room: Default::default(),
        backlog: Default::default(),
        ended: Default::default(),
        cluster: identity.cluster,
        shard: core.shard,
        shards: identity.shards,
        replica: identity.replica,
        servers: identity.servers,
        callers: Default::default(),
        instance: random_u64()?.max(1),
        metrics: core.metrics.clone(),
        options: core.options.clone(),
        phase: Cell::new(Phase::Running),
        timer_deadline_ns: Cell::new(u64::MAX),
        receive_bytes: Cell::new(0),
        core: RefCell::new(core),
    })
}

async fn serve(
    shard: Rc<Shard>,
    listener: std::net::TcpListener,
    front: Option<FrontSetup>,
    mut shutdown: watch::Receiver<bool>,
    commands: mpsc::Receiver<AdminCommand>,
) -> anyhow::Result<()> {
    let local_address = listener.local_addr()?;
    park::spawn(super::turn::turn_loop(shard.clone()));
    park::spawn(super::turn::apply_loop(shard.clone()));
    park::spawn(super::report::report_loop(shard.clone()));
    park::spawn(super::expire::expire_loop(shard.clone()));
    park::spawn(super::report::command_loop(shard.clone(), commands));
    let peers: Vec<Rc<Peer>> = shard.core.borrow().peers.iter().flatten().cloned().collect();
    for peer in peers {
        park::spawn(super::peers::connect_loop(shard.clone(), peer));
    }
    park::spawn(socket::accept_loop(shard.clone(), TcpListener::from_std(listener)));
    info!(shard = shard.shard, address = %local_address, "listening");
    if let Some(FrontSetup { listener, server }) = front {
        info!(shard = shard.shard, address = %listener.local_addr()?, "listening for Redis clients");
        park::spawn(visitors::mail_loop(shard.clone(), server.clone()));
        park::spawn(visitors::backlog_loop(shard.clone()));
        park::spawn(resp::connection::accept_loop(shard.clone(), server, TcpListener::from_std(listener)));
    }
    // The first turn lets a server that is alone become primary, and starts the timers.
    shard.turn.notify();
    tokio::select! {
        // Neither is an operation of the ring, so dropping the one that does not end first loses nothing.
        _ = shutdown.wait_for(|is_asked| *is_asked) => {}
        () = shard.ended.notified() => {}
    }
    if shard.core.borrow().failure.is_none() {
        shard.phase.set(Phase::HandingOver);
        super::handover::hand_over_before_stop(&shard).await;
        info!(shard = shard.shard, "stopping: taking nothing new in, finishing what is in flight");
        shard.phase.set(Phase::Stopping);
        finish_in_flight(&shard).await;
    }
    shard.phase.set(Phase::Stopped);
    match shard.core.borrow_mut().failure.take() {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

/// Waits until everything that was accepted is answered and sent; not for ever, since a write may need servers that are
/// gone.
async fn finish_in_flight(shard: &Rc<Shard>) {
    let start = Instant::now();
    while start.elapsed() < STOP_TIMEOUT {
        let is_done = {
            let core = shard.core.borrow();
            core.failure.is_some() || core.is_quiet()
        };
        if is_done {
            break;
        }
        shard.turn.notify();
        ring::sleep(Duration::from_millis(2)).await;
    }
    let core = shard.core.borrow();
    if core.is_quiet() {
        info!(shard = core.shard, applied = core.machine.applied, "stopped");
    } else {
        warn!(shard = core.shard, "stopped with requests unanswered: whether they take effect is not known");
    }
}
