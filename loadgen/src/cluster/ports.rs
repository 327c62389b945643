//! Free ports on the loopback interface.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Attempts at finding neighbours that are free as well.
const ATTEMPTS_MAX: usize = 200;

/// Ports below this are for services that are known by them.
const FIRST_PORT: u16 = 10_000;

/// Where the ports of outgoing connections begin.
fn first_outgoing_port() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_ascii_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(32_768)
}

/// A run of consecutive ports that are free, held until [`release`](Self::release) by listening on them.
#[derive(Debug)]
pub(crate) struct PortRange {
    base: u16,
    holds: Vec<TcpListener>,
}

impl PortRange {
    /// Holds `count` consecutive ports that are free.
    ///
    /// They are drawn from below those that the system gives to outgoing connections: whoever looks for a server that
    /// has been killed could otherwise be given the very port that it wants back.
    pub(crate) fn hold(count: u16) -> io::Result<Self> {
        let ports = FIRST_PORT..first_outgoing_port().saturating_sub(count).max(FIRST_PORT + 1);
        for _ in 0..ATTEMPTS_MAX {
            let base = rand::random_range(ports.clone());
            let listen = |offset: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, base.checked_add(offset)?)).ok();
            let holds: Vec<_> = (0..count).map_while(listen).collect();
            if holds.len() == usize::from(count) {
                return Ok(Self { base, holds });
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("found no {count} consecutive free ports on 127.0.0.1 in {ATTEMPTS_MAX} attempts"),
        ))
    }

    /// The first address of the range.
    pub(crate) fn base(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.base).into()
    }

    /// Gives the ports free for somebody else to bind.
    pub(crate) fn release(&mut self) {
        self.holds.clear();
    }

    /// Hands the listeners over, in port order.
    pub(crate) fn into_listeners(self) -> Vec<TcpListener> {
        self.holds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_consecutive_held_and_released() {
        let mut range = PortRange::hold(4).expect("four ports in a row are free");
        let base = range.base();
        let third = (base.ip(), base.port() + 2);
        assert!(TcpListener::bind(third).is_err(), "it is held");
        range.release();
        let listeners = PortRange::hold(2).expect("two ports in a row are free").into_listeners();
        let ports: Vec<_> = listeners.iter().map(|held| held.local_addr().expect("it is bound").port()).collect();
        assert_eq!(ports[1], ports[0] + 1);
    }
}
