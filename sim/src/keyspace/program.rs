//! The commands of programs, as Redis defines them.

use lockstep_proto::{
    limits::VALUE_SIZE_MAX,
    program::{
        Command, Commands, ErrorCode, Opcode,
        flags::{ABSOLUTE, COUNT, GET, GT, IF_EQUAL, KEEP_TTL, LT, NX, RELATIVE, REPLACE, SECONDS, XX},
    },
};

use super::{Bytes, Entry, Expect, Is, Keyspace, Moment, Time, Version, extended, is_over, number};
use crate::plan::MS;

fn argument(bytes: &[u8]) -> i64 {
    i64::from_le_bytes(bytes.try_into().expect("a number has 8 bytes"))
}

fn boolean(is_so: bool) -> Expect {
    Expect::Integer(i64::from(is_so))
}

/// The expiry at a time in ms since 1970.
fn at_ms(ms: i64) -> u64 {
    (ms.max(0) as u64).saturating_mul(MS).max(1)
}

/// An expiry that a command gives: so many ms from now, or at a time.
fn expiry_of(moment: &Moment, command: &Command<'_>, ms: &[u8]) -> Option<Time> {
    let ms = argument(ms);
    if command.has(RELATIVE) {
        return Some(moment.time.map(|now_ns| at_ms(((now_ns / MS) as i64).saturating_add(ms))));
    }
    command.has(ABSOLUTE).then(|| Time::exact(at_ms(ms)))
}

impl Keyspace {
    /// Carries out a program.
    pub(super) fn program(&mut self, moment: &Moment, program: &[u8], is_otherwise: bool) -> Vec<Expect> {
        let is_check = |command: &Command<'_>| command.opcode == Opcode::Check;
        let checks: Vec<Command<'_>> = Commands::new(program).filter(is_check).collect();
        let holds = checks.iter().map(|check| self.holds(check)).min().unwrap_or(Is::So);
        if holds == Is::No || (holds == Is::Perhaps && is_otherwise) {
            return vec![Expect::Aborted];
        }
        checks.iter().for_each(|check| self.take_for_true(check));
        let commands = Commands::new(program).filter(|command| !is_check(command));
        commands.map(|command| self.command(moment, &command)).collect()
    }

    fn holds(&self, check: &Command<'_>) -> Is {
        let [key, version, expiry] = check.first();
        let (version, expiry) = (argument(version) as u64, argument(expiry) as u64);
        let Some(entry) = self.get(key) else {
            return if (version, expiry) == (0, 0) { Is::So } else { Is::No };
        };
        let has_expiry = entry.expiry.map_or(expiry == 0, |own| own.may_be(expiry));
        let is_certain = matches!(entry.version, Version::Exact(_)) && entry.expiry.is_none_or(|own| own.is_exact());
        match entry.version.may_be(version) && has_expiry {
            true if is_certain => Is::So,
            true => Is::Perhaps,
            false => Is::No,
        }
    }

    fn take_for_true(&mut self, check: &Command<'_>) {
        let [key, version, expiry] = check.first();
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.expiry = entry.expiry.map(|_| Time::exact(argument(expiry) as u64));
        if let Version::Open { writer, .. } = entry.version {
            self.bind(writer, argument(version) as u64);
        }
    }

    fn value(&self, key: &[u8]) -> Expect {
        self.get(key).map_or(Expect::Nil, |entry| Expect::Bulk(entry.value.clone()))
    }

