//! What can be done to the servers of a running cluster.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use rustix::process::Signal;

use super::ask::{Conversation, ReplicaState};
use super::{Cluster, ClusterError, LinkProxy, Server, ServerProcess, ServerState, SmallDisk, system};

/// Which way a cut-off server's messages are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Both ways.
    Both,
    /// What it sends does not arrive.
    Outbound,
    /// What is sent to it does not arrive.
    Inbound,
}

/// How long a server that should be well may take to answer.
const ASK_PATIENCE: Duration = Duration::from_millis(500);

/// How long a handover may take until it is answered.
const HANDOVER_PATIENCE: Duration = Duration::from_secs(5);

impl Cluster {
    /// How many servers make up the cluster under load.
    pub fn replicas(&self) -> usize {
        self.spec.replicating
    }

    /// The primary of a shard and its view, as the servers have it that answer and are not stopped; `None` if none of
    /// them is.
    pub fn primary(&self, shard: u16) -> Option<(usize, u64)> {
        let states = (0..self.replicas()).filter_map(|server| Some((server, self.state(server, shard)?)));
        let primaries = states.filter(|(_, state)| state.is_primary).map(|(server, state)| (server, state.view));
        primaries.max_by_key(|(_, view)| *view)
    }

    fn state(&self, server: usize, shard: u16) -> Option<ReplicaState> {
        if self.servers[server].run().state != ServerState::Running {
            return None;
        }
        Conversation::open(self.servers[server].address, shard, ASK_PATIENCE).ok()?.state().ok()
    }

    /// Whether all servers are up, agree on the view, and are in sync, in every shard.
    pub fn is_whole(&self) -> bool {
        (0..self.spec.shards).all(|shard| self.is_shard_whole(shard))
    }

    /// What every server says about every shard, for a person to see what is amiss.
    pub fn states_in_words(&self) -> String {
        let mut words = Vec::new();
        for shard in 0..self.spec.shards {
            for server in 0..self.replicas() {
                words.push(match self.state(server, shard) {
                    Some(state) => format!("server {server} shard {shard}: {state}"),
                    None => format!("server {server} shard {shard} does not answer"),
                });
            }
        }
        words.join("; ")
    }

    fn is_shard_whole(&self, shard: u16) -> bool {
        let states: Option<Vec<_>> = (0..self.replicas()).map(|server| self.state(server, shard)).collect();
        let Some(states) = states else { return false };
        let Some(primary) = states.iter().find(|state| state.is_primary) else { return false };
        let everyone = (1u16 << self.replicas()) - 1;
        u16::from(primary.in_sync) == everyone
            && states.iter().all(|state| state.view == primary.view && (state.is_backup || state.is_primary))
    }

    /// Kills a server at once (SIGKILL).
    ///
    /// # Errors
    ///
    /// When the operating system refuses.
    pub fn kill(&self, server: usize) -> Result<(), ClusterError> {
        let mut run = self.servers[server].run();
        // Set before, so that nobody takes its end for an accident.
        run.state = ServerState::Killed;
        run.process.kill().map_err(system(format!("cannot kill server {server}")))
    }

    /// Starts a server that was killed, on what it left behind. Returns at once.
    ///
    /// # Errors
    ///
    /// When the operating system refuses.
    pub fn restart(&self, server: usize) -> Result<(), ClusterError> {
        let place @ Server { arguments, log, .. } = &self.servers[server];
        let mut run = place.run();
        if run.state == ServerState::Killed {
            run.process = ServerProcess::spawn(&self.spec.server_bin, arguments, log)
                .map_err(system(format!("cannot start server {server} again")))?;
            run.state = ServerState::Running;
            run.may_end = false;
        }
        Ok(())
    }

    /// Stops a server without its noticing (SIGSTOP), or lets it go on (SIGCONT).
    ///
    /// # Errors
    ///
    /// When the operating system refuses.
    pub fn set_stopped(&self, server: usize, is_stopped: bool) -> Result<(), ClusterError> {
        let mut run = self.servers[server].run();
        let (from, to, signal) = match is_stopped {
            true => (ServerState::Running, ServerState::Stopped, Signal::STOP),
            false => (ServerState::Stopped, ServerState::Running, Signal::CONT),
        };
        if run.state == from {
            run.process.signal(signal).map_err(system(format!("cannot signal server {server}")))?;
            run.state = to;
        }
        Ok(())
    }

    /// Servers that were killed and not started again.
    pub fn killed(&self) -> Vec<usize> {
        self.in_state(ServerState::Killed)
    }

    /// Servers that are stopped.
    pub fn stopped(&self) -> Vec<usize> {
        self.in_state(ServerState::Stopped)
    }

    fn in_state(&self, state: ServerState) -> Vec<usize> {
        (0..self.servers.len()).filter(|&server| self.servers[server].run().state == state).collect()
    }

    /// Cuts these servers off from the others, each in its way, and nobody else.
    ///
    /// # Errors
    ///
    /// When the cluster was not started with links that can be cut.
    pub fn cut_off(&self, servers: &[(usize, Way)]) -> Result<(), ClusterError> {
        let proxy: &LinkProxy = self.proxy.as_ref().ok_or_else(|| {
            system("cannot cut a link")(io::Error::other("the cluster was started without a proxy on its links"))
        })?;
        let is_cut = |from: usize, to: usize| {
            servers
                .iter()
                .any(|&(server, way)| (server == from && way != Way::Inbound) || (server == to && way != Way::Outbound))
        };
        let links = self.links.iter().filter(|((from, to), _)| is_cut(*from, *to));
        let routes: BTreeSet<usize> = links.flat_map(|(_, routes)| routes.iter().copied()).collect();
        proxy.cut(routes);
        Ok(())
    }

    /// Fills a server's disk up, and gives how many bytes that took. The server ends when a write of its own fails, and
    /// counts as killed then.
    ///
    /// # Errors
    ///
    /// When the cluster was not started with small disks, or writing fails otherwise than for want of room.
    pub fn fill_disk(&self, server: usize) -> Result<u64, ClusterError> {
        let disk = self.disk(server)?;
        self.servers[server].run().may_end = true;
        disk.fill().map_err(system(format!("cannot fill the disk of server {server}")))
    }

    /// Makes room again on every disk that was filled.
    ///
    /// # Errors
    ///
    /// When a file cannot be removed.
    pub fn free_disks(&self) -> Result<(), ClusterError> {
        self.disks.iter().try_for_each(SmallDisk::free).map_err(system("cannot free a disk"))
    }

    fn disk(&self, server: usize) -> Result<&SmallDisk, ClusterError> {
        self.disks.get(server).ok_or_else(|| {
            system("cannot fill a disk")(io::Error::other("the cluster was started without disks of its own"))
        })
    }

    /// Asks the primary of every shard to let `to`, or the best of the others, take its place.
    ///
    /// # Errors
    ///
    /// When there is no primary, or one keeps its place; what it says.
    pub fn move_primaries(&self, to: Option<u8>) -> Result<(), ClusterError> {
        for shard in 0..self.spec.shards {
            let moved = self
                .primary(shard)
                .ok_or_else(|| io::Error::other("there is none that answers"))
                .and_then(|(server, _)| Conversation::open(self.servers[server].address, shard, HANDOVER_PATIENCE))
                .and_then(|mut conversation| conversation.move_primary(to));
            moved.map_err(system(format!("cannot move the primary of shard {shard}")))?;
        }
        Ok(())
    }
}
