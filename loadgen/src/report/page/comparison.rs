//! The part of the page about other systems.

use std::fmt::Write;

use super::{escaped, time_text};
use crate::compare::{Comparison, Source};
use crate::report::rate_text;

/// Who took part, how the goals stand, and the medians of everything.
pub(super) fn comparison_section(comparison: &Comparison) -> String {
    let mut body = "<ul>\n".to_owned();
    for (kind, words) in &comparison.peers {
        let _ = writeln!(body, "<li><b>{kind}</b>: {}</li>", escaped(words));
    }
    body += "</ul>\n";
    body += &goals_table(comparison);
    body += &medians_table(comparison);
    body
}

fn goals_table(comparison: &Comparison) -> String {
    let mut table = "<div class=\"wide\"><table class=\"compared\">\n<tr><th>goal</th><th>against</th><th>Lockstep</th><th>the other</th>\
                     <th>ratio</th><th>has to be</th><th></th></tr>\n"
        .to_owned();
    for standing in comparison.standings() {
        let number = |value: Option<f64>| match (value, standing.goal.source) {
            (None, _) => "–".to_owned(),
            (Some(us), Source::LoadP50(_)) => time_text(us),
            (Some(rate), _) => format!("{}/s", rate_text(rate)),
        };
        let ratio = standing.ratio().map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
        let (class, verdict) = match standing.is_reached() {
            Some(true) => ("", "reached"),
            Some(false) => (" class=\"void\"", "not reached"),
            None => ("", "not measured"),
        };
        let _ = writeln!(
            table,
            "<tr{class}><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{ratio}</td><td>{}</td><td>{verdict}</td></tr>",
            escaped(standing.goal.what),
            standing.goal.peer,
            number(standing.ours),
            number(standing.theirs),
            standing.bound_words(),
        );
    }
    table + "</table></div>\n"
}

/// A row per load and benchmark, a column per peer, so that five of them fit beside each other: requests per second,
/// and below them p50 and p99.
fn medians_table(comparison: &Comparison) -> String {
    let mut table = "<div class=\"wide\"><table class=\"compared\">\n<tr><th>load (medians)</th>".to_owned();
    for (kind, _) in &comparison.peers {
        let _ = write!(table, "<th>{kind}<br><small>p50 · p99</small></th>");
    }
    table += "</tr>\n";
    for load in comparison.loads() {
        let _ = write!(table, "<tr><td>{}</td>", escaped(load));
        for (kind, _) in &comparison.peers {
            let of = |pick: fn(&crate::record::Summary) -> f64| comparison.of_load(load, *kind, pick);
            cell(
                &mut table,
                of(|summary| summary.achieved_per_s),
                of(|summary| summary.response.p50_us),
                of(|summary| summary.response.p99_us),
            );
        }
        table += "</tr>\n";
    }
    let mut names: Vec<&str> = Vec::new();
    for run in &comparison.benchmarks {
        if !names.contains(&run.benchmark.as_str()) {
            names.push(&run.benchmark);
        }
    }
    for name in names {
        let _ = write!(table, "<tr><td>redis-benchmark {}</td>", escaped(name));
        for (kind, _) in &comparison.peers {
            let of = |pick: fn(&crate::compare::BenchmarkRun) -> f64| comparison.of_benchmark(name, *kind, pick);
            cell(&mut table, of(|run| run.requests_per_s), of(|run| run.p50_ms * 1e3), of(|run| run.p99_ms * 1e3));
        }
        table += "</tr>\n";
    }
    table + "</table></div>\n"
}

fn cell(table: &mut String, rate_per_s: Option<f64>, p50_us: Option<f64>, p99_us: Option<f64>) {
    let Some(rate_per_s) = rate_per_s else {
        *table += "<td>–</td>";
        return;
    };
    let time = |us: Option<f64>| us.map_or_else(|| "–".to_owned(), time_text);
    let _ = write!(table, "<td>{}/s<br><small>{} · {}</small></td>", rate_text(rate_per_s), time(p50_us), time(p99_us));
}
