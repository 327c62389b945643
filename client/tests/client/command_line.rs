//! The `lockstep` program: output, exit codes, scripts.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::fake::{Action, Fake};

/// A way to run the program against a cluster.
struct Shell {
    cluster: String,
}

impl Shell {
    fn new(fake: &Fake) -> Shell {
        Shell { cluster: fake.addresses().join(",") }
    }

    /// Runs the program to its end with `input` as standard input.
    async fn run_with(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
        command.env("LOCKSTEP_CLUSTER", &self.cluster).env_remove("NO_COLOR").args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let input = input.to_vec();
        // The fake cluster runs on this test's only thread, so waiting for the program is another thread's business.
        tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            // A program that does not read its input closes it; that is no failure of the test.
            let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
            let output = child.wait_with_output().unwrap();
            writer.join().unwrap();
            output
        })
        .await
        .unwrap()
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(arguments, b"").await
    }

    /// Runs the program and checks its exit code, standard output, and that standard error contains a text.
    #[track_caller]
    fn check(&self, arguments: &[&str], code: i32, stdout: &str, stderr: &str) -> impl Future<Output = ()> {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let shell = Shell { cluster: self.cluster.clone() };
        let (stdout, stderr) = (stdout.to_owned(), stderr.to_owned());
        async move {
            let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let output = shell.run(&words).await;
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
            assert_eq!(String::from_utf8_lossy(&output.stdout), stdout, "{arguments:?}");
            assert!(errors.contains(&stderr), "{arguments:?}: {errors}");
        }
    }

    /// The same, with an answer that does not come: exit code 3, and what standard error contains, in which `TIME` is
    /// the timeout in milliseconds. On a busy machine a short time may be over before the program is where it waits.
    async fn check_timeout(&self, arguments: &[&str], stderr: &str) {
        let mut errors = Vec::new();
        for timeout_ms in [200, 1000, 5000, 25_000] {
            let timeout = format!("{timeout_ms}ms");
            let output = self.run(&[&["--timeout", &timeout], arguments].concat()).await;
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!((output.status.code(), output.stdout), (Some(3), Vec::new()), "{arguments:?}: {error}");
            if error.contains(&stderr.replace("TIME", &timeout_ms.to_string())) {
                return;
            }
            errors.push(error);
        }
        panic!("{arguments:?}: {errors:?}");
    }
}

async fn start() -> (Fake, Shell) {
    let fake = Fake::start(1, 1).await;
    let shell = Shell::new(&fake);
    (fake, shell)
}

