use std::fs;

use lockstep_proto::{
    limits::{DISK_FORMAT_VERSION, SECTOR_SIZE},
    superblock::Superblock,
};
use proptest::prelude::*;
use zerocopy::{
    FromBytes, FromZeros, IntoBytes,
    little_endian::{U16, U128},
};

use super::{
    install::{checkpoint_path, create_temporary, install, remove_leftovers, temporary_path},
    layout::{CHUNK_PAYLOAD_MAX, CHUNK_SIZE_MAX, CheckpointHeader, Section},
    reader::{CheckpointError, expected_by, read_checkpoint},
    writer::{CheckpointMeta, CheckpointWriter, FinishedCheckpoint},
};
use crate::{
    buffers::Pool,
    journal::{
        fault::FaultyFile,
        file::{Access, BlockFile, DirectFiles, FileLayer},
    },
};

const META: CheckpointMeta =
    CheckpointMeta { cluster: 7, shard: 1, shards: 4, op: 90, parent: 123, revision: 4000, timestamp_ns: 5 };

fn stream(size: usize, seed: usize) -> Vec<u8> {
    (0..size).map(|index| (index * 31 + index / 251 + seed) as u8).collect()
}

/// A checkpoint file in memory, made from two streams in pieces of the given size.
fn make(store: &[u8], sessions: &[u8], piece_size: usize) -> (FaultyFile, FinishedCheckpoint) {
    let pool = Pool::new(8 << 20);
    let mut writer = CheckpointWriter::new(META, &pool);
    let mut writes = Vec::new();
    for (section, bytes) in [(Section::Store, store), (Section::Sessions, sessions)] {
        for piece in bytes.chunks(piece_size) {
            writer.push(section, piece);
            writes.extend(std::iter::from_fn(|| writer.next_write()));
        }
    }
    let size_before = writer.size();
    let (rest, finished) = writer.finish(999);
    writes.extend(rest);
    assert!(finished.size > size_before);
    let file = FaultyFile::new(finished.size as usize);
    let mut end = 0;
    for write in &writes {
        assert_eq!(write.offset, end, "front to back, without gaps");
        assert!((write.bytes.as_ptr() as usize).is_multiple_of(SECTOR_SIZE));
        assert!(write.bytes.len().is_multiple_of(SECTOR_SIZE));
        assert!(write.bytes.len() <= CHUNK_SIZE_MAX);
        end += write.bytes.len() as u64;
        file.complete(file.submit(&write.bytes, write.offset));
    }
    assert_eq!(end, finished.size);
    assert_eq!(finished.checksum, lockstep_proto::checksum::checksum_128(&file.bytes()));
    (file, finished)
}

/// Both streams of a checkpoint. Megabytes of numbers in a failure would not tell anybody more, so they are not shown.
#[derive(PartialEq)]
struct Streams(Vec<u8>, Vec<u8>);

impl std::fmt::Debug for Streams {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "streams of {} and {} bytes", self.0.len(), self.1.len())
    }
}

fn load(file: &impl BlockFile, expected: &FinishedCheckpoint) -> Result<Streams, CheckpointError> {
    let (mut store, mut sessions) = (Vec::new(), Vec::new());
    read_checkpoint(file, expected, &Pool::new(0), &mut |section, bytes| {
        match section {
            Section::Store => store.extend_from_slice(bytes),
            Section::Sessions => sessions.extend_from_slice(bytes),
        }
        Ok(())
    })?;
    Ok(Streams(store, sessions))
}

#[test]
fn streams_come_back_whatever_the_pieces() {
    for (store_size, sessions_size, piece_size) in [
        (0, 0, 1),
        (1, 0, 1),
        (0, 1, 1),
        (CHUNK_PAYLOAD_MAX, 10, 4096),
        (CHUNK_PAYLOAD_MAX + 1, CHUNK_PAYLOAD_MAX, 70_000),
        (3 * CHUNK_PAYLOAD_MAX - 1, 2 * CHUNK_PAYLOAD_MAX + 5, 5 << 20),
    ] {
        let (store, sessions) = (stream(store_size, 1), stream(sessions_size, 2));
        let (file, finished) = make(&store, &sessions, piece_size);
        assert_eq!(load(&file, &finished).expect("it is whole"), Streams(store, sessions));
    }
}

#[test]
fn the_superblock_leads_back_to_the_checkpoint() {
    let (file, finished) = make(&stream(10, 0), &[], 10);
    let mut superblock = Superblock::new_zeroed();
    assert_eq!(expected_by(&superblock), None);
    superblock.cluster = META.cluster.into();
    superblock.shard = META.shard.into();
    superblock.shards = META.shards.into();
    finished.enter_into(&mut superblock, 8192);
    assert_eq!(superblock.journal_offset.get(), 8192);
    let expected = expected_by(&superblock).expect("it points to one");
    assert_eq!(expected, finished);
    load(&file, &expected).expect("it is whole");
}

