//! When to look again, how long to pause before a retry, and when to stop retrying.

use std::time::Duration;

use tokio::time::Instant;

/// The next instant at which something may be due.
///
/// It is a lower bound that is made exact only when it is reached: a request that is answered in time costs nothing
/// here, and now and then the owner wakes up for one that has long been answered.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    at: Option<Instant>,
}

impl Wake {
    pub(crate) fn at(&self) -> Option<Instant> {
        self.at
    }

    /// Makes sure that the owner wakes up no later than `at`.
    pub(crate) fn lower(&mut self, at: Instant) {
        self.at = Some(self.at.map_or(at, |present| present.min(at)));
    }

    /// Forgets what was set; the owner then sets it anew from everything that it waits for.
    pub(crate) fn clear(&mut self) {
        self.at = None;
    }
}

/// Exponential backoff with full jitter: a uniform pause between zero and a ceiling that doubles.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    attempts: u32,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Backoff { min, max, attempts: 0 }
    }

    /// The pause before the next attempt.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.pause_after(self.attempts);
        self.attempts = self.attempts.saturating_add(1);
        pause
    }

    /// The pause after `attempts` earlier ones.
    pub(crate) fn pause_after(&self, attempts: u32) -> Duration {
        self.ceiling(attempts).mul_f64(rand::random_range(0.0..=1.0))
    }

    fn ceiling(&self, attempts: u32) -> Duration {
        self.min.saturating_mul(1 << attempts.min(20)).min(self.max)
    }
}

/// A pause between two rounds of a search is a sixteenth of how long the search has lasted: a new primary is then found
/// with little delay beside the time that it took to come about, and the longer nobody is found, the less is asked.
const SEARCH_PAUSE_SHARE: u32 = 16;

/// The least pause between two rounds of a search.
const SEARCH_PAUSE_MIN: Duration = Duration::from_millis(1);

/// A time in which no server takes requests: from the loss of the last one that did to the first answer.
#[derive(Debug)]
pub(crate) struct Outage {
    since: Instant,
    /// How many of the pauses that a [`Backoff`] would make have passed.
    attempts: u32,
    next_attempt_at: Instant,
}

impl Outage {
    pub(crate) fn new(now: Instant, backoff: &Backoff) -> Outage {
        Outage { since: now, attempts: 0, next_attempt_at: now + backoff.ceiling(0) }
    }

    /// The pause before the next round.
    pub(crate) fn pause(&self, now: Instant, backoff: &Backoff) -> Duration {
        let elapsed = now.saturating_duration_since(self.since);
        let ceiling = (elapsed / SEARCH_PAUSE_SHARE).max(SEARCH_PAUSE_MIN).min(backoff.max);
        // The jitter keeps many clients from asking in step.
        ceiling.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// Whether another of the pauses has passed, which counts as an attempt that came to nothing.
    pub(crate) fn take_attempt(&mut self, now: Instant, backoff: &Backoff) -> bool {
        if now < self.next_attempt_at {
            return false;
        }
        self.attempts += 1;
        self.next_attempt_at = now + backoff.ceiling(self.attempts);
        true
    }
}

/// Bounds of the pause between two looks for a newer primary while the present one owes answers.
const LOOK_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How long nothing must have been in doubt for the next doubt to be a new one. A cluster that answers, but slowly,
/// puts its clients in doubt with every request; each of them would begin with quick looks again.
const CALM: Duration = Duration::from_secs(1);

/// When to look whether there is a newer primary, while the present one has owed an answer for long: at once, and then
/// after pauses that double.
#[derive(Debug, Default)]
pub(crate) struct LookBackoff {
    looks: u32,
    next_look_at: Option<Instant>,
    last_at: Option<Instant>,
}

impl LookBackoff {
    /// An answer is owed for long. When to look: not before this instant, or at once.
    pub(crate) fn arise(&mut self, now: Instant) -> Option<Instant> {
        if self.last_at.replace(now).is_some_and(|last_at| now.saturating_duration_since(last_at) >= CALM) {
            *self = LookBackoff { last_at: Some(now), ..LookBackoff::default() };
        }
        self.next_look_at.filter(|at| *at > now)
    }

