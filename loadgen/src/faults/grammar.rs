//! How faults are written.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::cli::parse_duration;
use crate::cluster::Way;

/// What `--help` says about `--fault`.
pub const GRAMMAR: &str = "\
Faults (--fault, may be repeated):
  at=TIME [for=TIME] FAULT
  TIME counts from the end of the warm-up; after for=TIME the fault is undone.
  WHO is primary, backup, or a server's id; the primary if not said.

  kill-primary, kill-backup, kill WHO  SIGKILL; for=: start it again then
  restart [SERVER]                     start it, or all that were killed, again
  stop [WHO]                           SIGSTOP; for=: SIGCONT then
  continue [SERVER]                    SIGCONT to it, or to all that are stopped
  partition [WHO] [way=both|out|in]    cut it off from the other servers (not
                                       from clients): out loses what it sends,
                                       in what is sent to it; for=: heal then
  disk-full [WHO]                      fill its disk, a small one in memory
                                       (takes root); a server ends when a write
                                       fails, so restart it after heal;
                                       for=: make room then
  handover [to=SERVER]                 let another server become primary, as
                                       `lockstep move-primary` does
  heal                                 mend all links, make room on all disks,
                                       let stopped servers go on
  Examples:
    --fault 'at=10s kill-primary' --fault 'at=15s restart'
    --fault 'at=5s for=2s partition primary way=out'";

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The primary, of the first shard if there are several.
    Primary,
    /// The server after the primary.
    Backup,
    /// This one.
    Server(usize),
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// SIGKILL.
    Kill(Target),
    /// Start again, this server or all that were killed.
    Restart(Option<usize>),
    /// SIGSTOP.
    Stop(Target),
    /// SIGCONT, this server or all that are stopped.
    Continue(Option<usize>),
    /// Cut off from the other servers.
    Partition(Target, Way),
    /// Fill the disk.
    DiskFull(Target),
    /// Let this server, or the best of the others, become primary.
    Handover(Option<u8>),
    /// End partitions, full disks and stops.
    Heal,
}

/// One fault of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// When, after the end of the warm-up.
    pub at: Duration,
    /// After how long it is undone, if it is.
    pub lasts: Option<Duration>,
    /// What is done.
    pub action: Action,
}

impl Fault {
    /// Whether it takes links that can be cut.
    pub fn cuts_links(&self) -> bool {
        matches!(self.action, Action::Partition(..))
    }

    /// Whether it takes a disk that can be filled.
    pub fn fills_disks(&self) -> bool {
        matches!(self.action, Action::DiskFull(_))
    }

    /// The highest server id that it names.
    pub fn server_max(&self) -> Option<usize> {
        let named = |target| match target {
            Target::Server(server) => Some(server),
            _ => None,
        };
        match self.action {
            Action::Kill(target) | Action::Stop(target) | Action::Partition(target, _) | Action::DiskFull(target) => {
                named(target)
            }
            Action::Restart(server) | Action::Continue(server) => server,
            Action::Handover(to) => to.map(usize::from),
            Action::Heal => None,
        }
    }
}

impl Action {
    /// What undoes it.
    pub(super) fn undoing(self, server: Option<usize>) -> Option<Action> {
        match self {
            Action::Kill(_) => Some(Action::Restart(server)),
            Action::Stop(_) => Some(Action::Continue(server)),
            Action::Partition(..) | Action::DiskFull(_) => Some(Action::Heal),
            Action::Restart(_) | Action::Continue(_) | Action::Handover(_) | Action::Heal => None,
        }
    }
}

const NAMES: &str = "kill-primary, kill-backup, kill, restart, stop, continue, partition, disk-full, handover or heal";
const EXAMPLE: &str = "such as 'at=10s kill-primary' or 'at=5s for=2s partition primary way=out'";

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).map_err(|reason| format!("{reason}; write a fault {EXAMPLE} (see --help)"))
    }
}

