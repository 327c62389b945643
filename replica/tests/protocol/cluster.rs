//! Stories that chance writes: requests, reads, crashes, cut connections, messages lost, repeated and out of order,
//! disks that finish in any order. What must hold is in [`crate::world`]; here is only what may happen, and that all
//! ends well once it stops.

mod events;

use bytes::Bytes;
use lockstep_replica::{Config, Role};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};

use crate::world::{World, message::checksum_of};
use events::{Damage, Event, Weather, event, settings, weather};

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

/// Takes something from a server's disk and starts it again, if all others are whole: more than that no cluster could
/// bear.
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
