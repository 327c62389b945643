//! Stories of the protocol, as scripts and the traces they leave.
//!
//! Each file in `tests/protocol/transcripts/` is a script: a line is a comment (`#`), or a command, and the lines that
//! begin with `>` are what the cluster did upon the command above them. The traces are checked in, so a change of the
//! protocol shows as a change of its stories. `LOCKSTEP_BLESS=1 cargo test -p lockstep-replica transcripts` writes them
//! anew.
//!
//! | command | what happens |
//! |---|---|
//! | `cluster servers=N [ack=..] [fanout=..] [pipeline=N] [gather=N] [gather_time=T] [linger=T] [log_memory=BYTES]` | formats the servers |
//! | `begin` | starts all, connects all, and settles |
//! | `start S..`, `crash S..` | starts servers from their disks; ends them without warning |
//! | `handover S [T]` | a server is asked to hand its view over |
//! | `mute A B`, `unmute A B` | from A to B, messages are lost and nobody notices |
//! | `wipe S I`, `format S I` | the disk is replaced while the server is down, and `recover` or `format` run; I is its incarnation |
//! | `rot S OP`, `lose_checkpoint S` | what the disk holds of an op, or its checkpoint, becomes unreadable |
//! | `checkpoint_due S` | enough journal is used |
//! | `checkpoint_wrong S OP FIRST` | as `checkpoint`, but of a state that is not what the log makes it |
//! | `may_give_up` | replicas may end themselves from now on |
//! | `connect A B`, `disconnect A B` | both ways; what is on its way is lost |
//! | `pause S`, `resume S` | the process stands still, as if stopped by a signal; its connections stay |
//! | `stall S`, `unstall S` | the disk does nothing; the process goes on |
//! | `offer S [N]` | N requests arrive at a server |
//! | `offer_and_settle S N` | N requests arrive, and after each everything happens that can |
//! | `read S` | a linearizable read arrives at a server |
//! | `turn S..` | everything that has arrived was handed over |
//! | `disk S [I]` | the disk does all its pending work, or of what it can do the piece at I |
//! | `deliver A B [N]`, `lose A B [N]` | messages from A to B arrive, in order; or never do |
//! | `reorder A B`, `delay A B` | the first two messages change places; the first one goes behind all others |
//! | `repeat A B` | the first message will arrive twice |
//! | `settle` | everything happens that can happen without time passing |
//! | `wait T`, `run T` | time passes; `run` settles every 10 ms |
//! | `checkpoint S OP FIRST` | the state up to an op is durable, and the journal drops what is below another |
//! | `status`, `journal S..` | prints what replicas say of themselves; which ops a journal holds, and of which views |
//! | `quietly COMMAND` | leaves no trace |

use std::{env, fs, path::Path, thread};

use lockstep_replica::{AckPolicy, Config, FanOut, Input, ReplicaStatus, Role};

use crate::world::{World, config, disk::Disk, message::header_of};

#[test]
fn the_replicas_do_what_the_transcripts_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/protocol/transcripts");
    let is_blessed = env::var_os("LOCKSTEP_BLESS").is_some();
    let mut paths: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    assert!(!paths.is_empty(), "there are transcripts in {}", folder.display());
    let mut changed = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let expected = fs::read_to_string(&path).unwrap();
        let Ok(actual) = std::panic::catch_unwind(|| play(&name, &expected)) else {
            changed.push(format!("{name}: cannot be played"));
            continue;
        };
        if actual == expected {
            continue;
        }
        if is_blessed {
            fs::write(&path, actual).unwrap();
        } else {
            changed.push(format!("{name}:\n{}", difference(&expected, &actual)));
        }
    }
    assert!(changed.is_empty(), "transcripts differ (`LOCKSTEP_BLESS=1` writes them anew):\n{}", changed.join("\n"));
}

