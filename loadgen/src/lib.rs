//! loadgen
pub mod drive;
pub mod plan;
pub mod record;
