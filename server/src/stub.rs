//! The server's stub: request frame → command → reply frame.
//!
//! [`Machine`] is the replicated state of a shard: the store, and the sessions that make each request take effect once
//! however often a client repeats it (requests of the Redis front door have no session; their clients cannot repeat
//! them). A prepare is applied here as one batch, in the same way at the primary, at a backup, and when a journal is
//! replayed; only who listens to the answers differs.

use lockstep_proto::{
    Operation, Status,
    message::MessageHeader,
    mutant::{self, Mutant},
    reply::{ReplyParts, encode_reply},
    request::Request,
};
use lockstep_replica::sessions::{Begin, Sessions, StoredReply};
use lockstep_store::{Store, WriteResult};

/// The replicated state of a shard.
pub struct Machine {
    /// The keys and values.
    pub store: Store,
    /// Who has asked for what, and the answers.
    pub sessions: Sessions,
    /// Op of the last prepare applied.
    pub applied: u64,
    /// Timestamp of the last prepare applied, in ns since 1970.
    pub timestamp_ns: u64,
    /// Checksum of the header of the last prepare applied.
    pub checksum: u128,
    /// Revision of the next request to be applied.
    pub revision: u64,
    results: Vec<WriteResult>,
    // The memory of the last batch, empty: of requests that borrow from no prepare.
    requests: Vec<(u64, Request<'static>)>,
    indexes: Vec<u32>,
}

/// The hash over a whole state, from those over its store and over its sessions: what replicas compare.
pub fn state_hash(store_hash: u128, sessions_hash: u128) -> u128 {
    store_hash.rotate_left(1) ^ sessions_hash
}

/// Takes the answers of an applied batch: index of the request in the batch, the fixed part of its reply, and the body.
pub trait Answers {
    /// Is called once for each request, in no particular order.
    fn answer(&mut self, index: usize, parts: &ReplyParts, body: &[u8]);
}

/// Nobody waits for the answers: a backup, or a replay of the journal.
pub struct NoAnswers;

impl Answers for NoAnswers {
    #[inline]
    fn answer(&mut self, _: usize, _: &ReplyParts, _: &[u8]) {}
}

impl Machine {
    /// The state of a shard that has applied ops up to `applied`.
    pub fn new(
        store: Store,
        sessions: Sessions,
        applied: u64,
        checksum: u128,
        timestamp_ns: u64,
        revision: u64,
    ) -> Machine {
        let (results, requests, indexes) = Default::default();
        Machine { store, sessions, applied, timestamp_ns, checksum, revision, results, requests, indexes }
    }

    /// Applies the next prepare of the log.
    ///
    /// # Panics
    ///
    /// If it is not the next one, or its body is not what its header says: both were checked when it was received and
    /// when it was recovered, so the log in memory is damaged and nothing that follows could be trusted.
    pub fn apply(&mut self, message: &[u8], copies: u8, answers: &mut impl Answers) {
        let header = MessageHeader::view(message).expect("a prepare has a header");
        assert_eq!(header.op.get(), self.applied + 1, "prepares are applied in order");
        assert_eq!(header.parent.get(), self.checksum, "prepares are applied along the hash chain");
        assert_eq!(header.revision.get(), self.revision, "no request is skipped or applied twice");
        assert!(header.timestamp_ns.get() >= self.timestamp_ns, "time in the log does not run backwards");
        let count = header.request_count.get() as usize;
        let mut body = &message[MessageHeader::SIZE..header.size.get() as usize];
        // Of the primary's time: whoever applies it, and whenever, comes to the same.
        let is_late = mutant::is(Mutant::OwnClockAtApply) && copies == 0;
        let mut batch = Batch {
            timestamp_ns: header.timestamp_ns.get() + if is_late { 1_000_000 } else { 0 },
            op: header.op.get(),
            copies,
            requests: emptied(std::mem::take(&mut self.requests)),
            indexes: std::mem::take(&mut self.indexes),
        };
        for index in 0..count {
            let (request, rest) = Request::parse_trusted(body).expect("a prepare holds as many requests as it says");
            body = rest;
            self.begin(&mut batch, index, header.revision.get() + index as u64, request, answers);
        }
        assert!(body.is_empty(), "a prepare holds no more requests than it says");
        self.flush(&mut batch, answers);
        (self.requests, self.indexes) = (emptied(batch.requests), batch.indexes);
        self.applied = header.op.get();
        self.checksum = header.checksum.get();
        self.timestamp_ns = header.timestamp_ns.get();
        self.revision += count as u64;
    }

