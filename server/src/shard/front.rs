//! Commands of the Redis front door: from received bytes to the log, the read queue, another shard, or an answer at
//! once.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use lockstep_proto::{
    limits::KEY_SIZE_MAX,
    program::{Builder, Opcode},
    request::Request,
    slot::{shard_of_key, shard_of_slot},
};
use lockstep_replica::{Refusal, Role};

use super::{
    Core, Shard,
    clock::Now,
    connections::{Connection, ConnectionRef, REPLIES_PAUSE_BYTES},
    submit::Submission,
    transactions::enqueue,
};
use crate::{
    metrics::RejectReason,
    park,
    resp::{
        arguments::Arguments,
        client::ReplyMode,
        context::{Action, Context, Join, Spec},
        cross_protocol,
        door::{Door, PENDING_MAX},
        flags,
        mailbox::Parcel,
        parse::Parsed,
        pending::{Form, Joining},
        redirect, registry,
        server::Server,
        stats::{Asked, Meter, Outcome},
        submission::Payload,
        values::{NO_PRIMARY, READ_ONLY},
        writer::Writer,
    },
    ring,
};

/// How long reads that were put off wait while a handover is tried.
const RESUME_INTERVAL: Duration = Duration::from_millis(20);

/// How far the front door got in the bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// All whole commands were taken. The one that has begun needs at least so many bytes, as far as that is known.
    All {
        /// Bytes from where the command begins.
        wanted: usize,
    },
    /// The next command has to wait until there is room in the log, or in another shard's mailbox.
    NeedsRoom,
    /// The next command has to wait until some of those before it are answered.
    NeedsAnswers,
    /// The next command has to wait until answers have been sent.
    NeedsSending,
    /// Clients are paused.
    Paused,
    /// Nothing more is read from this connection.
    Closed,
}

/// What the front door of a shard works with.
pub struct Desk {
    /// What all shards share.
    pub server: Arc<Server>,
    /// What this turn has for the other shards.
    pub outbox: Vec<Parcel>,
    /// The request that is being made.
    pub(super) frame: Vec<u8>,
    /// Answers that cannot be sent yet, and replies of the store.
    pub(super) scratch: Vec<u8>,
    pub(super) program: Builder,
    draw: u64,
    /// How many keys of the store had expired when that was last counted.
    pub(super) expired_keys: u64,
    /// Where this shard's commands are counted.
    pub(super) meter: Rc<Meter>,
}

impl Desk {
    /// A desk of the shard of this server.
    pub fn new(server: Arc<Server>, shard: u16, seed: u64) -> Desk {
        let meter = Rc::new(Meter::new(server.clone(), shard));
        let outbox = (0..server.identity.shards).map(|_| Parcel::default()).collect();
        Desk {
            server,
            outbox,
            frame: Vec::new(),
            scratch: Vec::new(),
            program: Builder::new(),
            draw: seed,
            expired_keys: 0,
            meter,
        }
    }

    /// A number that nobody can foresee who does not know the seed (SplitMix64).
    fn draw(&mut self) -> u64 {
        self.draw = self.draw.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.draw;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }
}

/// Who asks, while its commands are taken.
pub(super) struct Asker<'a> {
    pub now: Now,
    pub name: ConnectionRef,
    pub connection: &'a Rc<Connection>,
    pub door: &'a mut Door,
}

impl Asker<'_> {
    /// Answers the present command.
    pub(super) fn reply(&mut self, write: impl FnOnce(&mut Writer<'_>)) {
        if self.door.is_silent() {
            return;
        }
        let version = self.door.client.version;
        if self.door.pending.is_empty() {
            write(&mut Writer::new(&mut self.connection.replies.borrow_mut(), version));
            return;
        }
        let mut bytes = Vec::new();
        write(&mut Writer::new(&mut bytes, version));
        self.door.pending.push_ready(&bytes);
    }

    pub(super) fn error(&mut self, text: &str) {
        self.count(&Outcome::Error(text.as_bytes().into()), 0);
        self.reply(|out| out.error(text));
    }

    /// Counts the present command, unless that has been done, or will be when it is answered.
    fn count(&mut self, outcome: &Outcome, latency_ns: u64) {
        if !std::mem::replace(&mut self.door.is_counted, true) {
            self.door.meter.count(&self.door.asked, outcome, latency_ns, &self.door.client.shared);
        }
    }

    /// Refuses a command before it is carried out or queued: a transaction is spoilt by it, and ended if it is EXEC.
    pub(super) fn reject(&mut self, name: &[u8], spec: Option<&'static Spec>, text: &[u8]) {
        self.door.meter.rejected(spec, text);
        let transaction = &mut self.door.client.transaction;
        if name.eq_ignore_ascii_case(b"exec") {
            transaction.discard();
            self.door.pending.forget_watches();
            self.door.client.share_transaction();
            let reason = text.strip_prefix(b"ERR ").unwrap_or(text);
            let text = [b"EXECABORT Transaction discarded because of: ", reason].concat();
            return self.reply(|out| out.error_bytes(&text));
        }
        transaction.is_spoilt |= transaction.is_open;
        self.reply(|out| out.error_bytes(text));
    }
}

