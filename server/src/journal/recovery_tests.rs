use std::collections::BTreeMap;

use lockstep_proto::limits::DISK_FORMAT_VERSION;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use zerocopy::{
    FromZeros, IntoBytes,
    little_endian::{U16, U32, U64, U128},
};

use super::*;
use crate::journal::{
    fault::{ATOM_SIZE, FaultyFile},
    ring::AppendRefusal,
};

const CLUSTER: u128 = 77;
const SECTOR: u64 = SECTOR_SIZE as u64;

fn superblock(ring_sectors: u64, servers: u8) -> Superblock {
    let mut superblock = Superblock::new_zeroed();
    superblock.cluster = U128::new(CLUSTER);
    superblock.servers = servers;
    superblock.shards = U16::new(1);
    superblock.sequence = U64::new(1);
    superblock.journal_size = U64::new(ring_sectors * SECTOR);
    superblock.checkpoint_revision = U64::new(1);
    superblock
}

/// A prepare of so many sectors. The same arguments make the same bytes.
fn prepare(op: u64, parent: u128, commit: u64, sectors: u64, view: u64) -> (MessageHeader, Vec<u8>) {
    let mut header = MessageHeader::new(Command::Prepare, CLUSTER, 0, 0, view);
    header.op = U64::new(op);
    header.parent = U128::new(parent);
    header.commit = U64::new(commit);
    header.revision = U64::new(op);
    header.request_count = U32::new(1);
    header.timestamp_ns = U64::new(op * 1000);
    let body: Vec<u8> = (0..sectors * SECTOR - 300).map(|index| (index * 7 + op * 13 + view) as u8).collect();
    header.seal(&body);
    let mut message = header.as_bytes().to_vec();
    message.extend_from_slice(&body);
    message.resize((sectors * SECTOR) as usize, 0);
    (header, message)
}

/// A journal on a faulty disk, written to as a shard does.
struct Journal {
    file: FaultyFile,
    superblock: Superblock,
    ring: JournalRing,
    parent: u128,
    /// What the disk's writes in flight are, by op.
    in_flight: BTreeMap<u64, u64>,
}

impl Journal {
    fn new(ring_sectors: u64, servers: u8) -> Journal {
        Journal {
            file: FaultyFile::new((ring_sectors * SECTOR) as usize),
            superblock: superblock(ring_sectors, servers),
            ring: JournalRing::new(ring_sectors * SECTOR, 0, 1),
            parent: 0,
            in_flight: BTreeMap::new(),
        }
    }

    /// Submits the next prepare, which says that `commit` is committed.
    fn submit(&mut self, sectors: u64, commit: u64, view: u64) -> Result<MessageHeader, AppendRefusal> {
        let op = self.ring.last_op() + 1;
        let (header, message) = prepare(op, self.parent, commit, sectors, view);
        let at = self.ring.append(&header, message.len())?;
        self.in_flight.insert(op, self.file.submit(&message, at.offset));
        self.parent = header.checksum.get();
        Ok(header)
    }

    fn complete(&mut self, op: u64) {
        self.file.complete(self.in_flight.remove(&op).expect("it is in flight"));
        self.ring.complete(op);
    }

    /// Writes a prepare durably; everything before it counts as committed.
    fn put(&mut self, sectors: u64) -> u64 {
        let op = self.ring.last_op() + 1;
        self.submit(sectors, op - 1, 0).expect("there is room");
        self.complete(op);
        op
    }

    fn offset(&self, op: u64) -> u64 {
        self.ring.locate(op).expect("it is there").offset
    }

    /// Points the superblock to a checkpoint at `op` and releases the space.
    fn checkpoint(&mut self, op: u64) {
        let at = self.ring.locate(op).expect("it is there");
        self.superblock.checkpoint = U64::new(op);
        self.superblock.checkpoint_parent = U128::new(at.checksum);
        self.superblock.checkpoint_revision = U64::new(op + 1);
        self.superblock.journal_offset = U64::new(self.ring.scan_offset(op + 1));
        self.ring.release_below(op + 1);
    }

