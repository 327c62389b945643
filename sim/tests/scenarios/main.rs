//! Single situations, each a test with a sentence for a name. Every check of the simulator holds in all of them.

mod stories;

use lockstep_replica::{AckPolicy, Role, sessions::Sessions};
use lockstep_sim::{
    checker::{Answer, Call},
    network::Arriving,
    redis::{RedisCommand, RedisPlan},
    scenario::{Checkpoint, Cluster, Prepare, SuperblockCopy},
};

#[test]
fn a_cluster_answers_and_all_replicas_have_the_same() {
    let mut cluster = Cluster::new(3);
    cluster.expect_answers(20);
    cluster.expect_converged();
}

#[test]
#[should_panic(expected = "Linearizable: not linearizable: key \"never written\"")]
fn what_clients_were_told_is_judged_when_a_scenario_is_over() {
    let mut cluster = Cluster::new(3);
    cluster.expect_answers(3);
    let (history, now_ns) = (&mut cluster.world.history, cluster.world.shared.now_ns);
    let read = history.invoke(9, now_ns, b"never written", Call::Get);
    history.complete(read, now_ns + 1, Answer::Found { value: b"a", version: 1 });
}

#[test]
#[should_panic(expected = "StateHash")]
fn what_servers_have_is_judged_when_a_scenario_is_over() {
    let mut cluster = Cluster::new(3);
    cluster.expect_answers(3);
    cluster.expect_converged();
    let process = cluster.world.servers[1].process.as_deref_mut().expect("it is up");
    process.machine.sessions = Sessions::new(1);
}

#[test]
#[should_panic(expected = "never: all servers that are up are one")]
fn servers_that_are_all_down_are_not_one() {
    let mut cluster = Cluster::new(3);
    for server in 0..3 {
        cluster.replica(server).stop();
    }
    cluster.expect_converged();
}

#[test]
fn clients_of_the_front_door_are_answered_whoever_the_primary_is_and_not_without_a_quorum() {
    const REQUESTS: u32 = 10;
    let mut cluster = Cluster::with(3, |plan| {
        let weights = [1; RedisCommand::ALL.len()];
        plan.workload.redis = RedisPlan { clients: 2, groups: vec![2], weights, window: 2, ..RedisPlan::none() };
    });
    cluster.expect_answers(REQUESTS);
    let before = cluster.primary();
    cluster.ask(REQUESTS);
    cluster.pass_ms(3);
    cluster.replica(before).stop();
    cluster.expect_answers(REQUESTS);
    let (asked, unknown) = (cluster.world.shared.groups.len() as u32, cluster.world.outcome().unknown as u32);
    assert!(asked - unknown >= 2 * 3 * REQUESTS, "{asked} asked, of which {unknown} have no answer");
    let last = cluster.primary();
    cluster.replica(last).stop();
    cluster.ask(1);
    cluster.pass_ms(3000);
    assert!(cluster.world.redis.iter().all(|client| !client.is_done()));
    cluster.replica(last).start();
    cluster.replica(before).start();
    cluster.expect_answers(1);
    cluster.expect_converged();
}

#[test]
fn when_the_primary_ends_another_takes_over_and_clients_are_answered() {
    let mut cluster = Cluster::new(3);
    cluster.expect_answers(10);
    let before = cluster.primary();
    cluster.replica(before).stop();
    cluster.expect_answers(10);
    assert_ne!(cluster.primary(), before);
    cluster.replica(before).start();
    cluster.expect_converged();
    cluster.replica(before).expect_status(Role::Backup);
}

#[test]
fn five_servers_bear_the_loss_of_two() {
    let mut cluster = Cluster::new(5);
    cluster.expect_answers(5);
    for _ in 0..2 {
        let primary = cluster.primary();
        cluster.replica(primary).stop();
        cluster.expect_answers(5);
    }
    cluster.expect_converged();
}

