//! Free ports on this host.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
};

/// Ports of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerPorts {
    /// Port of shard 0; the other shards follow.
    pub base: u16,
    /// Port of the admin address.
    pub admin: u16,
    /// Port of shard 0 for Redis clients, if they are served; the other shards follow.
    pub resp: Option<u16>,
}

/// Attempts to be lucky with ports that the system chooses and that have to follow each other.
const ATTEMPTS_MAX: usize = 200;

/// Finds ports on 127.0.0.1 that are free now, for each of `servers` with `shards`, and for Redis clients if
/// `with_resp`.
///
/// They are looked for from `first` upwards, or wherever the system likes if that is 0. They are free again when this
/// returns: whoever is fast could take one before the server does, which then says so and ends.
///
/// # Errors
///
/// If there are not enough free ports.
pub fn find(first: u16, servers: u8, shards: u16, with_resp: bool) -> io::Result<Vec<ServerPorts>> {
    // Kept until all are found, so that none is found twice.
    let mut held = Vec::new();
    let mut next = first;
    let mut found = Vec::with_capacity(servers as usize);
    for _ in 0..servers {
        let size = if with_resp { 2 * shards + 1 } else { shards + 1 };
        let block = if first == 0 { chosen_block(size)? } else { block_from(&mut next, size)? };
        let base = block[0].local_addr()?.port();
        found.push(ServerPorts { base, admin: base + shards, resp: with_resp.then_some(base + shards + 1) });
        held.extend(block);
    }
    Ok(found)
}

fn bind(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

/// The first free ports in a row from `next` on, which is moved behind them.
fn block_from(next: &mut u16, size: u16) -> io::Result<Vec<TcpListener>> {
    let mut block = Vec::with_capacity(size as usize);
    while block.len() < size as usize {
        let port = *next;
        *next =
            port.checked_add(1).ok_or_else(|| io::Error::other("no free ports up to 65535: choose a lower --port"))?;
        match bind(port) {
            Ok(listener) => block.push(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => block.clear(),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(io::Error::other(format!("port {port} needs more rights: choose a --port above 1023")));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(block)
}

/// Ports in a row of which the system chose the first.
fn chosen_block(size: u16) -> io::Result<Vec<TcpListener>> {
    for _ in 0..ATTEMPTS_MAX {
        let mut block = vec![bind(0)?];
        let base = block[0].local_addr()?.port();
        let rest = (1..size).map(|index| bind(base.checked_add(index).ok_or(io::ErrorKind::AddrInUse)?));
        if let Ok(rest) = rest.collect::<io::Result<Vec<_>>>() {
            block.extend(rest);
            return Ok(block);
        }
    }
    Err(io::Error::other("no free ports in a row: give a --port to look from"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_chosen_by_the_system_do_not_overlap() {
        let found = find(0, 3, 2, true).expect("free ports");
        let mut ports: Vec<u16> = found
            .iter()
            .flat_map(|server| {
                let resp = server.resp.expect("asked for");
                [server.base, server.base + 1, server.admin, resp, resp + 1]
            })
            .collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 15);
    }

    #[test]
    fn a_port_in_use_is_skipped_with_all_before_it_in_its_row() {
        let block = chosen_block(4).expect("free ports");
        let base = block[0].local_addr().expect("bound").port();
        let taken = block.into_iter().nth(1);
        let found = find(base, 1, 1, false).expect("free ports");
        assert!(found[0].base >= base + 2, "{found:?} with {} in use", base + 1);
        drop(taken);
    }

    #[test]
    fn running_out_of_ports_is_an_error_that_says_what_to_do() {
        let error = find(65535, 1, 1, false).expect_err("only one port is left");
        assert!(error.to_string().contains("--port"), "{error}");
    }
}
