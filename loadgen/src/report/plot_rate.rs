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

/// Rates in equal ratios would crowd at the left of a linear axis.
fn is_wide(points: &[(f64, &Summary)]) -> bool {
    let highest = points.iter().map(|(rate, _)| *rate).fold(0.0, f64::max);
    points.iter().any(|(rate, _)| highest > 8.0 * rate)
}

/// An axis for `values` that are rates; a wide one has its ticks at the rates that were offered.
fn axis(points: &[(f64, &Summary)], values: impl Iterator<Item = f64> + Clone, title: &str) -> Axis {
    let highest = values.clone().fold(1.0, f64::max);
    if is_wide(points) {
        let lowest = values.filter(|value| *value > 0.0).fold(highest, f64::min);
        let offered = points.iter().map(|(rate, _)| *rate);
        Axis::log_at(lowest * 0.8, highest * 1.15, offered, rate_text, format!("{title}, logarithmic"))
    } else {
        Axis::linear(0.0, highest * 1.04, 7, title).named(rate_text)
    }
}

fn rate_axis(points: &[(f64, &Summary)]) -> Axis {
    axis(points, points.iter().map(|(rate, _)| *rate), "offered rate (requests/s)")
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
    let rates = points.iter().map(|(rate, _)| *rate);
    let Some(highest) = rates.clone().max_by(f64::total_cmp) else { return Ok(()) };
    let lowest = rates.clone().fold(highest, f64::min);
    let values = rates.chain(points.iter().map(|(_, run)| run.achieved_per_s));
    let y = axis(points, values, "answered (requests/s)");
    let mut panel = Panel::new(area, rate_axis(points), y, LABEL_WIDTH)?;
    panel.line(&[(lowest, lowest), (highest, highest)], QUIET, 1, Stroke::Dotted)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Counts, Latency, Verdict};

    fn run(offered: f64, achieved: f64, void: bool) -> Summary {
        let mut verdict = Verdict::valid();
        if void {
            verdict.object("made up".to_owned());
        }
        let latency =
            Latency { count: 9, p50_us: offered / 10.0, p99_us: offered, p999_us: 2.0 * offered, ..Latency::default() };
        Summary {
            scenario: String::new(),
            verdict,
            offered_per_s: Some(offered),
            achieved_per_s: achieved,
            elapsed_s: 1.0,
            planned_s: Some(1.0),
            counts: Counts::default(),
            response: latency,
            reads: Latency::default(),
            writes: latency,
            service: latency,
            lateness: Latency::default(),
            thirds: None,
            processes: Vec::new(),
            faults: Vec::new(),
            audit: None,
        }
    }

    fn has_text(svg: &str, text: &str) -> bool {
        svg.lines().any(|line| line.trim() == text)
    }

    #[test]
    fn saturation_is_told_and_void_points_are_hollow() {
        let runs = [run(10_000.0, 10_000.0, false), run(20_000.0, 20_000.0, false), run(40_000.0, 25_000.0, true)];
        let svg = latency_against_rate("t", "s", &runs).expect("it can be drawn");
        assert!(has_text(&svg, "at most 25k/s") && has_text(&svg, "as offered"));
        assert!(has_text(&svg, "offered rate (requests/s)"), "a narrow range of rates has a linear axis");
        let hollow = svg.lines().filter(|line| line.starts_with("<circle") && line.contains("fill=\"none\"")).count();
        assert_eq!(hollow, 5, "one per line of both panels");
    }

    #[test]
    fn a_wide_range_of_rates_has_a_logarithmic_axis() {
        let runs = [run(1_000.0, 1_000.0, false), run(100_000.0, 90_000.0, false)];
        let svg = latency_against_rate("t", "s", &runs).expect("it can be drawn");
        assert!(has_text(&svg, "offered rate (requests/s), logarithmic"));
        assert!(has_text(&svg, "1000") && has_text(&svg, "100k"), "the rates that were measured have ticks");
    }

    #[test]
    fn runs_without_a_rate_are_left_out() {
        let full = Summary { offered_per_s: None, ..run(1_000.0, 1_000.0, false) };
        let svg = latency_against_rate("t", "s", &[full]).expect("it can be drawn");
        assert_eq!(svg.matches("<circle").count(), 0);
    }
}
