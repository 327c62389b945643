//! Programs: several commands on keys of one shard, carried out in order and as one.

use crate::{operation::byte_enum, request::FrameError};

byte_enum! {
    /// What one command of a program does.
    pub enum Opcode {
        /// Read a key's value.
        Get = 1,
        /// Write a key's value and take its time-to-live away.
        Set = 2,
    }
}

/// Builds a program.
#[derive(Debug, Default)]
pub struct Builder {
    bytes: Vec<u8>,
    count: usize,
}

impl Builder {
    /// An empty program.
    pub fn new() -> Builder {
        Builder::default()
    }

    /// Begins anew, keeping the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }

    /// Whether there is no command yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Number of commands.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Size of the program, in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The program.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends a command.
    pub fn command(&mut self, opcode: Opcode, arguments: &[&[u8]]) {
        self.command_of(opcode, arguments.iter().copied());
    }

    /// Appends a command.
    pub fn command_of<'a>(&mut self, opcode: Opcode, arguments: impl Iterator<Item = &'a [u8]>) {
        self.count += 1;
        self.bytes.push(opcode.to_wire());
        for argument in arguments {
            self.bytes.extend_from_slice(&(argument.len() as u32).to_le_bytes());
            self.bytes.extend_from_slice(argument);
        }
    }
}

/// Checks that `bytes` is a program, and one that only reads if so asked.
///
/// # Errors
///
/// If it is not.
pub fn check(bytes: &[u8], is_read_only: bool) -> Result<(), FrameError> {
    let _ = (bytes, is_read_only);
    Err(FrameError::Body)
}
