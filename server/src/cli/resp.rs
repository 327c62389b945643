//! Options of the Redis front door.

use std::{fmt, fs, path::PathBuf};

use clap::Args;

use super::{
    address::Address,
    units::{parse_size, show_size},
};
use crate::resp::memory::CLIENT_MEMORY_MIN;

/// Largest password, in bytes.
pub const PASSWORD_SIZE_MAX: usize = 512;

/// Options of the Redis front door, as they are written.
#[derive(Args, Clone, Debug, Default)]
pub struct RespArgs {
    /// Where to serve Redis clients [default: nowhere]
    ///
    /// Base port: shard i is at its port + i. Any of them takes every command, unless `--cluster-mode` is given. Not encrypted: a
    /// password given with `--requirepass` can be read by whoever can read the network.
    #[arg(long, value_name = "HOST:PORT", help_heading = "Redis clients")]
    pub resp: Option<Address>,

    /// Where Redis clients find the servers, in the order of their ids [default: as --peers, with the port of --resp]
    ///
    /// What `-MOVED`, `CLUSTER SLOTS` and `SENTINEL` tell clients. Base ports, as for `--resp`.
    #[arg(long, value_name = "HOST:PORT,..", value_delimiter = ',', requires = "resp", help_heading = "Redis clients")]
    pub resp_peers: Vec<Address>,

    /// Let each shard be a node of a Redis Cluster
    ///
    /// A key of another shard or server is answered with `-MOVED`, and cluster clients go to the right place by themselves: fastest.
    /// Without it, a key of another shard is passed on inside the server, and a server that is not primary answers
    /// `-READONLY`; plain and sentinel clients work. Give every server the same.
    #[arg(long, requires = "resp", help_heading = "Redis clients")]
    pub cluster_mode: bool,

    /// Password that Redis clients have to give with AUTH or HELLO [default: none is needed]
    ///
    /// Other users of this host see it in the list of processes: `--requirepass-file` does not show it.
    #[arg(long, value_name = "PASSWORD", requires = "resp", help_heading = "Redis clients")]
    pub requirepass: Option<String>,

    /// File with the password: its first line
    #[arg(
        long,
        value_name = "FILE",
        requires = "resp",
        conflicts_with = "requirepass",
        help_heading = "Redis clients"
    )]
    pub requirepass_file: Option<PathBuf>,

    /// Largest number of Redis clients of this server, all shards together
    ///
    /// Beyond it, a client is told so and its connection is closed. `CONFIG SET maxclients` changes it while the server runs.
    #[arg(long, value_name = "N", default_value_t = CLIENTS_MAX, help_heading = "Redis clients")]
    pub resp_clients_max: u32,

    /// Memory that all Redis clients of this server together may hold; 0 for no bound
    ///
    /// Answers that are not taken, commands that are not complete, transactions, names that are watched or listened to. Beyond it, the
    /// clients that hold most are closed, except those that said `CLIENT NO-EVICT on`. Up to 16 KiB of each client are not counted.
    /// `CONFIG SET maxmemory-clients` changes it while the server runs. Small: clients that read large values slowly are closed. Large:
    /// they can drive the server out of memory.
    #[arg(
        long,
        value_name = "SIZE",
        default_value = CLIENT_MEMORY,
        value_parser = parse_size,
        help_heading = "Redis clients"
    )]
    pub resp_clients_memory: u64,

    /// Name under which SENTINEL knows this cluster
    ///
    /// Sentinel clients ask for the address of the primary by it. Give every server the same.
    #[arg(long, value_name = "NAME", default_value = MASTER_NAME, help_heading = "Redis clients")]
    pub master_name: String,
}

/// Default of `--resp-clients-max`, as Redis's `maxclients`.
pub(super) const CLIENTS_MAX: u32 = 10_000;

/// Default of `--resp-clients-memory`.
const CLIENT_MEMORY: &str = "1GiB";

/// Default of `--master-name`, as in every example of a sentinel.
const MASTER_NAME: &str = "mymaster";

/// A password. It does not show in logs.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Password(pub Vec<u8>);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "(not shown)" })
    }
}

/// The settings of the Redis front door, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RespOptions {
    /// Where to listen: base port.
    pub listen: Address,
    /// Where clients find the servers, by id: base ports.
    pub peers: Vec<Address>,
    /// Whether each shard is a node of a Redis Cluster.
    pub is_cluster: bool,
    /// The password; empty for none.
    pub password: Password,
    /// Largest number of clients.
    pub clients_max: u32,
    /// Memory that all clients together may hold, in bytes; 0 for no bound.
    pub client_bytes_max: u64,
    /// Name under which SENTINEL knows the cluster.
    pub master_name: String,
}

