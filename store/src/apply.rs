//! Requests that write.

use std::convert::Infallible;

use lockstep_proto::{
    mutant::{self, Mutant},
    operation::{Operation, Status},
    request::Request,
};

use crate::{
    ahead::{Probe, WINDOW},
    decimal,
    entry::{Encoding, EntryHeader, NewValue},
    program::{Work, first_key},
    slab::Handle,
    store::Store,
};

/// Expired keys that one request makes room to remove. More than one, so that a store in which every request makes a
/// key that expires still shrinks.
const SWEEP_PER_REQUEST: usize = 2;

/// Expired keys that are removed before each batch besides those, the longest expired ones first.
pub const SWEEP_PER_BATCH: usize = 16;

const NS_PER_MS: u64 = 1_000_000;

/// How a logged request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteResult {
    /// How it ended.
    pub status: Status,
    /// After a write or removal: its revision. After an expire, or when nothing was changed: the key's version, 0 if it
    /// does not exist.
    pub version: u64,
    /// The sum after an increment, as the bits of an `i64`; else 0.
    pub value: u64,
}

impl WriteResult {
    pub(crate) fn new(status: Status, version: u64) -> WriteResult {
        WriteResult { status, version, value: 0 }
    }
}

/// A moment and a place in the log.
#[derive(Clone, Copy)]
pub(crate) struct Moment {
    pub timestamp_ns: u64,
    pub revision: u64,
}

impl Moment {
    fn expiry_ns(&self, ttl_ms: Option<u64>) -> u64 {
        ttl_ms.map_or(0, |ttl_ms| self.timestamp_ns.saturating_add(ttl_ms.saturating_mul(NS_PER_MS)))
    }
}

