//! The typed operations: each turns its arguments into a request, and the answer into what the caller asked for.

use std::time::{Duration, Instant};

use bytes::Bytes;
use lockstep_proto::{
    Operation, Status,
    items::{MultiGetItems, MultiGetReplyItems, MultiPutItems},
    limits::{ITEMS_MAX, KEY_SIZE_MAX, REQUEST_BODY_SIZE_MAX, TTL_MS_MAX, VALUE_SIZE_MAX},
    request::FLAG_TTL,
};
use tokio::task::JoinSet;

use crate::{
    call::{Answer, Body},
    error::{Error, Outcome},
    handle::Client,
};

/// A value and the version of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// The log position of the write that made it.
    pub version: u64,
}

/// What is known about a write that was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The key's version from now on: the log position of the write that made its value. After a delete: of the delete.
    pub version: u64,
    /// Number of servers on which the write was durable when it was answered.
    pub copies: u8,
}

/// The outcome of an increment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incremented {
    /// The sum.
    pub value: i64,
    /// The key's version from this write on.
    pub version: u64,
    /// Number of servers on which the write was durable when it was answered.
    pub copies: u8,
}

/// How long a key has to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// The key does not exist.
    Missing,
    /// The key does not expire.
    Persistent,
    /// The key expires after this time.
    Remaining(Duration),
}

