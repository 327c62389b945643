//! What can be set about a client.

use std::time::Duration;

/// How a client behaves; every setting has a default that suits a cluster in one data centre.
///
/// ```
/// use std::time::Duration;
/// use lockstep_client::ClientOptions;
///
/// let options = ClientOptions::new()
///     .request_timeout(Duration::from_secs(2))
///     .in_flight_max(4096);
/// assert_eq!(options.get_request_timeout(), Duration::from_secs(2));
/// ```
#[derive(Clone, Debug)]
pub struct ClientOptions {
    pub(crate) request_timeout: Duration,
    pub(crate) attempt_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) silence_timeout: Duration,
    pub(crate) probe_after: Duration,
    pub(crate) retries_max: u32,
    pub(crate) backoff_min: Duration,
    pub(crate) backoff_max: Duration,
    pub(crate) retry_budget: u32,
    pub(crate) in_flight_max: usize,
    pub(crate) in_flight_bytes_max: usize,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            request_timeout: Duration::from_secs(5),
            attempt_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
            silence_timeout: Duration::from_secs(2),
            probe_after: Duration::from_millis(100),
            retries_max: 64,
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_secs(1),
            retry_budget: 2_048,
            in_flight_max: 1_024,
            in_flight_bytes_max: 64 << 20,
        }
    }
}

impl ClientOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long a request may take, repeats and waiting for a place included. Default: 5 s.
    ///
    /// A write that is given up after it was sent has an unknown outcome: see [`crate::Outcome`].
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// The request timeout that is set.
    pub fn get_request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// After how long without an answer, or another word from the server, a request is sent again on the same
    /// connection, under the same session and sequence. Doubles with each repeat. Default: 1 s.
    ///
    /// Too short a time makes a slow cluster slower: the server gets the bytes again, though it carries them out once.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout.max(Duration::from_millis(1));
        self
    }

    /// How long a connection may take to come about, hello and topology included. Default: 1 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout.max(Duration::from_millis(1));
        self
    }

    /// After how long without a whole reply from a server that owes one its connection is given up. A ping is sent at
    /// half of it, and a server that owes answers says every 200 ms that it is there, so one that is alive but slow to
    /// commit, or that reads nothing because its journal is full, keeps its connection. Choose a second or more.
    /// Default: 2 s.
    pub fn silence_timeout(mut self, timeout: Duration) -> Self {
        self.silence_timeout = timeout.max(Duration::from_millis(2));
        self
    }

    /// After how long without an answer to a request the other servers are asked, beside waiting on, whether there is a
    /// new primary by now; after that with pauses that double from 20 ms to a second. Its own connection is given up
    /// only for one of a later view. Default: 100 ms.
    pub fn probe_after(mut self, time: Duration) -> Self {
        self.probe_after = time.max(Duration::from_millis(1));
        self
    }

    /// How many times a request is sent again before it fails. While no server can be found that takes requests, as
    /// during a failover, the servers are asked far more often; there, each pause that [`ClientOptions::backoff`] would
    /// make counts as one time. Default: 64, so that the request timeout decides.
    pub fn retries_max(mut self, retries: u32) -> Self {
        self.retries_max = retries;
        self
    }

    /// Bounds of the pause before a request that was refused as too much is sent again. The pause is uniform between
    /// zero and a ceiling ("full jitter") that starts at `min` and doubles up to `max`. Default: 10 ms, 1 s.
    pub fn backoff(mut self, min: Duration, max: Duration) -> Self {
        self.backoff_min = min.max(Duration::from_millis(1));
        self.backoff_max = max.max(self.backoff_min);
        self
    }

    /// How many repeats per shard may be outstanding on credit. Each repeat on an unbroken connection, after a refusal
    /// or for want of an answer, takes one from this budget; five requests that succeed give one back, and a tenth of
    /// the whole comes back each second. When it is spent, requests fail instead of being repeated, so that clients do
    /// not keep down a cluster that is trying to get up. What is sent again to a new primary is not counted:
    /// connections are opened at a measured pace. Default: 2048.
    pub fn retry_budget(mut self, budget: u32) -> Self {
        self.retry_budget = budget;
        self
    }

    /// Requests per shard that may be unanswered at one time; more of them wait in their callers. Of these at most the
    /// session's window (256) are writes that have been sent. Default: 1024, at most 65,536.
    pub fn in_flight_max(mut self, requests: usize) -> Self {
        self.in_flight_max = requests.clamp(1, 65_536);
        self
    }

    /// Bytes per shard that unanswered requests may take up together. One request always passes, however large it is.
    /// Default: 64 MiB, at most 2 GiB.
    pub fn in_flight_bytes_max(mut self, bytes: usize) -> Self {
        self.in_flight_bytes_max = bytes.clamp(1 << 10, 2 << 30);
        self
    }
}
