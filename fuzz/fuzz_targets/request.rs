//! Request frames, as they come and behind their checksum.

#![no_main]

mod seal;

use libfuzzer_sys::fuzz_target;
use lockstep_proto::{
    Operation,
    request::{Request, RequestParts, encode_request},
};

/// Nothing that an accepted request can be asked may panic, and it encodes to the bytes that it came from.
fn check(request: &Request<'_>, frame: &[u8]) {
    let _ = (request.value(), request.ttl_ms(), request.is_stale_allowed(), request.scan_arguments());
    let items = request.multi_get_items().count() + request.multi_put_items().count();
    let has_items = matches!(request.operation(), Operation::MultiGet | Operation::MultiPut);
    assert_eq!(items > 0, has_items);
    match request.operation() {
        Operation::CompareAndSet => drop(request.expected_version()),
        Operation::Increment => drop(request.delta()),
        Operation::MovePrimary => drop(request.move_to()),
        _ => {}
    }
    let mut again = Vec::new();
    let parts = RequestParts {
        operation: request.operation(),
        flags: request.header().flags,
        session: request.session(),
        sequence: request.sequence(),
        key: request.key(),
        arguments: request.arguments(),
        value: &[],
    };
    encode_request(&parts, &mut again);
    assert_eq!(again[..24], frame[..24]);
    assert_eq!(again[32..], frame[32..request.size()]);
}

fuzz_target!(|data: &[u8]| {
    if let Ok(Some(request)) = Request::parse(data) {
        check(&request, data);
    }
    if let Some((request, rest)) = Request::parse_trusted(data) {
        assert_eq!(request.size() + rest.len(), data.len());
        check(&request, data);
    }
    if let Some(frame) = seal::sealed(data) {
        let trusted = Request::parse_trusted(&frame);
        let is_accepted = match Request::parse(&frame) {
            Ok(Some(request)) => {
                assert_eq!(request.size(), frame.len());
                check(&request, &frame);
                true
            }
            Ok(None) => panic!("the frame is complete"),
            Err(_) => false,
        };
        // What this server's own front door may put into the log is not taken from a client.
        let is_for_client = trusted.is_some_and(|(request, _)| !request.is_sessionless());
        assert_eq!(is_for_client, is_accepted);
    }
});
