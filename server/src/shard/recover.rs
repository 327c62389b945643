//! From the files of a stopped server back to a shard that can go on.

use std::io;

use anyhow::{Context, ensure};
use lockstep_replica::{AckPolicy, Config, Recovered};
use lockstep_store::{STORE_BYTES_MAX, StoreConfig};
use tracing::{info, warn};

use super::{
    Identity,
    disk::Disk,
    memory_log::MemoryLog,
    replay::{Loss, ReplayFiles, ReplaySettings, Replayed, replay},
    transfer::KeptCheckpoint,
};
use crate::{
    buffers::Pool,
    cli::{Ack, Durability, FanOut, StartOptions},
    journal::{
        file::{Access, BlockFile, DirectFile, DirectFiles, FileLayer},
        open::OpenedShard,
        recovery::Tail,
        ring::IN_FLIGHT_MAX,
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
    /// How a state is loaded.
    pub settings: ReplaySettings,
    /// The checkpoint in force.
    pub checkpoint: Option<KeptCheckpoint>,
}

/// How long nothing may be answered before it is said again, in heartbeat intervals.
const RESEND_HEARTBEATS: u64 = 2;

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
        batch_gather_ops: options.batch_gather_ops,
        batch_gather_ns: options.batch_gather_ns,
        pipeline_max: options.pipeline_max,
        heartbeat_interval_ns: options.heartbeat_interval_ns,
        backup_silence_ns: options.backup_silence_ns,
        resend_ns: RESEND_HEARTBEATS * options.heartbeat_interval_ns,
        view_timeout_ns: options.view_timeout_ns,
        stall_timeout_ns: options.stall_timeout_ns,
        jitter_seed,
        log_memory_bytes_max: LOG_MEMORY_BYTES_MAX,
    }
}

/// Loads the checkpoint and replays the journal. What the disk has lost is given up, durably; the replica gets it from
/// the other servers.
///
/// # Errors
///
/// As [`replay`].
pub fn recover(files: OpenedShard, options: &StartOptions, shard: u16, pool: &Pool) -> anyhow::Result<Recovery> {
    let settings = ReplaySettings {
        store: store_config(files.superblock.shards.get(), shard)?,
        sessions_max: options.sessions_max as usize,
        pipeline_max: options.pipeline_max,
        in_flight_max: IN_FLIGHT_MAX,
    };
    let checkpoint = open_checkpoint(&files)?;
    let replay_files =
        ReplayFiles { superblock: &files.superblock_file, journal: &files.journal, checkpoint: checkpoint.as_ref() };
    let replayed = replay(&replay_files, &files.superblock, &settings, pool)?;
    tell(shard, &replayed);
    let Replayed { machine, mut recovered, superblock, ring, .. } = replayed;
    let checkpoint = match superblock.checkpoint.get() {
        0 => None,
        op => checkpoint.map(|file| KeptCheckpoint::new(op, superblock.checkpoint_size.get(), file)),
    };
    let mut writer = SuperblockWriter::new(superblock);
    let disk = if options.durability == Durability::Memory {
        // Only now is anything lost by the next restart, and it must be known then.
        let write = writer.begin(pool, |superblock| superblock.has_lost_memory = 1);
        for step in write.steps {
            let written = files.superblock_file.write_at(&step.bytes, step.offset);
            written.and_then(|()| files.superblock_file.sync()).context("cannot write the superblock")?;
        }
        writer.finish();
        let log = MemoryLog::holding(ring.size(), recovered.commit + 1, recovered.suffix.iter().cloned());
        recovered.journal_first_op = log.first_op();
        Disk::in_memory(log, writer, files.superblock_file)
    } else {
        Disk::with_journal(ring, files.journal, writer, files.superblock_file)
    };
    Ok(Recovery { machine, recovered, disk, settings, checkpoint })
}

/// The checkpoint that the superblock points to; `None` if there is no such file.
fn open_checkpoint(files: &OpenedShard) -> anyhow::Result<Option<DirectFile>> {
    let Some(path) = files.checkpoint_path() else { return Ok(None) };
    match DirectFiles.open(&path, Access::ReadWrite) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => Ok(Some(result.with_context(|| format!("cannot open checkpoint {}", path.display()))?)),
    }
}

fn tell(shard: u16, replayed: &Replayed) {
    let Replayed { machine, superblock, end, tail, loss, .. } = replayed;
    if let Tail::Torn { op, offset, ghosts } = tail {
        warn!(
            shard,
            op,
            offset,
            later_prepares_dropped = ghosts.len(),
            "the journal ends with a write that a crash has torn: it had not been acknowledged by this server"
        );
    }
    match loss {
        None => {}
        Some(Loss::Before) if superblock.is_recovering != 0 => {
            info!(shard, "the folder was made by `recover`: asking the other servers which view to join");
        }
        Some(loss) => warn!(shard, "{loss}; what is missing will be fetched from the other servers"),
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
    Ok(StoreConfig { hash_seed, shard, shards, bytes_max: STORE_BYTES_MAX })
}
