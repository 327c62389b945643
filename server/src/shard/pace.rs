//! How fast a checkpoint is written: as slowly as it can be for it to be done before the journal has used up three
//! quarters of the room that it had at the cut. On a disk that also holds the journal, every synced write waits for
//! whatever is written beside it, and on the shard's thread every request for whatever is taken from the state.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use super::{Core, Shard};
use crate::ring;

/// How fast the state is taken and written at least, in bytes per second: so slow that neither the disk nor the event
/// loop notices much of it. Each byte counts twice, when it is taken and when it is written.
const CALM_BYTES_PER_S: u64 = 32 << 20;

/// How long the journal's growth is watched before much is concluded from it, unless it has grown by a sixteenth of the
/// room.
const ELAPSED_MIN: Duration = Duration::from_millis(250);

/// Bytes that store and sessions give out between two turns: some tens of microseconds of work.
pub(super) const STEP_BYTES: usize = 64 << 10;

/// The same for a checkpoint that is late. Under full load a turn takes a millisecond, and with small steps between
/// them the journal filled up before the checkpoint was done, and writes waited.
const STEP_BYTES_MAX: usize = 512 << 10;

/// The pace of one checkpoint.
pub(super) struct Pace {
    start: Instant,
    used_at_start: u64,
    /// When the last rest ended.
    rested: Instant,
    /// Estimate of what is still to be done.
    rest_bytes: u64,
    step_bytes: usize,
}

impl Pace {
    /// The pace of a checkpoint of the state as it is now.
    pub(super) fn new(core: &Core) -> Pace {
        let now = Instant::now();
        let rest_bytes = 2 * core.machine.store.entry_bytes();
        Pace { start: now, used_at_start: core.disk.used_bytes(), rested: now, rest_bytes, step_bytes: STEP_BYTES }
    }

    /// How many bytes are to be taken next.
    pub(super) fn step_bytes(&self) -> usize {
        self.step_bytes
    }

    /// How many bytes are to be written next at most. A write of the journal may have to wait for one of these.
    pub(super) fn write_bytes(&self) -> usize {
        2 * self.step_bytes
    }

    /// Lets everything that has arrived meanwhile go first, and the disk rest, after `step_bytes` have been taken or
    /// written.
    ///
    /// What took longer than it should have is not made up for in a burst.
    pub(super) async fn rest(&mut self, shard: &Rc<Shard>, step_bytes: usize) {
        self.rest_bytes = self.rest_bytes.saturating_sub(step_bytes as u64);
        let bytes_per_s = {
            let disk = &shard.core.borrow().disk;
            let room = disk.size().saturating_sub(self.used_at_start) / 4 * 3;
            let grown = disk.used_bytes().saturating_sub(self.used_at_start);
            // What began late, with little room, must not keep writes waiting.
            if disk.is_full() { None } else { bytes_per_s(room, grown, self.start.elapsed(), self.rest_bytes) }
        };
        let pause =
            bytes_per_s.map(|rate| Duration::from_nanos((step_bytes as u64).saturating_mul(1_000_000_000) / rate));
        let took = self.rested.elapsed();
        self.step_bytes = next_step_bytes(self.step_bytes, pause, took);
        match pause.and_then(|pause| pause.checked_sub(took)) {
            Some(early) => ring::sleep(early).await,
            None => drop(tokio_uring::no_op().await),
        }
        self.rested = Instant::now();
    }
}

/// The rate at which `rest_bytes` are done when the journal, which has grown by `grown` bytes in `elapsed`, has grown
/// by `room`; `None`, as fast as it goes, if it has already.
fn bytes_per_s(room: u64, grown: u64, elapsed: Duration, rest_bytes: u64) -> Option<u64> {
    let left = room.checked_sub(grown).filter(|left| *left > 0)?;
    // The time that is left is `left / grown` of the time that has passed.
    let rest = u128::from(rest_bytes) * u128::from(grown) * 1_000_000_000;
    let elapsed_min = if grown < room / 16 { ELAPSED_MIN } else { Duration::from_millis(1) };
    let rate = rest / (u128::from(left) * elapsed.max(elapsed_min).as_nanos());
    Some(u64::try_from(rate).unwrap_or(u64::MAX).max(CALM_BYTES_PER_S))
}

/// The size of the step after one of `step_bytes` that `took` some time, of the `pause` from one to the next: twice
/// that when it was late, half of it when there is much time.
fn next_step_bytes(step_bytes: usize, pause: Option<Duration>, took: Duration) -> usize {
    match pause {
        None => STEP_BYTES_MAX,
        Some(pause) if took > pause => (2 * step_bytes).min(STEP_BYTES_MAX),
        Some(pause) if took < pause / 4 => (step_bytes / 2).max(STEP_BYTES),
        Some(_) => step_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_checkpoint_is_done_when_the_room_is_used_up() {
        let second = Duration::from_secs(1);
        let calm = Some(CALM_BYTES_PER_S);
        assert_eq!(bytes_per_s(32 * MIB, 0, second, 1 << 40), calm, "the journal does not grow");
        assert_eq!(bytes_per_s(32 * MIB, 8 * MIB, second, 300 * MIB), Some(100 * MIB), "three seconds are left");
        assert_eq!(bytes_per_s(1 << 40, MIB, second, 300 * MIB), calm, "there is plenty of time");
        assert_eq!(bytes_per_s(33 * MIB, MIB, Duration::ZERO, 800 * MIB), Some(100 * MIB), "too early to tell");
        let moment = Duration::from_millis(20);
        assert_eq!(
            bytes_per_s(32 * MIB, 8 * MIB, moment, 30 * MIB),
            Some(500 * MIB),
            "it grows fast, and that is certain"
        );
        assert_eq!(bytes_per_s(2, 1, second, u64::MAX), Some(u64::MAX), "no overflow");
    }

    #[test]
    fn steps_are_large_only_while_a_checkpoint_is_late() {
        let millis = Duration::from_millis;
        let mut step_bytes = STEP_BYTES;
        for expected in [2 * STEP_BYTES, 4 * STEP_BYTES, STEP_BYTES_MAX, STEP_BYTES_MAX] {
            step_bytes = next_step_bytes(step_bytes, Some(millis(1)), millis(2));
            assert_eq!(step_bytes, expected);
        }
        assert_eq!(next_step_bytes(step_bytes, Some(millis(8)), millis(4)), step_bytes, "that is fast enough");
        for expected in [4 * STEP_BYTES, 2 * STEP_BYTES, STEP_BYTES, STEP_BYTES] {
            step_bytes = next_step_bytes(step_bytes, Some(millis(8)), millis(1));
            assert_eq!(step_bytes, expected);
        }
        assert_eq!(next_step_bytes(STEP_BYTES, None, millis(1)), STEP_BYTES_MAX, "the journal's room is used up");
    }

    #[test]
    fn without_room_it_goes_at_full_speed() {
        assert_eq!(bytes_per_s(32 * MIB, 32 * MIB, Duration::from_secs(1), 1), None, "the room is used up");
        assert_eq!(bytes_per_s(0, 0, Duration::from_secs(1), 1), None, "there was no room");
    }
}
