//! Deliberately wrong variants of the code above and beside this crate, for the simulator to find.
//!
//! A test that cannot fail proves nothing. So the code has places where, with the feature `mutants` on and a [`Mutant`]
//! chosen for the present thread, it does the wrong thing on purpose: `if mutant::is(Mutant::AckBeforeDurable) { .. }`.
//! `lockstep-sim mutants` runs each of them until a check finds it. Without the feature [`is`] is the constant `false`,
//! and nothing of this is left in the program.

/// Declares the mutants, with their names and what is wrong with each.
macro_rules! mutants {
    ( $( $(#[doc = $wrong:literal])+ $variant:ident, )+ ) => {
        /// One deliberate fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Mutant { $( $(#[doc = $wrong])+ $variant, )+ }

        impl Mutant {
            /// Every mutant.
            pub const ALL: &'static [Mutant] = &[ $( Mutant::$variant, )+ ];

            /// Its name, as the enumeration has it.
            pub const fn name(self) -> &'static str {
                match self { $( Mutant::$variant => stringify!($variant), )+ }
            }

            /// What is wrong with it.
            pub const fn wrong(self) -> &'static str {
                match self { $( Mutant::$variant => concat!($($wrong),+).trim_ascii_start(), )+ }
            }
        }
    };
}

mutants! {
    /// A replica acknowledges a prepare before it is durable.
    AckBeforeDurable,
    /// A replica speaks in a new view before the view is durable.
    ViewFenceSkipped,
    /// A replica votes in a view before its log_view is durable.
    LogViewFenceSkipped,
    /// A prepare is committed with one vote fewer than a quorum.
    CommitQuorumTooSmall,
    /// A view begins with one answer fewer than a quorum.
    ViewQuorumTooSmall,
    /// The vote of a replica counts although its log is not known to be the view's.
    VoteOfOldLogView,
    /// The longest log is chosen, whatever view it is of.
    ChoiceByLength,
    /// What a server says of acknowledged prepares that it has lost is ignored: no nack quorum is needed to drop them.
    VouchIgnored,
    /// What a backup holds beyond the new view's log is kept.
    TailNotTruncated,
    /// Prepares that follow the log count as the view's log, whoever ordered them and whatever the primary has said of it.
    UnverifiedTrusted,
    /// A backup takes a prepare without looking whether it follows the one before, and whether it is what the primary has told.
    ParentUnchecked,
    /// A backup applies what it holds, committed or not.
    ApplyUncommitted,
    /// A backup takes in and applies its own copy of what is committed, although it may be another.
    ApplyUnverified,
    /// A backup applies the second of several prepares before the first.
    ApplyOutOfOrder,
    /// Reads are answered without asking the others whether there is a newer primary.
    ReadsWithoutRound,
    /// Reads are answered before what earlier views have committed is applied.
    ReadsBeforeViewStart,
    /// A backup confirms a read round of a view that it has left.
    RoundOfOldViewConfirmed,
    /// A primary that restarts goes on in its view.
    RestartedPrimaryGoesOn,
    /// What a server said before its disk was wiped still counts.
    StaleIncarnationCounts,
    /// A wiped server believes the first that tells it a view.
    RecoverFromOne,
    /// A wiped server takes its log for whole.
    RecoveredVouches,
    /// The journal reuses space as soon as a prepare is durable, without waiting for a checkpoint.
    ReuseJournalEarly,
    /// All four copies of the superblock are written in one step, so that a crash can tear all of them.
    SuperblockInOneStep,
    /// A superblock with copies out of date is used without repairing them first.
    SuperblockNotRepaired,
    /// A superblock counts as durable when it is handed to the disk.
    SuperblockNotSynced,
    /// Only two of the four copies of the superblock are ever written again.
    SuperblockHalfWritten,
    /// Whole prepares beyond a torn one stay in the journal.
    GhostsNotErased,
    /// A header without its body stays in the journal behind the end of the log.
    TornHeadersNotErased,
    /// The sectors of a truncated log are not overwritten.
    TruncationNotErased,
    /// A prepare whose body is damaged counts as whole when the journal is read back.
    BodyNotChecked,
    /// A checkpoint mixes two ops: its sessions are as they are when written, its keys as they were at the cut.
    CheckpointMixesOps,
    /// The sessions of a checkpoint are not read back.
    CheckpointDropsSessions,
    /// The superblock points to the prepare after the checkpoint one sector too early.
    CheckpointOffsetWrong,
    /// A request that was carried out before is carried out again.
    DuplicateRunsAgain,
    /// A request counts as stale as soon as the next one has begun.
    SessionWindowOfOne,
    /// The session that was registered first is evicted, even if it is busy.
    EvictsTheOldest,
    /// A key that has expired is still there for a request that writes.
    ExpiryIgnored,
    /// Compare-and-set does not compare.
    CompareAndSetBlind,
    /// A checkpoint writes an entry as it is now, not as it was at the cut.
    CheckpointNotAtCut,
    /// What a program checks before it does anything is not looked at: a WATCH never fails.
    WatchIgnored,
    /// The first command of a program is carried out although a check fails.
    AbortedRunsFirst,
    /// A server that nobody waits for an answer from applies a prepare as of its own time, not of the prepare's.
    OwnClockAtApply,
    /// The front door answers reads from what the primary has, without asking whether it still is the primary.
    QueryWithoutRound,
    /// A request that finds its batch full is put into that and into the next.
    OfferedTwice,
    /// A write goes into the log although reads that its connection asked for before are not answered.
    WriteOvertakesReads,
    /// SET with IFEQ does not compare.
    IfEqualBlind,
    /// EXPIRE with GT or LT does not look at the expiry before.
    LaterIgnored,
    /// A walk that goes on from a cursor passes the first key over.
    ScanSkips,
    /// INCRBYFLOAT rounds towards zero.
    SumTruncated,
    /// A primary puts times-to-live into its log rounded up to whole seconds, and everybody keeps to the log.
    WholeSeconds,
    /// A store has less room while a checkpoint of it is written.
    CheckpointTakesRoom,
    /// What has expired takes up room until it is asked for.
    ExpiredKeepsRoom,
    /// With `all`, an answer waits for no member of the in-sync set.
    AllAsMajority,
    /// With `strict`, an answer does not wait for a backup that has left the in-sync set.
    StrictAsAll,
    /// The in-sync set shrinks below a commit quorum.
    InSyncBelowQuorum,
    /// A backup is taken back into the in-sync set as soon as it is heard of, whatever it holds.
    TakenBackTooEarly,
    /// A read joins the round that is under way when it arrives.
    ReadJoinsRound,
    /// A read round of an earlier view counts as confirmed in a later one of the same primary.
    RoundOutlivesView,
    /// A server that ran with durability `memory` takes what its disk holds for all it has acknowledged.
    MemoryLossForgotten,
    /// A server that has lost something believes what its primary said before it asked.
    RejoinsWithoutNonce,
    /// A server that has lost something is a member of its view again once it holds the view's beginning.
    RejoinsAtBeginning,
    /// A log that lacks something acknowledged may be the one that a view begins with.
    DeficientIsChosen,
    /// The end of the write of a prepare that was dropped counts for the same prepare, written again.
    DroppedWriteCounts,
}

#[cfg(feature = "mutants")]
mod chosen {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static CHOSEN: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Whether the present thread is to go wrong in this way.
    #[inline]
    pub fn is(mutant: Mutant) -> bool {
        CHOSEN.get() == Some(mutant)
    }

    /// Makes the present thread go wrong in this way from now on; `None`: in no way.
    pub fn choose(mutant: Option<Mutant>) {
        CHOSEN.set(mutant);
    }
}

#[cfg(feature = "mutants")]
pub use chosen::{choose, is};

/// Whether the present thread is to go wrong in this way: never, without the feature `mutants`.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn is(_: Mutant) -> bool {
    false
}
