//! Commands that go through many keys, or count them.

use lockstep_proto::{
    limits::SLOTS,
    program::{
        Command, Opcode, ResultWriter,
        flags::{MATCH, NONE},
    },
};

use super::{KEY_STEPS, Work, number};
use crate::{entry::Entry, glob, store::Store};

/// Keys that one step of a scan looks at.
const SCAN_KEYS_MAX: usize = 32_768;

/// Size of the keys at which a step of a scan ends, in bytes, so that one scan does not hold up others.
const SCAN_KEYS_SIZE: usize = 256 << 10;

/// Bits of a scan's cursor that hold the slot; the position in the slot is in the others. The slot is in the low bits
/// so that cursors stay small numbers, which some clients need.
const CURSOR_SLOT_BITS: u32 = SLOTS.trailing_zeros();

/// Expired keys that are counted out of a number of keys.
const EXPIRED_COUNT_MAX: usize = 65_536;

/// How often a random key is drawn again because the one drawn has expired.
const DRAWS_MAX: u64 = 100;

const _: () = assert!(SLOTS.is_power_of_two());

impl Store {
    /// Answers a command that goes through many keys. When it has used up the work, what it has answered is of no use.
    pub(super) fn answer_walk(&self, now_ns: u64, command: &Command<'_>, work: &mut Work, out: &mut ResultWriter<'_>) {
        match command.opcode {
            Opcode::RandomKey => {
                let [draw] = command.first();
                out.bulk_or_nil(self.random_key(now_ns, number(draw) as u64, work).map(|entry| entry.key()));
            }
            Opcode::Keys => self.answer_keys(now_ns, command, work, out),
            Opcode::Scan => self.answer_scan(now_ns, command, work, out),
            Opcode::KeyCount => out.integer(self.live_count(now_ns, work) as i64),
            Opcode::Keyspace => {
                let array = out.begin_array();
                out.integer(self.live_count(now_ns, work) as i64);
                out.integer((self.expiry.len() - self.expired_count(now_ns, work)) as i64);
                out.integer(self.bytes as i64);
                out.end_array(array, 3);
            }
            Opcode::SlotKeyCount => {
                let [slot] = command.first();
                work.take(KEY_STEPS);
                out.integer(u16::try_from(number(slot)).map_or(0, |slot| self.slots.len(slot)) as i64);
            }
            Opcode::SlotKeys => self.answer_slot_keys(now_ns, command, work, out),
            _ => unreachable!("not a command that goes through many keys"),
        }
    }

    /// About how many steps a walk through all slots takes, without a look at each key. It depends on nothing but the
    /// content: what is left of a program's work has to be the same on every replica.
    fn walk_steps(&self) -> u64 {
        const KEYS_PER_STEP: u64 = 32;
        self.slots.slots().len() as u64 + self.len() as u64 / KEYS_PER_STEP
    }

    fn expired_count(&self, now_ns: u64, work: &mut Work) -> usize {
        let count = self.expiry.range(..=(now_ns, u64::MAX)).take(EXPIRED_COUNT_MAX).count();
        work.take(KEY_STEPS + count as u64);
        count
    }

    /// Number of keys without those that have expired, unless these are very many.
    fn live_count(&self, now_ns: u64, work: &mut Work) -> usize {
        self.len() - self.expired_count(now_ns, work)
    }

