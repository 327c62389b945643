use super::*;

fn run(load: &str, peer: Kind, repeat: usize, achieved_per_s: f64) -> ComparedRun {
    let summary = Summary { achieved_per_s, ..Summary::empty() };
    ComparedRun { load: load.to_owned(), peer, repeat, folder: String::new(), summary }
}

fn comparison(ours: &[f64], theirs: &[f64]) -> Comparison {
    let load = "saturated, 128 x 1";
    let mine = ours.iter().enumerate().map(|(repeat, rate)| run(load, Kind::Lockstep, repeat, *rate));
    let others = theirs.iter().enumerate().map(|(repeat, rate)| run(load, Kind::RedisDurable, repeat, *rate));
    let runs = mine.chain(others).collect();
    Comparison { scenario: String::new(), peers: Vec::new(), runs, benchmarks: Vec::new() }
}

fn standing(comparison: &Comparison) -> Standing {
    let is_it = |standing: &&Standing| standing.goal.bound == 8.0;
    comparison.standings().iter().find(is_it).copied().expect("the goal is there")
}

#[test]
fn medians_are_compared_and_not_lucky_runs() {
    let reached = standing(&comparison(&[900.0, 1.0, 800.0], &[100.0, 90.0, 5000.0]));
    assert_eq!(reached.ratio(), Some(8.0));
    assert_eq!(reached.is_reached(), Some(true));
    assert_eq!(standing(&comparison(&[700.0], &[100.0])).is_reached(), Some(false));
}

#[test]
fn who_was_not_there_is_not_compared_with() {
    assert_eq!(standing(&comparison(&[700.0], &[])).is_reached(), None);
    assert_eq!(standing(&comparison(&[700.0], &[0.0])).is_reached(), None);
}

#[test]
fn latencies_have_to_be_low() {
    let goal = GOALS.iter().find(|goal| goal.is_at_most).expect("there is one");
    let standing = |ours| Standing { goal, ours: Some(ours), theirs: Some(10.0) };
    assert_eq!(standing(6.0).is_reached(), Some(true));
    assert_eq!(standing(6.1).is_reached(), Some(false));
}

#[test]
fn a_comma_in_the_name_of_a_load_does_not_add_a_column_to_the_table() {
    let csv = comparison(&[900.0], &[100.0]).csv();
    let (head, rows) = csv.split_once('\n').expect("it has a head");
    assert_eq!(rows.lines().count(), 2);
    for row in rows.lines() {
        let rest = row.strip_prefix("\"saturated, 128 x 1\",").expect("the load is quoted");
        assert_eq!(rest.split(',').count() + 1, head.split(',').count(), "{row}");
    }
}
