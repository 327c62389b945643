//! What a matrix has measured, and the lines that it makes.

use std::collections::BTreeMap;

use super::Cell;
use crate::cluster::{Durability, Fanout};
use crate::record::{Latency, Summary};
use crate::report::{ServerPoint, ServerSeries, Spread};

/// `matrix.json`.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Matrix {
    /// What was measured, in words.
    pub scenario: String,
    /// All measurements, in the order in which they were made.
    pub runs: Vec<CellRun>,
    /// Whether it was ended before all were made.
    pub stopped_early: bool,
}

/// One measurement of one cell.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct CellRun {
    /// Which combination.
    pub cell: Cell,
    /// Which repeat, from 0.
    pub repeat: usize,
    /// The folder of the run, below that of the matrix.
    pub folder: String,
    /// What was measured; none when it could not be.
    pub summary: Option<Summary>,
    /// Why it could not be.
    pub error: Option<String>,
}

impl CellRun {
    fn is_valid(&self) -> bool {
        self.summary.as_ref().is_some_and(|summary| !summary.verdict.is_void())
    }
}

impl Matrix {
    /// The lines of the plot for one durability: one per fan-out and ack policy, the control last.
    pub fn series(&self, durability: Durability) -> Vec<ServerSeries> {
        let mut lines: BTreeMap<_, BTreeMap<usize, Vec<&CellRun>>> = BTreeMap::new();
        let mut single = Vec::new();
        for run in self.runs.iter().filter(|run| run.cell.durability == durability) {
            let cell = &run.cell;
            if cell.servers == 1 {
                single.push(run);
            } else {
                // Sequential first: it is the textbook system that the others are held against.
                let key = (
                    cell.control,
                    cell.fanout == Fanout::Parallel,
                    cell.ack,
                    cell.replicating * usize::from(cell.control),
                );
                lines.entry(key).or_default().entry(cell.servers).or_default().push(run);
            }
        }
        let series = lines.into_values().map(|mut by_servers| {
            let cell = by_servers.values().next().expect("a line has a point")[0].cell;
            // Every line begins at the one server that all have in common, the control only if it is of one server.
            if !single.is_empty() && (!cell.control || cell.replicating == 1) {
                by_servers.insert(1, single.clone());
            }
            let points = by_servers.iter().filter_map(|(&servers, runs)| point(servers, runs)).collect();
            ServerSeries { name: line_name(&cell), control: cell.control, points }
        });
        series.collect()
    }

    /// Durabilities that were measured.
    pub fn durabilities(&self) -> Vec<Durability> {
        let mut all: Vec<_> = self.runs.iter().map(|run| run.cell.durability).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Cells of which no repeat is valid.
    pub fn void_cells(&self) -> Vec<Cell> {
        let mut valid: BTreeMap<Cell, bool> = BTreeMap::new();
        for run in &self.runs {
            *valid.entry(run.cell).or_default() |= run.is_valid();
        }
        valid.into_iter().filter_map(|(cell, valid)| (!valid).then_some(cell)).collect()
    }

    /// One line per measurement.
    pub fn csv(&self) -> String {
        let mut csv = "servers,replicating,control,fanout,ack,durability,repeat,verdict,offered_per_s,achieved_per_s,\
                       p50_us,p90_us,p99_us,p999_us,max_us,service_p50_us,lateness_p99_us,cpu_s,folder\n"
            .to_owned();
        for run in &self.runs {
            let Cell { durability, control, fanout, ack, servers, replicating } = run.cell;
            let Some(summary) = &run.summary else { continue };
            let Latency { p50_us, p90_us, p99_us, p999_us, max_us, .. } = summary.response;
            let offered = summary.offered_per_s.map_or_else(String::new, |rate| format!("{rate:.1}"));
            let cpu_s: f64 = summary.processes.iter().map(|process| process.user_s + process.system_s).sum();
            let verdict = if summary.verdict.is_void() { "VOID" } else { "VALID" };
            csv += &format!("{servers},{replicating},{control},{fanout},{ack},{durability},{},{verdict},", run.repeat);
            csv += &format!("{offered},{:.1},", summary.achieved_per_s);
            csv += &format!("{p50_us:.3},{p90_us:.3},{p99_us:.3},{p999_us:.3},{max_us:.3},");
            csv += &format!("{:.3},{:.3},", summary.service.p50_us, summary.lateness.p99_us);
            csv += &format!("{cpu_s:.2},{}\n", run.folder);
        }
        csv
    }
}

fn line_name(cell: &Cell) -> String {
    if cell.control {
        let servers = if cell.replicating == 1 { "server" } else { "servers" };
        format!("control: {} {servers} works", cell.replicating)
    } else {
        format!("{}, {}", cell.fanout, cell.ack)
    }
}

/// The point of one cell: of its valid repeats, or hollow of the others when there are none.
fn point(servers: usize, runs: &[&CellRun]) -> Option<ServerPoint> {
    let void = !runs.iter().any(|run| run.is_valid());
    let summaries = || runs.iter().filter(|run| void || run.is_valid()).filter_map(|run| run.summary.as_ref());
    let spread = |pick: fn(&Latency) -> f64| {
        // A run without an answer has no latency at all.
        let answered = summaries().filter(|summary| summary.response.count > 0);
        Spread::of(&answered.map(|summary| pick(&summary.response)).collect::<Vec<_>>())
    };
    let latency_us = [spread(|us| us.p50_us)?, spread(|us| us.p99_us)?, spread(|us| us.p999_us)?];
    Some(ServerPoint { servers, latency_us, void })
}

#[cfg(test)]
mod tests {
    use super::super::MatrixPlan;
    use super::*;
    use crate::cluster::Ack;
    use crate::record::{Counts, Verdict};

