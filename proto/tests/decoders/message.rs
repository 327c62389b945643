//! Headers and bodies of replica messages.

use lockstep_proto::{
    limits::{BATCH_OPS_MAX, COUNTER_MAX, MESSAGE_SIZE_MAX, SERVERS_MAX, WIRE_VERSION},
    message::{Command, MessageError, MessageHeader},
};
use proptest::prelude::*;
use zerocopy::{
    FromBytes, IntoBytes,
    little_endian::{U16, U32, U64, U128},
};

use crate::{
    asks::{Ask, ask},
    damage::{each_flipped_bit, noise},
};

const CLUSTER: u128 = 0xC1A5;
const SHARD: u16 = 3;

/// A message that is as it should be: header and body.
pub fn message() -> impl Strategy<Value = (MessageHeader, Vec<u8>)> {
    let counter = || prop_oneof![0..100u64, 0..=COUNTER_MAX, Just(COUNTER_MAX)];
    (
        prop::sample::select(Command::ALL),
        0..SERVERS_MAX,
        prop::array::uniform8(counter()),
        any::<u128>(),
        0..0x80u8,
        1..5u32,
        noise(100),
    )
        .prop_map(|(command, replica, counters, parent, in_sync, count, tail)| {
            let mut header = MessageHeader::new(command, CLUSTER, SHARD, replica, counters[0]);
            header.op = U64::new(counters[1].max(1));
            header.commit = U64::new(counters[2]);
            header.timestamp_ns = U64::new(counters[3]);
            header.revision = U64::new(counters[4]);
            header.round = U64::new(counters[5]);
            header.log_view = U64::new(counters[6]);
            header.checkpoint = U64::new(counters[7]);
            header.parent = U128::new(parent);
            header.in_sync = in_sync;
            let mut body = Vec::new();
            match command {
                Command::Prepare => {
                    header.request_count = U32::new(count);
                    body = vec![1; 32 * count as usize];
                    body.extend(tail);
                }
                Command::DoViewChange | Command::StartView => body = vec![2; 256 * (count as usize - 1)],
                Command::CheckpointChunk => {
                    header.total_size = U64::new(counters[2].max(100));
                    header.offset = U64::new(counters[1].min(header.total_size.get() - 100));
                    body = vec![3; count as usize];
                }
                _ => {}
            }
            header.seal(&body);
            (header, body)
        })
}

fn check(header: &MessageHeader) -> Result<Command, MessageError> {
    header.check(CLUSTER, SHARD)
}

/// The header with another checksum: the right one.
fn resealed(mut header: MessageHeader) -> MessageHeader {
    header.checksum = U128::new(header.header_checksum());
    header
}

fn heartbeat() -> MessageHeader {
    let mut header = MessageHeader::new(Command::Heartbeat, CLUSTER, SHARD, 0, 0);
    header.seal(&[]);
    header
}

#[test]
fn a_header_that_does_not_belong_here_is_told_why() {
    let header = heartbeat();
    assert_eq!(check(&header), Ok(Command::Heartbeat));
    assert_eq!(header.check(1, SHARD), Err(MessageError::Cluster(CLUSTER)));
    assert_eq!(header.check(CLUSTER, 4), Err(MessageError::Shard(SHARD)));
    for (header, error) in [
        (MessageHeader { version: U16::new(1), ..header }, MessageError::Version(1)),
        (MessageHeader { version: U16::new(WIRE_VERSION), ..header }, MessageError::Version(WIRE_VERSION)),
        (MessageHeader { command: 0, ..header }, MessageError::UnknownCommand(0)),
        (MessageHeader { command: 200, ..header }, MessageError::UnknownCommand(200)),
        (MessageHeader { replica: SERVERS_MAX, ..header }, MessageError::Replica(SERVERS_MAX)),
        (MessageHeader { flags: 4, ..header }, MessageError::Reserved),
        (MessageHeader { reserved: [9; 8], ..header }, MessageError::Reserved),
        (MessageHeader { in_sync: 0x80, ..header }, MessageError::Reserved),
        (MessageHeader { op: U64::MAX_VALUE, ..header }, MessageError::Counter(u64::MAX)),
        (MessageHeader { incarnations: [U64::MAX_VALUE; 7], ..header }, MessageError::Counter(u64::MAX)),
        (MessageHeader { view: U64::new(COUNTER_MAX + 1), ..header }, MessageError::Counter(COUNTER_MAX + 1)),
    ] {
        assert_eq!(check(&header), Err(MessageError::HeaderChecksum));
        assert_eq!(check(&resealed(header)), Err(error));
    }
}

