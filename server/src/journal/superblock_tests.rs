use zerocopy::{FromZeros, little_endian::U16};

use super::*;
use crate::journal::fault::{ATOM_SIZE, FaultyFile};

fn superblock(sequence: u64) -> Superblock {
    let mut superblock = Superblock::new_zeroed();
    superblock.cluster = 7.into();
    superblock.servers = 3;
    superblock.shards = U16::new(1);
    superblock.journal_size = U64::new(1 << 24);
    superblock.sequence = U64::new(sequence);
    superblock.view = U64::new(sequence * 3);
    superblock.seal();
    superblock
}

fn disk(sequences: [u64; SUPERBLOCK_COPIES]) -> FaultyFile {
    let file = FaultyFile::new(SUPERBLOCK_FILE_SIZE);
    for (copy, sequence) in sequences.into_iter().enumerate() {
        file.complete(file.submit(superblock(sequence).as_bytes(), (copy * SECTOR_SIZE) as u64));
    }
    file
}

fn rot(file: &FaultyFile, copy: usize) {
    file.rot((copy * SECTOR_SIZE + 60) as u64);
}

/// Every set of copies, as bits.
fn sets() -> impl Iterator<Item = (u32, Vec<usize>)> {
    (0..1u32 << SUPERBLOCK_COPIES)
        .map(|set| (set, (0..SUPERBLOCK_COPIES).filter(|copy| set >> copy & 1 == 1).collect()))
}

#[test]
fn what_is_written_is_read() {
    let file = FaultyFile::new(SUPERBLOCK_FILE_SIZE);
    write(&file, &superblock(5)).expect("the disk works");
    let reading = read(&file).expect("it is whole");
    assert_eq!(reading.superblock, superblock(5));
    assert!(reading.is_complete());
}

#[test]
fn up_to_two_bad_copies_are_survived_and_repaired_and_more_are_refused() {
    for (_, bad) in sets() {
        let file = disk([5; SUPERBLOCK_COPIES]);
        bad.iter().for_each(|&copy| rot(&file, copy));
        match (bad.len(), read(&file)) {
            (0..=2, Ok(reading)) => {
                assert_eq!(reading.superblock, superblock(5));
                assert_eq!(reading.is_complete(), bad.is_empty());
                repair(&file, &reading).expect("the disk works");
                assert!(read(&file).expect("it is whole").is_complete());
            }
            (3, Err(error @ SuperblockReadError::Damaged { whole: 1 })) => {
                let text = error.to_string();
                let says = "superblock is damaged: only 1 of 4 copies are whole, 2 are needed";
                assert!(text.starts_with(says) && text.contains("recover"), "{text}");
            }
            (4, Err(SuperblockReadError::Damaged { whole: 0 })) => {}
            (bad, result) => panic!("{bad} bad copies: {result:?}"),
        }
    }
}

#[test]
fn zeroes_and_short_files_are_not_formatted() {
    for size in [0, SECTOR_SIZE, SUPERBLOCK_FILE_SIZE] {
        assert!(matches!(read(&FaultyFile::new(size)), Err(SuperblockReadError::NotFormatted)));
    }
}

#[test]
fn another_version_wins_over_damage_and_is_never_repaired_away() {
    let file = disk([5; SUPERBLOCK_COPIES]);
    let mut newer = superblock(6);
    newer.version = U16::new(1);
    newer.checksum = lockstep_proto::checksum::checksum_128(&newer.as_bytes()[16..]).into();
    file.complete(file.submit(newer.as_bytes(), 0));
    rot(&file, 1);
    assert!(matches!(read(&file), Err(SuperblockReadError::Version(1))));
}

#[test]
fn two_whole_copies_that_contradict_each_other_are_refused() {
    let file = disk([5; SUPERBLOCK_COPIES]);
    let mut other = superblock(5);
    other.view = U64::new(99);
    other.seal();
    file.complete(file.submit(other.as_bytes(), 0));
    assert!(matches!(read(&file), Err(SuperblockReadError::Contradiction { sequence: 5 })));
}

/// Which copies of a step survive a crash, by the bits of a number.
fn survives(survivors: u32) -> impl Fn(u64, usize) -> bool {
    move |_, atom| survivors >> (atom * ATOM_SIZE / SECTOR_SIZE) & 1 == 1
}

