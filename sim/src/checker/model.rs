//! One key as a state machine, in the two forms that the search needs: does an answer fit a state, and what does an
//! operation make of it.

use super::history::{Asked, Operation, Told, Value};

const NS_PER_MS: u64 = 1_000_000;

/// What is known about the key at one point of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    /// The version, or the lowest that it can be. A key that does not exist: at least what the next version must
    /// exceed.
    pub(super) version: u64,
    /// Whether `version` is the version itself.
    pub(super) is_exact: bool,
    /// `None`: the key does not exist.
    pub(super) value: Option<Value>,
    /// Which operation gave it its time-to-live: place in [`Clock::operations`] plus 1; 0 if none.
    pub(super) ttl_source: u32,
}

impl State {
    pub(super) const INITIAL: State = State { version: 0, is_exact: true, value: None, ttl_source: 0 };

    fn number(&self) -> Option<i64> {
        match self.value {
            None => Some(0),
            Some(Value::Number(number)) => Some(number),
            Some(Value::Text(_)) => None,
        }
    }

    /// Whether the key may have this version now, which an unknown write may have given it.
    pub(super) fn may_be_at(&self, version: u64) -> bool {
        self.value.is_some() && if self.is_exact { self.version == version } else { self.version <= version }
    }

    /// Whether no later state can have this version any more, nor this one.
    pub(super) fn is_beyond(&self, version: u64) -> bool {
        version < self.version || (version == self.version && self.value.is_none())
    }

    fn is_at(&self, version: u64) -> bool {
        self.value.is_some() && self.is_exact && self.version == version
    }
}

/// When keys expire. The servers stamp with clocks that may differ from the clients' by `slack_ns`.
#[derive(Clone, Copy)]
pub(super) struct Clock<'a> {
    pub(super) operations: &'a [Operation],
    pub(super) slack_ns: u64,
}

impl Clock<'_> {
    /// The bounds of the moment at which the key expires, in nanoseconds.
    pub(super) fn expiry_bounds(&self, source: u32) -> (u64, u64) {
        let operation = &self.operations[source as usize - 1];
        let ttl_ns = operation.asked.ttl_ms().unwrap_or(0).saturating_mul(NS_PER_MS);
        let earliest = operation.invoke_ns.saturating_add(ttl_ns).saturating_sub(self.slack_ns);
        (earliest, operation.return_ns.saturating_add(ttl_ns).saturating_add(self.slack_ns))
    }

    /// Whether the key has certainly expired before `now_ns`.
    fn is_over(&self, state: &State, now_ns: u64) -> bool {
        state.ttl_source != 0 && now_ns > self.expiry_bounds(state.ttl_source).1
    }

    /// Whether a completed operation without an effect fits a state.
    pub(super) fn fits(&self, operation: &Operation, state: &State) -> bool {
        let told = operation.told;
        if let Told::NotFound | Told::Mismatch { version: 0 } = told {
            let expects_none = matches!(operation.asked, Asked::CompareAndSet { expected: 0, .. });
            return state.value.is_none() && !expects_none;
        }
        if state.value.is_none() || self.is_over(state, operation.invoke_ns) {
            return false;
        }
        let is_version = |version| version == 0 || state.is_at(version);
        match (operation.asked, told) {
            (_, Told::Found { value, version }) => state.is_at(version) && state.value == Some(value),
            (_, Told::Exists { version }) => is_version(version),
            (_, Told::Persistent) => state.ttl_source == 0,
            (_, Told::Remaining { ms }) => state.ttl_source != 0 && self.may_remain(state.ttl_source, operation, ms),
            (Asked::CompareAndSet { expected, .. }, Told::Mismatch { version }) => {
                version != expected && state.is_at(version)
            }
            (Asked::Increment { delta }, Told::NotANumber { version }) => {
                is_version(version) && state.number().and_then(|number| number.checked_add(delta)).is_none()
            }
            _ => false,
        }
    }

    fn may_remain(&self, source: u32, read: &Operation, ms: u64) -> bool {
        let (earliest, latest) = self.expiry_bounds(source);
        let least = earliest.saturating_sub(read.return_ns) / NS_PER_MS;
        let most = latest.saturating_sub(read.invoke_ns) / NS_PER_MS + 1;
        (least.saturating_sub(1)..=most).contains(&ms)
    }

    /// What a completed write with a revision makes of a state; `None` if its answer does not fit.
    pub(super) fn write(&self, place: u32, state: &State) -> Option<State> {
        let operation = &self.operations[place as usize];
        let version = operation.revision()?;
        if version <= state.version {
            return None;
        }
        let is_over = self.is_over(state, operation.invoke_ns);
        let fits = match (operation.asked, operation.told) {
            (Asked::Put { .. }, _) => true,
            (Asked::CompareAndSet { expected: 0, .. }, _) => state.value.is_none(),
            (Asked::CompareAndSet { expected, .. }, _) => state.is_at(expected) && !is_over,
            (Asked::Delete, _) => state.value.is_some() && !is_over,
            (Asked::Increment { delta }, Told::Summed { sum, .. }) => {
                (state.value.is_none() || !is_over)
                    && state.number().and_then(|number| number.checked_add(delta)) == Some(sum)
            }
            _ => false,
        };
        fits.then(|| self.effect(place, state).map(|after| State { version, is_exact: true, ..after })).flatten()
    }

    /// What an operation makes of a state if it has an effect. The version is left for the caller to set.
    pub(super) fn effect(&self, place: u32, state: &State) -> Option<State> {
        let operation = &self.operations[place as usize];
        let ttl = |ttl_ms: Option<u64>| ttl_ms.map_or(0, |_| place + 1);
        match operation.asked {
            Asked::Put { value, ttl_ms } => Some(State { value: Some(value), ttl_source: ttl(ttl_ms), ..*state }),
            Asked::CompareAndSet { expected, value, ttl_ms } => {
                let fits = if expected == 0 { state.value.is_none() } else { state.may_be_at(expected) };
                fits.then(|| State { value: Some(value), ttl_source: ttl(ttl_ms), ..*state })
            }
            Asked::Delete => state.value.map(|_| State { value: None, ttl_source: 0, ..*state }),
            Asked::Increment { delta } => {
                let sum = state.number()?.checked_add(delta)?;
                Some(State { value: Some(Value::Number(sum)), ..*state })
            }
            Asked::Expire { ttl_ms } => state.value.map(|_| State { ttl_source: ttl(ttl_ms), ..*state }),
            Asked::Get | Asked::Exists | Asked::TimeToLive => None,
        }
    }
}
