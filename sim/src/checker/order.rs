//! What versions say about time, across all keys of a shard: they are positions in one log.

use std::collections::HashMap;

use super::history::{History, NEVER, Operation, Told};

/// Two operations of one shard whose versions contradict the order in which they happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contradiction {
    /// Both were told that they are at the same position.
    SameRevision(u32, u32),
    /// The second began after the first was answered, and yet its position is not higher.
    Backwards(u32, u32),
    /// The first was told of a version before its write, the second, was asked for.
    FromTheFuture(u32, u32),
}

/// The highest version that an answer tells of.
fn told_of(operation: &Operation) -> u64 {
    operation.revision().unwrap_or(0).max(operation.version_seen())
}

/// For each operation the highest version that had been told of in its shard before it was asked for.
///
/// # Errors
///
/// The first contradiction between versions and time.
pub(super) fn version_floors(history: &History, shard_of_key: &[u16]) -> Result<Vec<u64>, Contradiction> {
    let operations = &history.operations;
    let shard_of = |place: u32| shard_of_key[operations[place as usize].key as usize];
    let mut by_call: Vec<u32> = (0..operations.len() as u32).collect();
    let mut by_return: Vec<u32> = by_call.clone();
    by_call.sort_by_key(|&place| operations[place as usize].invoke_ns);
    by_return.retain(|&place| operations[place as usize].return_ns != NEVER);
    by_return.sort_by_key(|&place| operations[place as usize].return_ns);

    let mut writers: HashMap<(u16, u64), u32> = HashMap::new();
    for &place in &by_call {
        if let Some(revision) = operations[place as usize].revision()
            && let Some(other) = writers.insert((shard_of(place), revision), place)
        {
            return Err(Contradiction::SameRevision(other, place));
        }
    }
    for &place in &by_call {
        let operation = &operations[place as usize];
        let writer = writers.get(&(shard_of(place), operation.version_seen()));
        if let Some(&writer) = writer
            && operation.return_ns < operations[writer as usize].invoke_ns
        {
            return Err(Contradiction::FromTheFuture(place, writer));
        }
    }

    let shards = shard_of_key.iter().max().map_or(0, |&last| usize::from(last) + 1);
    let mut highest: Vec<(u64, u32)> = vec![(0, u32::MAX); shards];
    let mut floors = vec![0; operations.len()];
    let mut returned = by_return.into_iter().peekable();
    for place in by_call {
        let operation = &operations[place as usize];
        while let Some(earlier) = returned.next_if(|&p| operations[p as usize].return_ns < operation.invoke_ns) {
            let told = told_of(&operations[earlier as usize]);
            let highest = &mut highest[usize::from(shard_of(earlier))];
            if told > highest.0 && operations[earlier as usize].told != Told::Refused {
                *highest = (told, earlier);
            }
        }
        let (floor, earlier) = highest[usize::from(shard_of(place))];
        floors[place as usize] = floor;
        if operation.revision().is_some_and(|revision| revision <= floor) {
            return Err(Contradiction::Backwards(earlier, place));
        }
    }
    Ok(floors)
}
