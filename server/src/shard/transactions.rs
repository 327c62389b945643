//! Transactions of the front door: MULTI to EXEC, and WATCH.

use lockstep_proto::{
    program::{Builder, Opcode},
    slot::{shard_of_key, shard_of_slot, slot_of},
};

use super::{
    Core,
    front::{Asker, CROSS_SLOT, Desk, Taken},
    front_admin::tell_all,
    submit::Submission,
};
use crate::resp::{
    arguments::Arguments,
    context::{Action, AdminRequest, Context, Spec, TransactionStep},
    flags,
    mailbox::Notice,
    pending::Form,
    submission::Payload,
    transaction::{Execution, Item, Queued},
    writer::Writer,
};

/// EXEC's program and what is to be done with its results.
#[derive(Debug, Default)]
pub struct Built {
    program: Builder,
    /// The revisions at which the watched keys were looked at, in the order of the checks.
    revisions: Vec<u64>,
    execution: Execution,
    shard: u16,
    closes: bool,
}

impl Core {
    pub(super) fn transaction_step(
        &mut self,
        desk: &mut Desk,
        asker: &mut Asker<'_>,
        step: TransactionStep<'_>,
        draw: u64,
    ) -> Option<Taken> {
        let is_open = asker.door.client.transaction.is_open;
        match step {
            TransactionStep::Begin if is_open => asker.error("ERR MULTI calls can not be nested"),
            TransactionStep::Begin => {
                asker.door.client.transaction.is_open = true;
                asker.reply(|out| out.ok());
            }
            TransactionStep::Watch(_) if is_open => asker.error("ERR WATCH inside MULTI is not allowed"),
            TransactionStep::Watch(keys) => return self.watch(desk, asker, &keys),
            TransactionStep::Execute if !is_open => asker.error("ERR EXEC without MULTI"),
            TransactionStep::Discard if !is_open => asker.error("ERR DISCARD without MULTI"),
            // What is watched must be known before it can be checked or forgotten.
            _ if asker.door.watching > 0 => return Some(Taken::NeedsAnswers),
            TransactionStep::Execute => return self.execute(desk, asker, draw),
            TransactionStep::Discard => {
                asker.door.client.transaction.discard();
                asker.reply(|out| out.ok());
            }
            TransactionStep::Unwatch => {
                asker.door.client.transaction.unwatch();
                asker.reply(|out| out.ok());
            }
        }
        asker.door.client.share_transaction();
        None
    }

    fn watch(&mut self, desk: &mut Desk, asker: &mut Asker<'_>, keys: &Arguments<'_>) -> Option<Taken> {
        let shards = self.identity.shards;
        let shard = shard_of_slot(slot_of(keys.get(0)), shards);
        if shards > 1 && !keys.iter().all(|key| shard_of_key(key, shards) == shard) {
            asker.error(CROSS_SLOT);
            return None;
        }
        if asker.door.watching > 0 {
            // How many there will be is known when those before are.
            return Some(Taken::NeedsAnswers);
        }
        if !asker.door.client.transaction.may_watch(keys) {
            asker.error("ERR too many watched keys of one client");
            return None;
        }
        desk.program.clear();
        keys.iter().for_each(|key| desk.program.command(Opcode::Stamp, &[key]));
        let watching = desk.server.shards[shard as usize].watchers.enter();
        let form = Form::Watch(Some((keys.iter().map(<[u8]>::to_vec).collect(), watching)));
        self.submit_program(desk, asker, shard, false, form)
    }

    /// EXEC: the queued commands as one program.
    fn execute(&mut self, desk: &mut Desk, asker: &mut Asker<'_>, draw: u64) -> Option<Taken> {
        if asker.door.client.transaction.is_spoilt {
            asker.door.client.transaction.discard();
            asker.door.client.share_transaction();
            asker.error("EXECABORT Transaction discarded because of previous errors.");
            return None;
        }
        if asker.door.writes > 0 && !asker.door.client.transaction.watches.is_empty() {
            // Whether these touch what is watched is known when they are carried out.
            return Some(Taken::NeedsAnswers);
        }
        let built = match asker.door.built.take() {
            Some(built) => built,
            None => {
                if asker.door.reads > 0 {
                    return Some(Taken::NeedsAnswers);
                }
                match self.build(desk, asker, draw) {
                    Ok(built) => built,
                    Err(text) => {
                        asker.door.client.transaction.discard();
                        asker.door.client.share_transaction();
                        asker.error(text);
                        return None;
                    }
                }
            }
        };
        if built.program.is_empty() {
            asker.reply(|out| {
                built.execution.write(out, &[]);
            });
            desk.meter.deliver(built.execution.deliveries);
        } else {
            let submission = Submission {
                shard: built.shard,
                payload: Payload::Program(built.program.as_bytes()),
                is_write: built.program.is_write(),
                revisions: &built.revisions,
            };
            let form = Form::Execute(Box::new(built.execution.clone()));
            if let Some(taken) = self.submit(desk, asker, submission, form) {
                asker.door.built = Some(built);
                return Some(taken);
            }
        }
        asker.door.client.transaction.discard();
        asker.door.client.share_transaction();
        asker.door.is_closing |= built.closes;
        None
    }

