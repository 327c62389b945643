//! The superblock.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lockstep_proto::superblock::Superblock;
use zerocopy::{FromBytes, IntoBytes};

fn check(sector: &[u8]) {
    if let Ok(superblock) = Superblock::parse(sector) {
        assert_eq!(superblock.as_bytes(), &sector[..Superblock::SIZE]);
        assert!(superblock.replica < superblock.servers && superblock.shard.get() < superblock.shards.get());
        assert!(superblock.log_view.get() <= superblock.view.get());
        assert!(superblock.journal_offset.get() < superblock.journal_size.get());
    }
}

fuzz_target!(|data: &[u8]| {
    check(data);
    if let Ok((mut superblock, _)) = Superblock::read_from_prefix(data) {
        superblock.seal();
        check(superblock.as_bytes());
    }
});