fn json_lines(output: &Output) -> Vec<Value> {
    String::from_utf8(output.stdout.clone()).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn values_of_any_bytes_go_in_and_come_out_as_they_are() {
    let (_fake, shell) = start().await;
    let value: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    assert!(shell.run_with(&["put", "key", "-"], &value).await.status.success());
    let output = shell.run(&["get", "key"]).await;
    assert_eq!((output.status.code(), output.stdout == value), (Some(0), true));
}

#[tokio::test]
async fn every_command_answers_and_a_missing_key_is_exit_code_1() {
    let (_fake, shell) = start().await;
    shell.check(&["get", "key"], 1, "", "(nil) key").await;
    shell.check(&["put", "key", "value"], 0, "OK version 2, copies 2\n", "").await;
    shell.check(&["get", "key", "--show-version"], 0, "value", "version 2").await;
    shell.check(&["exists", "key"], 0, "true\n", "").await;
    shell.check(&["exists", "none"], 1, "false\n", "").await;
    shell.check(&["ttl", "key"], 0, "never\n", "").await;
    shell.check(&["expire", "key", "90s"], 0, "OK version 4, copies 2\n", "").await;
    shell.check(&["ttl", "key"], 0, "90000\n", "").await;
    shell.check(&["expire", "key", "never"], 0, "OK version 6, copies 2\n", "").await;
    shell.check(&["expire", "none", "1s"], 1, "", "(nil) none").await;
    shell.check(&["ttl", "none"], 1, "", "(nil) none").await;
    shell.check(&["incr", "sum"], 0, "1\n", "").await;
    shell.check(&["incr", "sum", "-5"], 0, "-4\n", "").await;
    shell.check(&["incr", "key"], 1, "", "not a decimal").await;
    shell.check(&["cas", "key", "6", "-7"], 0, "OK version 16, copies 2\n", "").await;
    shell.check(&["cas", "key", "6", "other"], 1, "", "version is 16").await;
    shell.check(&["mput", "{7}a", "1", "{7}b", "-2"], 0, "OK version 20, copies 2\n", "").await;
    shell.check(&["mget", "{7}a", "{7}b"], 0, "{7}a\t1\n{7}b\t-2\n", "").await;
    shell.check(&["mget", "{7}a", "none"], 1, "{7}a\t1\n", "(nil) none").await;
    shell.check(&["del", "key"], 0, "OK version 22, copies 2\n", "").await;
    shell.check(&["del", "key"], 1, "", "(nil) key").await;
}

#[tokio::test]
async fn json_is_one_object_per_answer() {
    let (_fake, shell) = start().await;
    assert!(shell.run_with(&["put", "bytes", "-"], b"\xff\x00").await.status.success());
    let answers = json_lines(&shell.run(&["put", "key", "a\tb", "--output", "json"]).await);
    assert_eq!(answers, [json!({"version": 4, "copies": 2})]);
    let answers = json_lines(&shell.run(&["--output", "json", "get", "key"]).await);
    assert_eq!(answers, [json!({"key": "key", "value": "a\tb", "version": 4})]);
    let answers = json_lines(&shell.run(&["mget", "bytes", "none", "--output", "json"]).await);
    assert_eq!(
        answers,
        [json!({"key": "bytes", "value_hex": "ff00", "version": 2}), json!({"key": "none", "value": null})]
    );
    let answers = json_lines(&shell.run(&["ttl", "key", "--output", "json"]).await);
    assert_eq!(answers, [json!({"ttl_ms": null})]);
    for command in ["get", "del", "ttl"] {
        let output = shell.run(&[command, "none", "--output", "json"]).await;
        assert_eq!((output.status.code(), json_lines(&output)), (Some(1), vec![json!({"key": "none", "value": null})]));
    }
}

#[tokio::test]
async fn json_had_no_object_for_what_failed_nor_for_where_a_scan_goes_on() {
    let (_fake, shell) = start().await;
    assert!(shell.run(&["put", "key", "value"]).await.status.success());
    assert!(shell.run(&["put", "other", "value"]).await.status.success());
    let output = shell.run(&["--output", "json", "cas", "key", "1", "new"]).await;
    assert_eq!(output.status.code(), Some(1));
    let answers = json_lines(&output);
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(
        (&answers[0]["error"], &answers[0]["version"], &answers[0]["outcome"]),
        (&json!("version_mismatch"), &json!(2), &json!("not_executed"))
    );
    assert!(answers[0]["message"].as_str().unwrap().contains("version is 2"), "{answers:?}");
    let answers = json_lines(&shell.run(&["--output", "json", "incr", "key"]).await);
    assert_eq!((answers.len(), &answers[0]["error"]), (1, &json!("wrong_type")));
    let answers = json_lines(&shell.run_with(&["--output", "json"], b"mput a\nget key\n").await);
    assert_eq!((answers.len(), &answers[0]["error"], &answers[1]["key"]), (2, &json!("usage"), &json!("key")));

    let answers = json_lines(&shell.run(&["--output", "json", "scan", "--limit", "1"]).await);
    assert_eq!(answers.len(), 2, "{answers:?}");
    let cursor = answers[1]["cursor"].as_str().unwrap();
    let rest = json_lines(&shell.run(&["--output", "json", "scan", "--cursor", cursor]).await);
    assert_eq!(rest.len(), 1, "{rest:?}");
    assert_ne!(rest[0]["key"], answers[0]["key"]);
}

#[tokio::test]
async fn an_option_that_the_environment_gave_was_shown_as_if_it_had_to_be_given() {
    let (_fake, shell) = start().await;
    let errors = String::from_utf8(shell.run(&["put"]).await.stderr).unwrap();
    assert!(errors.contains("Usage: lockstep put <KEY> <VALUE>"), "{errors}");
    let help = String::from_utf8(shell.run(&["--help"]).await.stdout).unwrap();
    assert!(help.contains("LOCKSTEP_CLUSTER") && help.contains("127.0.0.1:7400"), "{help}");
}

#[tokio::test]
async fn a_port_that_takes_connections_and_says_nothing_was_called_unreachable() {
    // Connections come about without anybody accepting them.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let shell = Shell { cluster: listener.local_addr().unwrap().to_string() };
    shell.check_timeout(&["get", "key"], "connected, but no answer to the hello within").await;
}

#[tokio::test]
async fn a_scan_prints_lines_stops_at_its_limit_and_goes_on_from_its_cursor() {
    let (_fake, shell) = start().await;
    let mut script = String::new();
    for number in 0..20 {
        script += &format!("put key-{number} \"a\\tb\"\nput other-{number} x\n");
    }
    assert!(shell.run_with(&[], script.as_bytes()).await.status.success());
    let output = shell.run(&["scan"]).await;
    let lines = String::from_utf8(output.stdout).unwrap();
    assert_eq!(lines.lines().count(), 40);
    assert!(lines.lines().any(|line| line == "key-7\ta\\tb"), "{lines}");
    let output = shell.run(&["scan", "--keys", "--prefix", "key-"]).await;
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().filter(|line| line.starts_with("key-")).count(), 20);

    let mut found = std::collections::BTreeSet::new();
    let mut cursor: Option<String> = None;
    for _ in 0..5 {
        let mut arguments = vec!["scan", "--keys", "--limit", "9"];
        arguments.extend(cursor.as_deref().into_iter().flat_map(|cursor| ["--cursor", cursor]));
        let output = shell.run(&arguments).await;
        found.extend(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned));
        let note = String::from_utf8(output.stderr).unwrap();
        cursor = note.trim().strip_prefix("more: --cursor ").map(str::to_owned);
    }
    assert_eq!((found.len(), cursor), (40, None));
}