    /// The ops found, and how the log ends.
    fn recover(&self) -> Result<(Vec<u64>, RecoveredJournal), RecoveryError> {
        let mut recovery = Recovery::new(&self.file, &self.superblock, &Pool::new(16 << 20));
        let mut ops = Vec::new();
        while let Some(prepare) = recovery.next_prepare()? {
            let header = prepare.header;
            assert_eq!(MessageHeader::view(&prepare.message), Some(&header));
            let padded = (header.size.get() as usize).next_multiple_of(SECTOR_SIZE);
            assert_eq!(prepare.message.len(), padded);
            header.check_body(&prepare.message[256..header.size.get() as usize]).expect("the body is whole");
            ops.push(header.op.get());
        }
        Ok((ops, recovery.finish()?))
    }

    fn recovered(&self) -> (Vec<u64>, Tail) {
        let (ops, journal) = self.recover().expect("it can be recovered");
        (ops, journal.tail)
    }
}

#[test]
fn an_empty_journal_is_empty() {
    let journal = Journal::new(16, 3);
    let (ops, found) = journal.recover().expect("it can be recovered");
    assert!(ops.is_empty());
    assert_eq!(found.tail, Tail::Clean);
    assert_eq!(found.end, LogEnd { op: 0, checksum: 0, next_revision: 1, timestamp_ns: 0 });
    assert_eq!((found.ring.last_op(), found.ring.used_bytes()), (0, 0));
}

#[test]
fn what_was_written_is_found_with_its_places() {
    let mut journal = Journal::new(16, 3);
    for sectors in [1, 3, 2] {
        journal.put(sectors);
    }
    let (ops, found) = journal.recover().expect("it can be recovered");
    assert_eq!(ops, [1, 2, 3]);
    assert_eq!(found.tail, Tail::Clean);
    let end = LogEnd { op: 3, checksum: journal.parent, next_revision: 4, timestamp_ns: 3000 };
    assert_eq!(found.end, end);
    for op in 1..=3 {
        assert_eq!(found.ring.locate(op), journal.ring.locate(op));
    }
    assert_eq!((found.ring.durable_op(), found.ring.in_flight()), (3, 0));
}

#[test]
fn a_write_torn_at_any_sector_ends_the_log_before_it() {
    const SECTORS: u64 = 4;
    let atoms = (SECTORS * SECTOR) as usize / ATOM_SIZE;
    for survivors in 0..=atoms {
        for is_front in [true, false] {
            let mut journal = Journal::new(16, 3);
            journal.put(2);
            journal.submit(SECTORS, 1, 0).expect("there is room");
            journal.file.crash(|_, atom| if is_front { atom < survivors } else { atom >= atoms - survivors });
            let (ops, tail) = journal.recovered();
            // The last 44 bytes are padding, so the last atom is needed as well.
            if survivors == atoms {
                assert_eq!((ops, tail), (vec![1, 2], Tail::Clean));
            } else {
                assert_eq!(ops, [1]);
                let has_header = is_front && survivors > 0;
                let torn = Tail::Torn { op: 2, offset: 2 * SECTOR, ghosts: Vec::new() };
                assert_eq!(tail, if has_header { torn } else { Tail::Clean });
            }
        }
    }
}

#[test]
fn of_several_in_flight_a_later_survivor_does_not_count() {
    let mut journal = Journal::new(32, 3);
    journal.put(2);
    for _ in 0..3 {
        journal.submit(2, 1, 0).expect("there is room");
    }
    let lost = journal.in_flight[&2];
    journal.file.crash(|write, _| write != lost);
    let ghosts = [3, 4].map(|op| Ghost { op, offset: journal.offset(op), commit: 1 });
    let (ops, tail) = journal.recovered();
    assert_eq!(ops, [1]);
    assert_eq!(tail, Tail::Torn { op: 2, offset: 2 * SECTOR, ghosts: ghosts.to_vec() });
}

/// A prepare that had been dropped came back: its header had been left on disk, and a later prepare brought the body.
#[test]
fn a_header_left_behind_the_end_is_not_made_whole_by_a_later_prepare() {
    let mut journal = Journal::new(32, 3);
    journal.put(1);
    journal.submit(1, 1, 0).expect("there is room");
    journal.submit(2, 1, 0).expect("there is room");
    let third = journal.in_flight[&3];
    journal.file.crash(|write, atom| write == third && atom == 0);
    let (ops, found) = journal.recover().expect("it can be recovered");
    assert_eq!(ops, [1]);
    (journal.ring, journal.parent) = (found.ring, found.end.checksum);
    journal.in_flight.clear();
    // The second comes again as it was, and then the same request in another prepare.
    journal.submit(1, 1, 0).expect("there is room");
    journal.complete(2);
    journal.submit(2, 2, 0).expect("there is room");
    journal.file.crash(|_, atom| atom > 0);
    assert_eq!(journal.recovered().0, [1, 2], "the third is torn");
}

