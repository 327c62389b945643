//! Stories of what happens to a cluster while clients are at work: each fault leaves the cluster whole again.

use std::time::Duration;

use rand::RngExt;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::{
    Cluster, Spec,
    damage::{Part, flip_bits},
    recorder::{Recorder, move_primary},
    wait_for,
};

/// Longer than any timeout by which servers judge each other.
const PAUSE: Duration = Duration::from_millis(1500);

/// Something that happens to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9` of the primary; started again after the others have gone on.
    KillPrimary,
    /// `kill -9` of a backup.
    KillBackup,
    /// `kill -9` of a majority, all started again.
    KillMajority,
    /// `kill -9` of all.
    KillAll,
    /// SIGSTOP of the primary for longer than any timeout.
    PausePrimary,
    /// The same for a backup.
    PauseBackup,
    /// Nobody and the primary hear each other.
    IsolatePrimary,
    /// The backups hear the primary, but it does not hear them.
    DeafPrimary,
    /// The primary hears the backups, but they do not hear it.
    MutePrimary,
    /// A backup hears nobody, but is heard.
    DeafBackup,
    /// Two servers do not hear each other; both hear the others.
    CutOneLink,
    /// Bits flip in files of a server while it is stopped.
    Rot(Part),
    /// A server loses its folder and is given a new one.
    Wipe,
    /// SIGTERM and a start, one server after the other.
    RollingRestart,
    /// The primary is asked to hand over, and nothing breaks.
    MovePrimary,
    /// Kills, pauses and cuts of any servers, before those before them are over.
    Storm,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 18] = [
        Fault::KillPrimary,
        Fault::KillBackup,
        Fault::KillMajority,
        Fault::KillAll,
        Fault::PausePrimary,
        Fault::PauseBackup,
        Fault::IsolatePrimary,
        Fault::DeafPrimary,
        Fault::MutePrimary,
        Fault::DeafBackup,
        Fault::CutOneLink,
        Fault::Rot(Part::Journal),
        Fault::Rot(Part::Superblock),
        Fault::Rot(Part::Checkpoint),
        Fault::Wipe,
        Fault::RollingRestart,
        Fault::MovePrimary,
        Fault::Storm,
    ];
}

/// A cluster, its clients, and chance.
pub struct Story {
    /// The cluster.
    pub cluster: Cluster,
    /// Its clients.
    pub recorder: Recorder,
    /// Decides who is hit.
    pub random: Xoshiro256PlusPlus,
}

impl Story {
    /// Starts a cluster with links that can be cut, and clients.
    pub fn begin(spec: Spec, clients: u32, seed: u64) -> Story {
        Story::go_on(Cluster::start(spec.with_links()), clients, seed)
    }

    /// The same with a cluster that runs already.
    pub fn go_on(cluster: Cluster, clients: u32, seed: u64) -> Story {
        let recorder = Recorder::start(&cluster.addresses(), cluster.spec.shards, clients, seed);
        recorder.wait_for_more(100);
        Story { cluster, recorder, random: rand::SeedableRng::seed_from_u64(seed) }
    }

    /// Lets a fault happen, has the clients go on while it lasts if the cluster must, and mends it.
    pub fn suffer(&mut self, fault: Fault) {
        let primary = self.primary();
        let backup = self.backup_of(primary);
        match fault {
            Fault::KillPrimary => self.kill_and_restart(&[primary]),
            Fault::KillBackup => self.kill_and_restart(&[backup]),
            Fault::KillMajority => {
                let servers = self.cluster.spec.servers;
                let victims: Vec<u8> = (0..servers / 2 + 1).map(|offset| (primary + offset) % servers).collect();
                self.kill_and_restart(&victims);
            }
            Fault::KillAll => self.kill_and_restart(&(0..self.cluster.spec.servers).collect::<Vec<_>>()),
            Fault::PausePrimary => self.pause(primary),
            Fault::PauseBackup => self.pause(backup),
            Fault::IsolatePrimary => self.cut(|from, to| from == primary || to == primary),
            Fault::DeafPrimary => self.cut(|_, to| to == primary),
            Fault::MutePrimary => self.cut(|from, _| from == primary),
            Fault::DeafBackup => self.cut(|_, to| to == backup),
            Fault::CutOneLink => {
                let other = self.random.random_range(0..self.cluster.spec.servers);
                self.cut(|from, to| (from, to) == (backup, other) || (to, from) == (backup, other));
            }
            Fault::Rot(part) => {
                let victim = self.random.random_range(0..self.cluster.spec.servers);
                self.rot(victim, part);
            }
            Fault::Wipe => self.wipe(backup),
            Fault::RollingRestart => self.restart_one_by_one(),
            Fault::MovePrimary => drop(move_primary(&self.cluster.addresses())),
            Fault::Storm => self.storm(),
        }
        self.recorder.wait_for_more(50);
        self.wait_until_whole();
    }

    /// Ends the clients, has the checker judge, and compares the servers' states. Returns a line about it.
    pub fn end(self) -> String {
        let report = self.recorder.finish();
        self.cluster.wait_for_equal_state();
        format!(
            "{} operations ({} of unknown outcome) are linearizable, states are equal",
            report.operations, report.unknown
        )
    }

    /// The server that is the primary of the highest view of shard 0.
    pub fn primary(&self) -> u8 {
        self.cluster.primary(0)
    }

    fn backup_of(&mut self, primary: u8) -> u8 {
        let servers = self.cluster.spec.servers;
        (primary + self.random.random_range(1..servers.max(2))) % servers
    }

