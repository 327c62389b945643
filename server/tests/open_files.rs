//! Connections are files. Whoever opens connections without end must not take those that the server itself needs: the
//! next checkpoint could not be written, which ends a server.

mod harness;
#[path = "redis/talk.rs"]
#[allow(dead_code, reason = "made for another test")]
mod talk;
#[path = "redis/wire.rs"]
#[allow(dead_code, reason = "made for another test")]
mod wire;

use std::{net::TcpStream, time::Duration};

use harness::{Spec, get, wait_for};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use talk::{ask, client, shown, start};

/// Files that the server may have open.
const FILES: u64 = 120;

#[test]
fn connections_without_end_leave_a_server_the_files_for_its_checkpoints() {
    let (mut cluster, id) = start(Spec::of(1));
    let pid = Pid::from_raw(cluster.process_id(id) as i32);
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(FILES), maximum: Some(FILES) }).unwrap();
    let mut good = client(&cluster, id);
    assert_eq!(ask(&mut good, "set key value"), "+OK");
    let too_many = ask(&mut good, "config set maxclients 1000");
    assert!(too_many.contains("not able to handle the specified number of clients, try with 64"), "{too_many}");
    let mut clients = Vec::new();
    wait_for("a client to be one too many", || {
        let mut client = client(&cluster, id);
        let answer = shown(&client.receive_within(Duration::from_millis(50)));
        clients.push(client);
        (answer == "-ERR max number of clients reached").then_some(())
    });
    assert!(clients.len() < FILES as usize);
    // These say nothing, so nobody knows yet whether they are clients or servers.
    let server = &cluster.servers[id as usize];
    let silent = |port: u16| {
        let connect = |_| TcpStream::connect((server.host.as_str(), port)).unwrap();
        (0..FILES).map(connect).collect::<Vec<_>>()
    };
    let held = (silent(server.port), silent(server.admin));
    wait_for("some of them to be closed at once", || {
        cluster.log(id).contains("closing connections at once").then_some(())
    });
    assert_eq!(ask(&mut good, "bgsave"), "+Background saving started");
    wait_for("the checkpoint", || {
        let info = good.ask(&["info", "persistence"]).unwrap();
        let info = String::from_utf8_lossy(info.text().unwrap());
        info.contains("rdb_bgsave_in_progress:0").then_some(())
    });
    assert_eq!(ask(&mut good, "set key value"), "+OK");
    assert_eq!(cluster.poll_exit(id), None, "the server goes on: {}", cluster.log(id));
    drop((clients, held));
    wait_for("others to be welcome again", || {
        let answer = ask(&mut client(&cluster, id), "get key");
        (answer == "$\"value\"" && get(&cluster.servers[0], "/healthz").is_some_and(|(code, _)| code == 200))
            .then_some(())
    });
}
