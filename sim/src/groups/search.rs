//! The search for an order of effects, depth first, with a memory of what was tried.

use std::collections::HashMap;

use super::{GroupOptions, Kind, Operated, precedence::Precedence};
use crate::keyspace::{Bytes, Entry, Keyspace, Moment, Version, says_otherwise};

/// How a search ended.
pub(super) enum Found {
    /// There is an order.
    Order,
    /// There is none.
    NoOrder(Stuck),
    /// The bound on steps was reached.
    Undecided(Stuck),
}

/// The furthest point that any order came to.
#[derive(Clone, Debug)]
pub(super) struct Stuck {
    pub(super) state: Keyspace,
    /// Of the operations that would have had to be next, the one that was answered first.
    pub(super) overdue: u32,
    placed: usize,
}

/// A position: what is placed, and what that has made of the keys.
#[derive(Clone)]
struct Node {
    state: Keyspace,
    /// Answered writes that are placed.
    logged: u32,
    /// Answered operations that change nothing and are placed, a bit each.
    pure: Vec<u64>,
    /// Of each list of operations without an answer, how many cannot take effect any more.
    passed: Vec<u32>,
}

/// A way to go on.
enum Choice {
    /// The next answered write.
    Logged(u32),
    /// Of what changes nothing, one that tells which version a write without an answer has made.
    Pure(u32),
    /// A write without an answer, or the expiry of a key: where that leads to, and the keys that it concerns, with
    /// those of what is passed over by it.
    Leap { node: Box<Node>, keys: u64, is_unknown: bool },
}

/// A position, and what is left to be tried from there.
struct Frame {
    node: Node,
    /// The likeliest last.
    choices: Vec<Choice>,
    /// Whether the choices are all that there are, and not only what was answered.
    is_complete: bool,
    /// The keys for which nothing came of what was tried.
    blamed: u64,
    /// If a write without an answer has led here, and nothing has seen it yet: what was there before it.
    before: Option<Keyspace>,
    /// The keys of what has led here.
    via: u64,
}

/// A position that was come to: what was there before if that is of interest, and the keys of what has led there.
struct Arrival {
    node: Node,
    before: Option<Keyspace>,
    via: u64,
}

/// These keys are why nothing came of the last choice, which concerned the keys `via`: what it made of one of them may
/// have come from any other.
fn blame(stack: &mut [Frame], keys: u64, via: u64) {
    if let Some(frame) = stack.last_mut() {
        frame.blamed |= keys;
        if keys & via != 0 {
            frame.blamed |= via;
        }
    }
}

/// What a position is besides what was passed: the keys, and what is placed.
type Placed = (Keyspace, u32, Vec<u64>);

/// Positions from which nothing came: by what is placed, what of the lists was passed, and the keys that this was
/// about.
#[derive(Default)]
struct Tried(HashMap<Placed, Vec<(Vec<u32>, u64)>>);

impl Tried {
    /// The keys to blame if nothing can come of a position, because nothing came of it with no more passed.
    fn blamed(&self, node: &Node) -> Option<u64> {
        let before = self.0.get(&(node.state.clone(), node.logged, node.pure.clone()))?;
        let is_within = |passed: &[u32]| passed.iter().zip(&node.passed).all(|(less, more)| less <= more);
        before.iter().find(|(passed, _)| is_within(passed)).map(|(_, blamed)| *blamed)
    }

    fn insert(&mut self, node: Node, blamed: u64) {
        self.0.entry((node.state, node.logged, node.pure)).or_default().push((node.passed, blamed));
    }
}

pub(super) struct Search<'a> {
    operations: &'a [Operated],
    options: GroupOptions,
    /// By revision.
    logged: Vec<(u64, u32)>,
    pure: Vec<u32>,
    /// Of the lost connections, what was not answered, in order; what has no order is a list of its own.
    unknown: Vec<Vec<u32>>,
    precedence: Precedence<'a>,
    /// Where operations are found among those of their kind.
    index: Vec<u32>,
    /// The keys that each operation concerns, a bit each, and their names.
    keys: Vec<u64>,
    names: Vec<Vec<u8>>,
    /// The keys, by their place in `names`, of which an answer says that they were at a version when the operation
    /// began.
    seen: Vec<Vec<(usize, u64)>>,
    /// The highest place in the log that was known before each operation was asked for.
    floors: Vec<u64>,
    tried: Tried,
    stuck: Option<Stuck>,
}