#[test]
fn a_later_survivor_that_knows_of_a_commit_elsewhere_does_not_make_it_rotten() {
    // A slow backup: the others have committed op 2 while it is still on its way to this disk.
    let mut journal = Journal::new(32, 3);
    journal.put(1);
    journal.submit(1, 1, 0).expect("there is room");
    journal.submit(1, 2, 0).expect("there is room");
    let lost = journal.in_flight[&2];
    journal.file.crash(|write, _| write != lost);
    let (ops, tail) = journal.recovered();
    assert_eq!(ops, [1]);
    assert!(matches!(tail, Tail::Torn { op: 2, .. }));
}

#[test]
fn ghosts_do_not_come_back_when_the_same_prepare_is_written_again() {
    let mut journal = Journal::new(32, 3);
    journal.put(1);
    let parent = journal.parent;
    journal.submit(1, 1, 0).expect("there is room");
    journal.submit(1, 1, 0).expect("there is room");
    let lost = journal.in_flight[&2];
    journal.file.crash(|write, _| write != lost);
    let (_, found) = journal.recover().expect("it can be recovered");
    (journal.ring, journal.parent) = (found.ring, parent);
    journal.in_flight.clear();
    // Another server sends op 2 again, and then this one stops before op 3.
    journal.put(1);
    assert_eq!(journal.recovered(), (vec![1, 2], Tail::Clean));
}

#[test]
fn a_torn_prepare_is_erased_before_something_else_completes_it() {
    let mut journal = Journal::new(32, 3);
    journal.put(1);
    journal.submit(2, 1, 0).expect("there is room");
    journal.file.crash(|_, atom| atom < 8);
    journal.recovered();
    assert_eq!(journal.recovered(), (vec![1], Tail::Clean));
    assert!(journal.file.bytes()[SECTOR_SIZE..2 * SECTOR_SIZE].iter().all(|&byte| byte == 0));
}

/// A journal whose op 5 is far enough behind the end that it must have been durable.
fn long_journal() -> Journal {
    let mut journal = Journal::new(2 * IN_FLIGHT_MAX, 3);
    for _ in 0..IN_FLIGHT_MAX + 10 {
        journal.put(1);
    }
    journal
}

#[test]
fn a_rotten_prepare_in_the_middle_ends_the_log_and_says_how_far_it_went() {
    let journal = long_journal();
    let offset = journal.offset(5);
    for byte in [0, 100, 255, 256, 2000, 3795] {
        journal.file.rot(offset + byte);
        let mut recovery = Recovery::new(&journal.file, &journal.superblock, &Pool::new(16 << 20));
        let before = journal.file.bytes();
        while recovery.next_prepare().expect("the disk works").is_some() {}
        match recovery.tail() {
            Some(Tail::Rotten { op, offset: at, later_op, ghosts }) => {
                assert_eq!((*op, *at, *later_op), (5, offset, IN_FLIGHT_MAX + 10));
                assert_eq!(ghosts.len() as u64, IN_FLIGHT_MAX + 5);
            }
            tail => panic!("{tail:?}"),
        }
        assert!(journal.file.bytes() == before, "nothing is erased before the end of the log is remembered");
        journal.file.rot(offset + byte);
    }
    assert_eq!(journal.recovered().1, Tail::Clean);
}

#[test]
fn what_follows_a_rotten_prepare_is_erased_at_the_end() {
    let journal = long_journal();
    journal.file.rot(journal.offset(5) + 256);
    assert!(matches!(journal.recovered(), (ops, Tail::Rotten { .. }) if ops == [1, 2, 3, 4]));
    assert_eq!(journal.recovered(), (vec![1, 2, 3, 4], Tail::Clean));
}

#[test]
fn a_journal_that_is_erased_as_a_whole_holds_nothing_at_all() {
    let journal = long_journal();
    journal.file.rot(journal.offset(5) + 256);
    erase_all(&journal.file, &journal.superblock, &Pool::new(16 << 20)).expect("the disk works");
    assert_eq!(journal.recovered(), (Vec::new(), Tail::Clean));
    for op in 1..=IN_FLIGHT_MAX + 10 {
        let offset = journal.offset(op) as usize;
        assert!(journal.file.bytes()[offset..offset + SECTOR_SIZE].iter().all(|&byte| byte == 0), "op {op}");
    }
}

