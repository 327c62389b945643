//! What an audit found.

use std::fmt;

/// What reading back every acknowledged write showed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AuditReport {
    /// Keys with an acknowledged write.
    pub keys: u64,
    /// Counters with an acknowledged increment.
    #[serde(default)]
    pub counters: u64,
    /// Acknowledged increments of all counters.
    #[serde(default)]
    pub increments: u64,
    /// Keys that are gone or older than the version that was acknowledged, and acknowledged increments that are
    /// missing. Anything but zero is data loss.
    pub lost: u64,
    /// Keys that were written, and increments that happened, more often than was asked for. As the audit cannot know of
    /// other clients, nobody else may write the keys meanwhile.
    #[serde(default)]
    pub doubled: u64,
    /// Keys whose value is not one that was written under them.
    pub corrupt: u64,
    /// Keys that could not be read back.
    pub unread: u64,
    /// Reads of the run itself that did not see a write acknowledged before they were sent.
    pub overtaken: u64,
    /// Acknowledged writes of keys beyond what the audit has room for: not audited.
    pub unaudited: u64,
}

impl AuditReport {
    /// Whether every acknowledged write that was looked for is there.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.corrupt == 0 && self.unread == 0 && self.overtaken == 0
    }
}

impl fmt::Display for AuditReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keys, counters, increments, lost, doubled, corrupt, unread, overtaken, unaudited } = self;
        write!(out, "{keys} keys with an acknowledged write")?;
        if *counters > 0 {
            write!(out, " and {counters} counters with {increments} increments")?;
        }
        write!(
            out,
            " were read back: {lost} lost, {doubled} doubled, {corrupt} with a wrong value, {unread} could not be read; \
             {overtaken} reads of the run missed a write acknowledged before"
        )?;
        if *unaudited > 0 {
            write!(out, "; {unaudited} writes of newly inserted keys were beyond what an audit has room for")?;
        }
        Ok(())
    }
}