#[tokio::test]
async fn wrong_command_lines_are_exit_code_2_and_nothing_is_sent() {
    let fake = Fake::start(1, 3).await;
    let shell = Shell::new(&fake);
    shell.check(&["frobnicate"], 2, "", "frobnicate").await;
    shell.check(&["put", "key"], 2, "", "<VALUE>").await;
    shell.check(&["cas", "key", "x", "value"], 2, "", "invalid value").await;
    shell.check(&["put", "key", "value", "--ttl", "5 parsecs"], 2, "", "500ms").await;
    shell.check(&["--timeout", "0s", "get", "key"], 2, "", "timeout").await;
    shell.check(&["get", ""], 2, "", "at least one byte").await;
    shell.check(&["mput", "a", "1", "b"], 2, "", "no value").await;
    shell.check(&["mput", "a", "1", "b", "2", "c", "3", "d", "4"], 2, "", "hash tag").await;
    shell.check(&["scan", "--cursor", "x"], 2, "", "shard:slot:position").await;
    shell.check(&["--cluster", "nonsense", "get", "key"], 2, "", "host:port").await;
    let output = shell.run_with(&["put", "key", "-"], &vec![0; (1 << 20) + 1]).await;
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(fake.state().seen, []);
}

#[tokio::test]
async fn no_answer_is_exit_code_3() {
    let mut fake = Fake::single(|_| Action::Ignore).await;
    let shell = Shell::new(&fake);
    shell.check_timeout(&["get", "key"], "get: no answer within TIME ms").await;
    shell.check_timeout(&["get", "key"], "give it longer with --timeout").await;
    fake.hook(|_| Action::Refuse(lockstep_proto::Status::Unavailable));
    shell.check_timeout(&["get", "key"], "no majority of the servers").await;
    fake.stop(0).await;
    shell.check_timeout(&["get", "key"], "unavailable (not executed)").await;
    shell.check_timeout(&["status"], "unavailable").await;
}

#[tokio::test]
async fn a_script_runs_to_its_end_and_the_first_failure_is_its_exit_code() {
    let (fake, shell) = start().await;
    let script =
        b"put a 'one two'  # a comment\n\n# another\nget a\nget none\nfrobnicate\nput b \"\\x00\\xff\"\nget b\n";
    let output = shell.run_with(&[], script).await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"OK version 2, copies 2\none two\nOK version 3, copies 2\n\x00\xff\n");
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("(nil) none") && errors.contains("frobnicate"), "{errors}");
    assert!(!errors.contains("lockstep>"), "{errors}");

    let output = shell.run_with(&[], b"get 'open\nquit\nput never x\n").await;
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(fake.state().machine.value(b"never"), None);
    assert_eq!(shell.run_with(&[], b"put c -\n").await.status.code(), Some(2));
    // The last line needs no newline.
    assert_eq!(shell.run_with(&[], b"get a").await.stdout, b"one two\n");
    assert_eq!(shell.run_with(&[], b"").await.status.code(), Some(0));
}

