//! The admin port: metrics, health and status over HTTP.
//!
//! It runs on the main thread, reads what the shards count and publish, and never makes a shard wait: only `/state-hash`
//! asks a shard to do something.

mod health;
mod routes;
#[cfg(test)]
pub(crate) mod tests;

pub use health::{Health, STALE_AFTER, health_of};
pub use routes::router;

use std::{io, net::SocketAddr, sync::Arc};

use tokio::sync::mpsc;

use crate::{
    metrics::{ShardMetrics, StatusCell},
    shard::AdminCommand,
};

/// What the admin port has of one shard.
#[derive(Clone, Debug)]
pub struct ShardHandle {
    /// The shard's numbers.
    pub metrics: Arc<ShardMetrics>,
    /// Where the shard publishes its status.
    pub status: Arc<StatusCell>,
    /// Takes questions to the shard.
    pub commands: mpsc::Sender<AdminCommand>,
}

/// Listens on the admin address.
///
/// # Errors
///
/// If the address is in use or not this host's.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    // Tokio takes sockets that are not blocking only.
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Answers on `listener` until the task is dropped. `shards` are in order, by number.
///
/// # Errors
///
/// If the listener cannot be used. Failing connections are not errors of the server.
pub async fn serve(listener: std::net::TcpListener, shards: Vec<ShardHandle>) -> io::Result<()> {
    axum::serve(tokio::net::TcpListener::from_std(listener)?, router(shards)).await
}
