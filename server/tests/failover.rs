//! The primary dies, hands over or stops, and the cluster goes on by itself; a server that has lost something gets it
//! back from the others. Few and short: the long random tests are elsewhere.

mod harness;

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::PathBuf,
    process::Command,
};

use harness::{
    Cluster, Spec, get, server_binary, wait_for,
    workload::{Workload, audit},
};
use serde_json::Value;

fn number(cluster: &Cluster, id: u8, field: &str) -> Option<u64> {
    cluster.status(id, 0)?[field].as_u64()
}

/// Waits until a server is a backup or primary that has everything and says so.
fn wait_until_whole(cluster: &Cluster, id: u8) {
    wait_for(&format!("server {id} to be a full member"), || {
        let status = cluster.status(id, 0)?;
        (status["vouch_op"] == 0 && status["is_recovering"] == false && status["role"] != "recovering").then_some(())
    });
}

fn recover_command(cluster: &Cluster, id: u8) -> Command {
    let mut command = Command::new(server_binary());
    command.args(["recover", "--cluster", "test", "--id", &id.to_string()]);
    command.args(["--servers", &cluster.spec.servers.to_string(), "--journal-size", &cluster.spec.journal_size]);
    command.arg("--data-dir").arg(&cluster.servers[id as usize].folder);
    command
}

