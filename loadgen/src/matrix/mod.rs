//! The headline measurement: latency against the number of servers, by fan-out and ack policy, with a control.

mod cells;
mod outcome;

pub use cells::{Cell, MatrixPlan};
pub use outcome::{CellRun, Matrix};
