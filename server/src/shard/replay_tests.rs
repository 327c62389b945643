//! A shard's files on a disk that damages them: what is found is right, what is lost is known, and nothing that was
//! acknowledged is forgotten without a word.

use lockstep_proto::{
    Operation,
    limits::SECTOR_SIZE,
    message::Command,
    request::{RequestParts, encode_request},
};
use lockstep_replica::{VOUCH_UNKNOWN, sessions::SessionsProgress};
use lockstep_store::CheckpointProgress;
use zerocopy::{
    FromZeros, IntoBytes,
    little_endian::{U16, U32},
};

use super::*;
use crate::{
    checkpoint::writer::{CheckpointMeta, CheckpointWriter},
    journal::{fault::FaultyFile, superblock::SUPERBLOCK_FILE_SIZE},
};

const CLUSTER: u128 = 77;
const RING_SECTORS: u64 = 64;
const IN_FLIGHT_MAX: u64 = 4;

fn settings() -> ReplaySettings {
    ReplaySettings {
        store: StoreConfig { hash_seed: [1, 2, 3, 4], shard: 0, shards: 1, bytes_max: u64::MAX },
        sessions_max: 8,
        pipeline_max: 4,
        in_flight_max: IN_FLIGHT_MAX,
    }
}

/// The files of a shard that has worked for a while.
struct Disk {
    superblock_file: FaultyFile,
    journal: FaultyFile,
    checkpoint: Option<FaultyFile>,
    superblock: Superblock,
    ring: JournalRing,
    machine: Machine,
}

impl Disk {
    fn new(servers: u8) -> Disk {
        let mut superblock = Superblock::new_zeroed();
        superblock.cluster = U128::new(CLUSTER);
        superblock.servers = servers;
        superblock.shards = U16::new(1);
        superblock.sequence = U64::new(1);
        superblock.journal_size = U64::new(RING_SECTORS * SECTOR_SIZE as u64);
        superblock.checkpoint_revision = U64::new(FIRST_REVISION);
        superblock.view = U64::new(7);
        superblock.log_view = U64::new(7);
        superblock.seal();
        let disk = Disk {
            superblock_file: FaultyFile::new(SUPERBLOCK_FILE_SIZE),
            journal: FaultyFile::new((RING_SECTORS * SECTOR_SIZE as u64) as usize),
            checkpoint: None,
            superblock,
            ring: JournalRing::with_in_flight_max(RING_SECTORS * SECTOR_SIZE as u64, 0, 1, IN_FLIGHT_MAX),
            machine: empty_machine(&superblock, &settings()),
        };
        superblock::write(&disk.superblock_file, &superblock).expect("the disk works");
        disk
    }

    /// A shard with a checkpoint at op 10 and ops up to 20.
    fn worked(servers: u8) -> Disk {
        let mut disk = Disk::new(servers);
        (0..10).for_each(|_| disk.put());
        disk.make_checkpoint();
        (0..10).for_each(|_| disk.put());
        disk
    }

    /// Journals the next prepare durably and applies it: a session, then puts in it.
    fn put(&mut self) {
        let op = self.machine.applied + 1;
        let mut body = Vec::new();
        let value = format!("value-{op}");
        let (operation, session, key) = if op == 1 {
            (Operation::Register, 0, String::new())
        } else {
            (Operation::Put, 1, format!("key-{}", op % 7))
        };
        let value = if op == 1 { &[] } else { value.as_bytes() };
        let parts =
            RequestParts { operation, flags: 0, session, sequence: op, key: key.as_bytes(), arguments: &[], value };
        encode_request(&parts, &mut body);
        let mut header = MessageHeader::new(Command::Prepare, CLUSTER, 0, 0, 7);
        header.op = U64::new(op);
        header.parent = U128::new(self.machine.checksum);
        header.commit = U64::new(op - 1);
        header.revision = U64::new(self.machine.revision);
        header.request_count = U32::new(1);
        header.timestamp_ns = U64::new(op * 1000);
        header.seal(&body);
        let mut message = [header.as_bytes(), &body].concat();
        message.resize(message.len().next_multiple_of(SECTOR_SIZE), 0);
        let at = self.ring.append(&header, message.len()).expect("there is room");
        self.journal.complete(self.journal.submit(&message, at.offset));
        self.ring.complete(op);
        self.machine.apply(&message, 0, &mut NoAnswers);
    }

