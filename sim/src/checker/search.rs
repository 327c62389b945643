//! The search for an order of effects that explains every answer about one key.
//!
//! Just-in-time linearization after G. Lowe, "Testing for linearizability" (2017), with a memory of the configurations
//! that were tried, as in J. Wing and C. Gong's algorithm. Three things make it fast here:
//!
//! - Versions are positions in the log, so the order of all writes that were answered is given. Only writes with
//!   unknown outcome have to be placed, and only where somebody saw something that no answered write explains.
//! - An operation that changes nothing is placed as soon as it fits: if it can be placed later, it can be placed now.
//! - Writes with unknown outcome that ask for the same are counted, not told apart.

use std::collections::HashMap;

use super::{
    history::{Asked, NEVER, Operation, Told, Value},
    model::State,
    pending::{Entry, Pending},
    problem::{Event, Problem, TextUse},
};

/// How a search ended.
#[derive(Debug)]
pub(super) enum Found {
    /// There is such an order.
    Order,
    /// There is none.
    NoOrder(Stuck),
    /// The bound on steps was reached.
    Undecided,
}

/// The furthest point that any order came to.
#[derive(Clone, Debug)]
pub(super) struct Stuck {
    pub(super) state: State,
    /// Of the operations that would have had to be next, the one that was answered first.
    pub(super) overdue: u32,
    placed: usize,
}

/// A position: everything that decides what can follow, besides what was placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Node {
    state: State,
    /// The next of the problem's events.
    next_event: u32,
}

/// A way to go on from a position.
#[derive(Clone, Copy, Debug)]
enum Choice {
    /// The next answered write.
    Write(u32),
    /// An answered expire.
    Expire(u32),
    /// The version that an unknown write made is that of the next event.
    Bind,
    /// A write with unknown outcome, of this class.
    Unknown(u32),
    /// The key expires.
    Lapse,
}

struct Frame {
    node: Node,
    /// Number of operations that were placed before this position was gone to.
    placed_before: usize,
    used: Option<u32>,
    choices_from: usize,
}

struct Arrival {
    node: Node,
    placed_before: usize,
    used: Option<u32>,
}

/// The positions that were tried, with the writes of unknown outcome that had been used up on the way.
#[derive(Default)]
struct Tried(HashMap<(u128, Node), Vec<UsedUp>>);

/// Classes, in their order, and how many of each.
type UsedUp = Box<[(u32, u32)]>;

impl Tried {
    /// Notes a position. False if it was tried before with no more used up than now: then nothing can come of it.
    fn is_new(&mut self, placed_hash: u128, node: Node, used: &[(u32, u32)]) -> bool {
        let before = self.0.entry((placed_hash, node)).or_default();
        if before.iter().any(|before| is_within(before, used)) {
            return false;
        }
        before.retain(|before| !is_within(used, before));
        before.push(used.into());
        true
    }
}

/// Whether no count of `less` is higher than that of `more`. Both are by class.
fn is_within(less: &[(u32, u32)], more: &[(u32, u32)]) -> bool {
    let mut more = more.iter();
    less.len() <= more.len()
        && less.iter().all(|(class, count)| more.any(|(other, most)| other == class && count <= most))
}

/// What operations that may be next, but do not fit yet, would need.
#[derive(Default)]
struct Goals {
    is_any: bool,
    is_absent: bool,
    is_present: bool,
    values: Vec<Value>,
    is_numeric: bool,
}

impl Goals {
    fn want(&mut self, value: Value) {
        self.is_numeric |= matches!(value, Value::Number(_));
        if !self.values.contains(&value) {
            self.values.push(value);
        }
    }

    fn wants_some_value(&self) -> bool {
        self.is_any || self.is_present || !self.values.is_empty()
    }

    fn wants(&self, value: Value, has_increment: bool) -> bool {
        self.is_any
            || self.is_present
            || self.values.contains(&value)
            || (self.is_numeric && has_increment && matches!(value, Value::Number(_)))
    }

