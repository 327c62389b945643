//! From values to pixels, and which values get a tick.

/// One axis of a panel.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    ticks: Vec<(f64, String)>,
    title: String,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Scale {
    Linear,
    Log,
}

/// Names of ticks that are closer than this share of the axis would touch.
const TICK_DISTANCE_MIN: f64 = 0.06;

impl Axis {
    /// A linear axis with round ticks, about `ticks` of them.
    pub(super) fn linear(low: f64, high: f64, ticks: usize, title: impl Into<String>) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        let step = round_step((high - low) / ticks.max(1) as f64);
        let decimals = usize::try_from(-step.log10().floor() as i64).unwrap_or(0);
        let first = (low / step - 1e-9).ceil() as i64;
        let last = (high / step + 1e-9).floor() as i64;
        let tick = |index| (index as f64 * step, format!("{:.decimals$}", index as f64 * step));
        Self { scale: Scale::Linear, low, high, ticks: (first..=last).map(tick).collect(), title: title.into() }
    }

    /// A linear axis with given ticks.
    pub(super) fn with_ticks(low: f64, high: f64, ticks: Vec<(f64, String)>, title: impl Into<String>) -> Self {
        Self { scale: Scale::Linear, low, high, ticks, title: title.into() }
    }

    /// A logarithmic axis with ticks at powers of ten, and between them when there are few.
    pub(super) fn log(low: f64, high: f64, name: impl Fn(f64) -> String, title: impl Into<String>) -> Self {
        let low = low.max(f64::MIN_POSITIVE);
        let high = high.max(low * 1.01);
        let decades = (high / low).log10();
        let factors: &[f64] = if decades < 3.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
        let ticks = powers
            .flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power)))
            .filter(|value| (low..=high).contains(value))
            .map(|value| (value, name(value)))
            .collect();
        Self { scale: Scale::Log, low, high, ticks, title: title.into() }
    }

    /// A logarithmic axis with ticks at the `values` that were measured: all, or so many that their names do not touch,
    /// the highest first.
    pub(super) fn log_at(
        low: f64,
        high: f64,
        values: impl IntoIterator<Item = f64>,
        name: impl Fn(f64) -> String,
        title: impl Into<String>,
    ) -> Self {
        let mut axis = Self::log(low, high, &name, title);
        let mut values: Vec<f64> = values.into_iter().filter(|value| (axis.low..=axis.high).contains(value)).collect();
        values.sort_by(f64::total_cmp);
        let mut ticks: Vec<(f64, String)> = Vec::new();
        for value in values.into_iter().rev() {
            if ticks.last().is_none_or(|(last, _)| axis.share(*last) - axis.share(value) >= TICK_DISTANCE_MIN) {
                ticks.push((value, name(value)));
            }
        }
        axis.ticks = ticks;
        axis
    }

    /// The same axis with other names on its ticks.
    pub(super) fn named(mut self, name: impl Fn(f64) -> String) -> Self {
        for (value, text) in &mut self.ticks {
            *text = name(*value);
        }
        self
    }

    pub(super) fn ticks(&self) -> &[(f64, String)] {
        &self.ticks
    }

    pub(super) fn title(&self) -> &str {
        &self.title
    }

    /// Where a value lies between the ends, as a share; values outside lie outside of 0..=1.
    pub(super) fn share(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => (value.max(f64::MIN_POSITIVE) / self.low).ln() / (self.high / self.low).ln(),
        }
    }
}

/// The smallest of 1, 2 and 5 times a power of ten that is at least `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= step * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(axis: &Axis) -> Vec<&str> {
        axis.ticks().iter().map(|(_, name)| name.as_str()).collect()
    }

    #[test]
    fn linear_ticks_are_round() {
        assert_eq!(names(&Axis::linear(0.0, 10.3, 6, "")), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(names(&Axis::linear(0.0, 0.93, 5, "")), ["0.0", "0.2", "0.4", "0.6", "0.8"]);
        assert_eq!(names(&Axis::linear(0.0, 0.0, 2, "")), ["0.0", "0.5", "1.0"], "an empty range becomes one");
    }

    #[test]
    fn log_ticks_thin_out_over_many_decades() {
        let few = Axis::log(90.0, 1100.0, |value| format!("{value:.0}"), "");
        assert_eq!(names(&few), ["100", "200", "500", "1000"]);
        let many = Axis::log(1.0, 1e6, |value| format!("{value:.0}"), "");
        assert_eq!(names(&many).len(), 7);
    }

    #[test]
    fn the_last_measured_rate_had_no_tick() {
        let name = |value: f64| format!("{value:.0}");
        let rates = [2e3, 5e3, 1e4, 2e4, 4e4];
        let axis = Axis::log_at(1.6e3, 4.6e4, rates, name, "");
        assert_eq!(names(&axis), ["40000", "20000", "10000", "5000", "2000"]);
        let crowded = Axis::log_at(0.8, 115.0, (1..=100).map(f64::from), name, "");
        assert_eq!(names(&crowded)[0], "100");
        assert!(names(&crowded).len() < 16, "{:?}", names(&crowded));
        assert!(names(&Axis::log_at(1.0, 10.0, [], name, "")).is_empty());
    }

    #[test]
    fn shares_follow_the_scale() {
        assert_eq!(Axis::linear(0.0, 10.0, 5, "").share(2.5), 0.25);
        let log = Axis::log(1.0, 10_000.0, |_| String::new(), "");
        assert!((log.share(100.0) - 0.5).abs() < 1e-12);
        assert!(log.share(0.0).is_finite(), "zero has no logarithm, but a place far below");
    }
}