#[test]
fn without_a_quorum_nobody_is_answered_until_it_is_back() {
    let mut cluster = Cluster::new(3);
    cluster.expect_answers(5);
    cluster.replica(1).stop();
    cluster.replica(2).stop();
    cluster.ask(3);
    cluster.pass_ms(3000);
    assert!(!cluster.world.clients.iter().all(|client| client.is_done()));
    cluster.replica(1).start();
    cluster.expect_answers(1);
    cluster.expect_converged();
}

/// Cuts a backup off in some way, and sees that neither then nor later anybody leaves the view.
fn expect_undisturbed(cut: impl FnOnce(&mut Cluster, u8)) {
    let mut cluster = Cluster::new(3);
    cluster.expect_answers(5);
    let primary = cluster.primary();
    let view = cluster.replica(primary).status().view;
    cut(&mut cluster, (primary + 1) % 3);
    cluster.pass_ms(3000);
    cluster.expect_answers(5);
    cluster.replica(primary).expect_status(Role::Primary);
    cluster.join();
    cluster.expect_answers(5);
    cluster.expect_converged();
    assert_eq!(cluster.replica(primary).status().view, view);
    cluster.replica(primary).expect_status(Role::Primary);
}

#[test]
fn a_server_that_was_cut_off_alone_disturbs_nobody() {
    expect_undisturbed(|cluster, server| {
        cluster.cut_off(&[server]);
    });
}

#[test]
fn a_server_that_hears_nobody_disturbs_nobody() {
    expect_undisturbed(|cluster, server| {
        (0..3).filter(|&other| other != server).for_each(|other| cluster.cut(other, server))
    });
}

#[test]
fn a_server_that_nobody_hears_disturbs_nobody() {
    expect_undisturbed(|cluster, server| {
        (0..3).filter(|&other| other != server).for_each(|other| cluster.cut(server, other))
    });
}

#[test]
fn a_backup_that_does_not_hear_only_the_primary_disturbs_nobody() {
    expect_undisturbed(|cluster, server| {
        let primary = cluster.primary();
        cluster.cut(primary, server);
    });
}

#[test]
fn a_primary_that_nobody_hears_gives_way() {
    let mut cluster = Cluster::new(3);
    cluster.expect_answers(5);
    let old = cluster.primary();
    (0..3).filter(|&other| other != old).for_each(|other| cluster.cut(old, other));
    cluster.wait_for("another primary", |world| world.primary().is_some_and(|primary| primary != old));
    cluster.expect_answers(5);
    cluster.join();
    cluster.expect_converged();
}

#[test]
fn an_old_primary_that_wakes_up_answers_nothing_stale() {
    let mut cluster = Cluster::new(3);
    cluster.expect_answers(5);
    let old = cluster.primary();
    cluster.replica(old).pause();
    cluster.wait_for("another primary", |world| world.primary().is_some_and(|primary| primary != old));
    cluster.expect_answers(10);
    cluster.replica(old).resume();
    cluster.expect_answers(10);
    cluster.expect_converged();
    cluster.replica(old).expect_status(Role::Backup);
}

#[test]
fn a_primary_whose_disk_hangs_gives_way() {
    let mut cluster = Cluster::new(3);
    cluster.expect_answers(5);
    let old = cluster.primary();
    cluster.replica(old).stall_disk_ms(5000);
    cluster.ask(20);
    cluster.wait_for("another primary", |world| world.primary().is_some_and(|primary| primary != old));
    cluster.expect_answers(1);
}

#[test]
fn a_handover_goes_to_the_server_that_was_named() {
    let mut cluster = Cluster::new(3);
    cluster.expect_answers(5);
    cluster.expect_converged();
    let old = cluster.primary();
    let to = (old + 2) % 3;
    cluster.replica(old).hand_over(Some(to));
    cluster.wait_for("the named server is the primary", |world| world.primary() == Some(to));
    cluster.expect_answers(5);
    cluster.expect_converged();
}

