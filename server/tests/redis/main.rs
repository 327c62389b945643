//! Redis as the yardstick: what a real `redis-server` answers is what ours has to answer, and stock clients must not
//! see a difference.
//!
//! Needs what `scripts/redis-tools.sh` installs. A test that misses a tool says so on the terminal and passes.
//!
//! | file | holds |
//! |---|---|
//! | `tools` | finds the installed programs |
//! | `wire` | a reader of RESP of its own |
//! | `peer` | servers to talk to: Redis as a child process |
//! | `arguments`, `grammar` | what random sequences are made of |
//! | `sequence` | runs one on a server |
//! | `agreement` | what has to be equal, and what need not be, with reasons |
//! | `streams` | bytes that are no commands, publishing and listening, clients that do not want to be answered |
//! | `clients`, `clients.py` | redis-py, redis-rs, redis-cli and redis-benchmark through a kill of the primary |
//! | `load` | the load generator speaks RESP |
//! | `found` | differences that were found once |
//! | `ours` | our servers beside Redis |
//! | `differential` | runs sequences on two servers, and shrinks one that shows a difference |

#[path = "../harness/mod.rs"]
mod harness;

mod agreement;
mod arguments;
mod clients;
mod differential;
mod found;
mod grammar;
mod load;
mod ours;
mod peer;
mod sequence;
mod streams;
mod tools;
mod wire;
