//! Free ports on the loopback interface.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Attempts at finding neighbours that are free as well.
const ATTEMPTS_MAX: usize = 200;

/// A run of consecutive ports that are free, held until [`release`](Self::release) by listening on them.
#[derive(Debug)]
pub(super) struct PortRange {
    base: u16,
    holds: Vec<TcpListener>,
}

impl PortRange {
    /// Holds `count` consecutive ports that the system considers free.
    pub(super) fn hold(count: u16) -> io::Result<Self> {
        for _ in 0..ATTEMPTS_MAX {
            let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let base = first.local_addr()?.port();
            let mut holds = vec![first];
            let neighbours = (1..count).map_while(|offset| {
                let port = base.checked_add(offset)?;
                TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()
            });
            holds.extend(neighbours);
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
    pub(super) fn base(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.base).into()
    }

    /// Gives the ports free for somebody else to bind.
    pub(super) fn release(&mut self) {
        self.holds.clear();
    }

    /// Hands the listeners over, in port order.
    pub(super) fn into_listeners(self) -> Vec<TcpListener> {
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
