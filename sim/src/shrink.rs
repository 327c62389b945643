//! Makes a run that fails shorter, as long as the same check fails.

use crate::{
    facts::Check,
    plan::{Fault, Plan},
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

/// Carries out a plan. Returns after how many steps it fails in the way that is meant, if it does.
type Attempt<'a> = &'a mut dyn FnMut(&Plan) -> Option<u64>;

struct Shrinker<'a> {
    attempt: Attempt<'a>,
    plan: Plan,
    /// Steps of the best plan.
    steps: u64,
    runs: u32,
}

/// Leaves out of a plan what the failure does not need.
pub fn shrink(plan: Plan, check: Check) -> Shortest {
    let plan = shortest(plan, &mut |plan| {
        let outcome = run_plan(plan.clone(), false).outcome;
        outcome.failure.filter(|failure| failure.check == check).map(|_| outcome.steps)
    });
    let run = run_plan(plan.clone(), true);
    Shortest { plan, run }
}

fn shortest(plan: Plan, attempt: Attempt<'_>) -> Plan {
    let mut shrinker = Shrinker { attempt, steps: u64::MAX, plan: plan.clone(), runs: 0 };
    shrinker.try_plan(plan);
    while shrinker.round() {}
    shrinker.plan
}

impl Shrinker<'_> {
    /// Takes a plan over if it fails in the same way and no later.
    fn try_plan(&mut self, plan: Plan) -> bool {
        if self.runs >= RUNS_MAX {
            return false;
        }
        self.runs += 1;
        let Some(steps) = (self.attempt)(&plan).filter(|steps| *steps <= self.steps) else { return false };
        self.steps = steps;
        self.plan = plan;
        true
    }

    fn change(&mut self, change: impl FnOnce(&mut Plan)) -> bool {
        let mut plan = self.plan.clone();
        change(&mut plan);
        self.try_plan(plan)
    }

    /// Tries everything once. Returns whether anything helped.
    fn round(&mut self) -> bool {
        let before = self.steps;
        let has_dropped = self.drop_faults();
        self.change(|plan| (plan.network.loss, plan.network.repeat) = (0, 0));
        // What arrives in order is lost only with its connection, and does not come twice.
        self.change(|plan| (plan.network.is_fifo, plan.network.loss, plan.network.repeat) = (true, 0, 0));
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
        has_dropped || self.steps < before
    }

    /// Whole kinds of faults first, then single ones, the last first. Returns whether any could be done without.
    fn drop_faults(&mut self) -> bool {
        let mut has_dropped = false;
        for &fault in Fault::ALL {
            if self.plan.has(fault) {
                has_dropped |= self.change(|plan| plan.faults.retain(|event| event.fault != fault));
            }
        }
        let mut at = self.plan.faults.len();
        while at > 0 {
            at -= 1;
            if at < self.plan.faults.len() {
                has_dropped |= self.change(|plan| {
                    plan.faults.remove(at);
                });
            }
        }
        has_dropped
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
            "the shortest run of seed {seed} that was found: {} servers, {:?}, {:?}, {} clients and {} of the front \
             door, faults: [{}], {} steps\n\
             ... {skipped} lines before\n{}\n{}",
            plan.servers,
            plan.ack,
            plan.fanout,
            plan.workload.clients,
            plan.workload.redis.clients,
            faults.join(", "),
            self.run.outcome.steps,
            lines[skipped..].join("\n"),
            failure.map_or("it does not fail any more".to_string(), |failure| {
                format!("{:?}: {}", failure.check, failure.text)
            })
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        plan::{FaultEvent, MS},
        world::World,
    };

    /// A plan with several faults of two kinds, on a network without order.
    fn plan() -> Plan {
        let mut plan = Plan::calm(3);
        (plan.network.is_fifo, plan.network.loss, plan.network.repeat) = (false, 50, 10);
        let kinds = [Fault::Crash, Fault::Pause, Fault::Crash, Fault::Pause, Fault::Crash];
        plan.faults = (1..)
            .zip(kinds)
            .map(|(at, fault)| FaultEvent { at_ns: at * MS, fault, choice: at, duration_ns: MS })
            .collect();
        plan.heal_at_ns = 100 * MS;
        plan
    }

    fn kinds(plan: &Plan) -> Vec<Fault> {
        plan.faults.iter().map(|event| event.fault).collect()
    }

    /// Shrinks what fails if `fails` says so, sooner with fewer faults. Returns the plans that were tried, and the last
    /// one.
    fn shrink_by(fails: impl Fn(&Plan) -> bool) -> (Vec<Plan>, Plan) {
        let mut tried = Vec::new();
        let last = shortest(plan(), &mut |plan| {
            tried.push(plan.clone());
            fails(plan).then_some(1000 + plan.faults.len() as u64)
        });
        (tried, last)
    }

    #[test]
    fn whole_kinds_of_faults_are_left_out_first_and_then_single_ones() {
        let (tried, last) = shrink_by(|plan| plan.faults.iter().any(|event| event.choice == 3));
        // Without crashes it does not fail, and without pauses it does.
        assert_eq!(kinds(&tried[1]), [Fault::Pause; 2]);
        assert_eq!(kinds(&tried[2]), [Fault::Crash; 3]);
        assert_eq!(kinds(&last), [Fault::Crash]);
        assert_eq!(last.faults[0].choice, 3);
    }

    #[test]
    fn no_network_is_tried_that_is_in_order_and_loses_or_repeats() {
        for needs_loss in [true, false] {
            let (tried, last) = shrink_by(|plan| plan.network.loss > 0 || !needs_loss);
            let is_possible = |plan: &Plan| !plan.network.is_fifo || (plan.network.loss, plan.network.repeat) == (0, 0);
            assert!(tried.iter().all(is_possible));
            assert!(tried.iter().any(|plan| plan.network.is_fifo), "it is tried");
            assert_eq!(last.network.is_fifo, !needs_loss);
        }
    }

    #[test]
    fn a_report_tells_of_all_clients() {
        let mut plan = plan();
        (plan.workload.clients, plan.workload.redis.clients) = (4, 3);
        let outcome = World::new(Plan::calm(1), false).outcome();
        let report = Shortest { plan, run: Run { outcome, lines: Vec::new() } }.report(7);
        assert!(report.contains("4 clients and 3 of the front door"), "{report}");
        assert!(report.contains("Pause at 2 ms"), "{report}");
    }
}
