use std::fs::OpenOptions;

use zerocopy::{IntoBytes, little_endian::U64};

use super::*;
use crate::{
    buffers::Pool,
    journal::{folder::JOURNAL_SIZE_MIN, format::format_folder, recovery::Recovery},
};

const IDENTITY: Identity = Identity { cluster: 5, replica: 1, servers: 3, shards: 2 };

fn formatted(identity: &Identity) -> tempfile::TempDir {
    let place = tempfile::tempdir().expect("there is a place for temporary files");
    format_folder(place.path(), identity, JOURNAL_SIZE_MIN, &mut |_| {}).expect("it can be formatted");
    place
}

fn open_error(dir: &Path, expected: &Expected) -> String {
    let text = open_folder(dir, expected).expect_err("it must be refused").to_string();
    assert!(!text.contains('\n'), "one line: {text}");
    text
}

fn superblock_path(dir: &Path, shard: u16) -> PathBuf {
    shard_path(dir, shard).join(SUPERBLOCK_NAME)
}

/// Changes the superblock as another program might have left it.
fn change_superblock(dir: &Path, shard: u16, change: impl FnOnce(&mut Superblock)) {
    let path = superblock_path(dir, shard);
    let mut bytes = fs::read(&path).expect("it is there");
    let mut superblock = Superblock::parse(&bytes).expect("it is whole");
    change(&mut superblock);
    superblock.checksum = lockstep_proto::checksum::checksum_128(&superblock.as_bytes()[16..]).into();
    for sector in bytes.chunks_exact_mut(SECTOR_SIZE) {
        sector[..Superblock::SIZE].copy_from_slice(superblock.as_bytes());
    }
    fs::write(&path, bytes).expect("it can be written");
}

#[test]
fn a_formatted_folder_opens_with_every_shard() {
    let place = formatted(&IDENTITY);
    let expected = Expected {
        cluster: Some(5),
        replica: Some(1),
        servers: Some(3),
        shards: Some(2),
        journal_size: Some(JOURNAL_SIZE_MIN),
    };
    let opened = open_folder(place.path(), &expected).expect("it is the expected one");
    assert_eq!(opened.identity, IDENTITY);
    assert_eq!(opened.shards.len(), 2);
    for shard in &opened.shards {
        assert_eq!((shard.repaired_copies, shard.checkpoint_path()), (0, None));
        let recovery = Recovery::new(&shard.journal, &shard.superblock, &Pool::new(0));
        let journal = recovery.finish().expect("it is empty");
        assert_eq!(journal.end.op, 0);
    }
}

#[test]
fn a_missing_folder_is_named_with_the_remedy() {
    let place = tempfile::tempdir().expect("there is a place for temporary files");
    let dir = place.path().join("nowhere");
    let expected = format!(
        "data folder {0} does not exist: make it with `lockstep-server format --data-dir {0} ...`",
        dir.display()
    );
    assert_eq!(open_error(&dir, &Expected::default()), expected);
}

#[test]
fn a_file_is_not_a_folder() {
    let file = tempfile::NamedTempFile::new().expect("there is a place for temporary files");
    assert!(open_error(file.path(), &Expected::default()).contains("is not a folder"));
}

#[test]
fn an_unformatted_folder_is_refused() {
    let place = tempfile::tempdir().expect("there is a place for temporary files");
    assert!(open_error(place.path(), &Expected::default()).contains("is not formatted: run"));
}

#[test]
fn an_interrupted_format_is_refused_as_incomplete() {
    let place = formatted(&IDENTITY);
    fs::remove_file(superblock_path(place.path(), 0)).expect("it is there");
    let text = open_error(place.path(), &Expected::default());
    assert!(text.contains("is incomplete") && text.contains("shard-000/superblock is missing"), "{text}");
}

#[test]
fn a_locked_folder_is_refused_until_it_is_let_go() {
    let place = formatted(&IDENTITY);
    let opened = open_folder(place.path(), &Expected::default()).expect("nobody has it");
    let expected = format!(
        "data folder {} is in use by another process (pid {}): stop that one first, or give another folder",
        place.path().display(),
        std::process::id()
    );
    assert_eq!(open_error(place.path(), &Expected::default()), expected);
    drop(opened);
    open_folder(place.path(), &Expected::default()).expect("nobody has it any more");
}

