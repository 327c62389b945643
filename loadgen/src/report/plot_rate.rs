//! Latency against the offered rate.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::PlotError;
use super::axis::Axis;
use super::frame::{Frame, Heading};
use super::panel::{Panel, Stroke};
use super::style::{QUIET, log_bounds, rate_text, series_color, time_text, time_tick};
use crate::record::Summary;

const PANEL_HEIGHT: u32 = 330;
const LABEL_WIDTH: i32 = 190;

/// Draws response times over the offered rate (logarithmic), and below it the achieved rate, which leaves the diagonal
/// where the servers are saturated. `runs` in ascending order of their rates; those without a rate are left out.
///
/// # Errors
///
/// When the drawing library refuses, which it has no reason to.
pub fn latency_against_rate(title: &str, scenario: &str, runs: &[Summary]) -> Result<String, PlotError> {
    let points: Vec<_> = runs.iter().filter_map(|run| Some((run.offered_per_s?, run))).collect();
    Frame { panel_height: PANEL_HEIGHT, panels: 2 }.draw(&Heading { title, scenario }, |panel, area| match panel {
        0 => draw_latency(area, &points),
        _ => draw_achieved(area, &points),
    })
}

fn rate_axis(points: &[(f64, &Summary)]) -> Axis {
    let highest = points.iter().map(|(rate, _)| *rate).fold(1.0, f64::max);
    Axis::linear(0.0, highest * 1.04, 7, "offered rate (requests/s)").named(rate_text)
}

fn draw_latency(area: &DrawingArea<SVGBackend<'_>, Shift>, points: &[(f64, &Summary)]) -> Result<(), PlotError> {
    type Pick = fn(&Summary) -> f64;
    let lines: [(&str, Pick, Stroke, RGBColor); 4] = [
        ("p99.9", |run| run.response.p999_us, Stroke::Solid, series_color(1)),
        ("p99", |run| run.response.p99_us, Stroke::Solid, series_color(2)),
        ("p50", |run| run.response.p50_us, Stroke::Solid, series_color(0)),
        ("p50 service", |run| run.service.p50_us, Stroke::Dashed, QUIET),
    ];
    let values = points.iter().flat_map(|(_, run)| lines.iter().map(|(_, pick, ..)| pick(run)));
    let Some((low, high)) = log_bounds(values) else { return Ok(()) };
    let y = Axis::log(low, high, time_tick, "response time (logarithmic)");
    let mut panel = Panel::new(area, rate_axis(points), y, LABEL_WIDTH)?;
    for (name, pick, stroke, color) in lines {
        let line: Vec<_> = points.iter().map(|(rate, run)| (*rate, pick(run))).collect();
        panel.line(&line, color, 2, stroke)?;
        for ((rate, run), &(_, latency)) in points.iter().zip(&line) {
            panel.marker(*rate, latency, color, run.verdict.is_void())?;
        }
        let (Some(first), Some(last)) = (line.first(), line.last()) else { continue };
        panel.name(*last, name, format!("{} to {}", time_text(first.1), time_text(last.1)), color);
    }
    panel.finish()
}

fn draw_achieved(area: &DrawingArea<SVGBackend<'_>, Shift>, points: &[(f64, &Summary)]) -> Result<(), PlotError> {
    let Some(highest) = points.iter().map(|(rate, _)| *rate).max_by(f64::total_cmp) else { return Ok(()) };
    let y = Axis::linear(0.0, highest * 1.04, 6, "answered (requests/s)").named(rate_text);
    let mut panel = Panel::new(area, rate_axis(points), y, LABEL_WIDTH)?;
    panel.line(&[(0.0, 0.0), (highest, highest)], QUIET, 1, Stroke::Dotted)?;
    panel.name((highest, highest), "as offered", String::new(), QUIET);
    let line: Vec<_> = points.iter().map(|(rate, run)| (*rate, run.achieved_per_s)).collect();
    panel.line(&line, series_color(0), 2, Stroke::Solid)?;
    for (rate, run) in points {
        panel.marker(*rate, run.achieved_per_s, series_color(0), run.verdict.is_void())?;
    }
    if let (Some(last), Some(most)) = (line.last(), line.iter().map(|point| point.1).max_by(f64::total_cmp)) {
        panel.name(*last, "answered", format!("at most {}/s", rate_text(most)), series_color(0));
    }
    panel.finish()
}
