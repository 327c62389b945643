//! Makes a run that fails shorter, as long as the same check fails.

use crate::{
    facts::Check,
    plan::Plan,
    run::{Run, run_plan},
};

/// Runs that a shrinking may take.
const RUNS_MAX: u32 = 300;

/// Lines of a transcript that are printed, from its end.
const LINES_MAX: usize = 120;

/// The shortest run that was found.
pub struct Shortest {
    /// Its plan.
    pub plan: Plan,
    /// What happened.
    pub run: Run,
}

struct Shrinker {
    check: Check,
    plan: Plan,
    /// Steps of the best plan.
    steps: u64,
    runs: u32,
}

/// Leaves out of a plan what the failure does not need.
pub fn shrink(plan: Plan, check: Check) -> Shortest {
    let mut shrinker = Shrinker { check, steps: u64::MAX, plan: plan.clone(), runs: 0 };
    shrinker.try_plan(plan);
    while shrinker.round() {}
    let run = run_plan(shrinker.plan.clone(), true);
    Shortest { plan: shrinker.plan, run }
}

impl Shrinker {
    /// Takes a plan over if it fails in the same way and no later.
    fn try_plan(&mut self, plan: Plan) -> bool {
        if self.runs >= RUNS_MAX {
            return false;
        }
        self.runs += 1;
        let outcome = run_plan(plan.clone(), false).outcome;
        let is_same = outcome.failure.is_some_and(|failure| failure.check == self.check);
        let is_better = is_same && outcome.steps <= self.steps;
        if is_better {
            self.steps = outcome.steps;
            self.plan = plan;
        }
        is_better
    }

    fn change(&mut self, change: impl FnOnce(&mut Plan)) -> bool {
        let mut plan = self.plan.clone();
        change(&mut plan);
        self.try_plan(plan)
    }

    /// Tries everything once. Returns whether anything helped.
    fn round(&mut self) -> bool {
        let before = self.steps;
        let mut has_dropped = false;
        // Whole kinds of faults first, then single ones, the last first.
        let mut at = self.plan.faults.len();
        while at > 0 {
            at -= 1;
            if at < self.plan.faults.len() {
                has_dropped |= self.change(|plan| {
                    plan.faults.remove(at);
                });
            }
        }
        self.change(|plan| (plan.network.loss, plan.network.repeat) = (0, 0));
        self.change(|plan| plan.clock_rates = [1000; 7]);
        self.change(|plan| plan.clock_offsets_ns = [0; 7]);
        self.change(|plan| plan.workload.clients = 1);
        self.change(|plan| plan.workload.redis.clients = plan.workload.redis.clients.min(1));
        self.change(|plan| plan.workload.redis.clients = 0);
        self.change(|plan| plan.workload.redis.groups.truncate(1));
        self.change(|plan| plan.workload.window = 1);
        self.change(|plan| plan.workload.requests = (plan.workload.requests / 2).max(1));
        self.change(|plan| plan.workload.keys = 1);
        let last_ns = self.plan.faults.last().map_or(0, |event| event.at_ns);
        self.change(|plan| plan.heal_at_ns = (plan.heal_at_ns / 2).max(last_ns + 1));
        self.change(|plan| plan.network.is_fifo = true);
        has_dropped || self.steps < before
    }
}

impl Shortest {
    /// For a person: what goes wrong in the plan, the end of the transcript, and the failure.
    pub fn report(&self, seed: u64) -> String {
        let plan = &self.plan;
        let faults: Vec<String> = plan
            .faults
            .iter()
            .map(|event| format!("{} at {} ms", event.fault.name(), event.at_ns / crate::plan::MS))
            .collect();
        let lines = &self.run.lines;
        let skipped = lines.len().saturating_sub(LINES_MAX);
        let failure = self.run.outcome.failure.as_ref();
        format!(
            "the shortest run of seed {seed} that was found: {} servers, {:?}, {:?}, {} clients, faults: [{}], {} steps\n\
             ... {skipped} lines before\n{}\n{}",
            plan.servers,
            plan.ack,
            plan.fanout,
            plan.workload.clients,
            faults.join(", "),
            self.run.outcome.steps,
            lines[skipped..].join("\n"),
            failure.map_or("it does not fail any more".to_string(), |failure| {
                format!("{:?}: {}", failure.check, failure.text)
            })
        )
    }
}