fn parse(text: &str) -> Result<Fault, String> {
    let (mut at, mut lasts, mut way, mut to) = (None, None, None, None);
    let mut words = Vec::new();
    for word in text.split_ascii_whitespace() {
        match word.split_once('=') {
            Some(("at", value)) => set(&mut at, "at", parse_duration(value)?)?,
            Some(("for", value)) => set(&mut lasts, "for", parse_duration(value)?)?,
            Some(("way", value)) => set(&mut way, "way", parse_way(value)?)?,
            Some(("to", value)) => set(&mut to, "to", parse_server(value)?)?,
            Some((name, _)) => return Err(format!("there is no setting '{name}='; use at=, for=, way= or to=")),
            None => words.push(word),
        }
    }
    let at = at.ok_or("it does not say when: at=TIME is missing")?;
    let (name, who) = match words[..] {
        [] => return Err(format!("it does not say what happens: use {NAMES}")),
        [name] => (name, None),
        [name, who] => (name, Some(who)),
        [_, _, more, ..] => return Err(format!("nothing is known of '{more}' after a fault and a server")),
    };
    let target = || who.map_or(Ok(Target::Primary), parse_target);
    let server = || who.map(parse_server).transpose();
    let action = match name {
        "kill-primary" | "kill-backup" if who.is_some() => {
            return Err(format!("{name} says already which server; use kill SERVER for another"));
        }
        "kill-primary" => Action::Kill(Target::Primary),
        "kill-backup" => Action::Kill(Target::Backup),
        "kill" if who.is_none() => return Err("kill needs a server: primary, backup or an id".to_owned()),
        "kill" => Action::Kill(target()?),
        "restart" => Action::Restart(server()?),
        "stop" => Action::Stop(target()?),
        "continue" => Action::Continue(server()?),
        "partition" => Action::Partition(target()?, way.take().unwrap_or(Way::Both)),
        "disk-full" => Action::DiskFull(target()?),
        "handover" if who.is_some() => return Err("handover takes its server as to=SERVER".to_owned()),
        "handover" => {
            let to = to.take().map(u8::try_from).transpose();
            Action::Handover(to.map_err(|_| "a server's id is below 7".to_owned())?)
        }
        "heal" if who.is_some() => return Err("heal takes no server: it heals everything".to_owned()),
        "heal" => Action::Heal,
        _ => return Err(format!("there is no fault '{name}': use {NAMES}")),
    };
    if way.is_some() {
        return Err(format!("way= belongs to partition, not to {name}"));
    }
    if to.is_some() {
        return Err(format!("to= belongs to handover, not to {name}"));
    }
    if lasts.is_some() && action.undoing(None).is_none() {
        return Err(format!("for= does not fit {name}: there is nothing to undo"));
    }
    Ok(Fault { at, lasts, action })
}

fn set<T>(place: &mut Option<T>, name: &str, value: T) -> Result<(), String> {
    match place.replace(value) {
        Some(_) => Err(format!("{name}= is given twice")),
        None => Ok(()),
    }
}

fn parse_server(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|server| *server < 7).ok_or_else(|| format!("'{text}' is no server's id: use 0 to 6"))
}

fn parse_target(text: &str) -> Result<Target, String> {
    match text {
        "primary" => Ok(Target::Primary),
        "backup" => Ok(Target::Backup),
        _ => parse_server(text)
            .map(Target::Server)
            .map_err(|_| format!("'{text}' is no server: use primary, backup, or an id from 0 to 6")),
    }
}

fn parse_way(text: &str) -> Result<Way, String> {
    match text {
        "both" => Ok(Way::Both),
        "out" => Ok(Way::Outbound),
        "in" => Ok(Way::Inbound),
        _ => Err(format!("'{text}' is no way: use both, out or in")),
    }
}

