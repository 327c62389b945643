//! Real servers suffer what machines and networks do to them, while clients share keys through it all. In each story
//! the checker of the simulator judges what the clients saw, and in the end all servers hold the same.

mod harness;

use harness::{
    Cluster, Spec,
    damage::Part,
    small_disk::SmallDisk,
    story::{Fault, Story},
};

/// Small, so that checkpoints are made and journal space is reused within a test.
const SMALL: [&str; 2] = ["--checkpoint-every", "1MiB"];

/// One story: a cluster of three, and faults one after the other.
fn tell(seed: u64, faults: &[Fault]) {
    let mut story = Story::begin(Spec::of(3).with(&SMALL), 8, seed);
    for &fault in faults {
        story.suffer(fault);
    }
    println!("{}", story.end());
}

#[test]
fn a_killed_primary_is_replaced_by_the_others() {
    tell(1, &[Fault::KillPrimary, Fault::KillPrimary, Fault::KillPrimary]);
}

#[test]
fn backups_majorities_and_all_may_be_killed() {
    tell(2, &[Fault::KillBackup, Fault::KillMajority, Fault::KillAll]);
}

#[test]
fn kills_pauses_and_cuts_may_come_on_top_of_each_other() {
    tell(12, &[Fault::Storm, Fault::Storm]);
}

#[test]
fn a_paused_server_comes_back_and_says_nothing_stale() {
    tell(3, &[Fault::PausePrimary, Fault::PauseBackup, Fault::PausePrimary]);
}

#[test]
fn a_primary_that_is_cut_off_one_way_or_both_gives_way() {
    tell(4, &[Fault::IsolatePrimary, Fault::DeafPrimary, Fault::MutePrimary]);
}

#[test]
fn a_backup_that_is_cut_off_disturbs_nobody() {
    tell(5, &[Fault::DeafBackup, Fault::CutOneLink]);
}

#[test]
fn flipped_bits_are_noticed_and_mended_from_other_servers() {
    tell(6, &[Fault::Rot(Part::Superblock), Fault::Rot(Part::Journal), Fault::Rot(Part::Checkpoint)]);
}

#[test]
fn a_wiped_server_is_given_everything_again() {
    tell(7, &[Fault::Wipe, Fault::KillPrimary]);
}

#[test]
fn a_full_disk_takes_away_one_server_and_not_the_cluster() {
    let Some(disk) = SmallDisk::mount("24m") else {
        eprintln!("skipped: mounting a small file system needs root");
        return;
    };
    let mut cluster = Cluster::format(Spec::of(3).with(&SMALL).with_links());
    cluster.move_folder(1, disk.path().join("server-1"));
    cluster.start_all();
    let mut story = Story::go_on(cluster, 8, 10);
    disk.fill("filler");
    // Its next checkpoint does not fit.
    let status = story.cluster.wait_for_exit(1);
    assert_eq!(status.code(), Some(1), "{status}");
    assert!(story.cluster.log(1).contains("space"), "{}", story.cluster.log(1));
    story.recorder.wait_for_more(200);
    std::fs::remove_file(disk.path().join("filler")).unwrap();
    story.cluster.start_server(1);
    story.wait_until_whole();
    println!("{}", story.end());
}

#[test]
fn servers_may_be_restarted_one_by_one() {
    tell(8, &[Fault::RollingRestart, Fault::MovePrimary, Fault::MovePrimary]);
}

#[test]
fn memories_may_be_lost_one_by_one() {
    let mut story = Story::begin(Spec::of(3).with(&["--durability", "memory"]), 8, 11);
    for fault in [Fault::KillBackup, Fault::KillPrimary, Fault::PausePrimary, Fault::KillPrimary] {
        story.suffer(fault);
    }
    println!("{}", story.end());
}

#[test]
fn five_servers_in_two_shards_do_without_two() {
    let spec = Spec { shards: 2, ..Spec::of(5).with(&SMALL) };
    let mut story = Story::begin(spec, 8, 9);
    for fault in [Fault::KillPrimary, Fault::MutePrimary] {
        story.suffer(fault);
    }
    println!("{}", story.end());
}
