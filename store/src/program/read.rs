//! Commands that read one key, or several that are given.

use lockstep_proto::program::{
    Command, ErrorCode, Opcode, ResultWriter, Word,
    flags::{ABSOLUTE, SECONDS},
};

use super::{Work, number};
use crate::{
    decimal,
    entry::{Encoding, Entry},
    expiry,
    store::Store,
};

/// Memory that a key takes besides its entry, in bytes: its part of the table and of its slot's list.
const KEY_OVERHEAD: usize = 24;

/// Largest value that Redis keeps in one piece with the object's header.
const EMBEDDED_SIZE_MAX: usize = 44;

impl Store {
    /// Answers one command that reads.
    pub(super) fn answer(&self, now_ns: u64, command: &Command<'_>, work: &mut Work, out: &mut ResultWriter<'_>) {
        match command.opcode {
            Opcode::MultiGet => return self.answer_multi_get(now_ns, command, out),
            Opcode::Exists => {
                let count = command.keys().filter(|key| self.find_key(now_ns, key).is_some()).count();
                return out.integer(count as i64);
            }
            opcode if opcode.is_walk() => {
                if !work.is_used_up() {
                    self.answer_walk(now_ns, command, work, out);
                }
                if work.is_used_up() {
                    out.replace_by_error(ErrorCode::TooMuchWork);
                }
                return;
            }
            _ => {}
        }
        let found = command.arguments().next().and_then(|key| self.find_key(now_ns, key));
        match command.opcode {
            Opcode::Get => out.bulk_or_nil(found.map(|entry| entry.value())),
            Opcode::Length => out.integer(found.map_or(0, |entry| entry.value().len() as i64)),
            Opcode::GetRange => {
                let [_, first, last] = command.first();
                out.bulk(found.map_or(&[], |entry| range(entry.value(), number(first), number(last))));
            }
            Opcode::Type => out.word(if found.is_some() { Word::String } else { Word::None }),
            Opcode::TimeToLive => out.integer(time_to_live(now_ns, command, found)),
            Opcode::Encoding => out.bulk_or_nil(found.map(|entry| encoding_name(&entry).as_bytes())),
            Opcode::IdleTime => match found {
                Some(entry) => out.integer(self.write_times.seconds_since(entry.header.version(), now_ns) as i64),
                None => out.nil(),
            },
            Opcode::MemoryUsage => match found {
                Some(entry) => out.integer((entry.header.entry_size() + KEY_OVERHEAD) as i64),
                None => out.nil(),
            },
            Opcode::Stamp => {
                let array = out.begin_array();
                out.integer(found.map_or(0, |entry| entry.header.version() as i64));
                out.integer(found.map_or(0, |entry| entry.header.expiry_ns() as i64));
                out.end_array(array, 2);
            }
            Opcode::Refuse => match found {
                Some(_) => {
                    let [_, code] = command.first();
                    let code = u8::try_from(number(code)).ok().and_then(ErrorCode::from_wire);
                    out.error(code.unwrap_or(ErrorCode::NotAnInteger));
                }
                None => out.nil(),
            },
            _ => unreachable!("writes are carried out and checks are not answered"),
        }
    }

    fn find_key(&self, now_ns: u64, key: &[u8]) -> Option<Entry<'_>> {
        self.find_entry(now_ns, self.hash(key), key)
    }

    fn answer_multi_get(&self, now_ns: u64, command: &Command<'_>, out: &mut ResultWriter<'_>) {
        let mut hashes = [0; crate::ahead::WINDOW];
        let array = out.begin_array();
        let mut keys = command.arguments();
        let mut rest = command.count();
        while rest > 0 && !out.is_full() {
            self.prefetch_keys(keys, &mut hashes);
            for (&hash, key) in hashes.iter().zip(keys.by_ref()) {
                out.bulk_or_nil(self.find_entry(now_ns, hash, key).map(|entry| entry.value()));
            }
            rest = rest.saturating_sub(hashes.len());
        }
        out.end_array(array, command.count());
    }
}

/// The part of a value from index `first` to `last`, both included; negative ones count from the end.
fn range(value: &[u8], first: i64, last: i64) -> &[u8] {
    if first < 0 && last < 0 && first > last {
        return &[];
    }
    let size = value.len() as i64;
    let from_start = |index: i64| if index < 0 { index.saturating_add(size).max(0) } else { index };
    let (first, last) = (from_start(first), from_start(last).min(size - 1));
    if first > last { &[] } else { &value[first as usize..=last as usize] }
}

fn time_to_live(now_ns: u64, command: &Command<'_>, found: Option<Entry<'_>>) -> i64 {
    let Some(entry) = found else { return -2 };
    let expiry_ns = entry.header.expiry_ns();
    if expiry_ns == 0 {
        return -1;
    }
    let expiry_ms = expiry::to_ms(expiry_ns);
    let ms = if command.has(ABSOLUTE) { expiry_ms } else { (expiry_ms - expiry::now_ms(now_ns)).max(0) };
    // The sum may leave the range of signed numbers, as it may in Redis.
    if command.has(SECONDS) { ((ms as u64 + 500) / 1000) as i64 } else { ms }
}

/// How Redis would hold the value.
fn encoding_name(entry: &Entry<'_>) -> &'static str {
    let value = entry.value();
    match entry.header.encoding() {
        Encoding::Patched => "raw",
        Encoding::Plain if decimal::parse(value).is_some() => "int",
        _ if value.len() <= EMBEDDED_SIZE_MAX => "embstr",
        _ => "raw",
    }
}

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn ranges_are_cut_as_in_redis() {
        let cases: &[(i64, i64, &str)] = &[
            (0, 3, "This"),
            (-3, -1, "ing"),
            (0, -1, "This is a string"),
            (10, 100, "string"),
            (5, 3, ""),
            (-1, -5, ""),
            (-100, 3, "This"),
            (0, -100, "T"),
            (-100, -90, "T"),
            (16, 20, ""),
            (i64::MIN, i64::MAX, "This is a string"),
            (i64::MAX, i64::MIN, ""),
        ];
        for &(first, last, expected) in cases {
            assert_eq!(range(b"This is a string", first, last), expected.as_bytes(), "{first} {last}");
        }
        for index in [-2, -1, 0, 1] {
            assert_eq!(range(b"", index, -1), b"");
        }
    }
}
