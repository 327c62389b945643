//! Commands of the Redis front door: the same whatever pieces they arrive in, and never a panic.

#![no_main]

#[path = "../entry/resp.rs"]
mod entry;

use libfuzzer_sys::fuzz_target;
use lockstep_server::resp::parse::{Parsed, Parser};

fuzz_target!(|data: &[u8]| entry::check(data));
