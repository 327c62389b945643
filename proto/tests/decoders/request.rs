//! Request frames.

use lockstep_proto::{
    Operation,
    limits::{COUNTER_MAX, KEY_SIZE_MAX, REQUEST_SIZE_MAX, TTL_MS_MAX, VALUE_SIZE_MAX},
    request::{FLAG_STALE, FLAG_TTL, FrameError, Request, RequestHeader, RequestParts, encode_request},
};
use proptest::prelude::*;

use crate::{
    asks::{ask, ask_everything, frame, sequence, session},
    damage::{each_flipped_bit, noise, seal_frame},
};

fn put(key: &[u8], value: &[u8]) -> RequestParts<'static> {
    let (key, value) = (key.to_vec().leak(), value.to_vec().leak());
    RequestParts { operation: Operation::Put, flags: 0, session: 1, sequence: 1, key, arguments: &[], value }
}

fn encoded(parts: &RequestParts<'_>) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_request(parts, &mut frame);
    frame
}

fn refusal(parts: &RequestParts<'_>) -> Option<FrameError> {
    let frame = encoded(parts);
    let error = Request::parse(&frame).err();
    assert_eq!(Request::parse_trusted(&frame).is_none(), error.is_some());
    error
}

#[test]
fn the_largest_key_and_value_fit_a_frame() {
    let (key, value) = (vec![b'k'; KEY_SIZE_MAX], vec![b'v'; VALUE_SIZE_MAX]);
    let mut arguments = 7u64.to_le_bytes().to_vec();
    arguments.extend(1000u64.to_le_bytes());
    let frame = encoded(&RequestParts {
        operation: Operation::CompareAndSet,
        flags: FLAG_TTL,
        arguments: &arguments,
        ..put(&key, &value)
    });
    assert!(frame.len() <= REQUEST_SIZE_MAX);
    let request = Request::parse(&frame).expect("valid").expect("complete");
    assert_eq!((request.key(), request.value()), (&key[..], &value[..]));
    assert_eq!((request.expected_version(), request.ttl_ms()), (7, Some(1000)));
}

#[test]
fn a_value_beyond_the_bound_is_refused() {
    let value = vec![0; VALUE_SIZE_MAX + 1];
    assert_eq!(refusal(&put(b"k", &value)), Some(FrameError::ValueSize(VALUE_SIZE_MAX + 1)));
}

#[test]
fn a_key_where_none_belongs_and_none_where_one_belongs_are_refused() {
    assert_eq!(refusal(&put(b"", b"v")), Some(FrameError::KeySize(0)));
    let ping = RequestParts { operation: Operation::Ping, session: 0, ..put(b"k", b"") };
    assert_eq!(refusal(&ping), Some(FrameError::KeySize(1)));
}

#[test]
fn a_key_larger_than_the_frame_is_refused() {
    let mut frame = encoded(&put(b"key", b""));
    frame[6] = 4;
    seal_frame(&mut frame);
    assert_eq!(Request::parse(&frame).err(), Some(FrameError::KeySize(4)));
    assert!(Request::parse_trusted(&frame).is_none());
}

#[test]
fn flags_belong_to_operations() {
    assert_eq!(refusal(&RequestParts { flags: FLAG_STALE, ..put(b"k", b"v") }), Some(FrameError::Flags(FLAG_STALE)));
    assert_eq!(refusal(&RequestParts { flags: 0x80, ..put(b"k", b"v") }), Some(FrameError::Flags(0x80)));
    let get = RequestParts { operation: Operation::Get, session: 0, flags: FLAG_TTL, ..put(b"k", b"") };
    assert_eq!(refusal(&get), Some(FrameError::Flags(FLAG_TTL)));
}

