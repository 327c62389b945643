//! From the bytes of a stopped server to the state that it goes on from: checkpoint, then journal.
//!
//! Works on any [`BlockFile`], so that a simulator can put its own disk underneath.

use std::collections::VecDeque;

use anyhow::{Context, ensure};
use bytes::Bytes;
use lockstep_proto::{message::MessageHeader, superblock::Superblock};
use lockstep_replica::{Recovered, sessions::Sessions};
use lockstep_store::{Loader, Store, StoreConfig};

use super::disk::record_in;
use crate::{
    buffers::Pool,
    checkpoint::{
        layout::Section,
        reader::{expected_by, read_checkpoint},
        writer::FinishedCheckpoint,
    },
    journal::{
        file::BlockFile,
        recovery::{LogEnd, RecoveredPrepare, Recovery, Tail},
        ring::JournalRing,
    },
    stub::{Machine, NoAnswers},
};

/// What of a server's settings decides how it comes back.
#[derive(Clone, Copy, Debug)]
pub struct ReplaySettings {
    /// How the store is set up.
    pub store: StoreConfig,
    /// Bound on the number of sessions.
    pub sessions_max: usize,
    /// Prepares that may be closed and not yet answered.
    pub pipeline_max: u32,
}

/// What a shard starts from.
pub struct Replayed {
    /// The state after everything that is known to be committed.
    pub machine: Machine,
    /// What the replica starts from.
    pub recovered: Recovered,
    /// The index of the journal.
    pub ring: JournalRing,
    /// The end of the log.
    pub end: LogEnd,
    /// How the journal ends.
    pub tail: Tail,
}

/// Loads the checkpoint that the superblock points to, if any, and applies what the journal shows to be committed.
///
/// # Errors
///
/// If checkpoint or journal are damaged, or the disk fails.
pub fn replay<F: BlockFile>(
    superblock: &Superblock,
    checkpoint: Option<&F>,
    mut recovery: Recovery<'_, F>,
    settings: &ReplaySettings,
    pool: &Pool,
) -> anyhow::Result<Replayed> {
    let mut machine = load_checkpoint(superblock, checkpoint, settings, pool)?;
    let headers_kept = 2 * settings.pipeline_max as usize + 64;
    let mut replay = Replay { machine: &mut machine, headers: VecDeque::new(), headers_kept, waiting: VecDeque::new() };
    while let Some(prepare) = recovery.next_prepare()? {
        replay.take(prepare);
    }
    let (headers, waiting) = (replay.headers, replay.waiting);
    let journal = recovery.finish()?;
    let recovered = Recovered {
        record: record_in(superblock),
        commit: machine.applied,
        commit_checksum: machine.checksum,
        commit_timestamp_ns: machine.timestamp_ns,
        revision: machine.revision,
        headers: headers.into(),
        suffix: waiting.into_iter().map(|prepare| prepare.message).collect::<Vec<Bytes>>(),
        journal_first_op: journal.ring.first_op(),
        checkpoint_op: superblock.checkpoint.get(),
        checkpoint_hash: superblock.state_hash.get(),
    };
    Ok(Replayed { machine, recovered, ring: journal.ring, end: journal.end, tail: journal.tail })
}

fn load_checkpoint<F: BlockFile>(
    superblock: &Superblock,
    file: Option<&F>,
    settings: &ReplaySettings,
    pool: &Pool,
) -> anyhow::Result<Machine> {
    if let Some(expected) = expected_by(superblock) {
        let file = file.context("the checkpoint that the superblock points to is missing")?;
        let machine = read_machine(file, &expected, settings, pool);
        return machine.with_context(|| format!("checkpoint at op {} is damaged", expected.meta.op));
    }
    let (store, sessions) = (Store::new(settings.store), Sessions::new(settings.sessions_max));
    Ok(Machine::new(store, sessions, 0, 0, 0, superblock.checkpoint_revision.get()))
}

/// The state that a checkpoint file holds, every byte of it verified.
///
/// # Errors
///
/// If the file is damaged or is not the expected one.
pub fn read_machine<F: BlockFile>(
    file: &F,
    expected: &FinishedCheckpoint,
    settings: &ReplaySettings,
    pool: &Pool,
) -> anyhow::Result<Machine> {
    let meta = &expected.meta;
    let mut loader = Loader::new(settings.store);
    let mut sessions = Vec::new();
    read_checkpoint(file, expected, pool, &mut |section, bytes| {
        match section {
            Section::Store => loader.push(bytes).map_err(|error| error.to_string())?,
            Section::Sessions => sessions.extend_from_slice(bytes),
        }
        Ok(())
    })?;
    let (store, state_hash) = loader.finish()?;
    ensure!(state_hash == expected.state_hash, "its content hash does not match");
    let sessions = Sessions::decode(&sessions, settings.sessions_max).context("it has no sessions")?;
    sessions.check_within(meta.op, meta.revision)?;
    Ok(Machine::new(store, sessions, meta.op, meta.parent, meta.timestamp_ns, meta.revision))
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
