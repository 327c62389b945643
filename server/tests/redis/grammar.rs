//! Random sequences of commands, from a seed.

use std::time::Duration;

use rand::{RngExt, SeedableRng, seq::IndexedRandom};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::arguments::{float, integer, key, offset, pattern, time, time_to_live, value, word};

/// What is done in one step of a sequence.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send a command.
    Command(Vec<Vec<u8>>),
    /// SCAN with these options from the beginning to the end.
    ScanAll(Vec<Vec<u8>>),
    /// Wait, so that what has a short time to live expires.
    Pause(Duration),
}

/// One step: on which of the two connections, and what.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// 0 or 1.
    pub connection: usize,
    /// What.
    pub action: Action,
}

/// A sequence of steps, and how they are sent.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// In order.
    pub steps: Vec<Step>,
    /// Whether a command is sent before the one before it is answered.
    pub is_pipelined: bool,
}

/// How keys are chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keys {
    /// Any: for a server with one shard.
    Any,
    /// All of a sequence in one slot, another for each sequence.
    OneSlot,
    /// All over the shards, and no command that needs all of its keys in one.
    Spread,
}

/// Commands, how often each is drawn, and what their arguments are: a word that begins with `$` stands for something
/// random (see [`Generator::expand`]), with `*` none to four times, with `+` one to four times.
const COMMANDS: &[(u32, &str)] = &[
    (20, "GET $key"),
    (25, "SET $key $value"),
    (25, "SET $key $value $setoption*"),
    (6, "SETNX $key $value"),
    (6, "SETEX $key $seconds $value"),
    (6, "PSETEX $key $milliseconds $value"),
    (6, "GETSET $key $value"),
    (6, "GETDEL $key"),
    (12, "GETEX $key $getexoption*"),
    (8, "MGET $key+"),
    (10, "APPEND $key $value"),
    (6, "STRLEN $key"),
    (12, "GETRANGE $key $integer $integer"),
    (4, "SUBSTR $key $integer $integer"),
    (12, "SETRANGE $key $offset $value"),
    (8, "INCR $key"),
    (8, "DECR $key"),
    (10, "INCRBY $key $integer"),
    (10, "DECRBY $key $integer"),
    (20, "INCRBYFLOAT $key $float"),
    (6, "DEL $key+"),
    (4, "UNLINK $key+"),
    (6, "EXISTS $key+"),
    (5, "TYPE $key"),
    (4, "TOUCH $key+"),
    (10, "EXPIRE $key $seconds $expireoption*"),
    (8, "PEXPIRE $key $milliseconds $expireoption*"),
    (8, "EXPIREAT $key $unixseconds $expireoption*"),
    (8, "PEXPIREAT $key $unixmilliseconds $expireoption*"),
    (8, "TTL $key"),
    (8, "PTTL $key"),
    (8, "EXPIRETIME $key"),
    (8, "PEXPIRETIME $key"),
    (6, "PERSIST $key"),
    (3, "RANDOMKEY"),
    (8, "KEYS $pattern"),
    (4, "SCAN $integer $scanoption*"),
    (4, "DBSIZE"),
    (2, "FLUSHDB $flushoption*"),
    (2, "FLUSHALL $flushoption*"),
    (8, "OBJECT ENCODING $key"),
    (2, "OBJECT IDLETIME $key"),
    (1, "OBJECT $word $key"),
    (2, "PING"),
    (2, "PING $value"),
    (2, "ECHO $value"),
    (1, "SELECT 0"),
    (2, "SELECT $integer"),
    (1, "AUTH $word"),
    (1, "AUTH $user $word"),
    (1, "HELLO"),
    (2, "HELLO $protocol $hellooption*"),
    (1, "RESET"),
    (1, "QUIT"),
    (2, "CLIENT SETNAME $name"),
    (2, "CLIENT GETNAME"),
    (1, "CLIENT ID"),
    (1, "CLIENT INFO"),
    (1, "CLIENT LIST $clientlist*"),
    (1, "CLIENT NO-EVICT $word"),
    (1, "CLIENT KILL $killoption*"),
    (1, "CLIENT UNPAUSE"),
    (1, "CLIENT PAUSE $word $word"),
    (1, "CLIENT $word"),
    (1, "COMMAND COUNT"),
    (1, "COMMAND INFO nosuch"),
    (2, "COMMAND GETKEYS $command"),
    (1, "COMMAND $word"),
    (2, "CONFIG GET databases"),
    (1, "CONFIG GET $word"),
    (1, "CONFIG SET nosuch $word"),
    (1, "CONFIG $word"),
    (1, "CONFIG RESETSTAT"),
    (1, "INFO $word"),
    (1, "TIME"),
    (1, "LASTSAVE"),
    (1, "ROLE"),
    (1, "WAIT 0 $integer"),
    (1, "WAIT $word 1"),
    (1, "SLOWLOG LEN"),
    (1, "SLOWLOG RESET"),
    (1, "SLOWLOG GET $integer"),
    (1, "SLOWLOG $word"),
    (1, "LATENCY RESET $word*"),
    (1, "LATENCY HISTOGRAM nosuch"),
    (1, "MEMORY USAGE $key"),
    (1, "MEMORY USAGE $key SAMPLES $integer"),
    (1, "MEMORY $word"),
    (2, "PUBLISH $key $value"),
    (1, "PUBSUB CHANNELS"),
    (1, "PUBSUB CHANNELS $pattern"),
    (1, "PUBSUB NUMSUB $key*"),
    (1, "PUBSUB NUMPAT"),
    (1, "PUBSUB $word"),
    (1, "CLUSTER INFO"),
    (1, "CLUSTER $word"),
    (1, "READONLY"),
    (1, "READWRITE"),
    (1, "ASKING"),
    (2, "nosuch $word*"),
    (1, "$word $word*"),
];