impl Shard {
    /// Takes the whole commands at the start of `bytes` in, and sees to it that a turn follows. Says how many bytes
    /// that took.
    ///
    /// # Panics
    ///
    /// If the connection is not one of the front door.
    pub fn take_commands(&self, name: ConnectionRef, connection: &Rc<Connection>, bytes: &[u8]) -> (usize, Taken) {
        if bytes.is_empty() {
            return (0, Taken::All { wanted: 0 });
        }
        let core = &mut *self.core.borrow_mut();
        let mut desk = core.desk.take().expect("the front door is open");
        let now = core.clock.now();
        desk.meter.set_now(now.monotonic_ns, now.wall_ns);
        let taken = {
            let door = &mut *connection.door().expect("a connection of the front door").borrow_mut();
            let mut asker = Asker { now, name, connection, door };
            core.take_commands(&mut desk, &mut asker, bytes)
        };
        core.desk = Some(desk);
        core.metrics.received_bytes.add(taken.0 as u64);
        connection.note_memory();
        if !connection.replies.borrow().is_empty() {
            core.connections.mark_dirty(connection);
        }
        self.turn.notify();
        taken
    }
}

impl Shard {
    /// Answers a connection with an error, behind everything that is owed, and has it closed.
    pub fn refuse_commands(&self, connection: &Rc<Connection>, text: &str) {
        let Some(door) = connection.door() else { return };
        let core = &mut *self.core.borrow_mut();
        let door = &mut *door.borrow_mut();
        let (now, name) = (core.clock.now(), door.client.shared.connection);
        Asker { now, name, connection, door }.error(text);
        door.is_closing = true;
        connection.is_refused.set(true);
        core.connections.mark_dirty(connection);
        self.turn.notify();
    }

    /// Asks the reads of a connection again that were put off, now that answers have been sent.
    pub fn resume_reads(&self, connection: &Rc<Connection>) {
        let Some(door) = connection.door() else { return };
        let core = &mut *self.core.borrow_mut();
        let door = &mut *door.borrow_mut();
        let deferred = std::mem::take(&mut door.deferred);
        let ticket = match core.replica.read_ticket() {
            Ok(ticket) => ticket,
            Err(Refusal::Busy) => {
                // A handover is tried: it ends soon, one way or the other.
                door.deferred = deferred;
                let connection = Rc::clone(connection);
                park::spawn(async move {
                    ring::sleep(RESUME_INTERVAL).await;
                    connection.flush.notify();
                });
                return;
            }
            // A read may as well be asked again elsewhere.
            Err(_) => return connection.cut(),
        };
        let now_ns = core.clock.now().monotonic_ns;
        let mut rest = &deferred[..];
        while let Some((request, after)) = Request::parse_trusted(rest) {
            let (frame, op_min) = (&rest[..request.size()], connection.last_write_op.get());
            core.reads.push(ticket, door.client.shared.connection, frame, op_min, now_ns);
            rest = after;
        }
        self.turn.notify();
    }
}

