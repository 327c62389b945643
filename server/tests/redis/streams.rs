//! Where a command has no or several answers, and where bytes are no commands: what a connection is sent as a whole.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    ops::Range,
    time::Duration,
};

use rand::{Rng, RngExt, SeedableRng, seq::IndexedRandom};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::{
    peer::Redis,
    tools::find_or_skip,
    wire::{Body, Broken, Connection, Reply, encode, shown},
};

/// A connection that says nothing for so long hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// Attempts to find fewer bytes that show the same.
const SHRINKS_MAX: usize = 200;

/// Bytes that are at odds with the protocol, or nearly so. Some close the connection, some are ignored, some are
/// commands. None holds a zero byte in a line: Redis looks for the line's end as for that of a C string, and waits for
/// ever.
const PIECES: &[&[u8]] = &[
    b"PING\r\n",
    b"PING\n",
    b"\r\n",
    b"\n",
    b" \r\n",
    b"  PING   hello  \r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"*2\r\n$4\r\nECHO\r\n$5\r\nhello\r\n",
    b"*2\r\n$4\r\nECHO\r\n$0\r\n\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\n\r\n\r\n\r\n",
    b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
    b"SET k \"a b\\x41\\n\\\"\"\r\n",
    b"SET k 'a b\\x41\\'c'\r\n",
    b"GET k\r\n",
    b"SET k \"open\r\n",
    b"SET k \"a\"b\r\n",
    b"SET k 'a'b\r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"*-5\r\n",
    b"*\r\n",
    b"*abc\r\n",
    b"*1x\r\n",
    b"* 1\r\n",
    b"*+1\r\n$4\r\nPING\r\n",
    b"*01\r\n$4\r\nPING\r\n",
    b"*1\r\nPING\r\n",
    b"*1\r\n:4\r\n",
    b"*1\r\n$\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n$abc\r\n",
    b"*1\r\n$ 4\r\nPING\r\n",
    b"*1\r\n$04\r\nPING\r\n",
    b"*1\r\n$+4\r\nPING\r\n",
    b"*1\r\n$99999999999999999999\r\n",
    b"*9999999999\r\n",
    b"*99999999999999999999999\r\n",
    b"*1\r\n$4\r\nPINGxx",
    b"*1\r\n$3\r\nPING\r\n",
    b"*1\r\n\r\n",
    b"*1\n$4\nPING\n",
    b"GET\r\n",
    b"nosuch a b\r\n",
    b"nosuch \"a\\r\\nb\" b\r\n",
    b"*1\r\n$8\r\nno\r\nsuch\r\n",
    b"*2\r\n$3\r\nfoo\r\n$4\r\nx\r\ny\r\n",
    b"*1\r\n$0\r\n\r\n",
    b"QUIT\r\n",
    b"HELLO 3\r\n",
    b"HELLO 3 x\r\n",
    b"HTTP/1.1 GET /\r\n",
    b"MULTI\r\n",
    b"EXEC\r\n",
];

/// What a server sends in answer to `bytes`, which arrive in pieces of these sizes; to the end of the connection.
fn exchange(address: SocketAddr, bytes: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("the server is reachable");
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut rest = bytes;
    for &size in sizes.iter().cycle() {
        let (now, later) = rest.split_at(size.min(rest.len()));
        // The server may have closed already: what it said is what counts.
        if now.is_empty() || stream.write_all(now).is_err() {
            break;
        }
        rest = later;
    }
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return answer,
            Ok(size) => answer.extend_from_slice(&chunk[..size]),
            // A connection that is closed with unread bytes is reset. What was read before that stands.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return answer,
            Err(error) => {
                answer.extend_from_slice(format!("<{error}>").as_bytes());
                return answer;
            }
        }
    }
}

/// The identity that HELLO tells is each server's own.
fn without_identity(answer: &[u8]) -> Vec<u8> {
    let text = answer.escape_ascii().to_string();
    let cut = |text: String, begin: &str, end: &str| match text.find(begin) {
        Some(at) => {
            let from = at + begin.len();
            let to = text[from..].find(end).map_or(text.len(), |found| from + found);
            format!("{}...{}", &text[..from], &text[to..])
        }
        None => text,
    };
    // Each HELLO is cut by itself.
    let parts = text.split("$6\\r\\nserver").map(|part| {
        let part = cut(part.to_string(), "$7\\r\\nversion\\r\\n", "$5\\r\\nproto");
        cut(part, "$2\\r\\nid\\r\\n", "$4\\r\\nmode")
    });
    parts.collect::<Vec<_>>().join("$6\\r\\nserver").into_bytes()
}

