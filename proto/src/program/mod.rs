//! Programs: several commands that are carried out in order, as one, by the shard that owns their keys.
//!
//! A program is the body of a transact (logged) or of a query (read; no command of it writes). It is a row of commands:
//! a [`CommandHeader`], then its arguments: `size u32`, bytes. What each opcode does and which arguments it takes is said by
//! [`Opcode`]; a number is an argument of 8 bytes. The body of the reply has one result per command ([`Value`]).
//!
//! | tag | result | after the tag |
//! |---|---|---|
//! | 0 | nil | nothing |
//! | 1 | done | nothing |
//! | 2 | a number | `i64` |
//! | 3 | bytes | `size u32`, bytes |
//! | 4 | a word | a `Word` |
//! | 5 | results in a row | `count u32`, `size u32` of the rest, results |
//! | 6 | an error of this command; the others were carried out | an `ErrorCode` |
//! | 7 | a check failed; nothing was carried out | nothing; no other result follows or stands before |

mod command;
mod opcode;
mod results;

pub use command::{Arguments, Builder, Command, CommandHeader, Commands, check};
pub use opcode::{Form, Kind, Opcode, flags};
pub use results::{ErrorCode, Items, ResultWriter, Results, Value, Word, results};
