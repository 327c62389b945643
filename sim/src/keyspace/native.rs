//! The operations of the native protocol on one key.

use lockstep_proto::{Operation, Status, request::Request};

use super::{Body, Expected, Keyspace, Moment, Version, number};
use crate::plan::MS;

impl Keyspace {
    pub(super) fn native(&mut self, moment: &Moment, request: &Request<'_>, is_otherwise: bool) -> Expected {
        let key = request.key();
        let ttl_ms = request.ttl_ms();
        let expiry = ttl_ms.map(|ttl_ms| moment.time.map(|now_ns| now_ns.saturating_add(ttl_ms * MS)));
        let version = self.get(key).map_or(Version::NONE, |entry| entry.version);
        let is_certain = matches!(version, Version::Exact(_));
        let written = Expected::plain(Status::Ok, moment.version);
        let missing = Expected::plain(Status::NotFound, Version::NONE);
        match request.operation() {
            Operation::Put => {
                self.write(moment, key, request.value().into(), expiry);
                written
            }
            Operation::CompareAndSet if version.may_be(request.expected_version()) && (is_certain || !is_otherwise) => {
                if let Version::Open { writer, .. } = version {
                    self.bind(writer, request.expected_version());
                }
                self.write(moment, key, request.value().into(), expiry);
                written
            }
            Operation::CompareAndSet => Expected::plain(Status::VersionMismatch, version),
            Operation::Delete => self.remove(key).map_or(missing, |_| written),
            Operation::Increment => self.add(moment, key, request.delta()),
            Operation::Expire => {
                let found = self.entries.get_mut(key).map(|entry| entry.expiry = expiry);
                found.map_or(missing, |()| Expected::plain(Status::Ok, version))
            }
            Operation::Get => match self.get(key) {
                Some(entry) => Expected { status: Status::Ok, version, body: Body::Value(entry.value.clone()) },
                None => missing,
            },
            Operation::Exists => self.get(key).map_or(missing, |_| Expected::plain(Status::Ok, version)),
            Operation::TimeToLive => self.get(key).map_or(missing, |entry| {
                let body = match entry.expiry {
                    Some(expiry) => {
                        let left_ms =
                            |expiry_ns: u64, now_ns: u64| expiry_ns.saturating_sub(now_ns).div_ceil(MS).max(1);
                        Body::Within(
                            left_ms(expiry.earliest_ns, moment.time.latest_ns),
                            left_ms(expiry.latest_ns, moment.time.earliest_ns),
                        )
                    }
                    None => Body::Within(u64::MAX, u64::MAX),
                };
                Expected { status: Status::Ok, version, body }
            }),
            other => unreachable!("{other:?} is not drawn"),
        }
    }

    fn add(&mut self, moment: &Moment, key: &[u8], delta: i64) -> Expected {
        let found = self.get(key);
        let (version, expiry) = found.map_or((Version::NONE, None), |entry| (entry.version, entry.expiry));
        let before = found.map_or(Some(0), |entry| number(&entry.value));
        let Some(sum) = before.and_then(|before| before.checked_add(delta)) else {
            return Expected::plain(Status::NotANumber, version);
        };
        self.write(moment, key, sum.to_string().into_bytes().into(), expiry);
        Expected { status: Status::Ok, version: moment.version, body: Body::Sum(sum) }
    }
}