#[test]
fn folders_of_others_are_refused_with_what_differs() {
    let place = formatted(&IDENTITY);
    let cases = [
        (
            Expected { cluster: Some(6), ..Expected::default() },
            "belongs to cluster 00000000000000000000000000000005, not",
        ),
        (Expected { replica: Some(2), ..Expected::default() }, "belongs to server 1, not 2"),
        (Expected { servers: Some(5), ..Expected::default() }, "number of servers is 3, not 5"),
        (Expected { shards: Some(4), ..Expected::default() }, "number of shards is 2, not 4"),
        (Expected { journal_size: Some(1), ..Expected::default() }, "journal size is 16777216, not 1"),
    ];
    for (expected, text) in cases {
        let error = open_error(place.path(), &expected);
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn a_shard_folder_of_another_server_is_refused() {
    let place = formatted(&IDENTITY);
    let other = formatted(&Identity { replica: 2, ..IDENTITY });
    fs::remove_dir_all(shard_path(place.path(), 1)).expect("it is there");
    fs::rename(shard_path(other.path(), 1), shard_path(place.path(), 1)).expect("same file system");
    let text = open_error(place.path(), &Expected::default());
    assert!(text.contains("shard-001 belongs to server 2, not 1"), "{text}");
}

#[test]
fn a_renamed_shard_folder_is_refused() {
    let place = formatted(&IDENTITY);
    let (first, second) = (shard_path(place.path(), 0), shard_path(place.path(), 1));
    fs::rename(&first, place.path().join("x")).expect("it is there");
    fs::rename(&second, &first).expect("it is there");
    let text = open_error(place.path(), &Expected::default());
    assert!(text.contains("shard-000 belongs to shard 1, not 0"), "{text}");
}

#[test]
fn a_missing_shard_folder_is_refused() {
    let place = formatted(&IDENTITY);
    fs::remove_dir_all(shard_path(place.path(), 1)).expect("it is there");
    let text = open_error(place.path(), &Expected::default());
    assert!(text.contains("is incomplete") && text.contains("shard-001/superblock is missing"), "{text}");
}

#[test]
fn another_version_of_the_format_is_refused_by_number() {
    for version in [0, 1, lockstep_proto::limits::WIRE_VERSION, 999] {
        let place = formatted(&IDENTITY);
        change_superblock(place.path(), 0, |superblock| superblock.version = version.into());
        let before = fs::read(superblock_path(place.path(), 0)).expect("it is there");
        let text = open_error(place.path(), &Expected::default());
        assert!(text.contains(&format!("on-disk format version {version} is not supported")), "{text}");
        assert_eq!(fs::read(superblock_path(place.path(), 0)).expect("it is there"), before);
    }
}

#[test]
fn a_journal_of_another_size_is_refused() {
    let place = formatted(&IDENTITY);
    let path = shard_path(place.path(), 1).join(JOURNAL_NAME);
    let file = OpenOptions::new().write(true).open(&path).expect("it is there");
    file.set_len(JOURNAL_SIZE_MIN - 4096).expect("it can be cut off");
    let text = open_error(place.path(), &Expected::default());
    assert!(text.contains("shard-001/journal is 16773120 bytes large, but the superblock says 16777216"), "{text}");
    fs::remove_file(&path).expect("it is there");
    assert!(open_error(place.path(), &Expected::default()).contains("shard-001/journal is missing"));
}

#[test]
fn damaged_superblock_copies_are_rewritten_at_start() {
    let place = formatted(&IDENTITY);
    let path = superblock_path(place.path(), 0);
    let whole = fs::read(&path).expect("it is there");
    let mut bytes = whole.clone();
    bytes[100] ^= 1;
    bytes[3 * SECTOR_SIZE + 20] ^= 1;
    fs::write(&path, bytes).expect("it can be written");
    let opened = open_folder(place.path(), &Expected::default()).expect("two copies are whole");
    assert_eq!(opened.shards[0].repaired_copies, 2);
    assert_eq!(fs::read(&path).expect("it is there"), whole);
}

#[test]
fn leftovers_of_checkpoints_are_removed_at_start_and_nothing_else() {
    let place = formatted(&IDENTITY);
    let dir = shard_path(place.path(), 0);
    change_superblock(place.path(), 0, |superblock| superblock.checkpoint = U64::new(9));
    let kept = ["checkpoint-9", "checkpoint-", "checkpoint-9.bak", "notes"];
    let removed = ["checkpoint-9.tmp", "checkpoint-8", "checkpoint-12", "checkpoint-12.tmp"];
    for name in kept.iter().chain(&removed) {
        fs::write(dir.join(name), "x").expect("it can be written");
    }
    let opened = open_folder(place.path(), &Expected::default()).expect("it is ours");
    assert_eq!(opened.shards[0].checkpoint_path(), Some(dir.join("checkpoint-9")));
    assert!(kept.iter().all(|name| dir.join(name).exists()));
    assert!(removed.iter().all(|name| !dir.join(name).exists()));
}
