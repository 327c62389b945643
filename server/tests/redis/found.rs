//! Differences that random sequences have found, by name. They stay found.

use crate::{
    differential::Pair,
    grammar::{Action, Sequence, Step},
    harness::Spec,
    ours::start,
    peer::Redis,
    sequence::Runner,
    tools::find_or_skip,
};

/// What was wrong, and the commands that showed it: words as one would type them, in quotes where they hold blanks or
/// escapes.
const FOUND: &[(&str, &[&str])] = &[
    ("line ends in the text of an error", &[r#"EXPIRE c 1 "\r""#, r#"PEXPIREAT c 1 "a\r\nb""#, r#"EXPIRE c 1 "\r\n""#]),
    (
        "a database's number beyond an int",
        &["SELECT 4294967295", "SELECT -2147483649", "SELECT 2147483647", "SELECT x"],
    ),
    (
        "an error's text ends at a zero byte",
        &[r#"HELLO 3 "\0""#, r#"CLIENT LIST TYPE "\0""#, r#"CLIENT KILL TYPE "a\0b""#],
    ),
    ("a refused EXEC ends the transaction", &["EXEC a", "MULTI", "SET a 1", "EXEC a", "EXEC", "GET a"]),
    (
        "CONFIG GET's name as it was typed, and old names",
        &["CONFIG GET Maxmemory-Policy", "CONFIG GET slave-read-ONLY", "CONFIG GET maxmemory-p*"],
    ),
    (
        "FAILOVER ABORT with more",
        &["FAILOVER ABORT TO a 1", "FAILOVER TO a 1 ABORT", "FAILOVER ABORT", "FAILOVER ABORT ABORT"],
    ),
    ("BGSAVE in a transaction", &["MULTI", "SET a 1", "BGSAVE", "GET a", "EXEC"]),
    ("a SET whose time is up touches a key", &["WATCH c", "SET c c EXAT 1", "MULTI", "PING", "EXEC"]),
    ("CLIENT INFO names itself", &["CLIENT INFO", "CLIENT SETNAME x", "CLIENT INFO"]),
];

/// The words of a line as redis-cli takes it.
fn words(line: &str) -> Vec<Vec<u8>> {
    let (mut words, mut letters) = (Vec::new(), line.chars().peekable());
    while let Some(letter) = letters.next() {
        let mut word = Vec::new();
        match letter {
            ' ' => continue,
            '"' => loop {
                match letters.next().expect("quotes end") {
                    '"' => break,
                    '\\' => word.push(match letters.next().expect("an escape has a letter") {
                        'r' => b'\r',
                        'n' => b'\n',
                        '0' => 0,
                        other => other as u8,
                    }),
                    other => word.push(other as u8),
                }
            },
            first => {
                word.push(first as u8);
                while let Some(next) = letters.next_if(|next| *next != ' ') {
                    word.push(next as u8);
                }
            }
        }
        words.push(word);
    }
    words
}

#[test]
fn what_was_found_once_stays_right() {
    let Some(program) = find_or_skip("what_was_found_once_stays_right", "redis-server") else { return };
    let (redis, (_cluster, ours)) = (Redis::start(&program, &[]), start(Spec::of(1).with(&["--durability", "memory"])));
    let mut pair = Pair { left: Runner::new(vec![redis.address]), right: Runner::new(ours) };
    let mut wrong = String::new();
    for (name, lines) in FOUND {
        for is_pipelined in [false, true] {
            let step = |line: &&str| Step { connection: 0, action: Action::Command(words(line)) };
            let sequence = Sequence { steps: lines.iter().map(step).collect(), is_pipelined };
            if let Some((at, (redis, ours))) = pair.first_difference(&sequence) {
                wrong += &format!("{name}: {}\n  redis says {redis:?}\n  ours says  {ours:?}\n", lines[at]);
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}
