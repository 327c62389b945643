//! Starts that cannot succeed: one clear line that names the thing, a non-zero exit, and nothing touched.

mod harness;

use std::{
    net::TcpListener,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use harness::{Cluster, Spec, scratch_folder, server_binary, wait_for, workload::put_within};

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
    let taken = wait_for("the port of a server that was not started", || {
        TcpListener::bind((other.servers[0].host.as_str(), other.servers[0].port)).ok()
    });
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
    // The others do not want it, so it cannot take part, now or later.
    let status = cluster.wait_for_exit(2);
    assert_eq!(status.code(), Some(1), "{}", cluster.log(2));
    assert!(cluster.log(2).contains("servers 0, 1 do not let this server in"), "{}", cluster.log(2));
    assert!(cluster.log(2).contains("belongs to cluster"), "{}", cluster.log(2));
    put_within(&cluster.addresses(), "key", "value", Duration::from_secs(30)).unwrap();
}

/// Starts server 2 with other settings, or another folder, than the others expect, and waits until it ends.
fn assert_not_let_in(cluster: &mut Cluster, says: &str) {
    cluster.start_server(2);
    let status = cluster.wait_for_exit(2);
    assert_eq!(status.code(), Some(1), "{}", cluster.log(2));
    assert!(cluster.log(2).contains(says), "{}", cluster.log(2));
    put_within(&cluster.addresses(), "key", "value", Duration::from_secs(30)).unwrap();
}

#[test]
fn servers_that_disagree_on_the_number_of_shards_or_sessions_do_not_join() {
    let mut cluster = Cluster::start(Spec::of(3));
    cluster.kill(2);
    cluster.spec.options = vec!["--sessions-max=77".to_string()];
    assert_not_let_in(&mut cluster, "--sessions-max is 10000 here and 77 at server 2");
    cluster.spec.options.clear();
    let folder = cluster.servers[2].folder.clone();
    std::fs::remove_dir_all(&folder).unwrap();
    let path = folder.to_str().unwrap();
    let shards = ["format", "--data-dir", path, "--cluster", "test", "--id", "2", "--servers", "3", "--shards", "2"];
    assert!(run(&[&shards[..], &["--journal-size", "16MiB"]].concat()).status.success());
    // The second shard's port.
    cluster.servers[2].admin += 1000;
    assert_not_let_in(&mut cluster, "this cluster has 1 shards, not 2");
}

#[test]
fn a_second_process_with_the_identity_of_a_running_server_is_not_let_in() {
    let mut cluster = Cluster::start(Spec::of(3));
    // A copy of server 2's folder, started elsewhere: its lock does not help, the others must notice.
    let copy = Cluster::format(Spec::of(3));
    let (twin, peers) = (&copy.servers[2], cluster.addresses());
    let mut start = Command::new(harness::server_binary());
    start.arg("start").arg("--data-dir").arg(&twin.folder).args(["--peers", &peers, "--no-pin"]);
    let output = start.args(["--listen", &format!("{}:{}", twin.host, twin.port)]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("another process is connected as server 2 already"), "{said}");
    put_within(&cluster.addresses(), "key", "value", Duration::from_secs(30)).unwrap();
    cluster.wait_until_healthy();
}

#[test]
fn an_older_format_on_disk_is_refused_with_its_version() {
    let cluster = Cluster::format(Spec::of(3));
    let file = cluster.servers[0].folder.join("shard-000/superblock");
    let mut bytes = std::fs::read(&file).unwrap();
    for copy in bytes.chunks_exact_mut(4096) {
        copy[24..26].copy_from_slice(&1u16.to_le_bytes());
        let checksum = lockstep_proto::checksum::checksum_128(&copy[16..256]);
        copy[..16].copy_from_slice(&checksum.to_le_bytes());
    }
    std::fs::write(&file, &bytes).unwrap();
    for command in [["start", "--peers", "127.0.0.1:1,127.0.0.1:2,127.0.0.1:3"].as_slice(), &recover_of_server_0()] {
        let folder = cluster.servers[0].folder.to_str().unwrap();
        assert_refused(&run(&[command, &["--data-dir", folder]].concat()), &["version 1 is not supported"]);
        assert_eq!(std::fs::read(&file).unwrap(), bytes, "nothing was written to it");
    }
}

fn recover_of_server_0() -> [&'static str; 7] {
    ["recover", "--cluster", "test", "--id", "0", "--servers", "3"]
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
