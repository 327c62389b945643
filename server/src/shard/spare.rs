//! The file of the checkpoint before the one in force, which the next one is written over.
//!
//! Two files take turns, so that a checkpoint neither takes space from the file system nor gives any back, as long as
//! the state is about as large as before. To free hundreds of megabytes keeps a file system busy for tens of
//! milliseconds, and every synced write to the journal waits for it.
//!
//! The spare file has the name of a checkpoint that was never completed, which no superblock points to, and which the
//! next start removes.

use std::rc::Rc;

use super::{Shard, checkpoints::blocking, transfer::KeptCheckpoint};
use crate::{
    checkpoint::{
        install::{self, create_temporary, remove_older, remove_temporary},
        removal::RemovableFile,
    },
    journal::file::{BlockFile, DirectFile},
};

/// What a spare file may be larger than the state, at least: what it has too much is given back before the checkpoint
/// is in force.
const EXCESS_BYTES_MAX: u64 = 64 << 20;

/// A file to be written over, called as one of a checkpoint at `op` that was never completed.
pub struct Spare {
    pub(super) op: u64,
    pub(super) file: DirectFile,
}

/// The file for a checkpoint at `op` that is about to be written.
pub(super) async fn begin_file(shard: &Rc<Shard>, op: u64) -> anyhow::Result<DirectFile> {
    let (folder, spare, state_bytes) = {
        let core = &mut *shard.core.borrow_mut();
        let checkpointer = &mut core.checkpointer;
        (checkpointer.folder().clone(), checkpointer.spare.take(), core.machine.store.entry_bytes())
    };
    blocking(folder, move |folder| {
        if let Some(Spare { op: spare_op, file }) = spare {
            let size = file.size()?;
            if size > 2 * state_bytes + EXCESS_BYTES_MAX {
                remove_temporary(&folder, spare_op)?;
                RemovableFile::new(file, size).note_removed();
            } else if install::reuse(&folder, spare_op, op)? {
                return Ok(file);
            }
        }
        create_temporary(&folder, op)
    })
    .await
}

/// The checkpoint before the one at `op`, which is in force, is not needed any more: its file becomes the spare one,
/// unless it is being read or there is one already. Then it goes, and all that are older.
///
/// # Errors
///
/// What the disk says.
pub(super) async fn retire(shard: &Rc<Shard>, before: Option<KeptCheckpoint>, op: u64) -> anyhow::Result<()> {
    let (folder, has_spare) = {
        let checkpointer = &shard.core.borrow().checkpointer;
        (checkpointer.folder().clone(), checkpointer.spare.is_some())
    };
    let before = before.map(|before| if has_spare { Err(before) } else { before.into_unread() });
    match before {
        Some(Ok((before_op, file))) => {
            let is_there = blocking(folder, move |folder| {
                let is_there = install::retire(&folder, before_op)?;
                remove_older(&folder, op)?;
                Ok(is_there)
            })
            .await?;
            if is_there {
                keep(shard, Spare { op: before_op, file }).await?;
            }
        }
        before => {
            blocking(folder, move |folder| remove_older(&folder, op)).await?;
            if let Some(Err(before)) = before {
                before.note_removed();
            }
        }
    }
    Ok(())
}

/// Keeps a file for the next checkpoint, unless there is one.
///
/// # Errors
///
/// What the disk says.
pub(super) async fn keep(shard: &Rc<Shard>, spare: Spare) -> anyhow::Result<()> {
    let folder = {
        let checkpointer = &mut shard.core.borrow_mut().checkpointer;
        if checkpointer.spare.is_none() {
            checkpointer.spare = Some(spare);
            return Ok(());
        }
        checkpointer.folder().clone()
    };
    blocking(folder, move |folder| {
        let size = spare.file.size()?;
        remove_temporary(&folder, spare.op)?;
        RemovableFile::new(spare.file, size).note_removed();
        Ok(())
    })
    .await
}
