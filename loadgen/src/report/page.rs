//! One HTML page of any set of results, complete in itself: no script, no font and no picture from elsewhere.

use std::fmt::Write;

use super::plots_of::{
    Plot, PlotsError, plot_of_failover, plots_of_comparison, plots_of_matrix, plots_of_run, plots_of_sweep,
};
use super::style::{three_digits, time_text};
use super::{LinearFit, QUANTILES, Results};
use crate::failover::Failover;
use crate::matrix::Matrix;
use crate::record::{Meta, Summary};

mod comparison;

use comparison::comparison_section;

const STYLE: &str = include_str!("page.css");

/// Makes the page.
///
/// # Errors
///
/// When a plot cannot be made because files of a run are missing or malformed.
pub fn page(results: &Results) -> Result<String, PlotsError> {
    let mut body = String::new();
    for (folder, meta, matrix) in &results.matrices {
        let name = folder_name(folder);
        heading(&mut body, "Latency against servers", &matrix.scenario, &name, meta.as_ref());
        if matrix.stopped_early {
            body += "<p class=\"void\">This matrix was ended before all of it was measured.</p>\n";
        }
        figures(&mut body, plots_of_matrix(matrix)?);
        fits_table(&mut body, matrix);
        let rows = matrix.runs.iter().filter_map(|run| {
            run.summary.as_ref().map(|summary| (format!("{} · {}", run.cell.name(), run.repeat + 1), summary))
        });
        details(&mut body, "All measurements", &runs_table(rows));
        for run in matrix.runs.iter().filter_map(|run| Some((run.cell.name(), run.error.as_ref()?))) {
            let _ = writeln!(body, "<p class=\"void\">{} was not measured: {}</p>", escaped(&run.0), escaped(run.1));
        }
    }
    for (folder, meta, sweep) in &results.sweeps {
        heading(&mut body, "Latency against the offered rate", &sweep.scenario, &folder_name(folder), meta.as_ref());
        figures(&mut body, plots_of_sweep(sweep)?);
        body += &runs_table(sweep.runs.iter().map(|run| (run.folder.clone(), &run.summary)));
    }
    for (folder, meta, failover) in &results.failovers {
        let title = format!("Failover: {}", failover.fault);
        heading(&mut body, &title, &failover.summary.scenario, &folder_name(folder), meta.as_ref());
        failover_table(&mut body, failover);
        figures(&mut body, plot_of_failover(failover)?.into_iter().collect());
        let mut inner = String::new();
        figures(&mut inner, plots_of_run(folder, &failover.summary)?);
        details(&mut body, "The whole run over time", &inner);
    }
    for (folder, meta, comparison) in &results.comparisons {
        let title = "Lockstep beside other systems that speak RESP";
        heading(&mut body, title, &comparison.scenario, &folder_name(folder), meta.as_ref());
        body += &comparison_section(comparison);
        figures(&mut body, plots_of_comparison(comparison)?);
        let rows = comparison
            .runs
            .iter()
            .map(|run| (format!("{} · {} · {}", run.load, run.peer, run.repeat + 1), &run.summary));
        details(&mut body, "All measurements", &runs_table(rows));
    }
    for (folder, meta, calibration) in &results.calibrations {
        heading(&mut body, "What this machine can do at best", "", &folder_name(folder), meta.as_ref());
        let _ = writeln!(body, "<pre>{}</pre>", escaped(&calibration.to_string()));
    }
    if !results.runs.is_empty() {
        body += "<h2>Runs</h2>\n";
        body += &runs_table(results.runs.iter().map(|run| (folder_name(&run.path), &run.summary)));
    }
    for run in &results.runs {
        let mut inner = String::new();
        faults_table(&mut inner, &run.summary);
        figures(&mut inner, plots_of_run(&run.path, &run.summary)?);
        inner += &meta_line(&run.meta);
        details(&mut body, &run.summary.scenario, &inner);
    }
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Lockstep measurements</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<h1>Lockstep measurements</h1>\n{INTRODUCTION}{body}</body>\n</html>\n"
    ))
}

