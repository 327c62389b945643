//! Colours, type and numbers of all plots.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Okabe and Ito's palette, which people with any form of colour blindness can tell apart; without its black and
/// yellow, so that it works on light and on dark paper.
const SERIES: [RGBColor; 6] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
];

/// Text and axes. The page swaps this very colour for its own, so nothing else may have it.
pub(super) const INK: RGBColor = RGBColor(0x26, 0x26, 0x26);
/// Grid lines; swapped like the ink.
pub(super) const GRID: RGBColor = RGBColor(0xd9, 0xd9, 0xd9);
/// The background; swapped like the ink.
pub(super) const PAPER: RGBColor = RGBColor(0xff, 0xff, 0xff);
/// Times in which something was done to the servers; laid thinly over either paper.
pub(super) const SHADE: RGBColor = RGBColor(0xe6, 0x9f, 0x00);
/// The control, and everything else that is there for comparison only.
pub(super) const QUIET: RGBColor = RGBColor(0x80, 0x80, 0x80);

/// All plots are this wide, in pixels.
pub(super) const WIDTH: u32 = 900;
const FAMILY: &str = "sans-serif";

/// The colour of the nth series.
pub(super) fn series_color(index: usize) -> RGBColor {
    SERIES[index % SERIES.len()]
}

/// Text of this many pixels. The backend divides what it is given by 1.24.
pub(super) fn text(pixels: f64, color: RGBColor) -> TextStyle<'static> {
    (FAMILY, pixels * 1.24).into_font().color(&color)
}

/// The same in bold.
pub(super) fn bold(pixels: f64, color: RGBColor) -> TextStyle<'static> {
    (FAMILY, pixels * 1.24).into_font().style(FontStyle::Bold).color(&color)
}

/// The same, with its anchor at the left of its middle line.
pub(super) fn left(style: TextStyle<'static>) -> TextStyle<'static> {
    style.pos(Pos::new(HPos::Left, VPos::Center))
}

/// A unit of time that suits values up to some maximum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct TimeUnit {
    pub(super) name: &'static str,
    us: f64,
}

impl TimeUnit {
    pub(super) fn for_max(max_us: f64) -> Self {
        if max_us < 2e3 {
            Self { name: "µs", us: 1.0 }
        } else if max_us < 2e6 {
            Self { name: "ms", us: 1e3 }
        } else {
            Self { name: "s", us: 1e6 }
        }
    }

    pub(super) fn of(self, us: f64) -> f64 {
        us / self.us
    }
}

/// A time in its best unit with three significant digits: `4.25 ms`.
pub(crate) fn time_text(us: f64) -> String {
    let (value, unit) = match us.abs() {
        size if size < 1e3 => (us, "µs"),
        size if size < 1e6 => (us / 1e3, "ms"),
        _ => (us / 1e6, "s"),
    };
    format!("{} {unit}", three_digits(value))
}

/// A tick of a logarithmic time axis: `2 ms`, not `2.00 ms`.
pub(super) fn time_tick(us: f64) -> String {
    let full = time_text(us);
    let (number, unit) = full.split_once(' ').unwrap_or((&full, ""));
    format!("{} {unit}", trim_zeroes(number))
}

/// A rate with thousands: `20k`, `1.5M`.
pub(crate) fn rate_text(per_s: f64) -> String {
    let (value, suffix) = match per_s.abs() {
        size if size < 1e4 => (per_s, ""),
        size if size < 1e6 => (per_s / 1e3, "k"),
        _ => (per_s / 1e6, "M"),
    };
    let digits = if suffix.is_empty() { format!("{value:.0}") } else { three_digits(value) };
    format!("{}{suffix}", trim_zeroes(&digits))
}

/// A number with three significant digits, never in scientific notation.
pub(super) fn three_digits(value: f64) -> String {
    match value.abs() {
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn trim_zeroes(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

/// The bounds of a logarithmic axis that holds all positive `values`, with some room; `None` when there are none.
pub(super) fn log_bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let (low, high) = values
        .filter(|value| value.is_finite() && *value > 0.0)
        .fold((f64::INFINITY, 0.0f64), |(low, high), value| (low.min(value), high.max(value)));
    (high > 0.0).then(|| (low / 1.5, (high * 1.5).max(low * 10.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_a_fitting_unit() {
        assert_eq!(time_text(4.256), "4.26 µs");
        assert_eq!(time_text(999.0), "999 µs");
        assert_eq!(time_text(12_345.0), "12.3 ms");
        assert_eq!(time_text(-2_050.0), "-2.05 ms");
        assert_eq!(time_text(3_000_000.0), "3.00 s");
        assert_eq!(time_tick(2_000.0), "2 ms");
        assert_eq!(time_tick(500.0), "500 µs");
    }

    #[test]
    fn rates_are_short() {
        assert_eq!(rate_text(5_000.0), "5000");
        assert_eq!(rate_text(20_000.0), "20k");
        assert_eq!(rate_text(1_500_000.0), "1.5M");
        assert_eq!(rate_text(0.0), "0");
    }

    #[test]
    fn log_bounds_hold_all_values_and_at_least_a_decade() {
        assert_eq!(log_bounds([0.0, -1.0].into_iter()), None);
        let (low, high) = log_bounds([100.0, 120.0].into_iter()).expect("there are values");
        assert!(low < 100.0 && high >= 1000.0);
    }
}