#[test]
fn a_rotten_prepare_of_a_server_that_is_alone_is_an_error_and_nothing_is_changed() {
    let mut journal = Journal::new(2 * IN_FLIGHT_MAX, 1);
    for _ in 0..IN_FLIGHT_MAX + 10 {
        journal.put(1);
    }
    journal.file.rot(journal.offset(5) + 256);
    let before = journal.file.bytes();
    let error = journal.recover().expect_err("it is rotten");
    assert!(matches!(error, RecoveryError::Rotten { op: 5, .. }), "{error}");
    assert!(journal.file.bytes() == before);
}

#[test]
fn a_single_server_takes_a_commit_for_proof_of_rot() {
    let mut journal = Journal::new(16, 1);
    for _ in 0..4 {
        journal.put(1);
    }
    journal.file.rot(journal.offset(3) + 300);
    let error = journal.recover().expect_err("op 4 says that op 3 is committed");
    assert!(matches!(error, RecoveryError::Rotten { op: 3, later_op: 4, .. }));
    // Under durability `memory` it has committed without its disk.
    journal.superblock.has_lost_memory = 1;
    assert_eq!(journal.recovered().0, [1, 2]);
}

#[test]
fn a_rotten_last_prepare_cannot_be_told_from_a_torn_one() {
    let mut journal = Journal::new(16, 1);
    journal.put(1);
    journal.put(1);
    journal.file.rot(journal.offset(2) + 300);
    assert!(matches!(journal.recovered().1, Tail::Torn { op: 2, .. }));
}

#[test]
fn prepares_of_an_earlier_lap_are_not_mistaken_for_new_ones() {
    let mut journal = Journal::new(8, 3);
    for _ in 0..8 {
        journal.put(1);
    }
    journal.checkpoint(7);
    journal.put(1);
    journal.put(1);
    // Ops 3 to 7 are whole and lie behind op 10.
    assert_eq!(journal.recovered(), (vec![8, 9, 10], Tail::Clean));
}

#[test]
fn a_wrap_that_skips_the_end_of_the_ring_is_followed() {
    let mut journal = Journal::new(10, 3);
    for sectors in [4, 4, 3, 1] {
        if journal.ring.preview((sectors * SECTOR) as usize).is_none() {
            journal.checkpoint(journal.ring.last_op() - 1);
        }
        journal.put(sectors);
    }
    assert_eq!(journal.offset(3), 0);
    assert_eq!(journal.superblock.checkpoint.get(), 1);
    assert_eq!(journal.recovered(), (vec![2, 3, 4], Tail::Clean));
    // Nothing at all is found where the superblock points to; the prepare is at 0, since it would not have fitted.
    journal.checkpoint(2);
    journal.superblock.journal_offset = U64::new(8 * SECTOR);
    assert_eq!(journal.recovered(), (vec![3, 4], Tail::Clean));
}

#[test]
fn a_torn_prepare_at_the_start_after_a_skip_is_erased_there() {
    let mut journal = Journal::new(10, 3);
    journal.put(4);
    journal.put(4);
    journal.checkpoint(1);
    journal.submit(3, 2, 0).expect("there is room");
    journal.file.crash(|_, atom| atom < 10);
    let (ops, tail) = journal.recovered();
    assert_eq!(ops, [2]);
    assert!(matches!(tail, Tail::Torn { op: 3, .. }));
    assert!(journal.file.bytes()[..SECTOR_SIZE].iter().all(|&byte| byte == 0));
}

#[test]
fn a_full_ring_is_recovered() {
    for first_sectors in 1..4 {
        let mut journal = Journal::new(8, 3);
        journal.put(first_sectors);
        while journal.ring.preview(SECTOR_SIZE).is_some() {
            journal.put(1);
        }
        let last = journal.ring.last_op();
        journal.checkpoint(1);
        while journal.ring.preview(SECTOR_SIZE).is_some() {
            journal.put(1);
        }
        assert_eq!(journal.ring.free_bytes(), 0);
        assert_eq!(journal.recovered(), ((2..=last + first_sectors).collect(), Tail::Clean));
    }
}

