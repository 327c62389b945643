//! A new folder for a server that takes part in its cluster already and has lost the old one.
//!
//! Formatting it would be wrong: the other servers would take it for one that has never acknowledged anything, and
//! could forget with it what it had. A folder made here says that it has lost what it knew, and gets everything from
//! the others.
//!
//! What is there is never destroyed. A folder that is whole is refused; one that is damaged beyond use is moved aside
//! first.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    file::{Access, DirectFiles, sync_folder},
    folder::{FolderError, Identity, LOCK_NAME, io_error, shard_path},
    format::{FormatProgress, Origin, make_folder},
    lock::FolderLock,
    open::{open_journal, read_superblock},
    superblock::SuperblockReadError,
};

/// Makes a data folder that says of itself that it has replaced a lost one. Returns where a damaged one was moved to.
///
/// # Errors
///
/// If there is a folder with which the server could be started, if there is something else than a data folder, if the
/// cluster has only one server, and as [`super::format::format_folder`].
pub fn recover_folder(
    dir: &Path,
    identity: &Identity,
    journal_size: u64,
    progress: &mut dyn FnMut(FormatProgress),
) -> Result<Option<PathBuf>, FolderError> {
    identity.check()?;
    super::folder::check_journal_size(journal_size)?;
    if identity.servers == 1 {
        return Err(FolderError::Setting(
            "a cluster of one server has no others to get its data from: restore the folder from a copy, or start over with \
             `lockstep-server format`"
                .to_owned(),
        ));
    }
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let aside = move_damaged_aside(dir, since_1970.as_secs())?;
    // Higher than that of any folder before, as long as the clock is not set back across a loss of a disk.
    let origin = Origin::LostDisk { incarnation: since_1970.as_nanos() as u64 };
    make_folder(&DirectFiles, dir, identity, journal_size, &origin, progress)?;
    Ok(aside)
}

/// Gives a damaged data folder another name, so that a new one can be made in its place.
fn move_damaged_aside(dir: &Path, seconds: u64) -> Result<Option<PathBuf>, FolderError> {
    if !dir.join(LOCK_NAME).exists() {
        // Missing or empty; or something else, which formatting refuses.
        return Ok(None);
    }
    let _lock = FolderLock::acquire(dir)?;
    check_is_unusable(dir)?;
    let dir = &fs::canonicalize(dir).map_err(io_error("find", dir))?;
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(format!(".damaged-{seconds}"));
    let aside = dir.with_file_name(name);
    match fs::rename(dir, &aside) {
        Err(error) if error.kind() == ErrorKind::ResourceBusy => {
            return Err(FolderError::NotMovable(dir.to_owned()));
        }
        result => result.map_err(io_error("move", dir))?,
    }
    let parent = aside.parent().unwrap_or(dir);
    sync_folder(parent).map_err(io_error("sync", parent))?;
    Ok(Some(aside))
}

/// Refuses a folder with which a server could be started. Changes nothing in it.
fn check_is_unusable(dir: &Path) -> Result<(), FolderError> {
    let mut shard = 0;
    loop {
        let reading = match read_superblock(dir, shard, Access::Read) {
            Ok((_, reading)) => reading,
            Err(error) => return is_damage(error),
        };
        match open_journal(dir, &shard_path(dir, shard), &reading.superblock, Access::Read) {
            Ok(_) => {}
            Err(error) => return is_damage(error),
        }
        shard += 1;
        if shard >= reading.superblock.shards.get() {
            return Err(FolderError::Whole(dir.to_owned()));
        }
    }
}