impl Core {
    fn take_commands(&mut self, desk: &mut Desk, asker: &mut Asker<'_>, bytes: &[u8]) -> (usize, Taken) {
        // Away from the door while a command in its spans is looked at.
        let mut parser = std::mem::take(&mut asker.door.parser);
        let (mut consumed, mut count) = (0, 0);
        let taken = loop {
            if asker.door.is_closing {
                break Taken::Closed;
            }
            let rest = &bytes[consumed..];
            match parser.parse(rest, asker.door.client.is_authenticated) {
                Ok(Parsed::Incomplete) => break Taken::All { wanted: parser.wanted() },
                Ok(Parsed::Nothing(size)) => consumed += size,
                Ok(Parsed::Command(size)) => match self.take_command(desk, asker, &parser.arguments(rest)) {
                    None => {
                        consumed += size;
                        count += 1;
                    }
                    Some(taken) => break taken,
                },
                Err(error) => {
                    self.metrics.count_rejected(RejectReason::Malformed);
                    asker.reply(|out| out.error_bytes(&[b"ERR ", &error.0[..]].concat()));
                    asker.connection.is_refused.set(true);
                    asker.door.is_closing = true;
                }
            }
        };
        asker.door.parser = parser;
        asker.door.client.shared.took(count, asker.now.wall_ns);
        (consumed, taken)
    }

    /// Takes one command. `None` when that is done, else what it waits for.
    #[inline]
    fn take_command(&mut self, desk: &mut Desk, asker: &mut Asker<'_>, arguments: &Arguments<'_>) -> Option<Taken> {
        if asker.door.pending.len() >= PENDING_MAX || asker.door.pending.ready_bytes() > REPLIES_PAUSE_BYTES {
            return Some(Taken::NeedsAnswers);
        }
        if asker.connection.replies.borrow().len() > REPLIES_PAUSE_BYTES {
            return Some(Taken::NeedsSending);
        }
        let is_skipped = asker.door.client.reply == ReplyMode::SkipNext;
        if is_skipped {
            asker.door.client.reply = ReplyMode::Skip;
        }
        let taken = self.carry_out_command(desk, asker, arguments);
        match (taken, asker.door.client.reply) {
            (None, ReplyMode::Skip) => asker.door.client.reply = ReplyMode::On,
            (Some(_), ReplyMode::Skip) => asker.door.client.reply = ReplyMode::SkipNext,
            _ => {}
        }
        taken
    }

    #[inline]
    fn carry_out_command(
        &mut self,
        desk: &mut Desk,
        asker: &mut Asker<'_>,
        arguments: &Arguments<'_>,
    ) -> Option<Taken> {
        let spec = match registry::resolve(arguments) {
            Ok(spec) => spec,
            Err(_) if cross_protocol::is_http(arguments.get(0)) => {
                self.metrics.count_rejected(RejectReason::Malformed);
                desk.server.cross_protocol.warn(asker.now.wall_ns, asker.door.client.shared.peer);
                asker.connection.is_refused.set(true);
                asker.door.is_closing = true;
                return None;
            }
            Err(text) => {
                asker.reject(arguments.get(0), registry::meant(arguments), &text);
                return None;
            }
        };
        asker.door.note_command(spec);
        // What EXEC has built was admitted before, and part of it is done.
        if asker.door.built.is_none()
            && let Err(text) = self.admit(desk, asker, spec, arguments)
        {
            asker.reject(arguments.get(0), Some(spec), text.as_bytes());
            return None;
        }
        if desk.server.pause.holds(spec, asker.now.wall_ns) {
            return Some(Taken::Paused);
        }
        if asker.door.client.transaction.is_open && !spec.has(flags::UNQUEUED) {
            enqueue(asker, spec, arguments);
            return None;
        }
        if spec.has(flags::BARRIER) && !asker.door.pending.is_empty() {
            return Some(Taken::NeedsAnswers);
        }
        self.run(desk, asker, spec, arguments)
    }

    /// Whether the client may give this command, here and now.
    #[inline]
    fn admit(
        &self,
        desk: &Desk,
        asker: &Asker<'_>,
        spec: &'static Spec,
        arguments: &Arguments<'_>,
    ) -> Result<(), String> {
        let client = &asker.door.client;
        if !client.is_authenticated && !spec.has(flags::NO_AUTH) && desk.server.needs_password() {
            return Err("NOAUTH Authentication required.".to_owned());
        }
        if spec.keys.0 != 0 || spec.has(flags::WRITE | flags::READONLY) {
            self.admit_keys(desk, asker, spec, arguments)?;
        }
        if client.is_subscriber_only() && !spec.has(registry::spec::SUBSCRIBED) {
            return Err(format!(
                "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this \
                 context",
                spec.full_name()
            ));
        }
        Ok(())
    }