const INTRODUCTION: &str = "<p>Response time is counted from the moment a request was meant to be sent, service time \
    from the moment it was sent. Lateness is the generator's own. A measurement marked VOID does not show what it seems to \
    show, for the reason given; on plots its point is hollow.</p>\n";

fn folder_name(path: &std::path::Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn heading(body: &mut String, title: &str, scenario: &str, folder: &str, meta: Option<&Meta>) {
    let _ = writeln!(body, "<h2>{}</h2>", escaped(title));
    if !scenario.is_empty() {
        let _ = writeln!(body, "<p>{}</p>", escaped(scenario));
    }
    let _ = writeln!(body, "<p class=\"meta\">{}</p>", escaped(folder));
    if let Some(meta) = meta {
        *body += &meta_line(meta);
    }
}

fn meta_line(meta: &Meta) -> String {
    let machine = &meta.machine;
    let commit = meta.checkout.as_ref().map_or_else(
        || "outside of a checkout".to_owned(),
        |checkout| format!("commit {}{}", checkout.sha7(), if checkout.dirty { ", changed" } else { "" }),
    );
    let disk = meta.data_file_system.as_deref().unwrap_or("unknown");
    format!(
        "<p class=\"meta\">{} · {commit} · {} × {} · Linux {} · data on {} · seed {}<br><code>{}</code></p>\n",
        escaped(&meta.started_at),
        machine.cores,
        escaped(&machine.cpu),
        escaped(&machine.kernel),
        escaped(disk),
        meta.seed,
        escaped(&meta.command_line.join(" ")),
    )
}

fn figures(body: &mut String, plots: Vec<Plot>) {
    for plot in plots {
        let _ = writeln!(body, "<figure>\n{}\n</figure>", themed(&plot.svg));
    }
}

fn details(body: &mut String, summary: &str, inner: &str) {
    let _ = writeln!(body, "<details>\n<summary>{}</summary>\n{inner}</details>", escaped(summary));
}

/// What was done to the servers, and what the audit found.
fn faults_table(body: &mut String, summary: &Summary) {
    if !summary.faults.is_empty() {
        *body += "<div class=\"wide\"><table>\n<tr><th>fault</th><th>at</th><th>undone at</th><th>longest time without an \
                  answer</th></tr>\n";
        for fault in &summary.faults {
            let until = fault.until_s.map_or_else(|| "–".to_owned(), |until_s| format!("{until_s:.3} s"));
            let (what, gap) = (escaped(&fault.what), escaped(fault.error.as_ref().unwrap_or(&fault.gap_words())));
            let _ =
                writeln!(body, "<tr><td>{what}</td><td>{:.3} s</td><td>{until}</td><td>{gap}</td></tr>", fault.at_s);
        }
        *body += "</table></div>\n";
    }
    audit_line(body, summary);
}

fn audit_line(body: &mut String, summary: &Summary) {
    if let Some(audit) = &summary.audit {
        let class = if audit.is_clean() { "meta" } else { "void" };
        let _ = writeln!(body, "<p class=\"{class}\">Audit: {}</p>", escaped(&audit.to_string()));
    }
}

fn failover_table(body: &mut String, failover: &Failover) {
    let counts = &failover.summary.counts;
    let _ = writeln!(
        body,
        "<p>{} times; {} requests answered, {} failed, {} of unknown outcome.</p>",
        failover.repeats.len(),
        counts.ok,
        counts.failed + counts.busy,
        counts.unknown
    );
    if failover.summary.verdict.is_void() {
        let _ = writeln!(body, "<p class=\"void\">{}</p>", escaped(&failover.summary.verdict.to_string()));
    }
    if let Some(gap) = &failover.gap {
        *body += "<div class=\"wide\"><table>\n<tr><th>gap without answers</th><th>min</th><th>p50</th><th>p90</th>\
                  <th>p99</th><th>max</th><th>mean</th></tr>\n<tr><td></td>";
        for gap_ms in [gap.min_ms, gap.p50_ms, gap.p90_ms, gap.p99_ms, gap.max_ms, gap.mean_ms] {
            let _ = write!(body, "<td>{}</td>", time_text(gap_ms * 1e3));
        }
        *body += "</tr>\n</table></div>\n";
    }
    audit_line(body, &failover.summary);
}

fn fits_table(body: &mut String, matrix: &Matrix) {
    *body += "<div class=\"wide\"><table>\n<tr><th>line</th>";
    for quantile in QUANTILES {
        let _ = write!(body, "<th>{quantile} per server</th><th>R²</th>");
    }
    *body += "</tr>\n";
    for durability in matrix.durabilities() {
        for line in matrix.series(durability) {
            let _ = write!(body, "<tr><td>{} ({durability})</td>", escaped(&line.name));
            for quantile in 0..QUANTILES.len() {
                match line.fit(quantile) {
                    Some(LinearFit { slope, r_squared, .. }) => {
                        let _ = write!(body, "<td>{}</td><td>{r_squared:.3}</td>", time_text(slope));
                    }
                    None => *body += "<td>–</td><td>–</td>",
                }
            }
            *body += "</tr>\n";
        }
    }
    *body += "</table></div>\n";
}

fn runs_table<'a>(rows: impl Iterator<Item = (String, &'a Summary)>) -> String {
    let mut table =
        "<div class=\"wide\"><table>\n<tr><th>run</th><th>verdict</th><th>offered/s</th><th>answered/s</th>\
         <th>p50</th><th>p90</th><th>p99</th><th>p99.9</th><th>p99.99</th><th>max</th><th>service p50</th>\
         <th>lateness p99</th><th>not answered</th><th>CPU/request</th></tr>\n"
            .to_owned();
    for (name, summary) in rows {
        let void = summary.verdict.is_void();
        let class = if void { " class=\"void\"" } else { "" };
        let title = escaped(&summary.verdict.to_string());
        let verdict = if void { "VOID" } else { "VALID" };
        let _ = write!(table, "<tr{class}><td title=\"{}\">{}</td>", escaped(&summary.scenario), escaped(&name));
        let _ = write!(table, "<td title=\"{title}\">{verdict}</td>");
        let offered = summary.offered_per_s.map_or_else(|| "full".to_owned(), |rate| format!("{rate:.0}"));
        let _ = write!(table, "<td>{offered}</td><td>{:.0}</td>", summary.achieved_per_s);
        let response = &summary.response;
        for us in [
            response.p50_us,
            response.p90_us,
            response.p99_us,
            response.p999_us,
            response.p9999_us,
            response.max_us,
            summary.service.p50_us,
            summary.lateness.p99_us,
        ] {
            let _ = write!(table, "<td>{}</td>", time_text(us));
        }
        let counts = &summary.counts;
        let unanswered = counts.failed + counts.busy + counts.unknown + counts.corrupt;
        let _ = writeln!(table, "<td>{unanswered}</td><td>{}</td></tr>", cpu_per_request(summary));
        if void {
            let reasons = escaped(&summary.verdict.reasons.join("; "));
            let _ = writeln!(table, "<tr class=\"void reason\"><td colspan=\"14\">{reasons}</td></tr>");
        }
    }
    table + "</table></div>\n"
}

/// CPU time of all processes together for one answered request.
fn cpu_per_request(summary: &Summary) -> String {
    let cpu_s: f64 = summary.processes.iter().map(|process| process.user_s + process.system_s).sum();
    if summary.counts.ok == 0 || cpu_s == 0.0 {
        return "–".to_owned();
    }
    format!("{} µs", three_digits(cpu_s * 1e6 / summary.counts.ok as f64))
}

/// Lets an SVG take the page's own colours, so that it fits light and dark paper.
fn themed(svg: &str) -> String {
    svg.replace("fill=\"#FFFFFF\"", "fill=\"none\"")
        .replace("#262626", "currentColor")
        .replace("opacity=\"1\" stroke=\"#D9D9D9\"", "opacity=\"0.18\" stroke=\"currentColor\"")
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            _ => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests;
