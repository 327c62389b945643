//! What is done about servers that fail, refuse, or are wrong.

use std::net::TcpListener;

use super::*;
use crate::record::Counts;
use lockstep_proto::{Operation, Status};
use rustix::net::{self, AddressFamily, SocketFlags, SocketType};

#[test]
fn a_lost_connection_is_opened_again_and_its_writes_are_sent_again_under_their_sequences() {
    let server = ScriptedServer::start(|seen| match seen.nth {
        300 | 700 | 701 => Act::Hang,
        _ => Act::Answer,
    });
    let record = run(&RunSpec { pacing: Pacing::Rate(5000.0), ..spec(server.address) });
    assert_eq!(record.counts, Counts { ok: 1500, ..Counts::default() });
    assert!(has_event(&record, "connection-lost") && has_event(&record, "connection-regained"));
    server.state(|state| {
        assert_eq!(state.executed, 1500, "each write happened once");
        assert!(state.repeated >= 3, "those whose answers were lost came again: {}", state.repeated);
        assert_eq!(state.sessions, 2, "the sessions went on");
    });
}

#[test]
fn a_server_that_comes_back_is_found_again() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let again = listener.try_clone().expect("a second handle");
    let role = Role { replica: 0, view: 0, shard: 0, shards: 1, addresses: vec![address] };
    let first = ScriptedServer::serve(listener, role.clone(), |_| Act::Answer);
    let spec = RunSpec { pacing: Pacing::Rate(2000.0), duration: Duration::from_millis(600), ..spec(address) };
    let restarter = std::thread::spawn(move || {
        while first.state(|state| state.seen) < 400 {
            std::thread::yield_now();
        }
        drop(first);
        ScriptedServer::serve(again, role, |_| Act::Answer)
    });
    let record = run(&spec);
    let second = restarter.join().expect("the restarter does not panic");
    assert_eq!(record.counts, Counts { ok: 1200, ..Counts::default() });
    assert!(second.state(|state| state.seen) > 0);
    assert!(has_event(&record, "connection-lost"));
}

#[test]
fn the_primary_is_found_from_a_backup_and_followed_to_another_server() {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().expect("it is bound")).collect();
    let [first, second] = listeners;
    let role = |replica, view| Role { replica, view, shard: 0, shards: 1, addresses: addresses.clone() };
    // Server 0 is the primary of view 2, gives way to view 3, and its backup's port already says so.
    let first = ScriptedServer::serve(first, role(0, 2), |seen| match seen.nth {
        0..200 => Act::Answer,
        _ => Act::Refuse(Status::NotPrimary, 3u64.to_le_bytes().to_vec()),
    });
    let second = ScriptedServer::serve(second, role(1, 3), |_| Act::Answer);
    let spec =
        RunSpec { servers: addresses.clone(), pacing: Pacing::Rate(2000.0), connections: 1, ..spec(addresses[0]) };
    let record = run(&spec);
    assert_eq!(record.counts, Counts { ok: 600, ..Counts::default() });
    // On busy cores the first server may have been left even before.
    assert!(first.state(|state| state.executed) <= 200 && second.state(|state| state.executed) >= 400);
    // One address of one server is enough to find both.
    let by_one = run(&RunSpec { servers: vec![addresses[1]], ..spec });
    assert_eq!(by_one.counts.ok, 600);
}

#[test]
fn a_backup_names_its_primary() {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().expect("it is bound")).collect();
    let [first, second] = listeners;
    let role = |replica| Role { replica, view: 4, shard: 0, shards: 1, addresses: addresses.clone() };
    let primary = ScriptedServer::serve(first, role(0), |_| Act::Answer);
    let _backup = ScriptedServer::serve(second, role(1), |_| Act::Swallow);
    let record = run(&RunSpec { servers: vec![addresses[1]], pacing: Pacing::Rate(1000.0), ..spec(addresses[1]) });
    assert_eq!(record.counts.ok, 300);
    assert_eq!(primary.state(|state| state.executed), 300);
}

#[test]
fn a_busy_server_is_asked_again() {
    let server = ScriptedServer::start(|seen| match seen.nth {
        100..150 => Act::Refuse(Status::Busy, Vec::new()),
        _ => Act::Answer,
    });
    let record = run(&RunSpec { pacing: Pacing::Rate(1000.0), ..spec(server.address) });
    assert_eq!(record.counts, Counts { ok: 300, ..Counts::default() });
    assert_eq!(server.state(|state| (state.executed, state.seen)), (300, 350));
}

