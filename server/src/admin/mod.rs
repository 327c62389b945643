//! The admin port: metrics, health and status over HTTP.
//!
//! It runs on the main thread, reads what the shards count and publish, and never makes a shard wait: only
//! `/state-hash` asks a shard to do something.

mod health;
mod routes;
#[cfg(test)]
pub(crate) mod tests;

pub use health::{Health, STALE_AFTER, health_of};
pub use routes::router;

use std::{io, net::SocketAddr, sync::Arc};

use axum::serve::Listener;
use tokio::sync::mpsc;
use tracing::warn;

use crate::{
    file_limit::FileLimit,
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
    let listener = Bounded {
        listener: tokio::net::TcpListener::from_std(listener)?,
        shards: shards.len() as u16,
        is_short: false,
    };
    axum::serve(listener, router(shards)).await
}

/// Takes connections as long as the server has files for itself.
struct Bounded {
    listener: tokio::net::TcpListener,
    shards: u16,
    /// Whether the last connection was one too many, which is logged once.
    is_short: bool,
}

impl Listener for Bounded {
    type Io = tokio::net::TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, peer) = Listener::accept(&mut self.listener).await;
            let limit = FileLimit::now(self.shards);
            if limit.has_room_for_caller(&stream) {
                self.is_short = false;
                return (stream, peer);
            }
            drop(stream);
            if !std::mem::replace(&mut self.is_short, true) {
                warn!(%peer, "closing connections to the admin port at once: {}", limit.refusal());
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}
