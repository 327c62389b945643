//! Scenarios in which one rule of the protocol or of the disk formats, and nothing else, keeps something from being
//! lost: chains of events that chance alone brings about too rarely. Each is a test, and kills the variant of the code
//! that breaks its rule.

use std::cell::Cell;

use bytes::Bytes;
use lockstep_proto::{
    message::{Command, MessageHeader},
    mutant::Mutant,
};
use lockstep_replica::Role;
use lockstep_server::journal::superblock;

use crate::{
    disk::Survivors,
    facts::header_of,
    plan::Plan,
    scenario::{Cluster, Prepare},
    world::World,
};

/// A scenario, and the variant that it is about.
#[derive(Clone, Copy, Debug)]
pub struct Story {
    /// The wrong variant that it finds.
    pub mutant: Mutant,
    /// Its name.
    pub name: &'static str,
    /// What happens. Panics if a check fails.
    pub tell: fn(),
}

macro_rules! stories {
    ( $( $mutant:ident => $tell:ident, )+ ) => {
        /// Every scenario of this kind.
        pub const STORIES: &[Story] =
            &[ $( Story { mutant: Mutant::$mutant, name: stringify!($tell), tell: $tell }, )+ ];
    };
}

stories! {
    RoundOfOldViewConfirmed => a_primary_that_wakes_up_reads_nothing_stale,
    StaleIncarnationCounts => a_promise_from_before_a_wipe_counts_no_more,
    RecoverFromOne => a_wiped_server_does_not_believe_a_single_answer,
    UnverifiedTrusted => a_stray_prepare_is_not_taken_for_the_log,
    ParentUnchecked => a_stray_prepare_is_not_taken_for_the_log,
    ApplyUnverified => a_stray_prepare_is_not_taken_for_the_log,
    GhostsNotErased => what_lies_beyond_a_torn_prepare_does_not_come_back,
    TornHeadersNotErased => a_header_left_behind_the_end_is_not_completed_by_another_body,
    TruncationNotErased => what_was_given_up_does_not_come_back,
    SuperblockNotRepaired => a_superblock_that_was_cut_off_is_completed_before_it_is_acted_on,
    ReadJoinsRound => a_read_does_not_join_a_round_that_is_under_way,
    RoundOutlivesView => what_confirmed_reads_in_one_view_confirms_none_in_a_later_one,
    DroppedWriteCounts => the_end_of_a_write_that_was_dropped_counts_for_nothing,
    RejoinsWithoutNonce => what_was_said_before_a_server_asked_does_not_tell_what_it_has_lost,
    RejoinsAtBeginning => a_server_that_has_lost_something_is_no_member_before_it_has_it_again,
}

/// So many ops that what a view tells of its beginning does not reach back to where they begin.
const MORE_THAN_A_VIEW_TELLS: u32 = 600;

/// Three servers that have the same; the primary, and the two that come after it.
fn three() -> (Cluster, [u8; 3]) {
    three_with(|_| ())
}

fn three_with(change: impl FnOnce(&mut Plan)) -> (Cluster, [u8; 3]) {
    let mut cluster = Cluster::with(3, change);
    cluster.expect_answers(3);
    cluster.expect_converged();
    let primary = cluster.primary();
    (cluster, [primary, (primary + 1) % 3, (primary + 2) % 3])
}

fn is(command: Command) -> impl Fn(&MessageHeader) -> bool {
    move |header| header.command() == Some(command)
}

/// The old primary sleeps while the others go on without it. When it wakes up it reaches only the one who does not tell
/// it.
pub fn a_primary_that_wakes_up_reads_nothing_stale() {
    let (mut cluster, [old, next, _]) = three();
    cluster.cut_between(old, next);
    cluster.replica(old).pause();
    cluster.wait_for("another primary", |world| world.primary() == Some(next));
    cluster.expect_writes(3);
    cluster.replica(old).resume();
    cluster.ask_to_read_from(old);
    cluster.pass_ms(1000);
    cluster.join();
    cluster.expect_answers(1);
    cluster.expect_converged();
}

