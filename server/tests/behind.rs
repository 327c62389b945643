//! A server that is behind what the others still hold gets there, also when nobody writes.

mod harness;

use harness::{Cluster, Spec, workload::Workload};

/// After a change to durability `memory`, the others' log began above the checkpoint in force, and a backup between the
/// two waited for the next checkpoint, which a cluster without load never makes.
#[test]
fn a_backup_below_a_log_in_memory_is_sent_a_checkpoint_at_once() {
    let mut cluster = Cluster::start(Spec::of(3));
    let workload = Workload::start(&cluster.addresses(), 2);
    workload.wait_for_more(20);
    cluster.kill(2);
    workload.wait_for_more(200);
    workload.finish();
    cluster.kill(0);
    cluster.kill(1);

    cluster.spec = cluster.spec.clone().with(&["--durability", "memory"]);
    cluster.start_all();
    cluster.wait_for_equal_state();
}
