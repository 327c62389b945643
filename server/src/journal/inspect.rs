//! A look into a data folder: superblock, journal entries, checkpoint. Changes nothing and takes no lock.
//!
//! The server may be running. What is shown may then be a moment old, and the end of the journal may look torn because
//! a write is under way; the output says that the folder is in use.

use std::{
    collections::VecDeque,
    fs,
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
};

use lockstep_proto::{limits::SHARDS_MAX, superblock::Superblock};
use serde::Serialize;
use thiserror::Error;

use super::{
    file::{Access, DirectFiles, FileLayer},
    folder::{FolderError, io_error, shard_path},
    lock::FolderLock,
    open::{open_journal, read_superblock},
    recovery::{Recovery, Tail},
    superblock::SuperblockReading,
};
use crate::{
    buffers::Pool,
    checkpoint::{
        install::checkpoint_path,
        layout::Section,
        reader::{expected_by, read_checkpoint},
    },
};

/// How the result is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InspectFormat {
    /// For a person.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// What to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InspectOptions {
    /// How the result is written.
    pub format: InspectFormat,
    /// Most journal entries to list per shard; the last ones are listed.
    pub entries_max: usize,
    /// Only this shard.
    pub shard: Option<u16>,
}

impl Default for InspectOptions {
    fn default() -> InspectOptions {
        InspectOptions { format: InspectFormat::Text, entries_max: 20, shard: None }
    }
}

/// What the look has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A server can start with this folder.
    Sound,
    /// Something is damaged or missing; the output says what.
    Damaged,
}