    /// A look begins. `chance`, from 0 to 1, spreads those of many clients.
    pub(crate) fn begin_look(&mut self, now: Instant, chance: f64) {
        let ceiling = LOOK_PAUSE.0.saturating_mul(1 << self.looks.min(20)).min(LOOK_PAUSE.1);
        self.looks = self.looks.saturating_add(1);
        self.next_look_at = Some(now + ceiling.mul_f64(0.5 + chance / 2.0));
    }

    /// A look has found nobody. The next one is not made at once, however long this one took. Returns when it may be
    /// made.
    pub(crate) fn end_look(&mut self, now: Instant) -> Instant {
        let earliest = now + LOOK_PAUSE.0 / 2;
        let next_at = self.next_look_at.map_or(earliest, |at| at.max(earliest));
        // Neither the time that a look took nor the pause after it is a calm one.
        self.last_at = Some(next_at);
        self.next_look_at = Some(next_at);
        next_at
    }
}

/// Requests that succeed for one repeat given back to the budget.
const SUCCESSES_PER_RETRY: u32 = 5;

/// A bucket of repeats, refilled by success and slowly by time.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    /// In fifths of a repeat, so that a success is a whole number.
    fifths: u64,
    fifths_max: u64,
    refilled_at: Instant,
}

impl RetryBudget {
    pub(crate) fn new(retries: u32, now: Instant) -> Self {
        let fifths_max = u64::from(retries) * u64::from(SUCCESSES_PER_RETRY);
        RetryBudget { fifths: fifths_max, fifths_max, refilled_at: now }
    }

