//! How a server comes up and goes down: ports, threads, signals.
//!
//! Ports are bound before any thread is started, so that one in use is one clear line and not a half-started server.
//! From then on this thread watches: a shard that ends for any reason but a requested stop ends the process, because a
//! server that answers for some keys and not for others is worse than one that is down and restarted.

#[cfg(test)]
#[path = "supervise_tests.rs"]
mod tests;

use std::{
    any::Any,
    io,
    net::{SocketAddr, TcpListener},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use crate::{
    admin::{self, ShardHandle},
    affinity,
    cli::StartOptions,
    journal::open::OpenedShard,
    metrics::{ShardMetrics, StatusCell},
    resp::server::{Server, ShardView},
    shard::{FrontSetup, Identity, ShardSetup},
    stop_signals::StopSignals,
};

/// How long shards may take to finish what is in flight once they are asked to stop.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Connections that the kernel holds ready until a shard accepts them: enough for all clients of a failed server to
/// come at once.
const BACKLOG: i32 = 1024;

/// Questions that may wait for a shard.
const COMMANDS_MAX: usize = 8;

/// The sockets of a server.
#[derive(Debug)]
pub struct Listeners {
    /// By shard.
    pub shards: Vec<TcpListener>,
    /// Those of the Redis front door, by shard; none if it stays closed.
    pub front: Vec<TcpListener>,
    /// The admin port, if there is to be one.
    pub admin: Option<TcpListener>,
}

impl Listeners {
    /// Binds every port of the server.
    ///
    /// # Errors
    ///
    /// If a port cannot be had. One line that names it and says what to do.
    pub fn bind(options: &StartOptions, identity: &Identity) -> anyhow::Result<Listeners> {
        let mut shards = Vec::with_capacity(identity.shards as usize);
        for shard in 0..identity.shards {
            let address = options.listen_address(identity, shard).with_context(|| {
                format!("cannot find where shard {shard} has to listen; check --listen and --peers")
            })?;
            let listener = listen(address).map_err(|error| explain_bind(&error, address, "--listen and --peers"))?;
            shards.push(listener);
        }
        let admin = options.admin.as_ref().map(|address| -> anyhow::Result<TcpListener> {
            let address = address.resolve(0).with_context(|| format!("cannot find {address}; check --admin"))?;
            admin::bind(address).map_err(|error| explain_bind(&error, address, "--admin"))
        });
        let mut front = Vec::new();
        for (resp, shard) in options.resp.iter().flat_map(|resp| (0..identity.shards).map(move |shard| (resp, shard))) {
            let address = resp.listen.resolve(shard);
            let address = address.with_context(|| format!("cannot find {}; check --resp", resp.listen))?;
            front.push(listen(address).map_err(|error| explain_bind(&error, address, "--resp"))?);
        }
        Ok(Listeners { shards, front, admin: admin.transpose()? })
    }
}

/// How long a port may stay in use after the process that had it was killed.
///
/// The kernel takes a dead process's ring apart in the background, and until then its accept holds the listening
/// socket. A server that is restarted at once must not fail over that.
const PORT_RELEASE_TIMEOUT: Duration = Duration::from_secs(3);

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let start = Instant::now();
    loop {
        match try_listen(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && start.elapsed() < PORT_RELEASE_TIMEOUT => {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

fn try_listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    // A port whose last connections are still winding down can be had again at once after a restart.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn explain_bind(error: &io::Error, address: SocketAddr, option: &str) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            anyhow!("{address} is in use by another program: stop that one, or choose another port with {option}")
        }
        io::ErrorKind::AddrNotAvailable => {
            anyhow!("{address} is not an address of this host: choose one that is with {option}")
        }
        io::ErrorKind::PermissionDenied => {
            anyhow!("{address} needs more rights (ports below 1024 do): choose another port with {option}")
        }
        _ => anyhow!("cannot listen on {address}: {error}; check {option}"),
    }
}

/// Has SIGTERM sent to this process when the one that started it ends, in whatever way.
///
/// # Errors
///
/// If the kernel refuses, or the other process has ended already.
pub fn stop_with_parent() -> anyhow::Result<()> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    let parent = getppid();
    set_parent_process_death_signal(Some(Signal::TERM)).context("--stop-with-parent is not possible here")?;
    // The signal is sent for an end from here on; one before shows in a new parent.
    if getppid() != parent {
        bail!("--stop-with-parent: the program that started this one has ended already");
    }
    Ok(())
}

