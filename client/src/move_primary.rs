//! Handing a shard over to another server while everything is well.

use std::time::Duration;

use lockstep_proto::{
    Operation, Status,
    request::{MOVE_TO_ANY, RequestParts, encode_request},
};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    error::{Error, Failure, FailureKind, Outcome},
    handle::Client,
    search::Search,
    socket::{Response, Socket},
    status::{ReplicaRole, ask},
};

/// Pause between two looks whether the new primary serves, and before a question is asked again.
const PAUSE: Duration = Duration::from_millis(2);

/// What became of a shard whose primary was moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The shard.
    pub shard: u16,
    /// The server that was the primary.
    pub from: u8,
    /// The server that is the primary now; the same one if it was already.
    pub to: u8,
    /// The view in which it is.
    pub view: u64,
    /// How long it took, from the request until the new primary served.
    pub took: Duration,
}

/// What one attempt led to.
enum Step {
    /// The primary of this view takes over, or has done so already.
    Agreed { from: u8, view: u64 },
    /// Somebody else has to be asked, or the same again.
    Again(Failure),
}

impl Client {
    /// Lets another server become the primary of a shard: `to`, or the best of the others. Returns once that one
    /// serves.
    ///
    /// Requests that are in flight meanwhile are answered as always, a little later.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if there is no such shard or server; [`Error::Refused`] if the primary keeps its
    /// place, with the reason; [`Error::Timeout`] and [`Error::Unavailable`] if no primary answers in time, or the new
    /// one does not.
    pub async fn move_primary(&self, shard: u16, to: Option<u8>) -> Result<Moved, Error> {
        let cluster = self.cluster();
        if shard >= self.shards() {
            return Err(Error::none_such("shard", shard, usize::from(self.shards())));
        }
        if let Some(to) = to
            && usize::from(to) >= cluster.servers.len()
        {
            return Err(Error::none_such("server", to, cluster.servers.len()));
        }
        let started = Instant::now();
        let deadline = started + self.request_timeout();
        let mut search = Search::new(shard, self.directory(), self.options());
        let mut is_in_doubt = false;
        let mut last_failure = None;
        let (from, view) = loop {
            let step = timeout_at(deadline, attempt(&mut search, to, &mut is_in_doubt)).await;
            match step {
                Ok(Ok(Step::Agreed { from, view })) => break (from, view),
                Ok(Ok(Step::Again(failure))) if Instant::now() + PAUSE < deadline => last_failure = Some(failure),
                Ok(Err(error)) => return Err(error),
                _ => return Err(self.out_of_time(last_failure, is_in_doubt)),
            }
            sleep(PAUSE).await;
        };
        let primary = (view % cluster.servers.len() as u64) as u8;
        let base = &cluster.servers[usize::from(primary)];
        loop {
            let asked = timeout_at(deadline, ask(self, base, shard)).await;
            if let Ok(Ok(replica)) = &asked
                && replica.role == ReplicaRole::Primary
                && replica.view >= view
            {
                return Ok(Moved { shard, from, to: primary, view: replica.view, took: started.elapsed() });
            }
            if let Ok(Ok(replica)) = &asked
                && replica.view > view
            {
                // Somebody else has taken over since, which is as good.
                return Ok(Moved {
                    shard,
                    from,
                    to: (replica.view % cluster.servers.len() as u64) as u8,
                    view: replica.view,
                    took: started.elapsed(),
                });
            }
            if Instant::now() + PAUSE >= deadline {
                let kind = asked.ok().and_then(Result::err).unwrap_or(FailureKind::NoPrimary { shard, view });
                return Err(Error::from_failure(kind.at(base), Outcome::Unknown));
            }
            sleep(PAUSE).await;
        }
    }

    fn out_of_time(&self, failure: Option<Failure>, is_in_doubt: bool) -> Error {
        let outcome = if is_in_doubt { Outcome::Unknown } else { Outcome::NotExecuted };
        match failure {
            Some(failure) => Error::from_failure(failure, outcome),
            None => Error::Timeout { operation: Operation::MovePrimary, after: self.request_timeout(), outcome },
        }
    }
}

/// Asks whoever is the primary. `is_in_doubt` tells whether an earlier question may have been heard although it was not
/// answered, and is set while one is out.
async fn attempt(search: &mut Search, to: Option<u8>, is_in_doubt: &mut bool) -> Result<Step, Error> {
    let view_before = search.view();
    let socket = match search.round(*is_in_doubt).await {
        Ok(socket) => socket,
        Err(failure) if failure.kind.is_permanent() => {
            return Err(Error::from_failure(failure, Outcome::NotExecuted));
        }
        Err(failure) => return Ok(Step::Again(failure)),
    };
    let (from, view, servers) = (socket.topology.replica, socket.topology.view, u64::from(socket.topology.servers));
    if *is_in_doubt && view > view_before {
        // The answer was lost, but a later view has come about.
        let from = (view_before % servers) as u8;
        if to.is_none_or(|to| u64::from(to) == view % servers) {
            return Ok(Step::Agreed { from, view });
        }
    }
    let address = socket.address.clone();
    *is_in_doubt = true;
    let response = match request(socket, to).await {
        Ok(response) => response,
        Err(kind) => return Ok(Step::Again(kind.at(&address))),
    };
    *is_in_doubt = false;
    let view_named = response.body[..].try_into().ok().map(u64::from_le_bytes);
    match response.status {
        Status::Ok => Ok(Step::Agreed { from, view: view_named.unwrap_or(view) }),
        Status::NotPrimary => {
            search.hear_of(view_named.unwrap_or(view));
            Ok(Step::Again(FailureKind::Status(Status::NotPrimary).at(&address)))
        }
        status => Err(Error::Refused { status, message: String::from_utf8_lossy(&response.body).into_owned() }),
    }
}

async fn request(socket: Socket, to: Option<u8>) -> Result<Response, FailureKind> {
    let mut frame = Vec::new();
    let parts = RequestParts {
        operation: Operation::MovePrimary,
        flags: 0,
        session: 0,
        sequence: 1,
        key: &[],
        arguments: &[to.unwrap_or(MOVE_TO_ANY)],
        value: &[],
    };
    encode_request(&parts, &mut frame);
    socket.exchange(&frame, Operation::MovePrimary).await
}
