//! Commands that write keys: removal, expiry, names.

use lockstep_proto::{
    mutant::{self, Mutant},
    program::{
        Command, ErrorCode,
        flags::{ABSOLUTE, GT, LT, NX, REPLACE, XX},
    },
};

use super::{Place, Run, number};
use crate::{entry::is_expired, expiry};

impl Run<'_, '_> {
    /// Removes a key if it exists.
    pub(super) fn remove(&mut self, place: Place) {
        if let Some(handle) = place.found {
            self.store.remove(place.probe.hash, handle);
        }
    }

    /// Sets when a key that exists expires. A time that has come removes it.
    pub(super) fn set_expiry(&mut self, place: Place, expiry_ns: u64) {
        if is_expired(expiry_ns, self.moment.timestamp_ns) {
            self.remove(place);
        } else if let Some(handle) = place.found {
            self.store.set_expiry(place.probe.hash, handle, expiry_ns, self.moment.revision);
        }
    }

    pub(super) fn delete(&mut self, command: &Command<'_>) {
        let mut count = 0;
        for key in command.keys() {
            let place = self.find(key);
            count += i64::from(place.found.is_some());
            self.remove(place);
        }
        self.out.integer(count);
    }

    pub(super) fn delete_if_equal(&mut self, command: &Command<'_>) {
        let [key, value] = command.first();
        let place = self.find(key);
        let is_equal = place.found.is_some_and(|handle| self.value(handle) == value);
        if is_equal {
            self.remove(place);
        }
        self.out.boolean(is_equal);
    }

    pub(super) fn expire(&mut self, command: &Command<'_>) {
        let [key, time] = command.first();
        let place = self.find(key);
        let Some(handle) = place.found else {
            return self.out.boolean(false);
        };
        let time = number(time);
        let time_ms = if command.has(ABSOLUTE) { time } else { self.ms_from_now(time) };
        let present = Some(self.expiry_ns(handle)).filter(|&expiry_ns| expiry_ns != 0).map(expiry::to_ms);
        // No expiry counts as one after all others.
        let is_out_of_order = (command.has(GT) && present.is_none_or(|present| time_ms <= present))
            || (command.has(LT) && present.is_some_and(|present| time_ms >= present));
        let is_refused = (command.has(NX) && present.is_some())
            || (command.has(XX) && present.is_none())
            || (is_out_of_order && !mutant::is(Mutant::LaterIgnored));
        if !is_refused {
            self.set_expiry(place, expiry::from_ms(time_ms));
        }
        self.out.boolean(!is_refused);
    }

    pub(super) fn persist(&mut self, command: &Command<'_>) {
        let [key] = command.first();
        let place = self.find(key);
        let has_expiry = place.found.is_some_and(|handle| self.expiry_ns(handle) != 0);
        if has_expiry {
            self.set_expiry(place, 0);
        }
        self.out.boolean(has_expiry);
    }

    pub(super) fn rename(&mut self, command: &Command<'_>) {
        let [source, target] = command.first();
        let is_conditional = command.has(NX);
        let from = self.find(source);
        if from.found.is_none() {
            return self.out.error(ErrorCode::NoSuchKey);
        }
        let is_refused = is_conditional && self.find(target).found.is_some();
        if !is_refused && source != target {
            if !self.copy_entry(from, target) {
                return;
            }
            self.remove(from);
        }
        if is_conditional { self.out.boolean(!is_refused) } else { self.out.ok() }
    }

    pub(super) fn copy(&mut self, command: &Command<'_>) {
        let [source, target] = command.first();
        let from = self.find(source);
        let is_refused = from.found.is_none() || (!command.has(REPLACE) && self.find(target).found.is_some());
        if !is_refused && source != target && !self.copy_entry(from, target) {
            return;
        }
        self.out.boolean(!is_refused);
    }

    /// Writes value and expiry of a key that exists to another key. Returns false if that is too much work, which is
    /// answered.
    fn copy_entry(&mut self, from: Place, target: &[u8]) -> bool {
        let Some(handle) = from.found else { return true };
        if !self.takes_copying(self.value(handle).len()) {
            return false;
        }
        let entry = self.store.entry(handle);
        let (value, expiry_ns, encoding) = (entry.value().to_vec(), entry.header.expiry_ns(), entry.header.encoding());
        let to = self.find(target);
        self.write(to, target, &value, expiry_ns, encoding);
        true
    }
}
