//! Where the server's program and its data are.

use std::env;
use std::path::{Path, PathBuf};

use super::ClusterError;

const SERVER_NAME: &str = "lockstep-server";

/// The server's program: `given`, or else the one in the folder of this program.
///
/// # Errors
///
/// Says where it was looked for.
pub fn find_server(given: Option<&Path>) -> Result<PathBuf, ClusterError> {
    let beside = || env::current_exe().ok()?.parent().map(|folder| folder.join(SERVER_NAME));
    let candidate = given.map(Path::to_owned).or_else(beside).unwrap_or_else(|| SERVER_NAME.into());
    // Made absolute, so that it is still right wherever the server is started.
    match candidate.canonicalize() {
        Ok(path) if path.is_file() => Ok(path),
        _ => Err(ClusterError::NoServer { looked_for: candidate.display().to_string() }),
    }
}

/// Where data folders are made unless asked otherwise: `/var/tmp`, which is on a disk where `/tmp` may be in memory.
pub fn data_root_default() -> PathBuf {
    let disk = Path::new("/var/tmp");
    if disk.is_dir() { disk.to_owned() } else { env::temp_dir() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_server_is_named_with_the_remedy() {
        let error = find_server(Some(Path::new("/nowhere/lockstep-server"))).expect_err("there is none");
        let text = error.to_string();
        assert!(text.contains("/nowhere/lockstep-server") && text.contains("--server-bin"), "{text}");
        assert!(find_server(Some(Path::new("/"))).is_err(), "a folder is no program");
    }
}
