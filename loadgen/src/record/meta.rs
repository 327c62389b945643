//! Where and how a run was made: what somebody else needs to judge or repeat it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

/// `meta.json`.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Meta {
    /// The command line, word by word.
    pub command_line: Vec<String>,
    /// The seed of the plan.
    pub seed: u64,
    /// The beginning of the run in UTC, RFC 3339.
    pub started_at: String,
    /// The version of this program.
    pub loadgen_version: String,
    /// The checkout that it ran in, if it ran in one.
    pub checkout: Option<Checkout>,
    /// The machine.
    pub machine: Machine,
    /// The type of the file system that holds the servers' data, when the servers were started from here.
    pub data_file_system: Option<String>,
    /// All settings of the load.
    pub load: serde_json::Value,
    /// All settings of the servers, when they were started from here.
    pub servers: BTreeMap<String, String>,
}

/// The state of a git checkout.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Checkout {
    /// The commit.
    pub sha: String,
    /// Whether tracked files differ from it.
    pub dirty: bool,
}

impl Checkout {
    /// The checkout around `folder`; `None` outside of one or without git.
    pub fn around(folder: &Path) -> Option<Self> {
        let git = |arguments: &[&str]| {
            let output = Command::new("git").arg("-C").arg(folder).args(arguments).output().ok()?;
            output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let sha = git(&["rev-parse", "HEAD"])?;
        let dirty = !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
        Some(Self { sha, dirty })
    }

    /// The first seven digits of the commit.
    pub fn sha7(&self) -> &str {
        self.sha.get(..7).unwrap_or(&self.sha)
    }
}

/// What the program ran on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Machine {
    /// The kernel's release.
    pub kernel: String,
    /// The CPU's name.
    pub cpu: String,
    /// Cores that this process may run on.
    pub cores: usize,
    /// Memory, in bytes.
    pub memory_bytes: u64,
}

impl Machine {
    /// This machine.
    pub fn this() -> Self {
        let uname = rustix::system::uname();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self {
            kernel: uname.release().to_string_lossy().into_owned(),
            cpu: cpu_name(&cpuinfo).unwrap_or_else(|| uname.machine().to_string_lossy().into_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: total_memory(&meminfo).unwrap_or(0),
        }
    }
}

fn cpu_name(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// The type of the file system that holds `path`, such as `ext4`; `None` when it cannot be told.
pub fn file_system_of(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mount_type(&mounts, &path)
}

/// The type of the mount with the longest mount point above `path`; the last one wins among equals, as it hides the
/// others.
fn mount_type(mountinfo: &str, path: &Path) -> Option<String> {
    let mut best: Option<(usize, &str)> = None;
    for line in mountinfo.lines() {
        let Some((mount, file_system)) = line.split_once(" - ") else { continue };
        let Some(point) = mount.split(' ').nth(4) else { continue };
        // A blank in a mount point is written as an octal escape.
        let point = point.replace("\\040", " ");
        if path.starts_with(&point) && best.is_none_or(|(len, _)| point.len() >= len) {
            best = Some((point.len(), file_system.split(' ').next().unwrap_or("unknown")));
        }
    }
    best.map(|(_, name)| name.to_owned())
}

/// A time in UTC to the second, RFC 3339.
pub(crate) fn utc(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_mount_point_wins() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/a rw\n\
                      2 1 8:2 / /data rw shared:1 - xfs /dev/b rw\n\
                      3 1 0:5 / /data/my\\040disk rw - tmpfs tmpfs rw\n\
                      not a mount\n";
        let kind = |path: &str| mount_type(mounts, Path::new(path));
        assert_eq!(kind("/home/a").as_deref(), Some("ext4"));
        assert_eq!(kind("/data/x").as_deref(), Some("xfs"));
        assert_eq!(kind("/database").as_deref(), Some("ext4"), "a name that only begins alike is another folder");
        assert_eq!(kind("/data/my disk/x").as_deref(), Some("tmpfs"));
    }

    #[test]
    fn this_machine_is_described() {
        let machine = Machine::this();
        assert!(machine.cores >= 1 && machine.memory_bytes > 1 << 20);
        assert!(!machine.kernel.is_empty() && !machine.cpu.is_empty());
    }

    #[test]
    fn a_folder_outside_of_a_checkout_has_none() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(Checkout::around(folder.path()), None);
    }
}
