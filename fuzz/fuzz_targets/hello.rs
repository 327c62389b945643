//! The hello.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lockstep_proto::{
    checksum::checksum_128,
    hello::{Hello, REPLICA_NONE, Role},
    limits::SERVERS_MAX,
};
use zerocopy::{FromBytes, IntoBytes, little_endian::U128};

fn check(bytes: &[u8]) {
    if let Ok(Some((hello, role))) = Hello::parse(bytes) {
        assert_eq!(hello.check(), Ok(role));
        match role {
            Role::Client => assert_eq!(hello.replica, REPLICA_NONE),
            Role::Replica => assert!(hello.replica < hello.servers && hello.servers <= SERVERS_MAX),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    check(data);
    if let Ok((mut hello, _)) = Hello::read_from_prefix(data) {
        hello.checksum = U128::new(checksum_128(&hello.as_bytes()[..48]));
        check(hello.as_bytes());
    }
});
