//! A shell script stands in for the server here: what is tested is how processes are started, watched and ended. The
//! real server is tested with the whole machinery elsewhere.

use std::fs;
use std::process::Command;

use super::*;

struct Stand {
    folder: TempDir,
    spec: ClusterSpec,
}

/// A cluster whose "server" runs `start` (a shell fragment; `$@` are the arguments) and whose `format` makes the
/// folder.
fn stand(servers: usize, start: &str) -> Stand {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server_bin = folder.path().join("lockstep-server");
    let calls = folder.path().join("calls");
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> {calls}\n[ \"$1\" = format ] && {{ mkdir \"$3\"; exit 0; }}\n{start}\n",
        calls = calls.display()
    );
    let source = folder.path().join("script");
    fs::write(&source, script).expect("it can be written");
    // Copied by a child: a file that this process has open for writing while another test forks cannot be executed.
    let copied = Command::new("install").args(["-m", "755"]).args([&source, &server_bin]).status();
    assert!(copied.expect("install can be started").success());
    let spec = ClusterSpec {
        server_bin,
        data_root: folder.path().to_owned(),
        servers,
        replicating: servers,
        shards: 2,
        ack: Ack::All,
        fanout: Fanout::Sequential,
        durability: Durability::Disk,
        link_delay: None,
        has_cuttable_links: false,
        disk_size: None,
        has_resp: false,
        batching: Batching { max_ops: Some(8), linger: Some(Duration::from_micros(50)), ..Batching::default() },
        journal_size: None,
        format_arguments: Vec::new(),
        start_arguments: Vec::new(),
    };
    Stand { folder, spec }
}

impl Stand {
    fn calls(&self) -> String {
        fs::read_to_string(self.folder.path().join("calls")).unwrap_or_default()
    }

    fn leftovers(&self) -> usize {
        let entries = fs::read_dir(self.folder.path()).expect("it can be listed");
        entries.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().is_dir())).count()
    }
}

#[test]
fn a_server_that_fails_to_start_is_shown_with_its_log() {
    let stand = stand(2, "echo 'the journal is of another cluster' >&2; exit 1");
    let error = Cluster::start(&stand.spec, &StopFlag::default()).expect_err("it fails");
    let text = error.to_string();
    assert!(text.contains("server 0") && text.contains("the journal is of another cluster"), "{text}");
    assert_eq!(stand.leftovers(), 0, "its data is removed");
}

#[test]
fn a_port_conflict_is_tried_again_a_few_times() {
    let stand = stand(1, "echo 'cannot listen on 127.0.0.1:1: Address already in use' >&2; exit 1");
    let error = Cluster::start(&stand.spec, &StopFlag::default()).expect_err("it fails in the end");
    assert!(error.to_string().contains("Address already in use"));
    let starts = stand.calls().lines().filter(|line| line.starts_with("start")).count();
    assert_eq!(starts, START_ATTEMPTS);
}

#[test]
fn servers_are_told_their_peers_and_settings() {
    let stand = stand(3, "exit 1");
    Cluster::start(&stand.spec, &StopFlag::default()).expect_err("nobody serves");
    let calls = stand.calls();
    assert!(calls.contains("--cluster loadgen --id 2 --servers 3 --shards 2"), "{calls}");
    let start = calls.lines().find(|line| line.starts_with("start")).expect("one was started");
    for option in ["--ack all", "--fanout sequential", "--durability disk", "--batch-max-ops 8", "--batch-linger 50us"]
    {
        assert!(start.contains(option), "{option} in {start}");
    }
    let peers = start.split("--peers ").nth(1).and_then(|rest| rest.split(' ').next()).expect("it has peers");
    assert_eq!(peers.split(',').filter(|peer| peer.parse::<SocketAddr>().is_ok()).count(), 3, "{peers}");
}

#[test]
fn idle_servers_are_clusters_of_their_own() {
    let mut stand = stand(3, "exit 1");
    stand.spec.replicating = 1;
    Cluster::start(&stand.spec, &StopFlag::default()).expect_err("nobody serves");
    let calls = stand.calls();
    assert!(calls.contains("--cluster loadgen --id 0 --servers 1"), "{calls}");
    assert!(calls.contains("--cluster loadgen-idle-2 --id 0 --servers 1"), "{calls}");
}

#[test]
fn a_stop_ends_the_start() {
    let stand = stand(1, "exec sleep 600");
    let stop = StopFlag::default();
    stop.set();
    let error = Cluster::start(&stand.spec, &stop).expect_err("it was asked to stop");
    assert!(matches!(error, ClusterError::Stopped));
    assert_eq!(stand.leftovers(), 0);
}

#[test]
fn with_a_delay_each_server_sees_its_peers_behind_a_proxy() {
    let mut stand = stand(3, "exit 1");
    stand.spec.link_delay = Some(Duration::from_millis(1));
    let places = places(&stand.spec, stand.folder.path(), &[]).expect("ports are free");
    let Connected { peers, proxy, links } = connect_places(&stand.spec, &places).expect("the proxy starts");
    assert!(proxy.is_some());
    let routes: Vec<usize> = links.values().flatten().copied().collect();
    assert_eq!((links.len(), routes), (6, (0..12).collect()), "a link is one route for each of two shards");
    for (server, seen) in peers.iter().enumerate() {
        for (peer, address) in seen.iter().enumerate() {
            assert_eq!(*address == places[peer].ports.base(), server == peer, "{server} sees {peer} at {address}");
        }
    }
    let mut fronts: Vec<_> = peers.concat();
    fronts.sort_unstable();
    fronts.dedup();
    assert_eq!(fronts.len(), 9, "every directed pair has an address of its own");
}
