//! Programs.

use lockstep_proto::{
    limits::{KEY_SIZE_MAX, VALUE_SIZE_MAX},
    program::{Builder, Commands, Kind, Opcode, ResultWriter, Value, check, flags, results},
    request::FrameError,
};
use proptest::prelude::*;

use super::damage::{each_flipped_bit, noise};

/// Everything that a checked program can be asked may be asked, and it is what it was made from.
fn assert_sound(bytes: &[u8]) {
    let mut again = Builder::new();
    for command in Commands::new(bytes) {
        let form = command.opcode.form();
        assert_eq!(command.arguments().count(), command.count());
        assert!(form.is_repeated || command.count() == form.kinds.len());
        for (argument, kind) in command.arguments().zip(form.kinds.iter().cycle()) {
            match kind {
                Kind::Key => assert!(argument.len() <= KEY_SIZE_MAX),
                Kind::Value => assert!(argument.len() <= VALUE_SIZE_MAX),
                Kind::Number => assert_eq!(argument.len(), 8),
                Kind::Text => {}
            }
        }
        let keys = form.kinds.iter().filter(|&&kind| kind == Kind::Key).count();
        assert_eq!(command.keys().count(), keys * command.count() / form.kinds.len().max(1));
        again.append(command.opcode, command.flags, command.arguments());
    }
    assert_eq!(again.as_bytes(), bytes);
    assert_eq!(again.is_write(), check(bytes, true).is_err(), "a program that does not write can be a query");
}

fn argument(kind: Kind) -> BoxedStrategy<Vec<u8>> {
    match kind {
        Kind::Number => any::<[u8; 8]>().prop_map(Vec::from).boxed(),
        _ => noise(12).boxed(),
    }
}

/// A command as its opcode wants it; of flags, one that it takes at random.
fn command() -> impl Strategy<Value = (Opcode, u8, Vec<Vec<u8>>)> {
    let opcodes: Vec<Opcode> = Opcode::ALL.iter().copied().filter(|&opcode| opcode != Opcode::Check).collect();
    (proptest::sample::select(opcodes), 1usize..4, any::<proptest::sample::Index>()).prop_flat_map(
        |(opcode, times, flag)| {
            let form = opcode.form();
            let times = if form.is_repeated { times } else { 1 };
            let arguments: Vec<_> = form.kinds.repeat(times).into_iter().map(argument).collect();
            let names = opcode.flag_names();
            let flag = if names.is_empty() { 0 } else { names[flag.index(names.len())].0 };
            let flag = match opcode {
                Opcode::GetExpire => flags::PERSIST,
                Opcode::Expire if flag < flags::RELATIVE => flag | flags::RELATIVE,
                _ => flag,
            };
            (Just(opcode), Just(flag), arguments)
        },
    )
}

fn program() -> impl Strategy<Value = Builder> {
    (0usize..3, proptest::collection::vec(command(), 1..6)).prop_map(|(checks, commands)| {
        let mut program = Builder::new();
        for _ in 0..checks {
            program.command(Opcode::Check, &[b"key", &[1; 8], &[0; 8]]);
        }
        for (opcode, flags, arguments) in commands {
            program.append(opcode, flags, arguments.iter().map(Vec::as_slice));
        }
        program
    })
}