#[tokio::test]
async fn a_script_explains_the_commands() {
    let (_fake, shell) = start().await;
    let output = shell.run_with(&[], b"help\nhelp scan\n").await;
    let help = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(help.contains("compare") || help.contains("cas"), "{help}");
    assert!(help.contains("--cursor") && help.contains("quit"), "{help}");
}

#[tokio::test]
async fn status_is_a_table_with_a_line_per_server_and_shard() {
    let mut fake = Fake::start(3, 2).await;
    let shell = Shell::new(&fake);
    fake.stop(1).await;
    let output = shell.run(&["status"]).await;
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{table}");
    assert!(!table.contains('\x1b'), "{table}");
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let header = "server address shard role view op commit applied lag in-sync connections uptime";
    assert_eq!(rows[0].join(" "), header);
    let addresses = fake.addresses();
    assert_eq!(rows[1].join(" "), format!("0 {} 0 primary 0 70 60 50 0 yes 4 1m 1s", addresses[0]));
    assert_eq!(rows[2].join(" "), format!("1 {} 0 unreachable - - - - 10 yes - -", addresses[1]));
    assert_eq!(rows[3].join(" "), format!("2 {} 0 backup 0 72 60 50 20 no 4 1m 1s", addresses[2]));
    assert_eq!(rows[6][3], "deficient");
    assert!(rows[6].join(" ").contains("20 (checkpoint: 33 %)"), "{table}");
    assert_eq!(rows.iter().filter(|row| row.len() > 3 && row[3] == "unreachable").count(), 2);
    assert!(table.contains("server 1 shard 1: cannot connect"), "{table}");

    let answers = json_lines(&shell.run(&["status", "--output", "json"]).await);
    let servers = answers[0]["servers"].as_array().unwrap();
    assert_eq!((servers.len(), &servers[0]["replica"]["role"]), (6, &json!("primary")));
    assert_eq!(servers[1]["replica"], Value::Null);

    fake.stop(0).await;
    let output = shell.run(&["status"]).await;
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("shard 0 has no primary"));
    assert!(String::from_utf8_lossy(&output.stdout).contains("backup"));
}

#[tokio::test]
async fn ping_measures_every_shard() {
    let fake = Fake::start(1, 2).await;
    let shell = Shell::new(&fake);
    let answers = json_lines(&shell.run(&["ping", "-n", "2", "--output", "json"]).await);
    let shards: Vec<u64> = answers.iter().map(|answer| answer["shard"].as_u64().unwrap()).collect();
    assert_eq!(shards, [0, 1, 0, 1]);
    shell.check(&["ping", "--shard", "9"], 2, "", "there is no shard 9: the cluster has").await;
}

#[tokio::test]
async fn move_primary_moves_every_shard_or_one_and_says_what_it_did() {
    let fake = Fake::start(3, 2).await;
    let shell = Shell::new(&fake);
    let answers = json_lines(&shell.run(&["move-primary", "--shard", "1", "--output", "json"]).await);
    assert_eq!(
        (answers.len(), &answers[0]["shard"], &answers[0]["from"], &answers[0]["to"]),
        (1, &json!(1), &json!(0), &json!(1))
    );
    let output = shell.run(&["move-primary", "--to", "2"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("shard 0: server 2 is the primary now, was server 1; view 2, "), "{text}");
    // The fake servers' shards share their view.
    assert_eq!(lines[1], "shard 1: server 2 is the primary already, view 2");
    assert_eq!(lines.len(), 2);

    shell.check(&["move-primary", "--to", "3"], 2, "", "there is no server 3: the cluster has servers 0 to 2").await;
    shell.check(&["move-primary", "--shard", "2"], 2, "", "there is no shard 2: the cluster has").await;
    shell.check(&["move-primary", "--to", "x"], 2, "", "invalid value").await;
    fake.hook(|_| Action::Refuse(lockstep_proto::Status::Unavailable));
    shell.check(&["move-primary", "--to", "0"], 1, "", "shard 0: because the test says so").await;
}
