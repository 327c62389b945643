//! One shard's link: the task that carries calls to the shard's primary and their answers back.
//!
//! Callers hand their calls over through a bounded channel and wait for the answer; everything else is this task's: the
//! connection, the session and its window, timeouts and repeats. A caller that stops waiting only lets go of its end
//! of a channel, so it cannot leave the connection or the window in a state that nobody looks after.
//!
//! [`crate::attempts`] holds the decisions about what becomes of a request, [`crate::flight`] what is numbered and
//! unanswered.

use std::{
    collections::VecDeque,
    pin::{Pin, pin},
    sync::Arc,
};

use lockstep_proto::decoder::StreamDecoder;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    call::Call,
    config::ClientOptions,
    error::{Failure, FailureKind},
    flight::Flight,
    search::{Search, look_for_newer},
    session::Session,
    socket::{Outgoing, PIECE_SIZE, Socket},
    timer::{Backoff, LookBackoff, Outage, RetryBudget, Wake},
    topology::Directory,
};

/// Calls that are taken over before the loop looks at its socket again.
const CALLS_PER_TURN: usize = 256;

/// The state of one shard's link. Runs as a task of its own until the last handle of the client is gone.
pub(crate) struct Link {
    pub(crate) shard: u16,
    pub(crate) options: Arc<ClientOptions>,
    directory: Arc<Directory>,
    calls: mpsc::Receiver<Call>,
    /// Taken over but without a number. Bounded, like everything a call can be in, by the permits of the calls.
    pub(crate) waiting_writes: VecDeque<Call>,
    pub(crate) waiting_unlogged: VecDeque<Call>,
    pub(crate) flight: Flight,
    /// Numbers whose requests are queued, in the order in which they will be encoded.
    pub(crate) unsent: VecDeque<u64>,
    pub(crate) session: Session,
    pub(crate) wake: Wake,
    pub(crate) backoff: Backoff,
    pub(crate) budget: RetryBudget,
    /// The time without a server that takes requests; `None` while there is one, as far as is known.
    pub(crate) outage: Option<Outage>,
    /// When to look for a newer primary, as long as the present one owes answers for long.
    pub(crate) look_backoff: LookBackoff,
    /// The highest view heard of.
    pub(crate) view: u64,
    /// The server that is connected; `None` while there is no connection.
    pub(crate) peer: Option<String>,
    /// Since when the server has owed an answer without giving any; `None` while it owes none.
    pub(crate) owed_since: Option<Instant>,
    /// When it was asked for a sign of life.
    pub(crate) ping_at: Option<Instant>,
    /// When the server, owing answers, last said that it is there.
    pub(crate) kept_alive_at: Option<Instant>,
    /// What has kept requests from being answered; `None` once one was.
    pub(crate) last_failure: Option<Failure>,
}

/// A look for a newer primary, under way.
type Look = Pin<Box<dyn Future<Output = (Search, Option<Socket>)> + Send>>;

/// Why a connection is no longer served.
enum Ended {
    /// Nobody can make calls any more.
    ClientGone,
    /// The connection cannot be used any more.
    Lost(FailureKind),
    /// Another server is the primary of a later view, and this is a connection to it.
    Superseded(Box<Socket>),
}

impl Link {
    pub(crate) fn new(
        shard: u16,
        options: Arc<ClientOptions>,
        directory: Arc<Directory>,
        calls: mpsc::Receiver<Call>,
    ) -> Link {
        let now = Instant::now();
        Link {
            shard,
            calls,
            waiting_writes: VecDeque::new(),
            waiting_unlogged: VecDeque::new(),
            flight: Flight::new(directory.cluster().window.into()),
            unsent: VecDeque::new(),
            session: Session::None,
            wake: Wake::default(),
            backoff: Backoff::new(options.backoff_min, options.backoff_max),
            budget: RetryBudget::new(options.retry_budget, now),
            outage: None,
            look_backoff: LookBackoff::default(),
            view: 0,
            peer: None,
            owed_since: None,
            ping_at: None,
            kept_alive_at: None,
            last_failure: None,
            options,
            directory,
        }
    }

    /// Serves calls until the client is gone.
    pub(crate) async fn run(mut self) {
        let mut search = self.new_search();
        let mut superseding = None;
        loop {
            if self.is_idle() {
                // No connection is opened, or opened again, before someone has a use for it.
                match self.calls.recv().await {
                    Some(call) => self.accept(call),
                    None => return,
                }
            }
            let connected = match superseding.take() {
                Some(socket) => Ok(socket),
                None => {
                    search.hear_of(self.view);
                    let is_hurried = self.outage.is_some();
                    match self.while_waiting(search.round(is_hurried)).await {
                        Some(result) => result,
                        None => return,
                    }
                }
            };
            match connected {
                Err(failure) => self.round_failed(failure),
                Ok(socket) => {
                    let was_good = self.outage.is_none();
                    let ended = self.serve(socket).await;
                    let is_first_loss = was_good || self.outage.is_none();
                    match ended {
                        Ended::ClientGone => return,
                        Ended::Superseded(socket) => {
                            self.connection_lost(FailureKind::Superseded { view: socket.topology.view });
                            superseding = Some(*socket);
                        }
                        Ended::Lost(kind) => self.connection_lost(kind),
                    }
                    if superseding.is_some() || is_first_loss {
                        // Whoever is the primary now may be waiting for us.
                        continue;
                    }
                }
            }
            if let Some(outage) = &self.outage
                && !self.is_idle()
            {
                let pause = sleep(outage.pause(Instant::now(), &self.backoff));
                if self.while_waiting(pause).await.is_none() {
                    return;
                }
            }
        }
    }

