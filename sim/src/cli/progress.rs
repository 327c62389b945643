//! How far a long run is: a bar on a terminal, else a line now and then.

use std::{
    io::IsTerminal,
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// Between two lines when there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Shows how far a run is. Shared by its threads.
pub struct Progress {
    bar: Option<ProgressBar>,
    start: Instant,
    total: u64,
    last_line: Mutex<(u64, Instant)>,
}

impl Progress {
    /// Of a run of so many seeds.
    pub fn new(total: u64) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left {msg}");
            let bar = ProgressBar::new(total);
            if let Ok(style) = style {
                bar.set_style(style);
            }
            bar
        });
        let now = Instant::now();
        Progress { bar, start: now, total, last_line: Mutex::new((0, now)) }
    }

    /// One more seed is done; so many have failed.
    pub fn advance(&self, failed: usize) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
            if failed > 0 {
                bar.set_message(format!("({failed} failed)"));
            }
            return;
        }
        let Ok(mut last) = self.last_line.lock() else { return };
        last.0 += 1;
        if last.1.elapsed() >= LINE_INTERVAL {
            last.1 = Instant::now();
            let per_s = last.0 as f64 / self.start.elapsed().as_secs_f64();
            eprintln!("{}/{} seeds, {per_s:.0}/s, {failed} failed", last.0, self.total);
        }
    }

    /// Prints a line without spoiling the bar.
    pub fn print(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| println!("{text}")),
            None => println!("{text}"),
        }
    }

    /// The run is over.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