fn bytes_of(seed: u64) -> (Vec<u8>, Vec<usize>) {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    // The store keeps what the seed before has written.
    let mut bytes = b"FLUSHALL\r\n".to_vec();
    for _ in 0..random.random_range(1..6) {
        let mut piece = PIECES.choose(&mut random).unwrap().to_vec();
        match random.random_range(0..20) {
            0 if !piece.is_empty() => {
                let at = random.random_range(0..piece.len());
                piece[at] = *b"*$:+-\r\n \"'0159".choose(&mut random).unwrap();
            }
            1 => drop(piece.drain(random.random_range(0..piece.len())..)),
            _ => {}
        }
        bytes.extend_from_slice(&piece);
    }
    let sizes = match random.random_range(0..4) {
        0 => vec![1],
        1 => vec![random.random_range(1..9), random.random_range(1..30)],
        _ => vec![usize::MAX],
    };
    (bytes, sizes)
}

/// Seeds whose bytes two servers answer differently, shortened.
pub fn byte_differences(left: SocketAddr, right: SocketAddr, seeds: Range<u64>) -> Vec<String> {
    let mut found = Vec::new();
    let differ = |bytes: &[u8], sizes: &[usize]| {
        let (left, right) = (exchange(left, bytes, sizes), exchange(right, bytes, sizes));
        (without_identity(&left) != without_identity(&right)).then_some((left, right))
    };
    let mut known = BTreeSet::new();
    for seed in seeds {
        let (mut bytes, sizes) = bytes_of(seed);
        let Some(mut answers) = differ(&bytes, &sizes) else { continue };
        let (mut size, mut tries) = (bytes.len() / 2, 0);
        while size > 0 {
            let mut at = 0;
            while at + size <= bytes.len() && tries < SHRINKS_MAX {
                tries += 1;
                let shorter = [&bytes[..at], &bytes[at + size..]].concat();
                match differ(&shorter, &sizes) {
                    Some(different) => (bytes, answers) = (shorter, different),
                    None => at += size,
                }
            }
            size /= 2;
        }
        if known.insert(answers.clone()) {
            let (redis, ours) = (shown(&answers.0), shown(&answers.1));
            found.push(format!("seed {seed}: {}\n  redis says {redis}\n  ours says  {ours}", shown(&bytes)));
        }
        if found.len() == 20 {
            break;
        }
    }
    found
}

/// Commands for connections that listen; `$c` is a channel, `$p` a pattern.
const LISTENING: &[&str] = &[
    "SUBSCRIBE $c",
    "SUBSCRIBE $c $c",
    "SUBSCRIBE",
    "UNSUBSCRIBE $c",
    "UNSUBSCRIBE",
    "PSUBSCRIBE $p",
    "PSUBSCRIBE $p $p",
    "PUNSUBSCRIBE $p",
    "PUNSUBSCRIBE",
    "PUBLISH $c hello",
    "PUBLISH $c",
    "PING",
    "PING hello",
    "PING a b",
    "GET k",
    "SET k v",
    "QUIT",
    "RESET",
    "PUBSUB CHANNELS",
    "PUBSUB CHANNELS $p",
    "PUBSUB NUMSUB $c $c",
    "PUBSUB NUMPAT",
    "HELLO 3",
    "HELLO 2",
    "ECHO x",
    "MULTI",
    "EXEC",
    "nosuch",
    "CLIENT GETNAME",
];

/// More often: what makes messages.
const SPEAKING: &[&str] = &["PUBLISH $c hello", "PUBLISH $c \r\n", "PUBLISH $c x", "SUBSCRIBE $c", "PSUBSCRIBE $p"];

/// Commands with which a client asks not to be answered. Without those that show what Redis does not mean to do: CLIENT
/// REPLY in a transaction leaves out a part of EXEC's answer, and RESET behind SKIP is not answered.
const SILENCING: &[&str] = &[
    "CLIENT REPLY OFF",
    "CLIENT REPLY SKIP",
    "CLIENT REPLY ON",
    "CLIENT REPLY",
    "CLIENT REPLY maybe",
    "client reply skip",
    "SET k v",
    "GET k",
    "INCR k",
    "PING",
    "nosuch",
    "GET",
    "EXEC",
    "DISCARD",
    "ECHO x",
    "HELLO 3",
    "SUBSCRIBE c",
    "UNSUBSCRIBE c",
];

fn command(random: &mut impl Rng, template: &str) -> Vec<Vec<u8>> {
    let expand = |word: &str| match word {
        "$c" => ["a", "b", "abc", "", "x*"].choose(random).unwrap().as_bytes().to_vec(),
        "$p" => ["*", "a*", "[ab]", "?", "x\\*", "", "abc"].choose(random).unwrap().as_bytes().to_vec(),
        _ => word.as_bytes().to_vec(),
    };
    template.split(' ').map(expand).collect()
}

