//! Streams handed over in arbitrary pieces.

use lockstep_proto::{
    decoder::StreamDecoder,
    hello::{Hello, HelloError, Topology},
    limits::{REPLY_BODY_SIZE_MAX, REQUEST_SIZE_MAX},
    message::{MessageError, MessageHeader},
    reply::{ReplyHeader, encode_reply},
};
use proptest::prelude::*;
use zerocopy::IntoBytes;

use crate::{
    asks::{ask, frame, sequence, session},
    damage::noise,
    hello::{hello, topology},
    message::message,
    reply::{parts, parts_of},
};

/// Cuts `bytes` at the given places.
fn pieces<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..40)
}

/// One byte at a time, or in given pieces.
fn ways<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> [Vec<&'a [u8]>; 2] {
    [bytes.chunks(1).collect(), pieces(bytes, cuts)]
}

fn next_message(decoder: &mut StreamDecoder) -> Result<Option<(MessageHeader, Vec<u8>)>, MessageError> {
    decoder.next_with(|bytes| {
        let Some(header) = MessageHeader::view(bytes) else {
            return Ok(None);
        };
        header.check(header.cluster.get(), header.shard.get())?;
        let size = header.size.get() as usize;
        let Some(body) = bytes.get(MessageHeader::SIZE..size) else {
            return Ok(None);
        };
        header.check_body(body)?;
        Ok(Some(((*header, body.to_vec()), size)))
    })
}

#[test]
fn hostile_sizes_are_refused_before_anything_is_held_for_them() {
    for size in [0u32, 31, REQUEST_SIZE_MAX as u32 + 1, u32::MAX] {
        let mut decoder = StreamDecoder::new();
        decoder.push(&size.to_le_bytes()[..3]);
        assert!(decoder.next_request().expect("not known yet").is_none());
        decoder.push(&size.to_le_bytes()[3..]);
        assert!(decoder.next_request().is_err(), "{size}");
        assert!(decoder.next_request().is_err(), "an error does not go away");
        assert_eq!(decoder.pending().len(), 4);
    }
    for size in [0u32, 31, (ReplyHeader::SIZE + REPLY_BODY_SIZE_MAX) as u32 + 1, u32::MAX] {
        let mut decoder = StreamDecoder::new();
        decoder.push(&size.to_le_bytes());
        assert!(decoder.next_reply().is_err(), "{size}");
    }
}

#[test]
#[should_panic]
fn a_parser_cannot_take_more_than_there_is() {
    let mut decoder = StreamDecoder::new();
    decoder.push(b"abc");
    let _ = decoder.next_with(|_| Ok::<_, ()>(Some(((), 4))));
}

#[test]
#[should_panic]
fn a_parser_cannot_give_a_frame_out_of_nothing() {
    let mut decoder = StreamDecoder::new();
    decoder.push(b"abc");
    let _ = decoder.next_with(|_| Ok::<_, ()>(Some(((), 0))));
}

