//! Every command there is.

use super::context::Spec;

/// The command with this name, in whatever case.
pub fn find(name: &[u8]) -> Option<&'static Spec> {
    let _ = name;
    None
}
