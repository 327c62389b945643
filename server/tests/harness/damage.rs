//! Damage to the files of a server that is stopped.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rand::RngExt;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::Server;

/// Size of a sector, in which the files are written.
const SECTOR: u64 = 4096;

/// Files of a shard's folder that can rot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Any used sectors of the journal.
    Journal,
    /// Up to two of the four copies of the superblock.
    Superblock,
    /// The checkpoint in force.
    Checkpoint,
}

/// Flips bits in the files of shard 0. False if there is nothing yet that could be damaged.
pub fn flip_bits(server: &Server, part: Part, random: &mut Xoshiro256PlusPlus) -> bool {
    let folder = server.folder.join("shard-000");
    match part {
        Part::Journal => {
            let path = folder.join("journal");
            let used = used_sectors(&path);
            for _ in 0..random.random_range(1..4) {
                let Some(&sector) = used.get(random.random_range(0..used.len().max(1))) else { return false };
                flip_one(&path, sector * SECTOR + random.random_range(0..300));
            }
        }
        Part::Superblock => {
            // A crash can damage two copies, rot takes them likewise; with fewer whole ones a start is refused.
            for copy in [random.random_range(0..2), random.random_range(2..4)] {
                flip_one(&folder.join("superblock"), copy * SECTOR + random.random_range(0..256));
            }
        }
        Part::Checkpoint => {
            let Some(path) = newest_checkpoint(&folder) else { return false };
            let size = path.metadata().unwrap().len();
            // Behind the header's padding there is nothing but content.
            flip_one(&path, SECTOR + random.random_range(0..(size - 2 * SECTOR).clamp(1, 80)));
        }
    }
    true
}

fn flip_one(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    byte[0] ^= 0x10;
    file.write_all_at(&byte, offset).unwrap();
    file.sync_all().unwrap();
}

/// Sectors that begin with something.
fn used_sectors(path: &Path) -> Vec<u64> {
    let file = File::open(path).unwrap();
    let sectors = file.metadata().unwrap().len() / SECTOR;
    let mut head = [0; 16];
    let is_used = |&sector: &u64| {
        file.read_exact_at(&mut head, sector * SECTOR).unwrap();
        head != [0; 16]
    };
    (0..sectors).filter(is_used).collect()
}

fn newest_checkpoint(folder: &Path) -> Option<PathBuf> {
    let op_of = |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse::<u64>().ok();
    let files = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
    files.filter_map(|path| Some((op_of(&path)?, path))).max().map(|(_, path)| path)
}