    fn make_checkpoint(&mut self) {
        let (machine, pool) = (&mut self.machine, Pool::new(8 << 20));
        let meta = CheckpointMeta {
            cluster: CLUSTER,
            shard: 0,
            shards: 1,
            op: machine.applied,
            parent: machine.checksum,
            revision: machine.revision,
            timestamp_ns: machine.timestamp_ns,
        };
        let mut writer = CheckpointWriter::new(meta, &pool);
        let mut bytes = Vec::new();
        machine.store.checkpoint_begin();
        let CheckpointProgress::Done { state_hash: store_hash } = machine.store.checkpoint_step(1 << 20, &mut bytes)
        else {
            panic!("it is small")
        };
        writer.push(Section::Store, &bytes);
        bytes.clear();
        machine.sessions.checkpoint_begin();
        let SessionsProgress::Done { hash } = machine.sessions.checkpoint_step(1 << 20, &mut bytes) else {
            panic!("it is small")
        };
        writer.push(Section::Sessions, &bytes);
        let mut writes: Vec<_> = std::iter::from_fn(|| writer.next_write()).collect();
        let (rest, finished) = writer.finish(state_hash(store_hash, hash));
        writes.extend(rest);
        let file = FaultyFile::new(finished.size as usize);
        for write in writes {
            file.complete(file.submit(&write.bytes, write.offset));
        }
        self.checkpoint = Some(file);
        let journal_offset = self.ring.scan_offset(meta.op + 1);
        finished.enter_into(&mut self.superblock, journal_offset);
        rewrite(&self.superblock_file, &mut self.superblock).expect("the disk works");
        self.ring.release_below(meta.op + 1);
    }

    fn replay(&self) -> anyhow::Result<Replayed> {
        let superblock = superblock::read(&self.superblock_file)?.superblock;
        let files = ReplayFiles {
            superblock: &self.superblock_file,
            journal: &self.journal,
            checkpoint: self.checkpoint.as_ref().filter(|_| superblock.checkpoint.get() != 0),
        };
        replay(&files, &superblock, &settings(), &Pool::new(16 << 20))
    }

    fn replayed(&self) -> Replayed {
        let replayed = self.replay().expect("what is lost can be had from others");
        let on_disk = superblock::read(&self.superblock_file).expect("the disk works").superblock;
        assert_eq!(on_disk, replayed.superblock, "what is remembered is durable");
        assert_eq!(replayed.recovered.record, view_record(&on_disk));
        replayed
    }

    /// That there is no state at all, and that this is known, now and at the next start.
    fn assert_forgotten(&self, is_expected: impl Fn(&Loss) -> bool) {
        let first = self.replayed();
        assert!(first.loss.as_ref().is_some_and(is_expected), "{:?}", first.loss);
        let second = self.replayed();
        assert_eq!(second.loss, Some(Loss::Before));
        for replayed in [first, second] {
            assert_eq!(replayed.machine.applied, 0);
            assert!(replayed.machine.store.is_empty() && replayed.recovered.suffix.is_empty());
            let record = replayed.recovered.record;
            assert_eq!((record.vouch_op, record.view, record.log_view), (VOUCH_UNKNOWN, 7, 7));
            assert_eq!((replayed.end.op, replayed.superblock.checkpoint.get()), (0, 0));
        }
    }
}

#[test]
fn a_whole_folder_comes_back_as_it_was() {
    let disk = Disk::worked(3);
    let replayed = disk.replayed();
    assert_eq!(replayed.loss, None);
    assert_eq!((replayed.end.op, replayed.machine.applied), (20, 19));
    assert_eq!((replayed.recovered.checkpoint_op, replayed.recovered.record.vouch_op), (10, 0));
    assert_eq!(replayed.recovered.suffix.len(), 1);
}

#[test]
fn what_a_rotten_prepare_may_have_taken_along_is_remembered_before_it_is_erased() {
    let disk = Disk::worked(3);
    disk.journal.rot(disk.ring.locate(13).expect("it is there").offset + 300);
    let replayed = disk.replayed();
    assert!(matches!(replayed.loss, Some(Loss::Journal { op: 13, later_op: 20, .. })), "{:?}", replayed.loss);
    assert_eq!((replayed.end.op, replayed.recovered.record.vouch_op), (12, 20));
    let again = disk.replayed();
    assert_eq!((again.end.op, again.recovered.record.vouch_op, again.loss), (12, 20, None));
}

#[test]
fn a_crash_while_a_rotten_tail_is_given_up_loses_no_knowledge_of_it() {
    for writes in 0..12 {
        for is_journal in [false, true] {
            let disk = Disk::worked(3);
            disk.journal.rot(disk.ring.locate(13).expect("it is there").offset + 300);
            let file = if is_journal { &disk.journal } else { &disk.superblock_file };
            file.kill_after_writes(writes);
            let _ = disk.replay();
            disk.journal.crash(|id, _| id % 2 == 0);
            disk.superblock_file.crash(|id, _| id % 2 == 1);
            let reading = superblock::read(&disk.superblock_file).expect("two copies are whole");
            superblock::repair(&disk.superblock_file, &reading).expect("the disk works");
            let again = disk.replayed();
            assert_eq!((again.end.op, again.recovered.record.vouch_op), (12, 20), "{writes} writes");
        }
    }
}

#[test]
fn a_checkpoint_that_is_cut_off_anywhere_is_lost_and_known_to_be() {
    let size = Disk::worked(3).checkpoint.expect("there is one").bytes().len();
    for len in (0..size).step_by(509).chain([size - 1]) {
        let disk = Disk::worked(3);
        disk.checkpoint.as_ref().expect("there is one").truncate(len);
        disk.assert_forgotten(|loss| matches!(loss, Loss::Checkpoint(text) if text.contains("op 10")));
    }
}