proptest! {
    #[test]
    fn what_was_built_is_accepted_and_read_back(program in program()) {
        prop_assert_eq!(check(program.as_bytes(), false), Ok(()));
        prop_assert_eq!(Commands::new(program.as_bytes()).count(), program.count());
        prop_assert_eq!(program.size(), program.as_bytes().len());
        assert_sound(program.as_bytes());
    }

    #[test]
    fn a_part_of_a_program_is_refused_unless_it_ends_with_a_command(program in program()) {
        let mut ends = Vec::new();
        let mut part = Builder::new();
        for command in Commands::new(program.as_bytes()) {
            part.append(command.opcode, command.flags, command.arguments());
            if command.opcode != Opcode::Check {
                ends.push(part.size());
            }
        }
        for size in 0..program.size() {
            prop_assert_eq!(check(&program.as_bytes()[..size], false).is_ok(), ends.contains(&size));
        }
    }

    #[test]
    fn a_damaged_program_is_refused_or_sound(program in program()) {
        each_flipped_bit(program.as_bytes(), |damaged, _| {
            if check(damaged, false).is_ok() {
                assert_sound(damaged);
            }
            let _ = Commands::new(damaged).flat_map(|command| command.arguments()).count();
        });
    }

    #[test]
    fn noise_does_no_harm(bytes in noise(120)) {
        if check(&bytes, false).is_ok() {
            assert_sound(&bytes);
        }
        let _ = Commands::new(&bytes).count();
        for value in results(&bytes) {
            if let Value::Array(items) = value {
                let _ = items.iter().count();
            }
        }
    }

    /// However much is written, the body keeps its bound, and every command has its one result.
    #[test]
    fn results_keep_their_bound(sizes in proptest::collection::vec(0usize..60, 1..20), room in 0usize..300) {
        let mut out = b"before".to_vec();
        let bound = room + 2 * sizes.len();
        let mut writer = ResultWriter::new(&mut out, bound, sizes.len());
        for (index, &size) in sizes.iter().enumerate() {
            if index % 3 == 0 {
                let array = writer.begin_array();
                (0..size).for_each(|_| writer.ok());
                writer.end_array(array, size);
            } else {
                writer.bulk(&vec![b'x'; size]);
            }
            writer.end_command();
        }
        prop_assert!(out.len() <= 6 + bound && out.starts_with(b"before"));
        prop_assert_eq!(results(&out[6..]).count(), sizes.len());
    }
}

#[test]
fn what_an_opcode_does_not_take_is_refused() {
    let refusal = |opcode, flags, arguments: &[&[u8]]| {
        let mut program = Builder::new();
        program.command_with(opcode, flags, arguments);
        check(program.as_bytes(), false).err()
    };
    let number = [0; 8];
    assert_eq!(refusal(Opcode::Get, 0, &[b"k"]), None);
    assert_eq!(refusal(Opcode::Get, 0, &[]), Some(FrameError::Body));
    assert_eq!(refusal(Opcode::Get, 0, &[b"k", b"k"]), Some(FrameError::Body));
    assert_eq!(refusal(Opcode::Get, 1, &[b"k"]), Some(FrameError::Flags(1)));
    assert_eq!(refusal(Opcode::MultiGet, 0, &[]), Some(FrameError::Body));
    assert_eq!(refusal(Opcode::MultiSet, 0, &[b"k", b"v", b"k"]), Some(FrameError::Body));
    assert_eq!(refusal(Opcode::Increment, 0, &[b"k", b"1"]), Some(FrameError::Body));
    assert_eq!(refusal(Opcode::Get, 0, &[&vec![0; KEY_SIZE_MAX + 1]]), Some(FrameError::Body));
    let too_large = vec![0; VALUE_SIZE_MAX + 1];
    assert_eq!(refusal(Opcode::Set, 0, &[b"k", &too_large]), Some(FrameError::ValueSize(VALUE_SIZE_MAX + 1)));
    for flags in [flags::NX | flags::XX, flags::KEEP_TTL | flags::RELATIVE, flags::GET | flags::COUNT] {
        assert_eq!(refusal(Opcode::SetWith, flags, &[b"k", b"v", &number, b""]), Some(FrameError::Flags(flags)));
    }
    assert_eq!(refusal(Opcode::Expire, flags::NX, &[b"k", &number]), Some(FrameError::Flags(flags::NX)));
    assert_eq!(
        refusal(Opcode::Check, 0, &[b"k", &number, &number]),
        Some(FrameError::Body),
        "nothing to be checked for"
    );
}

#[test]
fn checks_come_first_and_a_query_does_not_write() {
    let number = [0; 8];
    let mut program = Builder::new();
    program.command(Opcode::Get, &[b"k"]);
    assert!(!program.is_write() && check(program.as_bytes(), true).is_ok());
    program.command(Opcode::Check, &[b"k", &number, &number]);
    assert_eq!(check(program.as_bytes(), false), Err(FrameError::Body));
    program.clear();
    assert_eq!(check(program.as_bytes(), false), Err(FrameError::Body), "a program without commands");
    program.command(Opcode::Check, &[b"k", &number, &number]);
    program.command(Opcode::Get, &[b"k"]);
    assert!(program.is_write() && check(program.as_bytes(), false).is_ok());
    assert_eq!(check(program.as_bytes(), true), Err(FrameError::Body));
}
