//! The operations of one key, prepared for the search.

use std::collections::BTreeMap;

use super::{
    history::{Asked, Operation, Told, Value},
    model::Clock,
};

/// A version that the key is known to have had, or at which it was removed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    pub(super) version: u64,
    /// The completed write that made it; `None` if a write with unknown outcome must have.
    pub(super) writer: Option<u32>,
    /// The value that was seen at it, if anyone saw it.
    pub(super) value: Option<Value>,
}

/// Operations with unknown outcome that differ only in when they were asked for. Which of them takes effect makes no
/// difference, so the search only counts them.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) asked: Asked,
    /// By time.
    pub(super) members: Vec<Member>,
}

/// One operation of a [`Class`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) place: u32,
    pub(super) invoke_ns: u64,
    /// Its version, if it takes effect, is higher: so much had been answered when it was asked for.
    pub(super) floor: u64,
}

/// Who can have made a value, and who must have.
#[derive(Debug, Default)]
pub(super) struct TextUse {
    /// Classes of writes with it.
    pub(super) classes: Vec<u32>,
    /// Events, by their place, that were seen with it and have no answered writer.
    pub(super) events: Vec<u32>,
}

/// The operations of one key.
#[derive(Debug)]
pub(super) struct Problem<'a> {
    pub(super) operations: &'a [Operation],
    pub(super) slack_ns: u64,
    /// By version.
    pub(super) events: Vec<Event>,
    pub(super) classes: Vec<Class>,
    /// For values other than numbers, which only a write of just that value can have made.
    pub(super) texts: BTreeMap<u32, TextUse>,
    /// Operations that give a time-to-live, as [`State::ttl_source`](super::model::State::ttl_source) names them.
    pub(super) ttl_sources: Vec<u32>,
}

impl<'a> Problem<'a> {
    /// `floors` has the lowest version that each operation's effect must exceed.
    pub(super) fn new(operations: &'a [Operation], floors: &[u64], slack_ns: u64) -> Problem<'a> {
        let mut events = BTreeMap::new();
        let mut classes: BTreeMap<(ClassKey, u32), Class> = BTreeMap::new();
        let mut ttl_sources = Vec::new();
        for (place, operation) in operations.iter().enumerate() {
            let place = place as u32;
            if operation.asked.ttl_ms().is_some() && operation.told != Told::Refused {
                ttl_sources.push(place + 1);
            }
            if operation.is_unknown() {
                if !operation.asked.is_read() {
                    // Which one gave a time-to-live does make a difference.
                    let alone = operation.asked.ttl_ms().map_or(0, |_| place + 1);
                    let class = classes.entry((class_key(&operation.asked), alone));
                    let class = class.or_insert_with(|| Class { asked: operation.asked, members: Vec::new() });
                    let floor = floors[place as usize];
                    class.members.push(Member { place, invoke_ns: operation.invoke_ns, floor });
                }
                continue;
            }
            note_events(&mut events, place, operation);
        }
        let mut classes: Vec<Class> = classes.into_values().collect();
        for class in &mut classes {
            class.members.sort_by_key(|member| member.invoke_ns);
        }
        let events: Vec<Event> = events.into_values().collect();
        let texts = texts_of(&events, &classes);
        Problem { operations, slack_ns, events, classes, texts, ttl_sources }
    }

    pub(super) fn clock(&self) -> Clock<'a> {
        Clock { operations: self.operations, slack_ns: self.slack_ns }
    }

    pub(super) fn is_event(&self, version: u64) -> bool {
        self.events.binary_search_by_key(&version, |event| event.version).is_ok()
    }
}

fn texts_of(events: &[Event], classes: &[Class]) -> BTreeMap<u32, TextUse> {
    let mut texts: BTreeMap<u32, TextUse> = BTreeMap::new();
    for (place, event) in events.iter().enumerate() {
        if let Event { writer: None, value: Some(Value::Text(text)), .. } = event {
            texts.entry(*text).or_default().events.push(place as u32);
        }
    }
    for (class, Class { asked, .. }) in classes.iter().enumerate() {
        if let Some(Value::Text(text)) = asked.value() {
            texts.entry(text).or_default().classes.push(class as u32);
        }
    }
    texts
}

fn note_events(events: &mut BTreeMap<u64, Event>, place: u32, operation: &Operation) {
    let mut note = |version: u64, writer: Option<u32>, value: Option<Value>| {
        let event = events.entry(version).or_insert(Event { version, writer: None, value: None });
        event.writer = event.writer.or(writer);
        event.value = event.value.or(value);
    };
    if let Some(version) = operation.revision() {
        note(version, Some(place), None);
    }
    let seen = operation.version_seen();
    if seen != 0 {
        let value = if let Told::Found { value, .. } = operation.told { Some(value) } else { None };
        note(seen, None, value);
    }
}

type ClassKey = (u8, u64, u8, u64);

/// Orders what may be asked for, so that classes have an order that does not depend on anything else.
fn class_key(asked: &Asked) -> ClassKey {
    let value = |value: &Value| match *value {
        Value::Number(number) => (0, number as u64),
        Value::Text(text) => (1, u64::from(text)),
    };
    match asked {
        Asked::Put { value: new, .. } => (0, 0, value(new).0, value(new).1),
        Asked::CompareAndSet { expected, value: new, .. } => (1, *expected, value(new).0, value(new).1),
        Asked::Increment { delta } => (2, *delta as u64, 0, 0),
        Asked::Delete => (3, 0, 0, 0),
        Asked::Expire { ttl_ms } => (4, ttl_ms.unwrap_or(0), 0, 0),
        Asked::Get | Asked::Exists | Asked::TimeToLive => unreachable!("reads have no effect"),
    }
}
