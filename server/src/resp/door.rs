//! What the front door keeps for one connection.

use std::{rc::Rc, sync::atomic::Ordering::Relaxed};

use lockstep_proto::Status;

use super::{
    client::{Client, ReplyMode},
    context::Spec,
    parse::Parser,
    pending::{Form, Heard, Pending, Place},
    stats::{Asked, Meter},
    transaction::Watch,
};

use crate::shard::transactions::Built;

/// Requests of one connection that may be unanswered.
pub const PENDING_MAX: usize = 16_384;

/// Programs of one connection that may be in the log and unanswered: each can answer megabytes.
pub const PROGRAMS_MAX: usize = 128;

/// Reads of one connection that may be out in other shards: what those answer cannot be put off.
pub const READS_ELSEWHERE_MAX: usize = 16;

/// Answers that wait for a client to take them, in bytes, beyond which its reads are put off.
pub const DEFER_BYTES: usize = 4 << 20;

/// Answers that wait for a client to take them, in bytes, beyond which its connection is closed.
pub const OUTPUT_BYTES_MAX: usize = 512 << 20;

/// The state of one connection of the front door.
#[derive(Debug)]
pub struct Door {
    /// Who is connected.
    pub client: Client,
    /// Where the parser is in the bytes that have arrived.
    pub parser: Parser,
    /// The answers that are owed.
    pub pending: Pending,
    /// Reads that are not in the log and not answered.
    pub reads: usize,
    /// Requests in the log, here or in another shard, that are not answered.
    pub writes: usize,
    /// WATCHes that are not answered.
    pub watching: usize,
    /// EXEC's program, while there is no room for it: built once, because commands that do not concern the store were
    /// carried out then.
    pub built: Option<Box<Built>>,
    /// Writes in other shards: the shard, and an op of its log that is not before the last of them.
    pub elsewhere: Vec<(u16, u64)>,
    /// Reads whose answers nobody takes at present: their requests, to be asked again when there is room.
    pub deferred: Vec<u8>,
    /// The command that is being carried out.
    pub asked: Asked,
    /// Whether that one has been counted, or will be when it is answered.
    pub is_counted: bool,
    /// Where commands are counted.
    pub meter: Rc<Meter>,
    /// The connection is to be closed once what is owed is sent.
    pub is_closing: bool,
}

impl Door {
    /// The state of a new connection.
    pub fn new(client: Client, meter: Rc<Meter>) -> Door {
        Door {
            client,
            parser: Parser::default(),
            pending: Pending::default(),
            reads: 0,
            writes: 0,
            watching: 0,
            built: None,
            elsewhere: Vec::new(),
            deferred: Vec::new(),
            asked: Asked::default(),
            is_counted: true,
            meter,
            is_closing: false,
        }
    }

    /// Adds a request that was accepted.
    #[inline]
    pub fn owe(&mut self, form: Form, is_write: bool) {
        match is_write {
            true => self.writes += 1,
            false => self.reads += 1,
        }
        self.watching += usize::from(matches!(form, Form::Watch(_)));
        let is_silent = self.is_silent();
        self.is_counted = true;
        self.pending.push(Place { form, version: self.client.version, is_silent, is_write, asked: self.asked });
    }

    /// Adds a place whose answer this server itself will give.
    pub fn owe_hole(&mut self) {
        let (is_silent, version) = (self.is_silent(), self.client.version);
        let asked = Asked::default();
        self.pending.push(Place { form: Form::Hole, version, is_silent, is_write: false, asked });
    }

    /// Lets others see what the last command was.
    #[inline]
    pub fn note_command(&mut self, spec: &'static Spec) {
        self.client.shared.last_command.store(u32::from(spec.number) + 1, Relaxed);
    }

    /// Remembers how far another shard's log goes that holds a write of this connection.
    pub fn note_write(&mut self, shard: u16, op: u64) {
        match self.elsewhere.iter_mut().find(|(other, _)| *other == shard) {
            Some((_, last)) => *last = op,
            None => self.elsewhere.push((shard, op)),
        }
    }

    /// Whether the read with this number is not to be answered before some answers are sent, of which `replies` bytes
    /// wait.
    ///
    /// The one that all others wait for is put off only behind bytes that are about to be sent: nothing else would
    /// bring it back.
    #[inline]
    pub fn is_deferring(&self, sequence: u64, replies: usize) -> bool {
        let is_behind = sequence != self.pending.first();
        replies > DEFER_BYTES
            || (is_behind && (replies + self.pending.ready_bytes() > DEFER_BYTES || !self.deferred.is_empty()))
    }

    /// What this connection takes of the memory beside answers that are ready to be sent, in bytes.
    pub fn held_bytes(&self) -> usize {
        let client = &self.client;
        self.pending.ready_bytes()
            + self.parser.held_bytes()
            + self.deferred.len()
            + client.transaction.held_bytes()
            + client.subscriptions.held_bytes()
            + client.shared.query_bytes.load(Relaxed) as usize
    }

    /// Whether the client does not want to hear the answer to the present command.
    #[inline]
    pub fn is_silent(&self) -> bool {
        matches!(self.client.reply, ReplyMode::Off | ReplyMode::Skip)
    }

    /// Takes an answer of `shard` in, with the number of its durable copies and its revision; what can be sent now goes
    /// into `replies`.
    #[inline]
    pub fn answer(
        &mut self,
        sequence: u64,
        shard: u16,
        status: Status,
        (copies, revision): (u8, u64),
        body: &[u8],
        replies: &mut Vec<u8>,
    ) {
        let Heard { stamps, watching, is_watch, is_answered, is_write, asked, outcome, deliveries } =
            self.pending.answer(sequence, shard, status, body, replies);
        if is_write && status == Status::Ok && copies > 0 {
            self.client.last_write_copies = copies;
        }
        if !is_answered {
            return;
        }
        self.meter.deliver(deliveries);
        self.meter.answered(&asked, &outcome, &self.client.shared);
        match is_write {
            true => self.writes -= 1,
            false => self.reads -= 1,
        }
        if is_watch {
            self.watching -= 1;
            let transaction = &mut self.client.transaction;
            let watch = |(key, version, expiry_ns)| (key, Watch { version, expiry_ns, revision });
            if let Some(watching) = watching {
                transaction.watch(stamps.into_iter().map(watch), watching);
            }
            self.client.shared.watches.store(transaction.watches.len() as u32, Relaxed);
        }
    }
}
