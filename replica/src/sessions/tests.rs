//! The table against the rules of its page, and against a model that has no tricks.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const WINDOW: u64 = SESSION_WINDOW as u64;

fn reply(version: u64) -> StoredReply {
    StoredReply { status: Status::Ok, version, value: version * 3 }
}

/// Carries out a request that is expected to be new.
fn execute(sessions: &mut Sessions, session: u64, sequence: u64, op: u64) -> StoredReply {
    assert_eq!(sessions.begin(session, sequence, op), Begin::New);
    let reply = reply(op);
    sessions.finish(session, sequence, reply);
    reply
}

fn encoded(sessions: &Sessions) -> Vec<u8> {
    let mut bytes = Vec::new();
    sessions.encode(&mut bytes);
    bytes
}

#[test]
fn a_checkpoint_gives_out_the_table_as_it_was_at_the_cut() {
    for budget in [1, 40, 300, 100_000] {
        let mut sessions = Sessions::new(8);
        for session in 1..=8 {
            sessions.register(session * 10, session);
            for sequence in 1..=session {
                execute(&mut sessions, session * 10, sequence, 8 + session);
            }
        }
        let (expected, hash) = (encoded(&sessions), sessions.content_hash());
        sessions.checkpoint_begin();
        let mut bytes = Vec::new();
        let mut op = 20;
        let done = loop {
            let progress = sessions.checkpoint_step(budget, &mut bytes);
            // Sessions change, go and come, those that were given out already as well as those that were not.
            op += 1;
            for session in [20, 80, 50] {
                sessions.begin(session, op, op);
                sessions.finish(session, op, reply(op));
            }
            sessions.register(op * 100, op);
            if let SessionsProgress::Done { hash } = progress {
                break hash;
            }
        };
        assert_eq!((done, &bytes), (hash, &expected), "pieces of {budget} bytes");
        assert_ne!(encoded(&sessions), expected);
        sessions.checkpoint_begin();
        let expected = encoded(&sessions);
        bytes.clear();
        while sessions.checkpoint_step(budget, &mut bytes) == SessionsProgress::More {}
        assert_eq!(bytes, expected, "nothing is left of the checkpoint before");
    }
}

#[test]
fn a_request_that_comes_again_gets_its_first_answer() {
    let mut sessions = Sessions::new(4);
    sessions.register(7, 1);
    let first = execute(&mut sessions, 7, 1, 2);
    let second = execute(&mut sessions, 7, 2, 3);
    assert_eq!(sessions.begin(7, 1, 4), Begin::Duplicate(first));
    assert_eq!(sessions.begin(7, 2, 5), Begin::Duplicate(second));
}

#[test]
fn a_request_twice_in_a_batch_waits_for_the_first() {
    let mut sessions = Sessions::new(4);
    sessions.register(7, 1);
    assert_eq!(sessions.begin(7, 1, 2), Begin::New);
    assert_eq!(sessions.begin(7, 1, 2), Begin::InProgress);
    sessions.finish(7, 1, reply(2));
    assert_eq!(sessions.begin(7, 1, 2), Begin::Duplicate(reply(2)));
}

#[test]
fn a_session_that_was_never_registered_is_unknown() {
    let mut sessions = Sessions::new(4);
    assert_eq!(sessions.begin(7, 1, 1), Begin::Unknown);
    sessions.register(7, 1);
    assert_eq!(sessions.begin(8, 1, 2), Begin::Unknown);
    assert_eq!(sessions.begin(6, 1, 2), Begin::Unknown);
    assert_eq!(sessions.begin(0, 1, 2), Begin::Unknown);
}

#[test]
fn requests_may_arrive_in_any_order_within_the_window() {
    let mut sessions = Sessions::new(4);
    sessions.register(1, 1);
    for sequence in (1..=WINDOW).rev() {
        execute(&mut sessions, 1, sequence, 2);
    }
    for sequence in 1..=WINDOW {
        assert_eq!(sessions.begin(1, sequence, 3), Begin::Duplicate(reply(2)));
    }
}

