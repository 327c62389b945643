//! From the files of a stopped server back to a shard that can go on.

use anyhow::{Context, bail, ensure};
use lockstep_replica::{AckPolicy, Config, Recovered};
use lockstep_store::StoreConfig;
use tracing::{info, warn};

use super::{
    Identity,
    disk::Disk,
    replay::{ReplaySettings, Replayed, replay},
};
use crate::{
    buffers::Pool,
    cli::{Ack, Durability, FanOut, StartOptions},
    journal::{
        file::{Access, BlockFile, DirectFiles, FileLayer},
        open::OpenedShard,
        recovery::Tail,
        superblock::SuperblockWriter,
    },
    stub::Machine,
};

/// What a shard starts from.
pub struct Recovery {
    /// The state after everything that is known to be committed.
    pub machine: Machine,
    /// What the replica starts from.
    pub recovered: Recovered,
    /// Where it goes on writing.
    pub disk: Disk,
}

/// How long nothing may be answered before it is said again, in heartbeat intervals.
const RESEND_HEARTBEATS: u64 = 2;

/// How long a primary may be silent before it is suspected, in heartbeat intervals.
const VIEW_TIMEOUT_HEARTBEATS: u64 = 10;

/// How long a primary may make no progress before it gives way, in heartbeat intervals.
const STALL_TIMEOUT_HEARTBEATS: u64 = 20;

/// Prepares kept in memory for backups that lag, in bytes.
const LOG_MEMORY_BYTES_MAX: usize = 64 << 20;

/// The replica's settings, from the server's. `jitter_seed` is another number at each start.
pub fn replica_config(options: &StartOptions, identity: &Identity, shard: u16, jitter_seed: u64) -> Config {
    Config {
        cluster: identity.cluster,
        shard,
        replica: identity.replica,
        servers: identity.servers,
        ack: match options.ack {
            Ack::Majority => AckPolicy::Majority,
            Ack::All => AckPolicy::All,
            Ack::Strict => AckPolicy::Strict,
        },
        fanout: match options.fanout {
            FanOut::Parallel => lockstep_replica::FanOut::Parallel,
            FanOut::Sequential => lockstep_replica::FanOut::Sequential,
        },
        batch_ops_max: options.batch_ops_max,
        batch_bytes_max: options.batch_bytes_max,
        batch_linger_ns: options.batch_linger_ns,
        pipeline_max: options.pipeline_max,
        heartbeat_interval_ns: options.heartbeat_interval_ns,
        backup_silence_ns: options.backup_silence_ns,
        resend_ns: RESEND_HEARTBEATS * options.heartbeat_interval_ns,
        view_timeout_ns: VIEW_TIMEOUT_HEARTBEATS * options.heartbeat_interval_ns,
        stall_timeout_ns: STALL_TIMEOUT_HEARTBEATS * options.heartbeat_interval_ns,
        jitter_seed,
        log_memory_bytes_max: LOG_MEMORY_BYTES_MAX,
    }
}

/// Loads the checkpoint and replays the journal.
///
/// # Errors
///
/// If either is damaged, or the state was never on disk.
pub fn recover(files: OpenedShard, options: &StartOptions, shard: u16, pool: &Pool) -> anyhow::Result<Recovery> {
    let superblock = files.superblock;
    let is_memory = options.durability == Durability::Memory;
    if superblock.has_lost_memory != 0 {
        bail!(
            "this server ran with --durability memory before, so what it had acknowledged is lost, and rejoining from the \
             other servers is not supported yet: stop all servers, remove their data folders and format them anew"
        );
    }
    let settings = ReplaySettings {
        store: store_config(superblock.shards.get(), shard)?,
        sessions_max: options.sessions_max as usize,
        pipeline_max: options.pipeline_max,
    };
    let path = files.checkpoint_path();
    let checkpoint = match &path {
        Some(path) => {
            let file = DirectFiles.open(path, Access::Read);
            Some(file.with_context(|| format!("cannot open checkpoint {}", path.display()))?)
        }
        None => None,
    };
    let replayed = replay(&superblock, checkpoint.as_ref(), files.recovery(pool), &settings, pool)?;
    let Replayed { machine, recovered, ring, end, tail } = replayed;
    match &tail {
        Tail::Clean => {}
        Tail::Torn { op, offset, ghosts } => warn!(
            shard,
            op,
            offset,
            later_prepares_dropped = ghosts.len(),
            "the journal ends with a write that a crash has torn: it had not been acknowledged by this server"
        ),
    }
    info!(
        shard,
        checkpoint = superblock.checkpoint.get(),
        applied = machine.applied,
        op = end.op,
        keys = machine.store.len(),
        view = superblock.view.get(),
        "recovered"
    );
    let mut writer = SuperblockWriter::new(superblock);
    let disk = if is_memory {
        // Only now is anything lost by the next restart, and it must be known then.
        let write = writer.begin(pool, |superblock| superblock.has_lost_memory = 1);
        for step in write.steps {
            let written = files.superblock_file.write_at(&step.bytes, step.offset);
            written.and_then(|()| files.superblock_file.sync()).context("cannot write the superblock")?;
        }
        writer.finish();
        warn!(shard, "durability is memory: a restart of this server loses what it holds, and it cannot rejoin");
        let bytes_max = usize::try_from(ring.size()).unwrap_or(usize::MAX);
        Disk::in_memory(bytes_max, end.op, writer, files.superblock_file)
    } else {
        Disk::with_journal(ring, files.journal, writer, files.superblock_file)
    };
    Ok(Recovery { machine, recovered, disk })
}

/// A number that nobody can foresee.
///
/// # Errors
///
/// If the system gives none.
pub fn random_u64() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .context("the system gives no random numbers")?;
    ensure!(filled == bytes.len(), "the system gives too few random numbers");
    Ok(u64::from_le_bytes(bytes))
}

fn store_config(shards: u16, shard: u16) -> anyhow::Result<StoreConfig> {
    let mut seed = [0; 32];
    let filled = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
        .context("the system gives no random numbers")?;
    ensure!(filled == seed.len(), "the system gives too few random numbers");
    let mut hash_seed = [0; 4];
    for (number, bytes) in hash_seed.iter_mut().zip(seed.chunks_exact(8)) {
        *number = u64::from_le_bytes(bytes.try_into()?);
    }
    Ok(StoreConfig { hash_seed, shard, shards })
}
