//! What may happen to a cluster in a story, how likely, and which settings it has.

use lockstep_replica::{AckPolicy, Config, FanOut};
use proptest::prelude::*;

use crate::world::config;

/// Something that happens. Numbers pick one of what there is, modulo how many there are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
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
    /// A message arrives; one that is not the oldest of its link if `skip` is not 0; and stays to arrive again if
    /// repeated.
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
    /// A server makes a checkpoint and drops what all servers hold from its journal; or, if it is greedy, all that the
    /// checkpoint holds.
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
    /// The primary gives some batches to one backup only, and ends before its own disk has them. When it starts again,
    /// it finds only the others.
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
pub(super) enum Damage {
    /// Its disk; `recover` is run.
    Disk,
    /// Its checkpoint.
    Checkpoint,
    /// An op of its journal, so many before the end.
    Op { back: u8 },
}

/// How many of eight of each kind of event do happen. Apart from the events, so that a story that fails can be
/// shortened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
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

pub(super) fn weather() -> impl Strategy<Value = Weather> {
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
pub(super) fn event() -> impl Strategy<Value = (u8, Event)> {
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
    pub(super) fn allows(self, gate: u8, event: Event) -> bool {
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

pub(super) fn settings() -> impl Strategy<Value = Config> {
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
