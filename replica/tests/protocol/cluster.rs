//! Stories that chance writes: requests, reads, crashes, cut connections, messages lost, repeated and out of order, disks that
//! finish in any order. What must hold is in [`crate::world`]; here is only what may happen, and that all ends well once
//! it stops.

use bytes::Bytes;
use lockstep_replica::{AckPolicy, Config, FanOut, Role};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};

use crate::world::{World, config, message::checksum_of};

/// Something that happens. Numbers pick one of what there is, modulo how many there are.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// Requests arrive at the primary, if there is one.
    Offer {
        count: u8,
    },
    /// A read arrives at the primary.
    Read,
    /// A server ends its turn.
    Turn {
        server: u8,
    },
    /// A message arrives; one that is not the oldest of its link if `skip` is not 0; and stays to arrive again if repeated.
    Deliver {
        link: u8,
        skip: u8,
        is_repeated: bool,
    },
    /// A message is lost.
    Lose {
        link: u8,
    },
    /// The disk of the primary, or of another server, does a piece of work.
    Disk {
        is_first: bool,
        server: u8,
        work: u8,
    },
    /// Time passes.
    Wait {
        ms: u8,
    },
    /// A server ends without warning. Of what its disk was doing, the pieces in `landed` are done all the same.
    Crash {
        server: u8,
        landed: u8,
    },
    /// A server that is down starts.
    Start {
        server: u8,
    },
    Disconnect {
        left: u8,
        right: u8,
    },
    Connect {
        left: u8,
        right: u8,
    },
    /// A server makes a checkpoint and drops what all servers hold from its journal; or, if it is greedy, all that the checkpoint
    /// holds.
    Checkpoint {
        server: u8,
        is_greedy: bool,
    },
    /// Messages from one server to another are lost from now on, and nobody notices; or are lost no longer.
    Mute {
        from: u8,
        to: u8,
    },
    Unmute,
    /// A server stands still, or goes on. So does a disk.
    Pause {
        server: u8,
    },
    Stall {
        server: u8,
    },
    GoOn,
    /// The primary is asked to hand over.
    HandOver {
        to: Option<u8>,
    },
    /// A server ends and loses all or a part of what it had; only while all others are whole.
    Damage {
        server: u8,
        damage: Damage,
    },
    /// A committed op becomes unreadable in the journal of a running server, if another holds it.
    RotLive {
        server: u8,
        back: u8,
    },
    /// The primary is cut off from all others but one.
    Retreat {
        friend: u8,
    },
    /// The primary gives some batches to one backup only, and ends before its own disk has them. When it starts again, it finds
    /// only the others.
    Strand {
        friend: u8,
        batches: u8,
    },
    /// For a moment all goes well; but the disk of the primary may do nothing meanwhile.
    Settle {
        is_first_stalled: bool,
    },
}

/// What a server may lose.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// Its disk; `recover` is run.
    Disk,
    /// Its checkpoint.
    Checkpoint,
    /// An op of its journal, so many before the end.
    Op { back: u8 },
}

/// How many of eight of each kind of event do happen. Apart from the events, so that a story that fails can be shortened.
#[derive(Clone, Copy, Debug)]
struct Weather {
    /// Messages lost, repeated and out of order, connections cut.
    network: u8,
    /// Servers that end and start.
    process: u8,
    /// Moments in which all goes well.
    calm: u8,
    /// What the disk of the primary does. It is in a hurry: when it ends with little on its own disk, what others hold
    /// matters.
    first_disk: u8,
    /// Disks that lose something.
    damage: u8,
}

fn weather() -> impl Strategy<Value = Weather> {
    prop_oneof![
        Just(Weather { network: 0, process: 0, calm: 0, first_disk: 8, damage: 0 }),
        Just(Weather { network: 8, process: 0, calm: 2, first_disk: 8, damage: 0 }),
        Just(Weather { network: 0, process: 4, calm: 4, first_disk: 8, damage: 4 }),
        Just(Weather { network: 4, process: 2, calm: 2, first_disk: 8, damage: 0 }),
        Just(Weather { network: 2, process: 8, calm: 8, first_disk: 8, damage: 8 }),
        Just(Weather { network: 1, process: 1, calm: 1, first_disk: 4, damage: 0 }),
        Just(Weather { network: 4, process: 4, calm: 1, first_disk: 2, damage: 4 }),
        Just(Weather { network: 8, process: 4, calm: 2, first_disk: 1, damage: 0 }),
        Just(Weather { network: 1, process: 2, calm: 8, first_disk: 8, damage: 8 }),
    ]
}