#[test]
fn a_forgotten_session_costs_what_was_in_flight_and_a_new_one_is_opened() {
    let server = ScriptedServer::start(|seen| match seen.nth {
        100 => Act::Refuse(Status::UnknownSession, Vec::new()),
        _ => Act::Answer,
    });
    let record = run(&RunSpec { pacing: Pacing::Rate(1000.0), connections: 1, ..spec(server.address) });
    let counts = record.counts;
    assert_eq!(counts.ok + counts.unknown, 300, "{counts:?}");
    assert!((1..=4).contains(&counts.unknown), "at most what was in flight: {counts:?}");
    assert_eq!(server.state(|state| state.sessions), 2);
}

#[test]
fn refused_requests_are_failures_and_the_first_is_explained() {
    let server = ScriptedServer::start(|seen| match seen.nth {
        10..15 => Act::Refuse(Status::WrongShard, Vec::new()),
        _ => Act::Answer,
    });
    let record = run(&RunSpec { pacing: Pacing::Rate(1000.0), ..spec(server.address) });
    assert_eq!((record.counts.ok, record.counts.failed), (295, 5));
    let explained: Vec<_> = record.events.iter().filter(|event| event.kind == "wrong-answer").collect();
    assert_eq!(explained.len(), 1);
    assert!(explained[0].text.contains("WrongShard"), "{}", explained[0].text);
}

#[test]
fn a_wrong_value_is_found() {
    let server = ScriptedServer::start(|seen| match (seen.operation, seen.nth % 100) {
        (Operation::Get, 0) => Act::Corrupt,
        _ => Act::Answer,
    });
    let spec = RunSpec { workload: Workload::C, pacing: Pacing::Rate(1000.0), ..spec(server.address) };
    load(&spec);
    let record = run(&spec);
    assert_eq!((record.counts.ok, record.counts.corrupt), (297, 3));
    let unchecked = run(&RunSpec { verify: false, ..spec });
    assert_eq!((unchecked.counts.ok, unchecked.counts.corrupt), (300, 0));
}

#[test]
fn keys_that_are_not_there_are_counted() {
    let server = ScriptedServer::honest();
    let record = run(&RunSpec { workload: Workload::C, pacing: Pacing::Rate(1000.0), ..spec(server.address) });
    assert_eq!((record.counts.ok, record.counts.missing), (300, 300));
}

#[test]
fn an_audit_finds_every_acknowledged_write() {
    let server = ScriptedServer::start(|seen| if seen.nth == 500 { Act::Hang } else { Act::Answer });
    let spec = RunSpec { workload: Workload::A, threads: 2, ..spec(server.address) };
    let (record, audit) = with_context(|context| drive_audited(&spec, context).expect("the run begins"));
    assert!(record.counts.ok > 500);
    assert!(audit.is_clean(), "{audit:?}");
    assert!(audit.keys > 100 && audit.keys <= 500, "{audit:?}");
}

#[test]
fn an_audit_counts_what_was_lost() {
    let server = ScriptedServer::start(|seen| if seen.nth < 20 { Act::Forget } else { Act::Answer });
    // Each key is written once, so what was forgotten stays so.
    let spec = RunSpec { phase: Phase::Load, ..spec(server.address) };
    let (record, audit) = with_context(|context| drive_audited(&spec, context).expect("the run begins"));
    assert_eq!(record.counts.ok, 500);
    assert_eq!((audit.keys, audit.lost, audit.unread), (500, 20, 0));
    assert!(!audit.is_clean());
}

#[test]
fn without_a_server_the_address_is_named() {
    // Bound, so that nobody else gets the port, and not listening.
    let socket = net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let socket = socket.expect("a socket");
    net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let dead = net::getsockname(&socket).ok().and_then(|name| SocketAddr::try_from(name).ok()).expect("it is bound");
    let spec = RunSpec { timeout: Duration::from_millis(200), ..spec(dead) };
    let error = with_context(|context| drive(&spec, context)).expect_err("nobody listens");
    assert!(matches!(error, DriveError::Connect { address, .. } if address == dead), "{error}");
}

