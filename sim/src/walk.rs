//! Walks through the keys of a shard, step by step with a cursor, and what they promise: a key that is there during the
//! whole walk is returned, and a key that is returned was there when its step was answered.
//!
//! A walk is no single operation, so no order of effects explains it. It is held against what the committed log says
//! was there between what had been answered when it was asked for, and what was committed when it was answered. A
//! question about all keys at once is a walk of one step.

use std::collections::BTreeSet;

use crate::{
    dice::Dice,
    facts::{Check, Presence, Window},
    host::WALL_START_NS,
    shared::Shared,
};

/// What is asked about all keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// So many of them at a time, from a cursor on.
    Scan(u64),
    /// All of them at once.
    All,
    /// How many there are.
    Count,
    /// One of them.
    Any,
}

/// Where a step begins: the first at 0, others where the one before has ended.
pub type Cursor = (u16, u64);

/// A key that a step has returned, and version and value if it has told those.
#[derive(Clone, Copy, Debug)]
pub struct Returned<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Its version.
    pub version: Option<u64>,
    /// Its value.
    pub value: Option<&'a [u8]>,
}

/// The answer to a step.
#[derive(Clone, Debug)]
pub enum Page<'a> {
    /// Keys, and where to go on; `None` at the end.
    Keys(Vec<Returned<'a>>, Option<Cursor>),
    /// A number of keys.
    Count(u64),
    /// Something else.
    Malformed,
}

/// When a step was asked for.
#[derive(Clone, Copy, Debug)]
struct Step {
    low: u64,
    asked_ns: u64,
}

/// A walk of one client.
#[derive(Clone, Debug)]
pub struct Walk {
    question: Question,
    /// Only keys that begin with this are asked for.
    prefix: &'static [u8],
    cursor: Cursor,
    /// What the first step has seen at least. `None` before it is answered.
    low: Option<u64>,
    returned: BTreeSet<Vec<u8>>,
    /// The step that is not answered.
    step: Option<Step>,
}

impl Walk {
    /// A walk that has not begun.
    pub fn new(question: Question, prefix: &'static [u8]) -> Walk {
        Walk { question, prefix, cursor: (0, 0), low: None, returned: BTreeSet::new(), step: None }
    }

    /// Draws how many keys a step returns at most.
    pub fn draw_limit(dice: &mut Dice) -> u64 {
        dice.pick(&[1, 1, 2, 3, 100])
    }

    /// What it asks.
    pub fn question(&self) -> Question {
        self.question
    }

    /// What the keys that it asks for begin with.
    pub fn prefix(&self) -> &'static [u8] {
        self.prefix
    }

    /// Where its next step begins.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Whether a step is not answered.
    pub fn is_waiting(&self) -> bool {
        self.step.is_some()
    }

    /// The next step is asked for.
    pub fn ask(&mut self, shared: &Shared) {
        self.step = Some(Step { low: shared.facts.answered_revision(), asked_ns: shared.now_ns });
    }

    /// There will be no answer to the step. It can be asked for again, at any server.
    pub fn lose_step(&mut self) {
        self.step = None;
    }

    /// The step is answered, and its client has been told of `told` as the revision of something that it had to see.
    /// Returns whether the walk is over.
    pub fn take(&mut self, shared: &mut Shared, told: u64, page: &Page<'_>) -> bool {
        let Some(step) = self.step.take() else {
            shared.facts.fail(Check::Walk, "a step is answered that was not asked for".to_owned());
            return true;
        };
        let slack_ns = shared.facts.slack_ns();
        let window = Window {
            low: step.low.max(told),
            high: shared.facts.committed_revision().max(told),
            earliest_ns: (WALL_START_NS + step.asked_ns).saturating_sub(slack_ns),
            latest_ns: WALL_START_NS + shared.now_ns + slack_ns,
        };
        let whole = Window { low: *self.low.get_or_insert(window.low), ..window };
        let presence = shared.facts.model().presence();
        let judged = match page {
            Page::Keys(keys, next) => self.judge_keys(presence, &window, &whole, keys, *next),
            Page::Count(count) => judge_count(presence, &window, *count).map(|()| true),
            Page::Malformed => Err("it is not answered as it was asked".to_owned()),
        };
        shared.walks += u64::from(judged == Ok(true));
        judged.unwrap_or_else(|reason| {
            let (question, cursor) = (self.question, self.cursor);
            shared.facts.fail(Check::Walk, format!("{question:?} from {cursor:?}: {reason} ({window:?})"));
            true
        })
    }

    fn judge_keys(
        &mut self,
        presence: &Presence,
        window: &Window,
        whole: &Window,
        keys: &[Returned<'_>],
        next: Option<Cursor>,
    ) -> Result<bool, String> {
        let limit = match self.question {
            Question::Scan(limit) => limit,
            Question::Any => 1,
            Question::All | Question::Count => u64::MAX,
        };
        if keys.len() as u64 > limit {
            return Err(format!("{} keys are more than {limit}", keys.len()));
        }
        let mut of_step = BTreeSet::new();
        for Returned { key, version, value } in keys {
            let name = key.escape_ascii();
            let is_it = presence.was_once(key, window, |entry| {
                version.is_none_or(|version| entry.version.may_be(version))
                    && value.is_none_or(|value| entry.value[..] == *value)
            });
            if !is_it || !key.starts_with(self.prefix) {
                return Err(format!("\"{name}\" was not there, or not like that: version {version:?}"));
            }
            if !of_step.insert(*key) {
                return Err(format!("\"{name}\" is returned twice in one step"));
            }
            self.returned.insert(key.to_vec());
        }
        if let Some(next) = next {
            self.cursor = next;
            return Ok(false);
        }
        let is_missing = |key: &&[u8]| {
            key.starts_with(self.prefix) && !self.returned.contains(*key) && presence.was_always(key, whole)
        };
        let missing = presence.keys().find(is_missing);
        match missing {
            // One of them is enough for an answer.
            Some(_) if self.question == Question::Any && !self.returned.is_empty() => Ok(true),
            Some(key) => {
                let name = key.escape_ascii();
                Err(format!("\"{name}\" is not returned and was there all the time since revision {}", whole.low))
            }
            None => Ok(true),
        }
    }
}