#[test]
fn a_sequence_below_the_window_is_stale_whether_it_was_used_or_not() {
    let mut sessions = Sessions::new(4);
    sessions.register(1, 1);
    execute(&mut sessions, 1, 2, 2);
    execute(&mut sessions, 1, WINDOW + 2, 3);
    assert_eq!(sessions.begin(1, 1, 4), Begin::Stale, "never used");
    assert_eq!(sessions.begin(1, 2, 4), Begin::Stale, "used");
    assert_eq!(sessions.begin(1, 3, 4), Begin::New, "never used, and the lowest in the window");
    assert_eq!(sessions.begin(1, 0, 4), Begin::Stale, "no sequence at all");
}

#[test]
fn sequence_zero_is_stale_from_the_start() {
    let mut sessions = Sessions::new(4);
    sessions.register(1, 1);
    assert_eq!(sessions.begin(1, 0, 2), Begin::Stale);
    sessions.finish(1, 0, reply(2));
    assert_eq!(sessions.begin(1, 0, 2), Begin::Stale);
}

#[test]
fn a_jump_of_the_sequence_leaves_everything_before_it_stale() {
    let mut sessions = Sessions::new(4);
    sessions.register(1, 1);
    execute(&mut sessions, 1, 5, 2);
    execute(&mut sessions, 1, 1 << 62, 3);
    assert_eq!(sessions.begin(1, 5, 4), Begin::Stale);
    assert_eq!(sessions.begin(1, 6, 4), Begin::Stale);
    assert_eq!(sessions.begin(1, (1 << 62) - WINDOW, 4), Begin::Stale);
    assert_eq!(sessions.begin(1, (1 << 62) - WINDOW + 1, 4), Begin::New);
}

#[test]
fn an_answer_that_comes_after_the_window_has_moved_on_is_dropped() {
    let mut sessions = Sessions::new(4);
    sessions.register(1, 1);
    assert_eq!(sessions.begin(1, 1, 2), Begin::New);
    assert_eq!(sessions.begin(1, 1 + WINDOW, 2), Begin::New);
    sessions.finish(1, 1, reply(1));
    assert_eq!(sessions.begin(1, 1 + WINDOW, 2), Begin::InProgress, "it did not get the other's answer");
    assert_eq!(sessions.begin(1, 1, 2), Begin::Stale);
}

#[test]
#[should_panic(expected = "answered twice")]
fn a_request_is_not_answered_twice() {
    let mut sessions = Sessions::new(4);
    sessions.register(1, 1);
    execute(&mut sessions, 1, 1, 2);
    sessions.finish(1, 1, reply(3));
}

#[test]
fn the_session_unused_for_longest_is_evicted() {
    let mut sessions = Sessions::new(3);
    for session in 1..=3 {
        sessions.register(session, session);
    }
    execute(&mut sessions, 1, 1, 4);
    sessions.register(10, 5);
    assert_eq!(sessions.begin(2, 1, 6), Begin::Unknown, "used by op 2, before all others");
    assert_eq!((sessions.len(), sessions.evicted_total()), (3, 1));
    sessions.register(11, 7);
    assert_eq!(sessions.begin(3, 1, 8), Begin::Unknown);
    assert_eq!(sessions.begin(1, 1, 8), Begin::Duplicate(reply(4)));
    assert_eq!((sessions.len(), sessions.evicted_total()), (3, 2));
}

#[test]
fn of_sessions_used_by_the_same_op_the_oldest_is_evicted() {
    let mut sessions = Sessions::new(2);
    sessions.register(1, 1);
    sessions.register(2, 1);
    sessions.register(3, 1);
    assert_eq!(sessions.begin(1, 1, 1), Begin::Unknown);
    assert_eq!(sessions.begin(2, 1, 1), Begin::New);
}

#[test]
fn a_refused_request_counts_as_use_too() {
    let mut sessions = Sessions::new(2);
    sessions.register(1, 1);
    sessions.register(2, 2);
    assert_eq!(sessions.begin(1, 0, 3), Begin::Stale);
    sessions.register(3, 4);
    assert_eq!(sessions.begin(2, 1, 5), Begin::Unknown);
    assert_eq!(sessions.begin(1, 1, 5), Begin::New);
}

#[test]
fn the_answer_for_an_evicted_session_is_dropped() {
    let mut sessions = Sessions::new(1);
    sessions.register(1, 1);
    assert_eq!(sessions.begin(1, 1, 2), Begin::New);
    sessions.register(2, 2);
    sessions.finish(1, 1, reply(2));
    assert_eq!(sessions.begin(1, 1, 3), Begin::Unknown);
    assert_eq!(sessions.begin(2, 1, 3), Begin::New);
}

