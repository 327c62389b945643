//! Bodies with several parts.

use lockstep_proto::{
    Operation,
    items::{MultiGetItems, MultiGetReplyItems, MultiPutItems, ScanItem, ScanReplyItems},
    limits::{ITEMS_MAX, VALUE_SIZE_MAX},
    request::{FrameError, Request, RequestParts, encode_request},
};
use proptest::prelude::*;

use crate::damage::noise;

/// What the server says to a request with this operation and these items.
fn refusal(operation: Operation, items: &[u8]) -> Option<FrameError> {
    let session = u64::from(operation.is_logged());
    let mut frame = Vec::new();
    encode_request(
        &RequestParts { operation, flags: 0, session, sequence: 1, key: &[], arguments: &[], value: items },
        &mut frame,
    );
    Request::parse(&frame).err()
}

#[test]
fn a_request_without_items_is_refused() {
    assert_eq!(refusal(Operation::MultiGet, &[]), Some(FrameError::Body));
    assert_eq!(refusal(Operation::MultiPut, &[]), Some(FrameError::Body));
}

#[test]
fn an_item_without_a_key_is_refused() {
    let (mut keys, mut pairs) = (Vec::new(), Vec::new());
    MultiGetItems::push(b"key", &mut keys);
    MultiGetItems::push(b"", &mut keys);
    MultiPutItems::push(b"key", b"value", &mut pairs);
    MultiPutItems::push(b"", b"value", &mut pairs);
    assert_eq!(refusal(Operation::MultiGet, &keys), Some(FrameError::Body));
    assert_eq!(refusal(Operation::MultiPut, &pairs), Some(FrameError::Body));
}

#[test]
fn one_item_more_than_the_bound_is_refused() {
    let (mut keys, mut pairs) = (Vec::new(), Vec::new());
    for _ in 0..ITEMS_MAX {
        MultiGetItems::push(b"k", &mut keys);
        MultiPutItems::push(b"k", b"", &mut pairs);
    }
    assert_eq!(refusal(Operation::MultiGet, &keys), None);
    assert_eq!(refusal(Operation::MultiPut, &pairs), None);
    MultiGetItems::push(b"k", &mut keys);
    MultiPutItems::push(b"k", b"", &mut pairs);
    assert_eq!(refusal(Operation::MultiGet, &keys), Some(FrameError::Body));
    assert_eq!(refusal(Operation::MultiPut, &pairs), Some(FrameError::Body));
}

#[test]
fn sizes_that_point_beyond_the_body_are_refused() {
    assert_eq!(refusal(Operation::MultiGet, &[0xFF, 0xFF, b'k']), Some(FrameError::Body));
    let mut pair = Vec::new();
    MultiPutItems::push(b"k", b"v", &mut pair);
    for value_size in [2, u32::MAX - 1, u32::MAX] {
        pair[2..6].copy_from_slice(&value_size.to_le_bytes());
        assert_eq!(refusal(Operation::MultiPut, &pair), Some(FrameError::Body), "{value_size}");
    }
}

#[test]
fn a_value_beyond_the_bound_is_refused_in_an_item_too() {
    let mut pair = Vec::new();
    MultiPutItems::push(b"k", &vec![0; VALUE_SIZE_MAX], &mut pair);
    assert_eq!(refusal(Operation::MultiPut, &pair), None);
    pair[2..6].copy_from_slice(&(VALUE_SIZE_MAX as u32 + 1).to_le_bytes());
    pair.push(0);
    assert_eq!(refusal(Operation::MultiPut, &pair), Some(FrameError::ValueSize(VALUE_SIZE_MAX + 1)));
}

proptest! {
    #[test]
    fn items_that_are_cut_off_are_refused(
        pairs in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..9), noise(9)), 1..5),
    ) {
        let (mut keys_bytes, mut pairs_bytes) = (Vec::new(), Vec::new());
        let (mut key_ends, mut pair_ends) = (vec![], vec![]);
        for (key, value) in &pairs {
            MultiGetItems::push(key, &mut keys_bytes);
            MultiPutItems::push(key, value, &mut pairs_bytes);
            key_ends.push(keys_bytes.len());
            pair_ends.push(pairs_bytes.len());
        }
        for size in 0..=keys_bytes.len() {
            let is_accepted = refusal(Operation::MultiGet, &keys_bytes[..size]).is_none();
            prop_assert_eq!(is_accepted, key_ends.contains(&size));
        }
        for size in 0..=pairs_bytes.len() {
            let is_accepted = refusal(Operation::MultiPut, &pairs_bytes[..size]).is_none();
            prop_assert_eq!(is_accepted, pair_ends.contains(&size));
        }
    }

    #[test]
    fn the_reply_to_a_multi_get_comes_back(items in prop::collection::vec(prop::option::of((any::<u64>(), noise(40))), 0..9)) {
        let mut body = Vec::new();
        for item in &items {
            MultiGetReplyItems::push(item.as_ref().map(|(version, value)| (*version, &value[..])), &mut body);
        }
        let decoded: Vec<_> = MultiGetReplyItems::new(&body).collect();
        let expected: Vec<_> = items.iter().map(|item| item.as_ref().map(|(v, value)| (*v, &value[..]))).collect();
        prop_assert_eq!(&decoded, &expected);
        for size in 0..body.len() {
            prop_assert!(MultiGetReplyItems::new(&body[..size]).count() < items.len());
        }
    }

    #[test]
    fn the_reply_to_a_scan_comes_back(items in prop::collection::vec((noise(20), noise(40), any::<u64>()), 0..9)) {
        let items: Vec<_> =
            items.iter().map(|(key, value, version)| ScanItem { key, value, version: *version }).collect();
        let mut body = Vec::new();
        for item in &items {
            let start = body.len();
            item.push(&mut body);
            prop_assert_eq!(body.len() - start, item.encoded_size());
        }
        let decoded: Vec<_> = ScanReplyItems::new(&body).collect();
        prop_assert_eq!(&decoded, &items);
        for size in 0..body.len() {
            prop_assert!(ScanReplyItems::new(&body[..size]).count() < items.len());
        }
    }

    /// A client reads these out of replies: whatever the server sent, reading ends and stays within the body.
    #[test]
    fn bytes_that_are_no_items_do_no_harm(body in noise(300)) {
        let mut gets = MultiGetReplyItems::new(&body);
        let read: usize = gets.by_ref().map(|item| 13 + item.map_or(0, |(_, value)| value.len())).sum();
        prop_assert!(read <= body.len());
        prop_assert!(gets.next().is_none());
        let mut scans = ScanReplyItems::new(&body);
        let read: usize = scans.by_ref().map(|item| item.encoded_size()).sum();
        prop_assert!(read <= body.len());
        prop_assert!(scans.next().is_none());
    }
}
