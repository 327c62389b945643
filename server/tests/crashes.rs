//! Servers are killed under load, again and again: nothing acknowledged is lost, nothing is carried out twice, and in
//! the end all servers hold the same.

mod harness;

use harness::{
    Cluster, Spec,
    workload::{Workload, audit},
};
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// Kills per test: few, because the tests run on busy machines. `LOCKSTEP_KILLS` asks for more.
fn kills() -> u64 {
    std::env::var("LOCKSTEP_KILLS").ok().and_then(|count| count.parse().ok()).unwrap_or(5)
}

#[test]
fn any_one_server_may_be_killed_at_any_moment() {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
    let mut cluster = Cluster::start(Spec::of(3));
    let workload = Workload::start(&cluster.addresses(), 8);
    for _ in 0..kills() {
        workload.wait_for_more(random.random_range(1..400));
        let victim = random.random_range(0..3);
        cluster.kill(victim);
        if victim != 0 {
            // The primary and one backup are enough to go on.
            workload.wait_for_more(random.random_range(1..400));
        }
        cluster.start_server(victim);
        workload.wait_for_more(50);
        cluster.wait_until_healthy();
    }
    let histories = workload.finish();
    audit(&cluster.addresses(), &histories);
    cluster.wait_for_equal_state();
}

#[test]
fn all_servers_may_be_killed_at_once() {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(2);
    let mut cluster = Cluster::start(Spec::of(3));
    let workload = Workload::start(&cluster.addresses(), 8);
    for _ in 0..kills() {
        workload.wait_for_more(random.random_range(1..600));
        for id in 0..3 {
            cluster.kill(id);
        }
        for id in [2, 0, 1] {
            cluster.start_server(id);
        }
        cluster.wait_until_healthy();
    }
    let histories = workload.finish();
    audit(&cluster.addresses(), &histories);
    cluster.wait_for_equal_state();
}

#[test]
fn a_server_that_is_alone_keeps_what_it_acknowledged() {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(3);
    let mut cluster = Cluster::start(Spec::of(1));
    let workload = Workload::start(&cluster.addresses(), 8);
    for _ in 0..kills() {
        workload.wait_for_more(random.random_range(1..600));
        cluster.kill(0);
        cluster.start_server(0);
        cluster.wait_until_healthy();
    }
    audit(&cluster.addresses(), &workload.finish());
}

#[test]
fn checkpoints_and_restarts_do_not_disturb_each_other() {
    // So small a distance between checkpoints that several are begun and completed, and servers die in the middle of
    // some.
    let mut cluster = Cluster::start(Spec::of(2).with(&["--checkpoint-every", "1MiB"]));
    let workload = Workload::start(&cluster.addresses(), 16);
    for round in 0..kills() {
        let before = checkpoint_op(&cluster, 0);
        harness::wait_for("a checkpoint of the primary", || (checkpoint_op(&cluster, 0) > before).then_some(()));
        let victim = (round % 2) as u8;
        cluster.kill(victim);
        cluster.start_server(victim);
        cluster.wait_until_healthy();
    }
    let histories = workload.finish();
    audit(&cluster.addresses(), &histories);
    cluster.wait_for_equal_state();
    for id in 0..2 {
        let ended = {
            cluster.signal(id, "TERM");
            cluster.wait_for_exit(id)
        };
        assert!(ended.success(), "{}", cluster.log(id));
    }
}

fn checkpoint_op(cluster: &Cluster, id: u8) -> u64 {
    cluster.status(id, 0).and_then(|status| status["checkpoint"].as_u64()).unwrap_or(0)
}

#[test]
fn every_shard_recovers_by_itself() {
    let mut cluster = Cluster::start(Spec { shards: 2, ..Spec::of(3) });
    let workload = Workload::start(&cluster.addresses(), 8);
    workload.wait_for_more(200);
    cluster.kill(0);
    cluster.start_server(0);
    cluster.wait_until_healthy();
    workload.wait_for_more(200);
    let histories = workload.finish();
    audit(&cluster.addresses(), &histories);
    cluster.wait_for_equal_state();
}