/// Everything that three connections of a server are sent while they do what a seed says. Between two commands nothing
/// is in flight; each command is followed by one whose answer shows that it is over.
fn listen(address: SocketAddr, seed: u64) -> Vec<Vec<Reply>> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut connections: Vec<_> = (0..3).map(|_| Connection::open(address).expect("the server is reachable")).collect();
    let mut heard = vec![Vec::new(); connections.len()];
    for step in 0..random.random_range(3..20) {
        let at = random.random_range(0..connections.len());
        let commands = if random.random_ratio(1, 2) { SPEAKING } else { LISTENING };
        let template = commands.choose(&mut random).unwrap();
        let words = command(&mut random, template);
        ask_and_wait(&mut connections[at], &words, step, &mut heard[at]);
    }
    // Whoever still listens shows what it was sent last.
    for (connection, heard) in connections.iter_mut().zip(&mut heard) {
        ask_and_wait(connection, &[b"RESET".to_vec()], 1000, heard);
        // UNSUBSCRIBE from all goes through them in the order of the table.
        for left in heard.chunk_by_mut(|left, right| leaves(left).is_some() && leaves(left) == leaves(right)) {
            put_channels_in_order(left);
        }
        // A message to oneself may come before or behind the answer to its PUBLISH: messages are compared by
        // themselves.
        heard.sort_by_key(|reply| !is_message(reply));
        // Whoever listens by two patterns is told twice, in the order of the table of patterns.
        for told in heard.chunk_by_mut(|left, right| is_by_pattern(left) && is_by_pattern(right)) {
            told.sort_by_key(|reply| format!("{reply:?}"));
        }
    }
    heard
}

/// Whether it says that a channel, or a pattern, is left.
fn leaves(reply: &Reply) -> Option<&[u8]> {
    let kind = reply.items()?.first()?.text()?;
    kind.ends_with(b"unsubscribe").then_some(kind)
}

fn put_channels_in_order(replies: &mut [Reply]) {
    let channel = |reply: &mut Reply| match &mut reply.body {
        Body::Items(items) if items.len() > 1 => {
            Some(std::mem::replace(&mut items[1], Reply { kind: b'_', body: Body::Null }))
        }
        _ => None,
    };
    let mut channels: Vec<Reply> = replies.iter_mut().filter_map(channel).collect();
    channels.sort_by(|left, right| left.text().cmp(&right.text()));
    for (reply, channel) in replies.iter_mut().zip(channels) {
        if let Body::Items(items) = &mut reply.body {
            items[1] = channel;
        }
    }
}

fn is_message(reply: &Reply) -> bool {
    is_by_pattern(reply) || reply.items().and_then(<[_]>::first).and_then(Reply::text) == Some(b"message")
}

fn ask_and_wait(connection: &mut Connection, words: &[Vec<u8>], step: u32, heard: &mut Vec<Reply>) {
    let token = format!("step-{step}").into_bytes();
    let mut bytes = Vec::new();
    encode(words, &mut bytes);
    // In a transaction this is queued, and nothing shows its token before the end: then DISCARD ends the transaction.
    encode(&[b"PING".to_vec(), token.clone()], &mut bytes);
    connection.send(&bytes);
    loop {
        match connection.receive() {
            Ok(reply) => {
                let is_over = format!("{reply:?}").contains(&format!("step-{step}")) || reply.text() == Some(b"QUEUED");
                let is_hello = reply.items().and_then(<[_]>::first).and_then(Reply::text) == Some(b"server");
                if is_hello {
                    // What HELLO says is compared elsewhere.
                    continue;
                }
                heard.push(in_order(words, reply));
                if is_over {
                    return;
                }
            }
            Err(broken) => {
                heard.push(note(&broken));
                return;
            }
        }
    }
}

fn is_by_pattern(reply: &Reply) -> bool {
    reply.items().and_then(<[_]>::first).and_then(Reply::text) == Some(b"pmessage")
}

/// The order of channels is whatever the table's is.
fn in_order(words: &[Vec<u8>], mut reply: Reply) -> Reply {
    let is_list = words.len() >= 2 && words[1].eq_ignore_ascii_case(b"channels");
    if let (true, Body::Items(items)) = (is_list, &mut reply.body) {
        items.sort_by(|left, right| left.text().cmp(&right.text()));
    }
    reply
}

fn note(broken: &Broken) -> Reply {
    Reply { kind: b'?', body: Body::Line(format!("{broken:?}").into_bytes()) }
}