impl<'a> Search<'a> {
    pub(super) fn new(operations: &'a [Operated], options: GroupOptions) -> Search<'a> {
        let mut search = Search {
            operations,
            options,
            logged: Vec::new(),
            pure: Vec::new(),
            unknown: Vec::new(),
            precedence: Precedence::new(operations),
            index: vec![0; operations.len()],
            keys: Vec::new(),
            names: Vec::new(),
            seen: Vec::new(),
            floors: vec![0; operations.len()],
            tried: Tried::default(),
            stuck: None,
        };
        search.keys = operations.iter().map(|operated| operated.keys(&mut search.names)).collect();
        let named = |(key, version): (&[u8], u64)| {
            let name = search.names.iter().position(|name| name == key);
            (name.expect("it is one of the operation's keys"), version)
        };
        search.seen = operations.iter().map(|operated| operated.seen().into_iter().map(named).collect()).collect();
        search.sort();
        search
    }

    /// Puts operations into the lists of their kinds.
    fn sort(&mut self) {
        let operations = self.operations;
        let mut lost = HashMap::new();
        for (place, operated) in (0u32..).zip(operations) {
            match self.precedence.kinds[place as usize] {
                Kind::Logged(revision) => self.logged.push((revision, place)),
                Kind::Pure => {
                    self.index[place as usize] = self.pure.len() as u32;
                    self.pure.push(place);
                }
                Kind::Unknown => {
                    let list =
                        operated.connection.map(|connection| *lost.entry(connection).or_insert(self.unknown.len()));
                    let list = list.unwrap_or(self.unknown.len());
                    if list == self.unknown.len() {
                        self.unknown.push(Vec::new());
                    }
                    self.unknown[list].push(place);
                }
                Kind::Void => {}
                Kind::Somewhere => unreachable!("no client gives a key of a group an expiry by the native protocol"),
            }
        }
        self.logged.sort_unstable();
        for (index, (_, place)) in (0..).zip(&self.logged) {
            self.index[*place as usize] = index;
        }
        for (place, floor) in self.floors.iter_mut().enumerate() {
            let is_before = |other: u32| operations[other as usize].return_ns < operations[place].invoke_ns;
            let before = self.logged.iter().filter(|(_, other)| is_before(*other));
            *floor = before.map(|(revision, _)| *revision).max().unwrap_or(0);
        }
    }

    pub(super) fn run(&mut self) -> Found {
        if let Some(pair) = self.logged.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Found::NoOrder(Stuck { state: Keyspace::default(), overdue: pair[1].1, placed: 0 });
        }
        let mut start = Node {
            state: Keyspace::default(),
            logged: 0,
            pure: vec![0; self.pure.len().div_ceil(64)],
            passed: vec![0; self.unknown.len()],
        };
        self.settle(&mut start);
        let mut steps = 0;
        let mut stack: Vec<Frame> = Vec::new();
        let mut arrival = Some(Arrival { node: start, before: None, via: 0 });
        loop {
            if let Some(arrival) = arrival.take() {
                steps += 1;
                if steps > self.options.steps_max {
                    return Found::Undecided(self.stuck.take().expect("something was tried"));
                }
                if self.arrive(&mut stack, arrival) {
                    return Found::Order;
                }
            }
            if stack.is_empty() {
                return Found::NoOrder(self.stuck.take().expect("something was tried"));
            }
            arrival = self.go_on(&mut stack);
        }
    }

