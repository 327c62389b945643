//! Commands that write values.

use lockstep_proto::{
    limits::VALUE_SIZE_MAX,
    mutant::{self, Mutant},
    operation::Status,
    program::{
        Command, ErrorCode,
        flags::{ABSOLUTE, COUNT, GET, IF_EQUAL, KEEP_TTL, NX, RELATIVE, XX},
    },
};

use super::{Place, Run, long_double, number, pairs};
use crate::{
    decimal,
    entry::{Encoding, NewValue, is_expired},
    expiry,
};

impl Run<'_, '_> {
    /// Writes a value, for which there is room.
    pub(super) fn write(&mut self, place: Place, key: &[u8], value: &[u8], expiry_ns: u64, encoding: Encoding) {
        let new = NewValue { value, expiry_ns, version: self.moment.revision, encoding };
        let status = match place.found {
            Some(handle) => self.store.overwrite(place.probe.hash, handle, &new),
            None => self.store.insert(place.probe, key, &new),
        };
        assert_eq!(status, Status::Ok, "nothing is refused after the check");
    }

    pub(super) fn set(&mut self, command: &Command<'_>) {
        let [key, value] = command.first();
        let place = self.find(key);
        self.write(place, key, value, 0, Encoding::Plain);
        self.out.ok();
    }

    pub(super) fn set_with(&mut self, command: &Command<'_>) {
        let [key, value, time, old] = command.first();
        let place = self.find(key);
        let before = place.found.map(|handle| self.store.entry(handle));
        if command.has(GET) {
            self.out.bulk_or_nil(before.map(|entry| entry.value()));
        }
        let is_met = match command.flags & (NX | XX | IF_EQUAL) {
            NX => before.is_none(),
            XX => before.is_some(),
            IF_EQUAL => before.is_some_and(|entry| entry.value() == old || mutant::is(Mutant::IfEqualBlind)),
            _ => true,
        };
        if is_met {
            let expiry_ns = match command.flags & (KEEP_TTL | RELATIVE | ABSOLUTE) {
                KEEP_TTL => before.map_or(0, |entry| entry.header.expiry_ns()),
                RELATIVE => expiry::from_ms(self.ms_from_now(number(time))),
                ABSOLUTE => expiry::from_ms(number(time)),
                _ => 0,
            };
            if is_expired(expiry_ns, self.moment.timestamp_ns) {
                // It is set, and gone at once: that touches a key that was not there either.
                self.store.watched.touch(place.probe.hash, self.moment.revision);
                self.remove(place);
            } else {
                self.write(place, key, value, expiry_ns, Encoding::Plain);
            }
        }
        match (command.flags & (GET | COUNT), is_met) {
            (GET, _) => {}
            (COUNT, _) => self.out.boolean(is_met),
            (_, true) => self.out.ok(),
            (_, false) => self.out.nil(),
        }
    }

    pub(super) fn multi_set(&mut self, command: &Command<'_>) {
        let is_conditional = command.has(NX);
        if is_conditional && command.keys().any(|key| self.find(key).found.is_some()) {
            return self.out.boolean(false);
        }
        self.store.write_all(self.moment, pairs(command), 0);
        if is_conditional { self.out.boolean(true) } else { self.out.ok() }
    }

    pub(super) fn append(&mut self, command: &Command<'_>) {
        let [key, tail] = command.first();
        let place = self.find(key);
        let Some(handle) = place.found else {
            self.write(place, key, tail, 0, Encoding::Plain);
            return self.out.integer(tail.len() as i64);
        };
        let size = self.value(handle).len();
        if size + tail.len() > VALUE_SIZE_MAX {
            return self.out.error(ErrorCode::StringTooLong);
        }
        self.store.patch(place.probe.hash, handle, size, tail, self.moment.revision);
        self.out.integer((size + tail.len()) as i64);
    }

    pub(super) fn set_range(&mut self, command: &Command<'_>) {
        let [key, offset, part] = command.first();
        let place = self.find(key);
        let size = place.found.map_or(0, |handle| self.value(handle).len());
        if part.is_empty() {
            return self.out.integer(size as i64);
        }
        let offset = number(offset) as u64;
        let end = offset.saturating_add(part.len() as u64);
        if end > VALUE_SIZE_MAX as u64 {
            return self.out.error(ErrorCode::StringTooLong);
        }
        let (offset, end) = (offset as usize, end as usize);
        if !self.takes_copying(end.saturating_sub(size)) {
            return;
        }
        if let Some(handle) = place.found {
            self.store.patch(place.probe.hash, handle, offset, part, self.moment.revision);
        } else {
            let mut value = vec![0; end];
            value[offset..].copy_from_slice(part);
            self.write(place, key, &value, 0, Encoding::Patched);
        }
        self.out.integer(size.max(end) as i64);
    }

    pub(super) fn increment(&mut self, command: &Command<'_>) {
        let [key, delta] = command.first();
        let place = self.find(key);
        let before = place.found.map_or(Some(0), |handle| decimal::parse(self.value(handle)));
        let Some(before) = before else {
            return self.out.error(ErrorCode::NotAnInteger);
        };
        let Some(sum) = before.checked_add(number(delta)) else {
            return self.out.error(ErrorCode::Overflow);
        };
        let expiry_ns = place.found.map_or(0, |handle| self.expiry_ns(handle));
        self.write(place, key, decimal::write(sum, &mut [0; decimal::SIZE_MAX]), expiry_ns, Encoding::Plain);
        self.out.integer(sum);
    }

    pub(super) fn increment_float(&mut self, command: &Command<'_>) {
        let [key, delta] = command.first();
        let place = self.find(key);
        if self.work.is_used_up() {
            return self.out.error(ErrorCode::TooMuchWork);
        }
        let before = place.found.map_or(&b"0"[..], |handle| self.value(handle));
        let result = long_double::add(before, delta);
        self.work.take(long_double::steps(&[before, delta], &result));
        match result {
            Ok(sum) => {
                let expiry_ns = place.found.map_or(0, |handle| self.expiry_ns(handle));
                self.write(place, key, sum.as_bytes(), expiry_ns, Encoding::Float);
                self.out.bulk(sum.as_bytes());
            }
            Err(error) => self.out.error(error),
        }
    }

    pub(super) fn get_delete(&mut self, command: &Command<'_>) {
        let [key] = command.first();
        let place = self.find(key);
        self.out.bulk_or_nil(place.found.map(|handle| self.store.entry(handle).value()));
        self.remove(place);
    }

    pub(super) fn get_expire(&mut self, command: &Command<'_>) {
        let [key, time] = command.first();
        let place = self.find(key);
        let Some(handle) = place.found else {
            return self.out.nil();
        };
        self.out.bulk(self.store.entry(handle).value());
        let expiry_ns = match command.flags & (RELATIVE | ABSOLUTE) {
            RELATIVE => expiry::from_ms(self.ms_from_now(number(time))),
            ABSOLUTE => expiry::from_ms(number(time)),
            _ => 0,
        };
        self.set_expiry(place, expiry_ns);
    }
}