#[test]
fn logged_operations_have_a_session_and_all_have_a_sequence() {
    let mut sessionless = Vec::new();
    encode_request(&RequestParts { session: 0, ..put(b"k", b"v") }, &mut sessionless);
    let (request, _) = Request::parse_trusted(&sessionless).expect("the server itself may leave the session out");
    assert!(request.is_sessionless());
    assert_eq!(Request::parse(&sessionless).err(), Some(FrameError::Session), "but a client may not");
    assert_eq!(refusal(&RequestParts { sequence: 0, ..put(b"k", b"v") }), Some(FrameError::Session));
    assert_eq!(refusal(&RequestParts { sequence: COUNTER_MAX + 1, ..put(b"k", b"v") }), Some(FrameError::Session));
    assert_eq!(refusal(&RequestParts { operation: Operation::Get, ..put(b"k", b"") }), Some(FrameError::Session));
    assert_eq!(refusal(&RequestParts { operation: Operation::Register, ..put(b"", b"") }), Some(FrameError::Session));
}

#[test]
fn a_time_to_live_is_within_its_bounds() {
    for (ttl_ms, is_valid) in [(0, false), (1, true), (TTL_MS_MAX, true), (TTL_MS_MAX + 1, false), (u64::MAX, false)] {
        let arguments = ttl_ms.to_le_bytes();
        let expected = if is_valid { None } else { Some(FrameError::TimeToLive(ttl_ms)) };
        let parts = RequestParts { flags: FLAG_TTL, arguments: &arguments, ..put(b"k", b"v") };
        assert_eq!(refusal(&parts), expected);
        if ttl_ms != 0 {
            let parts = RequestParts { operation: Operation::Expire, arguments: &arguments, ..put(b"k", b"") };
            assert_eq!(refusal(&parts), expected);
        }
    }
}

#[test]
fn arguments_that_are_cut_off_or_too_long_are_refused() {
    for size in 0..32 {
        let bytes = vec![1; size];
        for operation in [Operation::Increment, Operation::Expire, Operation::CompareAndSet] {
            let parts = RequestParts { operation, arguments: &bytes, ..put(b"k", b"") };
            let is_size_valid = if operation == Operation::CompareAndSet { size >= 8 } else { size == 8 };
            let is_ttl_valid = operation != Operation::Expire;
            assert_eq!(refusal(&parts).is_none(), is_size_valid && is_ttl_valid, "{operation:?} {size}");
        }
        let parts = RequestParts { flags: FLAG_TTL, arguments: &bytes[..size.min(7)], ..put(b"k", b"") };
        assert_eq!(refusal(&parts), Some(FrameError::Body));
        let scan = RequestParts { operation: Operation::Scan, session: 0, arguments: &bytes, ..put(b"", b"") };
        assert!(refusal(&scan).is_some(), "{size}");
        let delete = RequestParts { operation: Operation::Delete, arguments: &bytes, ..put(b"k", b"") };
        assert_eq!(refusal(&delete).is_none(), size == 0);
    }
}

#[test]
fn an_operation_that_does_not_exist_is_refused() {
    for value in 0..=u8::MAX {
        let mut frame = encoded(&put(b"k", b""));
        frame[4] = value;
        seal_frame(&mut frame);
        if Operation::from_wire(value).is_none() {
            assert_eq!(Request::parse(&frame).err(), Some(FrameError::UnknownOperation(value)));
            assert!(Request::parse_trusted(&frame).is_none());
        }
    }
}

#[test]
#[should_panic]
fn a_key_beyond_the_bound_is_not_encoded() {
    encoded(&put(&vec![0; KEY_SIZE_MAX + 1], b""));
}

#[test]
#[should_panic]
fn a_frame_beyond_the_bound_is_not_encoded() {
    encoded(&put(b"k", &vec![0; REQUEST_SIZE_MAX]));
}