#[test]
fn a_checkpoint_cut_off_anywhere_is_refused() {
    let (file, finished) = make(&stream(2 * CHUNK_PAYLOAD_MAX + 9000, 1), &stream(9000, 2), 1 << 20);
    let boundaries = [
        0,
        SECTOR_SIZE,
        SECTOR_SIZE + CHUNK_SIZE_MAX,
        SECTOR_SIZE + 2 * CHUNK_SIZE_MAX,
        finished.size as usize - 4 * SECTOR_SIZE,
        finished.size as usize - SECTOR_SIZE,
    ];
    for boundary in boundaries.into_iter().chain(boundaries.map(|boundary| boundary + 50)) {
        let cut = FaultyFile::new(finished.size as usize);
        cut.complete(cut.submit(&file.bytes(), 0));
        cut.truncate(boundary);
        let error = load(&cut, &finished).expect_err("it is cut off");
        assert!(matches!(error, CheckpointError::Damaged { offset, .. } if offset == boundary as u64), "{error}");
        // The rest lost, but the size kept: what a crash leaves of a file that was never synced.
        let zeroed = FaultyFile::new(finished.size as usize);
        zeroed.complete(zeroed.submit(&file.bytes()[..boundary], 0));
        let error = load(&zeroed, &finished).expect_err("its end is zeroes");
        assert!(matches!(error, CheckpointError::Damaged { .. }), "{error}");
    }
}

#[test]
fn an_empty_checkpoint_with_any_bit_flipped_is_refused() {
    let (file, finished) = make(b"store", b"sessions", 10);
    for byte in (0..finished.size).step_by(7) {
        file.rot(byte);
        let error = load(&file, &finished).expect_err("a bit has been flipped");
        assert!(matches!(error, CheckpointError::Damaged { .. }), "byte {byte}: {error}");
        file.rot(byte);
    }
    load(&file, &finished).expect("every bit has been flipped back");
}

#[test]
fn damage_is_found_before_the_chunk_is_handed_on() {
    let (file, finished) = make(&stream(3 * CHUNK_PAYLOAD_MAX, 1), &[], 1 << 20);
    file.rot((SECTOR_SIZE + CHUNK_SIZE_MAX + 5000) as u64);
    let mut loaded = 0;
    let result = read_checkpoint(&file, &finished, &Pool::new(0), &mut |_, bytes| {
        loaded += bytes.len();
        Ok(())
    });
    let error = result.expect_err("the second chunk is damaged");
    assert_eq!(error.to_string(), "checkpoint is damaged at byte 1052672: the checksum of a chunk");
    assert_eq!(loaded, CHUNK_PAYLOAD_MAX);
}

#[test]
fn chunks_of_another_place_or_checkpoint_are_refused() {
    let (file, finished) = make(&stream(2 * CHUNK_PAYLOAD_MAX, 1), &[], 1 << 20);
    let bytes = file.bytes();
    let second = &bytes[SECTOR_SIZE + CHUNK_SIZE_MAX..][..CHUNK_SIZE_MAX];
    file.complete(file.submit(second, SECTOR_SIZE as u64));
    let error = load(&file, &finished).expect_err("the second chunk is in the place of the first");
    assert!(error.to_string().ends_with("a chunk is not the one that belongs here"), "{error}");
}

#[test]
fn another_checkpoint_is_refused_with_what_differs() {
    let (file, finished) = make(b"store", b"sessions", 10);
    let with_meta = |change: fn(&mut CheckpointMeta)| {
        let mut expected = finished;
        change(&mut expected.meta);
        expected
    };
    let cases = [
        (with_meta(|meta| meta.cluster += 1), "cluster"),
        (with_meta(|meta| meta.shard += 1), "shard"),
        (with_meta(|meta| meta.op += 1), "place in the log"),
        (with_meta(|meta| meta.parent += 1), "place in the log"),
        (FinishedCheckpoint { state_hash: 998, ..finished }, "state hash"),
        (FinishedCheckpoint { size: finished.size - SECTOR_SIZE as u64, ..finished }, "size"),
    ];
    for (expected, what) in cases {
        let error = load(&file, &expected).expect_err("it is another one");
        assert!(matches!(error, CheckpointError::Other(found) if found == what), "{error}");
    }
    let expected = FinishedCheckpoint { checksum: finished.checksum ^ 1, ..finished };
    assert!(matches!(load(&file, &expected), Err(CheckpointError::Damaged { offset: 0, .. })));
}

