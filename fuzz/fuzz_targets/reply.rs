//! Reply frames, and the bodies of those that carry several keys.

#![no_main]

mod seal;

use libfuzzer_sys::fuzz_target;
use lockstep_proto::{
    items::{MultiGetReplyItems, ScanReplyItems},
    reply::{Reply, ReplyParts, encode_reply},
};

fn check_items(body: &[u8]) {
    let read: usize = MultiGetReplyItems::new(body).map(|item| 13 + item.map_or(0, |(_, value)| value.len())).sum();
    assert!(read <= body.len());
    let read: usize = ScanReplyItems::new(body).map(|item| item.encoded_size()).sum();
    assert!(read <= body.len());
}

fuzz_target!(|data: &[u8]| {
    check_items(data);
    let _ = Reply::parse(data);
    if let Some(frame) = seal::sealed(data)
        && let Ok(Some(reply)) = Reply::parse(&frame)
    {
        check_items(reply.body());
        let mut again = Vec::new();
        let parts = ReplyParts {
            status: reply.status(),
            operation: reply.operation(),
            copies: reply.copies(),
            sequence: reply.sequence(),
            version: reply.version(),
        };
        encode_reply(&parts, reply.body(), &mut again);
        assert_eq!(again, frame);
    }
});