/// A primary has asked for its reads to be confirmed, and sleeps before it hears that they are. Meanwhile the others go
/// on without it. What it is asked for when it wakes up was not asked for in time.
pub fn a_read_does_not_join_a_round_that_is_under_way() {
    let (mut cluster, [old, next, third]) = three();
    let view = cluster.replica(old).status().view;
    cluster.delay(next, old, |_| true);
    cluster.delay(third, old, |_| true);
    cluster.ask_to_read_from(old);
    cluster.pass_ms(3);
    cluster.replica(old).pause();
    cluster.cut_off(&[old]);
    cluster.wait_for("another primary", |world| world.primary() == Some(next));
    cluster.expect_writes(3);
    cluster.replica(old).resume();
    cluster.ask_first_to_read_from(old);
    cluster.pass_ms(2);
    let confirms = move |header: &MessageHeader| header.view.get() == view && header.round.get() > 0;
    assert!(cluster.delay_no_more(confirms) > 0);
    cluster.pass_ms(100);
    cluster.join();
    cluster.expect_answers(1);
    cluster.expect_converged();
}

/// A server has answered reads as the primary, and is the primary again two views later. Then it sleeps, and the others
/// go on without it. When it wakes up, its first round of reads has the number of one that was confirmed long ago.
pub fn what_confirmed_reads_in_one_view_confirms_none_in_a_later_one() {
    let (mut cluster, [first, second, _]) = three();
    cluster.ask_to_read_from(first);
    cluster.pass_ms(100);
    cluster.replica(first).hand_over(Some(second));
    cluster.wait_for("another primary", |world| world.primary() == Some(second));
    cluster.expect_writes(1);
    cluster.replica(second).hand_over(Some(first));
    cluster.wait_for("the first primary again", |world| world.primary() == Some(first));
    cluster.expect_writes(1);
    cluster.cut_between(first, second);
    cluster.replica(first).pause();
    cluster.wait_for("another primary again", |world| world.primary() == Some(second));
    cluster.expect_writes(3);
    cluster.replica(first).resume();
    cluster.ask_to_read_from(first);
    cluster.pass_ms(1000);
    cluster.join();
    cluster.expect_answers(1);
    cluster.expect_converged();
}

/// A backup's disk hangs while it writes, and the others go on for so long that the next primary does not tell it any
/// more whether that belongs to the log. So it drops it, and gets it again. What it then hears first from its disk is
/// of the write that is about to be dropped.
pub fn the_end_of_a_write_that_was_dropped_counts_for_nothing() {
    let (mut cluster, [first, second, late]) = three_with(|plan| {
        plan.disk.journal_size = 8 << 20;
        plan.disk.checkpoint_every = 8 << 20;
    });
    let op = cluster.replica(first).status().op + 1;
    cluster.replica(late).hold_write(op);
    cluster.ask_to_write(1);
    cluster.wait_until("it is on its way to the disk", move |world| {
        world.servers[late as usize].process.as_deref().is_some_and(|process| process.status().op == op)
    });
    cluster.cut_between(first, late);
    cluster.expect_writes(MORE_THAN_A_VIEW_TELLS);
    cluster.replica(first).stop();
    cluster.wait_for("the next primary has sent it that again, and more", move |world| {
        let process = world.servers[late as usize].process.as_deref();
        world.primary() == Some(second) && process.is_some_and(|process| process.status().op > op)
    });
    cluster.pass_ms(100);
    cluster.replica(late).hold_nothing();
    cluster.join();
    cluster.replica(first).start();
    cluster.expect_answers(1);
    cluster.expect_converged();
}

/// A view of two, in which the third server has lost the first of what it had acknowledged, and has ended. Returns the op
/// before that.
fn lose_in_a_view_of_two(cluster: &mut Cluster, [first, second, rotten]: [u8; 3]) -> u64 {
    cluster.replica(first).stop();
    cluster.wait_for("a view of two", |world| world.primary() == Some(second) && world.is_one());
    let op = cluster.replica(second).status().op;
    cluster.expect_writes(40);
    cluster.expect_converged();
    cluster.replica(rotten).corrupt(Prepare(op + 1));
    cluster.replica(rotten).stop();
    op
}