impl fmt::Display for Action {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = |server: &Option<usize>| server.map_or_else(|| "all".to_owned(), |server| server.to_string());
        match self {
            Action::Kill(_) => out.write_str("kill -9"),
            Action::Restart(server) => write!(out, "restart of {}", all(server)),
            Action::Stop(_) => out.write_str("SIGSTOP"),
            Action::Continue(server) => write!(out, "SIGCONT to {}", all(server)),
            Action::Partition(_, Way::Both) => out.write_str("partition"),
            Action::Partition(_, Way::Outbound) => out.write_str("partition, outbound"),
            Action::Partition(_, Way::Inbound) => out.write_str("partition, inbound"),
            Action::DiskFull(_) => out.write_str("full disk"),
            Action::Handover(None) => out.write_str("handover"),
            Action::Handover(Some(to)) => write!(out, "handover to server {to}"),
            Action::Heal => out.write_str("heal"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[track_caller]
    fn check(text: &str, at: Duration, lasts: Option<Duration>, action: Action) {
        assert_eq!(text.parse(), Ok(Fault { at, lasts, action }), "{text}");
    }

    #[test]
    fn faults_are_understood() {
        check("at=10s kill-primary", S(10), None, Action::Kill(Target::Primary));
        check("kill-backup at=10s for=2s", S(10), Some(S(2)), Action::Kill(Target::Backup));
        check("at=1m30s kill 2", S(90), None, Action::Kill(Target::Server(2)));
        check("at=0s restart", S(0), None, Action::Restart(None));
        check("at=1s restart 1", S(1), None, Action::Restart(Some(1)));
        check("at=1s stop for=300ms", S(1), Some(Duration::from_millis(300)), Action::Stop(Target::Primary));
        check("at=1s continue", S(1), None, Action::Continue(None));
        check("at=1s partition", S(1), None, Action::Partition(Target::Primary, Way::Both));
        check("at=1s partition backup way=in", S(1), None, Action::Partition(Target::Backup, Way::Inbound));
        check("at=1s disk-full 0 for=5s", S(1), Some(S(5)), Action::DiskFull(Target::Server(0)));
        check("at=1s handover", S(1), None, Action::Handover(None));
        check("at=1s handover to=2", S(1), None, Action::Handover(Some(2)));
        check("  at=1s   heal ", S(1), None, Action::Heal);
    }

    #[test]
    fn what_is_wrong_is_said_with_an_example() {
        for (text, reason) in [
            ("", "at=TIME is missing"),
            ("kill-primary", "at=TIME is missing"),
            ("at=10s", "does not say what happens"),
            ("at=10 kill-primary", "is no duration"),
            ("at=10s kil-primary", "no fault 'kil-primary': use kill-primary, "),
            ("at=10s kill", "kill needs a server"),
            ("at=10s kill 7", "no server"),
            ("at=10s kill secondary", "use primary, backup, or an id"),
            ("at=10s kill-primary 1", "says already which server"),
            ("at=10s restart primary", "no server's id"),
            ("at=10s heal 1", "heals everything"),
            ("at=10s partition way=up", "both, out or in"),
            ("at=10s kill-primary way=in", "way= belongs to partition"),
            ("at=10s kill-primary to=1", "to= belongs to handover"),
            ("at=10s handover 1", "to=SERVER"),
            ("at=10s handover for=1s", "nothing to undo"),
            ("at=10s at=11s heal", "at= is given twice"),
            ("at=10s kill primary now", "'now'"),
            ("at=10s who=1 kill-primary", "no setting 'who='"),
        ] {
            let error = text.parse::<Fault>().expect_err(text);
            assert!(error.contains(reason) && error.contains("'at=10s kill-primary'"), "{text}: {error}");
        }
    }

    #[test]
    fn what_has_a_length_can_be_undone() {
        assert_eq!(Action::Kill(Target::Primary).undoing(Some(1)), Some(Action::Restart(Some(1))));
        assert_eq!(Action::Partition(Target::Backup, Way::Both).undoing(None), Some(Action::Heal));
        assert_eq!(Action::Handover(None).undoing(Some(1)), None);
    }
}
