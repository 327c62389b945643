//! Stock clients through a `kill -9` of the primary: they find the next one, and every acknowledged write.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use redis::cluster::ClusterClient;

use crate::{
    harness::{Cluster, DEADLINE, Spec, wait_for},
    ours::{resp_address, wait_for_primary},
    tools::{find_or_skip, python, skip},
};

/// Writes before the primary is killed, and after.
const WRITES: usize = 200;

fn plain() -> Cluster {
    Cluster::start(Spec { shards: 2, ..Spec::of(3) }.with_resp())
}

fn cluster_mode() -> Cluster {
    Cluster::start(Spec { shards: 2, ..Spec::of(3) }.with(&["--cluster-mode"]).with_resp())
}

/// The servers' RESP addresses, the primary's first.
fn addresses(cluster: &Cluster) -> Vec<String> {
    let primary = wait_for_primary(cluster);
    let ids = (0..cluster.spec.servers).map(|id| (id + primary) % cluster.spec.servers);
    ids.map(|id| resp_address(cluster, id, 0).to_string()).collect()
}

/// A program that talks to the test over its standard input and output.
struct Program {
    process: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Program {
    fn start(command: &mut Command) -> Program {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Program { process, input, lines }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("the program reads");
    }

    /// The next line that it writes.
    fn hear(&mut self) -> String {
        self.lines
            .recv_timeout(DEADLINE)
            .unwrap_or_else(|_| panic!("it says nothing more; it has ended with {:?}", self.process.try_wait()))
    }

    fn wait(&mut self) {
        let begun = Instant::now();
        while begun.elapsed() < DEADLINE {
            if let Some(status) = self.process.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("it does not end");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn python_through_a_kill(test: &str, kind: &str, start: fn() -> Cluster) {
    let Some(python) = python() else { return skip(test, "redis-py") };
    let mut cluster = start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/redis/clients.py");
    let mut program = Program::start(Command::new(python).arg(script).args([kind, &addresses(&cluster).join(",")]));
    assert_eq!(program.hear(), "wrote");
    cluster.kill(wait_for_primary(&cluster));
    program.say("killed");
    let verdict = program.hear();
    let verified = verdict.strip_prefix("verified ").and_then(|count| count.parse::<usize>().ok());
    assert!(verified.is_some_and(|count| count >= 2 * WRITES), "{verdict}");
    program.wait();
}

#[test]
fn redis_py_in_resp2_through_a_kill() {
    python_through_a_kill("redis_py_in_resp2_through_a_kill", "resp2", plain);
}

#[test]
fn redis_py_in_resp3_through_a_kill() {
    python_through_a_kill("redis_py_in_resp3_through_a_kill", "resp3", plain);
}

#[test]
fn redis_py_as_it_comes_through_a_kill() {
    python_through_a_kill("redis_py_as_it_comes_through_a_kill", "default", plain);
}

#[test]
fn redis_py_with_asyncio_through_a_kill() {
    python_through_a_kill("redis_py_with_asyncio_through_a_kill", "asyncio", plain);
}

#[test]
fn redis_py_with_sentinel_through_a_kill() {
    python_through_a_kill("redis_py_with_sentinel_through_a_kill", "sentinel", plain);
}

#[test]
fn redis_py_as_a_cluster_client_through_a_kill() {
    python_through_a_kill("redis_py_as_a_cluster_client_through_a_kill", "cluster", cluster_mode);
}

#[test]
fn redis_py_as_an_asyncio_cluster_client_through_a_kill() {
    python_through_a_kill("redis_py_as_an_asyncio_cluster_client_through_a_kill", "asyncio-cluster", cluster_mode);
}

/// Calls until it is answered.
fn again<T>(what: &str, mut attempt: impl FnMut() -> redis::RedisResult<T>) -> T {
    let begun = Instant::now();
    loop {
        match attempt() {
            Ok(answer) => return answer,
            Err(error) => assert!(begun.elapsed() < DEADLINE, "{what}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Writes, kills the primary, writes, and reads all of it back.
fn through_a_kill(cluster: &mut Cluster, mut set: impl FnMut(&str, usize), mut get: impl FnMut(&str) -> Option<usize>) {
    for number in 0..WRITES {
        set(&format!("key:{number}"), number);
    }
    cluster.kill(wait_for_primary(cluster));
    for number in WRITES..2 * WRITES {
        set(&format!("key:{number}"), number);
    }
    for number in 0..2 * WRITES {
        assert_eq!(get(&format!("key:{number}")), Some(number), "an acknowledged write");
    }
}

#[test]
fn redis_rs_through_a_kill() {
    let mut cluster = plain();
    let addresses = addresses(&cluster);
    let connect = |at: usize| {
        let client = redis::Client::open(format!("redis://{}", addresses[at % addresses.len()]))?;
        client.get_connection_with_timeout(Duration::from_secs(5))
    };
    let connection = std::cell::RefCell::new((0, connect(0).ok()));
    // A plain client knows one address: when that does not serve, the next one is tried.
    let call = |what: &str, command: &redis::Cmd| {
        again(what, || {
            let (at, open) = &mut *connection.borrow_mut();
            let answer = match open {
                Some(open) => command.query::<redis::Value>(open),
                None => Err(redis::RedisError::from((redis::ErrorKind::Io, "not connected"))),
            };
            if answer.is_err() {
                *at += 1;
                *open = connect(*at).ok();
            }
            answer
        })
    };
    through_a_kill(
        &mut cluster,
        |key, value| assert_eq!(call(key, redis::cmd("SET").arg(key).arg(value)), redis::Value::Okay),
        |key| redis::from_redis_value(call(key, redis::cmd("GET").arg(key))).ok(),
    );
}

#[test]
fn redis_rs_as_a_cluster_client_through_a_kill() {
    let mut cluster = cluster_mode();
    let nodes: Vec<String> = addresses(&cluster).iter().map(|address| format!("redis://{address}")).collect();
    let client = ClusterClient::builder(nodes)
        .connection_timeout(Duration::from_secs(5))
        .response_timeout(Duration::from_secs(5))
        .build()
        .unwrap();
    let connection = std::cell::RefCell::new(again("a connection", || client.get_connection()));
    // It asks anew who has a slot when it is redirected, but not when a node refuses connections: then it is made anew.
    let call = |key: &str, command: &redis::Cmd| {
        again(key, || {
            let answer = command.query::<Option<String>>(&mut *connection.borrow_mut());
            if answer.is_err() {
                *connection.borrow_mut() = client.get_connection()?;
            }
            answer
        })
    };
    through_a_kill(
        &mut cluster,
        |key, value| assert_eq!(call(key, redis::cmd("SET").arg(key).arg(value)).as_deref(), Some("OK")),
        |key| call(key, redis::cmd("GET").arg(key)).and_then(|value| value.parse().ok()),
    );
}

/// Runs redis-cli with words, and gives what it prints.
fn redis_cli(program: &Path, address: &str, words: &[&str]) -> String {
    let (host, port) = address.rsplit_once(':').unwrap();
    let output = Command::new(program).args(["-h", host, "-p", port]).args(words).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim_end().to_string()
}

#[test]
fn redis_cli_through_a_kill() {
    let Some(program) = find_or_skip("redis_cli_through_a_kill", "redis-cli") else { return };
    let mut cluster = plain();
    let before = addresses(&cluster);
    let (host, port) = before[0].rsplit_once(':').unwrap();
    // It asks for COMMAND DOCS first, as it does at a prompt.
    let mut prompt = Program::start(Command::new(&program).args(["-h", host, "-p", port]));
    for number in 0..WRITES {
        prompt.say(&format!("SET key:{number} {number}"));
        assert_eq!(prompt.hear(), "OK");
    }
    cluster.kill(wait_for_primary(&cluster));
    let next = resp_address(&cluster, wait_for_primary(&cluster), 0).to_string();
    // The other shard's primary follows the first one's. "foo" and "bar" are in different shards.
    wait_for("it to serve both shards", || {
        ["foo", "bar"].iter().all(|key| redis_cli(&program, &next, &["SET", key, "value"]) == "OK").then_some(())
    });
    for number in 0..WRITES {
        assert_eq!(redis_cli(&program, &next, &["GET", &format!("key:{number}")]), number.to_string());
    }
    assert_eq!(redis_cli(&program, &next, &["SET", "key:0", "again"]), "OK");
    let backup = before.iter().skip(1).find(|address| **address != next).unwrap();
    let refusal = redis_cli(&program, backup, &["SET", "key:0", "never"]);
    assert!(refusal.starts_with("READONLY"), "{refusal}");
}

#[test]
fn redis_cli_follows_redirections_through_a_kill() {
    let Some(program) = find_or_skip("redis_cli_follows_redirections_through_a_kill", "redis-cli") else { return };
    let mut cluster = cluster_mode();
    let before = addresses(&cluster);
    for number in 0..20 {
        // From a backup's node, it is sent on.
        let words = ["-c", "SET", &format!("key:{number}"), &number.to_string()];
        assert_eq!(redis_cli(&program, &before[number % 3], &words), "OK");
    }
    cluster.kill(wait_for_primary(&cluster));
    // Each shard has its own primary, and each node hears of it for itself: "foo" and "bar" are in different shards.
    wait_for("both nodes to know both shards' primaries", || {
        let is_served = |node: &String| {
            ["foo", "bar"].iter().all(|key| redis_cli(&program, node, &["-c", "SET", key, "value"]) == "OK")
        };
        before[1..].iter().all(is_served).then_some(())
    });
    for number in 0..20 {
        let words = ["-c", "GET", &format!("key:{number}")];
        assert_eq!(redis_cli(&program, &before[1 + number % 2], &words), number.to_string());
    }
    let check = redis_cli(&program, &before[1], &["CLUSTER", "INFO"]);
    assert!(check.contains("cluster_slots_assigned:16384"), "{check}");
}

fn benchmark(program: &Path, address: &str, words: &str) {
    let (host, port) = address.rsplit_once(':').unwrap();
    let mut command = Command::new(program);
    command.args(["-h", host, "-p", port, "--csv"]).args(words.split(' '));
    let output = command.output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{words}: {}\n{text}\n{errors}", output.status);
    for test in words.split_once("-t ").unwrap().1.split(' ').next().unwrap().split(',') {
        let is_line = |line: &str| line.starts_with(&format!("\"{}", test.to_ascii_uppercase()));
        assert!(text.lines().any(is_line), "{words}: no figure for {test}\n{text}\n{errors}");
    }
}

#[test]
fn redis_benchmark_through_a_kill() {
    let Some(program) = find_or_skip("redis_benchmark_through_a_kill", "redis-benchmark") else { return };
    let Some(client) = find_or_skip("redis_benchmark_through_a_kill", "redis-cli") else { return };
    // Its MSET has keys all over the shards, so there is one.
    let mut cluster = Cluster::start(Spec::of(3).with_resp());
    for round in 0..2 {
        let address = resp_address(&cluster, wait_for_primary(&cluster), 0).to_string();
        benchmark(&program, &address, "-t set,get,incr,mset,ping -n 2000 -c 20 -r 1000 -d 100");
        benchmark(&program, &address, "-P 16 -t set,get -n 20000 -c 20 -r 1000 -d 100");
        assert_eq!(redis_cli(&client, &address, &["SET", &format!("round:{round}"), "done"]), "OK");
        // It does not look for another server by itself: it is started again.
        if round == 0 {
            let (host, port) = address.rsplit_once(':').unwrap();
            let mut endless = Command::new(&program);
            endless.args(["-h", host, "-p", port, "-t", "set", "-n", "100000000", "-q"]);
            let mut endless = endless.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            wait_for("it to write", || {
                let written = redis_cli(&client, &address, &["GET", "key:__rand_int__"]);
                (!written.is_empty()).then_some(())
            });
            cluster.kill(wait_for_primary(&cluster));
            let _ = endless.kill();
            endless.wait().unwrap();
        }
    }
    let address = resp_address(&cluster, wait_for_primary(&cluster), 0).to_string();
    assert_eq!(redis_cli(&client, &address, &["GET", "round:0"]), "done");
}

#[test]
fn redis_benchmark_on_a_cluster() {
    let Some(program) = find_or_skip("redis_benchmark_on_a_cluster", "redis-benchmark") else { return };
    let cluster = cluster_mode();
    let address = addresses(&cluster)[0].clone();
    benchmark(&program, &address, "--cluster -t set,get -n 5000 -c 20 -P 4 -r 1000 -d 100");
}

/// Its cluster mode looks for the slots again when it is redirected, but it ends as soon as a node's connection does.
/// So it is started again, on a node that is left; whatever other cluster clients were told in the meantime is there.
#[test]
fn redis_benchmark_on_a_cluster_through_a_kill() {
    const TEST: &str = "redis_benchmark_on_a_cluster_through_a_kill";
    let Some(program) = find_or_skip(TEST, "redis-benchmark") else { return };
    let Some(client) = find_or_skip(TEST, "redis-cli") else { return };
    let mut cluster = cluster_mode();
    let before = addresses(&cluster);
    let (host, port) = before[0].rsplit_once(':').unwrap();
    let mut endless = Command::new(&program);
    endless.args(["-h", host, "-p", port, "--cluster", "-t", "set", "-n", "100000000", "-c", "8", "-r", "1000", "-q"]);
    let mut endless = endless.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut written = 0;
    let mut write = |address: &str| {
        if redis_cli(&client, address, &["-c", "SET", &format!("own:{written}"), &written.to_string()]) == "OK" {
            written += 1;
        }
        written
    };
    wait_for("both to write", || {
        let keys = redis_cli(&client, &before[0], &["DBSIZE"]).parse::<usize>().unwrap_or(0);
        (write(&before[0]) >= 20 && keys > 100).then_some(())
    });
    cluster.kill(wait_for_primary(&cluster));
    let ended = wait_for("its end", || endless.try_wait().unwrap());
    assert!(!ended.success(), "it says that its connection has ended");
    let next = resp_address(&cluster, wait_for_primary(&cluster), 0).to_string();
    wait_for("both shards to serve", || (write(&next) >= 40).then_some(()));
    benchmark(&program, &next, "--cluster -t set,get -n 5000 -c 20 -P 4 -r 1000 -d 100");
    for number in 0..written {
        let words = ["-c", "GET", &format!("own:{number}")];
        assert_eq!(redis_cli(&client, &next, &words), number.to_string(), "an acknowledged write");
    }
}