    fn command(&mut self, moment: &Moment, command: &Command<'_>) -> Expect {
        let key = command.keys().next().unwrap_or_default();
        match command.opcode {
            Opcode::Get => self.value(key),
            Opcode::MultiGet => Expect::Array(command.keys().map(|key| self.value(key)).collect()),
            Opcode::Length => Expect::Integer(self.get(key).map_or(0, |entry| entry.value.len() as i64)),
            Opcode::GetRange => self.get_range(command),
            Opcode::Exists => Expect::Integer(command.keys().filter(|key| self.get(key).is_some()).count() as i64),
            Opcode::TimeToLive => self.time_to_live(moment, command, key),
            Opcode::Stamp => self.stamp(key),
            Opcode::Set => {
                let [_, value] = command.first();
                self.write(moment, key, value.into(), None);
                Expect::Done
            }
            Opcode::SetWith => self.set_with(moment, command),
            Opcode::MultiSet => self.multi_set(moment, command),
            Opcode::Append => self.append(moment, command),
            Opcode::SetRange => self.set_range(moment, command),
            Opcode::Increment => self.increment(moment, command),
            Opcode::IncrementFloat => self.increment_float(moment, command),
            Opcode::GetDelete => {
                let value = self.value(key);
                self.remove(key);
                value
            }
            Opcode::GetExpire => {
                let [_, ms] = command.first();
                let value = self.value(key);
                self.set_expiry(moment, key, expiry_of(moment, command, ms));
                value
            }
            Opcode::Delete => Expect::Integer(command.keys().filter(|key| self.remove(key).is_some()).count() as i64),
            Opcode::DeleteIfEqual => {
                let [_, value] = command.first();
                let is_equal = self.get(key).is_some_and(|entry| &entry.value[..] == value);
                if is_equal {
                    self.remove(key);
                }
                boolean(is_equal)
            }
            Opcode::Expire => self.expire(moment, command),
            Opcode::Persist => {
                let has_expiry = self.get(key).is_some_and(|entry| entry.expiry.is_some());
                self.set_expiry(moment, key, None);
                boolean(has_expiry)
            }
            Opcode::Rename => self.rename(moment, command),
            Opcode::Copy => self.copy(moment, command),
            other => unreachable!("{other:?} is not drawn"),
        }
    }

    fn get_range(&self, command: &Command<'_>) -> Expect {
        let [key, first, last] = command.first();
        let value: &[u8] = self.get(key).map_or(&[], |entry| &entry.value);
        let size = value.len() as i64;
        let (first, last) = (argument(first), argument(last));
        if first < 0 && last < 0 && first > last {
            return Expect::Bulk(Bytes::from(&[][..]));
        }
        let place = |index: i64| if index < 0 { (size + index).max(0) } else { index };
        let (first, last) = (place(first), place(last).min(size - 1));
        Expect::Bulk(if first > last { Bytes::from(&[][..]) } else { value[first as usize..=last as usize].into() })
    }

    fn time_to_live(&self, moment: &Moment, command: &Command<'_>, key: &[u8]) -> Expect {
        let Some(entry) = self.get(key) else { return Expect::Integer(-2) };
        let Some(expiry) = entry.expiry else { return Expect::Integer(-1) };
        let round = |ms: i64| if command.has(SECONDS) { (ms + 500) / 1000 } else { ms };
        let ms = |ns: u64| ns.div_ceil(MS) as i64;
        if command.has(ABSOLUTE) {
            return Expect::Between(round(ms(expiry.earliest_ns)), round(ms(expiry.latest_ns)));
        }
        let left = |expiry_ns: u64, now_ns: u64| (ms(expiry_ns) - (now_ns / MS) as i64).max(0);
        Expect::Between(
            round(left(expiry.earliest_ns, moment.time.latest_ns)),
            round(left(expiry.latest_ns, moment.time.earliest_ns)),
        )
    }

    fn stamp(&self, key: &[u8]) -> Expect {
        let entry = self.get(key);
        let version = entry.map_or(Version::NONE, |entry| entry.version);
        let expiry = entry.and_then(|entry| entry.expiry).unwrap_or(Time::exact(0));
        let bound = |ns: u64| i64::try_from(ns).unwrap_or(i64::MAX);
        let expiry = Expect::Between(bound(expiry.earliest_ns), bound(expiry.latest_ns));
        Expect::Array(vec![Expect::Version(version), expiry])
    }

    fn set_with(&mut self, moment: &Moment, command: &Command<'_>) -> Expect {
        let [key, value, ms, compared] = command.first();
        let before = self.get(key).cloned();
        let is_met = !(command.has(NX) && before.is_some()
            || command.has(XX) && before.is_none()
            || command.has(IF_EQUAL) && before.as_ref().is_none_or(|entry| &entry.value[..] != compared));
        if is_met {
            let kept = before.as_ref().and_then(|entry| entry.expiry).filter(|_| command.has(KEEP_TTL));
            let expiry = kept.or(expiry_of(moment, command, ms));
            self.write(moment, key, value.into(), expiry);
            if is_over(moment, expiry) {
                self.remove(key);
            }
        }
        if command.has(GET) {
            return before.map_or(Expect::Nil, |entry| Expect::Bulk(entry.value));
        }
        if command.has(COUNT) {
            return boolean(is_met);
        }
        if is_met { Expect::Done } else { Expect::Nil }
    }