#[test]
fn what_no_thread_could_do_is_refused() {
    let base = spec("127.0.0.1:1".parse().expect("an address"));
    for bad in [
        RunSpec { in_flight: 257, ..base.clone() },
        RunSpec { in_flight: 0, ..base.clone() },
        RunSpec { connections: 0, ..base.clone() },
        RunSpec { servers: Vec::new(), ..base.clone() },
    ] {
        let error = with_context(|context| drive(&bad, context)).expect_err("it cannot be done");
        assert!(matches!(error, DriveError::Refused(_)), "{error}");
    }
}

#[test]
fn an_audit_adds_up_counters_over_lost_connections() {
    let server = ScriptedServer::start(|seen| if seen.nth % 400 == 399 { Act::Hang } else { Act::Answer });
    let spec = RunSpec { increments: 0.5, pacing: Pacing::Rate(5000.0), ..spec(server.address) };
    let (record, audit) = with_context(|context| drive_audited(&spec, context).expect("the run begins"));
    assert_eq!(record.counts.ok, 1500);
    assert!(audit.is_clean(), "{audit}");
    assert!(audit.increments > 500 && audit.counters == crate::plan::COUNTERS, "{audit}");
}

#[test]
fn an_audit_finds_what_was_done_twice() {
    // One in ten requests: puts and increments both.
    let server =
        ScriptedServer::start(|seen| if seen.nth % 10 == 9 && seen.nth < 600 { Act::Double } else { Act::Answer });
    let spec = RunSpec { increments: 1.0, pacing: Pacing::Rate(2000.0), ..spec(server.address) };
    let (record, audit) = with_context(|context| drive_audited(&spec, context).expect("the run begins"));
    assert_eq!(record.counts.ok, 600);
    assert_eq!((audit.doubled, audit.lost), (60, 0), "{audit}");
    assert!(has_event(&record, "wrong-answer"));
}

#[test]
fn a_primary_that_falls_silent_is_left_for_the_one_of_a_later_view() {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().expect("it is bound")).collect();
    let [first, second] = listeners;
    let role = |replica, view| Role { replica, view, shard: 0, shards: 1, addresses: addresses.clone() };
    // Server 0 believes to be the primary of view 0 for ever, but from some time on nothing comes back.
    let silent =
        ScriptedServer::serve(first, role(0, 0), |seen| if seen.nth < 200 { Act::Answer } else { Act::Swallow });
    let next = ScriptedServer::serve(second, role(1, 1), |_| Act::Answer);
    let spec = RunSpec {
        servers: addresses.clone(),
        pacing: Pacing::Rate(1000.0),
        duration: Duration::from_millis(600),
        ..spec(addresses[0])
    };
    let started = std::time::Instant::now();
    let record = run(&spec);
    assert_eq!(record.counts.ok, 600, "{:?}", record.counts);
    // On busy cores the first server may have been left even before.
    assert!(silent.state(|state| state.executed) <= 200 && next.state(|state| state.executed) >= 400);
    assert!(started.elapsed() < spec.timeout, "the time-out of requests was not waited for");
}

#[test]
fn a_run_without_an_end_goes_on_until_it_is_told_and_then_waits_for_its_answers() {
    let server = ScriptedServer::start(|_| Act::Answer);
    let spec = RunSpec { pacing: Pacing::Rate(2000.0), duration: Duration::MAX, ..spec(server.address) };
    let finish = StopFlag::default();
    let watch = &mut |_: &IntervalRow| {};
    let record = std::thread::scope(|scope| {
        let (opening, opened) = std::sync::mpsc::channel();
        let (finish_later, state) = (finish.clone(), &server);
        scope.spawn(move || {
            opened.recv().expect("the run begins");
            while state.state(|state| state.seen) < 500 {
                std::thread::yield_now();
            }
            finish_later.set();
        });
        let context = DriveContext {
            stop: StopFlag::default(),
            finish: finish.clone(),
            opening: Some(opening),
            interval: Some(Duration::from_millis(20)),
            events: EventLog::new(),
            processes: &[],
            watch,
        };
        drive(&spec, context).expect("the run begins")
    });
    let seen = server.state(|state| state.seen);
    assert_eq!(record.counts, Counts { ok: seen, ..Counts::default() });
    assert!(seen >= 500 && record.intervals[0].length_s == 0.02);
}
