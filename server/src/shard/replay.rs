//! From the bytes of a stopped server to the state that it goes on from: checkpoint, then journal.
//!
//! Works on any [`BlockFile`], so that a simulator can put its own disk underneath.

use std::collections::VecDeque;

use anyhow::{Context, ensure};
use bytes::Bytes;
use lockstep_proto::{
    checksum::checksum_128,
    limits::COUNTER_MAX,
    message::MessageHeader,
    mutant::{self, Mutant},
    superblock::Superblock,
};
use lockstep_replica::{Recovered, ViewRecord, sessions::Sessions};
use lockstep_store::{Loader, Store, StoreConfig};
use thiserror::Error;
use zerocopy::little_endian::{U64, U128};

use crate::{
    buffers::Pool,
    checkpoint::{
        layout::Section,
        reader::{expected_by, read_checkpoint, read_received_checkpoint},
        writer::FinishedCheckpoint,
    },
    journal::{
        file::BlockFile,
        format::FIRST_REVISION,
        recovery::{LogEnd, RecoveredPrepare, Recovery, Tail, erase_all},
        ring::JournalRing,
        superblock,
    },
    stub::{Machine, NoAnswers, state_hash},
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
    /// Bound of journal writes in flight under which the journal was written.
    pub in_flight_max: u64,
}

/// The files of a shard.
#[derive(Debug)]
pub struct ReplayFiles<'a, F> {
    /// The superblock, whose copies have been repaired.
    pub superblock: &'a F,
    /// The journal.
    pub journal: &'a F,
    /// The checkpoint that the superblock points to; `None` if there is no such file.
    pub checkpoint: Option<&'a F>,
}

/// What a shard starts from.
pub struct Replayed {
    /// The state after everything that is known to be committed.
    pub machine: Machine,
    /// What the replica starts from.
    pub recovered: Recovered,
    /// The superblock as it is on the disk now.
    pub superblock: Superblock,
    /// The index of the journal.
    pub ring: JournalRing,
    /// The end of the log.
    pub end: LogEnd,
    /// How the journal ends.
    pub tail: Tail,
    /// What had been acknowledged and is not here any more.
    pub loss: Option<Loss>,
}

/// What a server finds that it has lost. It says so to the others (`vouch_op`), and fetches it from them.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Loss {
    /// Everything: it ran with durability `memory`.
    #[error("it ran with --durability memory, so that a restart has lost all it had acknowledged")]
    Memory,
    /// Everything: the checkpoint cannot be used.
    #[error("its checkpoint is lost: {0}")]
    Checkpoint(String),
    /// Everything, before this start: it has not got a state from the others yet.
    #[error("it has lost its state before, or its folder is new, and has not got it from the others yet")]
    Before,
    /// The log from `op` on.
    #[error(
        "the journal is rotten: op {op} at byte {offset} is damaged, and what it has acknowledged may go up to op {later_op}"
    )]
    Journal {
        /// The damaged prepare.
        op: u64,
        /// Where it was, in bytes.
        offset: u64,
        /// The highest op that was whole behind it.
        later_op: u64,
    },
}