/// What a client hears that sometimes asks not to be answered, all of it sent at once.
fn hear(address: SocketAddr, seed: u64) -> Vec<u8> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut bytes = b"FLUSHALL\r\n".to_vec();
    for _ in 0..random.random_range(1..15) {
        let template = SILENCING.choose(&mut random).unwrap();
        let words = command(&mut random, template);
        encode(&words, &mut bytes);
    }
    without_identity(&exchange(address, &bytes, &[usize::MAX]))
}

/// Seeds for which two servers tell listening, or deaf, clients different things.
pub fn listening_differences(left: SocketAddr, right: SocketAddr, seeds: Range<u64>) -> Vec<String> {
    let mut found = Vec::new();
    for seed in seeds {
        let (redis, ours) = (listen(left, seed), listen(right, seed));
        if let Some((redis, ours)) = redis.iter().zip(&ours).find(|(redis, ours)| redis != ours) {
            found.push(format!("seed {seed}: pub/sub\n  redis says {redis:?}\n  ours says  {ours:?}"));
        }
        let (redis, ours) = (hear(left, seed), hear(right, seed));
        if redis != ours {
            let (redis, ours) = (shown(&redis), shown(&ours));
            found.push(format!("seed {seed}: CLIENT REPLY\n  redis says {redis}\n  ours says  {ours}"));
        }
        if found.len() >= 10 {
            break;
        }
    }
    found
}

/// What somebody says who may or may not know the password, which is `secret`.
const KNOCKING: &[&str] = &[
    "GET k",
    "SET k v",
    "PING",
    "ECHO x",
    "AUTH",
    "AUTH secret",
    "AUTH wrong",
    "AUTH default secret",
    "AUTH default wrong",
    "AUTH nobody secret",
    "AUTH a b c",
    "HELLO",
    "HELLO 2",
    "HELLO 3",
    "HELLO 3 AUTH default secret",
    "HELLO 3 AUTH default wrong",
    "HELLO 4 AUTH default secret",
    "HELLO 3 AUTH default secret SETNAME me",
    "HELLO 3 SETNAME me",
    "CLIENT GETNAME",
    "RESET",
    "QUIT",
    "nosuch",
    "GET",
    "MULTI",
    "EXEC",
    "COMMAND COUNT x",
    "SUBSCRIBE c",
    "CONFIG GET databases",
    "INFO nosuch",
    "SELECT 0",
    "SELECT 1",
    "CLIENT REPLY OFF",
    "CLIENT REPLY ON",
];

/// Seeds for which two servers with the same password treat a stranger differently.
pub fn knocking_differences(left: SocketAddr, right: SocketAddr, seeds: Range<u64>) -> Vec<String> {
    let mut found = Vec::new();
    for seed in seeds {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut bytes = Vec::new();
        let mut said = Vec::new();
        for _ in 0..random.random_range(1..7) {
            let template = *KNOCKING.choose(&mut random).unwrap();
            said.push(template);
            encode(&command(&mut random, template), &mut bytes);
        }
        if random.random_ratio(1, 10) {
            // A stranger may not send much at once.
            let size = random.random_range(16_000..17_000);
            bytes.extend_from_slice(format!("*2\r\n$4\r\nECHO\r\n${size}\r\n{}\r\n", "x".repeat(size)).as_bytes());
            said.push("ECHO of much");
        }
        if random.random_ratio(1, 10) {
            let count = random.random_range(9..13);
            let words =
                (0..count).map(|number| if number == 0 { b"DEL".to_vec() } else { b"k".to_vec() }).collect::<Vec<_>>();
            encode(&words, &mut bytes);
            said.push("DEL of many");
        }
        // Redis 7.2 says more about how to greet than 7.0.
        let of_7_0 =
            |answer: Vec<u8>| String::from_utf8_lossy(&answer).replace("HELLO <proto> AUTH", "HELLO AUTH").into_bytes();
        let both = [left, right].map(|address| of_7_0(without_identity(&exchange(address, &bytes, &[usize::MAX]))));
        if both[0] != both[1] {
            let (redis, ours) = (shown(&both[0]), shown(&both[1]));
            found.push(format!("seed {seed}: {said:?}\n  redis says {redis}\n  ours says  {ours}"));
        }
        if found.len() == 10 {
            break;
        }
    }
    found
}

#[test]
fn redis_agrees_with_itself_on_bytes_and_listeners() {
    let Some(program) = find_or_skip("redis_agrees_with_itself_on_bytes_and_listeners", "redis-server") else { return };
    let (left, right) = (Redis::start(&program, &[]), Redis::start(&program, &[]));
    let mut found = byte_differences(left.address, right.address, 0..400);
    found.extend(listening_differences(left.address, right.address, 0..150));
    assert!(found.is_empty(), "{}", found.join("\n"));
}