/// `POST` to a server's admin port: the status line's code.
fn post(cluster: &Cluster, id: u8, path: &str) -> Option<(u16, String)> {
    use std::io::{Read, Write};
    let server = &cluster.servers[id as usize];
    let mut stream = std::net::TcpStream::connect((server.host.as_str(), server.admin)).ok()?;
    write!(stream, "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_string()))
}

#[test]
fn a_killed_primary_is_replaced_and_comes_back_as_a_backup() {
    let mut cluster = Cluster::start(Spec::of(3));
    let workload = Workload::start(&cluster.addresses(), 8);
    for _ in 0..3 {
        workload.wait_for_more(100);
        let victim = cluster.primary(0);
        cluster.kill(victim);
        // While it is down: the two others are enough.
        workload.wait_for_more(200);
        assert_ne!(cluster.primary(0), victim);
        cluster.start_server(victim);
        cluster.wait_until_healthy();
    }
    let histories = workload.finish();
    audit(&cluster.addresses(), &histories);
    cluster.wait_for_equal_state();
}

/// Kills all servers but one, waits until that one says that it does not serve, and why, and starts the others again.
fn reason_when_alone(cluster: &mut Cluster, alone: u8) -> String {
    let others: Vec<u8> = (0..3).filter(|id| *id != alone).collect();
    others.iter().for_each(|&id| cluster.kill(id));
    let reason = wait_for("it to know", || {
        let (code, body) = get(&cluster.servers[alone as usize], "/healthz")?;
        (code == 503).then_some(body)
    });
    others.iter().for_each(|&id| cluster.start_server(id));
    cluster.wait_until_healthy();
    reason
}

/// How often a server may turn out to have had another role than a moment before, as it may on a busy machine.
const ROLE_ATTEMPTS: usize = 5;

/// It went on saying "200 primary" while nothing could be committed any more.
#[test]
fn a_primary_without_a_quorum_says_that_it_does_not_serve() {
    let mut cluster = Cluster::start(Spec::of(3));
    let mut reasons = Vec::new();
    while !reasons.iter().any(|reason: &String| reason.contains("waiting for enough other servers")) {
        assert!(reasons.len() < ROLE_ATTEMPTS, "{reasons:?}");
        let alone = cluster.primary(0);
        reasons.push(reason_when_alone(&mut cluster, alone));
    }
}

/// It went on saying "200 backup" while nobody was left whom it could follow.
#[test]
fn a_backup_without_a_primary_says_that_it_does_not_serve() {
    let mut cluster = Cluster::start(Spec::of(3));
    let mut reasons = Vec::new();
    loop {
        let old = cluster.primary(0);
        let reason = reason_when_alone(&mut cluster, (old + 1) % 3);
        if reason.contains(&format!("it hears nothing of the primary, server {old}")) {
            break;
        }
        reasons.push(reason);
        assert!(reasons.len() < ROLE_ATTEMPTS, "{reasons:?}");
    }
}

#[test]
fn a_primary_that_is_asked_to_stop_hands_over_first() {
    let mut cluster = Cluster::start(Spec::of(3).patient());
    let workload = Workload::start(&cluster.addresses(), 8);
    workload.wait_for_more(100);
    let old = cluster.primary(0);
    cluster.signal(old, "TERM");
    assert!(cluster.wait_for_exit(old).success(), "{}", cluster.log(old));
    let log = cluster.log(old);
    assert!(log.contains("handed over"), "{log}");
    workload.wait_for_more(100);
    assert_ne!(cluster.primary(0), old);
    cluster.start_server(old);
    cluster.wait_until_healthy();
    let histories = workload.finish();
    assert!(histories.iter().all(|history| history.increments_unknown == 0), "a planned handover leaves nothing open");
    audit(&cluster.addresses(), &histories);
    cluster.wait_for_equal_state();
}

#[test]
fn the_primary_moves_where_it_is_asked_to() {
    let cluster = Cluster::start(Spec::of(3).patient());
    let workload = Workload::start(&cluster.addresses(), 4);
    workload.wait_for_more(50);
    for round in 0..4 {
        let old = cluster.primary(0);
        let to = (old + 1 + round % 2) % 3;
        let backup = (0..3).find(|id| *id != old && *id != to).unwrap();
        assert_eq!(post(&cluster, backup, &format!("/move-primary?to={to}")).unwrap().0, 409, "only the primary can");
        wait_for("the handover", || {
            let (code, body) = post(&cluster, old, &format!("/move-primary?to={to}"))?;
            // It is given up if the other one happens to lag.
            (code == 200).then_some(body)
        });
        wait_for("the new primary", || (cluster.primary(0) == to).then_some(()));
        workload.wait_for_more(50);
    }
    assert_eq!(post(&cluster, cluster.primary(0), "/move-primary?to=9").unwrap().0, 404);
    assert_eq!(post(&cluster, 0, "/move-primary?to=x").unwrap().0, 400);
    let histories = workload.finish();
    audit(&cluster.addresses(), &histories);
    cluster.wait_for_equal_state();
}

#[test]
fn a_wiped_server_is_made_anew_and_gets_everything_back() {
    // So little journal between checkpoints that the others no longer have the beginning.
    let mut cluster = Cluster::start(Spec::of(3).with(&["--checkpoint-every", "1MiB"]));
    let workload = Workload::start(&cluster.addresses(), 8);
    wait_for("checkpoints that all journals begin behind", || {
        (0..3).all(|id| journal_begin(&cluster, id) > Some(1)).then_some(())
    });
    let victim = cluster.primary(0);
    cluster.kill(victim);
    let folder = cluster.servers[victim as usize].folder.clone();
    fs::remove_dir_all(&folder).unwrap();
    assert!(recover_command(&cluster, victim).status().unwrap().success());
    cluster.start_server(victim);
    wait_until_whole(&cluster, victim);
    assert!(cluster.metric(victim, "lockstep_checkpoints_installed_total", &[]) > Some(0.5), "{}", cluster.log(victim));
    workload.wait_for_more(100);
    // It counts again: with it, the primary may go.
    let next = cluster.primary(0);
    cluster.kill(next);
    workload.wait_for_more(100);
    cluster.start_server(next);
    cluster.wait_until_healthy();
    let histories = workload.finish();
    audit(&cluster.addresses(), &histories);
    cluster.wait_for_equal_state();
}

/// The first op in a server's journal, as `inspect` sees it.
fn journal_begin(cluster: &Cluster, id: u8) -> Option<u64> {
    number(cluster, id, "journal_first_op")
}

#[test]
fn a_backup_that_was_away_for_longer_than_the_journals_reach_is_sent_a_checkpoint() {
    let mut cluster = Cluster::start(Spec::of(3).with(&["--checkpoint-every", "1MiB"]));
    let workload = Workload::start(&cluster.addresses(), 8);
    workload.wait_for_more(50);
    let victim = (cluster.primary(0) + 1) % 3;
    cluster.kill(victim);
    let end = wait_for("the end of the log", || number(&cluster, cluster.primary(0), "op"));
    wait_for("journals that begin behind it", || {
        let mut others = (0..3).filter(|id| *id != victim);
        others.all(|id| journal_begin(&cluster, id) > Some(end + 1)).then_some(())
    });
    cluster.start_server(victim);
    wait_for("it to have a checkpoint of another server", || {
        (cluster.metric(victim, "lockstep_checkpoints_installed_total", &[])? > 0.5).then_some(())
    });
    cluster.wait_until_healthy();
    workload.wait_for_more(50);
    let histories = workload.finish();
    audit(&cluster.addresses(), &histories);
    cluster.wait_for_equal_state();
}

#[test]
fn a_server_with_durability_memory_rejoins_after_a_restart() {
    let mut cluster = Cluster::start(Spec::of(3).with(&["--durability", "memory", "--checkpoint-every", "1MiB"]));
    let workload = Workload::start(&cluster.addresses(), 8);
    for _ in 0..3 {
        workload.wait_for_more(200);
        let victim = cluster.primary(0);
        cluster.kill(victim);
        cluster.start_server(victim);
        wait_until_whole(&cluster, victim);
    }
    let histories = workload.finish();
    audit(&cluster.addresses(), &histories);
    cluster.wait_for_equal_state();
}

fn shard_files(cluster: &Cluster, id: u8, start: &str) -> Vec<PathBuf> {
    let folder = cluster.servers[id as usize].folder.join("shard-000");
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(start)).collect();
    assert!(!files.is_empty(), "there is a {start}");
    files
}

