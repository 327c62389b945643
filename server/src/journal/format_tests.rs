use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::journal::{
    fault::SmallDisk,
    file::Access,
    folder::JOURNAL_SIZE_MIN,
    open::{Expected, open_folder},
};

const IDENTITY: Identity = Identity { cluster: 5, replica: 1, servers: 3, shards: 2 };

fn format(dir: &Path) -> Result<(), FolderError> {
    format_folder(dir, &IDENTITY, JOURNAL_SIZE_MIN, &mut |_| {})
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("it is a folder");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("it can be listed").file_name().into_string().expect("ASCII")).collect();
    names.sort();
    names
}

#[test]
fn a_formatted_folder_has_zeroed_journals_and_whole_superblocks() {
    let place = tempfile::tempdir().expect("there is a place for temporary files");
    let dir = place.path().join("new/data");
    let mut reports = Vec::new();
    format_folder(&dir, &IDENTITY, JOURNAL_SIZE_MIN, &mut |progress| reports.push(progress)).expect("it works");
    assert_eq!(names_in(&dir), ["LOCK", "shard-000", "shard-001"]);
    let total = 2 * JOURNAL_SIZE_MIN;
    assert!(reports.windows(2).all(|pair| pair[0].written < pair[1].written && pair[1].total == total));
    assert_eq!(reports.last(), Some(&FormatProgress { written: total, total }));
    for shard in 0..2 {
        let shard_dir = shard_path(&dir, shard);
        let journal = fs::read(shard_dir.join(JOURNAL_NAME)).expect("it is there");
        assert!(journal.len() as u64 == JOURNAL_SIZE_MIN && journal.iter().all(|&byte| byte == 0));
        let file = DirectFiles.open(&shard_dir.join(SUPERBLOCK_NAME), Access::Read).expect("it is there");
        let reading = superblock::read(&file).expect("it can be read");
        assert!(reading.is_complete());
        assert_eq!(Identity::of(&reading.superblock), IDENTITY);
        assert_eq!(reading.superblock.shard.get(), shard);
        assert_eq!(reading.superblock.checkpoint_revision.get(), FIRST_REVISION);
    }
}

#[test]
fn the_journal_takes_all_of_its_disk_space_at_once() {
    use std::os::unix::fs::MetadataExt;
    let place = tempfile::tempdir().expect("there is a place for temporary files");
    format(place.path()).expect("an existing empty folder will do");
    let metadata = fs::metadata(shard_path(place.path(), 0).join(JOURNAL_NAME)).expect("it is there");
    assert!(metadata.blocks() * 512 >= JOURNAL_SIZE_MIN);
}

#[test]
fn a_full_disk_is_reported_and_leaves_nothing_behind() {
    let place = tempfile::tempdir().expect("there is a place for temporary files");
    let dir = place.path().join("data");
    let superblocks = 2 * superblock::SUPERBLOCK_FILE_SIZE as u64;
    for free in
        [0, JOURNAL_SIZE_MIN, 2 * JOURNAL_SIZE_MIN - 1, 2 * JOURNAL_SIZE_MIN, 2 * JOURNAL_SIZE_MIN + superblocks - 1]
    {
        let disk = SmallDisk::new(free);
        let error = format_folder_on(&disk, &dir, &IDENTITY, JOURNAL_SIZE_MIN, &mut |_| {}).expect_err("it is full");
        let text = error.to_string();
        assert!(text.starts_with(&format!("cannot write {}/shard-00", dir.display())), "{text}");
        assert!(text.ends_with("(free some space or choose a smaller journal)"), "{text}");
        assert!(!dir.exists());
    }
    format_folder_on(
        &SmallDisk::new(2 * JOURNAL_SIZE_MIN + superblocks),
        &dir,
        &IDENTITY,
        JOURNAL_SIZE_MIN,
        &mut |_| {},
    )
    .expect("now there is just enough");
}