#[test]
#[should_panic(expected = "is not a new one")]
fn a_session_number_does_not_come_back() {
    let mut sessions = Sessions::new(2);
    sessions.register(5, 1);
    sessions.register(5, 2);
}

#[test]
fn a_storm_of_registers_takes_no_more_memory_than_the_bound() {
    let mut sessions = Sessions::new(100);
    let mut used = 0;
    for session in 1..=10_000 {
        sessions.register(session, session);
        execute(&mut sessions, session, 1, session);
        if session == 1000 {
            used = sessions.memory_bytes();
        }
    }
    assert_eq!((sessions.len(), sessions.evicted_total()), (100, 9900));
    assert!(used > 0);
    assert_eq!(sessions.memory_bytes(), used);
}

#[test]
fn memory_follows_what_sessions_use() {
    let mut sessions = Sessions::new(2);
    sessions.register(1, 1);
    let idle = sessions.memory_bytes();
    execute(&mut sessions, 1, 1, 2);
    let little = sessions.memory_bytes();
    for sequence in 2..=4 * WINDOW {
        execute(&mut sessions, 1, sequence, 2);
    }
    let busy = sessions.memory_bytes();
    assert_eq!(little - idle, 8 * 32);
    assert_eq!(busy - idle, WINDOW * 32);
    sessions.register(2, 3);
    sessions.register(3, 4);
    assert!(sessions.memory_bytes() < busy, "what an evicted session held is given back");
}

#[test]
fn a_table_read_back_goes_on_as_the_one_that_was_written() {
    let mut sessions = Sessions::new(2);
    sessions.register(3, 1);
    sessions.register(9, 2);
    for sequence in 1..=300 {
        execute(&mut sessions, 3, sequence, 3);
    }
    let mut back = Sessions::decode(&encoded(&sessions), 2).unwrap();
    assert_eq!(back.content_hash(), sessions.content_hash());
    assert_eq!(back.check_within(3, 10), Ok(()));
    assert_eq!(back.begin(3, 300, 4), Begin::Duplicate(reply(3)));
    assert_eq!(back.begin(3, 44, 4), Begin::Stale);
    back.register(10, 5);
    assert_eq!(back.begin(9, 1, 6), Begin::Unknown);
}

#[test]
#[should_panic(expected = "between batches")]
fn a_table_is_not_written_in_the_middle_of_a_batch() {
    let mut sessions = Sessions::new(2);
    sessions.register(3, 1);
    sessions.begin(3, 1, 2);
    encoded(&sessions);
}

#[test]
fn a_request_in_progress_is_part_of_the_hash() {
    let mut sessions = Sessions::new(2);
    sessions.register(3, 1);
    let before = sessions.content_hash();
    sessions.begin(3, 1, 1);
    let during = sessions.content_hash();
    sessions.finish(3, 1, StoredReply { status: Status::Ok, version: 0, value: 0 });
    let after = sessions.content_hash();
    assert!(before != during && during != after && before != after);
}

#[test]
fn a_table_kept_under_another_bound_is_refused_with_the_remedy() {
    let bytes = encoded(&Sessions::new(100));
    let error = Sessions::decode(&bytes, 200).err().unwrap();
    assert_eq!(error, SessionsError::Bound { theirs: 100, ours: 200 });
    assert!(error.to_string().ends_with("set it back to 100"), "{error}");
}

#[test]
fn a_table_from_beyond_its_log_position_is_refused() {
    let mut sessions = Sessions::new(4);
    sessions.register(3, 1);
    execute(&mut sessions, 3, 1, 8);
    assert_eq!(sessions.check_within(8, 4), Ok(()));
    assert_eq!(sessions.check_within(8, 3), Err(SessionsError::Newer { session: 3 }));
    assert_eq!(sessions.check_within(7, 4), Err(SessionsError::Newer { session: 3 }));
}

/// A small table, and where things are in its bytes: session 5, op 2, highest 2, two requests.
fn small_table() -> Vec<u8> {
    let mut sessions = Sessions::new(4);
    sessions.register(5, 1);
    execute(&mut sessions, 5, 1, 2);
    execute(&mut sessions, 5, 2, 2);
    encoded(&sessions)
}