/// Passes on what is not damage.
fn is_damage(error: FolderError) -> Result<(), FolderError> {
    match error {
        FolderError::Superblock {
            reason: SuperblockReadError::Damaged { .. } | SuperblockReadError::Contradiction { .. },
            ..
        }
        | FolderError::Incomplete { .. }
        | FolderError::NotFormatted(_)
        | FolderError::JournalSize { .. } => Ok(()),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{
        folder::{JOURNAL_NAME, JOURNAL_SIZE_MIN, SUPERBLOCK_NAME},
        format::format_folder,
        open::{Expected, open_folder},
    };

    const IDENTITY: Identity = Identity { cluster: 5, replica: 1, servers: 3, shards: 2 };

    fn recover(dir: &Path, identity: &Identity) -> Result<Option<PathBuf>, String> {
        let result = recover_folder(dir, identity, JOURNAL_SIZE_MIN, &mut |_| {});
        result.map_err(|error| error.to_string())
    }

    fn place() -> (tempfile::TempDir, PathBuf) {
        let place = tempfile::tempdir().expect("there is a place for temporary files");
        let dir = place.path().join("data");
        (place, dir)
    }

    fn assert_recovering(dir: &Path) {
        for shard in open_folder(dir, &Expected::default()).expect("it is whole").shards {
            let superblock = shard.superblock;
            assert_eq!((superblock.is_recovering, superblock.vouch_op.get()), (1, i64::MAX as u64));
            assert!(superblock.incarnations[1].get() > 1_600_000_000_000_000_000);
        }
    }

    #[test]
    fn a_missing_or_empty_folder_is_made_and_says_that_it_has_lost_everything() {
        let (place, dir) = place();
        assert_eq!(recover(&dir, &IDENTITY), Ok(None));
        assert_recovering(&dir);
        let empty = place.path().join("empty");
        fs::create_dir(&empty).expect("it can be made");
        assert_eq!(recover(&empty, &IDENTITY), Ok(None));
        assert_recovering(&empty);
    }

    #[test]
    fn a_whole_folder_is_refused_and_left_alone() {
        let (_place, dir) = place();
        format_folder(&dir, &IDENTITY, JOURNAL_SIZE_MIN, &mut |_| {}).expect("it can be formatted");
        let path = shard_path(&dir, 1).join(SUPERBLOCK_NAME);
        // One damaged copy does not keep the server from starting.
        let mut bytes = fs::read(&path).expect("it is there");
        bytes[100] ^= 1;
        fs::write(&path, &bytes).expect("it can be written");
        let text = recover(&dir, &IDENTITY).expect_err("it is whole");
        assert!(text.contains("is whole") && text.contains("move it away") && !text.contains('\n'), "{text}");
        assert_eq!(fs::read(&path).expect("it is there"), bytes);
        let lock = FolderLock::acquire(&dir).expect("nobody has it");
        let text = recover(&dir, &IDENTITY).expect_err("it is in use");
        assert!(text.contains("in use"), "{text}");
        drop(lock);
    }

    #[test]
    fn a_folder_that_is_damaged_beyond_use_is_moved_aside() {
        let damage: [&dyn Fn(&Path); 4] = [
            &|dir| fs::write(shard_path(dir, 1).join(SUPERBLOCK_NAME), vec![0x5a; 16384]).expect("it can be written"),
            &|dir| fs::remove_file(shard_path(dir, 0).join(SUPERBLOCK_NAME)).expect("it can be removed"),
            &|dir| fs::remove_dir_all(shard_path(dir, 0)).expect("it can be removed"),
            &|dir| fs::write(shard_path(dir, 1).join(JOURNAL_NAME), b"short").expect("it can be written"),
        ];
        for damage in damage {
            let (_place, dir) = place();
            format_folder(&dir, &IDENTITY, JOURNAL_SIZE_MIN, &mut |_| {}).expect("it can be formatted");
            damage(&dir);
            let aside = recover(&dir, &IDENTITY).expect("it can be replaced").expect("something was there");
            assert!(aside.join(LOCK_NAME).exists() && aside.to_string_lossy().contains("data.damaged-"));
            assert_recovering(&dir);
        }
    }

    #[test]
    fn what_is_not_a_data_folder_and_a_cluster_of_one_are_refused() {
        let (_place, dir) = place();
        fs::create_dir(&dir).expect("it can be made");
        fs::write(dir.join("thesis.txt"), b"precious").expect("it can be written");
        let text = recover(&dir, &IDENTITY).expect_err("it is somebody else's");
        assert!(text.contains("thesis.txt"), "{text}");
        let alone = Identity { cluster: 5, replica: 0, servers: 1, shards: 1 };
        let text = recover(&dir.join("new"), &alone).expect_err("there are no others");
        assert!(text.contains("a cluster of one server") && !dir.join("new").exists(), "{text}");
    }
}