    /// Puts a position on the stack, if something may come of it. Returns whether nothing is left to be placed.
    fn arrive(&mut self, stack: &mut Vec<Frame>, Arrival { node, before, via }: Arrival) -> bool {
        let Some(overdue) = self.overdue(&node) else { return true };
        self.note_stuck(&node, overdue);
        match self.too_late(&node).or_else(|| self.tried.blamed(&node)) {
            Some(blamed) => blame(stack, blamed, via),
            None => {
                let choices = self.answered(&node, overdue);
                // What has to be next and is not is to blame from the start.
                let blamed = self.keys[overdue as usize];
                stack.push(Frame { node, choices, is_complete: false, blamed, before, via });
            }
        }
        false
    }

    /// Tries the next choice of the last position: `None` if it leads nowhere. If there is none that may help, all that
    /// can follow is listed, and when that is used up, too, the position is given up.
    fn go_on(&mut self, stack: &mut Vec<Frame>) -> Option<Arrival> {
        let frame = stack.last_mut()?;
        let blamed = frame.blamed;
        let helps = |choice: &Choice| !matches!(choice, Choice::Leap { keys, .. } if keys & blamed == 0);
        if let Some(at) = frame.choices.iter().rposition(helps) {
            let choice = frame.choices.remove(at);
            return self.take(stack, choice);
        }
        if frame.is_complete {
            let Frame { node, blamed, via, .. } = stack.pop()?;
            self.tried.insert(node, blamed);
            blame(stack, blamed, via);
        } else {
            frame.is_complete = true;
            let (choices, blamed) = self.leaps(&frame.node, frame.before.as_ref());
            frame.choices = choices;
            frame.blamed |= blamed;
        }
        None
    }

    /// Where a choice of the last position leads to.
    fn take(&self, stack: &mut [Frame], choice: Choice) -> Option<Arrival> {
        let from = &stack.last()?.node;
        match choice {
            Choice::Leap { node, is_unknown, keys } => {
                let is_unseen = is_unknown && node.pure == from.pure;
                let before = is_unseen.then(|| from.state.clone());
                Some(Arrival { node: *node, before, via: keys })
            }
            Choice::Logged(place) | Choice::Pure(place) => {
                let keys = self.keys[place as usize];
                // An answer may tell the version of a write that concerns other keys, too.
                let is_open = from.state.iter().any(|(_, entry)| matches!(entry.version, Version::Open { .. }));
                let via = if is_open { u64::MAX } else { keys };
                match self.place(from.clone(), place) {
                    Some(node) => Some(Arrival { node, before: None, via }),
                    None => {
                        blame(stack, keys, 0);
                        None
                    }
                }
            }
        }
    }

    fn is_placed(&self, node: &Node, place: u32) -> bool {
        let index = self.index[place as usize];
        match self.precedence.kinds[place as usize] {
            Kind::Logged(_) => index < node.logged,
            _ => node.pure[index as usize / 64] >> (index % 64) & 1 == 1,
        }
    }

    /// The operation that was answered first, of those that are not placed.
    fn overdue(&self, node: &Node) -> Option<u32> {
        self.precedence.overdue(|place| self.is_placed(node, place))
    }

    fn may_be_next(&self, node: &Node, place: u32, overdue: u32) -> bool {
        self.precedence.may_be_next(place, overdue, |place| self.is_placed(node, place))
    }

    /// Carries out an answered operation. `None` if the answer is another one.
    fn carry_out(&self, state: &mut Keyspace, place: u32, version: Version) -> Option<Vec<(u32, u64)>> {
        let operated = &self.operations[place as usize];
        let told = operated.told.as_ref().expect("it was answered");
        let moment = Moment { time: operated.time(&self.options), version };
        let is_otherwise = says_otherwise(told.status, told.operation, &told.body);
        let expected = state.carry_out(&moment, &operated.request(), is_otherwise);
        let bindings = expected.as_operation(told.operation, version).accepts(told.status, told.version, &told.body)?;
        for &(writer, version) in &bindings {
            state.bind(writer, version);
        }
        Some(bindings)
    }