/// Runs every shard on a thread of its own, and the admin port, until a signal asks for a stop or a shard ends.
///
/// `run_shard` is [`crate::shard::run`]; tests hand in others. `files` and `listeners` are by shard.
///
/// # Errors
///
/// The failure of the first shard that fails, or that a shard did not stop in time. Threads may still be running then:
/// the process has to end.
pub fn serve(
    options: Arc<StartOptions>,
    identity: Identity,
    files: Vec<OpenedShard>,
    listeners: Listeners,
    run_shard: impl Fn(ShardSetup) -> anyhow::Result<()> + Clone + Send + 'static,
) -> anyhow::Result<()> {
    assert_eq!(files.len(), identity.shards as usize);
    assert_eq!(listeners.shards.len(), identity.shards as usize);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no admin runtime")?;
    runtime.block_on(async {
        // Before the threads: a signal from here on is a request to stop.
        let stop = StopSignals::new()?;
        let (shutdown, is_stopping) = watch::channel(false);
        let (report, reports) = mpsc::unbounded_channel();
        let mut handles = Vec::with_capacity(listeners.shards.len());
        let mut setups = Vec::with_capacity(listeners.shards.len());
        for (shard, (files, listener)) in (0..).zip(files.into_iter().zip(listeners.shards)) {
            let (setup, handle) = prepare(&options, identity, shard, files, listener, is_stopping.clone());
            handles.push(handle);
            setups.push(setup);
        }
        open_front_door(&options, identity, &mut setups, listeners.front)?;
        for setup in setups {
            spawn(setup, report.clone(), run_shard.clone())?;
        }
        drop(report);
        if let Some(listener) = listeners.admin {
            info!("admin port on http://{}", listener.local_addr()?);
            tokio::spawn(async move {
                if let Err(error) = admin::serve(listener, handles).await {
                    error!("the admin port has failed, the shards go on: {error}");
                }
            });
        }
        watch_shards(identity.shards, reports, shutdown, stop).await
    })
}

fn prepare(
    options: &Arc<StartOptions>,
    identity: Identity,
    shard: u16,
    files: OpenedShard,
    listener: TcpListener,
    shutdown: watch::Receiver<bool>,
) -> (ShardSetup, ShardHandle) {
    let metrics = Arc::new(ShardMetrics::new(shard, identity.replica, identity.servers));
    let status = Arc::new(StatusCell::new());
    let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
    let handle = ShardHandle { metrics: Arc::clone(&metrics), status: Arc::clone(&status), commands };
    let options = Arc::clone(options);
    let setup = ShardSetup {
        options,
        shard,
        identity,
        files,
        metrics,
        status,
        listener,
        front: None,
        shutdown,
        commands: receiver,
    };
    (setup, handle)
}

/// Gives each shard its part of the Redis front door, if there is to be one.
fn open_front_door(
    options: &Arc<StartOptions>,
    identity: Identity,
    setups: &mut [ShardSetup],
    listeners: Vec<TcpListener>,
) -> anyhow::Result<()> {
    if listeners.is_empty() {
        return Ok(());
    }
    let shards =
        setups.iter().map(|setup| ShardView::new(Arc::clone(&setup.metrics), Arc::clone(&setup.status))).collect();
    let server = Server::new(Arc::clone(options), identity, shards).context("cannot open the Redis front door")?;
    let server = Arc::new(server);
    for (setup, listener) in setups.iter_mut().zip(listeners) {
        setup.front = Some(FrontSetup { listener, server: Arc::clone(&server) });
    }
    Ok(())
}

type Report = (u16, anyhow::Result<()>);

fn spawn(
    setup: ShardSetup,
    report: mpsc::UnboundedSender<Report>,
    run_shard: impl FnOnce(ShardSetup) -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<()> {
    let shard = setup.shard;
    let body = move || {
        pin(&setup);
        // A panic is reported as a failure of the shard, where the build does not abort on one anyway.
        let result = catch_unwind(AssertUnwindSafe(|| run_shard(setup)))
            .unwrap_or_else(|panic| Err(anyhow!("shard {shard} panicked: {}", panic_text(panic.as_ref()))));
        // Nobody listens any more once another shard has failed: the process is about to end.
        let _ = report.send((shard, result));
    };
    let thread = std::thread::Builder::new().name(format!("shard-{shard}"));
    thread.spawn(body).with_context(|| format!("cannot start the thread of shard {shard}"))?;
    Ok(())
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

fn pin(setup: &ShardSetup) {
    let available = affinity::available_cpus().unwrap_or_default();
    let Some(cpu) = affinity::cpu_of_shard(&setup.options.pinning, &available, setup.shard) else {
        return;
    };
    if let Err(error) = affinity::pin_to(cpu) {
        warn!("shard {} cannot be kept on CPU {cpu} and runs on any: {error}", setup.shard);
    }
}

async fn watch_shards(
    shards: u16,
    mut reports: mpsc::UnboundedReceiver<Report>,
    shutdown: watch::Sender<bool>,
    mut stop: StopSignals,
) -> anyhow::Result<()> {
    tokio::select! {
        name = stop.first() => info!("{name}: accepting no more, finishing what is in flight"),
        report = reports.recv() => {
            let (shard, result) = report.context("all shards have ended without a word")?;
            return Err(result.err().unwrap_or_else(|| anyhow!("shard {shard} ended without being asked to")));
        }
    }
    shutdown.send_replace(true);
    let stopped = async {
        for _ in 0..shards {
            let (_, result) = reports.recv().await.context("a shard has ended without a word")?;
            result.context("failed while stopping")?;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        result = stopped => result,
        name = stop.further() => bail!("a second signal ({name}): stopped at once, what was in flight is not answered"),
        () = tokio::time::sleep(STOP_TIMEOUT) => bail!("not stopped after {} s: ending anyway", STOP_TIMEOUT.as_secs()),
    }?;
    info!("stopped");
    Ok(())
}