    /// Whether an unknown write can help, be it through others.
    fn is_helped_by(&self, asked: &Asked, means: &Means) -> bool {
        self.is_any
            || means.has_chain
            || match *asked {
                Asked::Put { value, ttl_ms } | Asked::CompareAndSet { value, ttl_ms, .. } => {
                    ttl_ms.is_some() || self.wants(value, means.has_increment)
                }
                Asked::Increment { .. } => self.is_present || self.is_numeric,
                Asked::Delete => self.is_absent || means.has_create || means.has_increment,
                Asked::Expire { .. } => true,
                Asked::Get | Asked::Exists | Asked::TimeToLive => false,
            }
    }
}

/// Unknown writes that need others to help.
struct Means {
    has_increment: bool,
    /// One that makes the key from nothing, with a value that is wanted.
    has_create: bool,
    /// One that replaces a version that only another unknown write can have made.
    has_chain: bool,
}

pub(super) struct Search<'a> {
    problem: &'a Problem<'a>,
    pending: Pending,
    placed: Vec<u32>,
    placed_hash: u128,
    used: Vec<u32>,
    /// The classes of which some are used, and how many, by class.
    used_list: Vec<(u32, u32)>,
    tried: Tried,
    /// Positions that were looked at.
    pub(super) steps: u64,
    stuck: Option<Stuck>,
}

