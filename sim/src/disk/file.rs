//! A file of a simulated disk: sectors in memory, with writes that are not synced yet and can be lost in part.

use std::{
    cell::RefCell,
    io::{self, ErrorKind},
    rc::Rc,
};

use bytes::Bytes;
use lockstep_proto::limits::SECTOR_SIZE;
use lockstep_server::journal::file::BlockFile;

use crate::dice::Dice;

/// Writes are torn at this granularity, in bytes: the smallest unit that common disks write atomically.
const ATOM_SIZE: usize = 512;

const SECTOR: u64 = SECTOR_SIZE as u64;

/// A file. Clones are handles to the same one, as descriptors are.
#[derive(Clone, Debug)]
pub struct SimFile(Rc<RefCell<State>>);

#[derive(Debug)]
struct State {
    /// What is on the disk; an empty one stands for zeroes.
    sectors: Vec<Bytes>,
    /// Written and not synced, in order: first sector, and what.
    unsynced: Vec<(u64, Bytes)>,
    /// The process is killed after so many more synchronous writes.
    writes_left: Option<u32>,
}

/// What a crash does to writes in flight.
#[derive(Clone, Copy, Debug)]
pub struct Tearing {
    /// Which pieces of a write reach the disk.
    pub survivors: Survivors,
    /// Whether there is garbage where the others were to go, and not what was there before.
    pub damages: bool,
}

/// Which pieces of a write reach the disk at a crash. A piece holds a prepare's header and the beginning of its body.
#[derive(Clone, Copy, Debug)]
pub enum Survivors {
    /// Each by itself, so many per mille.
    Pieces(u32),
    /// The first one: a header without its body.
    Head,
    /// All but the first one: a body without its header.
    Body,
    /// Those before a place that chance picks.
    Front,
    /// Of each write others.
    Any,
}

impl Survivors {
    /// Which of `count` pieces.
    fn draw(self, count: usize, dice: &mut Dice) -> Vec<bool> {
        let how = match self {
            Survivors::Any => dice.pick(&EACH),
            how => how,
        };
        let front = dice.below(count as u64) as usize;
        let survives = |piece: usize| match how {
            Survivors::Pieces(per_mille) => dice.chance(per_mille),
            Survivors::Head => piece == 0,
            Survivors::Body => piece > 0,
            Survivors::Front | Survivors::Any => piece < front,
        };
        (0..count).map(survives).collect()
    }
}

/// What [`Survivors::Any`] takes for a write.
const EACH: [Survivors; 6] = [
    Survivors::Pieces(0),
    Survivors::Pieces(500),
    Survivors::Pieces(1000),
    Survivors::Head,
    Survivors::Body,
    Survivors::Front,
];

/// What a crash did to a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// All of it is on the disk.
    Whole,
    /// Part of it is.
    Torn,
    /// None of it is.
    Lost,
}

impl SimFile {
    /// A file of zeroes.
    pub fn new(size: u64) -> SimFile {
        assert!(size.is_multiple_of(SECTOR));
        let sectors = vec![Bytes::new(); (size / SECTOR) as usize];
        SimFile(Rc::new(RefCell::new(State { sectors, unsynced: Vec::new(), writes_left: None })))
    }

    /// Puts bytes on the disk, past everything. The sectors share the memory of `bytes`.
    pub fn put(&self, offset: u64, bytes: &Bytes) {
        self.0.borrow_mut().put(offset / SECTOR, bytes);
    }

    /// Takes a write that becomes durable with the next [`BlockFile::sync`], and may otherwise be lost in part.
    pub fn write_later(&self, offset: u64, bytes: &[u8]) {
        assert!(offset.is_multiple_of(SECTOR) && bytes.len().is_multiple_of(SECTOR_SIZE));
        self.0.borrow_mut().unsynced.push((offset / SECTOR, Bytes::copy_from_slice(bytes)));
    }

    /// The power goes while `bytes` are being written: some of them get to the disk.
    pub fn tear(&self, offset: u64, bytes: &Bytes, how: Tearing, dice: &mut Dice) -> Survival {
        self.0.borrow_mut().tear(offset / SECTOR, bytes, how, dice)
    }