fn flip(path: &PathBuf, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], offset).unwrap();
}

/// The place of an op in the middle of a stopped server's journal, with at least 300 whole ones behind it; `None` if
/// a checkpoint has just made it unnecessary.
fn place_in_the_middle(cluster: &Cluster, id: u8) -> Option<(u64, u64)> {
    let mut inspect = Command::new(server_binary());
    inspect.args(["inspect", "--output", "json", "--entries", "400", "--data-dir"]);
    let output = inspect.arg(&cluster.servers[id as usize].folder).output().unwrap();
    let view: Value = serde_json::from_slice(&output.stdout).unwrap();
    let shard = &view["shards"][0];
    let entries = shard["journal"]["last_entries"].as_array().unwrap();
    let entry = &entries[entries.len().checked_sub(350)?];
    let op = entry["op"].as_u64().unwrap();
    (op > shard["superblock"]["checkpoint"].as_u64().unwrap()).then(|| (op, entry["offset"].as_u64().unwrap()))
}

/// Kills the primary at a moment at which it has much of a journal behind its checkpoint: who, and a place in it.
fn kill_primary_with_journal(cluster: &mut Cluster) -> (u8, (u64, u64)) {
    for _ in 0..20 {
        let victim = cluster.primary(0);
        wait_for("a checkpoint and enough journal behind it", || {
            let (checkpoint, op) = (number(cluster, victim, "checkpoint")?, number(cluster, victim, "op")?);
            (checkpoint > 0 && op > checkpoint + 450).then_some(())
        });
        cluster.kill(victim);
        if let Some(place) = place_in_the_middle(cluster, victim) {
            return (victim, place);
        }
        // Its next checkpoint was quicker.
        cluster.start_server(victim);
        wait_until_whole(cluster, victim);
    }
    panic!("there is always a checkpoint in the moment before");
}

#[test]
fn rotten_entries_and_lost_checkpoints_are_fetched_from_the_others() {
    let mut cluster = Cluster::start(Spec::of(3).with(&["--checkpoint-every", "4MiB"]));
    let workload = Workload::start(&cluster.addresses(), 8);
    let (victim, (op, offset)) = kill_primary_with_journal(&mut cluster);
    workload.wait_for_more(20);
    flip(&shard_files(&cluster, victim, "journal")[0], offset + 300);
    cluster.start_server(victim);
    wait_until_whole(&cluster, victim);
    assert!(cluster.log(victim).contains(&format!("the journal is rotten: op {op} ")), "{}", cluster.log(victim));

    let victim = cluster.primary(0);
    cluster.kill(victim);
    // The one before may still be there, since it is removed in pieces.
    for checkpoint in shard_files(&cluster, victim, "checkpoint-") {
        let size = fs::metadata(&checkpoint).unwrap().len();
        fs::File::options().write(true).open(&checkpoint).unwrap().set_len(size / 2).unwrap();
    }
    cluster.start_server(victim);
    wait_until_whole(&cluster, victim);
    assert!(cluster.log(victim).contains("its checkpoint is lost"), "{}", cluster.log(victim));
    let histories = workload.finish();
    audit(&cluster.addresses(), &histories);
    cluster.wait_for_equal_state();
}

#[test]
fn recover_leaves_a_whole_folder_alone_and_a_running_server_too() {
    let cluster = Cluster::format(Spec::of(3));
    let superblock = cluster.servers[1].folder.join("shard-000/superblock");
    let before = fs::read(&superblock).unwrap();
    let output = recover_command(&cluster, 1).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.lines().count() == 1 && said.contains("is whole"), "{said}");
    assert_eq!(fs::read(&superblock).unwrap(), before);
    // Damaged beyond use, it is moved aside.
    fs::write(&superblock, vec![7; 16384]).unwrap();
    let output = recover_command(&cluster, 1).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("server-1.damaged-"), "{said}");
}