    /// Whether this server is the right one for the command's keys.
    fn admit_keys(
        &self,
        desk: &Desk,
        asker: &Asker<'_>,
        spec: &'static Spec,
        arguments: &Arguments<'_>,
    ) -> Result<(), String> {
        let shards = self.identity.shards;
        let mut keys = spec.key_positions(arguments.len()).map(|index| arguments.get(index));
        let first = keys.next();
        if let Some(first) = first
            && (first.len() > KEY_SIZE_MAX || keys.any(|key| key.len() > KEY_SIZE_MAX))
        {
            return Err(format!("ERR key is too long: {KEY_SIZE_MAX} bytes at most"));
        }
        if desk.server.is_cluster() {
            let keys = spec.key_positions(arguments.len()).map(|index| arguments.get(index));
            return redirect::check(&desk.server, self.shard, spec, keys, &asker.door.client);
        }
        let shard = first.map_or(self.shard, |key| shard_of_key(key, shards));
        let is_primary = if shard == self.shard {
            self.replica_role == Role::Primary
        } else {
            desk.server.shards[shard as usize].is_primary()
        };
        let is_stale_read = asker.door.client.is_readonly && !spec.has(flags::WRITE);
        if is_primary || is_stale_read {
            return Ok(());
        }
        let is_lost = desk.server.shards[shard as usize].primary(self.identity.servers).is_none();
        Err(if is_lost { NO_PRIMARY } else { READ_ONLY }.to_owned())
    }

    /// Runs a command's handler and does what it says.
    #[inline]
    fn run(
        &mut self,
        desk: &mut Desk,
        asker: &mut Asker<'_>,
        spec: &'static Spec,
        arguments: &Arguments<'_>,
    ) -> Option<Taken> {
        desk.program.clear();
        desk.scratch.clear();
        let draw = desk.draw();
        asker.door.asked = Asked::new(spec, arguments, asker.now.monotonic_ns);
        asker.door.is_counted = false;
        // Reading the clock costs more than what most commands do here; the others may do a lot.
        let begin = (!spec.has(flags::FAST | flags::WRITE | flags::READONLY)).then(Instant::now);
        let is_direct = asker.door.pending.is_empty();
        let mut replies = asker.connection.replies.borrow_mut();
        let out = if is_direct { &mut *replies } else { &mut desk.scratch };
        let start = out.len();
        let version = asker.door.client.version;
        let mut context = Context {
            client: &mut asker.door.client,
            server: &desk.server,
            out: Writer::new(out, version),
            program: &mut desk.program,
            shard: self.shard,
            is_in_exec: false,
            wall_ns: asker.now.wall_ns,
            draw,
        };
        let action = (spec.run)(&mut context, arguments);
        let outcome = Outcome::of(&context_out(is_direct, &mut replies, &mut desk.scratch)[start..]);
        // What a listener is told of its channels is no answer in this sense.
        let is_told = spec.has(flags::PUBSUB) && spec.has(registry::spec::SUBSCRIBED);
        if asker.door.is_silent() && !is_told {
            context_out(is_direct, &mut replies, &mut desk.scratch).truncate(start);
        }
        drop(replies);
        if !desk.scratch.is_empty() {
            asker.door.pending.push_ready(&desk.scratch);
        }
        let taken = self.act(desk, asker, action, draw);
        if taken.is_none() {
            asker.count(&outcome, begin.map_or(0, |begin| begin.elapsed().as_nanos() as u64));
        }
        taken
    }

    fn act(&mut self, desk: &mut Desk, asker: &mut Asker<'_>, action: Action<'_>, draw: u64) -> Option<Taken> {
        let shards = self.identity.shards;
        match action {
            Action::Done => None,
            Action::Close => {
                asker.door.is_closing = true;
                None
            }
            Action::Get { key } => {
                let shard = shard_of_key(key, shards);
                self.submit(
                    desk,
                    asker,
                    Submission { shard, payload: Payload::Get(key), is_write: false, revisions: &[] },
                    Form::Get,
                )
            }
            Action::Put { key, value } => {
                let shard = shard_of_key(key, shards);
                let payload = Payload::Put(key, value);
                self.submit(desk, asker, Submission { shard, payload, is_write: true, revisions: &[] }, Form::Put)
            }
            Action::Run { slot, is_write } => {
                self.submit_program(desk, asker, shard_of_slot(slot, shards), is_write, Form::Value)
            }
            // Each shard is a node, and a command without keys is about this node's own.
            Action::Scan { .. } if desk.server.is_cluster() => {
                self.submit_program(desk, asker, self.shard, false, Form::Value)
            }
            Action::Scan { slot, next } => {
                self.submit_program(desk, asker, shard_of_slot(slot, shards), false, Form::Scan(next))
            }
            Action::Split { opcode, keys, join, is_write } => {
                self.split(desk, asker, opcode, &keys, Spread { join, is_write, draw })
            }
            Action::Everywhere { join, is_write } => self.spread(desk, asker, Spread { join, is_write, draw }),
            Action::Transaction(step) => self.transaction_step(desk, asker, step, draw),
            Action::Admin(request) => self.administer(desk, asker, request),
        }
    }