proptest! {
    #[test]
    fn every_request_comes_back_as_it_was_asked(ask in ask(), session in session(), sequence in sequence()) {
        let mut bytes = b"before".to_vec();
        ask.encode(session, sequence, &mut bytes);
        let size = bytes.len() - 6;
        bytes.extend_from_slice(b"after");
        let request = Request::parse(&bytes[6..]).expect("valid").expect("complete");
        prop_assert_eq!(request.size(), size);
        ask.assert_same(&request, session, sequence);
        ask_everything(&request);
        let (request, rest) = Request::parse_trusted(&bytes[6..]).expect("valid");
        prop_assert_eq!(rest, b"after");
        ask.assert_same(&request, session, sequence);
    }

    #[test]
    fn a_frame_is_incomplete_up_to_its_last_byte(frame in frame()) {
        for size in 0..frame.len() {
            prop_assert!(matches!(Request::parse(&frame[..size]), Ok(None)), "{} of {}", size, frame.len());
            prop_assert!(Request::parse_trusted(&frame[..size]).is_none());
        }
    }

    #[test]
    fn a_flipped_bit_never_passes(frame in frame(), after in noise(300)) {
        let mut bytes = frame.clone();
        bytes.extend(after);
        each_flipped_bit(&bytes, |damaged, bit| {
            let is_accepted = matches!(Request::parse(damaged), Ok(Some(_)));
            assert_eq!(is_accepted, bit >= frame.len() * 8, "bit {bit}");
        });
    }

    #[test]
    fn bytes_that_are_no_frame_do_no_harm(bytes in noise(400)) {
        if let Ok(Some(request)) = Request::parse(&bytes) {
            ask_everything(&request);
        }
        if let Some((request, _)) = Request::parse_trusted(&bytes) {
            ask_everything(&request);
        }
    }

    /// A client that computes the checksum itself can say anything: what gets through must be whole.
    #[test]
    fn a_right_checksum_on_wrong_fields_does_no_harm(
        operation in 0..=18u8, flags in 0..=4u8, key_size in 0..80u16, session in 0..2u64, sequence in 0..3u64,
        body in noise(200),
    ) {
        let mut frame = vec![0, 0, 0, 0, operation, flags];
        frame.extend(key_size.to_le_bytes());
        frame.extend(session.to_le_bytes());
        frame.extend(sequence.to_le_bytes());
        frame.extend([0; 8]);
        frame.extend(body);
        seal_frame(&mut frame);
        match Request::parse(&frame) {
            Ok(Some(request)) => {
                ask_everything(&request);
                let mut again = Vec::new();
                encode_request(&RequestParts {
                    operation: request.operation(), flags, session, sequence, key: request.key(),
                    arguments: request.arguments(), value: &[],
                }, &mut again);
                prop_assert_eq!(&again, &frame);
                prop_assert!(Request::parse_trusted(&frame).is_some_and(|(_, rest)| rest.is_empty()));
            }
            Ok(None) => prop_assert!(false, "the frame is complete"),
            Err(error) => {
                prop_assert_ne!(error, FrameError::Checksum);
                let is_sessionless = |(request, _): (Request<'_>, &[u8])| request.is_sessionless();
                prop_assert!(Request::parse_trusted(&frame).is_none_or(is_sessionless));
            }
        }
    }

    /// One byte of the body changed under a right checksum: the shape checks stand alone.
    #[test]
    fn a_right_checksum_on_a_changed_request_does_no_harm(
        frame in frame(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut frame = frame;
        let at = at.index(frame.len());
        frame[at] = byte;
        seal_frame(&mut frame);
        if let Ok(Some(request)) = Request::parse(&frame) {
            ask_everything(&request);
        }
    }

    #[test]
    fn a_size_out_of_bounds_is_refused_at_its_fourth_byte(
        size in prop_oneof![0..RequestHeader::SIZE as u32, REQUEST_SIZE_MAX as u32 + 1..=u32::MAX], after in noise(60),
    ) {
        let mut bytes = size.to_le_bytes().to_vec();
        bytes.extend(after);
        for end in 4..=bytes.len() {
            let error = Request::parse(&bytes[..end]).expect_err("refused");
            let is_size_named = matches!(
                error, FrameError::TooSmall(found) | FrameError::TooLarge { size: found, .. } if found == size
            );
            prop_assert!(is_size_named, "{}", error);
        }
        prop_assert!(Request::parse_trusted(&bytes).is_none());
    }
}
