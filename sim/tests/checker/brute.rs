//! A second checker, slow and simple: it tries every order, every subset of what is unknown, and every version. On tiny
//! histories, right and wrong ones, the real one must agree with it.

use proptest::prelude::*;

use super::recorder::{Ask, Op, Told, check, op, unknown};

/// The key, and the last revision that changed it.
#[derive(Clone, Debug, Default)]
struct Key {
    revision: u64,
    entry: Option<(String, u64)>,
}

fn number(value: &str) -> Option<i64> {
    value.parse::<i64>().ok().filter(|number| number.to_string() == value)
}

/// Carries an operation out at a revision: what it is told.
fn carry_out(key: &mut Key, ask: &Ask, revision: u64) -> Told {
    let version = key.entry.as_ref().map_or(0, |entry| entry.1);
    let write = |key: &mut Key, value: Option<String>| {
        key.revision = revision;
        key.entry = value.map(|value| (value, revision));
    };
    match ask {
        Ask::Put(value) => {
            write(key, Some(value.clone()));
            Told::Ok(revision)
        }
        Ask::Delete if version == 0 => Told::None,
        Ask::Delete => {
            write(key, None);
            Told::Ok(revision)
        }
        Ask::Cas(expected, _) if *expected != version => Told::Mismatch(version),
        Ask::Cas(_, value) => {
            write(key, Some(value.clone()));
            Told::Ok(revision)
        }
        Ask::Add(delta) => {
            let before = key.entry.as_ref().map_or(Some(0), |(value, _)| number(value));
            match before.and_then(|before| before.checked_add(*delta)) {
                None => Told::NotANumber(version),
                Some(sum) => {
                    write(key, Some(sum.to_string()));
                    Told::Sum(sum, revision)
                }
            }
        }
        Ask::Get => key.entry.clone().map_or(Told::None, |(value, version)| Told::Found(value, version)),
        Ask::Exists if version == 0 => Told::None,
        Ask::Exists => Told::Exists(version),
        Ask::PutFor(..) | Ask::Expire(_) | Ask::Ttl => unreachable!("not generated"),
    }
}

/// Whether an answer tells the truth. A version of 0 was not told.
fn is_told(answer: &Told, truth: &Told) -> bool {
    match (answer, truth) {
        (Told::Exists(0), Told::Exists(_)) | (Told::NotANumber(0), Told::NotANumber(_)) => true,
        _ => answer == truth,
    }
}

/// The revision that an answer names.
fn revision_of(ask: &Ask, told: &Told) -> Option<u64> {
    match (ask, told) {
        (_, Told::Ok(revision) | Told::Sum(_, revision)) => Some(*revision),
        _ => None,
    }
}

/// The version that an answer names.
fn version_of(told: &Told) -> u64 {
    match told {
        Told::Ok(version) | Told::Sum(_, version) | Told::Found(_, version) => *version,
        Told::Exists(version) | Told::Mismatch(version) | Told::NotANumber(version) => *version,
        Told::None | Told::Persistent | Told::Remaining(_) => 0,
    }
}

fn is_linearizable(left: &[Op], key: &Key, revision_max: u64) -> bool {
    if left.iter().all(|op| op.end.is_none()) {
        return true;
    }
    (0..left.len()).any(|index| {
        let op = &left[index];
        let is_minimal = left.iter().all(|other| other.end.as_ref().is_none_or(|(end, _)| *end >= op.invoke));
        let rest = || left[..index].iter().chain(&left[index + 1..]).cloned().collect::<Vec<_>>();
        let tries = match &op.end {
            _ if !is_minimal => 1..1,
            Some((_, told)) => {
                let revision = revision_of(&op.ask, told).unwrap_or(key.revision + 1);
                revision..revision + 1
            }
            None => key.revision + 1..revision_max + 1,
        };
        tries.into_iter().any(|revision| {
            let mut after = key.clone();
            let told = carry_out(&mut after, &op.ask, revision);
            let has_effect = revision_of(&op.ask, &told).is_some();
            match &op.end {
                Some((_, expected)) if !is_told(expected, &told) => return false,
                None if !has_effect => return false,
                _ => {}
            }
            (!has_effect || revision > key.revision) && is_linearizable(&rest(), &after, revision_max)
        })
    })
}

fn brute(operations: &[Op]) -> bool {
    let told = operations.iter().filter_map(|op| Some(version_of(&op.end.as_ref()?.1)));
    let expected = operations.iter().map(|op| if let Ask::Cas(expected, _) = op.ask { expected } else { 0 });
    let told = told.chain(expected);
    let unknown = operations.iter().filter(|op| op.end.is_none()).count() as u64;
    is_linearizable(operations, &Key::default(), told.max().unwrap_or(0) + unknown)
}

