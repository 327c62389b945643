//! The very bytes of one frame of each kind. A change here is a change of the protocol: raise its version.

use std::fmt::Write;

use lockstep_proto::{
    Operation, Status,
    hello::{Answer, Hello, Topology},
    message::{Command, MessageHeader},
    reply::{ReplyParts, encode_reply},
    superblock::Superblock,
};
use zerocopy::{
    FromZeros, IntoBytes,
    little_endian::{U16, U32, U64, U128},
};

use crate::asks::Ask;

/// Sixteen bytes a line; runs of zero lines are left out.
fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (line, chunk) in bytes.chunks(16).enumerate() {
        if chunk.iter().any(|&byte| byte != 0) {
            write!(text, "{:03}", line * 16).expect("a string takes everything");
            for four in chunk.chunks(4) {
                text.push(' ');
                four.iter().for_each(|byte| write!(text, "{byte:02x}").expect("a string takes everything"));
            }
            text.push('\n');
        }
    }
    text
}

fn assert_bytes(bytes: &[u8], expected: &str) {
    let expected: String =
        expected.lines().map(str::trim).filter(|line| !line.is_empty()).map(|l| format!("{l}\n")).collect();
    assert_eq!(dump(bytes), expected, "the bytes are:\n{}", dump(bytes));
}

#[test]
fn a_put() {
    let mut bytes = Vec::new();
    let put = Ask::Put { key: b"key".to_vec(), value: b"value".to_vec(), ttl_ms: Some(60_000) };
    put.encode(0x1122, 0x3344, &mut bytes);
    assert_bytes(
        &bytes,
        "
        000 30000000 03010300 22110000 00000000
        016 44330000 00000000 88ca348a 499db58e
        032 6b657960 ea000000 00000076 616c7565
        ",
    );
}

#[test]
fn a_ping() {
    let mut bytes = Vec::new();
    Ask::Ping.encode(0, 7, &mut bytes);
    assert_bytes(
        &bytes,
        "
        000 20000000 0d000000 00000000 00000000
        016 07000000 00000000 91c6b79c b376da28
        ",
    );
}

#[test]
fn a_reply() {
    let mut bytes = Vec::new();
    let parts =
        ReplyParts { status: Status::Ok, operation: Operation::Get, copies: 3, sequence: 0x3344, version: 0x5566 };
    encode_reply(&parts, b"value", &mut bytes);
    assert_bytes(
        &bytes,
        "
        000 25000000 00020300 44330000 00000000
        016 66550000 00000000 9d67633a 5e14874b
        032 76616c75 65
        ",
    );
}

#[test]
fn a_hello_of_a_server() {
    assert_bytes(
        Hello::replica(0xABCD, 1, 2, 0, 3).as_bytes(),
        "
        000 4c4f434b 53544550 03000200 01000200
        016 cdab0000 00000000 00000000 00000000
        032 03000000 00000000 00000000 00000000
        048 d7111df4 fad4e753 123c62a9 6b7fc873
        ",
    );
}

#[test]
fn a_topology() {
    let topology = Topology {
        answer: Answer::Welcome,
        replica: 1,
        shard: 0,
        shards: 1,
        cluster: 0xABCD,
        view: 4,
        servers: 2,
        window: 256,
        text: "a:7000,b:7000".to_string(),
    };
    assert_bytes(
        &topology.encode(),
        "
        000 4c4f434b 53544550 03000001 00000100
        016 cdab0000 00000000 00000000 00000000
        032 04000000 00000000 02000001 0d000000
        048 36019aed 1ba6ccdd e7f07eed 0869d7d6
        064 613a3730 30302c62 3a373030 30
        ",
    );
}

#[test]
fn a_prepare() {
    let mut body = Vec::new();
    Ask::Delete(b"key".to_vec()).encode(1, 2, &mut body);
    let mut header = MessageHeader::new(Command::Prepare, 0xABCD, 1, 2, 5);
    header.parent = U128::new(0x99);
    header.op = U64::new(10);
    header.commit = U64::new(9);
    header.timestamp_ns = U64::new(1_000_000_000);
    header.revision = U64::new(77);
    header.request_count = U32::new(1);
    header.in_sync = 0b111;
    header.round = U64::new(3);
    header.log_view = U64::new(5);
    header.checkpoint = U64::new(8);
    header.seal(&body);
    assert_bytes(
        header.as_bytes(),
        "
        000 0aef47f7 bac29b32 b318202d 66a378df
        016 40224f3b 8cce6396 6aa4c0db d23ddf8d
        032 99000000 00000000 00000000 00000000
        048 cdab0000 00000000 00000000 00000000
        064 23010000 02000102 05000000 00000000
        080 0a000000 00000000 09000000 00000000
        096 00ca9a3b 00000000 4d000000 00000000
        112 01000000 01000700 03000000 00000000
        128 05000000 00000000 08000000 00000000
        ",
    );
}

#[test]
fn a_superblock() {
    let mut superblock = Superblock {
        replica: 1,
        servers: 3,
        shard: U16::new(1),
        shards: U16::new(2),
        cluster: U128::new(0xABCD),
        sequence: U64::new(6),
        view: U64::new(5),
        log_view: U64::new(4),
        journal_size: U64::new(1 << 30),
        checkpoint: U64::new(100),
        checkpoint_size: U64::new(5000),
        journal_offset: U64::new(4096),
        ..Superblock::new_zeroed()
    };
    superblock.seal();
    assert_bytes(
        superblock.as_bytes(),
        "
        000 75fe507c 2b9bb46b 25de385a dcd6b774
        016 4c4b5354 53555052 02000103 01000200
        032 cdab0000 00000000 00000000 00000000
        048 06000000 00000000 05000000 00000000
        064 04000000 00000000 00000040 00000000
        080 64000000 00000000 00000000 00000000
        096 00000000 00000000 88130000 00000000
        144 00100000 00000000 00000000 00000000
        ",
    );
}
