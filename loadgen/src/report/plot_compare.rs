//! Several systems under the same offered rates.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::PlotError;
use super::axis::Axis;
use super::frame::{Frame, Heading};
use super::panel::{Panel, Stroke};
use super::style::{log_bounds, rate_text, series_color, time_text, time_tick};

const PANEL_HEIGHT: u32 = 330;
const LABEL_WIDTH: i32 = 230;

/// One system's line.
#[derive(Debug, Clone, PartialEq)]
pub struct ComparedLine {
    /// Its name.
    pub name: String,
    /// In ascending order of the rate.
    pub points: Vec<ComparedPoint>,
}

/// What one system made of one offered rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ComparedPoint {
    /// Requests per second.
    pub offered_per_s: f64,
    /// The median response time.
    pub p50_us: f64,
    /// That of the slowest hundredth.
    pub p99_us: f64,
    /// Whether the generator's verdict was VOID.
    pub is_void: bool,
}

/// Draws the p50 of each system over the offered rate, and below it the p99.
///
/// # Errors
///
/// When the drawing library refuses.
pub fn compared_latencies(title: &str, scenario: &str, lines: &[ComparedLine]) -> Result<String, PlotError> {
    type Pick = fn(&ComparedPoint) -> f64;
    let panels: [(&str, Pick); 2] = [("p50", |point| point.p50_us), ("p99", |point| point.p99_us)];
    Frame { panel_height: PANEL_HEIGHT, panels: 2 }.draw(&Heading { title, scenario }, |panel, area| {
        let (quantile, pick) = panels[panel];
        draw(area, lines, quantile, pick)
    })
}

fn draw(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    lines: &[ComparedLine],
    quantile: &str,
    pick: fn(&ComparedPoint) -> f64,
) -> Result<(), PlotError> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let Some((low, high)) = log_bounds(points().map(pick)) else { return Ok(()) };
    let rates = || points().map(|point| point.offered_per_s);
    let (lowest, highest) = (rates().fold(f64::MAX, f64::min), rates().fold(1.0, f64::max));
    let x = Axis::log_at(lowest * 0.8, highest * 1.15, rates(), rate_text, "offered rate (requests/s), logarithmic");
    let y = Axis::log(low, high, time_tick, format!("{quantile} of the response time (logarithmic)"));
    let mut panel = Panel::new(area, x, y, LABEL_WIDTH)?;
    for (number, line) in lines.iter().enumerate() {
        let color = series_color(number);
        let path: Vec<_> = line.points.iter().map(|point| (point.offered_per_s, pick(point))).collect();
        panel.line(&path, color, 2, Stroke::Solid)?;
        for (point, &(x, y)) in line.points.iter().zip(&path) {
            panel.marker(x, y, color, point.is_void)?;
        }
        let (Some(first), Some(last)) = (path.first(), path.last()) else { continue };
        panel.name(*last, &*line.name, format!("{} to {}", time_text(first.1), time_text(last.1)), color);
    }
    panel.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(offered_per_s: f64, is_void: bool) -> ComparedPoint {
        ComparedPoint { offered_per_s, p50_us: 100.0, p99_us: 900.0, is_void }
    }

    #[test]
    fn each_system_has_a_line_with_its_name_and_void_points_are_hollow() {
        let line = |name: &str| ComparedLine {
            name: name.to_owned(),
            points: vec![point(1_000.0, false), point(50_000.0, true)],
        };
        let svg = compared_latencies("t", "s", &[line("this"), line("that")]).expect("it can be drawn");
        let texts = |wanted: &str| svg.lines().filter(|text| text.trim() == wanted).count();
        assert_eq!((texts("this"), texts("that")), (2, 2), "in both panels");
        let hollow = svg.lines().filter(|text| text.starts_with("<circle") && text.contains("fill=\"none\"")).count();
        assert_eq!(hollow, 4);
    }

    #[test]
    fn nothing_measured_is_no_error() {
        assert!(compared_latencies("t", "s", &[]).is_ok());
    }
}
