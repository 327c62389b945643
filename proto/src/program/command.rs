//! The commands of a program, written and read in place.

use zerocopy::{
    FromBytes,
    little_endian::{U16, U32},
};

use super::opcode::{Kind, Opcode};
use crate::{
    layout::layout,
    limits::{KEY_SIZE_MAX, VALUE_SIZE_MAX},
    request::FrameError,
};

layout! {
    /// What stands before the arguments of a program's command.
    pub struct CommandHeader: 8 {
        0 opcode: u8 = "What it does: an `Opcode`.",
        1 flags: u8 = "Flags that the opcode takes.",
        2 reserved: U16 = "Zero.",
        4 count: U32 = "Number of arguments that follow: `size u32`, bytes.",
    }
}

/// Size of an argument besides its bytes.
const ARGUMENT_HEADER_SIZE: usize = 4;

/// Checks a whole program: everything that [`Commands`] and the accessors of [`Command`] take for granted.
///
/// # Errors
///
/// If it has no command, one of its commands is not what its opcode says, a check stands behind another command, or, with
/// `is_read_only`, a command writes.
pub fn check(bytes: &[u8], is_read_only: bool) -> Result<(), FrameError> {
    let mut rest = bytes;
    let mut are_checks_over = false;
    while !rest.is_empty() {
        let (header, arguments) = CommandHeader::ref_from_prefix(rest).map_err(|_| FrameError::Body)?;
        let opcode = Opcode::from_wire(header.opcode).ok_or(FrameError::Body)?;
        if header.reserved.get() != 0 {
            return Err(FrameError::Reserved);
        }
        if !opcode.accepts_flags(header.flags) {
            return Err(FrameError::Flags(header.flags));
        }
        let is_check = opcode == Opcode::Check;
        if (is_check && are_checks_over) || (is_read_only && (is_check || opcode.is_write())) {
            return Err(FrameError::Body);
        }
        are_checks_over |= !is_check;
        rest = check_arguments(opcode, header.count.get() as usize, arguments)?;
    }
    if are_checks_over { Ok(()) } else { Err(FrameError::Body) }
}

/// Checks the arguments of one command. Returns what follows them.
fn check_arguments(opcode: Opcode, count: usize, mut bytes: &[u8]) -> Result<&[u8], FrameError> {
    let form = opcode.form();
    let is_count_valid =
        if form.is_repeated { count > 0 && count.is_multiple_of(form.kinds.len()) } else { count == form.kinds.len() };
    if !is_count_valid {
        return Err(FrameError::Body);
    }
    let kinds = form.kinds.iter().cycle();
    for kind in kinds.take(count) {
        let (argument, rest) = split_argument(bytes).ok_or(FrameError::Body)?;
        match kind {
            Kind::Key if argument.len() > KEY_SIZE_MAX => return Err(FrameError::Body),
            Kind::Value if argument.len() > VALUE_SIZE_MAX => return Err(FrameError::ValueSize(argument.len())),
            Kind::Number if argument.len() != 8 => return Err(FrameError::Body),
            _ => bytes = rest,
        }
    }
    Ok(bytes)
}

#[inline]
fn split_argument(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (size, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(u32::from_le_bytes(*size) as usize)
}

/// The commands of a program that was checked, in order.
#[derive(Clone, Copy, Debug)]
pub struct Commands<'a>(&'a [u8]);

impl<'a> Commands<'a> {
    /// Views a program that [`check`] has accepted. Of any other, the commands up to the first malformed one.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Commands<'a> {
        Commands(bytes)
    }
}

impl<'a> Iterator for Commands<'a> {
    type Item = Command<'a>;

    #[inline]
    fn next(&mut self) -> Option<Command<'a>> {
        let (header, rest) = CommandHeader::ref_from_prefix(self.0).ok()?;
        let opcode = Opcode::from_wire(header.opcode)?;
        let mut end = Arguments(rest);
        for _ in 0..header.count.get() {
            end.next()?;
        }
        let (arguments, rest) = rest.split_at(rest.len() - end.0.len());
        self.0 = rest;
        Some(Command { opcode, flags: header.flags, count: header.count.get() as usize, arguments })
    }
}

