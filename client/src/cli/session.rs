//! The client behind the commands, made when the first of them needs it.

use std::time::Duration;

use lockstep_client::{Client, ClientOptions, Error};

use super::arguments::Arguments;

/// The client behind the commands.
pub struct Session {
    addresses: Vec<String>,
    timeout: Duration,
    client: Option<Client>,
}

impl Session {
    /// A session that is not connected yet.
    pub fn new(arguments: &Arguments) -> Session {
        Session { addresses: arguments.addresses(), timeout: arguments.timeout, client: None }
    }

    /// The client; finds the cluster if that was not done yet.
    pub async fn client(&mut self) -> Result<Client, Error> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        // A person waits: a single attempt must leave time for a second one within the timeout.
        let attempt = (self.timeout / 2).min(Duration::from_secs(1));
        let options = ClientOptions::new()
            .request_timeout(self.timeout)
            .connect_timeout(attempt)
            .attempt_timeout(attempt)
            .silence_timeout(attempt * 2);
        let client = Client::connect(self.addresses.clone(), options).await?;
        Ok(self.client.insert(client).clone())
    }
}
