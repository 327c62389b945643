//! Programs, and the results of programs.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lockstep_proto::program::{Builder, Commands, Value, check, results};

fn read_results(values: lockstep_proto::program::Results<'_>, depth: usize) {
    for value in values {
        if let Value::Array(items) = value
            && depth < 8
        {
            read_results(items.iter(), depth + 1);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    read_results(results(data), 0);
    let _ = Commands::new(data).flat_map(|command| command.arguments()).count();
    if check(data, false).is_ok() {
        let mut again = Builder::new();
        for command in Commands::new(data) {
            assert_eq!(command.arguments().count(), command.count());
            let _ = command.keys().count();
            again.append(command.opcode, command.flags, command.arguments());
        }
        assert_eq!(again.as_bytes(), data);
        assert_eq!(again.is_write(), check(data, true).is_err());
    }
});