/// Commands that need all of their keys in one shard, and those that begin and end transactions.
const OF_ONE_SLOT: &[(u32, &str)] = &[
    (10, "MSET $pair+"),
    (10, "MSETNX $pair+"),
    (8, "RENAME $key $key"),
    (8, "RENAMENX $key $key"),
    (10, "COPY $key $key $copyoption*"),
    (4, "MULTI"),
    (6, "EXEC"),
    (2, "DISCARD"),
    (5, "WATCH $key+"),
    (2, "UNWATCH"),
];

/// Commands whose keys are all, or any.
const OF_ALL_SLOTS: &[&str] = &["KEYS", "SCAN", "RANDOMKEY", "DBSIZE", "FLUSHDB", "FLUSHALL", "$word"];

/// A sequence from a seed.
pub fn generate(seed: u64, keys: Keys) -> Sequence {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let tag = match keys {
        Keys::OneSlot => format!("{{{}}}", random.random_range(0..64)),
        Keys::Any | Keys::Spread => String::new(),
    };
    let is_pipelined = random.random_ratio(1, 2);
    let mut generator = Generator { random, keys, tag, steps: Vec::new(), connection: 0 };
    generator.greet();
    for _ in 0..generator.random.random_range(1..16) {
        generator.connection = usize::from(generator.random.random_ratio(1, 5));
        match generator.random.random_range(0..100) {
            0..6 if keys != Keys::Spread => generator.transaction(),
            6..9 => generator.expiring(),
            9..12 => generator.scan(),
            _ => generator.command(),
        }
    }
    generator.look();
    Sequence { steps: generator.steps, is_pipelined }
}

struct Generator {
    random: Xoshiro256PlusPlus,
    keys: Keys,
    tag: String,
    steps: Vec<Step>,
    connection: usize,
}

impl Generator {
    fn push(&mut self, action: Action) {
        self.steps.push(Step { connection: self.connection, action });
    }

    fn push_words(&mut self, template: &str) {
        let command = self.expand(template);
        self.push(Action::Command(command));
    }

    /// Chooses the protocol of each connection.
    fn greet(&mut self) {
        for connection in 0..2 {
            self.connection = connection;
            match self.random.random_range(0..5) {
                0 | 1 => self.push_words("HELLO 3"),
                2 => self.push_words("HELLO 2"),
                _ => {}
            }
        }
    }

    fn command(&mut self) {
        let template = self.template();
        let mut command = self.expand(template);
        self.damage(&mut command);
        self.push(Action::Command(command));
    }

