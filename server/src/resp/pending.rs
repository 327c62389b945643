//! Answers in the order of the requests, whatever order they are known in.
//!
//! Every request that is not answered at once has a place in its connection's queue, under a number that counts up and
//! that the request carries through the log, the read queue or another shard. An answer that is first in the queue goes
//! straight into the bytes to be sent; one that is not waits, formatted, in its place.

use std::collections::VecDeque;

use lockstep_proto::{
    Status,
    program::{Value, results},
};

use super::{
    context::Join,
    pubsub::Delivery,
    stats::{Asked, Outcome},
    transaction::Execution,
    values::{write_refusal, write_single, write_value},
    watchers::Watching,
    writer::{Version, Writer},
};

/// How the answer to a request becomes an answer in the Redis protocol.
#[derive(Debug)]
pub enum Form {
    /// It is one: these bytes wait for those before them.
    Ready(Vec<u8>),
    /// `+OK` after a put.
    Put,
    /// The value, or null, after a get.
    Get,
    /// The only result of a program.
    Value,
    /// What EXEC answers.
    Execute(Box<Execution>),
    /// The keys of a WATCH: their stamps are remembered, the answer is `+OK`. No more than that if they are to be
    /// forgotten already.
    Watch(Option<(Vec<Vec<u8>>, Watching)>),
    /// The results of several shards.
    Join(Box<Joining>),
    /// One step of a scan in the shard whose last slot is before this one; with it, where the next shard's scan begins.
    Scan(Option<u64>),
    /// Nothing yet: something of this server is waited for.
    Hole,
}

/// Places for which an empty queue keeps memory.
const PLACES_KEPT_MAX: usize = 256;

/// Results of several shards that become one answer.
#[derive(Debug)]
pub struct Joining {
    /// How.
    pub join: Join,
    /// Shards that have not answered yet.
    pub missing: usize,
    /// What each has answered: shard, status, body. In the order of the shards once all are there.
    pub parts: Vec<(u16, Status, Vec<u8>)>,
    /// With [`Join::Gather`]: the shard of each key, in order.
    pub order: Vec<u16>,
    /// With [`Join::AnyOf`]: decides which.
    pub draw: u64,
}

/// A request that is not answered yet, or whose answer waits for others.
#[derive(Debug)]
pub struct Place {
    /// What becomes of its answer.
    pub form: Form,
    /// The version it is answered in.
    pub version: Version,
    /// Whether the client does not want to hear it.
    pub is_silent: bool,
    /// Whether it may write.
    pub is_write: bool,
    /// What was asked.
    pub asked: Asked,
}

/// What an answer tells besides.
#[derive(Debug, Default)]
pub struct Heard {
    /// Keys that were stamped for WATCH: key, version, expiry in ns.
    pub stamps: Vec<(Vec<u8>, u64, u64)>,
    /// The share in the count of those who watch keys of their shard.
    pub watching: Option<Watching>,
    /// Whether it was a WATCH.
    pub is_watch: bool,
    /// Whether the place has got its answer: another shard's may still be missing.
    pub is_answered: bool,
    /// Whether it was a write.
    pub is_write: bool,
    /// What was asked.
    pub asked: Asked,
    /// What the answer is.
    pub outcome: Outcome,
    /// What was published in a transaction that has been carried out.
    pub deliveries: Vec<(u16, Delivery)>,
}

/// The queue of one connection.
#[derive(Debug)]
pub struct Pending {
    places: VecDeque<Place>,
    /// Number of the first place.
    first: u64,
    /// Bytes of the answers that wait in their places.
    ready_bytes: usize,
}

impl Default for Pending {
    fn default() -> Pending {
        Pending { places: VecDeque::new(), first: 1, ready_bytes: 0 }
    }
}

impl Pending {
    /// Whether nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Bytes of the answers that wait for others.
    #[inline]
    pub fn ready_bytes(&self) -> usize {
        self.ready_bytes
    }

    /// The number of the request whose answer is to be sent next, if one waits.
    #[inline]
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The number that the next place will have.
    #[inline]
    pub fn next(&self) -> u64 {
        self.first + self.places.len() as u64
    }

    /// Adds a place at the end.
    #[inline]
    pub fn push(&mut self, place: Place) {
        self.places.push_back(place);
    }

