//! Where the installed programs are.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

/// What `scripts/redis-tools.sh` has made beside the build.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("redis-tools")
}

/// An installed program, if it is there.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::iter::once(folder().join("bin")).chain(std::env::split_paths(&path));
    places.map(|place| place.join(name)).find(|file| file.is_file())
}

/// The program, or the news on the terminal that `test` cannot be made without it.
pub fn find_or_skip(test: &str, name: &str) -> Option<PathBuf> {
    let found = find(name);
    if found.is_none() {
        skip(test, name);
    }
    found
}

/// Says on the terminal that a test was skipped, past the test runner, which would swallow it.
pub fn skip(test: &str, missing: &str) {
    let line = format!("SKIPPED {test}: {missing} is not installed; scripts/redis-tools.sh would install it\n");
    // A terminal that is gone does not need to know.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// The Python that has redis-py.
pub fn python() -> Option<PathBuf> {
    let interpreter = folder().join("python/bin/python");
    let mut check = std::process::Command::new(&interpreter);
    let has_client = check.args(["-c", "import redis"]).status().is_ok_and(|status| status.success());
    has_client.then_some(interpreter)
}
