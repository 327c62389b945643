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
    let mut table = "<div class=\"wide\"><table>\n<tr><th>goal</th><th>against</th><th>Lockstep</th><th>the other</th>\
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

/// A row per load and benchmark, a column per peer: requests per second and median latency.
fn medians_table(comparison: &Comparison) -> String {
    let mut table = "<div class=\"wide\"><table>\n<tr><th>load (medians)</th>".to_owned();
    for (kind, _) in &comparison.peers {
        let _ = write!(table, "<th>{kind}</th><th>p50</th><th>p99</th>");
    }
    table += "</tr>\n";
    for load in comparison.loads() {
        let _ = write!(table, "<tr><td>{}</td>", escaped(load));
        for (kind, _) in &comparison.peers {
            let of = |pick: fn(&crate::record::Summary) -> f64| comparison.of_load(load, *kind, pick);
            let cells = [
                of(|summary| summary.achieved_per_s).map(|rate| format!("{}/s", rate_text(rate))),
                of(|summary| summary.response.p50_us).map(time_text),
                of(|summary| summary.response.p99_us).map(time_text),
            ];
            cells.into_iter().for_each(|text| cell(&mut table, text));
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
            let cells = [
                comparison
                    .of_benchmark(name, *kind, |run| run.requests_per_s)
                    .map(|rate| format!("{}/s", rate_text(rate))),
                comparison.of_benchmark(name, *kind, |run| run.p50_ms * 1e3).map(time_text),
                comparison.of_benchmark(name, *kind, |run| run.p99_ms * 1e3).map(time_text),
            ];
            cells.into_iter().for_each(|text| cell(&mut table, text));
        }
        table += "</tr>\n";
    }
    table + "</table></div>\n"
}

fn cell(table: &mut String, text: Option<String>) {
    let _ = write!(table, "<td>{}</td>", text.unwrap_or_else(|| "–".to_owned()));
}
