//! Whether a shard is doing its work, told from what it last published.

use std::time::Duration;

use crate::metrics::{ReportedStatus, Role};

/// Age from which a status counts as the sign of a stalled event loop.
pub const STALE_AFTER: Duration = Duration::from_secs(5);

/// Health of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Serving, as primary or backup.
    Serving(Role),
    /// Not serving, and why.
    NotServing(String),
}

/// The health behind a published status.
pub fn health_of(reported: &ReportedStatus) -> Health {
    let age_ms = reported.age.as_millis();
    let Some(status) = &reported.status else {
        return Health::NotServing("starting: reading its checkpoint and journal".to_owned());
    };
    if reported.age > STALE_AFTER {
        return Health::NotServing(format!("its thread has not reported for {age_ms} ms"));
    }
    match status.role {
        Role::Recovering => Health::NotServing(format!(
            "recovering in view {}: waiting for enough other servers to begin a view",
            status.view
        )),
        Role::Backup if status.is_suspecting => Health::NotServing(format!(
            "backup in view {}: it hears nothing of the primary, server {}",
            status.view,
            status.view % u64::from(status.servers)
        )),
        role => Health::Serving(role),
    }
}