#[test]
fn a_wiped_server_gets_everything_back() {
    let mut cluster = Cluster::new(3);
    cluster.expect_answers(60);
    let backup = (cluster.primary() + 1) % 3;
    cluster.replica(backup).wipe();
    cluster.expect_answers(10);
    cluster.replica(backup).start();
    cluster.expect_answers(5);
    cluster.expect_converged();
    assert_eq!(cluster.replica(backup).vouch_op(), 0);
}

#[test]
fn a_rotten_prepare_is_fetched_from_the_others() {
    let mut cluster = Cluster::new(3);
    cluster.expect_answers(20);
    cluster.expect_converged();
    let backup = (cluster.primary() + 1) % 3;
    cluster.replica(backup).corrupt(Prepare(2));
    cluster.replica(backup).stop();
    cluster.replica(backup).start();
    cluster.expect_converged();
    assert_eq!(cluster.replica(backup).vouch_op(), 0);
    cluster.expect_answers(5);
}

#[test]
fn a_torn_tail_is_fetched_from_the_others() {
    let mut cluster = Cluster::new(3);
    cluster.expect_writes(5);
    cluster.expect_converged();
    let backup = (cluster.primary() + 1) % 3;
    let next = cluster.replica(backup).status().op + 1;
    cluster.replica(backup).hold_write(next);
    cluster.expect_writes(3);
    cluster.replica(backup).stop_with_torn_writes();
    cluster.replica(backup).hold_nothing();
    cluster.replica(backup).start();
    assert_eq!(cluster.replica(backup).status().op, next - 1, "what came behind the torn prepare is not counted");
    assert_eq!(cluster.replica(backup).vouch_op(), 0, "nothing of it had been acknowledged");
    cluster.expect_converged();
    cluster.expect_answers(5);
}

/// Rot at different ops on some servers, found when all start again after a power cut.
fn power_cut_after_rot(rotten: &[(u8, u64)]) {
    let mut cluster = Cluster::new(3);
    cluster.expect_writes(20);
    cluster.expect_converged();
    let primary = cluster.primary();
    for &(step, op) in rotten {
        cluster.replica((primary + step) % 3).corrupt(Prepare(op));
    }
    for server in 0..3 {
        cluster.replica(server).stop();
    }
    for server in 0..3 {
        cluster.replica(server).start();
    }
    cluster.expect_answers(5);
    cluster.expect_converged();
    for server in 0..3 {
        assert_eq!(cluster.replica(server).vouch_op(), 0);
    }
}

#[test]
fn rot_in_the_middle_of_the_primary_is_fetched_from_the_others() {
    power_cut_after_rot(&[(0, 3)]);
}

#[test]
fn rot_at_different_ops_of_two_servers_is_fetched_from_the_third() {
    power_cut_after_rot(&[(1, 3), (2, 7)]);
    power_cut_after_rot(&[(0, 7), (2, 3)]);
}

/// Each op is still whole somewhere. But the start of a server erases what is beyond its rot, and no server is left
/// that can vouch for the log: they say so, and do not go on with less.
#[test]
#[should_panic(expected = "too many servers have lost what they had acknowledged")]
fn rot_on_all_servers_at_once_is_said_and_nothing_is_given_up_silently() {
    power_cut_after_rot(&[(0, 3), (1, 5), (2, 7)]);
}

#[test]
fn a_lost_checkpoint_is_fetched_from_the_others() {
    let mut cluster = Cluster::with(3, |plan| plan.disk.checkpoint_every = 64 << 10);
    cluster.expect_answers(60);
    let backup = (cluster.primary() + 1) % 3;
    cluster.wait_for("the backup has a checkpoint", |world| {
        !world.servers[backup as usize].disk.checkpoint_ops().is_empty()
    });
    cluster.replica(backup).corrupt(Checkpoint);
    cluster.replica(backup).stop();
    cluster.replica(backup).start();
    cluster.expect_converged();
    cluster.expect_answers(5);
}

