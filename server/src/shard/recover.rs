//! From the files of a stopped server back to a shard that can go on.

use std::collections::VecDeque;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use lockstep_proto::message::MessageHeader;
use lockstep_replica::{AckPolicy, Config, Recovered, sessions::Sessions};
use lockstep_store::{Loader, Store, StoreConfig};
use tracing::{info, warn};

use super::{Identity, disk::Disk};
use crate::{
    buffers::Pool,
    checkpoint::{
        layout::Section,
        reader::{expected_by, read_checkpoint},
    },
    cli::{Ack, Durability, FanOut, StartOptions},
    journal::{
        file::{Access, BlockFile, DirectFiles, FileLayer},
        open::OpenedShard,
        recovery::{RecoveredPrepare, Tail},
        superblock::SuperblockWriter,
    },
    stub::{Machine, NoAnswers},
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

/// Prepares kept in memory for backups that lag, in bytes.
const LOG_MEMORY_BYTES_MAX: usize = 64 << 20;

/// The replica's settings, from the server's.
pub fn replica_config(options: &StartOptions, identity: &Identity, shard: u16) -> Config {
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
    let mut machine = load_checkpoint(&files, options, shard, pool)?;
    let headers_kept = 2 * options.pipeline_max as usize + 64;
    let mut replay = Replay { machine: &mut machine, headers: VecDeque::new(), headers_kept, waiting: VecDeque::new() };
    let mut recovery = files.recovery(pool);
    while let Some(prepare) = recovery.next_prepare()? {
        replay.take(prepare);
    }
    let (headers, waiting) = (replay.headers, replay.waiting);
    let journal = recovery.finish()?;
    match &journal.tail {
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
        op = journal.end.op,
        keys = machine.store.len(),
        view = superblock.view.get(),
        "recovered"
    );
    let recovered = Recovered {
        view: superblock.view.get(),
        log_view: superblock.log_view.get(),
        commit: machine.applied,
        commit_checksum: machine.checksum,
        commit_timestamp_ns: machine.timestamp_ns,
        revision: machine.revision,
        headers: headers.into(),
        suffix: waiting.into_iter().map(|prepare| prepare.message).collect::<Vec<Bytes>>(),
        journal_first_op: journal.ring.first_op(),
    };
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
        let bytes_max = usize::try_from(journal.ring.size()).unwrap_or(usize::MAX);
        Disk::in_memory(bytes_max, journal.end.op, writer, files.superblock_file)
    } else {
        Disk::with_journal(journal.ring, files.journal, writer, files.superblock_file)
    };
    Ok(Recovery { machine, recovered, disk })
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

fn load_checkpoint(files: &OpenedShard, options: &StartOptions, shard: u16, pool: &Pool) -> anyhow::Result<Machine> {
    let superblock = &files.superblock;
    let config = store_config(superblock.shards.get(), shard)?;
    let sessions_max = options.sessions_max as usize;
    let revision = superblock.checkpoint_revision.get();
    let (Some(expected), Some(path)) = (expected_by(superblock), files.checkpoint_path()) else {
        return Ok(Machine::new(Store::new(config), Sessions::new(sessions_max), 0, 0, 0, revision));
    };
    let name = path.display().to_string();
    let file = DirectFiles.open(&path, Access::Read).with_context(|| format!("cannot open checkpoint {name}"))?;
    let mut loader = Loader::new(config);
    let mut sessions = Vec::new();
    read_checkpoint(&file, &expected, pool, &mut |section, bytes| {
        match section {
            Section::Store => loader.push(bytes).map_err(|error| error.to_string())?,
            Section::Sessions => sessions.extend_from_slice(bytes),
        }
        Ok(())
    })
    .with_context(|| format!("checkpoint {name} is damaged"))?;
    let (store, state_hash) = loader.finish().with_context(|| format!("checkpoint {name} is damaged"))?;
    ensure!(state_hash == expected.state_hash, "checkpoint {name} is damaged: its content hash does not match");
    let sessions =
        Sessions::decode(&sessions, sessions_max).with_context(|| format!("checkpoint {name} has no sessions"))?;
    let op = superblock.checkpoint.get();
    sessions.check_within(op, revision).with_context(|| format!("checkpoint {name} is damaged"))?;
    Ok(Machine::new(
        store,
        sessions,
        op,
        superblock.checkpoint_parent.get(),
        superblock.checkpoint_timestamp_ns.get(),
        revision,
    ))
}

/// Applies what the journal shows to be committed, and keeps the rest for the replica.
struct Replay<'a> {
    machine: &'a mut Machine,
    /// Headers of the last prepares applied.
    headers: VecDeque<MessageHeader>,
    headers_kept: usize,
    /// Prepares that are not known to be committed yet.
    waiting: VecDeque<RecoveredPrepare>,
}

impl Replay<'_> {
    fn take(&mut self, prepare: RecoveredPrepare) {
        let commit = prepare.header.commit.get();
        self.waiting.push_back(prepare);
        while let Some(first) = self.waiting.front()
            && first.header.op.get() <= commit
        {
            self.machine.apply(&first.message, 0, &mut NoAnswers);
            self.headers.push_back(first.header);
            if self.headers.len() > self.headers_kept {
                self.headers.pop_front();
            }
            self.waiting.pop_front();
        }
    }
}
