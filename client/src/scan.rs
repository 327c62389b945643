//! Reading all keys, page by page.

use std::{collections::VecDeque, fmt, str::FromStr};

use bytes::Bytes;
use lockstep_proto::{
    Operation,
    items::{SCAN_KEYS_ONLY, ScanArguments, ScanReplyHeader, ScanReplyItems},
    limits::{ITEMS_MAX, SLOTS},
};
use zerocopy::{
    FromBytes, IntoBytes,
    little_endian::{U16, U32, U64},
};

use crate::{
    call::{Answer, Body},
    error::Error,
    handle::Client,
    stub::{expect_ok, malformed},
};

/// A place in a scan. Stays valid across failovers and restarts; a key that exists throughout a scan is seen exactly
/// once.
///
/// Its text form, `shard:slot:position`, can be given to another process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScanCursor {
    shard: u16,
    slot: u16,
    position: u64,
}

impl ScanCursor {
    /// Before the first key of all shards.
    pub fn start() -> Self {
        Self::default()
    }

    /// Before the first key of one shard.
    pub fn of_shard(shard: u16) -> Self {
        ScanCursor { shard, slot: 0, position: 0 }
    }

    /// The shard that this place is in.
    pub fn shard(&self) -> u16 {
        self.shard
    }
}

impl fmt::Display for ScanCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.shard, self.slot, self.position)
    }
}

impl FromStr for ScanCursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let mut parts = text.split(':');
            let cursor = ScanCursor {
                shard: parts.next()?.parse().ok()?,
                slot: parts.next()?.parse().ok()?,
                position: parts.next()?.parse().ok()?,
            };
            (parts.next().is_none() && cursor.slot < SLOTS).then_some(cursor)
        };
        parse()
            .ok_or(Error::InvalidArgument("not a scan cursor: expected shard:slot:position as a scan gave it".into()))
    }
}

/// One key that a scan has come across.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanEntry {
    /// The key.
    pub key: Bytes,
    /// The value; empty when only keys were asked for.
    pub value: Bytes,
    /// The key's version.
    pub version: u64,
}

/// One reply's worth of a scan.
#[derive(Clone, Debug)]
pub struct ScanPage {
    /// The keys; may be empty although there are more.
    pub entries: Vec<ScanEntry>,
    /// Where to go on; `None` when all shards have been seen.
    pub next: Option<ScanCursor>,
}

/// What a scan brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanContent {
    /// Keys, versions and values.
    Values,
    /// Keys and versions.
    KeysOnly,
}

/// A scan over all shards, as a stream of keys: see [`Client::scan`].
#[derive(Debug)]
pub struct Scan {
    client: Client,
    content: ScanContent,
    page_size: usize,
    page: VecDeque<ScanEntry>,
    next: Option<ScanCursor>,
}

impl Client {
    /// Reads a page of at most `limit` keys from a cursor on. Shards come one after the other.
    ///
    /// # Errors
    ///
    /// If the limit is 0 or above 16,384, the cursor's shard does not exist, or there is no answer.
    pub async fn scan_page(&self, cursor: ScanCursor, limit: usize, content: ScanContent) -> Result<ScanPage, Error> {
        if limit == 0 || limit > ITEMS_MAX {
            return Err(Error::InvalidArgument("the limit of a scan must be between 1 and 16384".into()));
        }
        if cursor.shard >= self.shards() {
            return Err(Error::InvalidArgument("the scan cursor is from a cluster with more shards".into()));
        }
        let arguments = ScanArguments {
            cursor_slot: U16::new(cursor.slot),
            flags: U16::new(if content == ScanContent::KeysOnly { SCAN_KEYS_ONLY } else { 0 }),
            limit: U32::new(limit as u32),
            cursor_position: U64::new(cursor.position),
            reserved: U64::ZERO,
        };
        let body = Body { bytes: arguments.as_bytes().to_vec(), ..Body::empty(Operation::Scan) };
        let answer = expect_ok(self.call(cursor.shard, body).await?)?;
        read_page(&answer, cursor, self.shards())
    }

    /// Reads all keys of all shards, in pages of `page_size` (at most 16,384) behind the scenes.
    ///
    /// ```no_run
    /// # async fn example(client: lockstep_client::Client) -> Result<(), lockstep_client::Error> {
    /// use lockstep_client::ScanContent;
    ///
    /// let mut scan = client.scan(ScanContent::KeysOnly, 1000);
    /// while let Some(entry) = scan.next().await? {
    ///     println!("{:?}", entry.key);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn scan(&self, content: ScanContent, page_size: usize) -> Scan {
        self.scan_from(ScanCursor::start(), content, page_size)
    }

    /// As [`Client::scan`], from a cursor on.
    pub fn scan_from(&self, cursor: ScanCursor, content: ScanContent, page_size: usize) -> Scan {
        let page_size = page_size.clamp(1, ITEMS_MAX);
        Scan { client: self.clone(), content, page_size, page: VecDeque::new(), next: Some(cursor) }
    }
}

impl Scan {
    /// The next key; `None` after the last one.
    ///
    /// After an error, and when the future is dropped before it is done, the next call goes on at the same place.
    ///
    /// # Errors
    ///
    /// If the next page cannot be read.
    pub async fn next(&mut self) -> Result<Option<ScanEntry>, Error> {
        while self.page.is_empty() {
            let Some(cursor) = self.next else { return Ok(None) };
            let page = self.client.scan_page(cursor, self.page_size, self.content).await?;
            self.page = page.entries.into();
            self.next = page.next;
        }
        Ok(self.page.pop_front())
    }
}

fn read_page(answer: &Answer, cursor: ScanCursor, shards: u16) -> Result<ScanPage, Error> {
    let (header, items) = ScanReplyHeader::ref_from_prefix(&answer.body)
        .map_err(|_| malformed("a scan was answered without a cursor"))?;
    let entries: Vec<ScanEntry> = ScanReplyItems::new(items)
        .map(|item| ScanEntry {
            key: answer.body.slice_ref(item.key),
            value: answer.body.slice_ref(item.value),
            version: item.version,
        })
        .collect();
    if entries.len() != header.count.get() as usize {
        return Err(malformed("a scan was answered with another number of items than it says"));
    }
    let next = if header.is_done.get() != 0 {
        (cursor.shard + 1 < shards).then(|| ScanCursor::of_shard(cursor.shard + 1))
    } else {
        let next =
            ScanCursor { shard: cursor.shard, slot: header.cursor_slot.get(), position: header.cursor_position.get() };
        // A cursor that does not move on would make a scan go round for ever.
        if next <= cursor || next.slot >= SLOTS {
            return Err(malformed("a scan was answered with a cursor that does not move on"));
        }
        Some(next)
    };
    Ok(ScanPage { entries, next })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_being_text() {
        let cursor = ScanCursor { shard: 3, slot: 16_383, position: u64::MAX };
        assert_eq!(cursor.to_string().parse::<ScanCursor>().unwrap(), cursor);
    }

    #[test]
    fn text_that_is_not_a_cursor_is_refused() {
        for text in ["", "1", "1:2", "1:2:3:4", "1:16384:0", "-1:0:0", "a:b:c", "1:2:99999999999999999999"] {
            assert!(text.parse::<ScanCursor>().is_err(), "{text}");
        }
    }
}