/// A server has lost what it had acknowledged in its view. It hears how the view began and how far the log reaches, and
/// gets nothing of what it has lost.
pub fn a_server_that_has_lost_something_is_no_member_before_it_has_it_again() {
    let (mut cluster, [first, second, rotten]) = three();
    let op = lose_in_a_view_of_two(&mut cluster, [first, second, rotten]);
    cluster.delay(second, rotten, is(Command::Prepare));
    cluster.replica(rotten).start();
    assert!(cluster.replica(rotten).vouch_op() > op);
    cluster.pass_ms(100);
    cluster.replica(second).stop();
    cluster.delay_no_more(|_| false);
    cluster.replica(first).start();
    cluster.pass_ms(2000);
    cluster.replica(second).start();
    cluster.expect_answers(1);
    cluster.expect_converged();
}

/// A server has lost what it had acknowledged in its view, and asks how far that may reach. What comes is what the
/// primary had said when the view began.
pub fn what_was_said_before_a_server_asked_does_not_tell_what_it_has_lost() {
    let (mut cluster, [first, second, rotten]) = three();
    let is_kept = Cell::new(false);
    cluster.delay(second, rotten, move |header| is(Command::StartView)(header) && !is_kept.replace(true));
    let op = lose_in_a_view_of_two(&mut cluster, [first, second, rotten]);
    cluster.cut_between(second, rotten);
    cluster.replica(rotten).start();
    assert!(cluster.replica(rotten).vouch_op() > op);
    assert_eq!(cluster.delay_no_more(is(Command::StartView)), 1);
    cluster.pass_ms(50);
    cluster.replica(second).stop();
    cluster.replica(first).start();
    cluster.pass_ms(2000);
    cluster.join();
    cluster.replica(second).start();
    cluster.expect_answers(1);
    cluster.expect_converged();
}

/// A server has promised to help the next view begin, and is wiped before its promise arrives. It then votes in the
/// view before.
pub fn a_promise_from_before_a_wipe_counts_no_more() {
    let (mut cluster, [primary, candidate, wiped]) = three();
    let view = cluster.replica(primary).status().view;
    cluster.delay(wiped, candidate, |_| true);
    cluster.replica(primary).pause();
    cluster.wait_until("a promise", move |world| {
        world.servers[wiped as usize].process.as_deref().is_some_and(|process| process.superblock().view.get() > view)
    });
    cluster.pass_ms(1);
    cluster.replica(wiped).wipe();
    // From now on only the promise is late.
    cluster.delay_only(is(Command::DoViewChange));
    cluster.replica(primary).resume();
    cluster.replica(wiped).start();
    cluster.expect_converged();
    assert_eq!(cluster.replica(wiped).status().view, view, "nobody else knows of the next view");
    cluster.cut_off(&[candidate]);
    cluster.expect_writes(3);
    assert!(cluster.delay_no_more(|_| true) > 0);
    cluster.pass_ms(100);
    cluster.join();
    cluster.expect_answers(1);
    cluster.expect_converged();
}

/// A server votes in a view, is wiped, and hears at first only from the one that has missed that view.
pub fn a_wiped_server_does_not_believe_a_single_answer() {
    let (mut cluster, [late, primary, wiped]) = three();
    cluster.cut_off(&[late]);
    cluster.wait_for("another primary", |world| world.primary() == Some(primary));
    cluster.expect_writes(3);
    cluster.replica(wiped).wipe();
    cluster.join();
    cluster.cut_between(primary, wiped);
    cluster.cut_between(primary, late);
    cluster.delay(late, wiped, |header| header.command() != Some(Command::RecoveryResponse));
    cluster.delay(wiped, late, |header| header.command() != Some(Command::Recovery));
    cluster.replica(wiped).start();
    cluster.pass_ms(100);
    // The late one learns how the view began, but not what it has committed since.
    cluster.join();
    cluster.cut_between(primary, wiped);
    cluster.delay(primary, late, is(Command::Prepare));
    cluster.wait_for("the late server is a member of the view", |world| {
        world.servers[late as usize].process.as_deref().is_some_and(|process| process.role() == Role::Backup)
    });
    cluster.replica(primary).stop();
    cluster.delay_no_more(|_| false);
    cluster.pass_ms(2000);
    cluster.join();
    cluster.replica(primary).start();
    cluster.expect_answers(1);
    cluster.expect_converged();
}