    /// Makes EXEC's program, and carries out what does not concern the store.
    fn build(&mut self, desk: &mut Desk, asker: &mut Asker<'_>, draw: u64) -> Result<Box<Built>, &'static str> {
        let shards = self.identity.shards;
        let transaction = std::mem::take(&mut asker.door.client.transaction);
        let mut built = Box::<Built>::default();
        let mut places = Places::default();
        for (key, watch) in &transaction.watches {
            places.add(shard_of_key(key, shards));
            let (version, expiry_ns) = (watch.version.to_le_bytes(), watch.expiry_ns.to_le_bytes());
            built.program.command(Opcode::Check, &[key, &version, &expiry_ns]);
            built.revisions.push(watch.revision);
        }
        for queued in &transaction.queue {
            self.build_one(desk, asker, queued, draw, &mut built, &mut places);
        }
        built.execution.deliveries = std::mem::take(&mut asker.door.client.published);
        built.execution.watching.clone_from(&transaction.watching);
        asker.door.client.transaction = transaction;
        if places.are_several {
            return Err(CROSS_SLOT);
        }
        let watches = &asker.door.client.transaction.watches;
        if built.program.count() == watches.len()
            && let Some((key, _)) = watches.first_key_value()
        {
            // Checks alone are no program.
            built.program.command(Opcode::Exists, &[key]);
        }
        built.shard = places.first.unwrap_or(self.shard);
        Ok(built)
    }

    /// Adds a queued command to EXEC's program, or what it answers to what EXEC answers.
    fn build_one(
        &mut self,
        desk: &mut Desk,
        asker: &mut Asker<'_>,
        queued: &Queued,
        draw: u64,
        built: &mut Built,
        places: &mut Places,
    ) {
        let shards = self.identity.shards;
        let arguments = queued.arguments();
        let start = built.execution.literals.len();
        let version = asker.door.client.version;
        let mut context = Context {
            client: &mut asker.door.client,
            server: &desk.server,
            out: Writer::new(&mut built.execution.literals, version),
            program: &mut built.program,
            shard: self.shard,
            is_in_exec: true,
            wall_ns: asker.now.wall_ns,
            draw,
        };
        let action = (queued.spec.run)(&mut context, &arguments);
        desk.meter.stats().record(queued.spec.number, 0, false);
        let is_answered = matches!(action, Action::Done | Action::Close | Action::Transaction(_) | Action::Admin(_));
        match action {
            Action::Done => {}
            Action::Close => built.closes = true,
            Action::Get { key } => {
                places.add(shard_of_key(key, shards));
                built.program.command(Opcode::Get, &[key]);
            }
            Action::Put { key, value } => {
                places.add(shard_of_key(key, shards));
                built.program.command(Opcode::Set, &[key, value]);
            }
            Action::Everywhere { .. } | Action::Scan { .. } if desk.server.is_cluster() => places.add(self.shard),
            // A step of a scan may have to go on in the next shard.
            Action::Scan { .. } if shards > 1 => places.are_several = true,
            Action::Run { slot, .. } | Action::Scan { slot, .. } => places.add(shard_of_slot(slot, shards)),
            Action::Split { opcode, keys, .. } => {
                keys.iter().for_each(|key| places.add(shard_of_key(key, shards)));
                built.program.command_of(opcode, keys.iter());
            }
            // All shards are more than one.
            Action::Everywhere { .. } if shards > 1 => places.are_several = true,
            Action::Everywhere { .. } => places.add(0),
            Action::Transaction(TransactionStep::Unwatch) => built.execution.literals.extend_from_slice(b"+OK\r\n"),
            Action::Admin(AdminRequest::Checkpoint) => {
                tell_all(desk, || Notice::Checkpoint);
                built.execution.literals.extend_from_slice(b"+Background saving scheduled\r\n");
            }
            Action::Transaction(_) | Action::Admin(_) => {
                built.execution.literals.extend_from_slice(b"-ERR Command not allowed inside a transaction\r\n")
            }
        }
        if is_answered && built.execution.literals.len() == start {
            // CLIENT REPLY OFF and SKIP answer nothing, but an array has no gaps.
            built.execution.literals.extend_from_slice(b"+OK\r\n");
        }
        let end = built.execution.literals.len();
        built.execution.items.push(if is_answered { Item::Literal(start..end) } else { Item::Result });
    }
}

/// The shards that a transaction is about.
#[derive(Default)]
struct Places {
    first: Option<u16>,
    are_several: bool,
}

impl Places {
    fn add(&mut self, shard: u16) {
        self.are_several |= *self.first.get_or_insert(shard) != shard;
    }
}

/// Keeps a command for EXEC.
pub(super) fn enqueue(asker: &mut Asker<'_>, spec: &'static Spec, arguments: &Arguments<'_>) {
    if spec.has(flags::NO_MULTI) {
        return asker.reject(b"", Some(spec), b"ERR Command not allowed inside a transaction");
    }
    if !asker.door.client.transaction.enqueue(spec, arguments) {
        return asker.reject(b"", Some(spec), b"ERR the transaction is too large for this server");
    }
    asker.door.client.share_transaction();
    asker.reply(|out| out.simple("QUEUED"));
}
