//! What a person sees while a measurement goes on: a bar on a terminal, lines elsewhere.

use std::io::{IsTerminal, stderr};
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::tell;
use crate::record::{IntervalRow, Summary};
use crate::report::{rate_text, time_text};

/// What a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Steps {
    /// A second of the one run that there is. Without a terminal, each interval of it is a line.
    Seconds,
    /// A run out of many. Without a terminal, each of them is a line.
    Runs,
}

/// Progress over a number of steps.
pub(super) struct Progress {
    /// None where nobody could see a bar.
    bar: Option<ProgressBar>,
    steps: Steps,
    /// The last second for which a line was written.
    last_second: AtomicU64,
}

impl Progress {
    /// Progress over `count` steps.
    pub(super) fn new(count: u64, steps: Steps) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:24.cyan/blue} {pos}/{len} {wide_msg}")
                .expect("the template is a constant that is right");
            let bar = ProgressBar::with_draw_target(Some(count), ProgressDrawTarget::stderr());
            bar.with_style(style)
        });
        Self { bar, steps, last_second: AtomicU64::new(0) }
    }

    /// Says what is going on now.
    pub(super) fn say(&self, what: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(what.to_owned()),
            None if self.steps == Steps::Seconds => tell::note(what),
            None => {}
        }
    }

    /// Shows an interval of the current run.
    pub(super) fn show(&self, what: &str, row: &IntervalRow) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(format!("{what}  {}", live(row)));
                if self.steps == Steps::Seconds {
                    bar.set_position((row.start_s + row.length_s).round() as u64);
                }
            }
            // Of shorter intervals, those that end with a second are enough to read.
            None if self.steps == Steps::Seconds => {
                let end_s = row.start_s + row.length_s;
                let second = (end_s + 1e-6) as u64;
                if row.length_s >= 0.2 || self.last_second.swap(second, Ordering::Relaxed) < second {
                    tell::note(format_args!("{end_s:>7.1} s  {}", live(row)));
                }
            }
            None => {}
        }
    }

    /// A step is done.
    pub(super) fn step(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    /// A line that stays.
    pub(super) fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => tell::note(text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn live(row: &IntervalRow) -> String {
    let response = &row.response;
    let time_text = |us: f64| if response.count == 0 { "-".to_owned() } else { time_text(us) };
    let mut text = format!(
        "{:>6}/s  p50 {}  p99 {}  max {}",
        rate_text(row.ok_per_s),
        time_text(response.p50_us),
        time_text(response.p99_us),
        time_text(response.max_us)
    );
    let counts = &row.counts;
    for (count, name) in [
        (counts.failed, "failed"),
        (counts.busy, "busy"),
        (counts.unknown, "unanswered"),
        (counts.corrupt, "with a wrong value"),
    ] {
        if count > 0 {
            text += &format!("  {count} {name}");
        }
    }
    text
}

/// A summary in one line.
pub(super) fn one_line(summary: &Summary) -> String {
    let response = &summary.response;
    format!(
        "{:>6}/s  p50 {:>8}  p99 {:>8}  p99.9 {:>8}  {}",
        rate_text(summary.achieved_per_s),
        time_text(response.p50_us),
        time_text(response.p99_us),
        time_text(response.p999_us),
        summary.verdict
    )
}

/// A summary as a small table.
pub(super) fn table(summary: &Summary) -> String {
    let mut out = format!("{}\n", summary.scenario);
    let offered = summary.offered_per_s.map_or_else(|| "kept full".to_owned(), |rate| format!("{rate:.0}/s offered"));
    let counts = &summary.counts;
    out += &format!("{offered}, {:.0}/s answered in {:.2} s\n", summary.achieved_per_s, summary.elapsed_s);
    out += &format!(
        "{} answered ({} without such a key), {} failed, {} busy, {} unanswered, {} with a wrong value\n",
        counts.ok, counts.missing, counts.failed, counts.busy, counts.unknown, counts.corrupt
    );
    out += &format!(
        "{:<10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}\n",
        "", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"
    );
    for (name, latency) in
        [("response", &summary.response), ("service", &summary.service), ("lateness", &summary.lateness)]
    {
        out += &format!("{name:<10}");
        for us in [
            latency.mean_us,
            latency.p50_us,
            latency.p90_us,
            latency.p99_us,
            latency.p999_us,
            latency.p9999_us,
            latency.max_us,
        ] {
            out += &format!("{:>10}", time_text(us));
        }
        out.push('\n');
    }
    for process in &summary.processes {
        out += &format!(
            "{:<16}{:>7.2} s user {:>7.2} s system {:>8.1} MiB at most\n",
            process.name,
            process.user_s,
            process.system_s,
            process.rss_max_bytes as f64 / f64::from(1 << 20)
        );
    }
    for fault in &summary.faults {
        let until = fault.until_s.map_or_else(String::new, |until_s| format!(", undone at {until_s:.3} s"));
        let came_of_it = match &fault.error {
            Some(error) => format!("failed: {error}"),
            None => format!("longest time without an answer: {}", fault.gap_words()),
        };
        out += &format!("at {:.3} s: {}{until}; {came_of_it}\n", fault.at_s, fault.what);
    }
    out += &summary.verdict.to_string();
    out
}