impl RespArgs {
    /// Checks everything that does not depend on the data folder. `None` if Redis clients are not served.
    ///
    /// # Errors
    ///
    /// A text that names the option and says what to do.
    pub fn validate(&self, peers: &[Address]) -> Result<Option<RespOptions>, String> {
        let Some(listen) = self.resp.clone() else { return Ok(None) };
        if !self.resp_peers.is_empty() {
            super::start::check_addresses("--resp-peers", &self.resp_peers)?;
            if self.resp_peers.len() != peers.len() {
                return Err(format!(
                    "--resp-peers has {} addresses and --peers has {}: give one for each server, in the order of their ids",
                    self.resp_peers.len(),
                    peers.len()
                ));
            }
        }
        let told = if self.resp_peers.is_empty() {
            peers.iter().map(|peer| peer.with_port(listen.port())).collect()
        } else {
            self.resp_peers.clone()
        };
        super::start::within("--resp-clients-max", u64::from(self.resp_clients_max), 1, 1_000_000)?;
        if self.resp_clients_memory > 0 && self.resp_clients_memory < CLIENT_MEMORY_MIN {
            return Err(format!(
                "--resp-clients-memory is {}: choose 0, for no bound, or at least {}",
                show_size(self.resp_clients_memory),
                show_size(CLIENT_MEMORY_MIN)
            ));
        }
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if self.master_name.is_empty() || !self.master_name.bytes().all(is_word) {
            return Err(format!("--master-name is `{}`: choose letters, digits, `.`, `-` and `_`", self.master_name));
        }
        Ok(Some(RespOptions {
            listen,
            peers: told,
            is_cluster: self.cluster_mode,
            password: self.password()?,
            clients_max: self.resp_clients_max,
            client_bytes_max: self.resp_clients_memory,
            master_name: self.master_name.clone(),
        }))
    }

    fn password(&self) -> Result<Password, String> {
        let (option, password) = match (&self.requirepass, &self.requirepass_file) {
            (Some(password), _) => ("--requirepass", password.clone().into_bytes()),
            (None, Some(file)) => {
                let text = fs::read(file)
                    .map_err(|error| format!("--requirepass-file: {} cannot be read: {error}", file.display()))?;
                let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
                ("--requirepass-file", line.strip_suffix(b"\r").unwrap_or(line).to_vec())
            }
            (None, None) => return Ok(Password::default()),
        };
        if password.is_empty() || password.len() > PASSWORD_SIZE_MAX {
            return Err(format!(
                "{option}: the password has {} bytes: choose one of 1 to {PASSWORD_SIZE_MAX}",
                password.len()
            ));
        }
        Ok(Password(password))
    }
}

impl RespOptions {
    /// The addresses that have to fit the data folder's identity, each with its option.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (&'static str, Option<&Address>)> {
        let own = [("--resp", Some(&self.listen))];
        own.into_iter().chain(self.peers.iter().map(|address| ("--resp-peers", Some(address))))
    }

    /// Where a shard of this server has to listen for Redis clients.
    ///
    /// # Errors
    ///
    /// If a name cannot be resolved.
    pub fn listen_address(&self, shard: u16) -> std::io::Result<std::net::SocketAddr> {
        self.listen.resolve(shard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> Vec<Address> {
        ["10.0.0.1:7000", "10.0.0.2:7100"].iter().map(|text| text.parse().expect("an address")).collect()
    }

    fn arguments() -> RespArgs {
        RespArgs {
            resp: Some("127.0.0.1:6379".parse().expect("an address")),
            resp_clients_max: CLIENTS_MAX,
            master_name: MASTER_NAME.to_owned(),
            ..RespArgs::default()
        }
    }

    #[test]
    fn without_an_address_there_is_no_front_door() {
        assert_eq!(RespArgs::default().validate(&peers()), Ok(None));
    }

    #[test]
    fn other_servers_are_told_at_their_hosts_and_our_port_unless_the_command_line_says_where() {
        let options = arguments().validate(&peers()).expect("valid").expect("there");
        let shown: Vec<String> = options.peers.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.0.0.1:6379", "10.0.0.2:6379"]);
        let told = RespArgs { resp_peers: peers(), ..arguments() };
        assert_eq!(told.validate(&peers()).expect("valid").expect("there").peers, peers());
        let short = RespArgs { resp_peers: peers()[..1].to_vec(), ..arguments() };
        assert!(short.validate(&peers()).expect_err("one is missing").contains("--resp-peers"));
    }

    #[test]
    fn a_password_comes_from_the_first_line_of_a_file_and_is_not_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("password");
        fs::write(&file, "secret\r\nsomething else\n").expect("written");
        let options = RespArgs { requirepass_file: Some(file.clone()), ..arguments() };
        let options = options.validate(&peers()).expect("valid").expect("there");
        assert_eq!(options.password, Password(b"secret".to_vec()));
        assert!(!format!("{options:?}").contains("secret"));
        fs::write(&file, "\n").expect("written");
        let empty = RespArgs { requirepass_file: Some(file), ..arguments() };
        assert!(empty.validate(&peers()).expect_err("empty").contains("--requirepass-file"));
        let missing = RespArgs { requirepass_file: Some(folder.path().join("nothing")), ..arguments() };
        assert!(missing.validate(&peers()).expect_err("missing").contains("cannot be read"));
    }
}