/// All operations may also fail with [`Error::Timeout`], [`Error::Unavailable`], [`Error::Protocol`] and
/// [`Error::Closed`], those that write also with [`Error::SessionLost`]; [`Error::outcome`] then tells whether a write
/// may have been carried out.
impl Client {
    /// Reads a key. Linearizable: sees every write that was answered before the call. `None`: it does not exist.
    ///
    /// # Errors
    ///
    /// If the key is empty or too large.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Entry>, Error> {
        let answer = self.call_key(Operation::Get, key.as_ref(), &[]).await?;
        Ok(found(answer)?.map(|answer| Entry { value: answer.body, version: answer.version }))
    }

    /// Writes a key. A time-to-live that it had is dropped.
    ///
    /// # Errors
    ///
    /// If the key is empty, or key or value too large.
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Written, Error> {
        self.put_inner(key.as_ref(), value.as_ref(), None).await
    }

    /// Writes a key that expires after `ttl`, counted in whole milliseconds from when the primary orders the write.
    ///
    /// # Errors
    ///
    /// If the key is empty, key or value too large, or the time-to-live below one millisecond or above 100 years.
    pub async fn put_with_ttl(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        ttl: Duration,
    ) -> Result<Written, Error> {
        self.put_inner(key.as_ref(), value.as_ref(), Some(ttl)).await
    }

    async fn put_inner(&self, key: &[u8], value: &[u8], ttl: Option<Duration>) -> Result<Written, Error> {
        check_value(value)?;
        let (flags, ttl) = encode_ttl(ttl)?;
        let answer = self.call_flagged(Operation::Put, flags, key, &[&ttl, value]).await?;
        expect_ok(answer).map(|answer| written(&answer))
    }

    /// Removes a key. `None`: there was none.
    ///
    /// # Errors
    ///
    /// If the key is empty or too large.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<Option<Written>, Error> {
        let answer = self.call_key(Operation::Delete, key.as_ref(), &[]).await?;
        Ok(found(answer)?.map(|answer| written(&answer)))
    }

    /// Writes a key if its version is `expected_version`; 0 stands for a key that does not exist. Without a `ttl` the
    /// key does not expire.
    ///
    /// # Errors
    ///
    /// [`Error::VersionMismatch`] if it has another version; as [`Client::put_with_ttl`] otherwise.
    pub async fn compare_and_set(
        &self,
        key: impl AsRef<[u8]>,
        expected_version: u64,
        value: impl AsRef<[u8]>,
        ttl: Option<Duration>,
    ) -> Result<Written, Error> {
        let value = value.as_ref();
        check_value(value)?;
        let (flags, ttl) = encode_ttl(ttl)?;
        let expected = expected_version.to_le_bytes();
        let arguments: [&[u8]; 3] = [&expected, &ttl, value];
        let answer = self.call_flagged(Operation::CompareAndSet, flags, key.as_ref(), &arguments).await?;
        match answer.status {
            Status::VersionMismatch => Err(Error::VersionMismatch { current: answer.version }),
            _ => expect_ok(answer).map(|answer| written(&answer)),
        }
    }

    /// Adds `delta` to a key that holds a decimal 64-bit number; a missing key counts as 0.
    ///
    /// # Errors
    ///
    /// [`Error::WrongType`] if the value is not such a number or the sum leaves its range; if the key is empty or too
    /// large.
    pub async fn increment(&self, key: impl AsRef<[u8]>, delta: i64) -> Result<Incremented, Error> {
        let answer = self.call_key(Operation::Increment, key.as_ref(), &delta.to_le_bytes()).await?;
        if answer.status == Status::NotANumber {
            return Err(Error::WrongType);
        }
        let answer = expect_ok(answer)?;
        let value = i64::from_le_bytes(eight_bytes(&answer)?);
        Ok(Incremented { value, version: answer.version, copies: answer.copies })
    }

    /// Whether a key exists.
    ///
    /// # Errors
    ///
    /// If the key is empty or too large.
    pub async fn exists(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        Ok(self.version(key).await?.is_some())
    }

    /// The version of a key, without its value. `None`: it does not exist.
    ///
    /// # Errors
    ///
    /// If the key is empty or too large.
    pub async fn version(&self, key: impl AsRef<[u8]>) -> Result<Option<u64>, Error> {
        let answer = self.call_key(Operation::Exists, key.as_ref(), &[]).await?;
        Ok(found(answer)?.map(|answer| answer.version))
    }

    /// Gives an existing key a time-to-live, or takes it away (`None`). `Ok(None)`: the key does not exist.
    ///
    /// # Errors
    ///
    /// If the key is empty or too large, or the time-to-live below one millisecond or above 100 years.
    pub async fn expire(&self, key: impl AsRef<[u8]>, ttl: Option<Duration>) -> Result<Option<Written>, Error> {
        let ttl_ms = ttl.map_or(Ok(0), ttl_ms)?;
        let answer = self.call_key(Operation::Expire, key.as_ref(), &ttl_ms.to_le_bytes()).await?;
        Ok(found(answer)?.map(|answer| written(&answer)))
    }

    /// How long a key has to live.
    ///
    /// # Errors
    ///
    /// If the key is empty or too large.
    pub async fn ttl(&self, key: impl AsRef<[u8]>) -> Result<Ttl, Error> {
        let answer = self.call_key(Operation::TimeToLive, key.as_ref(), &[]).await?;
        let Some(answer) = found(answer)? else { return Ok(Ttl::Missing) };
        Ok(match u64::from_le_bytes(eight_bytes(&answer)?) {
            u64::MAX => Ttl::Persistent,
            remaining_ms => Ttl::Remaining(Duration::from_millis(remaining_ms)),
        })
    }

    /// Reads several keys. The result has their order; `None` stands for a key that does not exist.
    ///
    /// Keys of one shard are read at one point in time as long as they fit one request (16,384 keys, about 1 MiB of
    /// keys) and one reply (4 MiB of values); keys of several shards, and what is beyond that, at several points.
    ///
    /// # Errors
    ///
    /// If a key is empty or too large. One failed part fails the whole.
    pub async fn multi_get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Entry>>, Error> {
        let mut by_shard = std::collections::BTreeMap::<u16, Vec<(usize, Vec<u8>)>>::new();
        for (position, key) in keys.iter().enumerate() {
            let key = key.as_ref();
            check_key(key)?;
            by_shard.entry(self.shard_of(key)).or_default().push((position, key.to_vec()));
        }
        let mut entries = vec![None; keys.len()];
        let mut parts = JoinSet::new();
        for (shard, keys) in by_shard {
            let client = self.clone();
            parts.spawn(async move { client.multi_get_of_shard(shard, keys).await });
        }
        while let Some(part) = parts.join_next().await {
            for (position, entry) in part.map_err(|_| Error::Closed)?? {
                entries[position] = entry;
            }
        }
        Ok(entries)
    }

    async fn multi_get_of_shard(
        &self,
        shard: u16,
        keys: Vec<(usize, Vec<u8>)>,
    ) -> Result<Vec<(usize, Option<Entry>)>, Error> {
        let mut entries = Vec::with_capacity(keys.len());
        let mut count_max = ITEMS_MAX;
        while entries.len() < keys.len() {
            let rest = &keys[entries.len()..];
            let mut body = Body::empty(Operation::MultiGet);
            let mut count = 0;
            for (_, key) in rest.iter().take(count_max) {
                if body.bytes.len() + 2 + key.len() > REQUEST_BODY_SIZE_MAX {
                    break;
                }
                MultiGetItems::push(key, &mut body.bytes);
                count += 1;
            }
            let answer = match self.call(shard, body).await {
                // The values do not fit one reply: ask for fewer. One value always fits.
                Err(Error::Refused { status: Status::BadRequest, .. }) if count > 1 => {
                    count_max = count / 2;
                    continue;
                }
                answer => expect_ok(answer?)?,
            };
            let found = MultiGetReplyItems::new(&answer.body).collect::<Vec<_>>();
            if found.len() != count {
                return Err(malformed("a multi-get was answered with another number of items than it asked for"));
            }
            for (item, (position, _)) in found.into_iter().zip(rest) {
                let entry = item.map(|(version, value)| Entry { value: answer.body.slice_ref(value), version });
                entries.push((*position, entry));
            }
        }
        Ok(entries)
    }

    /// Writes several keys of one shard, all or none of them, with a time-to-live for all of them if one is given.
    ///
    /// # Errors
    ///
    /// [`Error::CrossShard`] if the keys belong to several shards: a common hash tag such as `{user:7}` keeps keys
    /// together. If there are no keys, or more than 16,384, or one of them is empty or too large, or all together are
    /// beyond about 1 MiB.
    pub async fn multi_put<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        entries: &[(K, V)],
        ttl: Option<Duration>,
    ) -> Result<Written, Error> {
        let Some((first, _)) = entries.first() else {
            return Err(Error::InvalidArgument("a multi-put needs at least one key".into()));
        };
        check_size("number of keys", entries.len(), ITEMS_MAX)?;
        let first_shard = self.shard_of(first.as_ref());
        let (flags, ttl) = encode_ttl(ttl)?;
        let mut size = ttl.len();
        for (key, value) in entries {
            let (key, value) = (key.as_ref(), value.as_ref());
            check_key(key)?;
            check_value(value)?;
            size += 6 + key.len() + value.len();
            let other_shard = self.shard_of(key);
            if other_shard != first_shard {
                let [first, other] = [first.as_ref(), key].map(|key| String::from_utf8_lossy(key).into_owned());
                return Err(Error::CrossShard { first, first_shard, other, other_shard });
            }
        }
        check_size("size of the multi-put in bytes", size, REQUEST_BODY_SIZE_MAX)?;
        let mut bytes = Vec::with_capacity(size);
        bytes.extend_from_slice(&ttl);
        for (key, value) in entries {
            MultiPutItems::push(key.as_ref(), value.as_ref(), &mut bytes);
        }
        let body = Body { operation: Operation::MultiPut, flags, key_size: 0, bytes };
        expect_ok(self.call(first_shard, body).await?).map(|answer| written(&answer))
    }

    /// The time from here to the primary of shard 0 and back.
    ///
    /// # Errors
    ///
    /// If there is no answer.
    pub async fn ping(&self) -> Result<Duration, Error> {
        self.ping_shard(0).await
    }

    /// The time from here to the primary of a shard and back.
    ///
    /// # Errors
    ///
    /// If there is no such shard, or no answer.
    pub async fn ping_shard(&self, shard: u16) -> Result<Duration, Error> {
        if shard >= self.shards() {
            return Err(Error::none_such("shard", shard, usize::from(self.shards())));
        }
        let start = Instant::now();
        expect_ok(self.call(shard, Body::empty(Operation::Ping)).await?)?;
        Ok(start.elapsed())
    }

    async fn call_key(&self, operation: Operation, key: &[u8], arguments: &[u8]) -> Result<Answer, Error> {
        self.call_flagged(operation, 0, key, &[arguments]).await
    }

    async fn call_flagged(
        &self,
        operation: Operation,
        flags: u8,
        key: &[u8],
        arguments: &[&[u8]],
    ) -> Result<Answer, Error> {
        check_key(key)?;
        let mut bytes = Vec::with_capacity(key.len() + arguments.iter().map(|part| part.len()).sum::<usize>());
        bytes.extend_from_slice(key);
        arguments.iter().for_each(|part| bytes.extend_from_slice(part));
        self.call(self.shard_of(key), Body { operation, flags, key_size: key.len(), bytes }).await
    }
}

