use lockstep_proto::message::Command;
use proptest::prelude::*;
use zerocopy::little_endian::{U32, U64, U128};

use super::*;

const SECTOR: u64 = SECTOR_SIZE as u64;

fn header(op: u64, sectors: u64) -> MessageHeader {
    let mut header = MessageHeader::new(Command::Prepare, 1, 0, 0, 0);
    header.op = U64::new(op);
    header.size = U32::new((sectors * SECTOR - 100) as u32);
    header.checksum = U128::new(u128::from(op));
    header
}

fn append(ring: &mut JournalRing, sectors: u64) -> Result<u64, AppendRefusal> {
    let op = ring.last_op() + 1;
    ring.append(&header(op, sectors), (sectors * SECTOR) as usize).map(|at| at.offset / SECTOR)
}

/// Appends and completes.
fn put(ring: &mut JournalRing, sectors: u64) -> Result<u64, AppendRefusal> {
    let offset = append(ring, sectors)?;
    ring.complete(ring.last_op());
    Ok(offset)
}

fn ring(sectors: u64) -> JournalRing {
    JournalRing::new(sectors * SECTOR, 0, 1)
}

#[test]
fn prepares_lie_end_to_end() {
    let mut ring = ring(10);
    assert_eq!(put(&mut ring, 3), Ok(0));
    assert_eq!(put(&mut ring, 2), Ok(3));
    assert_eq!(put(&mut ring, 5), Ok(5));
    assert_eq!((ring.first_op(), ring.last_op(), ring.free_bytes()), (1, 3, 0));
    assert_eq!(ring.locate(2), Some(Location { offset: 3 * SECTOR, padded_size: 2 * SECTOR_SIZE, checksum: 2 }));
    assert_eq!(ring.locate(0), None);
    assert_eq!(ring.locate(4), None);
}

#[test]
fn a_prepare_that_does_not_fit_before_the_end_goes_to_the_start() {
    let mut ring = ring(10);
    put(&mut ring, 4).expect("there is room");
    put(&mut ring, 4).expect("there is room");
    ring.release_below(2);
    assert_eq!(put(&mut ring, 3), Ok(0));
    assert_eq!(ring.locate(1), None, "it has been overwritten");
    // The two sectors at the end are lost until the next lap.
    assert_eq!(put(&mut ring, 1), Ok(3));
    assert_eq!(put(&mut ring, 1), Err(AppendRefusal::Full { op: 5, needed: SECTOR, free: 2 * SECTOR }));
}

#[test]
fn a_full_ring_refuses_until_space_is_released() {
    let mut ring = ring(4);
    for _ in 0..4 {
        put(&mut ring, 1).expect("there is room");
    }
    assert_eq!(put(&mut ring, 1), Err(AppendRefusal::Full { op: 5, needed: SECTOR, free: 0 }));
    ring.release_below(3);
    assert_eq!(ring.first_op(), 1, "released prepares stay readable");
    assert_eq!(put(&mut ring, 1), Ok(0));
    assert_eq!((ring.first_op(), ring.released_below()), (2, 3));
    assert_eq!(put(&mut ring, 1), Ok(1));
    assert!(put(&mut ring, 1).is_err());
}

#[test]
fn a_prepare_as_large_as_the_ring_fits_an_empty_one_wherever_it_ends() {
    let mut ring = JournalRing::new(8 * SECTOR, 3 * SECTOR, 7);
    assert_eq!(put(&mut ring, 8), Ok(0));
    ring.release_below(8);
    assert_eq!(put(&mut ring, 8), Ok(0));
    assert_eq!(ring.first_op(), 8);
    assert!(append(&mut self::ring(8), 9).is_err());
}

#[test]
fn completions_in_any_order_make_a_durable_prefix() {
    let mut ring = ring(10);
    for _ in 0..3 {
        append(&mut ring, 1).expect("there is room");
    }
    assert_eq!(ring.complete(3), 0);
    assert_eq!(ring.complete(1), 1);
    assert_eq!(ring.in_flight(), 2);
    assert_eq!(ring.complete(2), 3);
    assert_eq!(ring.in_flight(), 0);
}

#[test]
fn writes_in_flight_are_bounded() {
    let mut ring = ring(2 * IN_FLIGHT_MAX);
    for _ in 0..IN_FLIGHT_MAX {
        append(&mut ring, 1).expect("there is room");
    }
    let op = IN_FLIGHT_MAX + 1;
    assert_eq!(append(&mut ring, 1), Err(AppendRefusal::InFlight { op }));
    ring.complete(2);
    assert_eq!(append(&mut ring, 1), Err(AppendRefusal::InFlight { op }));
    ring.complete(1);
    assert!(append(&mut ring, 1).is_ok());
}

#[test]
fn truncation_names_the_sectors_to_erase_and_goes_back_over_a_skip() {
    let mut ring = ring(10);
    put(&mut ring, 4).expect("there is room");
    put(&mut ring, 4).expect("there is room");
    ring.release_below(2);
    assert_eq!(put(&mut ring, 3), Ok(0));
    assert_eq!(put(&mut ring, 1), Ok(3));
    assert_eq!(ring.truncate_after(2), [3 * SECTOR, 0]);
    assert_eq!((ring.last_op(), ring.durable_op()), (2, 2));
    // What comes instead is smaller and fits: a scan looks for it here first.
    assert_eq!(ring.scan_offset(3), 8 * SECTOR);
    assert_eq!(put(&mut ring, 2), Ok(8));
}