/// One command of a program, viewed in place.
#[derive(Clone, Copy, Debug)]
pub struct Command<'a> {
    /// What it does.
    pub opcode: Opcode,
    /// How.
    pub flags: u8,
    count: usize,
    arguments: &'a [u8],
}

impl<'a> Command<'a> {
    /// Whether one of these flags is set.
    #[inline]
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    /// Number of arguments.
    #[inline]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The arguments in order.
    #[inline]
    pub fn arguments(&self) -> Arguments<'a> {
        Arguments(self.arguments)
    }

    /// The first `N` arguments.
    ///
    /// # Panics
    ///
    /// If there are not as many.
    #[inline]
    pub fn first<const N: usize>(&self) -> [&'a [u8]; N] {
        let mut arguments = self.arguments();
        std::array::from_fn(|_| arguments.next().expect("the program was checked"))
    }

    /// The keys among the arguments.
    #[inline]
    pub fn keys(&self) -> impl Iterator<Item = &'a [u8]> {
        let kinds = self.opcode.form().kinds.iter().cycle();
        self.arguments().zip(kinds).filter(|(_, kind)| **kind == Kind::Key).map(|(argument, _)| argument)
    }
}

/// The arguments of a command.
#[derive(Clone, Copy, Debug)]
pub struct Arguments<'a>(&'a [u8]);

impl<'a> Iterator for Arguments<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let (argument, rest) = split_argument(self.0)?;
        self.0 = rest;
        Some(argument)
    }
}

/// Writes programs. What it is given is not checked: [`check`] is for that.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    bytes: Vec<u8>,
    count: usize,
    is_write: bool,
}

impl Builder {
    /// An empty program.
    pub fn new() -> Builder {
        Builder::default()
    }

    /// Takes all commands out. The memory stays.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
        self.is_write = false;
    }

    /// Whether it has no command.
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

    /// Whether a command may change something, or is a check: such a program has to go through the log.
    pub fn is_write(&self) -> bool {
        self.is_write
    }

    /// The program.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends a command without flags.
    #[inline]
    pub fn command(&mut self, opcode: Opcode, arguments: &[&[u8]]) {
        self.append(opcode, 0, arguments.iter().copied());
    }

    /// Appends a command with flags.
    #[inline]
    pub fn command_with(&mut self, opcode: Opcode, flags: u8, arguments: &[&[u8]]) {
        self.append(opcode, flags, arguments.iter().copied());
    }

    /// Appends a command without flags whose arguments do not lie in a slice.
    pub fn command_of<'a>(&mut self, opcode: Opcode, arguments: impl Iterator<Item = &'a [u8]>) {
        self.append(opcode, 0, arguments);
    }

    /// Appends a command.
    #[inline]
    pub fn append<'a>(&mut self, opcode: Opcode, flags: u8, arguments: impl Iterator<Item = &'a [u8]>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[opcode.to_wire(), flags, 0, 0, 0, 0, 0, 0]);
        let mut count = 0u32;
        for argument in arguments {
            self.bytes.reserve(ARGUMENT_HEADER_SIZE + argument.len());
            self.bytes.extend_from_slice(&(argument.len() as u32).to_le_bytes());
            self.bytes.extend_from_slice(argument);
            count += 1;
        }
        self.bytes[start + 4..start + 8].copy_from_slice(&count.to_le_bytes());
        self.count += 1;
        self.is_write |= opcode.is_write() || opcode == Opcode::Check;
    }

    /// Appends all commands of another program.
    pub fn extend(&mut self, other: &Builder) {
        self.bytes.extend_from_slice(&other.bytes);
        self.count += other.count;
        self.is_write |= other.is_write;
    }
}