impl Store {
    /// Carries out the requests of one prepare, in order. Each request comes with its revision.
    ///
    /// `results` is cleared and gets one result per request. `timestamp_ns` is the prepare's, in nanoseconds since
    /// 1970: keys whose expiry is at or before it do not exist any more. A register, which belongs to the sessions, and
    /// a request that is not logged are answered `BadRequest`.
    ///
    /// For replicas to agree, each must call this once per prepare, with the same requests: the sweep of expired keys
    /// goes by calls. A call without requests is a valid one.
    pub fn apply_batch(&mut self, timestamp_ns: u64, requests: &[(u64, Request<'_>)], results: &mut Vec<WriteResult>) {
        self.apply_batch_with(timestamp_ns, requests, results, |_, _, _| ());
    }

    /// [`Store::apply_batch`], and gives what the programs among the requests answer to `answer`: the index of the
    /// request, its result, and the body of the reply. It is called as soon as a program is done, so that the bodies of
    /// a batch, which may be large, are not all there at once.
    pub fn apply_batch_with(
        &mut self,
        timestamp_ns: u64,
        requests: &[(u64, Request<'_>)],
        results: &mut Vec<WriteResult>,
        mut answer: impl FnMut(usize, &WriteResult, &[u8]),
    ) {
        results.clear();
        results.reserve(requests.len());
        self.sweep(timestamp_ns, SWEEP_PER_REQUEST * requests.len() + SWEEP_PER_BATCH);
        if let Some(&(revision, _)) = requests.last() {
            self.write_times.note(revision, timestamp_ns);
        }
        let mut work = Work::of_batch();
        let Ok(()) = self.write_ahead(
            requests,
            |(_, request)| match request.operation() {
                Operation::Transact => first_key(request.program()),
                _ => request.key(),
            },
            |store, (revision, request), probe| {
                let moment = Moment { timestamp_ns, revision: *revision };
                if request.operation() == Operation::Transact {
                    let mut body = std::mem::take(&mut store.results);
                    body.clear();
                    let result = store.transact(moment, request.program(), probe, &mut work, &mut body);
                    answer(results.len(), &result, &body);
                    store.results = body;
                    results.push(result);
                } else {
                    results.push(store.apply_one(moment, request, probe));
                }
                Ok::<(), Infallible>(())
            },
        );
    }

    /// Removes the longest expired keys, at most `count`.
    fn sweep(&mut self, now_ns: u64, count: usize) {
        for _ in 0..count {
            let Some((&(expiry_ns, creation), &slot)) = self.expiry.first_key_value() else { return };
            let is_spared = mutant::is(Mutant::ExpiryIgnored) || mutant::is(Mutant::ExpiredKeepsRoom);
            if expiry_ns > now_ns || is_spared {
                return;
            }
            let handle = self.slots.find(slot, creation);
            let hash = self.hash(self.entry(handle).key());
            self.remove(hash, handle);
            self.expired_total += 1;
        }
    }

    fn apply_one(&mut self, moment: Moment, request: &Request<'_>, probe: Probe) -> WriteResult {
        let key = request.key();
        match request.operation() {
            Operation::Put => {
                let found = self.find_live(moment.timestamp_ns, probe, key);
                self.write(moment, probe, key, found, request.value(), moment.expiry_ns(request.ttl_ms()))
            }
            Operation::Delete => self.delete(moment, probe, key),
            Operation::CompareAndSet => self.compare_and_set(moment, probe, request),
            Operation::Increment => self.increment(moment, probe, key, request.delta()),
            Operation::MultiPut => self.multi_put(moment, request),
            Operation::Expire => self.expire(moment, probe, key, moment.expiry_ns(request.ttl_ms())),
            _ => WriteResult::new(Status::BadRequest, 0),
        }
    }

    /// Finds a key that exists. One that has expired is removed on the way.
    #[inline]
    pub(crate) fn find_live(&mut self, now_ns: u64, probe: Probe, key: &[u8]) -> Option<Handle> {
        let handle = self.find_probed(probe, key)?;
        if self.entry(handle).is_expired(now_ns) && !mutant::is(Mutant::ExpiryIgnored) {
            self.remove(probe.hash, handle);
            self.expired_total += 1;
            return None;
        }
        Some(handle)
    }

    /// Writes a key's value, whether the key exists (`found`) or not.
    #[inline]
    fn write(
        &mut self,
        moment: Moment,
        probe: Probe,
        key: &[u8],
        found: Option<Handle>,
        value: &[u8],
        expiry_ns: u64,
    ) -> WriteResult {
        let new = NewValue { value, expiry_ns, version: moment.revision, encoding: Encoding::Plain };
        let status = match found {
            Some(handle) => self.overwrite(probe.hash, handle, &new),
            None => self.insert(probe, key, &new),
        };
        match status {
            Status::Ok => WriteResult::new(Status::Ok, moment.revision),
            refused => WriteResult::new(refused, found.map_or(0, |handle| self.entry(handle).header.version())),
        }
    }

    /// What to answer when a key that must exist does not.
    fn missing(&self, key: &[u8], status: Status) -> WriteResult {
        WriteResult::new(if self.is_own_key(key) { status } else { Status::WrongShard }, 0)
    }

    fn delete(&mut self, moment: Moment, probe: Probe, key: &[u8]) -> WriteResult {
        let Some(handle) = self.find_live(moment.timestamp_ns, probe, key) else {
            return self.missing(key, Status::NotFound);
        };
        self.remove(probe.hash, handle);
        WriteResult::new(Status::Ok, moment.revision)
    }

    fn compare_and_set(&mut self, moment: Moment, probe: Probe, request: &Request<'_>) -> WriteResult {
        let key = request.key();
        let found = self.find_live(moment.timestamp_ns, probe, key);
        let version = found.map_or(0, |handle| self.entry(handle).header.version());
        if version == request.expected_version() || mutant::is(Mutant::CompareAndSetBlind) {
            return self.write(moment, probe, key, found, request.value(), moment.expiry_ns(request.ttl_ms()));
        }
        match found {
            Some(_) => WriteResult::new(Status::VersionMismatch, version),
            None => self.missing(key, Status::VersionMismatch),
        }
    }

    /// The time-to-live stays as it is.
    fn increment(&mut self, moment: Moment, probe: Probe, key: &[u8], delta: i64) -> WriteResult {
        let found = self.find_live(moment.timestamp_ns, probe, key);
        let (before, expiry_ns, version) = match found {
            None => (Some(0), 0, 0),
            Some(handle) => {
                let entry = self.entry(handle);
                (decimal::parse(entry.value()), entry.header.expiry_ns(), entry.header.version())
            }
        };
        let Some(sum) = before.and_then(|before: i64| before.checked_add(delta)) else {
            return WriteResult::new(Status::NotANumber, version);
        };
        let result = self.write(moment, probe, key, found, decimal::write(sum, &mut [0; decimal::SIZE_MAX]), expiry_ns);
        match result.status {
            Status::Ok => WriteResult { value: sum as u64, ..result },
            _ => result,
        }
    }

    fn expire(&mut self, moment: Moment, probe: Probe, key: &[u8], expiry_ns: u64) -> WriteResult {
        let Some(handle) = self.find_live(moment.timestamp_ns, probe, key) else {
            return self.missing(key, Status::NotFound);
        };
        self.set_expiry(probe.hash, handle, expiry_ns, moment.revision);
        WriteResult::new(Status::Ok, self.entry(handle).header.version())
    }

    /// Writes all items or none: everything that a single write could be refused for is looked at before the first. A
    /// key that is given twice ends with its last value.
    fn multi_put(&mut self, moment: Moment, request: &Request<'_>) -> WriteResult {
        let expiry_ns = moment.expiry_ns(request.ttl_ms());
        let mut size = 0;
        for (key, value) in request.multi_put_items() {
            if !self.is_own_key(key) {
                return WriteResult::new(Status::WrongShard, 0);
            }
            size += EntryHeader::SIZE + key.len() + value.len();
        }
        // Room for all as if none existed yet: the same on every replica, and enough whatever is overwritten.
        if !self.has_room(size) {
            return WriteResult::new(Status::Busy, 0);
        }
        self.write_all(moment, request.multi_put_items(), expiry_ns);
        WriteResult::new(Status::Ok, moment.revision)
    }

    /// Writes keys of this shard, for which there is room.
    pub(crate) fn write_all<'a>(
        &mut self,
        moment: Moment,
        mut items: impl Iterator<Item = (&'a [u8], &'a [u8])>,
        expiry_ns: u64,
    ) {
        let mut window: [(&[u8], &[u8]); WINDOW] = [(&[], &[]); WINDOW];
        let mut count = WINDOW;
        while count == WINDOW {
            count = 0;
            // The array goes first: zip would swallow an item after its last place.
            for (place, item) in window.iter_mut().zip(items.by_ref()) {
                *place = item;
                count += 1;
            }
            let Ok(()) = self.write_ahead(
                &window[..count],
                |(key, _)| key,
                |store, (key, value), probe| {
                    let found = store.find_live(moment.timestamp_ns, probe, key);
                    let result = store.write(moment, probe, key, found, value, expiry_ns);
                    assert_eq!(result.status, Status::Ok, "nothing is refused after the check");
                    Ok::<(), Infallible>(())
                },
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use lockstep_proto::{
        Operation, Status,
        items::MultiPutItems,
        request::{Request, RequestParts, encode_request},
    };

    use super::WriteResult;
    use crate::{Store, StoreConfig};

    fn apply(store: &mut Store, operation: Operation, key: &[u8], value: &[u8]) -> WriteResult {
        let mut frame = Vec::new();
        let parts = RequestParts { operation, flags: 0, session: 1, sequence: 1, key, arguments: &[], value };
        encode_request(&parts, &mut frame);
        let request = Request::parse(&frame).expect("a valid frame").expect("a whole frame");
        let mut results = Vec::new();
        store.apply_batch(1, &[(7, request)], &mut results);
        results[0]
    }

    #[test]
    fn a_full_store_is_busy_until_something_is_removed() {
        let mut store = Store::new(StoreConfig { hash_seed: [1, 2, 3, 4], shard: 0, shards: 1, bytes_max: 1000 });
        let put = |store: &mut Store, key: &[u8], size| apply(store, Operation::Put, key, &vec![0; size]);
        assert_eq!(put(&mut store, b"a", 1000 - 33).status, Status::Ok);
        assert_eq!(put(&mut store, b"b", 0), WriteResult { status: Status::Busy, version: 0, value: 0 });
        assert_eq!(put(&mut store, b"a", 1001 - 33), WriteResult { status: Status::Busy, version: 7, value: 0 });
        assert_eq!(put(&mut store, b"a", 400 - 33).status, Status::Ok);
        assert_eq!(put(&mut store, b"b", 400 - 33).status, Status::Ok);
        // All of a multi-put or nothing.
        let mut items = Vec::new();
        for key in [b"c", b"d", b"e"] {
            MultiPutItems::push(key, &[0; 67], &mut items);
        }
        assert_eq!(apply(&mut store, Operation::MultiPut, b"", &items).status, Status::Busy);
        assert_eq!(store.len(), 2);
        assert_eq!(apply(&mut store, Operation::Delete, b"a", b"").status, Status::Ok);
        assert_eq!(apply(&mut store, Operation::MultiPut, b"", &items).status, Status::Ok);
        assert_eq!(store.len(), 4);
        store.check().expect("a consistent store");
    }
}