#[test]
fn one_rotten_copy_of_the_superblock_is_repaired_at_the_start() {
    for copy in 0..4 {
        let mut cluster = Cluster::new(3);
        cluster.expect_answers(3);
        cluster.replica(1).stop();
        cluster.replica(1).corrupt(SuperblockCopy(copy));
        cluster.replica(1).start();
        cluster.expect_answers(3);
        cluster.expect_converged();
    }
}

#[test]
fn after_a_power_cut_nothing_that_was_answered_is_missing() {
    let mut cluster = Cluster::new(3);
    cluster.expect_answers(30);
    for server in 0..3 {
        cluster.replica(server).stop();
    }
    for server in 0..3 {
        cluster.replica(server).start();
    }
    cluster.expect_answers(5);
    cluster.expect_converged();
}

#[test]
fn under_strict_a_dead_backup_blocks_writes() {
    let mut cluster = Cluster::with(3, |plan| plan.ack = AckPolicy::Strict);
    cluster.expect_answers(5);
    let backup = (cluster.primary() + 1) % 3;
    cluster.replica(backup).stop();
    cluster.ask(10);
    cluster.pass_ms(3000);
    assert!(!cluster.world.clients.iter().all(|client| client.is_done()));
    cluster.replica(backup).start();
    cluster.expect_answers(1);
    cluster.expect_converged();
}

/// Clients of both kinds that do nothing but count up.
fn counting() -> Cluster {
    Cluster::with(3, |plan| {
        let mut weights = [0; RedisCommand::ALL.len()];
        weights[RedisCommand::Increment as usize] = 1;
        plan.workload.redis = RedisPlan { clients: 2, groups: vec![1], weights, window: 8, ..RedisPlan::none() };
        plan.workload.weights = [0, 0, 0, 0, 1, 0, 0, 0, 0];
        plan.workload.window = 4;
    })
}

/// Sees that what clients of the native protocol have asked for was carried out once. Returns how much of what was
/// asked for at the front door is answered, was carried out, and was asked for.
fn count_carried(cluster: &Cluster) -> (usize, usize, usize) {
    let world = &cluster.world;
    let carried = world.shared.facts.carried_out().expect("the log is what its primaries were asked for");
    let at_door = carried.iter().filter(|carried| carried.asked.is_some()).count();
    assert_eq!(world.clients.iter().map(|client| client.unknown()).sum::<u32>(), 0);
    assert_eq!(carried.len() - at_door, world.history.len(), "each increment counts once");
    (world.shared.groups.answered(), at_door, world.shared.groups.len())
}

#[test]
fn increments_of_clients_whose_connections_break_count_once_and_those_of_the_front_door_once_at_most() {
    for arriving in [Arriving::All, Arriving::Some, Arriving::Nothing] {
        let mut cluster = counting();
        cluster.ask(100);
        for _ in 0..20 {
            cluster.pass_ms(3);
            cluster.reset_clients(arriving);
        }
        cluster.expect_answers(5);
        cluster.expect_converged();
        let (answered, carried, asked) = count_carried(&cluster);
        assert!(answered <= carried && carried < asked, "{arriving:?}: {answered} {carried} {asked}");
        assert!(arriving != Arriving::All || answered < carried, "some answers are lost, and not their requests");
    }
}

#[test]
fn increments_of_clients_that_are_not_heard_or_hear_nothing_count_once_and_those_of_the_front_door_once_at_most() {
    for (there, back) in [(true, true), (true, false), (false, true)] {
        let mut cluster = counting();
        cluster.expect_answers(10);
        let before = count_carried(&cluster).1;
        cluster.cut_clients(there, back);
        cluster.ask(20);
        cluster.pass_ms(5000);
        assert!(!cluster.world.clients.iter().all(|client| client.is_done()));
        assert!(!cluster.world.redis.iter().all(|client| client.is_done()));
        cluster.join();
        cluster.expect_answers(5);
        cluster.expect_converged();
        let (answered, carried, asked) = count_carried(&cluster);
        assert!(before < answered && answered <= carried && carried <= asked, "{answered} {carried} {asked}");
        assert_eq!(answered < carried, !there, "what arrives and is not answered is carried out all the same");
        assert!(!there || carried < asked, "what does not arrive is not");
    }
}

