//! Which clusters are measured, and in which order.

use rand_xoshiro::rand_core::Rng;

use crate::cluster::{Ack, Durability, Fanout};
use crate::plan::{Stream, below, stream_rng};

/// One combination of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Cell {
    /// What an acknowledgement means.
    pub durability: Durability,
    /// Whether this is the control, where only `replicating` of the servers do anything.
    pub control: bool,
    /// How prepares are handed out.
    pub fanout: Fanout,
    /// When a write is answered.
    pub ack: Ack,
    /// Server processes alive.
    pub servers: usize,
    /// How many of them make up the cluster under load.
    pub replicating: usize,
}

impl Cell {
    /// A name for folders and progress lines.
    pub fn name(&self) -> String {
        let Self { durability, control, fanout, ack, servers, replicating } = self;
        if *control {
            format!("n{servers}-control-k{replicating}-{durability}")
        } else if *servers == 1 {
            format!("n1-{durability}")
        } else {
            format!("n{servers}-{fanout}-{ack}-{durability}")
        }
    }
}

/// What a matrix is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatrixPlan {
    /// Numbers of servers, ascending.
    pub servers: Vec<usize>,
    /// Fan-outs.
    pub fanouts: Vec<Fanout>,
    /// Ack policies.
    pub acks: Vec<Ack>,
    /// Durabilities.
    pub durabilities: Vec<Durability>,
    /// How many servers do the work of the control, if there is one.
    pub control: Option<usize>,
    /// Measurements per cell.
    pub repeats: usize,
}

impl MatrixPlan {
    /// Every cell once. A single server has nobody to fan out to and nobody to wait for: it is measured once for all
    /// fan-outs and ack policies.
    pub fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        let (Some(&first_fanout), Some(&first_ack)) = (self.fanouts.first(), self.acks.first()) else { return cells };
        for &durability in &self.durabilities {
            for &servers in &self.servers {
                let cell = Cell {
                    durability,
                    control: false,
                    fanout: first_fanout,
                    ack: first_ack,
                    servers,
                    replicating: servers,
                };
                if servers == 1 {
                    cells.push(cell);
                } else {
                    for &fanout in &self.fanouts {
                        cells.extend(self.acks.iter().map(|&ack| Cell { fanout, ack, ..cell }));
                    }
                }
                // With no idle server the control would be the cluster itself.
                if let Some(replicating) = self.control.filter(|replicating| *replicating < servers) {
                    cells.push(Cell { control: true, replicating, ..cell });
                }
            }
        }
        cells
    }

    /// All measurements, cell and repeat, in an order that `seed` decides: whatever drifts on the machine over the time
    /// of the matrix then does not fall on one end of a line.
    pub fn order(&self, seed: u64) -> Vec<(Cell, usize)> {
        let mut runs: Vec<_> =
            (0..self.repeats).flat_map(|repeat| self.cells().into_iter().map(move |cell| (cell, repeat))).collect();
        let mut rng = stream_rng(seed, Stream::MatrixOrder, 0);
        for last in (1..runs.len()).rev() {
            runs.swap(last, below(rng.next_u64(), last as u64 + 1) as usize);
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> MatrixPlan {
        MatrixPlan {
            servers: vec![1, 2, 3],
            fanouts: vec![Fanout::Parallel, Fanout::Sequential],
            acks: vec![Ack::Majority, Ack::All],
            durabilities: vec![Durability::Disk],
            control: Some(1),
            repeats: 3,
        }
    }

    #[test]
    fn one_server_is_measured_once_and_controls_have_idle_servers() {
        let names: Vec<_> = plan().cells().iter().map(Cell::name).collect();
        assert_eq!(names.len(), 1 + 4 + 1 + 4 + 1, "{names:?}");
        assert!(names.contains(&"n1-disk".to_owned()) && names.contains(&"n3-control-k1-disk".to_owned()));
        assert!(names.contains(&"n2-sequential-all-disk".to_owned()));
    }

    #[test]
    fn names_are_unique() {
        let mut both = plan();
        both.durabilities.push(Durability::Memory);
        let mut names: Vec<_> = both.cells().iter().map(Cell::name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn the_order_is_shuffled_complete_and_repeatable() {
        let plan = plan();
        let order = plan.order(5);
        assert_eq!(order, plan.order(5));
        assert_ne!(order, plan.order(6));
        let mut sorted = order.clone();
        sorted.sort();
        assert_ne!(order, sorted);
        sorted.dedup();
        assert_eq!(sorted.len(), plan.cells().len() * 3, "every cell, every repeat, once");
    }
}