fn check_size(what: &'static str, size: usize, max: usize) -> Result<(), Error> {
    if size > max { Err(Error::TooLarge { what, size, max }) } else { Ok(()) }
}

fn check_key(key: &[u8]) -> Result<(), Error> {
    if key.is_empty() {
        return Err(Error::InvalidArgument("a key must have at least one byte".into()));
    }
    check_size("size of the key in bytes", key.len(), KEY_SIZE_MAX)
}

fn check_value(value: &[u8]) -> Result<(), Error> {
    check_size("size of the value in bytes", value.len(), VALUE_SIZE_MAX)
}

fn ttl_ms(ttl: Duration) -> Result<u64, Error> {
    match u64::try_from(ttl.as_millis()) {
        Ok(0) => Err(Error::InvalidArgument("a time-to-live must be at least one millisecond".into())),
        Ok(ttl_ms) if ttl_ms <= TTL_MS_MAX => Ok(ttl_ms),
        _ => Err(Error::InvalidArgument("a time-to-live can be at most 100 years".into())),
    }
}

fn encode_ttl(ttl: Option<Duration>) -> Result<(u8, Vec<u8>), Error> {
    Ok(match ttl {
        Some(ttl) => (FLAG_TTL, ttl_ms(ttl)?.to_le_bytes().to_vec()),
        None => (0, Vec::new()),
    })
}

fn written(answer: &Answer) -> Written {
    Written { version: answer.version, copies: answer.copies }
}

fn found(answer: Answer) -> Result<Option<Answer>, Error> {
    match answer.status {
        Status::NotFound => Ok(None),
        _ => expect_ok(answer).map(Some),
    }
}

pub(crate) fn expect_ok(answer: Answer) -> Result<Answer, Error> {
    match answer.status {
        Status::Ok => Ok(answer),
        _ => Err(malformed("the status of the answer does not fit the operation")),
    }
}

fn eight_bytes(answer: &Answer) -> Result<[u8; 8], Error> {
    answer.body.as_ref().try_into().map_err(|_| malformed("the body of the answer is not a 64-bit number"))
}

pub(crate) fn malformed(message: &str) -> Error {
    Error::Protocol { address: "primary".to_owned(), message: message.to_owned(), outcome: Outcome::Unknown }
}