    /// Adds an answer that is known. It is first looked at whether the last place takes it too.
    pub fn push_ready(&mut self, bytes: &[u8]) {
        self.ready_bytes += bytes.len();
        if let Some(Place { form: Form::Ready(ready), .. }) = self.places.back_mut() {
            ready.extend_from_slice(bytes);
            return;
        }
        let form = Form::Ready(bytes.to_vec());
        let asked = Asked::default();
        self.places.push_back(Place { form, version: Version::Resp2, is_silent: false, is_write: false, asked });
    }

    /// Takes an answer in. What can be sent now goes into `replies`. `shard` is the one that answers.
    ///
    /// # Panics
    ///
    /// If no request with this number waits: answers would go to the wrong request.
    #[inline]
    pub fn answer(&mut self, sequence: u64, shard: u16, status: Status, body: &[u8], replies: &mut Vec<u8>) -> Heard {
        let index = sequence.wrapping_sub(self.first) as usize;
        let place = self.places.get_mut(index).expect("an answer is for a request that waits");
        let is_watch = matches!(place.form, Form::Watch(_));
        let (is_write, asked) = (place.is_write, place.asked);
        let mut heard = Heard { is_answered: true, is_write, is_watch, asked, ..Heard::default() };
        if let Form::Join(joining) = &mut place.form {
            assert!(joining.missing > 0, "a shard answers once");
            joining.missing -= 1;
            joining.parts.push((shard, status, body.to_vec()));
            if joining.missing > 0 {
                self.ready_bytes += body.len();
                heard.is_answered = false;
                return heard;
            }
            self.ready_bytes -= joining.parts.iter().map(|(.., part)| part.len()).sum::<usize>() - body.len();
        }
        if index > 0 {
            let mut bytes = Vec::new();
            place.write(status, body, &mut bytes, &mut heard);
            self.ready_bytes += bytes.len();
            place.form = Form::Ready(bytes);
            return heard;
        }
        place.write(status, body, replies, &mut heard);
        self.places.pop_front();
        self.first += 1;
        match self.places.front() {
            Some(Place { form: Form::Ready(_), .. }) => self.take_ready(replies),
            Some(_) => {}
            None => self.shrink(),
        }
        heard
    }

    /// Gives a hole its answer.
    ///
    /// # Panics
    ///
    /// If there is none with this number.
    pub fn fill(&mut self, sequence: u64, bytes: &[u8], replies: &mut Vec<u8>) {
        let index = sequence.wrapping_sub(self.first) as usize;
        let place = self.places.get_mut(index).expect("a hole that waits");
        assert!(matches!(place.form, Form::Hole));
        let bytes = if place.is_silent { Vec::new() } else { bytes.to_vec() };
        self.ready_bytes += bytes.len();
        place.form = Form::Ready(bytes);
        self.take_ready(replies);
    }

    /// Gives back the memory of answers that nobody will take any more.
    pub fn forget_answers(&mut self) {
        for place in &mut self.places {
            if let Form::Ready(bytes) = &mut place.form {
                self.ready_bytes -= std::mem::take(bytes).len();
            }
        }
    }

    /// Forgets what is to be watched and is not known yet.
    pub fn forget_watches(&mut self) {
        for place in &mut self.places {
            if let Form::Watch(watch) = &mut place.form {
                *watch = None;
            }
        }
    }

    /// The version that the place is answered in.
    pub fn version_of(&self, sequence: u64) -> Version {
        let index = sequence.wrapping_sub(self.first) as usize;
        self.places.get(index).map_or(Version::Resp2, |place| place.version)
    }

    fn take_ready(&mut self, replies: &mut Vec<u8>) {
        while let Some(Place { form: Form::Ready(bytes), .. }) = self.places.front() {
            replies.extend_from_slice(bytes);
            self.ready_bytes -= bytes.len();
            self.places.pop_front();
            self.first += 1;
        }
        self.shrink();
    }

    /// Gives back the memory of a long queue that has become empty: its client may be idle from now on.
    #[inline]
    fn shrink(&mut self) {
        if self.places.is_empty() && self.places.capacity() > PLACES_KEPT_MAX {
            self.places = VecDeque::new();
        }
    }
}