/// An op that its primary had sent to one backup, and then lost, arrives there two views later, when the view is being
/// joined.
pub fn a_stray_prepare_is_not_taken_for_the_log() {
    let (mut cluster, [first, second, late]) = three();
    let status = cluster.replica(first).status();
    let (view, op) = (status.view, status.op + 1);
    cluster.delay(first, second, is(Command::Prepare));
    cluster.delay(first, late, is(Command::Prepare));
    cluster.replica(first).hold_write(op);
    cluster.ask_to_write(1);
    cluster.pass_ms(20);
    cluster.replica(late).pause();
    cluster.replica(first).stop();
    cluster.replica(first).hold_nothing();
    cluster.delay_only(move |header| header.view.get() == view);
    cluster.replica(first).start();
    cluster.wait_for("another primary", |world| world.primary() == Some(second));
    cluster.expect_writes(3);
    cluster.replica(second).hand_over(Some(first));
    cluster.wait_for("the first primary again", |world| world.primary() == Some(first));
    cluster.delay(first, late, is(Command::Prepare));
    cluster.replica(late).resume();
    cluster.wait_for("the late server joins", move |world| {
        world.servers[late as usize].process.as_deref().is_some_and(|process| process.status().view > view + 1)
    });
    cluster.pass_ms(50);
    assert!(cluster.delay_no_more(|header| header.view.get() == view) > 0);
    cluster.expect_converged();
    cluster.expect_answers(3);
}

/// A prepare is torn, and the one behind it whole. The torn one comes back; the other one was given up.
pub fn what_lies_beyond_a_torn_prepare_does_not_come_back() {
    let (mut cluster, [first, second, torn]) = three();
    let op = cluster.replica(first).status().op + 1;
    cluster.replica(torn).hold_write(op);
    cluster.replica(first).hold_write(op + 1);
    cluster.delay(first, second, move |header| is(Command::Prepare)(header) && header.op.get() > op);
    cluster.expect_writes(1);
    cluster.ask_to_write(1);
    cluster.pass_ms(20);
    cluster.replica(torn).stop();
    cluster.replica(first).stop();
    cluster.delay_no_more(|_| false);
    cluster.replica(torn).hold_nothing();
    cluster.replica(first).hold_nothing();
    cluster.delay(second, torn, move |header| is(Command::Prepare)(header) && header.op.get() > op);
    cluster.replica(first).start();
    cluster.wait_for("the second primary", |world| world.primary() == Some(second));
    cluster.expect_writes(1);
    cluster.replica(torn).start();
    cluster.wait_for("a member with the op that was torn", move |world| {
        let process = world.servers[torn as usize].process.as_deref();
        process.is_some_and(|process| process.role() == Role::Backup && process.status().durable == op)
    });
    cluster.replica(torn).stop();
    cluster.replica(torn).start();
    cluster.pass_ms(20);
    cluster.delay_no_more(|_| false);
    cluster.expect_answers(3);
    cluster.expect_converged();
}