#[test]
fn prepares_of_another_cluster_or_shard_are_nothing() {
    let mut journal = Journal::new(8, 3);
    journal.put(1);
    journal.superblock.shard = U16::new(1);
    assert_eq!(journal.recovered(), (vec![], Tail::Clean));
    journal.superblock.shard = U16::new(0);
    journal.superblock.cluster = U128::new(CLUSTER + 1);
    assert_eq!(journal.recovered(), (vec![], Tail::Clean));
}

#[test]
fn a_prepare_with_another_parent_ends_the_log() {
    let mut journal = Journal::new(8, 3);
    journal.put(1);
    journal.parent ^= 1;
    journal.put(1);
    assert!(matches!(journal.recovered(), (ops, Tail::Torn { op: 2, .. }) if ops == [1]));
    assert_eq!(journal.recovered(), (vec![1], Tail::Clean));
}

#[test]
fn a_prepare_inside_a_clients_value_is_not_evidence() {
    // A client stores a value that is, sector by sector, prepares with a high op of this very cluster.
    let mut journal = Journal::new(16, 3);
    journal.put(1);
    let (fake, fake_message) = prepare(5000, 1, 4999, 1, 0);
    let fake_size = fake.size.get() as usize;
    let (mut header, mut message) = prepare(2, journal.parent, 1, 4, 0);
    for sector in 1..4 {
        message[sector * SECTOR_SIZE..][..fake_size].copy_from_slice(&fake_message[..fake_size]);
    }
    let size = header.size.get() as usize;
    header.seal(&message[256..size]);
    message[..256].copy_from_slice(header.as_bytes());
    let at = journal.ring.append(&header, message.len()).expect("there is room");
    journal.file.complete(journal.file.submit(&message, at.offset));
    journal.ring.complete(2);
    journal.checkpoint(2);
    // In the log as well as in what an earlier lap has left it is skipped as the body that it is.
    assert_eq!(journal.recovered(), (vec![], Tail::Clean));
}

#[test]
fn another_version_is_not_ours_to_read() {
    let mut journal = Journal::new(8, 3);
    let (mut header, mut message) = prepare(1, 0, 0, 1, 0);
    header.version = U16::new(DISK_FORMAT_VERSION + 1);
    let size = header.size.get() as usize;
    header.seal(&message[256..size]);
    message[..256].copy_from_slice(header.as_bytes());
    journal.file.complete(journal.file.submit(&message, 0));
    journal.ring = JournalRing::new(8 * SECTOR, 0, 1);
    assert_eq!(journal.recovered().0, [0; 0]);
}

#[test]
fn a_disk_that_cannot_be_read_is_named_with_the_place_and_what_to_do() {
    let mut journal = Journal::new(8, 3);
    journal.put(1);
    journal.file.fail_reads_of(5000);
    let error = journal.recover().expect_err("the disk fails");
    let error = error.to_string();
    assert!(error.starts_with("cannot read the journal at byte 0: Input/output error"), "{error}");
    assert!(error.contains("`lockstep-server recover`") && !error.contains('\n'), "{error}");
}

#[test]
fn a_crash_while_truncated_prepares_are_erased_leaves_a_log() {
    for erased in 0..=3 {
        let mut journal = Journal::new(16, 3);
        for _ in 0..5 {
            journal.put(1);
        }
        let sectors = journal.ring.truncate_after(2);
        assert_eq!(sectors.len(), 3);
        erase(&journal.file, &sectors[..erased]).expect("the disk works");
        let expected: Vec<u64> = (1..=5 - erased as u64).collect();
        assert_eq!(journal.recovered(), (expected, Tail::Clean));
    }
}