proptest! {
    #[test]
    fn requests_come_out_as_they_went_in(
        asks in prop::collection::vec((ask(), session(), sequence()), 1..8), cuts in cuts(),
    ) {
        let mut bytes = Vec::new();
        for (ask, session, sequence) in &asks {
            ask.encode(*session, *sequence, &mut bytes);
        }
        for pieces in ways(&bytes, &cuts) {
            let mut decoder = StreamDecoder::new();
            let mut expected = asks.iter();
            for piece in pieces {
                decoder.push(piece);
                while let Some(request) = decoder.next_request().expect("valid") {
                    let (ask, session, sequence) = expected.next().expect("no more than went in");
                    ask.assert_same(&request, *session, *sequence);
                }
            }
            prop_assert!(expected.next().is_none());
            prop_assert!(decoder.pending().is_empty());
        }
    }

    #[test]
    fn replies_come_out_as_they_went_in(
        replies in prop::collection::vec((parts(), noise(80)), 1..8), cuts in cuts(),
    ) {
        let mut bytes = Vec::new();
        for (parts, body) in &replies {
            encode_reply(parts, body, &mut bytes);
        }
        for pieces in ways(&bytes, &cuts) {
            let mut decoder = StreamDecoder::new();
            let mut found = Vec::new();
            for piece in pieces {
                decoder.push(piece);
                while let Some(reply) = decoder.next_reply().expect("valid") {
                    found.push((parts_of(&reply), reply.body().to_vec()));
                }
            }
            prop_assert_eq!(&found, &replies);
        }
    }

    #[test]
    fn a_server_hears_a_hello_and_then_messages(
        hello in hello(), messages in prop::collection::vec(message(), 0..5), cuts in cuts(),
    ) {
        let mut bytes = hello.as_bytes().to_vec();
        for (header, body) in &messages {
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(body);
        }
        for pieces in ways(&bytes, &cuts) {
            let mut decoder = StreamDecoder::new();
            let mut heard = None;
            let mut found = Vec::new();
            for piece in pieces {
                decoder.push(piece);
                if heard.is_none() {
                    heard = decoder
                        .next_with(|bytes| Ok::<_, HelloError>(Hello::parse(bytes)?.map(|(hello, _)| (hello, Hello::SIZE))))
                        .expect("valid");
                }
                while heard.is_some() && let Some(message) = next_message(&mut decoder).expect("valid") {
                    found.push(message);
                }
            }
            prop_assert_eq!(heard, Some(hello));
            prop_assert_eq!(&found, &messages);
        }
    }

    #[test]
    fn a_client_hears_a_topology_and_then_replies(topology in topology(), parts in parts(), cuts in cuts()) {
        let mut bytes = topology.encode();
        encode_reply(&parts, b"body", &mut bytes);
        for pieces in ways(&bytes, &cuts) {
            let mut decoder = StreamDecoder::new();
            let mut heard = None;
            let mut found = None;
            for piece in pieces {
                decoder.push(piece);
                if heard.is_none() {
                    heard = decoder.next_with(Topology::parse).expect("valid");
                }
                if heard.is_some() && let Some(reply) = decoder.next_reply().expect("valid") {
                    found = Some(parts_of(&reply));
                }
            }
            prop_assert_eq!(heard.as_ref(), Some(&topology));
            prop_assert_eq!(found, Some(parts));
        }
    }

    /// A stream of frames with one damaged byte: all frames before the damage come out, and nothing false after it.
    #[test]
    fn damage_in_a_stream_ends_it(
        frames in prop::collection::vec(frame(), 1..6), at in any::<prop::sample::Index>(), flip in 1..=u8::MAX,
        cuts in cuts(),
    ) {
        let mut bytes = frames.concat();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let mut whole_before = 0;
        let mut end = 0;
        for frame in &frames {
            end += frame.len();
            whole_before += usize::from(end <= at);
        }
        let mut decoder = StreamDecoder::new();
        let mut count = 0;
        'stream: for piece in pieces(&bytes, &cuts) {
            decoder.push(piece);
            loop {
                match decoder.next_request() {
                    Ok(Some(_)) => count += 1,
                    Ok(None) => break,
                    Err(_) => break 'stream,
                }
            }
        }
        prop_assert_eq!(count, whole_before);
    }

    #[test]
    fn a_stream_of_anything_does_no_harm(pieces in prop::collection::vec(noise(120), 0..20)) {
        let (mut requests, mut replies, mut messages) = <(StreamDecoder, StreamDecoder, StreamDecoder)>::default();
        for piece in &pieces {
            requests.push(piece);
            while let Ok(Some(_)) = requests.next_request() {}
            replies.push(piece);
            while let Ok(Some(_)) = replies.next_reply() {}
            messages.push(piece);
            while let Ok(Some(_)) = next_message(&mut messages) {}
        }
        let given: usize = pieces.iter().map(Vec::len).sum();
        prop_assert!(requests.pending().len() <= given);
    }
}