/// A prepare is lost, and of the one behind it only the header is left. Both come again, the second one in another
/// view; of that one only the body is left, which the old header fits.
pub fn a_header_left_behind_the_end_is_not_completed_by_another_body() {
    let (mut cluster, [first, second, torn]) = three();
    cluster.world.shared.plan.workload.value_size = 3000..=3000;
    let op = cluster.replica(first).status().op + 1;
    cluster.replica(torn).hold_write(op);
    cluster.replica(torn).hold_write(op + 1);
    cluster.replica(first).hold_write(op + 1);
    cluster.delay(first, second, move |header| is(Command::Prepare)(header) && header.op.get() > op);
    cluster.expect_writes(1);
    cluster.ask_to_write(1);
    cluster.wait_until("both are on their way to the disk", move |world| {
        world.servers[torn as usize].disk.journal_writes().count() == 2
    });
    let is_long = |message: &Bytes| header_of(message).size.get() > 2048;
    assert!(cluster.world.servers[torn as usize].disk.journal_writes().all(is_long), "else nothing can be torn");
    cluster.replica(torn).stop_leaving(Survivors::Head);
    cluster.replica(first).stop();
    cluster.delay_no_more(|_| false);
    cluster.replica(torn).hold_nothing();
    cluster.replica(first).hold_nothing();
    cluster.cut_between(second, torn);
    cluster.replica(first).start();
    cluster.wait_for("the second primary has ordered the same again", |world| {
        world.primary() == Some(second) && world.clients[0].is_done()
    });
    cluster.replica(torn).start();
    cluster.replica(torn).hold_write(op + 1);
    cluster.join();
    cluster.wait_until("the second one is on its way again", move |world| {
        let process = world.servers[torn as usize].process.as_deref();
        process.is_some_and(|process| process.status().durable == op)
            && world.servers[torn as usize].disk.journal_writes().count() == 1
    });
    cluster.replica(torn).stop_leaving(Survivors::Body);
    cluster.replica(torn).hold_nothing();
    cluster.replica(torn).start();
    cluster.expect_answers(3);
    cluster.expect_converged();
}

/// A primary that was cut off holds more than the others know of. It gives that up when it joins them, and ends before
/// it has got anything else. Then the one that made it give that up ends, too.
pub fn what_was_given_up_does_not_come_back() {
    let (mut cluster, [first, second, third]) = three();
    let status = cluster.replica(first).status();
    let (view, op) = (status.view, status.op);
    let cut = cluster.cut_off(&[first]);
    // What the second client asks for stays unknown to the others.
    cluster.cut_second_client(&[second, third]);
    let has = move |world: &World, op: u64| {
        world.servers[first as usize].process.as_deref().is_some_and(|process| process.status().durable == op)
    };
    cluster.ask_to_write(1);
    cluster.wait_until("a prepare that nobody else has", move |world| has(world, op + 1));
    cluster.ask_second_to_write();
    cluster.wait_until("another one", move |world| has(world, op + 2));
    cluster.wait_for("another primary, which answers the first client", |world| {
        world.primary() == Some(second) && world.clients[0].is_done()
    });
    assert_eq!(cluster.replica(third).status().op, op + 1, "one has taken the place of the two");
    cluster.delay(second, first, is(Command::Prepare));
    cluster.free(cut);
    cluster.wait_for("the first primary has given up what nobody else has", move |world| {
        let process = world.servers[first as usize].process.as_deref();
        process.is_some_and(|process| {
            let status = process.status();
            status.role == Role::Backup && status.log_view > view && status.op == op && process.is_disk_idle()
        })
    });
    cluster.replica(first).stop();
    cluster.replica(second).stop();
    cluster.delay_no_more(|_| false);
    cluster.replica(first).start();
    cluster.wait_for("a primary", |world| world.primary().is_some());
    cluster.replica(second).start();
    cluster.join();
    cluster.expect_answers(1);
    cluster.expect_converged();
}

/// A crash leaves half of a new superblock, which counts and is acted on; and the next crash damages just that half.
pub fn a_superblock_that_was_cut_off_is_completed_before_it_is_acted_on() {
    let (mut cluster, [first, second, torn]) = three();
    cluster.replica(first).hand_over(Some(second));
    cluster.wait_until("half of a superblock", move |world| {
        superblock::read(&world.servers[torn as usize].disk.superblock).is_ok_and(|reading| !reading.is_complete())
    });
    cluster.replica(torn).stop();
    cluster.replica(torn).start();
    // It has told the others of its view by now.
    cluster.wait_until("the first half of the next one", move |world| {
        world.servers[torn as usize].disk.superblock_write() == Some(0)
    });
    cluster.replica(torn).stop_with_torn_writes();
    cluster.replica(torn).start();
    cluster.expect_answers(3);
    cluster.expect_converged();
}