    fn new_search(&self) -> Search {
        Search::new(self.shard, self.directory.clone(), self.options.clone())
    }

    fn is_idle(&self) -> bool {
        self.waiting_writes.is_empty() && self.waiting_unlogged.is_empty() && self.flight.is_empty()
    }

    /// Waits for `future` without leaving calls or deadlines unattended. `None`: the client is gone.
    async fn while_waiting<F: Future>(&mut self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        loop {
            let wake = self.wake.at();
            tokio::select! {
                output = &mut future => return Some(output),
                call = self.calls.recv() => self.accept(call?),
                () = sleep_until_some(wake) => self.expire(Instant::now()),
            }
        }
    }

    /// Takes a call over.
    fn accept(&mut self, call: Call) {
        self.wake.lower(call.deadline);
        if call.operation().is_logged() {
            self.waiting_writes.push_back(call);
        } else {
            self.waiting_unlogged.push_back(call);
        }
    }

    /// Carries frames both ways until the connection or the client ends.
    async fn serve(&mut self, socket: Socket) -> Ended {
        let Socket { address, mut stream, topology, mut decoder } = socket;
        self.view = topology.view;
        self.flight.resize_window(topology.window.into());
        self.peer = Some(address);
        self.queue_everything();
        let (mut reader, mut writer) = stream.split();
        let mut outgoing = Outgoing::default();
        let mut piece = vec![0; PIECE_SIZE].into_boxed_slice();
        let mut alarm = pin!(sleep_until(Instant::now()));
        // A look for a newer primary, while requests have been unanswered for long; between two looks the search rests.
        let mut look: Option<Look> = None;
        let mut resting_search = None;
        let kind = loop {
            if let Err(kind) = self.take_replies(&mut decoder) {
                break kind;
            }
            let now = Instant::now();
            self.encode_what_fits(now, &mut outgoing);
            // A search that rests may still hold connections to others, of questions that it no longer needs.
            if (look.is_some() || resting_search.is_some()) && !self.is_in_doubt(now) {
                look = None;
                resting_search = None;
            }
            if let Some(at) = self.wake.at()
                && alarm.deadline() != at
            {
                alarm.as_mut().reset(at);
            }
            // All three of read, write and recv are free of effects when another branch is taken.
            tokio::select! {
                read = reader.read(&mut piece) => match read {
                    Ok(0) => break FailureKind::Closed,
                    Ok(size) => decoder.push(&piece[..size]),
                    Err(error) => break error.into(),
                },
                written = writer.write(outgoing.rest()), if !outgoing.rest().is_empty() => match written {
                    Ok(size) => outgoing.advance(size),
                    Err(error) => break error.into(),
                },
                call = self.calls.recv() => match call {
                    Some(call) => self.accept_many(call),
                    None => return Ended::ClientGone,
                },
                () = &mut alarm, if self.wake.at().is_some() => {
                    let now = Instant::now();
                    self.expire(now);
                    if let Err(kind) = self.check_silence(now) {
                        break kind;
                    }
                    if look.is_none() && self.is_look_due(now) {
                        self.look_backoff.begin_look(now, rand::random_range(0.0..=1.0));
                        let search = resting_search.take().unwrap_or_else(|| self.new_search());
                        look = Some(Box::pin(look_for_newer(search, self.view)));
                    }
                }
                (search, found) = async { look.as_mut().expect("somebody looks").await }, if look.is_some() => {
                    look = None;
                    if let Some(socket) = found {
                        self.look_backoff = LookBackoff::default();
                        return Ended::Superseded(Box::new(socket));
                    }
                    resting_search = Some(search);
                    let next_at = self.look_backoff.end_look(Instant::now());
                    self.wake.lower(next_at);
                }
            }
        };
        Ended::Lost(kind)
    }

    fn accept_many(&mut self, first: Call) {
        self.accept(first);
        for _ in 1..CALLS_PER_TURN {
            let Ok(call) = self.calls.try_recv() else { break };
            self.accept(call);
        }
    }

    /// Settles the requests of every whole reply that has arrived.
    ///
    /// A server that is no longer the primary says so to every request; all of that is taken in before the connection
    /// is given up, since a request that was refused is known not to have been carried out.
    fn take_replies(&mut self, decoder: &mut StreamDecoder) -> Result<(), FailureKind> {
        let mut result = Ok(());
        let now = Instant::now();
        let mut has_replies = false;
        while let Some(reply) = decoder.next_reply()? {
            has_replies = true;
            match self.on_reply(&reply, now) {
                Err(kind @ FailureKind::Status(_)) => result = Err(kind),
                other => other?,
            }
        }
        if has_replies {
            self.heard(now);
        }
        result
    }

    /// Numbers and encodes as much as the window and the outgoing buffer have room for.
    fn encode_what_fits(&mut self, now: Instant, outgoing: &mut Outgoing) {
        while outgoing.has_room() {
            let Some(sequence) = self.unsent.pop_front().or_else(|| self.number_next(now)) else {
                break;
            };
            self.encode(sequence, now, outgoing.buffer());
        }
    }
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