#[test]
fn a_read_while_a_write_waits_for_long_is_as_of_the_time_of_that_write() {
    let mut cluster = Cluster::with(3, |plan| {
        plan.ack = AckPolicy::Strict;
        plan.workload.weights = [0, 0, 0, 0, 0, 0, 1, 0, 0];
        plan.workload.ttl_ms = 500..=500;
    });
    cluster.expect_answers(1);
    let primary = cluster.primary();
    let backup = (primary + 1) % 3;
    cluster.replica(backup).stop();
    cluster.ask_to_write(1);
    cluster.pass_ms(5000);
    // The key has expired long ago by the clock, but not for the write, which the read must not see the end of.
    cluster.ask_to_read_from(primary);
    cluster.wait_for("the read is answered", |world| world.clients[1].is_done());
    assert!(!cluster.world.clients[0].is_done(), "the write still waits");
    cluster.replica(backup).start();
    cluster.expect_answers(1);
    cluster.expect_converged();
}

/// A primary that was cut off holds on its disk what nobody else knows of, and the others have gone on. It comes back
/// with durability `memory`: what it has to give up then is from the disk. It used to take that for covered by a
/// checkpoint, and ended itself.
#[test]
fn a_server_that_goes_over_to_memory_gives_up_what_only_its_disk_held() {
    let mut cluster = Cluster::new(3);
    cluster.expect_writes(3);
    cluster.expect_converged();
    let first = cluster.primary();
    let op = cluster.replica(first).status().op;
    cluster.cut_off(&[first]);
    cluster.cut_second_client(&[(first + 1) % 3, (first + 2) % 3]);
    cluster.ask_second_to_write();
    cluster.wait_until("a prepare that nobody else has", |world| {
        world.servers[first as usize].process.as_deref().is_some_and(|process| process.status().durable == op + 1)
    });
    cluster.replica(first).stop();
    cluster.expect_writes(3);
    cluster.join();
    cluster.replica(first).start_in_memory();
    cluster.expect_answers(3);
    cluster.expect_converged();
    // What it has acknowledged since is gone when it ends, and it says so.
    cluster.replica(first).stop();
    cluster.replica(first).start();
    assert_ne!(cluster.replica(first).vouch_op(), 0);
    cluster.expect_converged();
    cluster.expect_answers(3);
}

/// Servers that go over to memory do not hold what lies between their checkpoint and what was committed. A backup that
/// needs that has to get another checkpoint, although nobody writes anything.
#[test]
fn a_backup_gets_from_servers_that_went_over_to_memory_what_only_their_disks_held() {
    let mut cluster = Cluster::with(3, |plan| plan.disk.checkpoint_every = 64 << 10);
    cluster.expect_answers(60);
    cluster.expect_converged();
    let wiped = (cluster.primary() + 1) % 3;
    let others = [(wiped + 1) % 3, (wiped + 2) % 3];
    for server in others {
        let checkpoint = cluster.world.servers[server as usize].process.as_deref().expect("it is up").superblock();
        assert!((1..cluster.world.shared.facts.committed_op()).contains(&checkpoint.checkpoint.get()));
    }
    cluster.replica(wiped).wipe();
    for server in others {
        cluster.replica(server).stop();
    }
    for server in others {
        cluster.replica(server).start_in_memory();
    }
    cluster.replica(wiped).start();
    cluster.expect_converged();
    cluster.expect_answers(3);
}