/// Loads the checkpoint that the superblock points to, if any, and applies what the journal shows to be committed.
///
/// What the disk has lost is given up: the log ends before it, or there is no state at all. Before anything is erased,
/// the superblock says durably how far this server may have acknowledged what it no longer holds. A crash at any point
/// leaves files with which this can be done again.
///
/// # Errors
///
/// If the disk fails, if the checkpoint is whole but cannot be used, or if a server that is alone has lost something:
/// nobody could give it back.
pub fn replay<F: BlockFile>(
    files: &ReplayFiles<'_, F>,
    superblock: &Superblock,
    settings: &ReplaySettings,
    pool: &Pool,
) -> anyhow::Result<Replayed> {
    let mut superblock = *superblock;
    let (mut machine, mut loss) = match load_state(files, &superblock, settings, pool)? {
        Ok(machine) => (machine, None),
        Err(loss) => {
            ensure!(
                superblock.servers > 1,
                "{loss}; a server that is alone cannot fetch it from another: {}",
                remedy(&loss)
            );
            forget_state(files, &mut superblock, pool)?;
            (empty_machine(&superblock, settings), Some(loss))
        }
    };
    // As many as the replica keeps: servers may have different pipelines, so the deepest one counts.
    let headers_kept = 2 * settings.pipeline_max.max(256) as usize + 64;
    let mut replay = Replay { machine: &mut machine, headers: VecDeque::new(), headers_kept, waiting: VecDeque::new() };
    let mut recovery = Recovery::with_in_flight_max(files.journal, &superblock, settings.in_flight_max, pool);
    while let Some(prepare) = recovery.next_prepare()? {
        replay.take(prepare);
    }
    let (headers, waiting) = (replay.headers, replay.waiting);
    if let Some(&Tail::Rotten { op, offset, later_op, .. }) = recovery.tail() {
        // Durable before the proof is erased.
        superblock.vouch_op = U64::new(superblock.vouch_op.get().max(later_op));
        rewrite(files.superblock, &mut superblock)?;
        loss = Some(Loss::Journal { op, offset, later_op });
    }
    let journal = recovery.finish()?;
    let recovered = Recovered {
        record: view_record(&superblock),
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
    Ok(Replayed { machine, recovered, superblock, ring: journal.ring, end: journal.end, tail: journal.tail, loss })
}

fn remedy(loss: &Loss) -> &'static str {
    match loss {
        Loss::Memory => "to start over with nothing, delete the folder and format it anew",
        _ => "restore the folder from a copy",
    }
}

/// What the superblock says about views, as the replica has it.
pub fn view_record(superblock: &Superblock) -> ViewRecord {
    ViewRecord {
        view: superblock.view.get(),
        log_view: superblock.log_view.get(),
        vouch_op: superblock.vouch_op.get(),
        incarnations: superblock.incarnations.map(U64::get),
        is_recovering: superblock.is_recovering != 0,
    }
}

/// Puts what the replica wants to be durable about views into a superblock.
pub fn enter_view_record(record: &ViewRecord, superblock: &mut Superblock) {
    superblock.view = U64::new(record.view);
    superblock.log_view = U64::new(record.log_view);
    superblock.vouch_op = U64::new(record.vouch_op);
    superblock.incarnations = record.incarnations.map(U64::new);
    superblock.is_recovering = u8::from(record.is_recovering);
}

/// The state at the checkpoint, or what has become of it.
fn load_state<F: BlockFile>(
    files: &ReplayFiles<'_, F>,
    superblock: &Superblock,
    settings: &ReplaySettings,
    pool: &Pool,
) -> anyhow::Result<Result<Machine, Loss>> {
    if superblock.has_lost_memory != 0 && !mutant::is(Mutant::MemoryLossForgotten) {
        return Ok(Err(Loss::Memory));
    }
    let Some(expected) = expected_by(superblock) else {
        // Whether what is in the journal was still to be erased when the server stopped cannot be told, so it is erased
        // again.
        let has_state = superblock.vouch_op.get() != COUNTER_MAX;
        return Ok(if has_state { Ok(empty_machine(superblock, settings)) } else { Err(Loss::Before) });
    };
    let Some(file) = files.checkpoint else {
        return Ok(Err(Loss::Checkpoint(format!("checkpoint at op {}: the file is missing", expected.meta.op))));
    };
    let mut state = StateLoader::new(settings);
    match read_checkpoint(file, &expected, pool, &mut |section, bytes| state.push(section, bytes)) {
        Ok(()) => {}
        Err(error) if error.is_damage() => {
            return Ok(Err(Loss::Checkpoint(format!("checkpoint at op {}: {error}", expected.meta.op))));
        }
        Err(error) => return Err(error).with_context(|| format!("checkpoint at op {}", expected.meta.op)),
    }
    let machine = state.finish(&expected).with_context(|| format!("checkpoint at op {}", expected.meta.op))?;
    Ok(Ok(machine))
}