/// Why there is nothing to show.
#[derive(Debug, Error)]
pub enum InspectError {
    /// The folder cannot be looked into.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The folder has fewer shards.
    #[error("data folder {dir} has no shard {shard}: {}", own_shards(*shards))]
    NoSuchShard {
        /// The folder.
        dir: PathBuf,
        /// The shard asked for.
        shard: u16,
        /// How many it has.
        shards: u16,
    },
    /// The result cannot be written.
    #[error("cannot write the result: {0}")]
    Output(#[from] io::Error),
}

#[derive(Serialize)]
struct FolderView {
    folder: String,
    is_in_use: bool,
    shards: Vec<ShardView>,
}

#[derive(Serialize)]
struct ShardView {
    shard: u16,
    /// Everything that would keep a server from starting.
    damage: Vec<String>,
    superblock: Option<SuperblockView>,
    journal: Option<JournalView>,
    checkpoint: Option<CheckpointView>,
}

#[derive(Serialize)]
struct SuperblockView {
    copies: Vec<String>,
    sequence: u64,
    cluster: String,
    replica: u8,
    servers: u8,
    shards: u16,
    view: u64,
    log_view: u64,
    journal_size: u64,
    journal_offset: u64,
    checkpoint: u64,
    checkpoint_revision: u64,
    state_hash: String,
    has_lost_memory: bool,
}

#[derive(Serialize)]
struct JournalView {
    entries: u64,
    used_bytes: u64,
    first_op: u64,
    last_op: u64,
    next_revision: u64,
    tail: String,
    last_entries: VecDeque<EntryView>,
}

#[derive(Serialize)]
struct EntryView {
    op: u64,
    view: u64,
    commit: u64,
    offset: u64,
    size: u32,
    requests: u32,
    revision: u64,
    timestamp_ns: u64,
    checksum: String,
}

#[derive(Serialize)]
struct CheckpointView {
    file: String,
    op: u64,
    size: u64,
    store_bytes: u64,
    sessions_bytes: u64,
}

/// Writes what is in a data folder to `out`.
///
/// # Errors
///
/// If the folder is missing or not formatted at all, or `out` fails. Damage inside is not an error here but part of the
/// result.
pub fn inspect(dir: &Path, options: &InspectOptions, out: &mut dyn Write) -> Result<Verdict, InspectError> {
    let view = look(dir, options)?;
    match options.format {
        InspectFormat::Json => {
            serde_json::to_writer_pretty(&mut *out, &view).map_err(io::Error::from)?;
            writeln!(out)?;
        }
        InspectFormat::Text => print_folder(&view, out)?,
    }
    let is_sound = view.shards.iter().all(|shard| shard.damage.is_empty());
    Ok(if is_sound { Verdict::Sound } else { Verdict::Damaged })
}

fn own_shards(shards: u16) -> String {
    if shards == 1 { "it has only shard 0".to_owned() } else { format!("it has shards 0 to {}", shards - 1) }
}

fn look(dir: &Path, options: &InspectOptions) -> Result<FolderView, InspectError> {
    match fs::metadata(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(FolderError::Missing(dir.to_owned()).into()),
        Err(error) => return Err(io_error("open", dir)(error).into()),
        Ok(metadata) if !metadata.is_dir() => return Err(FolderError::NotAFolder(dir.to_owned()).into()),
        Ok(_) => {}
    }
    let count = count_shards(dir)?;
    let shards = match options.shard {
        Some(shard) if shard >= count => {
            return Err(InspectError::NoSuchShard { dir: dir.to_owned(), shard, shards: count });
        }
        Some(shard) => shard..shard + 1,
        None => 0..count,
    };
    Ok(FolderView {
        folder: dir.display().to_string(),
        is_in_use: FolderLock::is_held(dir),
        shards: shards.map(|shard| look_at_shard(dir, shard, options)).collect::<Result<_, _>>()?,
    })
}

/// How many shards the folder has: as many as a superblock says, or as there are folders if none can be read.
fn count_shards(dir: &Path) -> Result<u16, FolderError> {
    let mut found = 0;
    while found < SHARDS_MAX {
        let path = shard_path(dir, found);
        if !path.try_exists().map_err(io_error("look into", &path))? {
            break;
        }
        found += 1;
    }
    if found == 0 {
        return Err(FolderError::NotFormatted(dir.to_owned()));
    }
    let stated = (0..found).find_map(|shard| read_superblock(dir, shard, Access::Read).ok());
    Ok(stated.map_or(0, |(_, reading)| reading.superblock.shards.get()).clamp(found, SHARDS_MAX))
}

/// What can be seen of a shard; an error if this user may not look.
fn look_at_shard(dir: &Path, shard: u16, options: &InspectOptions) -> Result<ShardView, FolderError> {
    let mut view = ShardView { shard, damage: Vec::new(), superblock: None, journal: None, checkpoint: None };
    let reading = match read_superblock(dir, shard, Access::Read) {
        Ok((_, reading)) => reading,
        Err(error) if error.is_permission() => return Err(error),
        Err(error) => {
            view.damage.push(error.to_string());
            return Ok(view);
        }
    };
    let superblock = reading.superblock;
    view.superblock = Some(view_superblock(&reading));
    match look_at_journal(dir, shard, &superblock, options.entries_max, &mut view.damage) {
        Ok(journal) => view.journal = Some(journal),
        Err(error) if error.is_permission() => return Err(error),
        Err(error) => view.damage.push(error.to_string()),
    }
    if superblock.checkpoint.get() != 0 {
        match look_at_checkpoint(dir, shard, &superblock) {
            Ok(checkpoint) => view.checkpoint = Some(checkpoint),
            Err(damage) => view.damage.push(damage),
        }
    }
    Ok(view)
}

fn view_superblock(reading: &SuperblockReading) -> SuperblockView {
    let superblock = &reading.superblock;
    let copies = reading.copies.iter().map(|copy| match copy {
        Ok(copy) if copy == superblock => "current".to_owned(),
        Ok(copy) => format!("old, sequence {}", copy.sequence.get()),
        Err(error) => error.to_string(),
    });
    SuperblockView {
        copies: copies.collect(),
        sequence: superblock.sequence.get(),
        cluster: format!("{:032x}", superblock.cluster.get()),
        replica: superblock.replica,
        servers: superblock.servers,
        shards: superblock.shards.get(),
        view: superblock.view.get(),
        log_view: superblock.log_view.get(),
        journal_size: superblock.journal_size.get(),
        journal_offset: superblock.journal_offset.get(),
        checkpoint: superblock.checkpoint.get(),
        checkpoint_revision: superblock.checkpoint_revision.get(),
        state_hash: format!("{:032x}", superblock.state_hash.get()),
        has_lost_memory: superblock.has_lost_memory != 0,
    }
}

fn look_at_journal(
    dir: &Path,
    shard: u16,
    superblock: &Superblock,
    entries_max: usize,
    damage: &mut Vec<String>,
) -> Result<JournalView, FolderError> {
    let file = open_journal(dir, &shard_path(dir, shard), superblock, Access::Read)?;
    let mut recovery = Recovery::new(&file, superblock, &Pool::new(16 << 20));
    let mut last_entries = VecDeque::new();
    loop {
        let prepare = match recovery.next_prepare() {
            Ok(Some(prepare)) => prepare,
            Ok(None) => break,
            Err(error) => {
                damage.push(error.to_string());
                break;
            }
        };
        if last_entries.len() == entries_max {
            last_entries.pop_front();
        }
        if entries_max > 0 {
            let header = &prepare.header;
            last_entries.push_back(EntryView {
                op: header.op.get(),
                view: header.view.get(),
                commit: header.commit.get(),
                offset: prepare.offset,
                size: header.size.get(),
                requests: header.request_count.get(),
                revision: header.revision.get(),
                timestamp_ns: header.timestamp_ns.get(),
                checksum: format!("{:032x}", header.checksum.get()),
            });
        }
    }
    let (ring, end, tail) = recovery.into_findings();
    if let Some(Tail::Rotten { op, offset, .. }) = &tail {
        damage.push(format!(
            "op {op} at byte {offset} of the journal is rotten: the server will fetch it from the others when it starts"
        ));
    }
    Ok(JournalView {
        entries: end.op + 1 - ring.first_op(),
        used_bytes: ring.used_bytes(),
        first_op: ring.first_op(),
        last_op: end.op,
        next_revision: end.next_revision,
        tail: describe_tail(tail.as_ref()),
        last_entries,
    })
}

fn describe_tail(tail: Option<&Tail>) -> String {
    match tail {
        None => "damaged".to_owned(),
        Some(Tail::Clean) => "clean".to_owned(),
        Some(Tail::Torn { op, offset, ghosts }) if ghosts.is_empty() => format!("torn at op {op}, byte {offset}"),
        Some(Tail::Torn { op, offset, ghosts }) => {
            let ops: Vec<_> = ghosts.iter().map(|ghost| ghost.op.to_string()).collect();
            format!("torn at op {op}, byte {offset}; unusable after it: op {}", ops.join(", "))
        }
        Some(Tail::Rotten { op, offset, later_op, .. }) => {
            format!("rotten at op {op}, byte {offset}; unusable after it: up to op {later_op}")
        }
    }
}

fn look_at_checkpoint(dir: &Path, shard: u16, superblock: &Superblock) -> Result<CheckpointView, String> {
    let expected = expected_by(superblock).expect("only called if there is a checkpoint");
    let path = checkpoint_path(&shard_path(dir, shard), expected.meta.op);
    let describe = |error: String| format!("{}: {error}", path.display());
    let file = DirectFiles.open(&path, Access::Read).map_err(|error| describe(error.to_string()))?;
    let mut sizes = [0; Section::ALL.len()];
    read_checkpoint(&file, &expected, &Pool::new(0), &mut |section, bytes| {
        sizes[section as usize - 1] += bytes.len() as u64;
        Ok(())
    })
    .map_err(|error| describe(error.to_string()))?;
    Ok(CheckpointView {
        file: path.display().to_string(),
        op: expected.meta.op,
        size: expected.size,
        store_bytes: sizes[0],
        sessions_bytes: sizes[1],
    })
}

fn print_folder(view: &FolderView, out: &mut dyn Write) -> io::Result<()> {
    let use_note = if view.is_in_use { " (in use by a server: what follows may be a moment old)" } else { "" };
    writeln!(out, "{}{use_note}", view.folder)?;
    for shard in &view.shards {
        writeln!(out, "\nshard {}", shard.shard)?;
        if let Some(superblock) = &shard.superblock {
            print_superblock(superblock, out)?;
        }
        if let Some(checkpoint) = &shard.checkpoint {
            writeln!(out, "  checkpoint  op {}, {} bytes, whole: {}", checkpoint.op, checkpoint.size, checkpoint.file)?;
        }
        if let Some(journal) = &shard.journal {
            print_journal(journal, out)?;
        }
        for damage in &shard.damage {
            writeln!(out, "  DAMAGE      {damage}")?;
        }
    }
    Ok(())
}

fn print_superblock(superblock: &SuperblockView, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "  belongs to  server {} of {} in cluster {}, {} shard{}",
        superblock.replica,
        superblock.servers,
        superblock.cluster,
        superblock.shards,
        if superblock.shards == 1 { "" } else { "s" }
    )?;
    writeln!(
        out,
        "  superblock  sequence {}, view {}, log view {}, checkpoint {}, journal of {} bytes from byte {} on",
        superblock.sequence,
        superblock.view,
        superblock.log_view,
        superblock.checkpoint,
        superblock.journal_size,
        superblock.journal_offset
    )?;
    writeln!(out, "  copies      {}", superblock.copies.join(" | "))?;
    if superblock.has_lost_memory {
        writeln!(out, "  durability  was started with `memory` once")?;
    }
    Ok(())
}

fn print_journal(journal: &JournalView, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "  journal     {} entries, op {} to {}, {} bytes, tail {}",
        journal.entries, journal.first_op, journal.last_op, journal.used_bytes, journal.tail
    )?;
    if !journal.last_entries.is_empty() {
        writeln!(
            out,
            "  {:>10} {:>6} {:>10} {:>12} {:>9} {:>8} {:>12}  checksum",
            "op", "view", "commit", "byte", "size", "requests", "revision"
        )?;
    }
    for entry in &journal.last_entries {
        writeln!(
            out,
            "  {:>10} {:>6} {:>10} {:>12} {:>9} {:>8} {:>12}  {}",
            entry.op,
            entry.view,
            entry.commit,
            entry.offset,
            entry.size,
            entry.requests,
            entry.revision,
            &entry.checksum[..12]
        )?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "inspect_tests.rs"]
mod tests;