#[test]
fn a_folder_that_was_there_before_a_failure_stays() {
    let place = tempfile::tempdir().expect("there is a place for temporary files");
    let disk = SmallDisk::new(0);
    format_folder_on(&disk, place.path(), &IDENTITY, JOURNAL_SIZE_MIN, &mut |_| {}).expect_err("it is full");
    assert_eq!(names_in(place.path()), [""; 0]);
    format(place.path()).expect("the next attempt finds it as the first one did");
}

#[test]
fn a_formatted_folder_is_not_formatted_again() {
    let place = tempfile::tempdir().expect("there is a place for temporary files");
    format(place.path()).expect("it works");
    assert!(matches!(format(place.path()), Err(FolderError::AlreadyFormatted(_))));
    open_folder(place.path(), &Expected::default()).expect("nothing has happened to it");
}

#[test]
fn a_folder_with_other_things_in_it_is_refused_with_their_name() {
    let place = tempfile::tempdir().expect("there is a place for temporary files");
    fs::create_dir(place.path().join("lost+found")).expect("it can be created");
    fs::write(place.path().join("thesis.tex"), "x").expect("it can be written");
    let error = format(place.path()).expect_err("it is not empty");
    assert!(error.to_string().contains("is not empty, it holds thesis.tex"), "{error}");
    assert_eq!(names_in(place.path()), ["lost+found", "thesis.tex"]);
    fs::remove_file(place.path().join("thesis.tex")).expect("it can be removed");
    format(place.path()).expect("the root of a fresh file system is as good as empty");
}

#[test]
fn a_file_in_the_folders_place_is_refused() {
    let place = tempfile::tempdir().expect("there is a place for temporary files");
    let path = place.path().join("file");
    fs::write(&path, "x").expect("it can be written");
    assert!(matches!(format(&path), Err(FolderError::NotAFolder(_))));
}

#[test]
fn settings_out_of_range_are_named() {
    let place = tempfile::tempdir().expect("there is a place for temporary files");
    let dir = place.path().join("data");
    let cases = [
        (Identity { servers: 0, replica: 0, ..IDENTITY }, JOURNAL_SIZE_MIN, "0 servers: 1 to 7 are possible"),
        (Identity { servers: 8, ..IDENTITY }, JOURNAL_SIZE_MIN, "8 servers: 1 to 7 are possible"),
        (Identity { replica: 3, ..IDENTITY }, JOURNAL_SIZE_MIN, "server id 3: with 3 servers ids go from 0 to 2"),
        (Identity { shards: 0, ..IDENTITY }, JOURNAL_SIZE_MIN, "0 shards: 1 to 256 are possible"),
        (Identity { shards: 257, ..IDENTITY }, JOURNAL_SIZE_MIN, "257 shards: 1 to 256 are possible"),
        (Identity { cluster: 0, ..IDENTITY }, JOURNAL_SIZE_MIN, "cluster id 0 is reserved"),
        (IDENTITY, JOURNAL_SIZE_MIN - 4096, "journal size 16773120: it must be"),
        (IDENTITY, JOURNAL_SIZE_MIN + 1, "journal size 16777217: it must be"),
    ];
    for (identity, journal_size, text) in cases {
        let error = format_folder(&dir, &identity, journal_size, &mut |_| {}).expect_err("it is out of range");
        assert!(error.to_string().starts_with(text), "{error}");
        assert!(!dir.exists());
    }
}

#[test]
fn a_place_without_permission_is_named_with_the_remedy() {
    let place = tempfile::tempdir().expect("there is a place for temporary files");
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o500)).expect("it is ours");
    let dir = place.path().join("data");
    match format(&dir) {
        Err(error) => {
            let expected = format!("cannot create {}: Permission denied", dir.display());
            assert!(error.to_string().starts_with(&expected), "{error}");
            assert!(error.to_string().contains("run as the user"), "{error}");
        }
        // Permissions do not bind the superuser.
        Ok(()) => assert!(rustix::process::geteuid().is_root()),
    }
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o700)).expect("it is ours");
}
