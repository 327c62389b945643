//! server

pub mod buffers;