    /// Whether a view can begin, and writes can commit, without `missing` servers.
    fn can_do_without(&self, missing: usize) -> bool {
        let servers = usize::from(self.cluster.spec.servers);
        let commit = if servers == 2 { 2 } else { servers.div_ceil(2) };
        servers - missing >= commit.max(servers - commit + 1)
    }

    fn kill_and_restart(&mut self, victims: &[u8]) {
        for &victim in victims {
            self.cluster.kill(victim);
        }
        if self.can_do_without(victims.len()) {
            self.recorder.wait_for_more(100);
        }
        for &victim in victims {
            self.cluster.start_server(victim);
        }
    }

    fn pause(&mut self, victim: u8) {
        self.cluster.signal(victim, "STOP");
        if self.can_do_without(1) {
            self.recorder.wait_for_more(100);
        }
        // Time must pass, whatever else happens.
        std::thread::sleep(PAUSE);
        self.cluster.signal(victim, "CONT");
    }

    fn cut(&mut self, is_cut: impl Fn(u8, u8) -> bool) {
        self.cluster.links().cut(is_cut);
        if self.can_do_without(1) {
            self.recorder.wait_for_more(200);
        }
        std::thread::sleep(PAUSE);
        self.cluster.links().mend();
    }

    fn rot(&mut self, victim: u8, part: Part) {
        if part == Part::Checkpoint && self.makes_checkpoints() {
            wait_for("a checkpoint", || (self.cluster.status(victim, 0)?["checkpoint"].as_u64()? > 0).then_some(()));
        }
        self.cluster.kill(victim);
        let is_damaged = flip_bits(&self.cluster.servers[usize::from(victim)], part, &mut self.random);
        assert!(is_damaged || part == Part::Checkpoint, "nothing to damage in the {part:?}");
        self.cluster.start_server(victim);
        if is_damaged && part == Part::Checkpoint {
            wait_for("the server to have noticed", || {
                self.cluster.log(victim).contains("will be fetched").then_some(())
            });
        }
    }

    /// Whether checkpoints are made within seconds.
    fn makes_checkpoints(&self) -> bool {
        self.cluster.spec.options.iter().any(|option| option == "--checkpoint-every")
    }

    fn wipe(&mut self, victim: u8) {
        self.cluster.kill(victim);
        std::fs::remove_dir_all(&self.cluster.servers[usize::from(victim)].folder).unwrap();
        if self.can_do_without(1) {
            self.recorder.wait_for_more(100);
        }
        self.cluster.recover(victim);
        self.cluster.start_server(victim);
        if self.random.random_ratio(1, 2) {
            // In the middle of what the wiped server is being given, perhaps by just this one.
            let other = self.backup_of(victim);
            self.cluster.kill(other);
            self.cluster.start_server(other);
        }
    }

    fn storm(&mut self) {
        let servers = self.cluster.spec.servers;
        let mut is_paused = vec![false; usize::from(servers)];
        for _ in 0..12 {
            let victim = self.random.random_range(0..servers);
            let place = usize::from(victim);
            match self.random.random_range(0..6) {
                0..3 if self.cluster.is_running(victim) => {
                    self.cluster.kill(victim);
                    is_paused[place] = false;
                }
                0..3 => self.cluster.start_server(victim),
                3 if self.cluster.is_running(victim) => {
                    self.cluster.signal(victim, if is_paused[place] { "CONT" } else { "STOP" });
                    is_paused[place] = !is_paused[place];
                }
                4 => {
                    let is_cut: u64 = self.random.random();
                    self.cluster.links().cut(|from, to| is_cut >> (from * servers + to) & 1 == 1);
                }
                _ => self.cluster.links().mend(),
            }
            // The storm is made of chance, also in when things happen.
            std::thread::sleep(Duration::from_millis(self.random.random_range(0..400)));
        }
        self.cluster.links().mend();
        for id in 0..servers {
            if !self.cluster.is_running(id) {
                self.cluster.start_server(id);
            } else if is_paused[usize::from(id)] {
                self.cluster.signal(id, "CONT");
            }
        }
    }

    fn restart_one_by_one(&mut self) {
        for id in 0..self.cluster.spec.servers {
            self.cluster.signal(id, "TERM");
            let status = self.cluster.wait_for_exit(id);
            assert!(status.success(), "server {id} ended with {status}:\n{}", self.cluster.log(id));
            if self.can_do_without(1) {
                self.recorder.wait_for_more(50);
            }
            self.cluster.start_server(id);
            self.wait_until_whole();
        }
    }

    /// Waits until every server serves and vouches for all that was committed when this began: only then may the next
    /// fault take another one away.
    pub fn wait_until_whole(&mut self) {
        self.cluster.wait_until_healthy();
        for shard in 0..usize::from(self.cluster.spec.shards) {
            let number = |id, name: &str| self.cluster.status(id, shard)?[name].as_u64();
            let ids = || 0..self.cluster.spec.servers;
            let committed = wait_for("every server's commit", || {
                ids().map(|id| number(id, "commit")).try_fold(0, |most, commit| Some(commit?.max(most)))
            });
            for id in ids() {
                wait_for(&format!("server {id} to have caught up with op {committed} of shard {shard}"), || {
                    let is_whole = number(id, "durable")? >= committed && number(id, "vouch_op").unwrap_or(0) == 0;
                    is_whole.then_some(())
                });
            }
        }
    }
}