/// The first place where two transcripts part, with what leads up to it.
fn difference(expected: &str, actual: &str) -> String {
    let (expected, actual): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), actual.lines().collect());
    let line = (0..).find(|&line| expected.get(line) != actual.get(line)).expect("they differ");
    let mut text: Vec<String> = actual[line.saturating_sub(12)..line].iter().map(|line| format!("  {line}")).collect();
    text.push(format!("line {}: the transcript says", line + 1));
    text.extend(expected.iter().skip(line).take(6).map(|line| format!("- {line}")));
    text.push("and the replicas do".to_owned());
    text.extend(actual.iter().skip(line).take(12).map(|line| format!("+ {line}")));
    text.join("\n")
}

/// Plays a script: returns it with its traces.
fn play(name: &str, script: &str) -> String {
    let mut world = None;
    let mut played = String::new();
    for (number, line) in script.lines().enumerate().filter(|(_, line)| !line.starts_with('>')) {
        played.push_str(line);
        played.push('\n');
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.is_empty() || line.starts_with('#') {
            continue;
        }
        let (is_quiet, words) = match words.split_first() {
            Some((&"quietly", words)) => (true, words),
            _ => (false, &words[..]),
        };
        let trace = match (words[0], &mut world) {
            ("cluster", world) => {
                *world = Some(World::new(&parse_config(&words[1..])));
                Vec::new()
            }
            (_, Some(world)) => Player { world, at: format!("{name}:{}", number + 1) }.command(words),
            (_, None) => panic!("{name}:{}: a script begins with `cluster`", number + 1),
        };
        if !is_quiet {
            trace.iter().for_each(|line| played.push_str(&format!("> {line}\n")));
        }
    }
    played
}

fn parse_config(words: &[&str]) -> Config {
    let mut settings = config(3);
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or_else(|| panic!("a setting is name=value, not {word}"));
        match (name, value) {
            ("servers", _) => settings.servers = value.parse().unwrap(),
            ("ack", "majority") => settings.ack = AckPolicy::Majority,
            ("ack", "all") => settings.ack = AckPolicy::All,
            ("ack", "strict") => settings.ack = AckPolicy::Strict,
            ("fanout", "parallel") => settings.fanout = FanOut::Parallel,
            ("fanout", "sequential") => settings.fanout = FanOut::Sequential,
            ("pipeline", _) => settings.pipeline_max = value.parse().unwrap(),
            ("batch_ops", _) => settings.batch_ops_max = value.parse().unwrap(),
            ("gather", _) => settings.batch_gather_ops = value.parse().unwrap(),
            ("gather_time", _) => settings.batch_gather_ns = parse_time(value),
            ("linger", _) => settings.batch_linger_ns = parse_time(value),
            ("log_memory", _) => settings.log_memory_bytes_max = value.parse().unwrap(),
            _ => panic!("unknown setting {word}"),
        }
    }
    settings.check().unwrap();
    settings
}

/// A time in ns: `20ms`, `50us`.
fn parse_time(text: &str) -> u64 {
    let (number, unit_ns) = match (text.strip_suffix("ms"), text.strip_suffix("us")) {
        (Some(number), _) => (number, 1_000_000),
        (_, Some(number)) => (number, 1000),
        _ => panic!("a time ends in ms or us, not {text}"),
    };
    number.parse::<u64>().unwrap() * unit_ns
}

struct Player<'a> {
    world: &'a mut World,
    /// Which line is being played.
    at: String,
}

impl Drop for Player<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("at {}", self.at);
        }
    }
}