/// Random lives of a journal: appends, completions, checkpoints, truncations and crashes in which any part of what was
/// in flight is lost or damaged, and now and then something that was durable, too. After each crash the log must hold
/// everything that had completed in order, up to what has rotted, nothing that was not its own, and nothing that had
/// been dropped.
fn live(seed: u64, ring_sectors: u64, steps: usize) {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut journal = Journal::new(ring_sectors, 3);
    // The checksum of every op of the log as it is now.
    let mut log: Vec<u128> = vec![0];
    let mut view = 0;
    for _ in 0..steps {
        match rng.random_range(0..20) {
            0..=9 => {
                let sectors = if rng.random_bool(0.2) { rng.random_range(1..8) } else { 1 };
                let commit = rng.random_range(journal.superblock.checkpoint.get()..=journal.ring.durable_op());
                if let Ok(header) = journal.submit(sectors, commit, view) {
                    log.push(header.checksum.get());
                }
            }
            10..=15 => {
                let index = rng.random_range(0..journal.in_flight.len().max(1));
                if let Some(op) = journal.in_flight.keys().nth(index).copied() {
                    journal.complete(op);
                }
            }
            16 => {
                let range = journal.superblock.checkpoint.get()..=journal.ring.durable_op();
                let op = rng.random_range(range);
                if op > journal.superblock.checkpoint.get() {
                    journal.checkpoint(op);
                }
            }
            17 => {
                while let Some(op) = journal.in_flight.keys().next().copied() {
                    journal.complete(op);
                }
                let low = journal.ring.last_op().saturating_sub(4).max(journal.superblock.checkpoint.get());
                let op = rng.random_range(low..=journal.ring.last_op());
                let sectors = journal.ring.truncate_after(op);
                erase(&journal.file, &sectors).expect("the disk works");
                log.truncate(op as usize + 1);
                journal.parent = log[op as usize];
                // The same prepares may come again, or others.
                view += u64::from(rng.random_bool(0.5));
            }
            _ => crash_and_recover(&mut journal, &mut log, &mut rng),
        }
    }
}

/// What a crash leaves of a write: any pieces, the header without the body, or the body without the header.
fn reaches_the_disk(rng: &mut Xoshiro256PlusPlus, shape: u32, kept: f64, atom: usize) -> bool {
    match shape {
        0 => rng.random_bool(kept),
        1 => atom == 0,
        _ => atom > 0,
    }
}

/// A bit of a prepare that had been durable flips. Returns its op.
fn rot(journal: &Journal, rng: &mut Xoshiro256PlusPlus) -> Option<u64> {
    let live = journal.superblock.checkpoint.get() + 1..=journal.ring.durable_op();
    let op = (!live.is_empty()).then(|| rng.random_range(live))?;
    let at = journal.ring.locate(op).expect("it is there");
    journal.file.rot(at.offset + rng.random_range(0..at.padded_size as u64));
    Some(op)
}

fn crash_and_recover(journal: &mut Journal, log: &mut Vec<u128>, rng: &mut Xoshiro256PlusPlus) {
    let rotten = if rng.random_bool(0.1) { rot(journal, rng) } else { None };
    let kept = rng.random_range(0..=10) as f64 / 10.0;
    let (is_torn, is_damaged) = (rng.random_bool(0.5), rng.random_bool(0.2));
    let mut drawn = BTreeMap::new();
    let survives = |write: u64, atom: usize| {
        let (is_kept, shape) = *drawn.entry(write).or_insert_with(|| (rng.random_bool(kept), rng.random_range(0..3)));
        if is_torn { reaches_the_disk(rng, shape, kept, atom) } else { is_kept }
    };
    if is_damaged {
        journal.file.crash_with_damage(survives)
    } else {
        journal.file.crash(survives)
    }
    journal.in_flight.clear();
    let durable_op = journal.ring.durable_op();
    let (ops, found) = journal.recover().expect("the disk works");
    let end = found.end;
    let least = rotten.map_or(durable_op, |op| op - 1);
    assert!(end.op >= least, "op {least} was durable and whole, the log ends at {}", end.op);
    assert!(end.op < log.len() as u64, "op {} was not placed or had been dropped", end.op);
    assert_eq!(ops, (journal.superblock.checkpoint.get() + 1..=end.op).collect::<Vec<_>>());
    for op in ops {
        assert_eq!(found.ring.locate(op).map(|at| at.checksum), Some(log[op as usize]));
    }
    assert_eq!(end.checksum, log[end.op as usize]);
    log.truncate(end.op as usize + 1);
    (journal.parent, journal.ring) = (end.checksum, found.ring);
    // Starting a second time at once changes nothing.
    let (_, again) = journal.recover().expect("the disk works");
    assert_eq!((again.end, again.tail), (end, Tail::Clean));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_life_of_a_journal_loses_a_completed_prefix(seed: u64, ring_sectors in 8..64u64) {
        live(seed, ring_sectors, 300);
    }
}
