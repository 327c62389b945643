//! The plots of each kind of result, with their file names.

use std::io;
use std::path::Path;

use super::read::{percentiles, time_points};
use super::{ComparedLine, ComparedPoint, compared_latencies};
use super::{PercentileCurve, PlotError, ServerSeries, TimePoint, latency_against_rate, latency_against_servers};
use super::{Shade, failover_gaps, percentile_curves, time_series};
use crate::compare::{Comparison, Kind};
use crate::failover::Failover;
use crate::matrix::Matrix;
use crate::record::{FaultOutcome, Summary};
use crate::sweep::Sweep;

/// A plot as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plot {
    /// Its file name.
    pub name: String,
    /// Its contents.
    pub svg: String,
}

/// Why the plots of a run could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PlotsError {
    /// A file of the run.
    #[error(transparent)]
    File(#[from] io::Error),
    /// The drawing.
    #[error(transparent)]
    Plot(#[from] PlotError),
}

/// The percentile curves and the time series of the run in `folder`.
///
/// # Errors
///
/// When a file of the run is missing or malformed.
pub fn plots_of_run(folder: &Path, summary: &Summary) -> Result<Vec<Plot>, PlotsError> {
    let curve = |name: &str, file: &str, quiet: bool| -> io::Result<PercentileCurve> {
        Ok(PercentileCurve { name: name.to_owned(), quiet, points: percentiles(&folder.join(file))? })
    };
    let curves = [curve("response", "response.hgrm", false)?, curve("service", "service.hgrm", true)?];
    let scenario = described(summary);
    let percentile_plot = percentile_curves("Latency by percentile", &scenario, &curves)?;
    let mut points = time_points(&folder.join("timeseries.csv"))?;
    leave_out_the_last_answers(&mut points, summary);
    let shades: Vec<Shade> = summary.faults.iter().map(shade).collect();
    let title = "Throughput and latency over time";
    let time_plot = time_series(title, &scenario, summary.offered_per_s, &points, &shades)?;
    Ok(vec![
        Plot { name: "percentiles.svg".to_owned(), svg: percentile_plot },
        Plot { name: "timeseries.svg".to_owned(), svg: time_plot },
    ])
}

/// The time of a fault: until it was undone, or at least until there were answers again.
fn shade(fault: &FaultOutcome) -> Shade {
    let answered_s = fault.gap_from_s + fault.gap_ms / 1e3;
    Shade { from_s: fault.at_s, to_s: fault.until_s.unwrap_or(answered_s).max(answered_s), name: fault.what.clone() }
}

/// The gaps of a failover series.
///
/// # Errors
///
/// When the drawing library refuses.
pub fn plot_of_failover(failover: &Failover) -> Result<Option<Plot>, PlotError> {
    if failover.repeats.is_empty() {
        return Ok(None);
    }
    let title = format!("How long nothing was answered: {}", failover.fault);
    let svg = failover_gaps(&title, &failover.summary.scenario, failover)?;
    Ok(Some(Plot { name: "failover.svg".to_owned(), svg }))
}

/// The few answers that come in just after the end of the plan would look like a collapse of the throughput. When they
/// take more than one interval they show a backlog, and stay.
fn leave_out_the_last_answers(points: &mut Vec<TimePoint>, summary: &Summary) {
    let Some(planned_s) = summary.planned_s else { return };
    let after = points.iter().filter(|point| point.start_s > planned_s - 1e-6).count();
    if after == 1 && points.len() > 1 {
        points.pop();
    }
}

fn described(summary: &Summary) -> String {
    if summary.verdict.is_void() {
        format!("{} — {}", summary.scenario, summary.verdict)
    } else {
        summary.scenario.clone()
    }
}

/// Latency and achieved rate over the offered rate.
///
/// # Errors
///
/// When the drawing library refuses.
pub fn plots_of_sweep(sweep: &Sweep) -> Result<Vec<Plot>, PlotError> {
    let summaries: Vec<_> = sweep.runs.iter().map(|run| run.summary.clone()).collect();
    let title = "Response time against the offered rate (hollow: void)";
    let svg = latency_against_rate(title, &sweep.scenario, &summaries)?;
    Ok(vec![Plot { name: "latency-rate.svg".to_owned(), svg }])
}

/// The latencies of all peers over the offered rate.
///
/// # Errors
///
/// When the drawing library refuses.
pub fn plots_of_comparison(comparison: &Comparison) -> Result<Vec<Plot>, PlotError> {
    let line = |(kind, _): &(Kind, String)| {
        let mut points: Vec<ComparedPoint> = Vec::new();
        for load in comparison.loads() {
            let runs = || comparison.runs.iter().filter(|run| run.load == load && run.peer == *kind);
            let Some(offered_per_s) = runs().find_map(|run| run.summary.offered_per_s) else { continue };
            let middle = |pick: fn(&Summary) -> f64| comparison.of_load(load, *kind, pick).unwrap_or_default();
            points.push(ComparedPoint {
                offered_per_s,
                p50_us: middle(|summary| summary.response.p50_us),
                p99_us: middle(|summary| summary.response.p99_us),
                // Of several repeats one that is valid is enough.
                is_void: runs().all(|run| run.summary.verdict.is_void()),
            });
        }
        points.sort_by(|left, right| left.offered_per_s.total_cmp(&right.offered_per_s));
        ComparedLine { name: kind.to_string(), points }
    };
    let lines: Vec<_> = comparison.peers.iter().map(line).collect();
    let title = "Response time of writes against the offered rate (hollow: void)";
    let svg = compared_latencies(title, &comparison.scenario, &lines)?;
    Ok(vec![Plot { name: "compare-latency-rate.svg".to_owned(), svg }])
}

/// Latency over servers: one plot per durability, and another one without the sequential lines where those are so high
/// that they press the others to the floor.
///
/// # Errors
///
/// When the drawing library refuses.
pub fn plots_of_matrix(matrix: &Matrix) -> Result<Vec<Plot>, PlotError> {
    let mut plots = Vec::new();
    for durability in matrix.durabilities() {
        let series = matrix.series(durability);
        let title = "Response time against the number of servers (hollow: void)";
        let svg = latency_against_servers(title, &matrix.scenario, &series)?;
        plots.push(Plot { name: format!("latency-servers-{durability}.svg"), svg });
        let (high, low): (Vec<_>, Vec<_>) = series.into_iter().partition(|line| line.name.starts_with("sequential"));
        if !low.is_empty() && highest(&high) > 2.5 * highest(&low) {
            let title = "The same without sequential fan-out";
            let svg = latency_against_servers(title, &matrix.scenario, &low)?;
            plots.push(Plot { name: format!("latency-servers-{durability}-parallel.svg"), svg });
        }
    }
    Ok(plots)
}

fn highest(series: &[ServerSeries]) -> f64 {
    let points = series.iter().flat_map(|line| &line.points);
    points.map(|point| point.latency_us[0].median).fold(0.0, f64::max)
}