    fn template(&mut self) -> &'static str {
        let others = if self.keys == Keys::Spread { &[][..] } else { OF_ONE_SLOT };
        // In a transaction these would concern other shards than that of its keys.
        let is_left_out = |(_, template): &&(u32, &str)| {
            let name = template.split(' ').next().unwrap_or_default();
            self.keys == Keys::OneSlot && OF_ALL_SLOTS.contains(&name)
        };
        let all = || COMMANDS.iter().chain(others).filter(|entry| !is_left_out(entry));
        let mut at = self.random.random_range(0..all().map(|(weight, _)| weight).sum());
        let mut found = all().find(|(weight, _)| {
            let is_here = at < *weight;
            at = at.saturating_sub(*weight);
            is_here
        });
        found.take().expect("the draw is below the sum").1
    }

    /// Now and then, too much, too little, or something else than expected; and names in any case.
    fn damage(&mut self, command: &mut Vec<Vec<u8>>) {
        match self.random.random_range(0..100) {
            0..3 if command.len() > 1 => drop(command.pop()),
            // A word in place of a key would be in another slot.
            3..5 if self.keys != Keys::OneSlot => command.push(word(&mut self.random)),
            5..7 if command.len() > 1 && self.keys != Keys::OneSlot => {
                let at = self.random.random_range(1..command.len());
                command[at] = word(&mut self.random);
            }
            7 => command.truncate(1),
            8..20 => command[0] = command[0].to_ascii_lowercase(),
            20 => command[0].iter_mut().step_by(2).for_each(|byte| byte.make_ascii_lowercase()),
            _ => {}
        }
    }

    /// Up to three commands that concern a key of the WATCH before and may leave it as it was, or have left it so.
    fn detour(&mut self) {
        const DETOURS: &[&[&str]] = &[
            &["SET K 1", "DEL K"],
            &["APPEND K x", "GETDEL K"],
            &["INCR K", "PEXPIREAT K 1"],
            &["EXPIREAT K 4000000000", "EXPIREAT K 4000000000"],
            &["EXPIREAT K 4000000000", "PERSIST K"],
            &["PERSIST K", "EXPIREAT K 4000000000"],
            &["GETEX K EXAT 4000000000", "GETEX K PERSIST"],
            &["RENAME K Kx", "RENAME Kx K"],
            &["COPY K Kx", "DEL K", "COPY Kx K"],
            &["COPY K Kx REPLACE", "DEL Kx"],
            &["DEL K", "UNLINK K"],
            &["SET K 1 NX", "SET K 1 XX KEEPTTL", "DEL K"],
            &["SETRANGE K 0 \"\"", "APPEND K \"\"", "INCRBY K 0"],
            &["MULTI", "GET K", "EXEC"],
        ];
        let Some(Step { action: Action::Command(watch), .. }) = self.steps.last() else { return };
        let key = watch[self.random.random_range(1..watch.len())].clone();
        let lines = DETOURS[self.random.random_range(0..DETOURS.len())];
        for line in lines {
            let word = |word: &str| match word.strip_prefix('K') {
                Some(rest @ ("" | "x")) => [&key, rest.as_bytes()].concat(),
                _ if word == "\"\"" => Vec::new(),
                _ => word.as_bytes().to_vec(),
            };
            let command = line.split(' ').map(word).collect();
            self.push(Action::Command(command));
        }
    }

    /// WATCH, somebody else's writes, MULTI, commands, EXEC: each of them likely, none certain.
    fn transaction(&mut self) {
        let other = 1 - self.connection;
        if self.random.random_ratio(1, 2) {
            self.push_words("WATCH $key+");
            let connection = std::mem::replace(&mut self.connection, other);
            match self.random.random_range(0..4) {
                0 => {}
                1 => self.detour(),
                _ => (0..self.random.random_range(1..=3)).for_each(|_| self.command()),
            }
            self.connection = connection;
        }
        self.push_words("MULTI");
        for _ in 0..self.random.random_range(0..6) {
            self.command();
        }
        match self.random.random_range(0..10) {
            0 => self.push_words("DISCARD"),
            1 => {}
            _ => self.push_words("EXEC"),
        }
    }

    /// A key that expires before the next step.
    fn expiring(&mut self) {
        let template = [
            "SET $key $value PX $short",
            "PSETEX $key $short $value",
            "PEXPIRE $key $short",
            "GETEX $key PX $short",
            "SET $key $value GET PX $short",
            "SET $key $value XX PX $short",
            "SET $key $value EXAT 1",
            "SET $key $value PXAT 1",
            "GETEX $key EXAT 1",
            "EXPIREAT $key 1",
        ];
        // In a transaction it would begin to live only at EXEC, and might or might not be there when it is looked for.
        let is_multi = |step: &Step| match &step.action {
            Action::Command(words) => words[0].eq_ignore_ascii_case(b"multi"),
            _ => false,
        };
        if self.steps.iter().any(is_multi) {
            return self.command();
        }
        let template = *template.choose(&mut self.random).unwrap();
        self.push_words(template);
        self.push(Action::Pause(Duration::from_millis(25)));
    }

    fn scan(&mut self) {
        let mut options = self.expand("$scanoption*");
        if let Some(at) = options.iter().position(|option| option.is_empty()) {
            options.truncate(at);
        }
        self.push(Action::ScanAll(options));
    }

    /// Reads back what the sequence has left behind.
    fn look(&mut self) {
        self.connection = 0;
        for template in ["KEYS *", "MGET $key $key $key", "PTTL $key", "OBJECT ENCODING $key", "DBSIZE"] {
            self.push_words(template);
        }
    }

    fn expand(&mut self, template: &str) -> Vec<Vec<u8>> {
        let mut command = Vec::new();
        for word in template.split(' ') {
            let (word, count) = match word.as_bytes().last() {
                Some(b'*') if word.starts_with('$') => (&word[..word.len() - 1], [0, 0, 1, 1, 1, 2, 2, 3, 4]),
                Some(b'+') => (&word[..word.len() - 1], [1, 1, 1, 2, 2, 2, 3, 3, 4]),
                _ => (word, [1; 9]),
            };
            for _ in 0..*count.choose(&mut self.random).unwrap() {
                self.expand_word(word, &mut command);
            }
        }
        command
    }

    /// Puts what `word` stands for behind `command`.
    fn expand_word(&mut self, word: &str, command: &mut Vec<Vec<u8>>) {
        let random = &mut self.random;
        let one = match word {
            "$key" => key(random, &self.tag),
            "$pair" => return command.extend([key(random, &self.tag), value(random)]),
            "$value" => value(random),
            "$integer" => integer(random),
            "$float" => float(random),
            "$offset" => offset(random),
            "$seconds" => time_to_live(random, 1),
            "$milliseconds" => time_to_live(random, 1000),
            "$unixseconds" => time(random, 1),
            "$unixmilliseconds" => time(random, 1000),
            "$short" => random.random_range(1..6).to_string().into_bytes(),
            "$pattern" => pattern(random, &self.tag),
            "$word" => crate::arguments::word(random),
            "$command" => {
                let inner = self.template();
                return command.extend(self.expand(inner));
            }
            _ => match options(word) {
                Some(options) => {
                    let option = *options.choose(random).unwrap();
                    return command.extend(self.expand(option));
                }
                None => word.as_bytes().to_vec(),
            },
        };
        command.push(one);
    }
}