impl Place {
    #[inline]
    fn write(&mut self, status: Status, body: &[u8], replies: &mut Vec<u8>, heard: &mut Heard) {
        let start = replies.len();
        let mut out = Writer::new(replies, self.version);
        match (&mut self.form, status) {
            (Form::Join(joining), _) => joining.write(&mut out),
            (Form::Put, Status::Ok) => out.ok(),
            (Form::Get, Status::Ok) => out.bulk(body),
            (Form::Get, Status::NotFound) => out.null(),
            (Form::Value, Status::Ok) => write_single(&mut out, body),
            (Form::Execute(execution), Status::Ok) => {
                if execution.write(&mut out, body) {
                    heard.deliveries = std::mem::take(&mut execution.deliveries);
                }
            }
            (Form::Watch(watch), Status::Ok) => {
                if let Some((keys, watching)) = watch.take() {
                    let stamps = keys.into_iter().zip(results(body));
                    heard.stamps = stamps.filter_map(|(key, value)| stamp(key, &value)).collect();
                    heard.watching = Some(watching);
                }
                out.ok();
            }
            (Form::Scan(next), Status::Ok) => write_scan(&mut out, body, *next),
            (_, status) => write_refusal(&mut out, status, body),
        }
        heard.outcome = Outcome::of(&replies[start..]);
        if self.is_silent {
            replies.truncate(start);
        }
    }
}

fn stamp(key: Vec<u8>, value: &Value<'_>) -> Option<(Vec<u8>, u64, u64)> {
    let Value::Array(items) = value else { return None };
    let mut numbers = items.iter().map(|item| match item {
        Value::Integer(number) => Some(number as u64),
        _ => None,
    });
    Some((key, numbers.next()??, numbers.next()??))
}

/// Writes the result of a scan's step. A shard that is done gives way to the next.
fn write_scan(out: &mut Writer<'_>, body: &[u8], next: Option<u64>) {
    let Some(Value::Array(items)) = results(body).next() else {
        return write_single(out, body);
    };
    let parts: Vec<Value<'_>> = items.iter().collect();
    match (&parts[..], next) {
        ([Value::Bulk(b"0"), keys], Some(next)) => {
            out.array(2);
            out.bulk(next.to_string().as_bytes());
            write_value(out, keys);
        }
        _ => write_single(out, body),
    }
}