    /// Places everything that changes nothing and fits.
    fn settle(&self, node: &mut Node) {
        loop {
            let Some(overdue) = self.overdue(node) else { return };
            let mut is_placed = false;
            for (index, &place) in self.pure.iter().enumerate() {
                if node.pure[index / 64] >> (index % 64) & 1 == 1 || !self.may_be_next(node, place, overdue) {
                    continue;
                }
                let mut state = node.state.clone();
                if self.carry_out(&mut state, place, Version::NONE).is_some_and(|bindings| bindings.is_empty()) {
                    node.state = state;
                    node.pure[index / 64] |= 1 << (index % 64);
                    is_placed = true;
                }
            }
            if !is_placed {
                return;
            }
        }
    }

    /// Answered operations that may be next, the next write last.
    fn answered(&self, node: &Node, overdue: u32) -> Vec<Choice> {
        let may = |place: &u32| !self.is_placed(node, *place) && self.may_be_next(node, *place, overdue);
        let pure = self.pure.iter().copied().filter(may).map(Choice::Pure);
        let next = self.logged.get(node.logged as usize).map(|(_, place)| *place).filter(may);
        pure.chain(next.map(Choice::Logged)).collect()
    }

    /// Places an answered operation. `None` if the answer is another one.
    fn place(&self, mut node: Node, place: u32) -> Option<Node> {
        let index = self.index[place as usize];
        if let Kind::Logged(revision) = self.precedence.kinds[place as usize] {
            // What it sees is older than itself.
            let is_newer = |(name, entry): (&Bytes, &Entry)| {
                self.concerns(place, name) && matches!(entry.version, Version::Exact(version) if version > revision)
            };
            if node.state.iter().any(is_newer) {
                return None;
            }
            node.state.bound(revision);
            self.carry_out(&mut node.state, place, Version::Exact(revision))?;
            node.logged += 1;
        } else {
            self.carry_out(&mut node.state, place, Version::NONE)?;
            node.pure[index as usize / 64] |= 1 << (index % 64);
        }
        self.settle(&mut node);
        Some(node)
    }

    /// Writes without an answer, and expiries, that have to do with what is blocked, the most promising last; and the
    /// keys of what does nothing here.
    fn leaps(&self, node: &Node, before: Option<&Keyspace>) -> (Vec<Choice>, u64) {
        let overdue = self.overdue(node).expect("something is to be placed");
        let mut concerned = self.keys[overdue as usize];
        for choice in self.answered(node, overdue) {
            if let Choice::Logged(place) | Choice::Pure(place) = choice {
                concerned |= self.keys[place as usize];
            }
        }
        let (mut leaps, mut idle) = (Vec::new(), 0);
        for (list, at, keys) in self.list_unknown(node, overdue, concerned) {
            let place = self.unknown[list][at as usize];
            match self.leap(node, place, before) {
                Some(mut after) => {
                    after.passed[list] = at + 1;
                    leaps.push((after, keys, true));
                }
                None => idle |= keys,
            }
        }
        let bound_ns = self.operations[overdue as usize].return_ns;
        let latest_ns = (self.options.wall_start_ns + self.options.slack_ns).saturating_add(bound_ns);
        for key in node.state.may_expire_by(latest_ns) {
            let bit = self.names.iter().position(|name| name[..] == key[..]).expect("somebody has written it");
            let mut after = node.clone();
            after.state.remove(key);
            leaps.push((after, 1 << bit, false));
        }
        let mut rated: Vec<(bool, Choice)> = Vec::new();
        for (mut after, keys, is_unknown) in leaps {
            self.settle(&mut after);
            let is_promising = after.pure != node.pure || self.next_fits(&after);
            rated.push((is_promising, Choice::Leap { node: Box::new(after), keys, is_unknown }));
        }
        // What comes first in its list is tried first.
        rated.reverse();
        rated.sort_by_key(|(is_promising, _)| *is_promising);
        (rated.into_iter().map(|(_, choice)| choice).collect(), idle)
    }

