//! How long nothing was answered, fault by fault and as a distribution.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::PlotError;
use super::axis::Axis;
use super::frame::{Frame, Heading};
use super::panel::{Panel, Stroke};
use super::style::{QUIET, series_color, time_text};
use crate::failover::Failover;

const PANEL_HEIGHT: u32 = 260;
const LABEL_WIDTH: i32 = 150;

/// Draws the share of faults whose gap was at most so long, and below it the gap of each fault in order.
///
/// # Errors
///
/// When the drawing library refuses, which it has no reason to.
pub fn failover_gaps(title: &str, scenario: &str, failover: &Failover) -> Result<String, PlotError> {
    let frame = Frame { panel_height: PANEL_HEIGHT, panels: 2 };
    frame.draw(&Heading { title, scenario }, |panel, area| match panel {
        0 => draw_distribution(area, failover),
        _ => draw_each(area, failover),
    })
}

fn highest(failover: &Failover) -> f64 {
    failover.repeats.iter().map(|repeat| repeat.gap_ms).fold(1.0, f64::max)
}

fn draw_distribution(area: &DrawingArea<SVGBackend<'_>, Shift>, failover: &Failover) -> Result<(), PlotError> {
    let Some(gap) = &failover.gap else { return Ok(()) };
    let x = Axis::linear(0.0, highest(failover) * 1.05, 8, "gap without answers (ms)");
    let mut panel = Panel::new(area, x, Axis::linear(0.0, 100.0, 5, "faults with at most that gap (%)"), LABEL_WIDTH)?;
    let gaps = failover.sorted_gaps_ms();
    let mut steps = vec![(0.0, 0.0)];
    for (index, gap_ms) in gaps.iter().enumerate() {
        let share = |count: usize| 100.0 * count as f64 / gaps.len() as f64;
        steps.push((*gap_ms, share(index)));
        steps.push((*gap_ms, share(index + 1)));
    }
    panel.line(&steps, series_color(0), 2, Stroke::Solid)?;
    for (name, at_ms, percent) in [("p50", gap.p50_ms, 50.0), ("p99", gap.p99_ms, 99.0)] {
        panel.line(&[(at_ms, 0.0), (at_ms, percent)], QUIET, 1, Stroke::Dashed)?;
        panel.name((at_ms, percent), format!("{name} {}", time_text(at_ms * 1e3)), String::new(), series_color(0));
    }
    panel.finish()
}

fn draw_each(area: &DrawingArea<SVGBackend<'_>, Shift>, failover: &Failover) -> Result<(), PlotError> {
    let Some(gap) = &failover.gap else { return Ok(()) };
    let count = failover.repeats.len() as f64;
    let x = Axis::linear(0.0, count + 1.0, 10, "fault, in the order in which they were inflicted");
    let y = Axis::linear(0.0, highest(failover) * 1.1, 5, "gap (ms)");
    let mut panel = Panel::new(area, x, y, LABEL_WIDTH)?;
    for (index, repeat) in failover.repeats.iter().enumerate() {
        let place = index as f64 + 1.0;
        panel.whisker(place, 0.0, repeat.gap_ms, series_color(0))?;
        panel.marker(place, repeat.gap_ms, series_color(0), false)?;
    }
    panel.line(&[(0.0, gap.max_ms), (count + 1.0, gap.max_ms)], QUIET, 1, Stroke::Dashed)?;
    panel.name((count + 1.0, gap.max_ms), format!("max {}", time_text(gap.max_ms * 1e3)), String::new(), QUIET);
    panel.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::{FailoverFault, FailoverRepeat, GapDistribution};

    #[test]
    fn every_fault_has_its_point_and_quantiles_are_named() {
        let repeat = |gap_ms| FailoverRepeat { at_s: 1.0, from: 0, to: 1, view: 1, gap_ms, whole_after_s: 0.1 };
        let repeats: Vec<_> = [290.0, 310.0, 305.0].map(repeat).to_vec();
        let gaps: Vec<f64> = repeats.iter().map(|repeat| repeat.gap_ms).collect();
        let failover = Failover {
            scenario: "s".to_owned(),
            fault: FailoverFault::KillPrimary,
            gap: GapDistribution::of(&gaps),
            repeats,
            summary: crate::record::Summary::empty(),
        };
        let svg = failover_gaps("Gaps", "s", &failover).expect("it can be drawn");
        assert_eq!(svg.matches("<circle").count(), 3);
        let has = |text: &str| svg.lines().any(|line| line.trim() == text);
        assert!(has("p50 305 ms") && has("p99 310 ms") && has("max 310 ms"));
        let none = Failover { repeats: Vec::new(), gap: None, ..failover };
        assert!(failover_gaps("Gaps", "s", &none).is_ok(), "a series that ended at once can be drawn as well");
    }
}