    pub(super) fn submit_program(
        &mut self,
        desk: &mut Desk,
        asker: &mut Asker<'_>,
        shard: u16,
        is_write: bool,
        form: Form,
    ) -> Option<Taken> {
        let program = std::mem::take(&mut desk.program);
        let submission = Submission { shard, payload: Payload::Program(program.as_bytes()), is_write, revisions: &[] };
        let taken = self.submit(desk, asker, submission, form);
        desk.program = program;
        taken
    }

    /// Carries out `opcode` on keys that may be in several shards.
    fn split(
        &mut self,
        desk: &mut Desk,
        asker: &mut Asker<'_>,
        opcode: Opcode,
        keys: &Arguments<'_>,
        spread: Spread,
    ) -> Option<Taken> {
        let shards = self.identity.shards;
        let first = shard_of_key(keys.get(0), shards);
        if shards == 1 || keys.iter().all(|key| shard_of_key(key, shards) == first) {
            desk.program.clear();
            desk.program.command_of(opcode, keys.iter());
            return self.submit_program(desk, asker, first, spread.is_write, Form::Value);
        }
        let order: Vec<u16> = keys.iter().map(|key| shard_of_key(key, shards)).collect();
        let mut programs: Vec<(u16, Builder)> = Vec::new();
        for shard in 0..shards {
            if order.contains(&shard) {
                let own = keys.iter().zip(&order).filter(|(_, of)| **of == shard).map(|(key, _)| key);
                let mut program = Builder::new();
                program.command_of(opcode, own);
                programs.push((shard, program));
            }
        }
        self.submit_joined(desk, asker, &programs, order, spread)
    }

    /// Carries out the desk's program in every shard.
    fn spread(&mut self, desk: &mut Desk, asker: &mut Asker<'_>, spread: Spread) -> Option<Taken> {
        if self.identity.shards == 1 || desk.server.is_cluster() {
            return self.submit_program(desk, asker, self.shard, spread.is_write, Form::Value);
        }
        let programs: Vec<(u16, Builder)> =
            (0..self.identity.shards).map(|shard| (shard, desk.program.clone())).collect();
        self.submit_joined(desk, asker, &programs, Vec::new(), spread)
    }

    fn submit_joined(
        &mut self,
        desk: &mut Desk,
        asker: &mut Asker<'_>,
        programs: &[(u16, Builder)],
        order: Vec<u16>,
        spread: Spread,
    ) -> Option<Taken> {
        let missing = programs.len();
        let joining = Joining { join: spread.join, missing, parts: Vec::new(), order, draw: spread.draw };
        let submissions: Vec<Submission<'_>> = programs
            .iter()
            .map(|(shard, program)| Submission {
                shard: *shard,
                payload: Payload::Program(program.as_bytes()),
                is_write: spread.is_write,
                revisions: &[],
            })
            .collect();
        self.submit_all(desk, asker, &submissions, Form::Join(Box::new(joining)))
    }
}

/// What is answered when the keys of one command or transaction are in several shards.
pub(super) const CROSS_SLOT: &str = "CROSSSLOT Keys in request don't hash to the same slot";

/// How a command goes to several shards.
#[derive(Clone, Copy)]
pub(super) struct Spread {
    join: Join,
    is_write: bool,
    draw: u64,
}

fn context_out<'a>(is_direct: bool, replies: &'a mut Vec<u8>, scratch: &'a mut Vec<u8>) -> &'a mut Vec<u8> {
    if is_direct { replies } else { scratch }
}
