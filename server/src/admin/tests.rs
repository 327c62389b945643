//! The admin port over a real socket, with shards that publish what the test wants.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use lockstep_proto::{Operation, Status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{
    metrics::{PeerSnapshot, ReportedStatus, Role, ShardStatus},
    shard::StateHash,
};

/// A status with a different number in each field.
pub(crate) fn status(shard: u16, role: Role) -> ShardStatus {
    ShardStatus {
        shard,
        shards: 2,
        replica: 1,
        servers: 3,
        cluster: format!("{:032x}", 0xabc),
        role,
        view: 4,
        log_view: 3,
        vouch_op: 0,
        is_suspecting: false,
        is_recovering: false,
        transfer: None,
        op: 100,
        durable: 99,
        commit: 98,
        applied: 97,
        revision: 5000,
        journal_first_op: 1,
        checkpoint: 50,
        checkpoint_hash: "0".repeat(32),
        pipeline: 2,
        in_sync: vec![1, 2],
        ack: "all".to_owned(),
        fanout: "parallel".to_owned(),
        durability: "disk".to_owned(),
        keys: 1000,
        store_bytes: 123_456,
        sessions: 7,
        connections: 6,
        journal_used_bytes: 1 << 20,
        journal_size_bytes: 1 << 30,
        uptime_ms: 60_000,
        peers: vec![PeerSnapshot {
            server: 0,
            address: "127.0.0.1:7000".to_owned(),
            is_connected: true,
            is_in_sync: false,
            is_behind: true,
            durable: 10,
            lag_ops: 90,
        }],
    }
}

struct Server {
    address: SocketAddr,
    shards: Vec<ShardHandle>,
    commands: Vec<mpsc::Receiver<AdminCommand>>,
}

/// Serves two shards that have published nothing yet.
fn serve_two() -> Server {
    let (shards, commands): (Vec<_>, Vec<_>) = (0..2)
        .map(|shard| {
            let (commands, receiver) = mpsc::channel(1);
            let metrics = Arc::new(ShardMetrics::new(shard, 1, 3));
            (ShardHandle { metrics, status: Arc::new(StatusCell::new()), commands }, receiver)
        })
        .unzip();
    let listener = bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(serve(listener, shards.clone()));
    Server { address, shards, commands }
}

struct Answer {
    code: u16,
    head: String,
    body: String,
}

async fn request(address: SocketAddr, method: &str, path: &str) -> Answer {
    request_with(address, method, path, "").await
}

/// A request with further headers, a line each.
async fn request_with(address: SocketAddr, method: &str, path: &str, headers: &str) -> Answer {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
    let text = format!("{method} {path} HTTP/1.1\r\nHost: test\r\n{headers}Connection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers in text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let code = head.split(' ').nth(1).expect("a code").parse().expect("a number");
    Answer { code, head: head.to_owned(), body: body.to_owned() }
}

async fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, "GET", path).await
}