#[test]
fn a_size_out_of_bounds_is_refused_before_anything_else() {
    for size in [0, 255, MESSAGE_SIZE_MAX as u32 + 1, u32::MAX] {
        let header = MessageHeader { size: U32::new(size), ..heartbeat() };
        assert_eq!(check(&header), Err(MessageError::Size(size)));
        assert_eq!(check(&resealed(header)), Err(MessageError::Size(size)));
        // Nobody should ask, but whoever does gets an answer.
        assert!(header.body_size() <= size as usize);
    }
}

#[test]
fn only_some_commands_have_a_body() {
    for &command in Command::ALL {
        let mut header = MessageHeader::new(command, CLUSTER, SHARD, 0, 0);
        header.op = U64::new(1);
        header.request_count = U32::new(u32::from(command == Command::Prepare));
        header.total_size = U64::new(32);
        for (size, is_valid) in [
            (0, !matches!(command, Command::Prepare | Command::CheckpointChunk)),
            (31, command == Command::CheckpointChunk),
            (32, matches!(command, Command::Prepare | Command::CheckpointChunk)),
            (100, command == Command::Prepare),
            (512, matches!(command, Command::Prepare | Command::DoViewChange | Command::StartView)),
        ] {
            header.seal(&vec![0; size]);
            let expected = if is_valid { Ok(command) } else { Err(MessageError::Body) };
            assert_eq!(check(&header), expected, "{command:?} {size}");
        }
    }
}

#[test]
fn a_prepare_has_an_op_and_room_for_its_requests() {
    let mut header = MessageHeader::new(Command::Prepare, CLUSTER, SHARD, 0, 0);
    for (op, count, body_size, is_valid) in [
        (1, 1, 32, true),
        (0, 1, 32, false),
        (1, 0, 32, false),
        (1, 2, 63, false),
        (1, 2, 64, true),
        (1, BATCH_OPS_MAX as u32 + 1, 64, false),
        (1, u32::MAX, 64, false),
    ] {
        header.op = U64::new(op);
        header.request_count = U32::new(count);
        header.seal(&vec![0; body_size]);
        assert_eq!(check(&header).is_ok(), is_valid, "op {op}, {count} requests in {body_size} bytes");
    }
}

#[test]
#[should_panic]
fn a_message_beyond_the_bound_is_not_sealed() {
    heartbeat().seal(&vec![0; MESSAGE_SIZE_MAX - MessageHeader::SIZE + 1]);
}