    /// Takes one repeat, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        match self.fifths.checked_sub(u64::from(SUCCESSES_PER_RETRY)) {
            Some(rest) => {
                self.fifths = rest;
                true
            }
            None => false,
        }
    }

    /// A request succeeded.
    pub(crate) fn give(&mut self) {
        self.fifths = (self.fifths + 1).min(self.fifths_max);
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.refilled_at);
        let fifths = (self.fifths_max as f64 * 0.1 * elapsed.as_secs_f64()) as u64;
        if fifths > 0 {
            self.fifths = (self.fifths + fifths).min(self.fifths_max);
            self.refilled_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_ceiling_doubles_up_to_its_bound() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(100));
        let ceilings: Vec<u128> = (0..6).map(|attempts| backoff.ceiling(attempts).as_millis()).collect();
        assert_eq!(ceilings, [10, 20, 40, 80, 100, 100]);
        for attempts in 0..100 {
            assert!(backoff.pause() <= backoff.ceiling(attempts));
        }
        assert_eq!(backoff.ceiling(u32::MAX), Duration::from_millis(100));
    }

    #[test]
    fn pauses_are_spread_over_the_whole_range() {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(100));
        let pauses: Vec<Duration> = (0..400).map(|_| backoff.pause_after(3)).collect();
        assert!(pauses.iter().any(|pause| pause.as_millis() < 25));
        assert!(pauses.iter().any(|pause| pause.as_millis() > 75));
    }

    #[test]
    fn a_search_pauses_briefly_at_first_and_counts_attempts_as_a_backoff_would() {
        let backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        let start = Instant::now();
        let mut outage = Outage::new(start, &backoff);
        let mut now = start;
        let (mut rounds, mut attempts) = (0, 0);
        while now < start + Duration::from_millis(300) {
            let pause = outage.pause(now, &backoff);
            let elapsed = now - start;
            assert!(pause <= (elapsed / 16).max(Duration::from_millis(1)) && pause >= Duration::from_micros(500));
            now += pause;
            rounds += 1;
            attempts += usize::from(outage.take_attempt(now, &backoff));
        }
        assert!((50..150).contains(&rounds), "{rounds}");
        assert!((3..=5).contains(&attempts), "10, 20, 40, 80 and 160 ms: {attempts}");
        assert!(outage.pause(start + Duration::from_secs(3600), &backoff) <= Duration::from_secs(1));
    }

    /// The pauses between `count` looks that are made as soon as they may be, in milliseconds.
    fn look_pauses_ms(doubt: &mut LookBackoff, mut now: Instant, count: usize, chance: f64) -> Vec<u128> {
        let pause = |_| {
            assert_eq!(doubt.arise(now), None, "it is time");
            doubt.begin_look(now, chance);
            let at = doubt.end_look(now + Duration::from_millis(1));
            assert_eq!(doubt.arise(now + Duration::from_millis(2)), Some(at));
            let pause = at - now;
            now = at;
            pause.as_millis()
        };
        (0..count).map(pause).collect()
    }

    #[test]
    fn looks_for_a_newer_primary_begin_at_once_and_come_ever_more_rarely() {
        let start = Instant::now();
        let longest = look_pauses_ms(&mut LookBackoff::default(), start, 9, 1.0);
        assert_eq!(longest, [20, 40, 80, 160, 320, 640, 1000, 1000, 1000]);
        let shortest = look_pauses_ms(&mut LookBackoff::default(), start, 9, 0.0);
        assert_eq!(shortest, [11, 20, 40, 80, 160, 320, 500, 500, 500], "the first look ends after its half pause");
    }

    #[test]
    fn a_look_that_takes_long_is_followed_by_a_pause_all_the_same() {
        let start = Instant::now();
        let mut doubt = LookBackoff::default();
        doubt.begin_look(start, 1.0);
        let late = start + Duration::from_secs(2);
        assert_eq!(doubt.end_look(late), late + Duration::from_millis(10));
    }

    #[test]
    fn looks_that_take_longer_than_a_calm_time_still_grow_apart() {
        let mut now = Instant::now();
        let mut doubt = LookBackoff::default();
        for _ in 0..9 {
            doubt.arise(now);
            doubt.begin_look(now, 1.0);
            now = doubt.end_look(now + 2 * CALM);
        }
        assert_eq!(doubt.looks, 9);
    }

    #[test]
    fn a_doubt_right_after_another_goes_on_with_its_pauses_and_one_after_a_calm_time_begins_anew() {
        let start = Instant::now();
        let mut doubt = LookBackoff::default();
        look_pauses_ms(&mut doubt, start, 9, 1.0);
        // The ninth look was made 3260 ms after the first one, and the tenth is due at 4260 ms.
        let soon = start + Duration::from_millis(4100);
        assert_eq!(doubt.arise(soon), Some(start + Duration::from_millis(4260)));
        assert_eq!(doubt.arise(soon + CALM), None);
        assert_eq!(look_pauses_ms(&mut doubt, soon + CALM, 2, 1.0), [20, 40]);
    }

    #[test]
    fn the_budget_runs_out_and_comes_back_with_success_and_with_time() {
        let start = Instant::now();
        let mut budget = RetryBudget::new(3, start);
        assert!((0..3).all(|_| budget.take(start)));
        assert!(!budget.take(start));
        (0..SUCCESSES_PER_RETRY).for_each(|_| budget.give());
        assert!(budget.take(start));
        assert!(!budget.take(start));
        assert!(budget.take(start + Duration::from_secs(10)));
    }

    #[test]
    fn the_budget_never_grows_beyond_its_size() {
        let start = Instant::now();
        let mut budget = RetryBudget::new(2, start);
        (0..1000).for_each(|_| budget.give());
        let late = start + Duration::from_secs(3600);
        assert_eq!((0..100).filter(|_| budget.take(late)).count(), 2);
    }

    #[test]
    fn wake_is_the_earliest_of_what_it_was_given() {
        let start = Instant::now();
        let mut wake = Wake::default();
        assert_eq!(wake.at(), None);
        wake.lower(start + Duration::from_secs(2));
        wake.lower(start + Duration::from_secs(1));
        wake.lower(start + Duration::from_secs(3));
        assert_eq!(wake.at(), Some(start + Duration::from_secs(1)));
        wake.clear();
        assert_eq!(wake.at(), None);
    }
}