#[test]
fn the_scan_offset_outlives_a_replacement_of_another_size() {
    let mut ring = ring(10);
    put(&mut ring, 4).expect("there is room");
    put(&mut ring, 4).expect("there is room");
    ring.release_below(2);
    assert_eq!(put(&mut ring, 3), Ok(0));
    let offset = ring.scan_offset(3);
    assert_eq!(offset, 8 * SECTOR);
    ring.truncate_after(2);
    assert_eq!(put(&mut ring, 2), Ok(8));
    assert_eq!(ring.scan_offset(3), offset);
}

#[test]
fn truncating_nothing_is_allowed() {
    let mut ring = ring(10);
    put(&mut ring, 1).expect("there is room");
    assert_eq!(ring.truncate_after(1), [0; 0]);
    assert_eq!(ring.last_op(), 1);
}

#[test]
#[should_panic(expected = "writes must have completed")]
fn truncating_below_a_write_in_flight_is_a_mistake() {
    let mut ring = ring(10);
    append(&mut ring, 1).expect("there is room");
    ring.truncate_after(0);
}

#[derive(Clone, Debug)]
enum Step {
    Append(u64),
    Complete(usize),
    Release(u64),
    Truncate(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop_oneof![4 => 1..4u64, 1 => 4..20u64].prop_map(Step::Append),
        6 => (0..8usize).prop_map(Step::Complete),
        2 => (0..12u64).prop_map(Step::Release),
        1 => (0..4u64).prop_map(Step::Truncate),
    ]
}

/// What the disk would hold: for each sector the op that was last written to it.
struct Model {
    sectors: Vec<u64>,
    in_flight: Vec<u64>,
    sizes: Vec<u64>,
}

impl Model {
    fn check(&self, ring: &JournalRing) {
        let mut used = 0;
        for op in ring.first_op()..=ring.last_op() {
            let at = ring.locate(op).expect("everything from the first to the last op is there");
            assert_eq!(at.padded_size as u64, self.sizes[op as usize] * SECTOR);
            let start = (at.offset / SECTOR) as usize;
            let end = start + self.sizes[op as usize] as usize;
            assert!(self.sectors[start..end].iter().all(|&owner| owner == op), "op {op} has been overwritten");
            if op >= ring.released_below() {
                used += self.sizes[op as usize] * SECTOR;
            }
        }
        assert_eq!(ring.used_bytes(), used);
        assert!(ring.first_op() <= ring.released_below());
        self.check_scan(ring);
    }

    /// A scan that knows sizes and the rule finds every live prepare.
    fn check_scan(&self, ring: &JournalRing) {
        let mut place = ring.scan_offset(ring.released_below());
        for op in ring.released_below()..=ring.last_op() {
            let size = self.sizes[op as usize] * SECTOR;
            let expected = if place + size <= ring.size() { place } else { 0 };
            assert_eq!(ring.locate(op).map(|at| at.offset), Some(expected));
            place = (expected + size) % ring.size();
        }
    }
}

fn run(ring_sectors: u64, steps: Vec<Step>) {
    let mut ring = ring(ring_sectors);
    let mut model = Model { sectors: vec![0; ring_sectors as usize], in_flight: Vec::new(), sizes: vec![0] };
    for step in steps {
        match step {
            Step::Append(sectors) => {
                let preview = ring.preview((sectors * SECTOR) as usize);
                let result = append(&mut ring, sectors);
                assert_eq!(result.ok().map(|place| place * SECTOR), preview);
                if let Ok(place) = result {
                    model.sectors[place as usize..(place + sectors) as usize].fill(ring.last_op());
                    model.in_flight.push(ring.last_op());
                    model.sizes.push(sectors);
                }
            }
            Step::Complete(index) if !model.in_flight.is_empty() => {
                let op = model.in_flight.remove(index % model.in_flight.len());
                let durable = model.in_flight.iter().min().map_or(ring.last_op(), |op| op - 1);
                assert_eq!(ring.complete(op), durable);
            }
            Step::Complete(_) => {}
            Step::Release(count) => {
                let below = (ring.released_below() + count).min(ring.durable_op() + 1);
                ring.release_below(below);
                assert_eq!(ring.released_below(), below);
            }
            Step::Truncate(count) => {
                for op in model.in_flight.drain(..) {
                    ring.complete(op);
                }
                let op = ring.last_op().saturating_sub(count).max(ring.released_below() - 1);
                let erased = ring.truncate_after(op);
                assert_eq!(erased.len(), model.sizes.len() - 1 - op as usize);
                model.sizes.truncate(op as usize + 1);
            }
        }
        model.check(&ring);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn live_prepares_are_never_overwritten(ring_sectors in 4..40u64, steps in prop::collection::vec(step(), 0..200)) {
        run(ring_sectors, steps);
    }
}
