//! Does to the servers what the faults say, when they say it.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::{Action, Fault, Target};
use crate::cluster::{Cluster, ClusterError, Way};
use crate::drive::StopFlag;
use crate::record::EventLog;

/// How finely a wait looks whether the run is over.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long the primary is looked for when a fault is about it and there is none.
const PRIMARY_PATIENCE: Duration = Duration::from_secs(2);

/// A fault that was inflicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inflicted {
    /// When it was, right before the system was told.
    pub at: Instant,
    /// When it was undone, if it was.
    pub until: Option<Instant>,
    /// What was done to whom, in words.
    pub what: String,
    /// Why it could not be done.
    pub error: Option<String>,
}

/// A thing to do at a moment.
struct Step {
    at: Instant,
    action: Action,
    lasts: Option<Duration>,
    /// The fault that it undoes.
    undoes: Option<usize>,
}

/// Inflicts `faults` on `cluster`. Times count from the moment that `opening` tells, which is given back with what was
/// done; returns when all has been done, or when `stop` is set. `None`: the run never began.
pub fn conduct(
    faults: &[Fault],
    cluster: &Cluster,
    opening: &Receiver<Instant>,
    stop: &StopFlag,
    events: &EventLog,
) -> Option<(Instant, Vec<Inflicted>)> {
    let opens = opening.recv().ok()?;
    let step = |fault: &Fault| Step { at: opens + fault.at, action: fault.action, lasts: fault.lasts, undoes: None };
    let mut steps: Vec<Step> = faults.iter().map(step).collect();
    let mut inflicted: Vec<Inflicted> = Vec::new();
    let mut hands = Hands { cluster, cut_off: Vec::new() };
    while !steps.is_empty() {
        steps.sort_by_key(|step| step.at);
        let Step { at, action, lasts, undoes } = steps.remove(0);
        if !wait_until(at, stop) {
            break;
        }
        let Done { at, server, what, result } = hands.act(action);
        let error = result.err().map(|error| error.to_string());
        match &error {
            None => events.add("fault", what.clone()),
            Some(error) => events.add("fault-failed", format!("{what}: {error}")),
        }
        if let Some(lasts) = lasts
            && let Some(undoing) = action.undoing(server)
            && error.is_none()
        {
            steps.push(Step { at: at + lasts, action: undoing, lasts: None, undoes: Some(inflicted.len()) });
        }
        match undoes {
            Some(undone) => inflicted[undone].until = Some(at),
            None => inflicted.push(Inflicted { at, until: None, what, error }),
        }
    }
    Some((opens, inflicted))
}

/// Waits. False when `stop` is set before.
fn wait_until(moment: Instant, stop: &StopFlag) -> bool {
    loop {
        if stop.is_set() {
            return false;
        }
        let left = moment.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(POLL_INTERVAL));
    }
}

/// What came of an action.
struct Done {
    at: Instant,
    /// The server that it was done to.
    server: Option<usize>,
    what: String,
    result: Result<(), ClusterError>,
}

/// Acts on the servers, and remembers who is cut off.
struct Hands<'a> {
    cluster: &'a Cluster,
    cut_off: Vec<(usize, Way)>,
}

impl Hands<'_> {
    fn act(&mut self, action: Action) -> Done {
        let cluster = self.cluster;
        let target = match action {
            Action::Kill(target) | Action::Stop(target) | Action::Partition(target, _) | Action::DiskFull(target) => {
                Some(target)
            }
            _ => None,
        };
        let (server, role) = match target.map(|target| self.resolve(target)) {
            Some(Err(what)) => return Done { at: Instant::now(), server: None, what, result: Err(no_primary()) },
            Some(Ok((server, role))) => (Some(server), role),
            None => (None, ""),
        };
        let what = match server {
            Some(server) => format!("{action} of server {server}{role}"),
            None => action.to_string(),
        };
        let at = Instant::now();
        let result = match (action, server) {
            (Action::Kill(_), Some(server)) => cluster.kill(server),
            (Action::Stop(_), Some(server)) => cluster.set_stopped(server, true),
            (Action::Partition(_, way), Some(server)) => {
                self.cut_off.push((server, way));
                cluster.cut_off(&self.cut_off)
            }
            (Action::DiskFull(_), Some(server)) => cluster.fill_disk(server).map(drop),
            (Action::Restart(server), _) => each(server, cluster.killed(), |server| cluster.restart(server)),
            (Action::Continue(server), _) => {
                each(server, cluster.stopped(), |server| cluster.set_stopped(server, false))
            }
            (Action::Handover(to), _) => cluster.move_primaries(to),
            (Action::Heal, _) => self.heal(),
            (_, None) => unreachable!("these have a target, which was resolved"),
        };
        Done { at, server, what, result }
    }

    fn heal(&mut self) -> Result<(), ClusterError> {
        if !std::mem::take(&mut self.cut_off).is_empty() {
            self.cluster.cut_off(&[])?;
        }
        self.cluster.free_disks()?;
        each(None, self.cluster.stopped(), |server| self.cluster.set_stopped(server, false))
    }

    /// Which server that is now, and what to call it.
    fn resolve(&self, target: Target) -> Result<(usize, &'static str), String> {
        if let Target::Server(server) = target {
            return Ok((server, ""));
        }
        let deadline = Instant::now() + PRIMARY_PATIENCE;
        loop {
            if let Some((primary, _)) = self.cluster.primary(0) {
                let next = (primary + 1) % self.cluster.replicas();
                return Ok(if target == Target::Primary { (primary, ", the primary") } else { (next, ", a backup") });
            }
            if Instant::now() >= deadline {
                return Err("a fault of the primary".to_owned());
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

fn each(
    one: Option<usize>,
    all: Vec<usize>,
    act: impl Fn(usize) -> Result<(), ClusterError>,
) -> Result<(), ClusterError> {
    match one {
        Some(server) => act(server),
        None => all.into_iter().try_for_each(act),
    }
}

fn no_primary() -> ClusterError {
    let what = format!("no server was the primary for {PRIMARY_PATIENCE:?}");
    ClusterError::System { what, reason: std::io::ErrorKind::NotFound.into() }
}