    fn random_key(&self, now_ns: u64, draw: u64, work: &mut Work) -> Option<Entry<'_>> {
        let count = self.len() as u64;
        for attempt in 0..DRAWS_MAX {
            if !work.take(self.walk_steps()) {
                return None;
            }
            // Another multiple of an odd number for each attempt: far from the one before, and the same whenever it is
            // asked.
            let index = draw.wrapping_add(attempt.wrapping_mul(0x9E37_79B9_7F4A_7C15)).checked_rem(count)?;
            let (slot, creation) = self.slots.nth(index as usize)?;
            let entry = self.entry(self.slots.find(slot, creation));
            if !entry.is_expired(now_ns) {
                return Some(entry);
            }
        }
        // Nearly all have expired: the first one that has not.
        work.take(self.walk_steps());
        let mut entries = self.slots.slots().flat_map(|slot| self.entries_from(slot, 0));
        entries
            .find(|(_, entry)| !work.take(KEY_STEPS) || !entry.is_expired(now_ns))
            .map(|(_, entry)| entry)
            .filter(|entry| !entry.is_expired(now_ns))
    }

    fn answer_keys(&self, now_ns: u64, command: &Command<'_>, work: &mut Work, out: &mut ResultWriter<'_>) {
        let [pattern] = command.first();
        let is_all = pattern == b"*";
        let array = out.begin_array();
        let mut count = 0;
        work.take(self.walk_steps());
        for (_, entry) in self.slots.slots().flat_map(|slot| self.entries_from(slot, 0)) {
            if out.is_full() || !work.take(KEY_STEPS) {
                break;
            }
            let is_match = is_all || glob::matches_within(pattern, entry.key(), false, &mut work.left);
            if is_match && !entry.is_expired(now_ns) {
                out.bulk(entry.key());
                count += 1;
            }
        }
        out.end_array(array, count);
    }

    fn answer_slot_keys(&self, now_ns: u64, command: &Command<'_>, work: &mut Work, out: &mut ResultWriter<'_>) {
        let [slot, count_max] = command.first();
        let slot = u16::try_from(number(slot)).ok().filter(|slot| self.slots.slots().contains(slot));
        let count_max = usize::try_from(number(count_max)).unwrap_or(0);
        let array = out.begin_array();
        let mut count = 0;
        for (_, entry) in slot.into_iter().flat_map(|slot| self.entries_from(slot, 0)) {
            if count == count_max || out.is_full() || !work.take(KEY_STEPS) {
                break;
            }
            if !entry.is_expired(now_ns) {
                out.bulk(entry.key());
                count += 1;
            }
        }
        out.end_array(array, count);
    }

    fn answer_scan(&self, now_ns: u64, command: &Command<'_>, work: &mut Work, out: &mut ResultWriter<'_>) {
        let [cursor, count_max, pattern] = command.first();
        let count_max = usize::try_from(number(count_max)).unwrap_or(1).clamp(1, SCAN_KEYS_MAX);
        let (keys, cursor) = self.scan_from(number(cursor) as u64, count_max);
        work.take(u64::from(SLOTS) + KEY_STEPS * keys.len() as u64);
        let mut is_match = |entry: &Entry<'_>| {
            !command.has(NONE)
                && !entry.is_expired(now_ns)
                && (!command.has(MATCH)
                    || pattern == b"*"
                    || glob::matches_within(pattern, entry.key(), false, &mut work.left))
        };
        let answer = out.begin_array();
        out.bulk(cursor.to_string().as_bytes());
        let array = out.begin_array();
        let mut count = 0;
        for entry in keys.iter().filter(|entry| is_match(entry)) {
            out.bulk(entry.key());
            count += 1;
        }
        out.end_array(array, count);
        out.end_array(answer, 2);
    }

    /// The keys from a cursor on, and where to go on: 0 at the end of the shard.
    fn scan_from(&self, cursor: u64, count_max: usize) -> (Vec<Entry<'_>>, u64) {
        let slots = self.slots.slots();
        let (slot, position) = ((cursor % u64::from(SLOTS)) as u16, cursor >> CURSOR_SLOT_BITS);
        // A scan of one shard of several may well begin at slot 0: it means the shard's first.
        let mut position = if slot < slots.start { 0 } else { position };
        let (mut keys, mut size) = (Vec::new(), 0);
        for slot in slot.max(slots.start)..slots.end {
            for (_, entry) in self.entries_from(slot, position) {
                if keys.len() == count_max || size >= SCAN_KEYS_SIZE {
                    return (keys, entry.header.creation() << CURSOR_SLOT_BITS | u64::from(slot));
                }
                size += entry.key().len();
                keys.push(entry);
            }
            position = 0;
        }
        (keys, 0)
    }
}