impl<'a> Search<'a> {
    pub(super) fn new(problem: &'a Problem<'a>) -> Search<'a> {
        // A read without an answer has seen nothing, and something refused has done nothing.
        let pending = Pending::new(problem.operations, |operation| {
            !matches!(operation.told, Told::Unknown | Told::Refused) && operation.return_ns != NEVER
        });
        Search {
            problem,
            pending,
            placed: Vec::new(),
            placed_hash: 0,
            used: vec![0; problem.classes.len()],
            used_list: Vec::new(),
            tried: Tried::default(),
            steps: 0,
            stuck: None,
        }
    }

    /// Looks at no more than `steps_max` positions.
    pub(super) fn run(&mut self, steps_max: u64) -> Found {
        let mut frames: Vec<Frame> = Vec::new();
        let mut choices: Vec<Choice> = Vec::new();
        let start = Node { state: State::INITIAL, next_event: 0 };
        let mut arrival = Some(Arrival { node: start, placed_before: 0, used: None });
        loop {
            if let Some(Arrival { node, placed_before, used }) = arrival.take() {
                if self.steps == steps_max {
                    return Found::Undecided;
                }
                self.steps += 1;
                let is_alive = self.settle(&node.state);
                if self.pending.is_empty() {
                    return Found::Order;
                }
                let choices_from = choices.len();
                self.note_stuck(&node.state);
                if is_alive && self.tried.is_new(self.placed_hash, node, &self.used_list) {
                    self.list_choices(&node, &mut choices);
                }
                frames.push(Frame { node, placed_before, used, choices_from });
                continue;
            }
            let Some(frame) = frames.last() else {
                return Found::NoOrder(self.stuck.take().expect("something was tried"));
            };
            if choices.len() > frame.choices_from {
                let choice = choices.pop().expect("there is one");
                let node = frame.node;
                arrival = Some(self.take(node, choice));
            } else {
                let Frame { placed_before, used, .. } = frames.pop().expect("there is one");
                self.take_back(placed_before, used);
            }
        }
    }

    /// Places everything that changes nothing and fits. False: something that is still to be placed never will fit.
    fn settle(&mut self, state: &State) -> bool {
        let clock = self.problem.clock();
        let mut entry = self.pending.first();
        while let Some(Entry::Call(place)) = entry {
            let operation = &self.problem.operations[place as usize];
            let seen = operation.version_seen();
            if (seen != 0 && state.is_beyond(seen)) || operation.revision().is_some_and(|own| own <= state.version) {
                return false;
            }
            if !has_effect(operation) && clock.fits(operation, state) {
                self.place(place);
            }
            entry = self.pending.after_call(place);
        }
        true
    }

    fn place(&mut self, place: u32) {
        self.pending.take_out(place);
        self.placed.push(place);
        self.placed_hash ^= scatter(u64::from(place));
    }

    fn take_back(&mut self, placed_before: usize, used: Option<u32>) {
        while self.placed.len() > placed_before {
            let place = self.placed.pop().expect("the stack is longer");
            self.pending.put_back(place);
            self.placed_hash ^= scatter(u64::from(place));
        }
        if let Some(class) = used {
            self.count_used(class, -1);
        }
    }

    fn count_used(&mut self, class: u32, change: i32) {
        let count = &mut self.used[class as usize];
        *count = count.wrapping_add_signed(change);
        match self.used_list.binary_search_by_key(&class, |used| used.0) {
            Ok(place) if *count == 0 => drop(self.used_list.remove(place)),
            Ok(place) => self.used_list[place].1 = *count,
            Err(place) => self.used_list.insert(place, (class, *count)),
        }
    }

    fn take(&mut self, node: Node, choice: Choice) -> Arrival {
        let clock = self.problem.clock();
        let placed_before = self.placed.len();
        let Node { state, next_event } = node;
        let (node, used) = match choice {
            Choice::Write(place) => {
                self.place(place);
                let state = clock.write(place, &state).expect("it was found to fit");
                (Node { state, next_event: next_event + 1 }, None)
            }
            Choice::Expire(place) => {
                self.place(place);
                let state = clock.effect(place, &state).expect("it was found to fit");
                (Node { state, next_event }, None)
            }
            Choice::Bind => {
                let version = self.problem.events[next_event as usize].version;
                (Node { state: State { version, is_exact: true, ..state }, next_event: next_event + 1 }, None)
            }
            Choice::Unknown(class) => {
                let state = self.after_unknown(&node, class).expect("it was found to fit");
                self.count_used(class, 1);
                (Node { state, next_event }, Some(class))
            }
            Choice::Lapse => (Node { state: State { value: None, ttl_source: 0, ..state }, next_event }, None),
        };
        Arrival { node, placed_before, used }
    }

    /// What the next write of a class would make of a position; `None` if it has no effect or no version is left for
    /// it.
    fn after_unknown(&self, node: &Node, class: u32) -> Option<State> {
        let used = self.used[class as usize];
        let class = &self.problem.classes[class as usize];
        let member = class.members[used as usize];
        let state = &node.state;
        let next = self.problem.events.get(node.next_event as usize);
        let after = self.problem.clock().effect(member.place, state)?;
        if matches!(class.asked, Asked::Expire { .. }) {
            return (after != *state).then_some(after);
        }
        let mut before = state.version;
        if let Asked::CompareAndSet { expected, .. } = class.asked
            && expected != 0
            && !state.is_exact
        {
            // It is this write that says which version the one before it got, and nobody else saw that version.
            if self.problem.is_event(expected) || next.is_some_and(|next| next.version <= expected) {
                return None;
            }
            before = expected;
        }
        let version = before.max(member.floor) + 1;
        let has_room = next.is_none_or(|next| match next.writer {
            None if after.value.is_some() => version <= next.version,
            _ => version < next.version,
        });
        has_room.then_some(State { version, is_exact: false, ..after })
    }

    fn list_choices(&self, node: &Node, choices: &mut Vec<Choice>) {
        let clock = self.problem.clock();
        let state = &node.state;
        let next = self.problem.events.get(node.next_event as usize).copied();
        let mut goals = Goals::default();
        let mut last = Vec::new();
        let mut entry = self.pending.first();
        while let Some(Entry::Call(place)) = entry {
            let operation = &self.problem.operations[place as usize];
            let is_next_write = next.is_some_and(|next| next.writer == Some(place));
            if is_next_write && clock.write(place, state).is_some() {
                last.push(Choice::Write(place));
            } else if is_expire(operation) && state.may_be_at(operation.version_seen()) && state.is_exact {
                last.push(Choice::Expire(place));
            }
            let hole = next.filter(|next| next.writer.is_none() && next.version == operation.version_seen());
            note_goal(&mut goals, operation, is_next_write, hole);
            if let Some(hole) = hole
                && !last.iter().any(|choice| matches!(choice, Choice::Bind))
                && !state.is_exact
                && state.may_be_at(hole.version)
                && (hole.value.is_none() || hole.value == state.value)
            {
                last.push(Choice::Bind);
            }
            entry = self.pending.after_call(place);
        }
        let Some(Entry::Return(overdue)) = entry else { unreachable!("a call is followed by its return") };
        let now_ns = self.problem.operations[overdue as usize].return_ns;
        self.list_unknown(node, &goals, now_ns, choices);
        // The last is tried first: answered writes before anything that is only possible.
        choices.extend(last.into_iter().rev());
    }

    /// Writes with unknown outcome that can help to a goal, and that may have been at work before `now_ns`.
    fn list_unknown(&self, node: &Node, goals: &Goals, now_ns: u64, choices: &mut Vec<Choice>) {
        let state = &node.state;
        if state.ttl_source != 0 && state.value.is_some() {
            let (earliest_ns, _) = self.problem.clock().expiry_bounds(state.ttl_source);
            if earliest_ns <= now_ns {
                choices.push(Choice::Lapse);
            }
        }
        // Without a goal, a time-to-live may still be what a later answer depends on.
        if !goals.is_absent && !goals.wants_some_value() && self.problem.ttl_sources.is_empty() {
            return;
        }
        let means = self.means(node, goals, now_ns);
        let helpful = (0..self.problem.classes.len()).filter(|&class| {
            goals.is_helped_by(&self.problem.classes[class].asked, &means) && self.is_available(class, now_ns)
        });
        self.rank_unknown(node, goals, helpful, choices);
    }

    /// Whether a write of a class is left that was asked for before `now_ns`.
    fn is_available(&self, class: usize, now_ns: u64) -> bool {
        let members = &self.problem.classes[class].members;
        members.get(self.used[class] as usize).is_some_and(|member| member.invoke_ns <= now_ns)
    }

    /// What there is that goes only from a state which another unknown write may make. For a version that nobody else
    /// saw, that may be any.
    fn means(&self, node: &Node, goals: &Goals, now_ns: u64) -> Means {
        let classes = &self.problem.classes;
        let has = |is_meant: &dyn Fn(&Asked) -> bool| {
            goals.wants_some_value()
                && (0..classes.len()).any(|class| is_meant(&classes[class].asked) && self.is_available(class, now_ns))
        };
        let has_increment = has(&|asked| matches!(asked, Asked::Increment { .. }));
        let wants = |value: Value| goals.wants(value, has_increment);
        let next_version = self.problem.events.get(node.next_event as usize).map_or(u64::MAX, |next| next.version);
        let between = node.state.version + 1..next_version;
        Means {
            has_increment,
            has_create: has(&|asked| matches!(*asked, Asked::CompareAndSet { expected: 0, value, .. } if wants(value))),
            has_chain: has(&|asked| match *asked {
                Asked::CompareAndSet { expected, value, .. } => between.contains(&expected) && wants(value),
                _ => false,
            }),
        }
    }

    /// Lists classes of unknown writes, those that serve a goal at once last.
    fn rank_unknown(
        &self,
        node: &Node,
        goals: &Goals,
        classes: impl Iterator<Item = usize>,
        choices: &mut Vec<Choice>,
    ) {
        let (mut spare, mut increments, mut direct) = (None::<(u64, Choice)>, Vec::new(), Vec::new());
        for class in classes {
            let asked = &self.problem.classes[class].asked;
            let Some(after) = self.after_unknown(node, class as u32) else { continue };
            let choice = Choice::Unknown(class as u32);
            match asked.value() {
                Some(value) if goals.values.contains(&value) => direct.push(choice),
                Some(Value::Text(text)) => match self.uses_left(text, node.next_event) {
                    (left, needed) if left <= needed => {}
                    // Values that nobody will see are as good as each other, but for the versions that they can have.
                    (_, 0) if matches!(asked, Asked::Put { ttl_ms: None, .. }) => {
                        if spare.is_none_or(|(lowest, _)| after.version < lowest) {
                            spare = Some((after.version, choice));
                        }
                    }
                    _ => choices.push(choice),
                },
                _ if matches!(asked, Asked::Increment { .. }) => increments.push(choice),
                _ => choices.push(choice),
            }
        }
        choices.append(&mut increments);
        choices.extend(spare.map(|(_, choice)| choice));
        choices.append(&mut direct);
    }

    /// How many writes of a value are left, and how many of them are needed after the next event.
    fn uses_left(&self, text: u32, next_event: u32) -> (usize, usize) {
        let TextUse { classes, events } = &self.problem.texts[&text];
        let left =
            |class: &u32| self.problem.classes[*class as usize].members.len() - self.used[*class as usize] as usize;
        // If the next event is one of them, it may be just this write's.
        let needed = events.len() - events.partition_point(|&event| event <= next_event);
        (classes.iter().map(left).sum(), needed)
    }

    fn note_stuck(&mut self, state: &State) {
        if self.stuck.as_ref().is_some_and(|stuck| stuck.placed >= self.placed.len()) {
            return;
        }
        let mut entry = self.pending.first();
        while let Some(Entry::Call(place)) = entry {
            entry = self.pending.after_call(place);
        }
        let Some(Entry::Return(overdue)) = entry else { unreachable!("a call is followed by its return") };
        self.stuck = Some(Stuck { state: *state, overdue, placed: self.placed.len() });
    }
}