impl Player<'_> {
    fn command(&mut self, words: &[&str]) -> Vec<String> {
        let (&command, arguments) = words.split_first().expect("there is a command");
        let numbers: Option<Vec<u64>> = arguments.iter().map(|word| word.parse().ok()).collect();
        match (command, numbers.as_deref(), arguments) {
            ("wait", _, [time]) => self.world.advance(parse_time(time)),
            ("run", _, [time]) => self.run(parse_time(time)),
            ("deliver", Some([from, to, count @ ..]), _) => {
                self.deliver(*from as u8, *to as u8, count.first().copied())
            }
            ("lose", Some([from, to, count @ ..]), _) => self.lose(*from as u8, *to as u8, count.first().copied()),
            ("disk", Some([server, rest @ ..]), _) => {
                self.disk(*server as u8, rest.first().map(|&index| index as usize))
            }
            ("offer", Some([server, count @ ..]), _) => self.offer(*server as u8, count.first().copied().unwrap_or(1)),
            ("offer_and_settle", Some([server, count]), _) => {
                for _ in 0..*count {
                    self.offer(*server as u8, 1);
                    self.world.settle();
                }
            }
            ("rot", Some([server, op]), _) => self.world.servers[*server as usize].disk.rot(*op),
            ("read", Some([server]), _) => self.read(*server as u8),
            ("checkpoint", Some([server, op, first_op]), _) => self.checkpoint(*server as u8, *op, *first_op, true),
            ("checkpoint_wrong", Some([server, op, first_op]), _) => {
                self.checkpoint(*server as u8, *op, *first_op, false);
            }
            (_, Some(numbers), _) => self.simple(command, numbers),
            _ => self.unknown(words),
        }
        self.world.take_trace()
    }

    /// Commands whose arguments are servers.
    fn simple(&mut self, command: &str, servers: &[u64]) {
        let servers: Vec<u8> = servers.iter().map(|&server| server as u8).collect();
        match (command, &servers[..]) {
            ("begin", []) => self.begin(),
            ("settle", []) => self.world.settle(),
            ("status", []) => self.print_status(),
            ("connect", &[left, right]) => self.world.connect(left, right),
            ("disconnect", &[left, right]) => self.world.disconnect(left, right),
            ("start", servers) => servers.iter().for_each(|&server| self.world.start(server)),
            ("crash", servers) => servers.iter().for_each(|&server| self.world.crash(server)),
            ("reorder", &[from, to]) => self.world.link(from, to).swap(0, 1),
            ("delay", &[from, to]) => self.world.link(from, to).rotate_left(1),
            ("repeat", &[from, to]) => self.repeat(from, to),
            ("turn", servers) => servers.iter().for_each(|&server| self.world.input(server, Input::TurnEnd)),
            ("journal", servers) => servers.iter().for_each(|&server| self.print_journal(server)),
            ("mute", &[from, to]) => {
                self.world.muted.insert((from, to));
            }
            ("unmute", &[from, to]) => {
                self.world.muted.remove(&(from, to));
            }
            ("handover", &[server]) => self.world.input(server, Input::Handover { to: None }),
            ("handover", &[server, to]) => self.world.input(server, Input::Handover { to: Some(to) }),
            ("checkpoint_due", &[server]) => self.world.input(server, Input::CheckpointDue),
            ("lose_checkpoint", &[server]) => self.world.servers[server as usize].disk.lose_checkpoint(),
            ("may_give_up", []) => self.world.may_give_up = true,
            ("wipe", &[server, incarnation]) => {
                self.world.servers[server as usize].disk.wipe(server, u64::from(incarnation));
            }
            ("format", &[server, incarnation]) => {
                self.world.servers[server as usize].disk = Disk::formatted(server, u64::from(incarnation));
            }
            ("pause", &[server]) => self.world.servers[server as usize].is_paused = true,
            ("resume", &[server]) => self.world.servers[server as usize].is_paused = false,
            ("stall", &[server]) => self.world.servers[server as usize].is_disk_stalled = true,
            ("unstall", &[server]) => self.world.servers[server as usize].is_disk_stalled = false,
            _ => self.unknown(&[command]),
        }
    }

    fn unknown(&self, words: &[&str]) {
        panic!("{}: no such command: {}", self.at, words.join(" "));
    }

    fn begin(&mut self) {
        for server in self.world.ids() {
            self.world.start(server);
        }
        for left in self.world.ids() {
            for right in left + 1..self.world.ids().end {
                self.world.connect(left, right);
            }
        }
        self.world.settle();
    }

    fn run(&mut self, duration_ns: u64) {
        const STEP_NS: u64 = 10_000_000;
        for _ in 0..duration_ns / STEP_NS {
            self.world.advance(STEP_NS);
            self.world.settle();
        }
    }

    fn deliver(&mut self, from: u8, to: u8, count: Option<u64>) {
        for _ in 0..self.count(from, to, count) {
            let message = self.world.link(from, to).pop_front().expect("it was counted");
            self.world.deliver(to, &message);
        }
    }

    fn lose(&mut self, from: u8, to: u8, count: Option<u64>) {
        for _ in 0..self.count(from, to, count) {
            self.world.link(from, to).pop_front();
        }
    }

    fn repeat(&mut self, from: u8, to: u8) {
        let link = self.world.link(from, to);
        let message = link.front().expect("there is a message to repeat").clone();
        link.push_front(message);
    }

    fn count(&mut self, from: u8, to: u8, count: Option<u64>) -> u64 {
        let waiting = self.world.link(from, to).len() as u64;
        assert!(waiting > 0 && count.is_none_or(|count| count <= waiting), "{}: {waiting} messages wait", self.at);
        count.unwrap_or(waiting)
    }

    fn disk(&mut self, server: u8, index: Option<usize>) {
        let ready = |world: &World| world.servers[server as usize].disk.ready();
        assert!(!ready(self.world).is_empty(), "{}: the disk has nothing to do", self.at);
        if let Some(index) = index {
            let work = ready(self.world)[index];
            return self.world.complete(server, work);
        }
        while let Some(&work) = ready(self.world).first() {
            self.world.complete(server, work);
        }
    }

    fn offer(&mut self, server: u8, count: u64) {
        for _ in 0..count {
            if let Err(refusal) = self.world.offer(server) {
                self.world.note(format!("{server}: refused: {refusal}"));
            }
        }
    }

    fn read(&mut self, server: u8) {
        match self.world.read(server) {
            Ok(ticket) => self.world.note(format!("{server}: read ticket={ticket}")),
            Err(refusal) => self.world.note(format!("{server}: refused: {refusal}")),
        }
    }

    fn checkpoint(&mut self, server: u8, op: u64, first_op: u64, is_right: bool) {
        let node = &mut self.world.servers[server as usize];
        assert!(op <= node.applied(), "{}: a checkpoint holds what was applied", self.at);
        node.disk.set_checkpoint(op);
        if !is_right {
            node.disk.flip_state();
        }
        let state_hash = node.disk.checkpoint().state_hash();
        let trimmed = node.disk.trim(first_op);
        self.world.input(server, Input::CheckpointDurable { op, state_hash });
        self.world.input(server, trimmed);
    }

    fn print_status(&mut self) {
        for server in self.world.ids() {
            let line = match self.world.status(server) {
                Some(status) => describe_status(&status),
                None => "down".to_owned(),
            };
            self.world.note(format!("{server}: {line}"));
        }
    }

    fn print_journal(&mut self, server: u8) {
        let journal = self.world.servers[server as usize].disk.journal();
        let entries: Vec<String> =
            journal.iter().map(|(op, message)| format!("{op}(view {})", header_of(message).view.get())).collect();
        self.world.note(format!("{server}: journal {}", entries.join(" ")));
    }
}

fn describe_status(status: &ReplicaStatus) -> String {
    let role = match status.role {
        Role::Primary => "primary",
        Role::Backup => "backup",
        Role::Recovering => "recovering",
    };
    let ReplicaStatus { view, op, durable, commit, applied, .. } = status;
    let members: Vec<String> =
        status.peers.iter().filter(|peer| peer.is_in_sync).map(|peer| peer.replica.to_string()).collect();
    let members = members.join(" ");
    format!("{role} view={view} op={op} durable={durable} commit={commit} applied={applied} in sync: {members}")
}
