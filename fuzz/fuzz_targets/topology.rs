//! The topology.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lockstep_proto::{
    checksum::checksum_128,
    hello::{Answer, Topology, TopologyHeader},
    limits::{SERVERS_MAX, SHARDS_MAX},
};

fn check(bytes: &[u8]) {
    if let Ok(Some((topology, size))) = Topology::parse(bytes) {
        assert_eq!(topology.encode(), bytes[..size]);
        if topology.answer == Answer::Welcome {
            assert!(topology.shard < topology.shards && topology.shards <= SHARDS_MAX);
            assert!(topology.replica < topology.servers && topology.servers <= SERVERS_MAX);
            assert_eq!(topology.addresses().count(), usize::from(topology.servers));
        }
    }
}

fuzz_target!(|data: &[u8]| {
    check(data);
    if data.len() >= TopologyHeader::SIZE {
        let mut bytes = data.to_vec();
        let body_size = (bytes.len() - TopologyHeader::SIZE) as u32;
        bytes[..8].copy_from_slice(b"LOCKSTEP");
        bytes[44..48].copy_from_slice(&body_size.to_le_bytes());
        let covered = [&bytes[..48], &bytes[TopologyHeader::SIZE..]].concat();
        bytes[48..64].copy_from_slice(&checksum_128(&covered).to_le_bytes());
        check(&bytes);
    }
});
