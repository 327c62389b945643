use super::*;
use crate::matrix::{Cell, CellRun};
use crate::record::{Counts, Latency, Verdict};
use crate::sweep::{Sweep, SweepRun};

fn summary(void: bool) -> Summary {
    let mut verdict = Verdict::valid();
    if void {
        verdict.object("a <made up> reason".to_owned());
    }
    let latency = Latency {
        count: 9,
        mean_us: 2.0,
        p50_us: 400.0,
        p90_us: 500.0,
        p99_us: 900.0,
        p999_us: 1500.0,
        p9999_us: 1700.0,
        max_us: 2100.0,
    };
    Summary {
        scenario: "three \"servers\" & a load".to_owned(),
        verdict,
        offered_per_s: Some(1000.0),
        achieved_per_s: 998.0,
        elapsed_s: 1.0,
        planned_s: Some(1.0),
        counts: Counts { ok: 998, unknown: 2, ..Counts::default() },
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

fn results() -> Results {
    let run = |folder: &str, void| SweepRun { folder: folder.to_owned(), summary: summary(void) };
    let sweep = Sweep { scenario: "a sweep".to_owned(), runs: vec![run("low", false), run("high", true)] };
    let cell = Cell {
        durability: crate::cluster::Durability::Disk,
        control: false,
        fanout: crate::cluster::Fanout::Parallel,
        ack: crate::cluster::Ack::All,
        servers: 2,
        replicating: 2,
    };
    let measured = |summary, error| CellRun { cell, repeat: 0, folder: "x".to_owned(), summary, error };
    let runs = vec![measured(Some(summary(false)), None), measured(None, Some("it <did> not start".to_owned()))];
    let matrix = Matrix { scenario: "a matrix".to_owned(), runs, stopped_early: true };
    Results {
        matrices: vec![("m".into(), None, matrix)],
        sweeps: vec![("s".into(), None, sweep)],
        ..Results::default()
    }
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let page = page(&results()).expect("it can be made");
    assert!(page.contains("<svg") && page.contains("prefers-color-scheme"));
    for outside in ["<script", "src=", "href=", "url(", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }
    let namespaces = page.matches("http://www.w3.org/2000/svg").count();
    assert_eq!(page.matches("http").count(), namespaces, "the only addresses are the names of the SVG format");
}

#[test]
fn plots_take_the_colours_of_the_page() {
    let page = page(&results()).expect("it can be made");
    let figures = page.split("<figure>").skip(1).map(|part| part.split("</figure>").next().unwrap_or_default());
    for figure in figures {
        for fixed in ["#FFFFFF", "#262626", "#D9D9D9"] {
            assert!(!figure.contains(fixed), "{fixed} would stand out on dark paper");
        }
    }
}

#[test]
fn void_runs_are_marked_with_their_reason_and_all_text_is_escaped() {
    let page = page(&results()).expect("it can be made");
    assert!(page.contains("<tr class=\"void reason\"><td colspan=\"14\">a &lt;made up&gt; reason</td></tr>"));
    assert!(page.contains("it &lt;did&gt; not start"));
    assert!(page.contains("three &quot;servers&quot; &amp; a load"));
    assert!(page.contains("ended before all of it was measured"));
}

#[test]
fn every_table_row_has_as_many_cells_as_its_heading() {
    let table = runs_table([("a".to_owned(), &summary(false))].into_iter());
    let row = |mark: &str| table.lines().map(|line| line.matches(mark).count()).sum::<usize>();
    assert_eq!(row("<th>"), 14);
    assert_eq!(row("<td"), 14);
}

#[test]
fn the_medians_of_five_systems_were_a_table_wider_than_the_page() {
    use crate::compare::{ComparedRun, Comparison, Kind};
    let run = |peer| ComparedRun {
        load: "10k/s".to_owned(),
        peer,
        repeat: 0,
        folder: String::new(),
        summary: summary(false),
    };
    let comparison = Comparison {
        scenario: "a comparison".to_owned(),
        peers: Kind::ALL.map(|kind| (kind, "words".to_owned())).to_vec(),
        runs: Kind::ALL[..4].iter().map(|kind| run(*kind)).collect(),
        benchmarks: Vec::new(),
    };
    let section = comparison_section(&comparison);
    let medians = &section[section.find("load (medians)").expect("there is a table")..];
    assert_eq!(medians.matches("<br><small>p50 · p99</small></th>").count(), 5, "one column each: {medians}");
    assert_eq!(medians.matches("<td>998/s<br><small>400 µs · 900 µs</small></td>").count(), 4, "{medians}");
    assert_eq!(medians.matches("<td>–</td>").count(), 1, "{medians}");
}
