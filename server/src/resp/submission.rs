//! What a connection asks of a shard, the frame that it becomes, and the way that the frame takes.

use lockstep_proto::{
    Operation,
    limits::{KEY_SIZE_MAX, VALUE_SIZE_MAX},
    mutant::{self, Mutant},
    program::{self, Builder, Commands, Opcode},
    request::own_header,
};
use zerocopy::IntoBytes;

/// Which way a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Through the log.
    Log,
    /// Into the queue of reads.
    Read,
    /// None before what its connection asked for earlier is answered.
    NeedsAnswers,
}

/// The way of a request whose connection has `writes` unanswered requests in the log, and `reads` outside of it.
#[inline]
pub fn way(writes: usize, reads: usize, is_write: bool, is_walk: impl FnOnce() -> bool) -> Way {
    if is_write {
        // A read that was sent before must not see it.
        let is_overtaking = reads > 0 && !mutant::is(Mutant::WriteOvertakesReads);
        return if is_overtaking { Way::NeedsAnswers } else { Way::Log };
    }
    match writes {
        0 => Way::Read,
        // What looks at many keys would do so on every replica if it went through the log.
        _ if is_walk() => Way::NeedsAnswers,
        _ => Way::Log,
    }
}

/// Whether a request is answered from what this server has, however old: only where the client takes that (it has said
/// READONLY), and not where the newest is to be had.
#[inline]
pub fn is_stale(is_logged: bool, takes_old: bool, is_primary: bool) -> bool {
    let is_wrong = is_primary && mutant::is(Mutant::QueryWithoutRound);
    !is_logged && ((takes_old && !is_primary) || is_wrong)
}

/// What a request asks for.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// A key's value.
    Get(&'a [u8]),
    /// To write a key's value.
    Put(&'a [u8], &'a [u8]),
    /// A program.
    Program(&'a [u8]),
}

impl Payload<'_> {
    /// Whether the request's frame will be one that is taken out of the log again.
    #[inline]
    pub fn is_sound(&self, is_logged: bool) -> bool {
        let is_key = |key: &[u8]| (1..=KEY_SIZE_MAX).contains(&key.len());
        match self {
            Payload::Get(key) => is_key(key),
            Payload::Put(key, value) => is_key(key) && value.len() <= VALUE_SIZE_MAX,
            Payload::Program(program) => program::check(program, !is_logged).is_ok(),
        }
    }

    /// Whether it may look at all keys of its shard.
    pub fn is_walk(&self) -> bool {
        match self {
            Payload::Program(program) => Commands::new(program).any(|command| command.opcode.is_walk()),
            _ => false,
        }
    }

    /// Whether it asks only about what its shard has, whichever keys those are.
    pub fn is_about_node(&self) -> bool {
        match self {
            Payload::Program(program) => Commands::new(program).all(|command| command.opcode.is_walk()),
            _ => false,
        }
    }

    /// Its size, in bytes.
    pub fn size(&self) -> usize {
        match self {
            Payload::Get(key) => key.len(),
            Payload::Put(key, value) => key.len() + value.len(),
            Payload::Program(program) => program.len(),
        }
    }

    /// Appends the request's frame: for the log, or for the queue of reads.
    #[inline]
    pub fn encode(&self, is_logged: bool, flags: u8, sequence: u64, out: &mut Vec<u8>) {
        match *self {
            Payload::Put(key, value) => {
                out.extend_from_slice(own_header(Operation::Put, 0, sequence, key.len(), value.len()).as_bytes());
                out.extend_from_slice(key);
                out.extend_from_slice(value);
            }
            Payload::Get(key) if !is_logged => {
                out.extend_from_slice(own_header(Operation::Get, flags, sequence, key.len(), 0).as_bytes());
                out.extend_from_slice(key);
            }
            Payload::Get(key) => {
                let mut program = Builder::new();
                program.command(Opcode::Get, &[key]);
                Payload::Program(program.as_bytes()).encode(true, 0, sequence, out);
            }
            Payload::Program(program) => {
                let operation = if is_logged { Operation::Transact } else { Operation::Query };
                out.extend_from_slice(own_header(operation, flags, sequence, 0, program.len()).as_bytes());
                out.extend_from_slice(program);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use lockstep_proto::request::Request;

    use super::*;

    #[test]
    fn what_is_submitted_is_taken_out_of_the_log_as_it_was_meant() {
        for (payload, is_logged, operation) in [
            (Payload::Get(b"k"), false, Operation::Get),
            (Payload::Get(b"k"), true, Operation::Transact),
            (Payload::Put(b"k", b"v"), true, Operation::Put),
        ] {
            let mut frame = Vec::new();
            payload.encode(is_logged, 0, 7, &mut frame);
            let (request, rest) = Request::parse_trusted(&frame).expect("sound");
            assert!(rest.is_empty());
            assert_eq!((request.operation(), request.sequence(), request.session()), (operation, 7, 0));
            assert_eq!(request.is_sessionless(), is_logged);
        }
    }

    #[test]
    fn requests_of_a_connection_take_effect_in_their_order() {
        let walk = || true;
        let point = || false;
        assert_eq!(way(0, 0, true, point), Way::Log);
        assert_eq!(way(3, 0, true, point), Way::Log, "writes follow each other in the log");
        assert_eq!(way(0, 2, true, point), Way::NeedsAnswers, "a read must not see a later write");
        assert_eq!(way(0, 2, false, walk), Way::Read);
        assert_eq!(way(1, 0, false, point), Way::Log, "a read must see an earlier write");
        assert_eq!(way(1, 0, false, walk), Way::NeedsAnswers);
    }
}