#[test]
fn damage_is_refused_by_what_it_is() {
    let bytes = small_table();
    assert_eq!(bytes.len(), 28 + 26 + 2 * 18);
    let refuse = |at: usize, to: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + to.len()].copy_from_slice(to);
        Sessions::decode(&bytes, 4).err().unwrap_or_else(|| panic!("{to:?} at {at} was accepted"))
    };
    assert_eq!(refuse(0, &[9]), SessionsError::Format(9));
    assert_eq!(refuse(12, &[1]), SessionsError::Count(1), "an eviction from a table that is not full");
    assert_eq!(refuse(20, &[5]), SessionsError::Count(5), "more sessions than the bound");
    assert_eq!(refuse(20, &[2]), SessionsError::Truncated, "fewer sessions than announced");
    assert_eq!(refuse(20, &[0]), SessionsError::Trailing(26 + 2 * 18));
    assert_eq!(refuse(28, &[0]), SessionsError::Session(0), "no session has this number");
    assert_eq!(refuse(28 + 24, &[1, 1]), SessionsError::Count(257), "more requests than the window");
    assert_eq!(refuse(28 + 24, &[0, 0]), SessionsError::Session(5), "a highest sequence without its request");
    assert_eq!(refuse(28 + 16, &[1]), SessionsError::Session(5), "a request before the first");
    assert_eq!(refuse(28 + 26, &[1]), SessionsError::Session(5), "the first is not the highest");
    assert_eq!(refuse(28 + 26 + 18, &[0]), SessionsError::Session(5), "the same request twice");
    assert_eq!(refuse(28 + 26 + 1, &[200]), SessionsError::Session(5), "no such status");
    for end in 0..bytes.len() {
        assert_eq!(Sessions::decode(&bytes[..end], 4).err(), Some(SessionsError::Truncated), "cut at {end}");
    }
}

/// The table as one would write it without a thought for speed.
#[derive(Clone, Default)]
struct Model {
    sessions: BTreeMap<u64, ModelSession>,
    evicted_total: u64,
}

#[derive(Clone, Default)]
struct ModelSession {
    last_op: u64,
    highest: u64,
    requests: BTreeMap<u64, Option<StoredReply>>,
}

impl Model {
    fn register(&mut self, sessions_max: usize, session: u64, op: u64) {
        if self.sessions.len() == sessions_max {
            let (_, oldest) = self.sessions.iter().map(|(&number, s)| (s.last_op, number)).min().unwrap();
            self.sessions.remove(&oldest);
            self.evicted_total += 1;
        }
        self.sessions.insert(session, ModelSession { last_op: op, ..Default::default() });
    }

    fn begin(&mut self, session: u64, sequence: u64, op: u64) -> Begin {
        let Some(session) = self.sessions.get_mut(&session) else {
            return Begin::Unknown;
        };
        session.last_op = op;
        if sequence + WINDOW <= session.highest {
            return Begin::Stale;
        }
        if let Some(reply) = session.requests.get(&sequence) {
            return reply.map_or(Begin::InProgress, Begin::Duplicate);
        }
        session.highest = session.highest.max(sequence);
        session.requests.insert(sequence, None);
        let highest = session.highest;
        session.requests.retain(|&sequence, _| sequence + WINDOW > highest);
        Begin::New
    }

