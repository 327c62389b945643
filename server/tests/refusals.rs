//! Starts that cannot succeed: one clear line that names the thing, a non-zero exit, and nothing touched.

mod harness;

use std::{
    net::TcpListener,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use harness::{Cluster, Spec, scratch_folder, server_binary, workload::put_within};

fn run(arguments: &[&str]) -> Output {
    Command::new(server_binary()).args(arguments).output().unwrap()
}

fn format(folder: &Path, cluster: &str, id: &str, servers: &str) -> Output {
    let folder = folder.to_str().unwrap();
    run(&[
        "format",
        "--data-dir",
        folder,
        "--cluster",
        cluster,
        "--id",
        id,
        "--servers",
        servers,
        "--journal-size",
        "16MiB",
    ])
}

/// Asserts that a program failed with one line that holds `texts`.
fn assert_refused(output: &Output, texts: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let errors: Vec<&str> = said.lines().filter(|line| !line.contains(" INFO ") && !line.contains(" WARN ")).collect();
    assert_eq!(errors.len(), 1, "not one line: {said}");
    for text in texts {
        assert!(errors[0].contains(text), "{:?} does not say {text:?}", errors[0]);
    }
}

fn temporary_folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("lockstep-refused-").tempdir_in(scratch_folder()).unwrap()
}

#[test]
fn a_folder_that_is_not_formatted_is_refused() {
    let folder = temporary_folder();
    let path = folder.path().to_str().unwrap();
    let output = run(&["start", "--data-dir", path, "--peers", "127.0.0.1:1"]);
    assert_refused(&output, &[path, "format"]);
    assert_eq!(folder.path().read_dir().unwrap().count(), 0, "nothing was made in it");
    let missing = format!("{path}/missing");
    assert_refused(&run(&["start", "--data-dir", &missing, "--peers", "127.0.0.1:1"]), &[&missing]);
}

#[test]
fn a_formatted_folder_is_not_formatted_again() {
    let folder = temporary_folder();
    let data = folder.path().join("data");
    assert!(format(&data, "first", "0", "1").status.success());
    assert_refused(&format(&data, "second", "0", "1"), &[data.to_str().unwrap()]);
}

#[test]
fn a_folder_in_use_and_a_port_in_use_are_refused() {
    let cluster = Cluster::start(Spec::of(1));
    let mut again = cluster.start_command(0);
    assert_refused(&again.output().unwrap(), &[cluster.servers[0].folder.to_str().unwrap()]);

    let other = Cluster::format(Spec::of(1));
    let taken = TcpListener::bind((other.servers[0].host.as_str(), other.servers[0].port)).unwrap();
    let port = other.servers[0].port.to_string();
    assert_refused(&other.start_command(0).output().unwrap(), &[&port, "in use"]);
    drop(taken);
}

#[test]
fn a_number_of_peers_that_does_not_fit_the_folder_is_refused() {
    let cluster = Cluster::format(Spec::of(3));
    let folder = cluster.servers[0].folder.to_str().unwrap();
    let output = run(&["start", "--data-dir", folder, "--peers", "127.0.0.1:1,127.0.0.1:2"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains('3') && said.contains("peers"), "{said}");
}

#[test]
fn a_damaged_superblock_and_a_cut_off_journal_are_refused() {
    for (name, text) in [("superblock", "superblock"), ("journal", "journal")] {
        let cluster = Cluster::format(Spec::of(1));
        let file = cluster.servers[0].folder.join("shard-000").join(name);
        let bytes = std::fs::read(&file).unwrap();
        let damaged = if name == "journal" { bytes[..bytes.len() / 2].to_vec() } else { vec![0x5a; bytes.len()] };
        std::fs::write(&file, &damaged).unwrap();
        assert_refused(&cluster.start_command(0).output().unwrap(), &[text]);
        assert_eq!(std::fs::read(&file).unwrap(), damaged, "nothing was written to it");
    }
}

#[test]
fn a_server_of_another_cluster_does_not_join() {
    let mut cluster = Cluster::start(Spec::of(3));
    cluster.kill(2);
    let folder = cluster.servers[2].folder.clone();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(format(&folder, "another", "2", "3").status.success());
    cluster.start_server(2);
    harness::wait_for("the foreign server to be told", || cluster.log(2).contains("belongs to cluster").then_some(()));
    put_within(&cluster.addresses(), "key", "value", Duration::from_secs(30)).unwrap();
}

#[test]
fn a_disk_that_is_full_ends_format_and_a_running_server_with_one_line() {
    let Some(disk) = harness::small_disk::SmallDisk::mount("20m") else {
        eprintln!("skipped: mounting a small file system needs root");
        return;
    };
    let folder = disk.path().join("data");
    let path = folder.to_str().unwrap();
    let too_large = run(&[
        "format",
        "--data-dir",
        path,
        "--cluster",
        "c",
        "--id",
        "0",
        "--servers",
        "1",
        "--journal-size",
        "64MiB",
    ]);
    assert_refused(&too_large, &["space"]);

    let mut cluster = Cluster::format(Spec::of(1).with(&["--checkpoint-every", "1MiB"]));
    let folder = disk.path().join("small");
    assert!(format(&folder, "test", "0", "1").status.success());
    cluster.servers[0].folder = folder;
    cluster.start_server(0);
    cluster.wait_until_healthy();
    // More than the rest of the disk: a checkpoint cannot be written, and the server must not go on as if it had been.
    let addresses = cluster.addresses();
    let value = "v".repeat(1 << 20);
    for number in 0..100 {
        let _ = put_within(&addresses, &format!("key-{number}"), &value, Duration::from_millis(500));
        if cluster.poll_exit(0).is_some() {
            break;
        }
    }
    let status = cluster.wait_for_exit(0);
    assert_eq!(status.code(), Some(1), "{status}\n{}", cluster.log(0));
    assert!(cluster.log(0).contains("space"), "{}", cluster.log(0));
}

#[test]
fn wrong_usage_exits_with_2() {
    assert_eq!(run(&["start"]).status.code(), Some(2));
    assert_eq!(run(&["format", "--id", "9"]).status.code(), Some(2));
    assert_eq!(run(&["--help"]).status.code(), Some(0));
}