fn judge_count(presence: &Presence, window: &Window, count: u64) -> Result<(), String> {
    let least = presence.keys().filter(|key| presence.was_always(key, window)).count() as u64;
    let most = presence.keys().filter(|key| presence.was_once(key, window, |_| true)).count() as u64;
    let is_right = (least..=most).contains(&count);
    if is_right { Ok(()) } else { Err(format!("{count} keys are not from {least} to {most}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyspace::{Entry, Version};

    /// "a" is there from revision 1 on, "b" until 5, "c" from 5 on.
    fn presence() -> Presence {
        let entry = |version| Entry { value: b"v"[..].into(), version: Version::Exact(version), expiry: None };
        let mut presence = Presence::default();
        presence.note(1, b"a", Some(&entry(1)));
        presence.note(2, b"b", Some(&entry(2)));
        presence.note(5, b"b", None);
        presence.note(5, b"c", Some(&entry(5)));
        presence
    }

    fn window(low: u64, high: u64) -> Window {
        Window { low, high, earliest_ns: 0, latest_ns: 0 }
    }

    /// Whether a walk may return these keys, a step after the other, each within its bounds on revisions.
    fn is_right(question: Question, steps: &[(u64, u64, &[&[u8]])]) -> bool {
        let mut walk = Walk::new(question, b"");
        let low = steps[0].0;
        let last = steps.len() - 1;
        let judged = steps.iter().enumerate().map(|(at, (least, most, keys))| {
            let keys: Vec<Returned<'_>> = keys.iter().map(|key| Returned { key, version: None, value: None }).collect();
            let next = (at < last).then_some((1, 1));
            walk.judge_keys(&presence(), &window(*least, *most), &window(low, *most), &keys, next)
        });
        judged.collect::<Vec<_>>().iter().all(Result::is_ok)
    }

    #[test]
    fn a_walk_returns_what_is_there_all_the_time_and_nothing_that_never_is() {
        let scan = Question::Scan(2);
        assert!(is_right(scan, &[(3, 3, &[b"a"]), (3, 6, &[b"b"])]));
        assert!(is_right(scan, &[(3, 3, &[b"a"]), (3, 6, &[b"c"])]), "\"b\" was removed meanwhile");
        assert!(is_right(scan, &[(3, 3, &[b"a"]), (6, 6, &[])]), "and \"c\" was not there at first");
        assert!(!is_right(scan, &[(3, 3, &[b"b"]), (6, 6, &[b"c"])]), "\"a\" was there all the time");
        assert!(!is_right(scan, &[(3, 3, &[b"a"]), (6, 6, &[b"b"])]), "\"b\" was gone before the second step");
        assert!(!is_right(scan, &[(3, 4, &[b"a", b"c"]), (4, 4, &[b"b"])]), "\"c\" was not there yet");
        assert!(!is_right(scan, &[(3, 3, &[b"a", b"a"]), (3, 3, &[b"b"])]), "one step returns a key once");
        assert!(is_right(scan, &[(3, 3, &[b"a"]), (3, 3, &[b"a", b"b"])]), "but a walk may do it again");
        assert!(!is_right(scan, &[(3, 9, &[b"a", b"b", b"c"])]), "more than was asked for");
    }

    #[test]
    fn questions_about_all_keys_are_walks_of_one_step() {
        assert!(is_right(Question::All, &[(3, 3, &[b"a", b"b"])]) && !is_right(Question::All, &[(3, 3, &[b"a"])]));
        assert!(is_right(Question::Any, &[(3, 3, &[b"b"])]) && !is_right(Question::Any, &[(3, 3, &[b"c"])]));
        assert!(is_right(Question::Any, &[(0, 1, &[])]) && !is_right(Question::Any, &[(1, 1, &[])]));
        let counts =
            |low, high| (0..9).filter(move |count| judge_count(&presence(), &window(low, high), *count).is_ok());
        assert_eq!(counts(3, 4).collect::<Vec<u64>>(), [2]);
        assert_eq!(counts(3, 5).collect::<Vec<u64>>(), [1, 2, 3]);
    }

    #[test]
    fn what_is_returned_has_a_version_and_a_value_that_the_key_had() {
        let is_right = |version, value: &'static [u8]| {
            let returned = Returned { key: b"a", version: Some(version), value: Some(value) };
            let window = window(1, 1);
            Walk::new(Question::Scan(1), b"").judge_keys(&presence(), &window, &window, &[returned], None).is_ok()
        };
        assert!(is_right(1, b"v") && !is_right(2, b"v") && !is_right(1, b"w"));
    }
}