/// An event, and whether it happens: if the number is below what the weather says of its kind.
fn event() -> impl Strategy<Value = (u8, Event)> {
    let server = any::<u8>();
    let damage =
        prop_oneof![Just(Damage::Disk), Just(Damage::Checkpoint), (0u8..6).prop_map(|back| Damage::Op { back })];
    let landed = prop_oneof![Just(0), any::<u8>()];
    let event = prop_oneof![
        12 => (1u8..4).prop_map(|count| Event::Offer { count }),
        4 => Just(Event::Read),
        30 => any::<u8>().prop_map(|server| Event::Turn { server }),
        50 => any::<u8>().prop_map(|link| Event::Deliver { link, skip: 0, is_repeated: false }),
        10 => (any::<u8>(), 0u8..4, any::<bool>())
            .prop_map(|(link, skip, is_repeated)| Event::Deliver { link, skip, is_repeated }),
        10 => any::<u8>().prop_map(|work| Event::Disk { is_first: true, server: 0, work }),
        20 => (any::<u8>(), any::<u8>()).prop_map(|(server, work)| Event::Disk { is_first: false, server, work }),
        8 => (1u8..120).prop_map(|ms| Event::Wait { ms }),
        3 => (any::<u8>(), any::<bool>()).prop_map(|(server, is_greedy)| Event::Checkpoint { server, is_greedy }),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(from, to)| Event::Mute { from, to }),
        2 => Just(Event::Unmute),
        1 => any::<u8>().prop_map(|server| Event::Pause { server }),
        1 => any::<u8>().prop_map(|server| Event::Stall { server }),
        3 => Just(Event::GoOn),
        1 => prop::option::of(0u8..5).prop_map(|to| Event::HandOver { to }),
        2 => (any::<u8>(), damage).prop_map(|(server, damage)| Event::Damage { server, damage }),
        1 => (any::<u8>(), 0u8..8).prop_map(|(server, back)| Event::RotLive { server, back }),
        6 => any::<u8>().prop_map(|link| Event::Lose { link }),
        3 => (any::<u8>(), any::<u8>()).prop_map(|(left, right)| Event::Disconnect { left, right }),
        6 => (any::<u8>(), any::<u8>()).prop_map(|(left, right)| Event::Connect { left, right }),
        4 => (server, landed).prop_map(|(server, landed)| Event::Crash { server, landed }),
        5 => any::<u8>().prop_map(|server| Event::Start { server }),
        4 => any::<u8>().prop_map(|friend| Event::Retreat { friend }),
        1 => (any::<u8>(), 1u8..4).prop_map(|(friend, batches)| Event::Strand { friend, batches }),
        6 => any::<bool>().prop_map(|is_first_stalled| Event::Settle { is_first_stalled }),
    ];
    (0u8..8, event)
}

impl Weather {
    fn allows(self, gate: u8, event: Event) -> bool {
        match event {
            Event::Deliver { skip, is_repeated, .. } if skip > 0 || is_repeated => gate < self.network,
            Event::Lose { .. } | Event::Disconnect { .. } | Event::Retreat { .. } | Event::Mute { .. } => {
                gate < self.network
            }
            Event::Crash { .. } | Event::Strand { .. } | Event::Pause { .. } | Event::Stall { .. } => {
                gate < self.process
            }
            Event::HandOver { .. } => gate < self.calm,
            Event::Damage { .. } | Event::RotLive { .. } => gate < self.damage,
            Event::Settle { .. } => gate < self.calm,
            Event::Disk { is_first: true, .. } => gate < self.first_disk,
            _ => true,
        }
    }
}

fn settings() -> impl Strategy<Value = Config> {
    let ack = prop_oneof![Just(AckPolicy::Majority), Just(AckPolicy::All), Just(AckPolicy::Strict)];
    let fanout = prop_oneof![2 => Just(FanOut::Parallel), 1 => Just(FanOut::Sequential)];
    let linger_ns = prop_oneof![3 => Just(0u64), 1 => Just(2_000_000)];
    let log_memory = prop_oneof![Just(0usize), Just(1 << 20)];
    (1u8..=5, ack, fanout, 1u32..5, 1u32..6, linger_ns, log_memory).prop_map(
        |(servers, ack, fanout, pipeline_max, batch_ops_max, batch_linger_ns, log_memory_bytes_max)| Config {
            ack,
            fanout,
            pipeline_max,
            batch_ops_max,
            batch_linger_ns,
            // Not drawn, so that the stories that are kept stay what they are.
            batch_gather_ops: if pipeline_max > 2 { batch_ops_max / 2 } else { 0 },
            batch_gather_ns: if pipeline_max == 3 { 1_000_000_000 } else { 300_000 },
            log_memory_bytes_max,
            ..config(servers)
        },
    )
}

