//! loadgen
pub mod cluster;
pub mod drive;
pub mod plan;
pub mod record;
