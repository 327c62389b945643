//! The whole distribution, with a tail that can be seen.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::PlotError;
use super::axis::Axis;
use super::frame::{Frame, Heading};
use super::panel::{Panel, Stroke};
use super::style::{QUIET, log_bounds, series_color, time_text, time_tick};

const PANEL_HEIGHT: u32 = 400;
const LABEL_WIDTH: i32 = 190;
/// Beyond this many nines a curve is only its maximum.
const NINES_MAX: f64 = 6.0;

/// One distribution.
#[derive(Debug, Clone, PartialEq)]
pub struct PercentileCurve {
    /// What it is of.
    pub name: String,
    /// Whether it is there for comparison only.
    pub quiet: bool,
    /// Pairs of quantile (0 to 1) and latency in microseconds, ascending.
    pub points: Vec<(f64, f64)>,
}

/// Draws latency over the percentile, stretched towards 100 %.
///
/// # Errors
///
/// When the drawing library refuses, which it has no reason to.
pub fn percentile_curves(title: &str, scenario: &str, curves: &[PercentileCurve]) -> Result<String, PlotError> {
    let frame = Frame { panel_height: PANEL_HEIGHT, panels: 1 };
    frame.draw(&Heading { title, scenario }, |_, area| draw_panel(area, curves))
}

/// How many nines a quantile has: 0.9 → 1, 0.999 → 3.
fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).max(1e-12).log10()
}

fn draw_panel(area: &DrawingArea<SVGBackend<'_>, Shift>, curves: &[PercentileCurve]) -> Result<(), PlotError> {
    let values = curves.iter().flat_map(|curve| curve.points.iter().map(|(_, latency_us)| *latency_us));
    let Some((low, high)) = log_bounds(values) else { return Ok(()) };
    let longest = curves
        .iter()
        .flat_map(|curve| curve.points.iter().filter(|(quantile, _)| *quantile < 1.0))
        .map(|(quantile, _)| nines(*quantile))
        .fold(1.0, f64::max);
    // A little more, for logarithms are not exact.
    let longest = longest.clamp(1.0, NINES_MAX) + 1e-6;
    let mut ticks = vec![(0.0, "0".to_owned()), (nines(0.5), "50".to_owned())];
    let names = ["90", "99", "99.9", "99.99", "99.999", "99.9999"];
    ticks.extend(names.iter().enumerate().map(|(index, name)| (index as f64 + 1.0, (*name).to_owned())));
    ticks.retain(|(position, _)| *position <= longest);
    let x = Axis::with_ticks(0.0, longest * 1.02, ticks, "percentile of requests (%), stretched towards 100");
    let mut panel = Panel::new(area, x, Axis::log(low, high, time_tick, "latency (logarithmic)"), LABEL_WIDTH)?;
    let mut color_index = 0;
    for curve in curves {
        let color = if curve.quiet { QUIET } else { series_color(color_index) };
        color_index += usize::from(!curve.quiet);
        let line: Vec<_> = curve
            .points
            .iter()
            .filter(|(quantile, _)| nines(*quantile) <= longest)
            .map(|(quantile, latency_us)| (nines(*quantile), *latency_us))
            .collect();
        panel.line(&line, color, 2, if curve.quiet { Stroke::Dashed } else { Stroke::Solid })?;
        if let (Some(end), Some((_, max_us))) = (line.last(), curve.points.last()) {
            panel.name(*end, curve.name.clone(), format!("max {}", time_text(*max_us)), color);
        }
    }
    panel.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_reaches_as_far_as_its_quantiles() {
        let points = vec![(0.0, 50.0), (0.5, 100.0), (0.9, 200.0), (0.99, 900.0), (0.999, 5000.0), (1.0, 9000.0)];
        let curve = PercentileCurve { name: "response".to_owned(), quiet: false, points };
        let svg = percentile_curves("t", "s", &[curve]).expect("it can be drawn");
        let has = |text: &str| svg.lines().any(|line| line.trim() == text);
        assert!(has("99.9") && !has("99.99"), "ticks end where the data ends");
        assert!(has("max 9.00 ms"));
    }

    #[test]
    fn nines_are_counted() {
        assert!((nines(0.999) - 3.0).abs() < 1e-9);
        assert_eq!(nines(0.0), 0.0);
        assert!(nines(1.0).is_finite());
    }
}