/// The one of `choices` that a number picks.
fn pick<T: Copy>(choices: &[T], number: u8) -> Option<T> {
    choices.get(number as usize % choices.len().max(1)).copied()
}

fn servers_that(world: &World, is_wanted_up: bool) -> Vec<u8> {
    world.ids().filter(|&server| world.servers[server as usize].is_up() == is_wanted_up).collect()
}

fn happen(world: &mut World, event: Event) {
    let up = servers_that(world, true);
    match event {
        Event::Offer { count } => {
            for _ in 0..count {
                if let Some(primary) = world.primary() {
                    // A full pipeline refuses; what is refused is not part of the story.
                    let _ = world.offer(primary);
                }
            }
        }
        Event::Read => {
            if let Some(primary) = world.primary() {
                // A primary that is about to hand over refuses.
                let _ = world.read(primary);
            }
        }
        Event::Turn { server } => {
            if let Some(server) = pick(&up, server) {
                world.input(server, lockstep_replica::Input::TurnEnd);
            }
        }
        Event::Deliver { link, skip, is_repeated } => deliver(world, link, skip, is_repeated),
        Event::Lose { link } => {
            if let Some((from, to)) = pick(&world.busy_links(), link) {
                world.link(from, to).pop_front();
            }
        }
        Event::Disk { is_first, server, work } => {
            let primary = world.primary().unwrap_or(0);
            let disks: Vec<u8> = up.iter().copied().filter(|&server| is_first == (server == primary)).collect();
            if let Some(server) = pick(&disks, server)
                && let Some(work) = pick(&world.servers[server as usize].disk.ready(), work)
            {
                world.complete(server, work);
            }
        }
        Event::Wait { ms } => world.advance(u64::from(ms) * 1_000_000),
        Event::Crash { server, landed } => {
            if let Some(server) = pick(&up, server) {
                crash(world, server, landed);
            }
        }
        Event::Start { server } => {
            if let Some(server) = pick(&servers_that(world, false), server) {
                world.start(server);
            }
        }
        Event::Disconnect { left, right } => on_pair(world, left, right, World::disconnect),
        Event::Connect { left, right } => on_pair(world, left, right, World::connect),
        Event::Checkpoint { server, is_greedy } => {
            if let Some(server) = pick(&up, server) {
                checkpoint(world, server, is_greedy);
            }
        }
        Event::Mute { from, to } => on_pair(world, from, to, |world, from, to| {
            world.muted.insert((from, to));
        }),
        Event::Unmute => world.muted.clear(),
        Event::Pause { server } => {
            if let Some(server) = pick(&up, server) {
                world.servers[server as usize].is_paused = true;
            }
        }
        Event::Stall { server } => {
            if let Some(server) = pick(&up, server) {
                world.servers[server as usize].is_disk_stalled = true;
            }
        }
        Event::GoOn => {
            for server in &mut world.servers {
                server.is_paused = false;
                server.is_disk_stalled = false;
            }
        }
        Event::HandOver { to } => {
            if let Some(primary) = world.primary() {
                let to = to.map(|to| to % world.ids().end);
                world.input(primary, lockstep_replica::Input::Handover { to });
            }
        }
        Event::Damage { server, damage: kind } => damage(world, server, kind),
        Event::RotLive { server, back } => {
            if let Some(server) = pick(&up, server) {
                rot_live(world, server, back);
            }
        }
        Event::Retreat { friend } => retreat(world, friend, World::connect, World::disconnect),
        Event::Strand { friend, batches } => strand(world, friend, batches),
        Event::Settle { is_first_stalled } => {
            let primary = world.primary().unwrap_or(0) as usize;
            world.servers[primary].is_disk_stalled |= is_first_stalled;
            world.settle();
            world.servers[primary].is_disk_stalled = false;
        }
    }
}

fn on_pair(world: &mut World, left: u8, right: u8, act: fn(&mut World, u8, u8)) {
    let ids: Vec<u8> = world.ids().collect();
    if let (Some(left), Some(right)) = (pick(&ids, left), pick(&ids, right))
        && left != right
    {
        act(world, left, right);
    }
}

/// Does one thing to the primary and one backup, and another to it and all others.
fn retreat(world: &mut World, friend: u8, to_friend: fn(&mut World, u8, u8), to_others: fn(&mut World, u8, u8)) {
    let primary = world.primary().unwrap_or(0);
    let others: Vec<u8> = world.ids().filter(|&server| server != primary).collect();
    let friend = pick(&others, friend);
    for other in others {
        let act = if Some(other) == friend { to_friend } else { to_others };
        act(world, primary, other);
    }
}

