//! Plots and the page.

mod axis;
mod fit;
mod frame;
mod labels;
mod panel;
mod plot_percentiles;
mod plot_rate;
mod plot_servers;
mod plot_time;
mod style;

pub use fit::LinearFit;
pub use plot_percentiles::{PercentileCurve, percentile_curves};
pub use plot_rate::latency_against_rate;
pub use plot_servers::{QUANTILES, ServerPoint, ServerSeries, Spread, latency_against_servers};
pub use plot_time::{TimePoint, time_series};

/// A plot could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("cannot draw a plot: {0}")]
pub struct PlotError(String);

impl<E: std::error::Error + Send + Sync> From<plotters::drawing::DrawingAreaErrorKind<E>> for PlotError {
    fn from(error: plotters::drawing::DrawingAreaErrorKind<E>) -> Self {
        Self(error.to_string())
    }
}