#[test]
fn a_checkpoint_of_another_version_is_refused_with_both_and_is_no_damage() {
    let (file, finished) = make(b"store", b"sessions", 10);
    for version in [0, DISK_FORMAT_VERSION - 1, DISK_FORMAT_VERSION + 1, u16::MAX] {
        let mut bytes = file.bytes();
        let (mut header, _) = CheckpointHeader::read_from_prefix(&bytes).expect("there is one");
        header.version = U16::new(version);
        header.checksum = U128::new(header.expected_checksum());
        bytes[..CheckpointHeader::SIZE].copy_from_slice(header.as_bytes());
        let other = FaultyFile::new(bytes.len());
        other.complete(other.submit(&bytes, 0));
        let finished = FinishedCheckpoint { checksum: lockstep_proto::checksum::checksum_128(&bytes), ..finished };
        let error = load(&other, &finished).expect_err("this build cannot know what it means");
        assert!(matches!(error, CheckpointError::Version(found) if found == version), "{error}");
        assert!(!error.is_damage(), "it would be thrown away and asked for again");
        let text = error.to_string();
        let versions = [format!("version {version},"), format!("this build uses {DISK_FORMAT_VERSION}")];
        assert!(versions.iter().all(|words| text.contains(words)), "{text}");
    }
}

#[test]
fn a_loader_that_refuses_ends_the_reading_with_its_reason() {
    let (file, finished) = make(b"store", b"sessions", 10);
    let result = read_checkpoint(&file, &finished, &Pool::new(0), &mut |section, _| match section {
        Section::Store => Ok(()),
        Section::Sessions => Err("too many".to_owned()),
    });
    let text = result.expect_err("the loader refuses").to_string();
    assert_eq!(text, "the checkpoint's Sessions section cannot be loaded: too many");
}

#[test]
fn a_disk_that_cannot_be_read_is_named_with_the_place() {
    let (file, finished) = make(&stream(2 * CHUNK_PAYLOAD_MAX, 1), &[], 1 << 20);
    file.fail_reads_of((SECTOR_SIZE + CHUNK_SIZE_MAX + 1) as u64);
    let error = load(&file, &finished).expect_err("the disk fails");
    assert!(error.to_string().starts_with("cannot read the checkpoint at byte 1052672: Input/output"), "{error}");
}

#[test]
#[should_panic(expected = "sections have an order")]
fn a_section_does_not_come_twice() {
    let mut writer = CheckpointWriter::new(META, &Pool::new(0));
    writer.push(Section::Sessions, b"x");
    writer.push(Section::Store, b"x");
}

#[test]
fn a_checkpoint_comes_into_force_and_the_one_before_goes() {
    let place = tempfile::tempdir().expect("there is a place for temporary files");
    let dir = place.path();
    let (store, sessions) = (stream(CHUNK_PAYLOAD_MAX + 10, 1), stream(100, 2));
    let (contents, finished) = make(&store, &sessions, 1 << 20);
    fs::write(checkpoint_path(dir, 50), "the one before").expect("it can be written");
    fs::write(temporary_path(dir, META.op), "a leftover").expect("it can be written");
    let pool = Pool::new(0);
    let file = create_temporary(dir, META.op).expect("the leftover is replaced");
    for (index, piece) in contents.bytes().chunks(CHUNK_SIZE_MAX).enumerate() {
        let piece = pool.copy_padded(piece, SECTOR_SIZE);
        file.write_at(&piece, (index * CHUNK_SIZE_MAX) as u64).expect("the disk works");
    }
    file.sync().expect("the disk works");
    install(dir, META.op).expect("the disk works");
    assert_eq!(remove_leftovers(dir, META.op).expect("the disk works"), 1);
    assert_eq!(fs::read_dir(dir).expect("it is a folder").count(), 1);
    let file = DirectFiles.open(&checkpoint_path(dir, META.op), Access::Read).expect("it is there");
    assert_eq!(load(&file, &finished).expect("it is whole"), Streams(store, sessions));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn pieces_do_not_matter(sizes in prop::collection::vec(0..400_000usize, 0..12), sessions_size in 0..50_000usize) {
        let store = stream(sizes.iter().sum(), 3);
        let sessions = stream(sessions_size, 4);
        let mut writer = CheckpointWriter::new(META, &Pool::new(0));
        let mut rest = &store[..];
        for size in sizes {
            let (piece, after) = rest.split_at(size);
            writer.push(Section::Store, piece);
            rest = after;
        }
        writer.push(Section::Sessions, &sessions);
        let (_, finished) = writer.finish(999);
        let (_, at_once) = make(&store, &sessions, usize::MAX);
        prop_assert_eq!(finished, at_once);
    }
}
