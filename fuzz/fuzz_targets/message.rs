//! Replica messages: header, body, and the requests of a prepare.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lockstep_proto::{
    limits::{COUNTER_MAX, MESSAGE_SIZE_MAX},
    message::{Command, MessageHeader},
};
use zerocopy::{FromBytes, IntoBytes, little_endian::U128};

fn check(header: &MessageHeader, body: &[u8]) {
    let _ = header.check_body(body);
    if let Ok(command) = header.check(header.cluster.get(), header.shard.get()) {
        assert_eq!(header.command(), Some(command));
        assert!(header.body_size() + MessageHeader::SIZE <= MESSAGE_SIZE_MAX);
        assert!(header.op.get() <= COUNTER_MAX && header.view.get() <= COUNTER_MAX);
        if command == Command::Prepare {
            let _ = header.check_requests(body);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok((header, body)) = MessageHeader::read_from_prefix(data) else {
        return;
    };
    check(&header, body);
    let mut sealed = header;
    sealed.checksum = U128::new(sealed.header_checksum());
    check(&sealed, body);
    if body.len() <= MESSAGE_SIZE_MAX - MessageHeader::SIZE {
        sealed.seal(body);
        assert_eq!(sealed.check_body(body), Ok(()));
        check(&sealed, body);
        assert_eq!(MessageHeader::view(sealed.as_bytes()), Some(&sealed));
    }
});
