//! Throughput and latency over the time of a run.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::PlotError;
use super::axis::Axis;
use super::frame::{Frame, Heading};
use super::panel::{Panel, Stroke};
use super::style::{QUIET, log_bounds, rate_text, series_color, time_tick};

const PANEL_HEIGHT: u32 = 260;
const LABEL_WIDTH: i32 = 130;

/// One interval of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimePoint {
    /// Its beginning, in seconds after the warm-up.
    pub start_s: f64,
    /// Answered requests per second.
    pub ok_per_s: f64,
    /// Median response time, in microseconds.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// The slowest.
    pub max_us: f64,
}

/// A time in which something was done to the servers.
#[derive(Debug, Clone, PartialEq)]
pub struct Shade {
    /// Its beginning, in seconds after the warm-up.
    pub from_s: f64,
    /// Its end.
    pub to_s: f64,
    /// What was done.
    pub name: String,
}

/// Draws answered requests per second, and below them response times.
///
/// # Errors
///
/// When the drawing library refuses, which it has no reason to.
pub fn time_series(
    title: &str,
    scenario: &str,
    offered_per_s: Option<f64>,
    points: &[TimePoint],
    shades: &[Shade],
) -> Result<String, PlotError> {
    Frame { panel_height: PANEL_HEIGHT, panels: 2 }.draw(&Heading { title, scenario }, |panel, area| match panel {
        0 => draw_throughput(area, offered_per_s, points, shades),
        _ => draw_latency(area, points, shades),
    })
}

fn time_axis(points: &[TimePoint]) -> Axis {
    let first = points.first().map_or(0.0, |point| point.start_s);
    let last = points.last().map_or(1.0, |point| point.start_s);
    Axis::linear(first, last, 8, "time since the end of the warm-up (s)")
}

fn draw_throughput(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    offered_per_s: Option<f64>,
    points: &[TimePoint],
    shades: &[Shade],
) -> Result<(), PlotError> {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Ok(()) };
    let highest = points.iter().map(|point| point.ok_per_s).chain(offered_per_s).fold(1.0, f64::max);
    let y = Axis::linear(0.0, highest * 1.1, 5, "answered (requests/s)").named(rate_text);
    let mut panel = Panel::new(area, time_axis(points), y, LABEL_WIDTH)?;
    for (index, shade) in shades.iter().enumerate() {
        panel.shade(shade.from_s, shade.to_s)?;
        panel.caption(shade.from_s, index, &shade.name)?;
    }
    if let Some(offered) = offered_per_s {
        panel.line(&[(first.start_s, offered), (last.start_s, offered)], QUIET, 1, Stroke::Dashed)?;
        panel.name((last.start_s, offered), "offered", String::new(), QUIET);
    }
    let line: Vec<_> = points.iter().map(|point| (point.start_s, point.ok_per_s)).collect();
    panel.line(&line, series_color(0), 2, Stroke::Solid)?;
    panel.name((last.start_s, last.ok_per_s), "answered", String::new(), series_color(0));
    panel.finish()
}

fn draw_latency(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    points: &[TimePoint],
    shades: &[Shade],
) -> Result<(), PlotError> {
    type Pick = fn(&TimePoint) -> f64;
    let lines: [(&str, Pick, RGBColor); 3] = [
        ("max", |point| point.max_us, series_color(1)),
        ("p99", |point| point.p99_us, series_color(2)),
        ("p50", |point| point.p50_us, series_color(0)),
    ];
    let values = points.iter().flat_map(|point| lines.iter().map(|(_, pick, _)| pick(point)));
    let Some((low, high)) = log_bounds(values) else { return Ok(()) };
    let y = Axis::log(low, high, time_tick, "response (logarithmic)");
    let mut panel = Panel::new(area, time_axis(points), y, LABEL_WIDTH)?;
    for shade in shades {
        panel.shade(shade.from_s, shade.to_s)?;
    }
    for (name, pick, color) in lines {
        // An interval without an answer has no latency: the line bridges it, and the panel above shows the hole.
        let line: Vec<_> =
            points.iter().map(|point| (point.start_s, pick(point))).filter(|(_, us)| *us > 0.0).collect();
        panel.line(&line, color, 2, Stroke::Solid)?;
        if let Some(end) = line.last() {
            panel.name(*end, name, String::new(), color);
        }
    }
    panel.finish()
}
