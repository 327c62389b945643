//! The addresses of servers that are running already.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How long each address of a name that has several may take to accept a connection.
const TRY_TIMEOUT: Duration = Duration::from_secs(1);

/// The address that `text` names: `HOST:PORT`, where the host is a name or an address.
///
/// # Errors
///
/// Says what is right, or why the name cannot be resolved.
pub(super) fn parse_target(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse::<SocketAddr>()
        && address.port() != 0
    {
        return Ok(address);
    }
    let wrong = || {
        "expected HOST:PORT, such as 127.0.0.1:7400, [::1]:7400 or db1.example.org:7400 (several with commas between)"
            .to_owned()
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
    if host.is_empty() || host.contains([':', '[', ']', '/', ' ']) {
        return Err(wrong());
    }
    let found = (host, port).to_socket_addrs().map_err(|error| format!("the name '{host}' is not known: {error}"))?;
    choose(&found.collect::<Vec<_>>()).ok_or_else(|| format!("the name '{host}' has no address"))
}

/// A name often has an address of each family, and a server listens on one of them: whichever accepts a connection is meant.
fn choose(found: &[SocketAddr]) -> Option<SocketAddr> {
    let accepts = |address: &&SocketAddr| TcpStream::connect_timeout(address, TRY_TIMEOUT).is_ok();
    let answering = if found.len() > 1 { found.iter().find(accepts) } else { None };
    answering.or_else(|| found.first()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_name_is_taken_as_well_as_an_address_and_means_where_somebody_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        assert_eq!(parse_target(&format!("localhost:{}", address.port())), Ok(address));
        assert_eq!(parse_target(&address.to_string()), Ok(address));
        assert_eq!(parse_target("[::1]:7400"), Ok("[::1]:7400".parse().expect("an address")));
    }

    #[test]
    fn what_is_no_address_is_answered_with_an_example() {
        for text in ["foo", "", ":7400", "host:", "host:0", "host:70000", "127.0.0.1:0", "::1", "http://host:80"] {
            let error = parse_target(text).expect_err(text);
            assert!(error.contains("such as 127.0.0.1:7400"), "{text}: {error}");
        }
        let error = parse_target("nowhere.invalid:7400").expect_err("no such name is ever given out");
        assert!(error.contains("'nowhere.invalid' is not known"), "{error}");
    }
}