    fn multi_set(&mut self, moment: &Moment, command: &Command<'_>) -> Expect {
        if command.has(NX) && command.keys().any(|key| self.get(key).is_some()) {
            return boolean(false);
        }
        let arguments: Vec<&[u8]> = command.arguments().collect();
        for pair in arguments.chunks_exact(2) {
            self.write(moment, pair[0], pair[1].into(), None);
        }
        if command.has(NX) { boolean(true) } else { Expect::Done }
    }

    fn append(&mut self, moment: &Moment, command: &Command<'_>) -> Expect {
        let [key, tail] = command.first();
        let (mut value, expiry) =
            self.get(key).map_or((Vec::new(), None), |entry| (entry.value.to_vec(), entry.expiry));
        if value.len() + tail.len() > VALUE_SIZE_MAX {
            return Expect::Error(ErrorCode::StringTooLong);
        }
        value.extend_from_slice(tail);
        let size = value.len();
        self.write(moment, key, value.into(), expiry);
        Expect::Integer(size as i64)
    }

    fn set_range(&mut self, moment: &Moment, command: &Command<'_>) -> Expect {
        let [key, offset, part] = command.first();
        let (mut value, expiry) =
            self.get(key).map_or((Vec::new(), None), |entry| (entry.value.to_vec(), entry.expiry));
        let (offset, end) = (argument(offset) as usize, argument(offset) as usize + part.len());
        if part.is_empty() {
            return Expect::Integer(value.len() as i64);
        }
        if end > VALUE_SIZE_MAX {
            return Expect::Error(ErrorCode::StringTooLong);
        }
        value.resize(value.len().max(end), 0);
        value[offset..end].copy_from_slice(part);
        let size = value.len();
        self.write(moment, key, value.into(), expiry);
        Expect::Integer(size as i64)
    }

    fn increment(&mut self, moment: &Moment, command: &Command<'_>) -> Expect {
        let [key, delta] = command.first();
        let entry = self.get(key);
        let expiry = entry.and_then(|entry| entry.expiry);
        let Some(before) = entry.map_or(Some(0), |entry| number(&entry.value)) else {
            return Expect::Error(ErrorCode::NotAnInteger);
        };
        let Some(sum) = before.checked_add(argument(delta)) else {
            return Expect::Error(ErrorCode::Overflow);
        };
        self.write(moment, key, sum.to_string().into_bytes().into(), expiry);
        Expect::Integer(sum)
    }

    fn increment_float(&mut self, moment: &Moment, command: &Command<'_>) -> Expect {
        let [key, delta] = command.first();
        let (before, expiry) =
            self.get(key).map_or((b"0"[..].into(), None), |entry| (entry.value.clone(), entry.expiry));
        match extended::add(&before, delta) {
            Ok(sum) => {
                let sum = Bytes::from(sum.into_bytes());
                self.write(moment, key, sum.clone(), expiry);
                Expect::Bulk(sum)
            }
            Err(code) => Expect::Error(code),
        }
    }

    fn expire(&mut self, moment: &Moment, command: &Command<'_>) -> Expect {
        let [key, ms] = command.first();
        let Some(present) = self.get(key).map(|entry| entry.expiry) else { return boolean(false) };
        let given = expiry_of(moment, command, ms).expect("an expiry is given");
        // Redis compares whole ms. So do we: every expiry that a command gives is one, and no other client gives any
        // here.
        let is_later = present.map_or(Is::No, |present| present.is_before(&given));
        let is_earlier = present.map_or(Is::So, |present| given.is_before(&present));
        let is = |is_so: bool| if is_so { Is::So } else { Is::No };
        let conditions = [(NX, is(present.is_none())), (XX, is(present.is_some())), (GT, is_later), (LT, is_earlier)];
        let met = conditions.into_iter().filter(|(flag, _)| command.has(*flag)).map(|(_, is_met)| is_met).min();
        match met.unwrap_or(Is::So) {
            Is::No => boolean(false),
            Is::So => {
                self.set_expiry(moment, key, Some(given));
                boolean(true)
            }
            // Whichever of the two is the later one: that it is which stays. The same with the earlier one.
            Is::Perhaps => {
                let present = present.expect("none is before or after any other");
                let chosen = if command.has(GT) { present.later(given) } else { present.earlier(given) };
                self.set_expiry(moment, key, Some(chosen));
                Expect::Between(0, 1)
            }
        }
    }

