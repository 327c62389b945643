//! The driver against servers that speak RESP.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use super::*;

const PASSWORD: &str = "hunter two";

/// Starts a server that answers each command with what `answer` makes of its words, until the test's process ends.
fn serve(answer: impl Fn(&[String]) -> String + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let answer = answer.clone();
            std::thread::spawn(move || answer_all(stream.expect("a connection"), &answer));
        }
    });
    address
}

fn answer_all(mut stream: TcpStream, answer: &impl Fn(&[String]) -> String) {
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    while let Some(words) = read_command(&mut reader) {
        if stream.write_all(answer(&words).as_bytes()).is_err() {
            return;
        }
    }
}

fn read_command(reader: &mut impl BufRead) -> Option<Vec<String>> {
    let count = read_number(reader)?;
    let words = (0..count).map(|_| {
        let mut bytes = vec![0; read_number(reader)? + 2];
        reader.read_exact(&mut bytes).ok()?;
        bytes.truncate(bytes.len() - 2);
        Some(String::from_utf8_lossy(&bytes).into_owned())
    });
    words.collect()
}

fn read_number(reader: &mut impl BufRead) -> Option<usize> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    line.trim_end().get(1..)?.parse().ok()
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

/// What a primary outside of cluster mode says to everything but writes.
fn answer_of_primary(words: &[String]) -> String {
    match words[0].as_str() {
        "INFO" => bulk("# Replication\r\nrole:master\r\n"),
        "CLUSTER" => "-ERR This instance has cluster support disabled\r\n".to_owned(),
        _ => "+OK\r\n".to_owned(),
    }
}

fn resp_spec(address: SocketAddr) -> RunSpec {
    RunSpec { protocol: Protocol::Resp, ..spec(address) }
}

#[test]
fn a_server_in_cluster_mode_was_asked_again_and_again_without_a_word_why() {
    let address = serve(|words| match words[0].as_str() {
        "CLUSTER" => bulk("cluster_state:ok\r\ncluster_size:2\r\ncluster_my_epoch:1\r\n"),
        "SET" => "-MOVED 1 127.0.0.1:1\r\n".to_owned(),
        _ => answer_of_primary(words),
    });
    let begun = Instant::now();
    let error = with_context(|context| drive(&resp_spec(address), context)).expect_err("it serves half of the keys");
    let text = error.to_string();
    assert!(text.contains("cluster mode with 2 shards") && text.contains("--protocol native"), "{text}");
    assert!(!text.contains("is the server running"), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(8), "it was not tried again and again");
}

#[test]
fn the_first_answer_that_sends_requests_elsewhere_is_noted_with_its_text() {
    let address = serve(|words| match words[0].as_str() {
        "SET" => "-MOVED 1 127.0.0.1:1\r\n".to_owned(),
        _ => answer_of_primary(words),
    });
    let spec = RunSpec {
        pacing: Pacing::Rate(200.0),
        duration: Duration::from_millis(100),
        timeout: Duration::from_secs(2),
        ..resp_spec(address)
    };
    let record = run(&spec);
    assert_eq!(record.counts.ok, 0);
    let texts = |kind: &str| {
        let events = record.events.iter().filter(|event| event.kind == kind);
        events.map(|event| event.text.clone()).collect::<Vec<_>>()
    };
    let refused = texts("refused-answer");
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(refused[0].contains("answered MOVED 1 127.0.0.1:1") && refused[0].contains("cluster mode"), "{refused:?}");
    let lost = texts("connection-lost");
    assert!(!lost.is_empty() && lost.iter().all(|text| !text.contains("is not the primary")), "{lost:?}");
}

#[test]
fn a_password_is_said_at_each_connection_and_its_lack_is_explained() {
    let address = serve(|words| match words[0].as_str() {
        "AUTH" if words[1] == PASSWORD => "+OK\r\n".to_owned(),
        "AUTH" => "-WRONGPASS invalid username-password pair or user is disabled.\r\n".to_owned(),
        _ => answer_of_primary(words),
    });
    let right = RunSpec { resp_password: Some(Password::new(PASSWORD.as_bytes())), ..resp_spec(address) };
    assert!(run(&RunSpec { connections: 5, ..right.clone() }).counts.ok > 0);
    let wrong = RunSpec { resp_password: Some(Password::new(b"hunter three")), ..resp_spec(address) };
    let error = with_context(|context| drive(&wrong, context)).expect_err("it is another password").to_string();
    assert!(error.contains("WRONGPASS") && error.contains("--resp-password-file"), "{error}");

    let address = serve(|_| "-NOAUTH Authentication required.\r\n".to_owned());
    let error = with_context(|context| drive(&resp_spec(address), context)).expect_err("a password is missing");
    let error = error.to_string();
    assert!(error.contains("NOAUTH") && error.contains("LOCKSTEP_RESP_PASSWORD"), "{error}");

    let told = format!("{right:?} {}", serde_json::to_string(&right).expect("a spec has a JSON form"));
    assert!(!told.contains("hunter"), "a password shows in no log and no result: {told}");
}
