//! What bytes from a client have to hold to, whatever they are: the entry of the fuzz target `resp`, and of the property test in
//! `server/src/resp/parse.rs`, which needs no fuzzer.

use super::{Parsed, Parser};

/// The commands in `bytes`, and how the parser came to an end: what it took, and its error.
type Outcome = (Vec<Vec<Vec<u8>>>, usize, Option<Vec<u8>>);

/// Parses what has arrived whenever `step` more bytes have.
fn commands(bytes: &[u8], step: usize, is_authenticated: bool) -> Outcome {
    let mut parser = Parser::default();
    let (mut commands, mut taken, mut arrived) = (Vec::new(), 0, 0);
    loop {
        match parser.parse(&bytes[taken..arrived], is_authenticated) {
            Ok(Parsed::Incomplete) if arrived == bytes.len() => return (commands, taken, None),
            Ok(Parsed::Incomplete) => arrived = (arrived + step).min(bytes.len()),
            Ok(Parsed::Nothing(size)) => {
                assert!(size > 0 && size <= arrived - taken);
                taken += size;
            }
            Ok(Parsed::Command(size)) => {
                assert!(size > 0 && size <= arrived - taken);
                let arguments = parser.arguments(&bytes[taken..arrived]);
                commands.push(arguments.iter().map(<[u8]>::to_vec).collect());
                taken += size;
            }
            Err(error) => return (commands, taken, Some(error.0)),
        }
    }
}

/// Parses all but the first byte of `data`, as a whole and in pieces; the first byte says in which, and whether the client has given
/// its password.
///
/// # Panics
///
/// If the pieces hold something else than the whole.
pub fn check(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else { return };
    let is_authenticated = choice & 1 == 0;
    let whole = commands(bytes, bytes.len().max(1), is_authenticated);
    let pieces = commands(bytes, usize::from(choice >> 1).max(1), is_authenticated);
    assert_eq!(whole, pieces);
}