fn strand(world: &mut World, friend: u8, batches: u8) {
    let Some(primary) = world.primary() else { return };
    if world.servers[primary as usize].is_paused {
        return;
    }
    retreat(world, friend, World::connect, World::disconnect);
    world.servers[primary as usize].is_disk_stalled = true;
    for _ in 0..batches {
        let _ = world.offer(primary);
        world.settle();
    }
    retreat(world, friend, World::disconnect, World::connect);
    crash(world, primary, 0);
    world.start(primary);
}

/// Takes something from a server's disk and starts it again, if all others are whole: more than that no cluster could bear.
fn damage(world: &mut World, server: u8, damage: Damage) {
    let ids: Vec<u8> = world.ids().collect();
    let Some(server) = pick(&ids, server) else { return };
    if !are_others_whole(world, server) {
        return;
    }
    if world.servers[server as usize].is_up() {
        world.crash(server);
    }
    let starts = world.starts();
    let disk = &mut world.servers[server as usize].disk;
    match damage {
        Damage::Disk => disk.wipe(server, 2 + starts),
        Damage::Checkpoint => disk.lose_checkpoint(),
        Damage::Op { back } => disk.rot(disk.end().saturating_sub(u64::from(back))),
    }
}

fn are_others_whole(world: &World, server: u8) -> bool {
    let mut others = world.ids().filter(|&other| other != server).peekable();
    others.peek().is_some() && others.all(|other| world.servers[other as usize].disk.is_whole())
}

/// Makes an op unreadable that is not the only copy, and that nothing but a reader will notice.
fn rot_live(world: &mut World, server: u8, back: u8) {
    let node = &world.servers[server as usize];
    let op = node.applied().min(node.disk.end()).saturating_sub(u64::from(back));
    let Some(checksum) = node.disk.journal().get(&op).map(|message| checksum_of(message)) else { return };
    let is_held = |other: u8| {
        let disk = &world.servers[other as usize].disk;
        other != server && disk.journal().contains_key(&op) && disk.holds(op, checksum)
    };
    if are_others_whole(world, server) && world.ids().all(|other| other == server || is_held(other)) {
        world.servers[server as usize].disk.rot(op);
    }
}

fn deliver(world: &mut World, link: u8, skip: u8, is_repeated: bool) {
    let Some((from, to)) = pick(&world.busy_links(), link) else { return };
    let messages = world.link(from, to);
    let at = skip as usize % messages.len();
    let message = messages[at].clone();
    if !is_repeated {
        messages.remove(at);
    }
    world.deliver(to, &message);
}

/// Of the disk's pending work, a bit each, some is done before the server is gone, but nobody is told.
fn crash(world: &mut World, server: u8, landed: u8) {
    let disk = &mut world.servers[server as usize].disk;
    for bit in 0..8 {
        if landed & (1 << bit) != 0
            && let Some(work) = pick(&disk.ready(), bit)
        {
            disk.complete(work);
        }
    }
    world.crash(server);
}

/// A checkpoint of what is applied and in the journal here.
fn checkpoint(world: &mut World, server: u8, is_greedy: bool) {
    let node = &world.servers[server as usize];
    let op = node.applied().min(node.disk.end());
    if op <= node.disk.checkpoint_op() {
        return;
    }
    let is_held_by_all = |(op, message): &(&u64, &Bytes)| {
        world.servers.iter().all(|server| server.disk.holds(**op, checksum_of(message)))
    };
    let held_by_all = node.disk.journal().range(..=op).rev().find(is_held_by_all).map_or(0, |(&op, _)| op);
    let node = &mut world.servers[server as usize];
    node.disk.set_checkpoint(op);
    let state_hash = node.disk.checkpoint().state_hash();
    let trimmed = node.disk.trim(if is_greedy { op } else { held_by_all } + 1);
    world.input(server, lockstep_replica::Input::CheckpointDurable { op, state_hash });
    world.input(server, trimmed);
}

/// Everything works again: within bounded time all servers hold, and have applied, all that was taken in.
fn end_well(world: &mut World) {
    world.muted.clear();
    connect_all(world);
    for server in servers_that(world, false) {
        world.start(server);
    }
    for server in &mut world.servers {
        server.is_paused = false;
        server.is_disk_stalled = false;
    }
    // A view that was suspected before may still end.
    assert!((0..10).any(|_| has_ended_well(world)), "one view after another\n{}", world.take_trace().join("\n"));
}