proptest! {
    #[test]
    fn every_message_passes_and_is_viewed_where_it_lies((header, body) in message(), before in 0..9usize) {
        let bytes = [&vec![0; before][..], header.as_bytes(), &body].concat();
        let viewed = MessageHeader::view(&bytes[before..]).expect("complete");
        prop_assert_eq!(viewed, &header);
        prop_assert_eq!(check(viewed).ok(), header.command());
        prop_assert_eq!(viewed.body_size(), body.len());
        prop_assert_eq!(viewed.check_body(&bytes[before + MessageHeader::SIZE..]), Ok(()));
        for size in 0..MessageHeader::SIZE {
            prop_assert_eq!(MessageHeader::view(&bytes[before..][..size]), None);
        }
    }

    #[test]
    fn a_flipped_bit_never_passes((header, body) in message()) {
        each_flipped_bit(header.as_bytes(), |damaged, bit| {
            let damaged = MessageHeader::view(damaged).expect("complete");
            assert!(check(damaged).is_err(), "bit {bit} of the header");
        });
        each_flipped_bit(&body, |damaged, bit| {
            assert_eq!(header.check_body(damaged), Err(MessageError::BodyChecksum), "bit {bit} of the body");
        });
    }

    #[test]
    fn a_body_that_is_cut_off_or_too_long_never_passes((header, body) in message()) {
        for size in 0..body.len() {
            prop_assert_eq!(header.check_body(&body[..size]), Err(MessageError::BodyChecksum));
        }
        let longer = [&body[..], &[0]].concat();
        prop_assert_eq!(header.check_body(&longer), Err(MessageError::BodyChecksum));
    }

    #[test]
    fn a_header_vouches_for_its_body_and_its_parent((header, body) in message(), other in noise(64)) {
        let mut changed = header;
        changed.parent = U128::new(header.parent.get() ^ 1);
        prop_assert_ne!(changed.header_checksum(), header.checksum.get());
        if body != other {
            changed = header;
            changed.seal(&other);
            prop_assert_ne!(changed.checksum.get(), header.checksum.get());
        }
    }

    /// A peer that computes the checksum itself can say anything: what gets through keeps its bounds.
    #[test]
    fn a_right_checksum_on_wrong_fields_does_no_harm((header, _) in message(), at in 16..256usize, bytes in noise(16)) {
        let mut raw = header.as_bytes().to_vec();
        let end = (at + bytes.len()).min(raw.len());
        raw[at..end].copy_from_slice(&bytes[..end - at]);
        let changed = resealed(MessageHeader::read_from_bytes(&raw).expect("256 bytes"));
        if check(&changed).is_ok() {
            prop_assert!(changed.body_size() <= MESSAGE_SIZE_MAX - MessageHeader::SIZE);
            prop_assert!(changed.request_count.get() as usize <= BATCH_OPS_MAX);
            prop_assert!(changed.op.get() <= COUNTER_MAX && changed.replica < SERVERS_MAX);
        }
    }

    #[test]
    fn bytes_that_are_no_message_do_no_harm(bytes in noise(600)) {
        if let Some(header) = MessageHeader::view(&bytes) {
            prop_assert!(check(header).is_err());
            let _ = header.check_body(&bytes[MessageHeader::SIZE..]);
        }
    }
}

/// A sealed prepare with `count` in its header and these frames in its body.
fn prepare(count: u32, frames: &[Vec<u8>]) -> (MessageHeader, Vec<u8>) {
    let body = frames.concat();
    let mut header = MessageHeader::new(Command::Prepare, CLUSTER, SHARD, 0, 0);
    header.op = U64::new(1);
    header.request_count = U32::new(count);
    header.seal(&body);
    (header, body)
}

fn encoded(ask: &Ask) -> Vec<u8> {
    let mut frame = Vec::new();
    ask.encode(1, 1, &mut frame);
    frame
}

#[test]
fn a_read_in_a_prepare_is_refused() {
    let (header, body) = prepare(2, &[encoded(&Ask::Register), encoded(&Ask::Ping)]);
    assert_eq!(header.check_requests(&body), Err(MessageError::Body));
}

proptest! {
    #[test]
    fn a_prepare_is_its_requests_and_nothing_else(
        asks in prop::collection::vec(ask().prop_filter("logged", |ask| ask.operation().is_logged()), 1..6),
        cut in any::<prop::sample::Index>(), after in noise(40),
    ) {
        let frames: Vec<_> = asks.iter().map(encoded).collect();
        let count = frames.len() as u32;
        let (header, body) = prepare(count, &frames);
        prop_assert_eq!(header.check_requests(&body), Ok(()));
        for wrong in [0, count - 1, count + 1, u32::MAX] {
            let (header, body) = prepare(wrong, &frames);
            prop_assert_eq!(header.check_requests(&body), Err(MessageError::Body), "{}", wrong);
        }
        let cut = &body[..cut.index(body.len())];
        prop_assert_eq!(header.check_requests(cut), Err(MessageError::Body));
        if !after.is_empty() {
            let longer = [&body[..], &after].concat();
            prop_assert_eq!(header.check_requests(&longer), Err(MessageError::Body));
        }
    }

    #[test]
    fn a_prepare_of_anything_does_no_harm(count in 0..5u32, frames in prop::collection::vec(noise(80), 0..4)) {
        let (header, body) = prepare(count, &frames);
        prop_assert_eq!(header.check_requests(&body).is_ok(), count == 0 && body.is_empty());
    }
}
