//! Disks that misbehave, for tests.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io::{self, ErrorKind},
    path::Path,
    rc::Rc,
};

use super::file::{Access, BlockFile, DirectFile, DirectFiles, FileLayer};

/// Writes are torn at this granularity, in bytes: the smallest unit that common disks write atomically.
pub(crate) const ATOM_SIZE: usize = 512;

/// A file in memory whose writes are on their way until they are completed or synced, and can be lost in part.
#[derive(Debug)]
pub(crate) struct FaultyFile {
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    durable: Vec<u8>,
    in_flight: BTreeMap<u64, (u64, Vec<u8>)>,
    next_id: u64,
    bad_sector: Option<u64>,
    writes_left: Option<usize>,
}

impl FaultyFile {
    pub(crate) fn new(size: usize) -> FaultyFile {
        FaultyFile {
            state: RefCell::new(State {
                durable: vec![0; size],
                in_flight: BTreeMap::new(),
                next_id: 0,
                bad_sector: None,
                writes_left: None,
            }),
        }
    }

    /// Begins a write; it becomes durable with [`FaultyFile::complete`] and may otherwise be lost, or survive in part.
    pub(crate) fn submit(&self, bytes: &[u8], offset: u64) -> u64 {
        let mut state = self.state.borrow_mut();
        assert!(offset as usize + bytes.len() <= state.durable.len());
        let id = state.next_id;
        state.next_id += 1;
        state.in_flight.insert(id, (offset, bytes.to_vec()));
        id
    }

    pub(crate) fn complete(&self, id: u64) {
        let mut state = self.state.borrow_mut();
        let (offset, bytes) = state.in_flight.remove(&id).expect("it is in flight");
        state.durable[offset as usize..offset as usize + bytes.len()].copy_from_slice(&bytes);
    }

    /// The power goes: of the writes in flight, those atoms survive for which `survives(write, atom)` says so; where
    /// the others were to go, the disk holds what it held before.
    pub(crate) fn crash(&self, survives: impl FnMut(u64, usize) -> bool) {
        self.crash_with(survives, |_| {});
    }

    /// As [`FaultyFile::crash`], but the atoms that do not survive are damaged.
    pub(crate) fn crash_with_damage(&self, survives: impl FnMut(u64, usize) -> bool) {
        self.crash_with(survives, |atom| atom.iter_mut().for_each(|byte| *byte = byte.wrapping_add(0x55)));
    }

    fn crash_with(&self, mut survives: impl FnMut(u64, usize) -> bool, lose: impl Fn(&mut [u8])) {
        let mut state = self.state.borrow_mut();
        state.writes_left = None;
        let in_flight = std::mem::take(&mut state.in_flight);
        for (id, (offset, bytes)) in in_flight {
            for (atom, piece) in bytes.chunks(ATOM_SIZE).enumerate() {
                let start = offset as usize + atom * ATOM_SIZE;
                let place = &mut state.durable[start..start + piece.len()];
                if survives(id, atom) { place.copy_from_slice(piece) } else { lose(place) }
            }
        }
    }

    /// After this many more writes the process is killed: the next one fails, and nothing can be synced any more.
    pub(crate) fn kill_after_writes(&self, count: usize) {
        self.state.borrow_mut().writes_left = Some(count);
    }

    /// Flips one bit.
    pub(crate) fn rot(&self, byte: u64) {
        self.state.borrow_mut().durable[byte as usize] ^= 0x10;
    }

    /// Cuts the file off.
    pub(crate) fn truncate(&self, size: usize) {
        self.state.borrow_mut().durable.truncate(size);
    }

    /// Reading this byte fails from now on.
    pub(crate) fn fail_reads_of(&self, byte: u64) {
        self.state.borrow_mut().bad_sector = Some(byte);
    }

    /// The number that the next write will have.
    pub(crate) fn next_write(&self) -> u64 {
        self.state.borrow().next_id
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.state.borrow().durable.clone()
    }
}

impl BlockFile for FaultyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.state.borrow();
        let end = offset + buffer.len() as u64;
        if state.bad_sector.is_some_and(|byte| (offset..end).contains(&byte)) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let Some(bytes) = state.durable.get(offset as usize..end as usize) else {
            return Err(ErrorKind::UnexpectedEof.into());
        };
        buffer.copy_from_slice(bytes);
        for (at, bytes) in state.in_flight.values() {
            for (index, &byte) in bytes.iter().enumerate() {
                let place = at + index as u64;
                if (offset..end).contains(&place) {
                    buffer[(place - offset) as usize] = byte;
                }
            }
        }
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let left = self.state.borrow().writes_left;
        if left == Some(0) {
            return Err(ErrorKind::Interrupted.into());
        }
        self.state.borrow_mut().writes_left = left.map(|left| left - 1);
        self.submit(bytes, offset);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if self.state.borrow().writes_left == Some(0) {
            return Err(ErrorKind::Interrupted.into());
        }
        let ids: Vec<u64> = self.state.borrow().in_flight.keys().copied().collect();
        ids.into_iter().for_each(|id| self.complete(id));
        Ok(())
    }

    fn allocate(&self, _size: u64) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.state.borrow().durable.len() as u64)
    }
}

/// Real files on a disk that is full after so many bytes, whatever was reserved.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    free: Rc<Cell<u64>>,
}

impl SmallDisk {
    pub(crate) fn new(free: u64) -> SmallDisk {
        SmallDisk { free: Rc::new(Cell::new(free)) }
    }
}

impl FileLayer for SmallDisk {
    type File = SmallDiskFile;

    fn create(&self, path: &Path) -> io::Result<SmallDiskFile> {
        Ok(SmallDiskFile { file: DirectFiles.create(path)?, free: self.free.clone() })
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<SmallDiskFile> {
        Ok(SmallDiskFile { file: DirectFiles.open(path, access)?, free: self.free.clone() })
    }
}

#[derive(Debug)]
pub(crate) struct SmallDiskFile {
    file: DirectFile,
    free: Rc<Cell<u64>>,
}

impl BlockFile for SmallDiskFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let Some(free) = self.free.get().checked_sub(bytes.len() as u64) else {
            return Err(ErrorKind::StorageFull.into());
        };
        self.free.set(free);
        self.file.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn allocate(&self, _size: u64) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
}