    /// The power goes: what was not synced gets to the disk in part, or not at all.
    pub fn crash(&self, how: Tearing, dice: &mut Dice, mut tell: impl FnMut(Survival)) {
        let mut state = self.0.borrow_mut();
        state.writes_left = None;
        for (sector, bytes) in std::mem::take(&mut state.unsynced) {
            tell(state.tear(sector, &bytes, how, dice));
        }
    }

    /// Flips a bit of what is on the disk. Returns whether there was anything but zeroes.
    pub fn rot(&self, offset: u64, bit: u8) -> bool {
        let mut state = self.0.borrow_mut();
        let place = &mut state.sectors[(offset / SECTOR) as usize];
        let is_empty = place.is_empty();
        let mut sector = if is_empty { vec![0; SECTOR_SIZE] } else { place.to_vec() };
        sector[(offset % SECTOR) as usize] ^= 1 << (bit % 8);
        *place = Bytes::from(sector);
        !is_empty
    }

    /// The process will be killed after so many more synchronous writes: the next one fails, and no sync succeeds.
    pub fn kill_after_writes(&self, count: Option<u32>) {
        self.0.borrow_mut().writes_left = count;
    }

    /// The bytes as a running process reads them.
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut buffer = vec![0; len];
        match self.read_at(&mut buffer, offset) {
            Ok(()) => buffer,
            Err(_) => Vec::new(),
        }
    }
}

impl State {
    fn put(&mut self, first: u64, bytes: &Bytes) {
        let end = first as usize + bytes.len() / SECTOR_SIZE;
        if self.sectors.len() < end {
            self.sectors.resize(end, Bytes::new());
        }
        for (index, at) in (0..bytes.len()).step_by(SECTOR_SIZE).enumerate() {
            self.sectors[first as usize + index] = bytes.slice(at..at + SECTOR_SIZE);
        }
    }

    fn tear(&mut self, first: u64, bytes: &Bytes, how: Tearing, dice: &mut Dice) -> Survival {
        let atoms = bytes.len() / ATOM_SIZE;
        let survivors = how.survivors.draw(atoms, dice);
        let count = survivors.iter().filter(|&&survives| survives).count();
        if count == atoms {
            self.put(first, bytes);
            return Survival::Whole;
        }
        if count == 0 && !how.damages {
            return Survival::Lost;
        }
        let mut mixed = vec![0; bytes.len()];
        for (index, sector) in mixed.chunks_exact_mut(SECTOR_SIZE).enumerate() {
            match self.sectors.get(first as usize + index) {
                Some(old) if !old.is_empty() => sector.copy_from_slice(old),
                _ => {}
            }
        }
        for (atom, &survives) in survivors.iter().enumerate() {
            let place = atom * ATOM_SIZE..(atom + 1) * ATOM_SIZE;
            if survives {
                mixed[place.clone()].copy_from_slice(&bytes[place]);
            } else if how.damages {
                // Not what would be undone if it were damaged once more.
                mixed[place].iter_mut().for_each(|byte| *byte = byte.wrapping_add(0x55));
            }
        }
        self.put(first, &Bytes::from(mixed));
        Survival::Torn
    }
}

impl BlockFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.0.borrow();
        let first = (offset / SECTOR) as usize;
        let count = buffer.len() / SECTOR_SIZE;
        let size = state.size_in_sectors();
        if first + count > size {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        for (index, place) in buffer.chunks_exact_mut(SECTOR_SIZE).enumerate() {
            match state.sectors.get(first + index) {
                Some(sector) if !sector.is_empty() => place.copy_from_slice(sector),
                _ => place.fill(0),
            }
        }
        for (start, bytes) in &state.unsynced {
            for (index, sector) in bytes.chunks_exact(SECTOR_SIZE).enumerate() {
                let at = *start as usize + index;
                if (first..first + count).contains(&at) {
                    buffer[(at - first) * SECTOR_SIZE..][..SECTOR_SIZE].copy_from_slice(sector);
                }
            }
        }
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        match &mut state.writes_left {
            Some(0) => return Err(ErrorKind::Interrupted.into()),
            Some(left) => *left -= 1,
            None => {}
        }
        drop(state);
        self.write_later(offset, bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        if state.writes_left == Some(0) {
            return Err(ErrorKind::Interrupted.into());
        }
        for (sector, bytes) in std::mem::take(&mut state.unsynced) {
            state.put(sector, &bytes);
        }
        Ok(())
    }

    fn allocate(&self, _size: u64) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.borrow().size_in_sectors() as u64 * SECTOR)
    }
}