impl Joining {
    fn write(&mut self, out: &mut Writer<'_>) {
        self.parts.sort_by_key(|(shard, ..)| *shard);
        if let Some((_, status, body)) = self.parts.iter().find(|(_, status, _)| *status != Status::Ok) {
            return write_refusal(out, *status, body);
        }
        let values: Vec<Value<'_>> = self.parts.iter().filter_map(|(.., body)| results(body).next()).collect();
        if let Some(error) = values.iter().find(|value| matches!(value, Value::Error(_))) {
            return write_value(out, error);
        }
        let integers = values.iter().map(|value| if let Value::Integer(number) = value { *number } else { 0 });
        let arrays =
            || values.iter().filter_map(|value| if let Value::Array(items) = value { Some(items) } else { None });
        match self.join {
            Join::AllOk => out.ok(),
            Join::Sum => out.integer(integers.sum()),
            Join::Concat => {
                out.array(arrays().map(|items| items.len()).sum());
                arrays().flat_map(|items| items.iter()).for_each(|item| write_value(out, &item));
            }
            Join::Gather => {
                let mut parts: Vec<_> = arrays().map(|items| items.iter()).collect();
                out.array(self.order.len());
                for shard in &self.order {
                    let index = self.parts.iter().position(|(part, ..)| part == shard);
                    match index.and_then(|index| parts.get_mut(index)?.next()) {
                        Some(item) => write_value(out, &item),
                        None => out.null(),
                    }
                }
            }
            Join::AnyOf => {
                let found: Vec<_> = values.iter().filter(|value| **value != Value::Nil).collect();
                match found.get(self.draw as usize % found.len().max(1)) {
                    Some(value) => write_value(out, value),
                    None => out.null(),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use lockstep_proto::program::ResultWriter;

    use super::*;

    fn place(form: Form) -> Place {
        Place { form, version: Version::Resp2, is_silent: false, is_write: true, asked: Asked::default() }
    }

    fn body(write: impl FnOnce(&mut ResultWriter<'_>)) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = ResultWriter::new(&mut bytes, 1000, 1);
        write(&mut writer);
        writer.end_command();
        bytes
    }

    #[test]
    fn answers_are_sent_in_the_order_of_the_requests() {
        let mut pending = Pending::default();
        let mut replies = Vec::new();
        pending.push(place(Form::Put));
        pending.push(place(Form::Get));
        pending.push_ready(b"+PONG\r\n");
        pending.push_ready(b"+PONG\r\n");
        pending.push(Place { is_silent: true, ..place(Form::Value) });
        pending.push(place(Form::Hole));
        assert_eq!((pending.len(), pending.next()), (5, 6), "answers that are known share a place");
        assert!(pending.answer(2, 0, Status::Ok, b"value", &mut replies).is_answered);
        pending.fill(5, b":1\r\n", &mut replies);
        assert!(replies.is_empty() && pending.ready_bytes() > 0);
        pending.answer(1, 0, Status::Ok, b"", &mut replies);
        assert_eq!(replies, b"+OK\r\n$5\r\nvalue\r\n+PONG\r\n+PONG\r\n");
        pending.answer(4, 0, Status::Ok, &body(|out| out.integer(7)), &mut replies);
        assert!(replies.ends_with(b"+PONG\r\n:1\r\n"), "the silent one is left out");
        assert!(pending.is_empty() && pending.ready_bytes() == 0);
        assert_eq!(pending.next(), 6);
    }

    #[test]
    #[should_panic(expected = "an answer is for a request that waits")]
    fn an_answer_that_nobody_waits_for_is_not_given_to_somebody_else() {
        let mut pending = Pending::default();
        pending.push(place(Form::Put));
        pending.answer(1, 0, Status::Ok, b"", &mut Vec::new());
        pending.push(place(Form::Put));
        pending.answer(1, 0, Status::Ok, b"", &mut Vec::new());
    }

    fn joined(join: Join, order: Vec<u16>, parts: [(u16, Status, Vec<u8>); 2]) -> String {
        let mut pending = Pending::default();
        let mut replies = Vec::new();
        let joining = Joining { join, missing: 2, parts: Vec::new(), order, draw: 1 };
        pending.push(place(Form::Join(Box::new(joining))));
        let [(first, first_status, first_body), (second, second_status, second_body)] = parts;
        assert!(!pending.answer(1, first, first_status, &first_body, &mut replies).is_answered);
        assert!(replies.is_empty());
        assert!(pending.answer(1, second, second_status, &second_body, &mut replies).is_answered);
        String::from_utf8(replies).expect("text")
    }

    #[test]
    fn the_results_of_several_shards_become_one_answer() {
        let number = |shard, number| (shard, Status::Ok, body(|out| out.integer(number)));
        let array = |shard, texts: &[&str]| {
            let texts: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
            let bytes = body(|out| {
                let start = out.begin_array();
                texts.iter().for_each(|text| out.bulk(text));
                out.end_array(start, texts.len());
            });
            (shard, Status::Ok, bytes)
        };
        assert_eq!(joined(Join::Sum, Vec::new(), [number(1, 3), number(0, 4)]), ":7\r\n");
        let gathered = joined(Join::Gather, vec![1, 0, 1], [array(1, &["a", "c"]), array(0, &["b"])]);
        assert_eq!(gathered, "*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n");
        let concatenated = joined(Join::Concat, Vec::new(), [array(1, &["z"]), array(0, &["a"])]);
        assert_eq!(concatenated, "*2\r\n$1\r\na\r\n$1\r\nz\r\n");
        let done = |shard| (shard, Status::Ok, body(|out| out.ok()));
        let nothing = |shard| (shard, Status::Ok, body(|out| out.nil()));
        assert_eq!(joined(Join::AllOk, Vec::new(), [done(1), done(0)]), "+OK\r\n");
        assert_eq!(
            joined(Join::AnyOf, Vec::new(), [nothing(1), (0, Status::Ok, body(|out| out.bulk(b"k")))]),
            "$1\r\nk\r\n"
        );
        assert_eq!(joined(Join::AnyOf, Vec::new(), [nothing(1), nothing(0)]), "$-1\r\n");
        let refused = joined(Join::Sum, Vec::new(), [number(1, 3), (0, Status::NotPrimary, Vec::new())]);
        assert!(refused.starts_with("-READONLY"), "{refused}");
    }
}
