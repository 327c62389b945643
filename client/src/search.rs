//! Finding a shard's primary, the first time and after a failover.
//!
//! A search goes in rounds. In each, every server that has not answered an earlier question yet is left to it, and all
//! others are asked at once, so that one that is dead without a word holds nobody up. The first server that calls
//! itself the primary of the highest view heard of is taken; the others' answers are not waited for.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

use crate::{
    config::ClientOptions,
    error::{Failure, FailureKind},
    socket::Socket,
    topology::Directory,
};

/// How long the likely primary is asked alone before the others are asked as well. Most often it answers sooner, and
/// nobody else is bothered.
const HEAD_START: Duration = Duration::from_millis(5);

/// How long a round waits at least for further answers once there is one.
const PATIENCE_MIN: Duration = Duration::from_millis(5);

/// A search for one shard's primary.
pub(crate) struct Search {
    directory: Arc<Directory>,
    options: Arc<ClientOptions>,
    shard: u16,
    /// The highest view heard of. The primary that follows from it is asked first.
    view: u64,
    questions: JoinSet<(usize, Result<Socket, Failure>)>,
    /// Who has been asked and has not answered: the servers by id, then the addresses that the client was given.
    is_pending: Vec<bool>,
}

impl Search {
    pub(crate) fn new(shard: u16, directory: Arc<Directory>, options: Arc<ClientOptions>) -> Search {
        let places = directory.cluster().servers.len() + directory.seeds().len();
        Search { directory, options, shard, view: 0, questions: JoinSet::new(), is_pending: vec![false; places] }
    }

    /// The highest view heard of.
    pub(crate) fn view(&self) -> u64 {
        self.view
    }

    /// A server spoke of this view.
    pub(crate) fn hear_of(&mut self, view: u64) {
        self.view = self.view.max(view);
    }

    /// One round of questions. With `is_hurried` everyone is asked at once; without, the likely primary has a head
    /// start.
    pub(crate) async fn round(&mut self, is_hurried: bool) -> Result<Socket, Failure> {
        let servers = self.directory.cluster().servers.len();
        let started = Instant::now();
        let mut heard = Heard::default();
        let mut is_everyone_asked = is_hurried;
        if is_hurried {
            (0..servers).for_each(|server| self.ask(server));
        } else {
            self.ask((self.view % servers as u64) as usize);
        }
        let mut patience = None;
        loop {
            let until = if is_everyone_asked { patience } else { Some(started + HEAD_START) };
            let answer = match until {
                Some(until) => timeout_at(until, self.questions.join_next()).await,
                None => Ok(self.questions.join_next().await),
            };
            match answer {
                Ok(Some(Ok((place, answer)))) => {
                    self.is_pending[place] = false;
                    if answer.is_ok() && patience.is_none() {
                        // Who answers no later than twice as late as the first is waited for.
                        patience = Some(Instant::now() + started.elapsed().max(PATIENCE_MIN));
                    }
                    self.view = heard.take(answer, self.view);
                    if let Some(primary) = heard.take_certain_primary(self.view) {
                        return Ok(primary);
                    }
                }
                // A question that panicked; it has been printed.
                Ok(Some(Err(_))) => {}
                Ok(None) | Err(_) if is_everyone_asked => break,
                Ok(None) | Err(_) => {}
            }
            if !is_everyone_asked {
                is_everyone_asked = true;
                (0..servers).for_each(|server| self.ask(server));
            }
        }
        if !heard.has_answer {
            self.ask_seeds(&mut heard).await;
        }
        heard.finish(self.shard, self.view)
    }

    /// In case the servers' own idea of their addresses is no good from here.
    async fn ask_seeds(&mut self, heard: &mut Heard) {
        let (directory, cluster) = (self.directory.clone(), self.directory.cluster());
        for (index, seed) in directory.seeds().iter().enumerate() {
            if !cluster.servers.contains(seed) {
                self.ask(cluster.servers.len() + index);
            }
        }
        while let Some(answer) = self.questions.join_next().await {
            let Ok((place, answer)) = answer else { continue };
            self.is_pending[place] = false;
            self.view = heard.take(answer, self.view);
        }
    }

    /// Asks the server, or the given address, at `place`, unless it still owes an answer.
    fn ask(&mut self, place: usize) {
        if std::mem::replace(&mut self.is_pending[place], true) {
            return;
        }
        let cluster = self.directory.cluster();
        let seed = || self.directory.seeds()[place - cluster.servers.len()].clone();
        let base = cluster.servers.get(place).cloned().unwrap_or_else(seed);
        let (directory, options, shard) = (self.directory.clone(), self.options.clone(), self.shard);
        self.questions.spawn(async move { (place, directory.open(&base, shard, &options).await) });
    }
}

/// Looks for a primary of a later view than `view`, once: whoever is connected to that one's primary and gets no
/// answers may have been left behind. Gives the search back for the next look.
pub(crate) async fn look_for_newer(mut search: Search, view: u64) -> (Search, Option<Socket>) {
    search.hear_of(view);
    let found = search.round(true).await.ok().filter(|socket| socket.topology.view > view);
    (search, found)
}

/// What was heard in one round.
#[derive(Default)]
struct Heard {
    /// The connection to the server with the highest view of those that are the primary of their own view.
    candidate: Option<Socket>,
    /// The highest view that any server spoke of in this round.
    view: u64,
    has_answer: bool,
    last_failure: Option<Failure>,
}

impl Heard {
    /// Takes an answer in. Returns the highest view heard of, `view` included.
    fn take(&mut self, answer: Result<Socket, Failure>, view: u64) -> u64 {
        let socket = match answer {
            Ok(socket) => socket,
            Err(failure) => {
                self.last_failure = Some(failure);
                return view;
            }
        };
        let topology = &socket.topology;
        let highest = view.max(topology.view);
        self.has_answer = true;
        self.view = self.view.max(topology.view);
        let is_primary = u64::from(topology.replica) == topology.view % u64::from(topology.servers);
        let is_newest = self.candidate.as_ref().is_none_or(|candidate| candidate.topology.view < topology.view);
        if is_primary && is_newest {
            self.candidate = Some(socket);
        }
        highest
    }

    /// The candidate, if no server can be the primary of a later view as far as is known.
    fn take_certain_primary(&mut self, view: u64) -> Option<Socket> {
        let is_certain = self.candidate.as_ref()?.topology.view >= view;
        if is_certain { self.candidate.take() } else { None }
    }

    /// The best candidate at the end of a round. A view heard of in an earlier round does not count against it: it may
    /// have come from a server that was wrong.
    fn finish(self, shard: u16, view: u64) -> Result<Socket, Failure> {
        match self.candidate {
            Some(candidate) if candidate.topology.view >= self.view => Ok(candidate),
            _ => match self.last_failure {
                Some(failure) if !self.has_answer => Err(failure),
                _ => Err(FailureKind::NoPrimary { shard, view }.at("cluster")),
            },
        }
    }
}