    fn begin<'a>(
        &mut self,
        batch: &mut Batch<'a>,
        index: usize,
        revision: u64,
        request: Request<'a>,
        answers: &mut impl Answers,
    ) {
        if request.operation() == Operation::Register {
            // A register may evict a session that requests of this batch belong to; these come first in the log.
            self.flush(batch, answers);
            self.sessions.register(revision, batch.op);
            let parts = batch.parts(&request, Status::Ok, revision);
            answers.answer(index, &parts, &[]);
            return;
        }
        if request.is_sessionless() {
            // It is in the log once, and whoever asked for it cannot ask again under the same name: there is nothing to
            // look up and nothing to keep.
            batch.requests.push((revision, request));
            batch.indexes.push(index as u32);
            return;
        }
        let mut begin = self.sessions.begin(request.session(), request.sequence(), batch.op);
        if matches!(begin, Begin::InProgress) {
            // The same request twice in one batch: the first one's answer is needed for the second.
            self.flush(batch, answers);
            begin = self.sessions.begin(request.session(), request.sequence(), batch.op);
        }
        match begin {
            Begin::New => {
                batch.requests.push((revision, request));
                batch.indexes.push(index as u32);
            }
            Begin::Duplicate(reply) => answer_stored(batch, index, &request, &reply, answers),
            Begin::Unknown => answers.answer(index, &batch.parts(&request, Status::UnknownSession, 0), &[]),
            Begin::Stale => answers.answer(index, &batch.parts(&request, Status::StaleSequence, 0), &[]),
            Begin::InProgress => unreachable!("the batch was flushed"),
        }
    }

    fn flush(&mut self, batch: &mut Batch<'_>, answers: &mut impl Answers) {
        if batch.requests.is_empty() {
            return;
        }
        let (requests, indexes) = (&batch.requests, &batch.indexes);
        self.store.apply_batch_with(batch.timestamp_ns, requests, &mut self.results, |index, result, body| {
            let parts = batch.parts(&requests[index].1, result.status, result.version);
            answers.answer(indexes[index] as usize, &parts, body);
        });
        assert_eq!(self.results.len(), batch.requests.len());
        for (((_, request), &index), result) in batch.requests.iter().zip(&batch.indexes).zip(&self.results) {
            if request.operation() == Operation::Transact {
                continue;
            }
            let reply = StoredReply { status: result.status, version: result.version, value: result.value };
            if !request.is_sessionless() {
                self.sessions.finish(request.session(), request.sequence(), reply);
            }
            answer_stored(batch, index as usize, request, &reply, answers);
        }
        batch.requests.clear();
        batch.indexes.clear();
    }
}

/// The memory of requests that borrowed from one prepare, for those of another.
fn emptied<'b>(mut requests: Vec<(u64, Request<'_>)>) -> Vec<(u64, Request<'b>)> {
    requests.clear();
    // Collecting a vector into one of the same layout keeps its memory.
    requests.into_iter().map(|_| unreachable!("it was cleared")).collect()
}

struct Batch<'a> {
    timestamp_ns: u64,
    op: u64,
    copies: u8,
    requests: Vec<(u64, Request<'a>)>,
    indexes: Vec<u32>,
}

impl Batch<'_> {
    fn parts(&self, request: &Request<'_>, status: Status, version: u64) -> ReplyParts {
        ReplyParts {
            status,
            operation: request.operation(),
            copies: self.copies,
            sequence: request.sequence(),
            version,
        }
    }
}

#[inline]
fn answer_stored(
    batch: &Batch<'_>,
    index: usize,
    request: &Request<'_>,
    reply: &StoredReply,
    answers: &mut impl Answers,
) {
    let parts = batch.parts(request, reply.status, reply.version);
    if request.operation() == Operation::Increment && reply.status == Status::Ok {
        answers.answer(index, &parts, &reply.value.to_le_bytes());
    } else {
        answers.answer(index, &parts, &[]);
    }
}

/// Appends the reply to a request that is refused before it reached the log. `text` is for a person.
pub fn refuse(request: &Request<'_>, status: Status, text: &[u8], out: &mut Vec<u8>) {
    let parts =
        ReplyParts { status, operation: request.operation(), copies: 0, sequence: request.sequence(), version: 0 };
    encode_reply(&parts, text, out);
}

#[cfg(test)]
mod tests {
    use lockstep_proto::{
        message::Command,
        program::{Builder, Opcode, Value, results},
        request::{RequestParts, encode_request, own_header},
    };
    use lockstep_store::StoreConfig;
    use zerocopy::{
        IntoBytes,
        little_endian::{U32, U64, U128},
    };

