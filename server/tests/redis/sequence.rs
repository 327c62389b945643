//! Runs a sequence on a server.

use std::{collections::BTreeSet, net::SocketAddr};

use crate::{
    grammar::{Action, Sequence, Step},
    wire::{Answer, Body, Broken, Connection, Reply, encode},
};

/// More calls of SCAN than any sequence has keys.
const SCAN_CALLS_MAX: usize = 1000;

/// So much is sent before answers are read, or both sides might wait for the other to read.
const UNREAD_MAX: usize = 32 * 1024;

/// One server, and the two connections that sequences use.
pub struct Runner {
    addresses: Vec<SocketAddr>,
    connections: [Option<Connection>; 2],
}

impl Runner {
    /// The first connection goes to the first of the addresses, the second to the last.
    pub fn new(addresses: Vec<SocketAddr>) -> Runner {
        Runner { addresses, connections: [None, None] }
    }

    /// Runs a sequence on an empty store, and gives the answer of each step.
    ///
    /// # Panics
    ///
    /// If the server cannot be reached.
    pub fn run(&mut self, sequence: &Sequence) -> Vec<Answer> {
        self.begin();
        let mut answers = Vec::new();
        let mut steps = &sequence.steps[..];
        while let Some(first) = steps.first() {
            // Together goes what one connection is sent in a row.
            let is_together = |step: &&Step| step.connection == first.connection && command_of(step).is_some();
            let together = if sequence.is_pipelined { steps.iter().take_while(is_together).count().max(1) } else { 1 };
            let (now, later) = steps.split_at(together);
            self.step(now, &mut answers);
            steps = later;
        }
        answers
    }

    /// Both connections as if they were new, and an empty store.
    fn begin(&mut self) {
        for index in 0..2 {
            let fresh = self.connections[index].as_mut().map(|connection| connection.ask(&["RESET"]));
            if !matches!(fresh, Some(Ok(reply)) if reply.text() == Some(b"RESET")) {
                let address = if index == 0 { self.addresses.first() } else { self.addresses.last() };
                self.connections[index] = Some(Connection::open(*address.unwrap()).expect("the server is reachable"));
            }
        }
        let flushed = self.connections[0].as_mut().unwrap().ask(&["FLUSHALL"]);
        assert!(matches!(&flushed, Ok(reply) if reply.text() == Some(b"OK")), "FLUSHALL: {flushed:?}");
    }

    fn step(&mut self, steps: &[Step], answers: &mut Vec<Answer>) {
        let slot = &mut self.connections[steps[0].connection];
        let Some(connection) = slot else {
            return answers.extend(steps.iter().map(|_| Err(Broken::Closed)));
        };
        match &steps[0].action {
            Action::Pause(time) => {
                // What has a time to live of some milliseconds is gone after some more: there is no condition to wait
                // for.
                std::thread::sleep(*time);
                let nothing = Reply { kind: b'_', body: Body::Line(Vec::new()) };
                return answers.push(Ok(nothing));
            }
            Action::ScanAll(options) => return answers.push(scan(connection, options)),
            Action::Command(_) => {}
        }
        let (mut bytes, mut unread) = (Vec::new(), 0);
        let mut failure = None;
        let mut receive = |connection: &mut Connection, answers: &mut Vec<Answer>| {
            let answer = match &failure {
                Some(failure) => Err::<Reply, Broken>(Broken::clone(failure)),
                None => connection.receive(),
            };
            failure = answer.as_ref().err().cloned();
            answers.push(answer);
        };
        for step in steps {
            encode(command_of(step).expect("a step that is sent"), &mut bytes);
            unread += 1;
            if bytes.len() > UNREAD_MAX {
                connection.send(&bytes);
                bytes.clear();
                (0..unread).for_each(|_| receive(connection, answers));
                unread = 0;
            }
        }
        connection.send(&bytes);
        (0..unread).for_each(|_| receive(connection, answers));
        if failure.is_some() {
            *slot = None;
        }
    }
}

fn command_of(step: &Step) -> Option<&[Vec<u8>]> {
    match &step.action {
        Action::Command(command) => Some(command),
        Action::ScanAll(_) | Action::Pause(_) => None,
    }
}

/// All keys that SCAN gives, sorted; or what it answers if that is no list of keys.
fn scan(connection: &mut Connection, options: &[Vec<u8>]) -> Answer {
    let mut cursor = b"0".to_vec();
    let mut keys = BTreeSet::new();
    for _ in 0..SCAN_CALLS_MAX {
        let mut command = vec![b"SCAN".to_vec(), cursor];
        command.extend_from_slice(options);
        let mut bytes = Vec::new();
        encode(&command, &mut bytes);
        connection.send(&bytes);
        let reply = connection.receive()?;
        let Some([next, found]) = reply.items() else { return Ok(reply) };
        cursor = next.text().unwrap_or_default().to_vec();
        keys.extend(found.items().unwrap_or_default().iter().map(|key| key.text().unwrap_or_default().to_vec()));
        if cursor == b"0" {
            let keys = keys.into_iter().map(|key| Reply { kind: b'$', body: Body::Bulk(key) });
            return Ok(Reply { kind: b'*', body: Body::Items(keys.collect()) });
        }
    }
    Err(Broken::Nonsense(format!("SCAN has not come to an end after {SCAN_CALLS_MAX} calls")))
}