#[tokio::test]
async fn metrics_are_openmetrics_text_of_every_shard_for_who_asks_for_that() {
    let server = serve_two();
    server.shards[1].metrics.count_requests(Operation::Put, Status::Ok, 42);
    let accept = "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3\r\n";
    let answer = request_with(server.address, "GET", "/metrics", accept).await;
    assert_eq!(answer.code, 200);
    assert!(answer.head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{}", answer.head);
    assert!(answer.body.contains("# TYPE lockstep_requests counter\n"));
    assert!(answer.body.contains("lockstep_requests_total{shard=\"1\",operation=\"put\",status=\"ok\"} 42\n"));
    assert!(answer.body.contains("lockstep_requests_total{shard=\"0\",operation=\"put\",status=\"ok\"} 0\n"));
    assert!(answer.body.ends_with("# EOF\n"));
}

#[tokio::test]
async fn counters_had_no_type_for_who_reads_only_the_older_text_format() {
    let server = serve_two();
    let answer = get(server.address, "/metrics").await;
    assert_eq!(answer.code, 200);
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    let lines: Vec<&str> = answer.body.lines().collect();
    for line in [
        "# HELP lockstep_requests_total Requests answered, by operation and how they ended",
        "# TYPE lockstep_requests_total counter",
        "lockstep_requests_total{shard=\"0\",operation=\"put\",status=\"ok\"} 0",
        "# TYPE lockstep_build_info gauge",
        "# TYPE lockstep_batch_ops histogram",
        "# TYPE lockstep_keys gauge",
        "process_cpu_seconds_total",
    ] {
        assert!(lines.iter().any(|found| found.starts_with(line)), "{line} is missing in\n{}", answer.body);
    }
    assert!(!answer.body.contains("# EOF") && !answer.body.contains("# UNIT"), "{}", answer.body);
}

#[tokio::test]
async fn a_server_is_healthy_once_every_shard_serves() {
    let server = serve_two();
    let answer = get(server.address, "/healthz").await;
    assert_eq!(answer.code, 503);
    assert!(answer.body.contains("shard 0: starting") && answer.body.contains("shard 1: starting"), "{}", answer.body);

    server.shards[0].status.publish(status(0, Role::Primary));
    server.shards[1].status.publish(status(1, Role::Recovering));
    let answer = get(server.address, "/healthz").await;
    assert_eq!(answer.code, 503);
    assert_eq!(
        answer.body,
        "shard 0: primary\nshard 1: recovering in view 4: waiting for enough other servers to begin a view\n"
    );

    server.shards[1].status.publish(status(1, Role::Backup));
    let answer = get(server.address, "/healthz").await;
    assert_eq!((answer.code, answer.body.as_str()), (200, "shard 0: primary\nshard 1: backup\n"));
}

#[test]
fn a_backup_that_does_not_hear_its_primary_is_not_healthy() {
    let status = Some(ShardStatus { is_suspecting: true, ..status(0, Role::Backup) });
    let reported = ReportedStatus { status, age: Duration::ZERO };
    let reason = "backup in view 4: it hears nothing of the primary, server 1".to_owned();
    assert_eq!(health_of(&reported), Health::NotServing(reason));
}

#[test]
fn a_shard_that_has_gone_silent_is_not_healthy() {
    let status = Some(status(0, Role::Primary));
    let fresh = ReportedStatus { status: status.clone(), age: STALE_AFTER };
    assert_eq!(health_of(&fresh), Health::Serving(Role::Primary));
    let stale = ReportedStatus { status, age: STALE_AFTER + Duration::from_millis(1) };
    assert_eq!(health_of(&stale), Health::NotServing("its thread has not reported for 5001 ms".to_owned()));
}

#[tokio::test]
async fn status_is_what_the_shards_published_as_json() {
    let server = serve_two();
    assert_eq!(get(server.address, "/status").await.body, "[]");
    let published = vec![status(0, Role::Primary), status(1, Role::Backup)];
    for (shard, status) in server.shards.iter().zip(&published) {
        shard.status.publish(status.clone());
    }
    let answer = get(server.address, "/status").await;
    assert_eq!(answer.code, 200);
    let read: Vec<ShardStatus> = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(read, published);
    let json: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(json[0]["role"], "primary");
    assert_eq!(json[0]["peers"][0]["lag_ops"], 90);
}

#[tokio::test]
async fn the_state_hash_comes_from_the_shard_that_was_asked() {
    let mut server = serve_two();
    let mut commands = server.commands.remove(1);
    let hash = StateHash { shard: 1, applied: 97, keys: 1000, hash: "00ff".to_owned() };
    let sent = hash.clone();
    let shard = tokio::spawn(async move {
        let Some(AdminCommand::StateHash { answer }) = commands.recv().await else { panic!("no question came") };
        answer.send(sent).expect("the admin port waits");
    });
    let answer = get(server.address, "/state-hash?shard=1").await;
    assert_eq!(answer.code, 200);
    assert_eq!(serde_json::from_str::<StateHash>(&answer.body).expect("JSON"), hash);
    shard.await.expect("the shard was asked once");
}

#[tokio::test]
async fn a_question_that_no_shard_can_answer_is_refused_with_the_reason() {
    let mut server = serve_two();
    let missing = get(server.address, "/state-hash?shard=2").await;
    assert_eq!((missing.code, missing.body.as_str()), (404, "there is no shard 2: this server has shards 0 to 1\n"));
    for query in ["shard=", "shard=-1", "shard=x", "shared=1", "shard=70000"] {
        assert_eq!(get(server.address, &format!("/state-hash?{query}")).await.code, 400, "{query}");
    }
    server.commands.clear();
    let stopping = get(server.address, "/state-hash?shard=0").await;
    assert_eq!(stopping.code, 503, "{}", stopping.body);
}

#[tokio::test]
async fn other_paths_and_methods_are_refused_and_the_root_says_what_there_is() {
    let server = serve_two();
    assert!(get(server.address, "/").await.body.contains("/healthz"));
    assert_eq!(get(server.address, "/nothing").await.code, 404);
    assert_eq!(request(server.address, "POST", "/metrics").await.code, 405);
}

/// Any page that somebody opened on the host of a server could have moved the primary.
#[tokio::test]
async fn a_web_page_cannot_move_the_primary() {
    let server = serve_two();
    let origin = "Origin: http://page.example\r\n";
    assert_eq!(request_with(server.address, "POST", "/move-primary?shard=0", origin).await.code, 403);
    assert!(server.commands.iter().all(mpsc::Receiver::is_empty), "no shard was asked");
}

#[tokio::test]
async fn noise_closes_its_connection_and_harms_nothing() {
    let server = serve_two();
    let mut stream = tokio::net::TcpStream::connect(server.address).await.expect("it listens");
    stream.write_all(b"\x00\xff\x13noise\r\n\r\n").await.expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("it closes");
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(get(server.address, "/").await.code, 200);
}
