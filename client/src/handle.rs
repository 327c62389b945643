//! The handle that callers hold, and a call's way from it to its shard's link.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use lockstep_proto::request::RequestHeader;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc, oneshot},
    time::{Instant, sleep, timeout_at},
};

use crate::{
    call::{Answer, Body, Call},
    config::ClientOptions,
    error::{Error, Outcome},
    link::Link,
    timer::Backoff,
    topology::{Cluster, Directory},
};

/// Unit in which bytes in flight are counted.
const BYTES_UNIT: usize = 1 << 10;

/// A client of one cluster. Cheap to clone; all clones share connections, sessions and bounds.
///
/// It may be used from any task and thread. Its own tasks run on the runtime on which it was made, and end when the
/// last clone is dropped. Dropping the future of a request gives up waiting, not the request: a write may still be
/// carried out.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
    request_timeout: Duration,
}

#[derive(Debug)]
struct Inner {
    directory: Arc<Directory>,
    options: Arc<ClientOptions>,
    runtime: Handle,
    /// One per shard, started when it is first used.
    links: Vec<OnceLock<LinkHandle>>,
}

/// The callers' side of a link.
#[derive(Debug)]
struct LinkHandle {
    /// Never full: it has as many places as there are permits.
    calls: mpsc::Sender<Call>,
    requests: Arc<Semaphore>,
    /// In units of [`BYTES_UNIT`].
    bytes: Arc<Semaphore>,
    bytes_max: u32,
}

impl Client {
    /// Finds the cluster through any of `addresses` (`host:port`, a server's base address) and learns its topology.
    ///
    /// Connections to the primaries are opened when they are first needed.
    ///
    /// # Errors
    ///
    /// If no address answers within the request timeout and the retry limit.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled.
    pub async fn connect<A: Into<String>>(
        addresses: impl IntoIterator<Item = A>,
        options: ClientOptions,
    ) -> Result<Client, Error> {
        let seeds: Vec<String> = addresses.into_iter().map(Into::into).collect();
        let deadline = Instant::now() + options.request_timeout;
        let mut backoff = Backoff::new(options.backoff_min, options.backoff_max);
        let mut rounds = 0;
        let directory = loop {
            let found = Directory::discover(seeds.clone(), &options).await;
            let failure = match found {
                Ok(directory) => break directory,
                Err(failure) => failure,
            };
            rounds += 1;
            let pause = backoff.pause();
            if failure.kind.is_permanent() || rounds > options.retries_max || Instant::now() + pause >= deadline {
                return Err(Error::from_failure(failure, Outcome::NotExecuted));
            }
            sleep(pause).await;
        };
        let shards = directory.cluster().shards;
        let request_timeout = options.request_timeout;
        let inner = Inner {
            directory: Arc::new(directory),
            options: Arc::new(options),
            runtime: Handle::current(),
            links: (0..shards).map(|_| OnceLock::new()).collect(),
        };
        Ok(Client { inner: Arc::new(inner), request_timeout })
    }

    /// The same client with another request timeout for the calls made through this handle.
    pub fn with_request_timeout(&self, timeout: Duration) -> Client {
        Client { inner: self.inner.clone(), request_timeout: timeout }
    }

    /// What is known about the cluster.
    pub fn cluster(&self) -> Arc<Cluster> {
        self.inner.directory.cluster()
    }

    /// Number of shards.
    pub fn shards(&self) -> u16 {
        // At most `SHARDS_MAX`, as it came as 16 bits from a topology.
        self.inner.links.len() as u16
    }

    /// The shard that owns a key.
    pub fn shard_of(&self, key: &[u8]) -> u16 {
        lockstep_proto::slot::shard_of_key(key, self.shards())
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    pub(crate) fn directory(&self) -> Arc<Directory> {
        self.inner.directory.clone()
    }

    pub(crate) fn options(&self) -> Arc<ClientOptions> {
        self.inner.options.clone()
    }

    /// Sends a request to a shard's primary and waits for the state machine's answer.
    pub(crate) async fn call(&self, shard: u16, body: Body) -> Result<Answer, Error> {
        let deadline = Instant::now() + self.request_timeout;
        let link = self.link(shard);
        let permits = link.admit(&body, deadline).await.ok_or(Error::Timeout {
            operation: body.operation,
            after: self.request_timeout,
            outcome: Outcome::NotExecuted,
        })?;
        let (reply, answer) = oneshot::channel();
        let call = Call {
            body,
            timeout: self.request_timeout,
            deadline,
            reply: Some(reply),
            permits: Some(permits),
            failed_attempts: 0,
        };
        link.calls.try_send(call).map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    fn link(&self, shard: u16) -> &LinkHandle {
        self.inner.links[usize::from(shard)].get_or_init(|| {
            let options = self.inner.options.clone();
            let (sender, receiver) = mpsc::channel(options.in_flight_max);
            let bytes_max = (options.in_flight_bytes_max / BYTES_UNIT) as u32;
            let handle = LinkHandle {
                calls: sender,
                requests: Arc::new(Semaphore::new(options.in_flight_max)),
                bytes: Arc::new(Semaphore::new(bytes_max as usize)),
                bytes_max,
            };
            self.inner.runtime.spawn(Link::new(shard, options, self.inner.directory.clone(), receiver).run());
            handle
        })
    }
}

impl LinkHandle {
    /// Waits for a place under the bounds. `None`: the deadline came first.
    async fn admit(
        &self,
        body: &Body,
        deadline: Instant,
    ) -> Option<(tokio::sync::OwnedSemaphorePermit, tokio::sync::OwnedSemaphorePermit)> {
        let size = RequestHeader::SIZE + body.bytes.len();
        let units = u32::try_from(size.div_ceil(BYTES_UNIT)).unwrap_or(u32::MAX).min(self.bytes_max);
        // Without a wait there is no need for a timer.
        if let Ok(request) = self.requests.clone().try_acquire_owned()
            && let Ok(bytes) = self.bytes.clone().try_acquire_many_owned(units)
        {
            return Some((request, bytes));
        }
        let acquire = async {
            let request = self.requests.clone().acquire_owned().await.ok()?;
            let bytes = self.bytes.clone().acquire_many_owned(units).await.ok()?;
            Some((request, bytes))
        };
        timeout_at(deadline, acquire).await.ok().flatten()
    }
}
