//! Latency against the number of servers.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::PlotError;
use super::axis::Axis;
use super::fit::LinearFit;
use super::frame::{Frame, Heading};
use super::panel::{Panel, Stroke};
use super::style::{QUIET, TimeUnit, series_color, time_text};

/// The quantiles that have a panel each.
pub const QUANTILES: [&str; 3] = ["p50", "p99", "p99.9"];

/// One line of the plot.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerSeries {
    /// Fan-out and ack policy, in words.
    pub name: String,
    /// Whether this is the control: only one process works, the others are merely alive.
    pub control: bool,
    /// By number of servers, ascending.
    pub points: Vec<ServerPoint>,
}

/// All measurements of one combination at one number of servers.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerPoint {
    /// Server processes.
    pub servers: usize,
    /// Per quantile the median of the repeats, the lowest and the highest, in microseconds.
    pub latency_us: [Spread; 3],
    /// Whether no repeat was valid, so that the point is hollow and not part of the fit.
    pub void: bool,
}

/// A median and how far the repeats lie apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

impl Spread {
    /// The spread of `values`; `None` when there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (&low, &high) = (sorted.first()?, sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Some(Self { median, low, high })
    }
}

impl ServerSeries {
    /// The line through the valid points of one quantile.
    pub fn fit(&self, quantile: usize) -> Option<LinearFit> {
        let valid = self.points.iter().filter(|point| !point.void);
        let points: Vec<_> = valid.map(|point| (point.servers as f64, point.latency_us[quantile].median)).collect();
        LinearFit::through(&points)
    }
}

const PANEL_HEIGHT: u32 = 300;
const LABEL_WIDTH: i32 = 235;

/// Draws one panel per quantile.
///
/// # Errors
///
/// When the drawing library refuses, which it has no reason to.
pub fn latency_against_servers(title: &str, scenario: &str, series: &[ServerSeries]) -> Result<String, PlotError> {
    let frame = Frame { panel_height: PANEL_HEIGHT, panels: QUANTILES.len() as u32 };
    let heading = Heading { title, scenario };
    frame.draw(&heading, |panel, area| draw_panel(area, panel, series))
}

fn draw_panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    quantile: usize,
    series: &[ServerSeries],
) -> Result<(), PlotError> {
    let points = || series.iter().flat_map(|line| &line.points);
    let Some(first) = points().map(|point| point.servers).min() else { return Ok(()) };
    let last = points().map(|point| point.servers).max().unwrap_or(first);
    let max_us = points().map(|point| point.latency_us[quantile].high).fold(1.0, f64::max);
    let unit = TimeUnit::for_max(max_us);
    let ticks = (first..=last).map(|servers| (servers as f64, servers.to_string())).collect();
    let x = Axis::with_ticks(first as f64 - 0.25, last as f64 + 0.25, ticks, "servers");
    let y_title = format!("{} response ({})", QUANTILES[quantile], unit.name);
    let mut panel = Panel::new(area, x, Axis::linear(0.0, unit.of(max_us) * 1.08, 6, y_title), LABEL_WIDTH)?;
    let mut color_index = 0;
    for line in series {
        let color = if line.control { QUIET } else { series_color(color_index) };
        color_index += usize::from(!line.control);
        draw_line(&mut panel, line, quantile, unit, color)?;
    }
    panel.finish()
}

fn draw_line(
    panel: &mut Panel<'_, '_>,
    line: &ServerSeries,
    quantile: usize,
    unit: TimeUnit,
    color: RGBColor,
) -> Result<(), PlotError> {
    let place = |point: &ServerPoint| (point.servers as f64, unit.of(point.latency_us[quantile].median));
    let (Some(from), Some(to)) = (line.points.first(), line.points.last()) else { return Ok(()) };
    let fit = line.fit(quantile);
    if let Some(fit) = fit {
        let ends = [from.servers as f64, to.servers as f64].map(|x| (x, unit.of(fit.at(x))));
        panel.line(&ends, color, 1, Stroke::Dotted)?;
    }
    let points: Vec<_> = line.points.iter().map(place).collect();
    panel.line(&points, color, 2, if line.control { Stroke::Dashed } else { Stroke::Solid })?;
    for point in &line.points {
        let (x, y) = place(point);
        let Spread { low, high, .. } = point.latency_us[quantile];
        panel.whisker(x, unit.of(low), unit.of(high), color)?;
        panel.marker(x, y, color, point.void)?;
    }
    let note =
        fit.map_or_else(String::new, |fit| format!("{} per server, R² {:.3}", SignedTime(fit.slope), fit.r_squared));
    panel.name(place(to), line.name.clone(), note, color);
    Ok(())
}

/// A time with its sign.
struct SignedTime(f64);

impl std::fmt::Display for SignedTime {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.0 < 0.0 { "−" } else { "+" };
        write!(out, "{sign}{}", time_text(self.0.abs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, control: bool, slope_us: f64) -> ServerSeries {
        let point = |servers: usize| {
            let at = |factor: f64| {
                let median = factor * (400.0 + slope_us * servers as f64);
                Spread { median, low: median * 0.9, high: median * 1.2 }
            };
            ServerPoint { servers, latency_us: [at(1.0), at(3.0), at(5.0)], void: servers == 5 }
        };
        ServerSeries { name: name.to_owned(), control, points: (1..=5).map(point).collect() }
    }

    fn drawn() -> String {
        let all = [
            series("sequential, all", false, 2000.0),
            series("parallel, all", false, 20.0),
            series("control", true, 5.0),
        ];
        latency_against_servers("Latency against servers", "a made-up scenario", &all).expect("it can be drawn")
    }

    #[test]
    fn every_line_is_named_in_every_panel_with_its_slope() {
        let svg = drawn();
        for name in ["sequential, all", "parallel, all", "control"] {
            assert_eq!(svg.lines().filter(|line| line.trim() == name).count(), 3, "{name}");
        }
        assert!(svg.contains("+2.00 ms per server, R² 1.000"), "the slope of the first panel's first line");
        for text in ["p50 response (ms)", "p99.9 response (ms)", "servers", "a made-up scenario"] {
            assert!(svg.contains(text), "{text}");
        }
    }

    #[test]
    fn void_points_are_hollow() {
        let svg = drawn();
        let circles = svg.lines().filter(|line| line.starts_with("<circle"));
        let (hollow, filled): (Vec<_>, Vec<_>) = circles.partition(|line| line.contains("fill=\"none\""));
        assert_eq!((hollow.len(), filled.len()), (9, 36));
    }

    #[test]
    fn void_points_are_no_part_of_the_fit() {
        let mut line = series("x", false, 100.0);
        line.points[4].latency_us[0].median = 1e9;
        assert!((line.fit(0).expect("four valid points").slope - 100.0).abs() < 1e-6);
    }

    #[test]
    fn a_median_is_the_middle_or_between_the_middles() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, low: 1.0, high: 3.0 }));
        assert_eq!(Spread::of(&[4.0, 1.0]), Some(Spread { median: 2.5, low: 1.0, high: 4.0 }));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn nothing_to_draw_is_an_empty_sheet() {
        assert!(latency_against_servers("t", "s", &[]).is_ok());
    }
}