    fn next_fits(&self, node: &Node) -> bool {
        let Some(overdue) = self.overdue(node) else { return true };
        let next = self.logged.get(node.logged as usize).map(|(_, place)| *place);
        next.filter(|&place| self.may_be_next(node, place, overdue)).is_some_and(|place| {
            let Kind::Logged(revision) = self.precedence.kinds[place as usize] else { return false };
            self.carry_out(&mut node.state.clone(), place, Version::Exact(revision)).is_some()
        })
    }

    fn concerns(&self, place: u32, name: &[u8]) -> bool {
        let bit = self.names.iter().position(|own| own == name);
        bit.is_some_and(|bit| self.keys[place as usize] >> bit & 1 == 1)
    }

    /// What a write without an answer makes of the keys. `None` if that is nothing, or all that the one before it has
    /// made is gone unseen: then it is as if that one had never come.
    fn leap(&self, node: &Node, place: u32, before: Option<&Keyspace>) -> Option<Node> {
        let operated = &self.operations[place as usize];
        let versions =
            node.state.iter().filter(|(name, _)| self.concerns(place, name)).map(|(_, entry)| entry.version.least());
        let above = versions.fold(self.floors[place as usize], u64::max);
        let version = Version::Open { writer: place, above, below: u64::MAX };
        let moment = Moment { time: operated.time(&self.options), version };
        let mut after = node.clone();
        after.state.carry_out(&moment, &operated.request(), false);
        if after.state == node.state {
            return None;
        }
        if let Some(before) = before {
            let mut without = before.clone();
            without.carry_out(&moment, &operated.request(), false);
            if without == after.state {
                return None;
            }
        }
        Some(after)
    }

    /// Writes without an answer that may be next and have to do with these keys, through others of their kind if need
    /// be: list, place in it, and keys.
    fn list_unknown(&self, node: &Node, overdue: u32, mut concerned: u64) -> Vec<(usize, u32, u64)> {
        let available: Vec<Vec<u32>> = (self.unknown.iter().zip(&node.passed))
            .map(|(places, &passed)| {
                let left = places[passed as usize..].iter().copied();
                left.take_while(|&place| self.may_be_next(node, place, overdue)).collect()
            })
            .collect();
        let mut ends = vec![0; available.len()];
        let mut is_settled = false;
        while !is_settled {
            is_settled = true;
            for (places, end) in available.iter().zip(&mut ends) {
                while let Some(more) =
                    places[*end..].iter().position(|&place| self.keys[place as usize] & concerned != 0)
                {
                    let taken = &places[*end..=*end + more];
                    concerned |= taken.iter().fold(0, |keys, &place| keys | self.keys[place as usize]);
                    *end += more + 1;
                    is_settled = false;
                }
            }
        }
        let mut listed = Vec::new();
        for (list, (places, end)) in available.iter().zip(ends).enumerate() {
            let mut keys = 0;
            for (at, &place) in places[..end].iter().enumerate() {
                keys |= self.keys[place as usize];
                listed.push((list, node.passed[list] + at as u32, keys));
            }
        }
        listed
    }

    /// The keys of something that has seen one of them at an earlier version than it has now, and is not placed:
    /// versions only grow.
    fn too_late(&self, node: &Node) -> Option<u64> {
        let least: Vec<u64> =
            self.names.iter().map(|name| node.state.get(name).map_or(0, |entry| entry.version.least())).collect();
        let is_too_late = |place: u32| self.seen[place as usize].iter().any(|&(name, version)| least[name] > version);
        let late = self.precedence.by_return.iter().find(|&&place| !self.is_placed(node, place) && is_too_late(place));
        late.map(|&place| self.keys[place as usize])
    }

    fn note_stuck(&mut self, node: &Node, overdue: u32) {
        let pure: u32 = node.pure.iter().map(|bits| bits.count_ones()).sum();
        let placed = node.logged as usize + pure as usize;
        if self.stuck.as_ref().is_none_or(|stuck| stuck.placed < placed) {
            self.stuck = Some(Stuck { state: node.state.clone(), overdue, placed });
        }
    }
}
