//! Plots and the page.
//!
//! Every plot is an SVG of 900 pixels' width that a person can read without a legend: lines are named at their right
//! ends, axes have units, titles say in words what was measured, and a void measurement is hollow. Colours are told
//! apart by people with any form of colour blindness.

mod axis;
mod collect;
mod fit;
mod frame;
mod labels;
mod page;
mod panel;
mod plot_compare;
mod plot_failover;
mod plot_percentiles;
mod plot_rate;
mod plot_servers;
mod plot_time;
mod plots_of;
mod read;
mod style;

pub use collect::Results;
pub use fit::LinearFit;
pub use page::page;
pub use plot_compare::{ComparedLine, ComparedPoint, compared_latencies};
pub use plot_failover::failover_gaps;
pub use plot_percentiles::{PercentileCurve, percentile_curves};
pub use plot_rate::latency_against_rate;
pub use plot_servers::{QUANTILES, ServerPoint, ServerSeries, Spread, latency_against_servers};
pub use plot_time::{Shade, TimePoint, time_series};
pub use plots_of::{
    Plot, PlotsError, plot_of_failover, plots_of_comparison, plots_of_matrix, plots_of_run, plots_of_sweep,
};
pub(crate) use style::{rate_text, time_text};

/// A plot could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("cannot draw a plot: {0}")]
pub struct PlotError(String);

impl<E: std::error::Error + Send + Sync> From<plotters::drawing::DrawingAreaErrorKind<E>> for PlotError {
    fn from(error: plotters::drawing::DrawingAreaErrorKind<E>) -> Self {
        Self(error.to_string())
    }
}
