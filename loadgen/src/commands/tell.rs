//! Words for whoever started this program.
//!
//! A terminal that has been closed, or a reader such as `head` that has seen enough, is no reason to end before servers
//! are stopped and results are written.

use std::fmt::Display;
use std::io::{Write, stderr, stdout};

/// A line of the result.
pub(super) fn result(line: impl Display) {
    let _ = writeln!(stdout(), "{line}");
}

/// A line about what is going on.
pub(super) fn note(line: impl Display) {
    let _ = writeln!(stderr(), "{line}");
}