/// Whether all ends well in the present view; if another one begins meanwhile, that is not said.
fn has_ended_well(world: &mut World) -> bool {
    let is_primary_settled = |world: &World| {
        world.ids().all(|server| world.status(server).is_some_and(|status| status.role != Role::Recovering))
            && world.primary().is_some()
    };
    wait_until(world, "every server is in a view", is_primary_settled);
    let primary = world.primary().expect("it was there just now");
    let view_of = |world: &World| world.status(primary).map(|status| (status.view, status.role));
    let view = view_of(world);
    let answered = world.facts.acknowledged();
    if world.read(primary).is_err() {
        // It is about to hand over.
        world.advance(1_000_000_000);
        return false;
    }
    wait_until(world, "there is room for a request", |world| {
        world.status(primary).is_some_and(|status| status.pipeline == 0) || view_of(world) != view
    });
    if view_of(world) != view {
        return false;
    }
    let op = world.offer(primary).expect("an idle primary has room");
    wait_until(world, "the request is applied everywhere, and the read confirmed", |world| {
        world.servers.iter().all(|server| server.applied() >= op) && world.pending_reads(primary) == 0
            || view_of(world) != view
    });
    wait_until(world, "all are in sync, of one mind, and know it", |world| {
        let last: Vec<_> = world.ids().filter_map(|server| world.status(server)).collect();
        last.iter().all(|status| {
            (status.op, status.applied, status.view) == (last[0].op, last[0].op, last[0].view)
                && status.in_sync.count_ones() as usize == last.len()
        }) || view_of(world) != view
    });
    if view_of(world) != view {
        return false;
    }
    assert!(op > answered);
    true
}

fn wait_until(world: &mut World, what: &str, is_so: impl Fn(&World) -> bool) {
    for _ in 0..500 {
        if is_so(world) {
            return;
        }
        world.settle();
        world.advance(10_000_000);
    }
    let states: Vec<_> = world.ids().map(|server| world.status(server)).collect();
    panic!("never: {what}\n{states:#?}\n{}", world.take_trace().join("\n"));
}

/// Lets a story happen. Returns all that the replicas did.
fn play(settings: &Config, weather: Weather, story: Vec<(u8, Event)>) -> Vec<String> {
    let mut world = World::new(settings);
    for server in world.ids() {
        world.start(server);
    }
    connect_all(&mut world);
    let mut trace = Vec::new();
    for (gate, event) in story {
        if weather.allows(gate, event) {
            happen(&mut world, event);
            trace.extend(show(&format!("{event:?}"), world.take_trace()));
        }
    }
    end_well(&mut world);
    trace.extend(show("all ends well", world.take_trace()));
    trace
}

/// Prints what happened, when it is wanted for a story that ended badly.
fn show(event: &str, trace: Vec<String>) -> Vec<String> {
    if std::env::var_os("LOCKSTEP_TRACE").is_some() {
        eprintln!("{event}");
        trace.iter().for_each(|line| eprintln!("> {line}"));
    }
    trace
}

fn connect_all(world: &mut World) {
    for left in world.ids() {
        for right in left + 1..world.ids().end {
            world.connect(left, right);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_no_answer_is_lost_and_all_ends_well(
        settings in settings(),
        weather in weather(),
        story in prop::collection::vec(event(), 0..700),
    ) {
        play(&settings, weather, story);
    }
}

/// That nothing bad happens says little if nothing happens: the stories must get to where the protocol is difficult.
#[test]
fn the_stories_reach_the_corners_of_the_protocol() {
    const CORNERS: [&str; 19] = [
        "requests=3, answer with copies=3",
        "reads confirmed",
        "request_prepare",
        "read op=",
        "truncate above",
        "in sync: 0 1",
        "in sync: 0 2",
        "do_view_change view=5",
        "start_view view=6",
        "prepare_ok op=0 view=6 log_view=5",
        "prepare op=4 view=6",
        "is now recovering",
        "suspect view=5",
        "handover done",
        "handover given up",
        "recovery_response",
        "vouch unknown",
        "vouch op=",
        "install checkpoint",
    ];
    let mut runner = TestRunner::deterministic();
    let stories = (settings(), weather(), prop::collection::vec(event(), 300..700));
    let mut missing: Vec<&str> = CORNERS.to_vec();
    for _ in 0..200 {
        let (settings, weather, story) = stories.new_tree(&mut runner).expect("there is always a story").current();
        let trace = play(&settings, weather, story);
        missing.retain(|corner| !trace.iter().any(|line| line.contains(corner)));
    }
    assert!(missing.is_empty(), "never happened: {missing:?}");
}
