//! Makes a violation small enough to read.
//!
//! Every step weakens the history: what is left would be explained if the whole were. So a violation that remains is
//! one of the whole. Answered writes are kept, since with their versions they are what makes the search quick.

use super::{
    history::{NEVER, Operation, Told},
    problem::Problem,
    search::{Found, Search, Stuck, has_effect},
};

/// Searches that may be made in all, and positions that each may look at. Beyond them the explanation just stays
/// longer.
const SEARCHES_MAX: usize = 600;
const STEPS_MAX: u64 = 100_000;

/// A violation, made small.
pub(super) struct Minimal {
    /// The history up to the moment at which the violation shows.
    pub(super) operations: Vec<Operation>,
    /// How far any order of these operations comes.
    pub(super) stuck: Stuck,
    /// The answers that contradict each other, by time.
    pub(super) culprits: Vec<Operation>,
}

/// What was seen, as far as the violation needs it, and who wrote what was seen.
fn culprits(all: &[Operation], weakened: &[Operation], stuck: &Stuck) -> Vec<Operation> {
    let is_answered = |operation: &&Operation| !operation.is_unknown() && !has_effect(operation);
    let mut culprits: Vec<Operation> = weakened.iter().filter(is_answered).copied().collect();
    let overdue = all[stuck.overdue as usize];
    if !culprits.contains(&overdue) {
        culprits.push(overdue);
    }
    let mut versions: Vec<u64> = culprits.iter().map(Operation::version_seen).collect();
    versions.push(stuck.state.version);
    let writers = all.iter().filter(|operation| operation.revision().is_some_and(|own| versions.contains(&own)));
    for writer in writers {
        if !culprits.contains(writer) {
            culprits.push(*writer);
        }
    }
    culprits.sort_by_key(|operation| operation.invoke_ns);
    culprits
}

struct Minimiser {
    slack_ns: u64,
    searches: usize,
}

struct Weakened {
    operations: Vec<Operation>,
    floors: Vec<u64>,
}

/// Takes away what the violation does not need. `operations` have no order, as `stuck` shows.
pub(super) fn minimise(operations: Vec<Operation>, floors: Vec<u64>, slack_ns: u64, stuck: Stuck) -> Minimal {
    let mut minimiser = Minimiser { slack_ns, searches: 0 };
    let (cut, stuck) = minimiser.cut_end(Weakened { operations, floors }, stuck);
    let operations = cut.operations.clone();
    let mut weakened = cut;
    let mut chunk = weakened.operations.len().div_ceil(2);
    loop {
        let is_smaller = minimiser.weaken_chunks(&mut weakened, chunk);
        if chunk == 1 && !is_smaller || minimiser.searches >= SEARCHES_MAX {
            break;
        }
        chunk = chunk.div_ceil(2);
    }
    let culprits = culprits(&operations, &weakened.operations, &stuck);
    Minimal { operations, stuck, culprits }
}

impl Minimiser {
    fn search(&mut self, history: &Weakened) -> Option<Stuck> {
        self.searches += 1;
        let problem = Problem::new(&history.operations, &history.floors, self.slack_ns);
        match Search::new(&problem).run(STEPS_MAX) {
            Found::NoOrder(stuck) => Some(stuck),
            Found::Order | Found::Undecided => None,
        }
    }

    /// Finds the earliest moment at which the violation shows.
    fn cut_end(&mut self, whole: Weakened, stuck: Stuck) -> (Weakened, Stuck) {
        let mut best = (whole, stuck);
        let mut ends: Vec<u64> = best.0.operations.iter().map(|operation| operation.return_ns).collect();
        ends.retain(|&end| end != NEVER);
        ends.sort_unstable();
        // The violation shows at `ends[high]`, and not before `ends[low]`.
        let (mut low, mut high) = (0, ends.len() - 1);
        while low < high {
            let middle = (low + high) / 2;
            let cut = best.0.cut_at(ends[middle]);
            match self.search(&cut) {
                Some(stuck) => {
                    best = (cut, stuck);
                    high = middle;
                }
                None => low = middle + 1,
            }
        }
        best
    }

    /// Tries to do without what each run of `size` operations saw. Whether any of it could be done without.
    fn weaken_chunks(&mut self, history: &mut Weakened, size: usize) -> bool {
        let mut is_smaller = false;
        let mut from = 0;
        while from < history.operations.len() && self.searches < SEARCHES_MAX {
            let range = from..(from + size).min(history.operations.len());
            let mut next = range.end;
            if history.operations[range.clone()]
                .iter()
                .any(|operation| !operation.is_unknown() && !has_effect(operation))
            {
                let weaker = history.without(range);
                if self.search(&weaker).is_some() {
                    next -= history.operations.len() - weaker.operations.len();
                    *history = weaker;
                    is_smaller = true;
                }
            }
            from = next;
        }
        is_smaller
    }
}

impl Weakened {
    /// What was known at a moment.
    fn cut_at(&self, end_ns: u64) -> Weakened {
        let known = self.operations.iter().zip(&self.floors).filter(|(operation, _)| operation.invoke_ns <= end_ns);
        let cut = |operation: &Operation| if operation.return_ns > end_ns { forget(operation) } else { *operation };
        let (operations, floors) = known.map(|(operation, floor)| (cut(operation), *floor)).unzip();
        Weakened { operations, floors }
    }

    /// The same without what some operations saw.
    fn without(&self, range: std::ops::Range<usize>) -> Weakened {
        let mut weaker = Weakened { operations: Vec::new(), floors: Vec::new() };
        for (place, (operation, floor)) in self.operations.iter().zip(&self.floors).enumerate() {
            if range.contains(&place) && !operation.is_unknown() && !has_effect(operation) {
                continue;
            }
            weaker.operations.push(*operation);
            weaker.floors.push(*floor);
        }
        weaker
    }
}

fn forget(operation: &Operation) -> Operation {
    Operation { return_ns: NEVER, told: Told::Unknown, ..*operation }
}
