//! Where a server is.

use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs},
    str::FromStr,
};

/// Host and base port of a server; shard i is at the base port + i.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// The base port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host, as it was written; without the brackets of an IPv6 address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The same host with another port.
    pub fn with_port(&self, port: u16) -> Address {
        Address { host: self.host.clone(), port }
    }

    /// Finds the socket address of one shard. Blocks while a name is being looked up.
    ///
    /// # Errors
    ///
    /// If the name is not known, or the port of the shard is beyond 65535.
    pub fn resolve(&self, shard: u16) -> io::Result<SocketAddr> {
        let port = self
            .port
            .checked_add(shard)
            .ok_or_else(|| io::Error::other(format!("{self}: port of shard {shard} is beyond 65535")))?;
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", self.host));
        let mut found = (self.host.as_str(), port).to_socket_addrs().map_err(named)?;
        found.next().ok_or_else(|| named(io::Error::new(io::ErrorKind::NotFound, "no such host")))
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        let wrong = || format!("`{text}` is not an address; write host:port, such as 10.0.0.1:7000 or [::1]:7000");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').ok_or_else(wrong)?,
            None if host.contains(':') => return Err(wrong()),
            None => host,
        };
        let is_plausible = !host.is_empty() && host.len() <= 253 && !host.contains([',', '/', '@', '[', ']', ' ']);
        match port.parse() {
            Ok(port) if is_plausible => Ok(Address { host: host.to_owned(), port }),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_names_and_both_kinds_of_ip_are_understood_and_shown_as_written() {
        for text in ["127.0.0.1:7000", "node-1.example:80", "[::1]:7000", "localhost:0"] {
            assert_eq!(text.parse::<Address>().map(|address| address.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn what_is_not_an_address_is_answered_with_an_example() {
        for text in ["", "7000", ":7000", "host", "host:", "host:70000", "::1:7000", "[::1:7000", "a b:1", "h:1,h:2"] {
            let error = text.parse::<Address>().expect_err(text);
            assert!(error.contains("write host:port"), "{error}");
        }
    }

    #[test]
    fn a_shard_is_at_the_base_port_plus_its_number() {
        let address: Address = "127.0.0.1:7000".parse().expect("valid");
        assert_eq!(address.resolve(3).expect("an IP needs no look-up"), "127.0.0.1:7003".parse().expect("valid"));
        let address: Address = "127.0.0.1:65535".parse().expect("valid");
        assert!(address.resolve(1).expect_err("beyond").to_string().contains("beyond 65535"));
    }
}