#[test]
fn a_checkpoint_with_a_flipped_bit_or_without_a_file_is_lost_and_known_to_be() {
    let size = Disk::worked(3).checkpoint.expect("there is one").bytes().len();
    for byte in (0..size).step_by(307) {
        let disk = Disk::worked(3);
        disk.checkpoint.as_ref().expect("there is one").rot(byte as u64);
        disk.assert_forgotten(|loss| matches!(loss, Loss::Checkpoint(_)));
    }
    let mut disk = Disk::worked(3);
    disk.checkpoint.as_ref().expect("there is one").fail_reads_of(5000);
    disk.assert_forgotten(|loss| matches!(loss, Loss::Checkpoint(_)));
    disk = Disk::worked(3);
    disk.checkpoint = None;
    disk.assert_forgotten(|loss| matches!(loss, Loss::Checkpoint(text) if text.contains("missing")));
}

#[test]
fn a_crash_while_the_state_is_given_up_leaves_nothing_that_could_come_back() {
    for writes in 0..24 {
        for is_journal in [false, true] {
            let disk = Disk::worked(3);
            disk.checkpoint.as_ref().expect("there is one").rot(5000);
            let file = if is_journal { &disk.journal } else { &disk.superblock_file };
            file.kill_after_writes(writes);
            let _ = disk.replay();
            disk.journal.crash(|id, _| id % 3 == 0);
            disk.superblock_file.crash(|id, _| id % 2 == 0);
            let reading = superblock::read(&disk.superblock_file).expect("two copies are whole");
            superblock::repair(&disk.superblock_file, &reading).expect("the disk works");
            disk.assert_forgotten(|_| true);
        }
    }
}

#[test]
fn a_restart_of_a_server_with_durability_memory_has_lost_everything() {
    let mut disk = Disk::worked(3);
    disk.superblock.has_lost_memory = 1;
    rewrite(&disk.superblock_file, &mut disk.superblock).expect("the disk works");
    disk.assert_forgotten(|loss| *loss == Loss::Memory);
}

#[test]
fn a_server_that_is_alone_does_not_give_anything_up_and_changes_nothing() {
    let lose: [&dyn Fn(&mut Disk); 4] = [
        &|disk| disk.journal.rot(disk.ring.locate(13).expect("it is there").offset + 300),
        &|disk| disk.checkpoint.as_ref().expect("there is one").rot(5000),
        &|disk| disk.checkpoint = None,
        &|disk| {
            disk.superblock.has_lost_memory = 1;
            rewrite(&disk.superblock_file, &mut disk.superblock).expect("the disk works");
        },
    ];
    for lose in lose {
        let mut disk = Disk::worked(1);
        lose(&mut disk);
        let before = (disk.superblock_file.bytes(), disk.journal.bytes());
        let Err(error) = disk.replay() else { panic!("it must be refused") };
        let text = format!("{error:#}");
        assert!(text.contains("a server that is alone cannot fetch it") && !text.contains('\n'), "{text}");
        assert!((disk.superblock_file.bytes(), disk.journal.bytes()) == before);
    }
}

#[test]
fn a_checkpoint_that_is_whole_and_cannot_be_used_is_an_error_and_not_a_loss() {
    let disk = Disk::worked(3);
    let superblock = superblock::read(&disk.superblock_file).expect("the disk works").superblock;
    let files =
        ReplayFiles { superblock: &disk.superblock_file, journal: &disk.journal, checkpoint: disk.checkpoint.as_ref() };
    let before = disk.superblock_file.bytes();
    let settings = ReplaySettings { sessions_max: 9, ..settings() };
    let Err(error) = replay(&files, &superblock, &settings, &Pool::new(16 << 20)) else { panic!("it must be refused") };
    assert!(format!("{error:#}").contains("at most 8 sessions"), "{error:#}");
    assert!(disk.superblock_file.bytes() == before);
}

#[test]
fn a_received_checkpoint_is_read_without_being_known_before() {
    let disk = Disk::worked(3);
    let file = disk.checkpoint.as_ref().expect("there is one");
    let pool = Pool::new(8 << 20);
    let (machine, found) = read_received_machine(file, CLUSTER, 10, &settings(), &pool).expect("it is whole");
    assert_eq!(Some(found), expected_by(&disk.superblock));
    assert_eq!(machine.applied, 10);
    assert!(read_received_machine(file, CLUSTER, 11, &settings(), &pool).is_err(), "it is of another op");
    assert!(read_received_machine(file, CLUSTER + 1, 10, &settings(), &pool).is_err(), "it is of another cluster");
    for byte in (0..file.bytes().len()).step_by(SECTOR_SIZE / 4) {
        file.rot(byte as u64);
        let is_damaged = read_received_machine(file, CLUSTER, 10, &settings(), &pool).is_err();
        let is_padding = file.bytes()[byte] == 0x10;
        assert!(is_damaged || is_padding, "byte {byte}");
        file.rot(byte as u64);
    }
}