/// What an option of a command may be, if the word stands for one.
fn options(word: &str) -> Option<&'static [&'static str]> {
    Some(match word {
        "$setoption" => &[
            "NX",
            "XX",
            "GET",
            "KEEPTTL",
            "EX $seconds",
            "PX $milliseconds",
            "EXAT $unixseconds",
            "PXAT $unixmilliseconds",
            "nx",
            "get",
            "ex $seconds",
            "EX",
            "PXAT",
            "$word",
        ],
        "$getexoption" => &[
            "EX $seconds",
            "PX $milliseconds",
            "EXAT $unixseconds",
            "PXAT $unixmilliseconds",
            "PERSIST",
            "persist",
            "EX",
            "NX",
            "$word",
        ],
        "$expireoption" => &["NX", "XX", "GT", "LT", "gt", "nx", "$word"],
        "$scanoption" => &[
            "MATCH $pattern",
            "COUNT 1",
            "COUNT 3",
            "COUNT $integer",
            "TYPE string",
            "TYPE STRING",
            "TYPE list",
            "TYPE hash",
            "match *",
            "COUNT",
            "$word",
        ],
        "$flushoption" => &["ASYNC", "SYNC", "async", "$word"],
        "$copyoption" => &["REPLACE", "replace", "DB 0", "DB $integer", "DB", "$word"],
        "$hellooption" => &["SETNAME $name", "AUTH default $word", "AUTH", "SETNAME", "$word"],
        "$clientlist" => &["TYPE normal", "TYPE $word", "ID $integer", "TYPE", "ID", "$word"],
        "$killoption" => &["ID 123456789", "ADDR 1.2.3.4:5", "TYPE $word", "1.2.3.4:5", "SKIPME $word", "$word"],
        "$protocol" => &["2", "3", "3", "4", "1", "$integer", "$word"],
        "$user" => &["default", "nobody", "$word"],
        "$name" => &["me", "a name", "$word", "x-y_z", "$key"],
        _ => return None,
    })
}
