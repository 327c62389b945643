//! Whether there is room for what is asked for: counted as `docs/protocol.md` has it, from nothing but the keys.

use lockstep_proto::{
    Operation, Status,
    limits::VALUE_SIZE_MAX,
    program::{Command, Commands, Opcode},
    request::Request,
};

use super::{Expected, Keyspace, Version, number};

/// What an entry takes besides its key and value, in bytes.
const ENTRY_BYTES: u64 = 32;

/// Room that the sum of an INCRBY and of an INCRBYFLOAT must have, in bytes.
const INTEGER_BYTES: usize = 20;
const FLOAT_BYTES: usize = 5000;

impl Keyspace {
    /// The refusal of a request for which there is no room in `bytes_max`. What has expired is gone.
    pub fn refusal(&self, request: &Request<'_>, bytes_max: u64) -> Option<Expected> {
        if bytes_max == u64::MAX {
            return None;
        }
        let key = request.key();
        let before = self.get(key);
        let version = before.map_or(Version::NONE, |entry| entry.version);
        let growth_to = |value_bytes: usize| {
            let held = before.map_or(0, |entry| size(key, entry.value.len()));
            size(key, value_bytes).saturating_sub(held)
        };
        let (growth, version) = match request.operation() {
            Operation::Put => (growth_to(request.value().len()), version),
            Operation::CompareAndSet if version.may_be(request.expected_version()) => {
                (growth_to(request.value().len()), version)
            }
            Operation::Increment => {
                let held = before.map_or(Some(0), |entry| number(&entry.value));
                let sum = held.and_then(|held| held.checked_add(request.delta()))?;
                (growth_to(sum.to_string().len()), version)
            }
            // Before anything is looked at, there must be room for the most that it may need.
            Operation::Transact => (Commands::new(request.program()).map(|it| most(&it)).sum(), Version::NONE),
            _ => return None,
        };
        let is_refused = growth > 0 && self.bytes() + growth > bytes_max;
        is_refused.then(|| Expected::plain(Status::Busy, version))
    }

    fn bytes(&self) -> u64 {
        self.iter().map(|(key, entry)| size(key, entry.value.len())).sum()
    }
}

fn size(key: &[u8], value_bytes: usize) -> u64 {
    ENTRY_BYTES + (key.len() + value_bytes) as u64
}

/// The most that a command may add.
fn most(command: &Command<'_>) -> u64 {
    let arguments: Vec<&[u8]> = command.arguments().collect();
    match command.opcode {
        Opcode::Set | Opcode::SetWith | Opcode::Append => size(arguments[0], arguments[1].len()),
        Opcode::MultiSet => arguments.chunks_exact(2).map(|pair| size(pair[0], pair[1].len())).sum(),
        Opcode::SetRange => {
            let offset = u64::from_le_bytes(arguments[1].try_into().expect("a number has 8 bytes")) as usize;
            size(arguments[0], VALUE_SIZE_MAX.min(offset + arguments[2].len()))
        }
        Opcode::Increment => size(arguments[0], INTEGER_BYTES),
        Opcode::IncrementFloat => size(arguments[0], FLOAT_BYTES),
        Opcode::Rename | Opcode::Copy => size(arguments[1], VALUE_SIZE_MAX),
        _ => 0,
    }
}