    fn finish(&mut self, session: u64, sequence: u64, reply: StoredReply) {
        if let Some(slot) = self.sessions.get_mut(&session).and_then(|s| s.requests.get_mut(&sequence)) {
            *slot = Some(reply);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Register {
        gap: u64,
    },
    /// A session picked from all that ever were, and a sequence around its highest.
    Request {
        session: prop::sample::Index,
        ahead: i64,
        is_repeated: bool,
    },
    NextOp,
    WriteAndReadBack,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ahead = prop_oneof![8 => -3i64..8, 2 => -270i64..270, 1 => -2000i64..2000];
    prop::collection::vec(
        prop_oneof![
            2 => (1u64..4).prop_map(|gap| Step::Register { gap }),
            30 => (any::<prop::sample::Index>(), ahead, any::<bool>())
                .prop_map(|(session, ahead, is_repeated)| Step::Request { session, ahead, is_repeated }),
            6 => Just(Step::NextOp),
            1 => Just(Step::WriteAndReadBack),
        ],
        1..400,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_table_does_what_the_model_does(sessions_max in 1usize..8, steps in steps()) {
        let mut sessions = Sessions::new(sessions_max);
        let mut model = Model::default();
        let (mut op, mut newest, mut version) = (1, 0, 0);
        let mut ever = vec![1];
        for step in steps {
            match step {
                Step::Register { gap } => {
                    newest += gap;
                    ever.push(newest);
                    sessions.register(newest, op);
                    model.register(sessions_max, newest, op);
                }
                Step::Request { session, ahead, is_repeated } => {
                    let session = ever[session.index(ever.len())];
                    let highest = model.sessions.get(&session).map_or(0, |s| s.highest);
                    let sequence = highest.saturating_add_signed(ahead).max(1);
                    let begin = sessions.begin(session, sequence, op);
                    prop_assert_eq!(begin, model.begin(session, sequence, op));
                    if begin == Begin::New {
                        if is_repeated {
                            prop_assert_eq!(sessions.begin(session, sequence, op), Begin::InProgress);
                        }
                        version += 1;
                        sessions.finish(session, sequence, reply(version));
                        model.finish(session, sequence, reply(version));
                    }
                }
                Step::NextOp => op += 1,
                Step::WriteAndReadBack => {
                    let bytes = encoded(&sessions);
                    let back = Sessions::decode(&bytes, sessions_max).unwrap();
                    prop_assert_eq!(encoded(&back), bytes);
                    prop_assert_eq!(back.content_hash(), sessions.content_hash());
                    prop_assert_eq!(back.check_within(op, newest + 1), Ok(()));
                    sessions = back;
                }
            }
            prop_assert_eq!(sessions.len(), model.sessions.len());
            prop_assert_eq!(sessions.is_empty(), model.sessions.is_empty());
            prop_assert_eq!(sessions.evicted_total(), model.evicted_total);
        }
        // Every answer that the model remembers, and no other.
        for (&session, expected) in &model.sessions {
            for (&sequence, reply) in &expected.requests {
                prop_assert_eq!(sessions.begin(session, sequence, op), Begin::Duplicate(reply.unwrap()));
            }
        }
    }

    /// The one promise of the table, said without a model: no request is new twice.
    #[test]
    fn no_request_is_new_twice(
        sessions_max in 1usize..4,
        requests in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>(), 1u64..600), 1..600),
    ) {
        let mut sessions = Sessions::new(sessions_max);
        sessions.register(1, 1);
        let mut newest = 1;
        let mut carried_out = std::collections::BTreeSet::new();
        for (op, (is_register, session, sequence)) in (2..).zip(requests) {
            if is_register && session.index(8) == 0 {
                newest += 1;
                sessions.register(newest, op);
            }
            let session = 1 + session.index(newest as usize) as u64;
            if sessions.begin(session, sequence, op) == Begin::New {
                prop_assert!(carried_out.insert((session, sequence)), "{session} {sequence} twice");
                sessions.finish(session, sequence, reply(op));
            }
        }
    }

    #[test]
    fn tables_with_the_same_content_hash_alike_whatever_they_went_through(
        sequences in prop::collection::btree_set(1u64..256, 1..40),
    ) {
        // One sees the sequences upwards, in a ring that grows; the other downwards.
        let table = |sequences: &mut dyn Iterator<Item = &u64>| {
            let mut sessions = Sessions::new(2);
            sessions.register(1, 1);
            for &sequence in sequences {
                sessions.begin(1, sequence, 2);
                sessions.finish(1, sequence, reply(sequence));
            }
            (sessions.content_hash(), encoded(&sessions))
        };
        prop_assert_eq!(table(&mut sequences.iter()), table(&mut sequences.iter().rev()));
    }

    #[test]
    fn noise_is_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Sessions::decode(&bytes, 4).is_err());
    }

    /// What is accepted is canonical: it is written back as it was read.
    #[test]
    fn a_flipped_bit_is_refused_or_is_another_table(bit in any::<prop::sample::Index>()) {
        let mut bytes = small_table();
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(sessions) = Sessions::decode(&bytes, 4) {
            prop_assert_eq!(encoded(&sessions), bytes);
            prop_assert_ne!(sessions.content_hash(), Sessions::decode(&small_table(), 4).unwrap().content_hash());
        }
    }
}