/// `hole` is the next event if it has no answered writer and this operation saw it.
fn note_goal(goals: &mut Goals, operation: &Operation, is_next_write: bool, hole: Option<Event>) {
    if let Some(hole) = hole {
        match (hole.value, operation.told) {
            (Some(value), _) => goals.want(value),
            (None, Told::NotANumber { .. }) => goals.is_any = true,
            (None, _) => goals.is_present = true,
        }
    }
    match (operation.asked, operation.told) {
        (_, Told::NotFound | Told::Mismatch { version: 0 }) => goals.is_absent = true,
        (_, Told::Persistent | Told::Remaining { .. } | Told::Exists { version: 0 }) => goals.is_present = true,
        (_, Told::NotANumber { version: 0 }) => goals.is_any = true,
        (Asked::Delete, Told::Written { .. }) if is_next_write => goals.is_present = true,
        (Asked::CompareAndSet { expected: 0, .. }, Told::Written { .. }) if is_next_write => goals.is_absent = true,
        (Asked::Increment { delta }, Told::Summed { sum, .. }) if is_next_write => {
            if let Some(before) = sum.checked_sub(delta) {
                goals.want(Value::Number(before));
                goals.is_absent |= before == 0;
            }
        }
        _ => {}
    }
}

fn is_expire(operation: &Operation) -> bool {
    matches!((operation.asked, operation.told), (Asked::Expire { .. }, Told::Written { .. }))
}

/// Whether a completed operation has changed something.
pub(super) fn has_effect(operation: &Operation) -> bool {
    operation.revision().is_some() || is_expire(operation)
}

/// A number that stands for `value` in sums, well mixed so that different sums differ.
fn scatter(value: u64) -> u128 {
    let mix = |value: u64| {
        let value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        value ^ value >> 31
    };
    let low = mix(value.wrapping_add(0x9E37_79B9_7F4A_7C15));
    u128::from(mix(low ^ 0xD6E8_FEB8_6659_FD93)) << 64 | u128::from(low)
}