fn empty_machine(superblock: &Superblock, settings: &ReplaySettings) -> Machine {
    let (store, sessions) = (Store::new(settings.store), Sessions::new(settings.sessions_max));
    Machine::new(store, sessions, 0, 0, 0, superblock.checkpoint_revision.get())
}

/// Makes it durable that nothing is held and everything may have been acknowledged, then erases what is left.
fn forget_state<F: BlockFile>(
    files: &ReplayFiles<'_, F>,
    superblock: &mut Superblock,
    pool: &Pool,
) -> anyhow::Result<()> {
    let before = *superblock;
    superblock.vouch_op = U64::new(COUNTER_MAX);
    superblock.has_lost_memory = 0;
    superblock.checkpoint = U64::ZERO;
    superblock.checkpoint_checksum = U128::ZERO;
    superblock.checkpoint_size = U64::ZERO;
    superblock.checkpoint_parent = U128::ZERO;
    superblock.checkpoint_revision = U64::new(FIRST_REVISION);
    superblock.checkpoint_timestamp_ns = U64::ZERO;
    superblock.state_hash = U128::ZERO;
    superblock.journal_offset = U64::ZERO;
    if *superblock != before {
        rewrite(files.superblock, superblock)?;
    }
    Ok(erase_all(files.journal, superblock, pool)?)
}

fn rewrite(file: &impl BlockFile, superblock: &mut Superblock) -> anyhow::Result<()> {
    superblock.sequence = U64::new(superblock.sequence.get() + 1);
    superblock.seal();
    superblock::write(file, superblock).context("cannot write the superblock")
}

/// The state in a checkpoint at `op` that another server has sent, every byte of it verified, and what the superblock
/// needs to know of it.
///
/// # Errors
///
/// If the file is damaged, or of another cluster, shard or op.
pub fn read_received_machine<F: BlockFile>(
    file: &F,
    cluster: u128,
    op: u64,
    settings: &ReplaySettings,
    pool: &Pool,
) -> anyhow::Result<(Machine, FinishedCheckpoint)> {
    let mut state = StateLoader::new(settings);
    let whose = (cluster, settings.store.shard, settings.store.shards);
    let found = read_received_checkpoint(file, whose, op, pool, &mut |section, bytes| state.push(section, bytes))?;
    Ok((state.finish(&found)?, found))
}

/// Takes in the stream of a checkpoint.
struct StateLoader {
    loader: Loader,
    sessions: Vec<u8>,
    sessions_max: usize,
}

impl StateLoader {
    fn new(settings: &ReplaySettings) -> StateLoader {
        StateLoader { loader: Loader::new(settings.store), sessions: Vec::new(), sessions_max: settings.sessions_max }
    }

    fn push(&mut self, section: Section, bytes: &[u8]) -> Result<(), String> {
        match section {
            Section::Store => self.loader.push(bytes).map_err(|error| error.to_string())?,
            Section::Sessions => self.sessions.extend_from_slice(bytes),
        }
        Ok(())
    }

    fn finish(self, checkpoint: &FinishedCheckpoint) -> anyhow::Result<Machine> {
        let meta = &checkpoint.meta;
        let (store, store_hash) = self.loader.finish()?;
        let hash = state_hash(store_hash, checksum_128(&self.sessions));
        ensure!(hash == checkpoint.state_hash, "its content hash does not match");
        let sessions = if mutant::is(Mutant::CheckpointDropsSessions) {
            Sessions::new(self.sessions_max)
        } else {
            Sessions::decode(&self.sessions, self.sessions_max).context("it has no sessions")?
        };
        sessions.check_within(meta.op, meta.revision)?;
        Ok(Machine::new(store, sessions, meta.op, meta.parent, meta.timestamp_ns, meta.revision))
    }
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

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