fn ask() -> impl Strategy<Value = Ask> {
    let value = || prop_oneof![Just("a"), Just("b"), Just("1"), Just("2")].prop_map(str::to_owned);
    prop_oneof![
        3 => value().prop_map(Ask::Put),
        2 => Just(Ask::Delete),
        2 => (0..6u64, value()).prop_map(|(expected, value)| Ask::Cas(expected, value)),
        3 => prop_oneof![Just(-1), Just(1), Just(2)].prop_map(Ask::Add),
        3 => Just(Ask::Get),
        2 => Just(Ask::Exists),
    ]
}

/// Any answer that has the right form.
fn told(ask: &Ask) -> BoxedStrategy<Told> {
    let version = || 1..7u64;
    let value = || prop_oneof![Just("a"), Just("b"), Just("1"), Just("2"), Just("3")].prop_map(str::to_owned);
    match ask {
        Ask::Put(_) => version().prop_map(Told::Ok).boxed(),
        Ask::Delete => prop_oneof![2 => version().prop_map(Told::Ok), 1 => Just(Told::None)].boxed(),
        Ask::Cas(..) => prop_oneof![2 => version().prop_map(Told::Ok), 1 => (0..7u64).prop_map(Told::Mismatch)].boxed(),
        Ask::Add(_) => prop_oneof![
            3 => (0..4i64, version()).prop_map(|(sum, version)| Told::Sum(sum, version)),
            1 => (0..7u64).prop_map(Told::NotANumber)
        ]
        .boxed(),
        Ask::Get => prop_oneof![
            2 => (value(), version()).prop_map(|(value, version)| Told::Found(value, version)),
            1 => Just(Told::None)
        ]
        .boxed(),
        _ => prop_oneof![2 => (0..7u64).prop_map(Told::Exists), 1 => Just(Told::None)].boxed(),
    }
}

/// What a right store would have answered, at random moments, with some answers lost and some operations never done.
fn truthful(asks: &[(Ask, u64, u64, u8)]) -> Vec<Op> {
    let mut key = Key::default();
    let mut revision = 0;
    let mut operations = Vec::new();
    for (index, (ask, before, after, fate)) in asks.iter().enumerate() {
        let moment = 10 + index as u64 * 2;
        let invoke = moment.saturating_sub(*before);
        revision += 1 + u64::from(fate % 3 == 0);
        let told = if *fate == 1 { None } else { Some(carry_out(&mut key, ask, revision)) };
        let told = match told {
            Some(Told::Exists(_)) if fate % 2 == 0 => Some(Told::Exists(0)),
            Some(Told::NotANumber(_)) if fate % 2 == 0 => Some(Told::NotANumber(0)),
            told => told,
        };
        operations.push(match told {
            Some(told) if *fate > 4 => op(index as u32, invoke..moment + after, ask.clone(), told),
            _ => unknown(index as u32, invoke, ask.clone()),
        });
    }
    operations
}

/// `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(3000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tiny_history_is_judged_as_by_trying_everything(
        operations in prop::collection::vec(
            ask().prop_flat_map(|ask| (told(&ask), Just(ask), 0..14u64, 1..8u64, 0..3u8)),
            1..6,
        )
    ) {
        let operations: Vec<Op> = operations.into_iter().enumerate().map(|(client, (told, ask, from, length, fate))| {
            match fate {
                0 => unknown(client as u32, from, ask),
                _ => op(client as u32, from..from + length, ask, told),
            }
        }).collect();
        prop_assert_eq!(check(&operations).is_ok(), brute(&operations));
    }

    #[test]
    fn a_true_history_is_right_and_with_one_lie_it_is_judged_as_by_trying_everything(
        asks in prop::collection::vec((ask(), 0..9u64, 0..9u64, 0..12u8), 1..7),
        lie in any::<prop::sample::Index>(),
        kind in 0..5u8,
    ) {
        let mut operations = truthful(&asks);
        prop_assert!(check(&operations).is_ok(), "{:?}", check(&operations));
        let liar = lie.index(operations.len());
        let liar = &mut operations[liar];
        if let Some((end, told)) = &mut liar.end {
            let shift = |version: &mut u64| *version = if kind % 2 == 0 { *version + 1 } else { version.saturating_sub(1).max(1) };
            match told {
                Told::Found(value, version) if kind < 3 => if kind == 2 { *value = "b".to_owned() } else { shift(version) },
                Told::Sum(sum, version) => if kind < 3 { *sum += 1 } else { shift(version) },
                Told::Found(..) | Told::Exists(_) => *told = Told::None,
                Told::Ok(version) if kind < 4 => shift(version),
                Told::Ok(_) if liar.ask == Ask::Delete => *told = Told::None,
                _ => { liar.invoke += 4; *end += 5; }
            }
        }
        prop_assert_eq!(check(&operations).is_ok(), brute(&operations), "{:?}", check(&operations));
    }
}
