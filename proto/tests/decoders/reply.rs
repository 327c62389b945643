//! Reply frames.

use lockstep_proto::{
    Operation, Status,
    limits::REPLY_BODY_SIZE_MAX,
    reply::{Reply, ReplyHeader, ReplyParts, begin_reply, encode_keep_alive, encode_reply, finish_reply},
    request::FrameError,
};
use proptest::prelude::*;

use crate::damage::{each_flipped_bit, noise, seal_frame};

pub fn parts() -> impl Strategy<Value = ReplyParts> {
    (prop::sample::select(Status::ALL), prop::sample::select(Operation::ALL), any::<u8>(), any::<u64>(), any::<u64>())
        .prop_map(|(status, operation, copies, sequence, version)| ReplyParts {
            status,
            operation,
            copies,
            sequence,
            version,
        })
}

/// The fixed part of a decoded reply.
pub fn parts_of(reply: &Reply<'_>) -> ReplyParts {
    ReplyParts {
        status: reply.status(),
        operation: reply.operation(),
        copies: reply.copies(),
        sequence: reply.sequence(),
        version: reply.version(),
    }
}

const PARTS: ReplyParts =
    ReplyParts { status: Status::Ok, operation: Operation::Get, copies: 0, sequence: 1, version: 1 };

#[test]
fn the_largest_body_passes() {
    let mut frame = Vec::new();
    encode_reply(&PARTS, &vec![7; REPLY_BODY_SIZE_MAX], &mut frame);
    let reply = Reply::parse(&frame).expect("valid").expect("complete");
    assert_eq!(reply.body().len(), REPLY_BODY_SIZE_MAX);
}

#[test]
#[should_panic]
fn a_body_beyond_the_bound_is_not_encoded() {
    encode_reply(&PARTS, &vec![7; REPLY_BODY_SIZE_MAX + 1], &mut Vec::new());
}

#[test]
fn a_keep_alive_is_told_from_every_answer() {
    let mut frame = Vec::new();
    encode_keep_alive(&mut frame);
    assert!(Reply::parse(&frame).expect("valid").expect("complete").is_keep_alive());
    let ping = ReplyParts { operation: Operation::Ping, ..PARTS };
    for parts in [PARTS, ping, ReplyParts { status: Status::BadRequest, sequence: 0, ..ping }] {
        frame.clear();
        encode_reply(&parts, &[], &mut frame);
        assert!(!Reply::parse(&frame).expect("valid").expect("complete").is_keep_alive());
    }
}

#[test]
fn unknown_values_and_reserved_bytes_are_refused() {
    let mut frame = Vec::new();
    encode_reply(&PARTS, b"value", &mut frame);
    for (at, byte, error) in
        [(4, 15, FrameError::UnknownStatus(15)), (5, 0, FrameError::UnknownOperation(0)), (7, 1, FrameError::Reserved)]
    {
        let mut damaged = frame.clone();
        damaged[at] = byte;
        assert_eq!(Reply::parse(&damaged).err(), Some(FrameError::Checksum));
        seal_frame(&mut damaged);
        assert_eq!(Reply::parse(&damaged).err(), Some(error));
    }
}

proptest! {
    #[test]
    fn every_reply_comes_back_as_it_was_given(parts in parts(), body in noise(200)) {
        let mut bytes = b"before".to_vec();
        encode_reply(&parts, &body, &mut bytes);
        let size = bytes.len() - 6;
        bytes.extend_from_slice(b"after");
        let reply = Reply::parse(&bytes[6..]).expect("valid").expect("complete");
        prop_assert_eq!(reply.size(), size);
        prop_assert_eq!(reply.body(), &body[..]);
        prop_assert_eq!(parts_of(&reply), parts);
    }

    #[test]
    fn a_body_written_in_place_gives_the_same_frame(parts in parts(), body in noise(100), before in noise(10)) {
        let mut whole = before.clone();
        encode_reply(&parts, &body, &mut whole);
        let mut in_place = before;
        let start = begin_reply(&mut in_place);
        for byte in &body {
            in_place.push(*byte);
        }
        finish_reply(&parts, start, &mut in_place);
        prop_assert_eq!(in_place, whole);
    }

    #[test]
    fn a_frame_is_incomplete_up_to_its_last_byte(parts in parts(), body in noise(100)) {
        let mut frame = Vec::new();
        encode_reply(&parts, &body, &mut frame);
        for size in 0..frame.len() {
            prop_assert!(matches!(Reply::parse(&frame[..size]), Ok(None)));
        }
    }

    #[test]
    fn a_flipped_bit_never_passes(parts in parts(), body in noise(100), after in noise(300)) {
        let mut bytes = Vec::new();
        encode_reply(&parts, &body, &mut bytes);
        let size = bytes.len();
        bytes.extend(after);
        each_flipped_bit(&bytes, |damaged, bit| {
            assert_eq!(matches!(Reply::parse(damaged), Ok(Some(_))), bit >= size * 8, "bit {bit}");
        });
    }

    #[test]
    fn bytes_that_are_no_frame_do_no_harm(bytes in noise(400)) {
        if let Ok(Some(reply)) = Reply::parse(&bytes) {
            prop_assert_eq!(reply.size(), ReplyHeader::SIZE + reply.body().len());
        }
    }

    #[test]
    fn a_right_checksum_on_wrong_fields_does_no_harm(header in prop::collection::vec(0..32u8, 32), body in noise(60)) {
        let mut frame = header;
        frame.extend(&body);
        seal_frame(&mut frame);
        match Reply::parse(&frame) {
            Ok(Some(reply)) => {
                let mut again = Vec::new();
                encode_reply(&parts_of(&reply), reply.body(), &mut again);
                prop_assert_eq!(again, frame);
            }
            Ok(None) => prop_assert!(false, "the frame is complete"),
            Err(error) => prop_assert_ne!(error, FrameError::Checksum),
        }
    }

    #[test]
    fn a_size_out_of_bounds_is_refused_at_its_fourth_byte(
        size in prop_oneof![
            0..ReplyHeader::SIZE as u32, (ReplyHeader::SIZE + REPLY_BODY_SIZE_MAX) as u32 + 1..=u32::MAX
        ],
        after in noise(60),
    ) {
        let mut bytes = size.to_le_bytes().to_vec();
        bytes.extend(after);
        for end in 4..=bytes.len() {
            prop_assert!(Reply::parse(&bytes[..end]).is_err());
        }
    }
}