/// Writes the steps up to `step`, and lets the power go during that one: those copies of it survive whose bit is set,
/// and the others are old, or damaged if `is_torn`.
fn crash_in_step(file: &FaultyFile, write: &SuperblockWrite, step: usize, survivors: u32, is_torn: bool) {
    for done in &write.steps[..step] {
        file.complete(file.submit(&done.bytes, done.offset));
    }
    let Some(cut_off) = write.steps.get(step) else { return };
    file.submit(&cut_off.bytes, cut_off.offset);
    if is_torn { file.crash_with_damage(survives(survivors)) } else { file.crash(survives(survivors)) }
}

#[test]
fn a_crash_at_any_point_of_a_write_leaves_the_old_or_the_new_one() {
    for step in 0..=SUPERBLOCK_STEPS {
        for survivors in 0..1 << COPIES_PER_STEP {
            for is_torn in [false, true] {
                let file = disk([5; SUPERBLOCK_COPIES]);
                let pool = Pool::new(0);
                crash_in_step(&file, &SuperblockWrite::new(&superblock(6), &pool), step, survivors, is_torn);
                let found = read(&file).expect("a crash leaves two whole copies").superblock;
                let is_new = step > 0 || survivors != 0;
                assert_eq!(found, superblock(if is_new { 6 } else { 5 }));
            }
        }
    }
}

#[test]
fn what_a_start_has_seen_is_never_lost_by_a_crash_in_the_next_one() {
    // A write is cut off; the next start reads, and is killed while it repairs; the start after that must see as much.
    let sets = || 0..1 << COPIES_PER_STEP;
    for (step, survivors, writes, kept) in (0..SUPERBLOCK_STEPS)
        .flat_map(|step| sets().map(move |survivors| (step, survivors)))
        .flat_map(|(step, survivors)| (0..=SUPERBLOCK_COPIES).map(move |writes| (step, survivors, writes)))
        .flat_map(|(step, survivors, writes)| sets().map(move |kept| (step, survivors, writes, kept)))
    {
        let file = disk([5; SUPERBLOCK_COPIES]);
        crash_in_step(&file, &SuperblockWrite::new(&superblock(6), &Pool::new(0)), step, survivors, true);
        let reading = read(&file).expect("a crash leaves two whole copies");
        file.kill_after_writes(writes);
        let first_write = file.next_write();
        let is_repaired = repair(&file, &reading).is_ok();
        // Every write of a repair is one copy.
        file.crash_with_damage(|write, _| kept >> ((write - first_write) % 2) & 1 == 1);
        let again = read(&file).expect("a crash leaves two whole copies");
        assert_eq!(again.superblock, reading.superblock);
        assert!(!is_repaired || again.is_complete());
    }
}

#[test]
fn the_writer_counts_and_has_one_write_in_flight() {
    let pool = Pool::new(1 << 20);
    let mut writer = SuperblockWriter::new(superblock(5));
    let write = writer.begin(&pool, |superblock| superblock.view = U64::new(20));
    assert!(writer.is_busy());
    assert_eq!(writer.durable().view.get(), 15);
    let file = disk([5; SUPERBLOCK_COPIES]);
    for (index, step) in write.steps.iter().enumerate() {
        assert_eq!(step.offset, (index * COPIES_PER_STEP * SECTOR_SIZE) as u64);
        assert!((step.bytes.as_ptr() as usize).is_multiple_of(SECTOR_SIZE));
        assert!(step.bytes.len().is_multiple_of(SECTOR_SIZE));
        file.complete(file.submit(&step.bytes, step.offset));
    }
    assert_eq!((writer.finish().view.get(), writer.durable().sequence.get()), (20, 6));
    assert!(!writer.is_busy());
    let reading = read(&file).expect("it is whole");
    assert!(reading.is_complete());
    assert_eq!(reading.superblock, *writer.durable());
}

#[test]
#[should_panic(expected = "one superblock write at a time")]
fn a_second_write_must_wait() {
    let mut writer = SuperblockWriter::new(superblock(5));
    let pool = Pool::new(0);
    let _first = writer.begin(&pool, |_| {});
    writer.begin(&pool, |_| {});
}