    use super::*;

    /// The answers, by index.
    #[derive(Default)]
    struct Heard(Vec<(usize, Status, u64, Vec<u8>)>);

    impl Answers for Heard {
        fn answer(&mut self, index: usize, parts: &ReplyParts, body: &[u8]) {
            self.0.push((index, parts.status, parts.sequence, body.to_vec()));
        }
    }

    fn machine() -> Machine {
        let store = Store::new(StoreConfig { hash_seed: [1, 2, 3, 4], shard: 0, shards: 1, bytes_max: u64::MAX });
        Machine::new(store, Sessions::new(4), 0, 0, 0, 1)
    }

    fn apply(machine: &mut Machine, requests: &[Vec<u8>]) -> Vec<(usize, Status, u64, Vec<u8>)> {
        let body = requests.concat();
        let mut header = MessageHeader::new(Command::Prepare, 1, 0, 0, 1);
        header.op = U64::new(machine.applied + 1);
        header.parent = U128::new(machine.checksum);
        header.revision = U64::new(machine.revision);
        header.request_count = U32::new(requests.len() as u32);
        header.timestamp_ns = U64::new(1000);
        header.seal(&body);
        header.check_requests(&body).expect("a backup takes it");
        let mut heard = Heard::default();
        machine.apply(&[header.as_bytes(), &body].concat(), 2, &mut heard);
        heard.0.sort();
        heard.0
    }

    fn own(operation: Operation, sequence: u64, key: &[u8], rest: &[u8]) -> Vec<u8> {
        [own_header(operation, 0, sequence, key.len(), rest.len()).as_bytes(), key, rest].concat()
    }

    #[test]
    fn each_prepare_took_new_memory_for_its_requests() {
        let mut machine = machine();
        let puts: Vec<_> = (1..=100).map(|i| own(Operation::Put, i, b"k", b"v")).collect();
        apply(&mut machine, &puts);
        let memory = |machine: &Machine| (machine.requests.as_ptr(), machine.indexes.as_ptr());
        let before = memory(&machine);
        assert!(machine.requests.capacity() >= 100 && machine.requests.is_empty() && machine.indexes.is_empty());
        apply(&mut machine, &puts);
        assert_eq!(memory(&machine), before);
    }

    #[test]
    fn what_has_no_session_is_carried_out_each_time_and_leaves_no_trace_among_the_sessions() {
        let mut machine = machine();
        let before = machine.sessions.content_hash();
        let mut program = Builder::new();
        program.command(Opcode::Increment, &[b"n", &1u64.to_le_bytes()]);
        program.command(Opcode::Get, &[b"k"]);
        let transact = own(Operation::Transact, 9, b"", program.as_bytes());
        // The same frame, number and all, three times in one prepare, with a put of the same connection number between.
        let put = own(Operation::Put, 9, b"k", b"v");
        let answers = apply(&mut machine, &[transact.clone(), put, transact.clone(), transact]);
        assert_eq!(answers.iter().map(|(index, ..)| *index).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert!(answers.iter().all(|(_, status, sequence, _)| (*status, *sequence) == (Status::Ok, 9)));
        let results = |index: usize| results(&answers[index].3).collect::<Vec<_>>();
        assert_eq!(results(0), [Value::Integer(1), Value::Nil]);
        assert_eq!(results(2), [Value::Integer(2), Value::Bulk(b"v")]);
        assert_eq!(results(3), [Value::Integer(3), Value::Bulk(b"v")]);
        assert!(answers[1].3.is_empty());
        assert_eq!(machine.sessions.content_hash(), before);
        assert_eq!(machine.revision, 5);
        // The same again with a session counts once.
        let mut register = Vec::new();
        let parts = |operation, session, key: &'static [u8], arguments: &'static [u8]| RequestParts {
            operation,
            flags: 0,
            session,
            sequence: 9,
            key,
            arguments,
            value: &[],
        };
        encode_request(&parts(Operation::Register, 0, b"", b""), &mut register);
        let mut increment = Vec::new();
        encode_request(&parts(Operation::Increment, 5, b"n", &[1, 0, 0, 0, 0, 0, 0, 0]), &mut increment);
        let answers = apply(&mut machine, &[register, increment.clone(), increment]);
        assert_eq!(answers[1].3, 4u64.to_le_bytes());
        assert_eq!(answers[2].3, 4u64.to_le_bytes());
    }
}
