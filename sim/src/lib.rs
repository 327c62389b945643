//! Whole Lockstep clusters in one thread, on virtual time, from one seed; and the checker that judges what clients saw.

pub mod checker;