    fn summary(p50_us: f64, void: bool) -> Summary {
        let mut verdict = Verdict::valid();
        if void {
            verdict.object("made up".to_owned());
        }
        let latency = Latency { count: 10, p50_us, p99_us: 2.0 * p50_us, p999_us: 3.0 * p50_us, ..Latency::default() };
        Summary {
            scenario: String::new(),
            verdict,
            offered_per_s: Some(100.0),
            achieved_per_s: 100.0,
            elapsed_s: 1.0,
            planned_s: Some(1.0),
            counts: Counts { ok: 100, ..Counts::default() },
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

    /// Latency: 100 µs per server, ten more per repeat.
    fn matrix() -> Matrix {
        let plan = MatrixPlan {
            servers: vec![1, 2, 3],
            fanouts: vec![Fanout::Parallel, Fanout::Sequential],
            acks: vec![Ack::Majority],
            durabilities: vec![Durability::Disk],
            control: Some(1),
            repeats: 3,
        };
        let run = |(cell, repeat): (Cell, usize)| {
            let latency = 100.0 * cell.servers as f64 + 10.0 * repeat as f64;
            CellRun { cell, repeat, folder: cell.name(), summary: Some(summary(latency, false)), error: None }
        };
        Matrix { scenario: String::new(), runs: plan.order(1).into_iter().map(run).collect(), stopped_early: false }
    }

    #[test]
    fn lines_share_their_first_point_and_points_are_medians() {
        let series = matrix().series(Durability::Disk);
        let names: Vec<_> = series.iter().map(|line| line.name.as_str()).collect();
        assert_eq!(names, ["sequential, majority", "parallel, majority", "control: 1 server works"]);
        for line in &series {
            let p50: Vec<_> = line.points.iter().map(|point| (point.servers, point.latency_us[0].median)).collect();
            assert_eq!(p50, [(1, 110.0), (2, 210.0), (3, 310.0)], "{}", line.name);
        }
        assert!(series[2].control);
    }

    #[test]
    fn void_repeats_count_only_where_no_other_is_left() {
        let mut matrix = matrix();
        for run in &mut matrix.runs {
            if run.cell.servers == 3 && run.cell.fanout == Fanout::Sequential || run.repeat == 2 {
                run.summary.as_mut().expect("it was measured").verdict.object("made up".to_owned());
            }
        }
        let series = matrix.series(Durability::Disk);
        let (all_void, some_void) = (&series[0].points[2], &series[1].points[2]);
        assert!(all_void.void && all_void.latency_us[0].median == 310.0);
        assert!(!some_void.void && some_void.latency_us[0].high == 310.0, "the third repeat is left out");
        assert_eq!(matrix.void_cells().iter().map(Cell::name).collect::<Vec<_>>(), ["n3-sequential-majority-disk"]);
    }

    #[test]
    fn a_failed_run_is_in_no_line_and_no_row() {
        let mut matrix = matrix();
        for run in matrix.runs.iter_mut().filter(|run| run.cell.servers == 2) {
            run.summary = None;
            run.error = Some("it did not start".to_owned());
        }
        assert!(matrix.series(Durability::Disk).iter().all(|line| line.points.len() == 2));
        assert_eq!(matrix.csv().lines().count(), 1 + matrix.runs.iter().filter(|run| run.error.is_none()).count());
    }

    #[test]
    fn rows_have_as_many_columns_as_the_heading() {
        let csv = matrix().csv();
        let columns: Vec<_> = csv.lines().map(|line| line.split(',').count()).collect();
        assert!(columns.iter().all(|&count| count == columns[0]), "{csv}");
    }
}