impl State {
    fn size_in_sectors(&self) -> usize {
        let written = self.unsynced.iter().map(|(sector, bytes)| *sector as usize + bytes.len() / SECTOR_SIZE);
        written.fold(self.sectors.len(), usize::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOSE_ALL: Tearing = Tearing { survivors: Survivors::Pieces(0), damages: false };

    fn sector(byte: u8) -> Vec<u8> {
        vec![byte; SECTOR_SIZE]
    }

    #[test]
    fn what_is_not_synced_is_read_but_may_be_lost() {
        let file = SimFile::new(2 * SECTOR);
        file.write_at(&sector(1), SECTOR).unwrap();
        assert_eq!(file.read(SECTOR, SECTOR_SIZE), sector(1));
        file.crash(LOSE_ALL, &mut Dice::new(1, "test"), |survival| assert_eq!(survival, Survival::Lost));
        assert_eq!(file.read(SECTOR, SECTOR_SIZE), sector(0));
        file.write_at(&sector(2), SECTOR).unwrap();
        file.sync().unwrap();
        file.crash(LOSE_ALL, &mut Dice::new(1, "test"), |_| panic!("there is nothing to lose"));
        assert_eq!(file.read(SECTOR, SECTOR_SIZE), sector(2));
    }

    #[test]
    fn a_torn_write_leaves_pieces_of_old_and_new() {
        let file = SimFile::new(SECTOR);
        file.put(0, &Bytes::from(sector(1)));
        let how = Tearing { survivors: Survivors::Pieces(500), damages: false };
        let survival = file.tear(0, &Bytes::from(sector(2)), how, &mut Dice::new(1, "test"));
        assert_eq!(survival, Survival::Torn);
        let found = file.read(0, SECTOR_SIZE);
        assert!(found.contains(&1) && found.contains(&2));
        assert!(found.chunks(ATOM_SIZE).all(|atom| atom.iter().all(|byte| *byte == atom[0])));
    }

    #[test]
    fn a_header_may_be_left_without_its_body_and_a_body_without_its_header() {
        for (survivors, expected) in [(Survivors::Head, [2, 1]), (Survivors::Body, [1, 2])] {
            let file = SimFile::new(SECTOR);
            file.put(0, &Bytes::from(sector(1)));
            let how = Tearing { survivors, damages: false };
            assert_eq!(file.tear(0, &Bytes::from(sector(2)), how, &mut Dice::new(1, "test")), Survival::Torn);
            let found = file.read(0, SECTOR_SIZE);
            assert_eq!([found[ATOM_SIZE - 1], found[ATOM_SIZE]], expected);
            assert!(found[ATOM_SIZE..].iter().all(|byte| *byte == expected[1]));
        }
    }

    /// A simulated disk that damaged the same place in two crashes brought back what had been there before the first
    /// (seed 6946).
    #[test]
    fn what_is_damaged_twice_is_not_as_it_was() {
        let file = SimFile::new(SECTOR);
        file.put(0, &Bytes::from(sector(1)));
        let how = Tearing { survivors: Survivors::Pieces(0), damages: true };
        for _ in 0..8 {
            assert_eq!(file.tear(0, &Bytes::from(sector(2)), how, &mut Dice::new(1, "test")), Survival::Torn);
            assert!(file.read(0, SECTOR_SIZE).iter().all(|byte| *byte != 1));
        }
    }

    #[test]
    fn a_killed_process_syncs_nothing_more() {
        let file = SimFile::new(SECTOR);
        file.kill_after_writes(Some(1));
        file.write_at(&sector(1), 0).unwrap();
        assert!(file.sync().is_err() && file.write_at(&sector(1), 0).is_err());
    }
}