    fn rename(&mut self, moment: &Moment, command: &Command<'_>) -> Expect {
        let [source, target] = command.first();
        let Some(entry) = self.get(source).cloned() else { return Expect::Error(ErrorCode::NoSuchKey) };
        if command.has(NX) && self.get(target).is_some() {
            return boolean(false);
        }
        if source != target {
            self.move_to(moment, target, &entry);
            self.remove(source);
        }
        if command.has(NX) { boolean(true) } else { Expect::Done }
    }

    fn copy(&mut self, moment: &Moment, command: &Command<'_>) -> Expect {
        let [source, target] = command.first();
        let Some(entry) = self.get(source).cloned() else { return boolean(false) };
        if !command.has(REPLACE) && self.get(target).is_some() {
            return boolean(false);
        }
        if source != target {
            self.move_to(moment, target, &entry);
        }
        boolean(true)
    }

    fn move_to(&mut self, moment: &Moment, target: &[u8], entry: &Entry) {
        self.write(moment, target, entry.value.clone(), entry.expiry);
    }
}

#[cfg(test)]
mod tests {
    use lockstep_proto::program::Builder;

    use super::*;

    /// A key that expires at `present`, if it does, and what EXPIRE with these flags makes of that at `now`: the
    /// answer, and the expiry, all in ms.
    fn expire(present: Option<(u64, u64)>, now: (u64, u64), flags: u8, ms: i64) -> (Expect, Option<(u64, u64)>) {
        let time = |(earliest, latest): (u64, u64)| Time { earliest_ns: earliest * MS, latest_ns: latest * MS };
        let moment = Moment { time: time(now), version: Version::Exact(1) };
        let mut keyspace = Keyspace::default();
        keyspace.write(&moment, b"k", b"v"[..].into(), present.map(time));
        let mut program = Builder::new();
        program.command_with(Opcode::Expire, flags, &[b"k", &ms.to_le_bytes()]);
        let told = keyspace.program(&moment, program.as_bytes(), false).remove(0);
        let expiry = keyspace.get(b"k").and_then(|entry| entry.expiry);
        (told, expiry.map(|expiry| (expiry.earliest_ns / MS, expiry.latest_ns / MS)))
    }

    #[test]
    fn an_expiry_is_compared_with_the_one_before_as_far_as_both_are_known() {
        let (now, exact) = ((100, 100), |ms| Some((ms, ms)));
        for (present, flags, ms, is_met) in [
            (exact(150), GT, 51, true),
            (exact(150), GT, 50, false),
            (exact(150), GT, 49, false),
            (exact(150), LT, 49, true),
            (exact(150), LT, 50, false),
            (exact(150), LT, 51, false),
            (None, GT, 50, false),
            (None, LT, 50, true),
            (None, XX | LT, 50, false),
            (exact(150), XX | GT, 60, true),
            (exact(150), NX, 60, false),
        ] {
            let expected = (boolean(is_met), if is_met { exact(100 + ms as u64) } else { present });
            assert_eq!(expire(present, now, flags | RELATIVE, ms), expected, "{present:?} {flags} {ms}");
        }
        // It is carried out between 100 and 120, so that the new expiry is between 150 and 170.
        let now = (100, 120);
        assert_eq!(expire(Some((140, 160)), now, GT | RELATIVE, 50), (Expect::Between(0, 1), Some((150, 170))));
        assert_eq!(expire(Some((140, 160)), now, LT | RELATIVE, 50), (Expect::Between(0, 1), Some((140, 160))));
        assert_eq!(expire(Some((140, 149)), now, GT | RELATIVE, 50), (boolean(true), Some((150, 170))));
        assert_eq!(expire(Some((170, 180)), now, GT | RELATIVE, 50), (boolean(false), Some((170, 180))));
    }
}
