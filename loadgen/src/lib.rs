//! loadgen
pub mod calibrate;
pub mod cli;
pub mod cluster;
pub mod drive;
pub mod matrix;
pub mod plan;
pub mod record;
pub mod report;
