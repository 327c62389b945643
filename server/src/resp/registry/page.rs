//! The tables of `docs/redis.md` are made from the registry, and this test holds the two together.
//!
//! Each table stands between a line `<!-- table: NAME -->` and a line `<!-- end of table -->`. After a change of the registry,
//! `LOCKSTEP_BLESS=1 cargo test -p lockstep-server registry::page` writes the tables anew; the diff is then for a person to
//! read.

use std::fmt::Write;

use super::{Group, Spec, Support, all, find_full, spec::READONLY, spec::WRITE, unsupported::UNSUPPORTED};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/redis.md");
const END: &str = "<!-- end of table -->";

/// A cell: what would end it is written otherwise.
fn cell(text: &str) -> String {
    assert!(!text.contains('\n'));
    text.replace('|', "\\|")
}

fn call(spec: &Spec) -> String {
    let name = spec.full_name().replace('|', " ").to_ascii_uppercase();
    let syntax = spec.syntax.replace("increment-float", "increment");
    format!("`{}`", format!("{name} {syntax}").trim_end())
}

fn row(spec: &Spec, table: &mut String) {
    let kind = match (spec.has(WRITE), spec.has(READONLY)) {
        (true, _) => "write",
        (_, true) => "read",
        _ => "",
    };
    let support = match spec.support {
        Support::Full => "supported".to_owned(),
        Support::Differs(how) => format!("**differs**: {how}"),
    };
    writeln!(
        table,
        "| {} | {} | {kind} | {} | {} |",
        cell(&call(spec)),
        cell(spec.since),
        cell(spec.summary),
        cell(&support)
    )
    .expect("a string takes everything");
}

fn group_table(group: Group) -> String {
    let mut table =
        "| command | since Redis | kind | what it does | support |\n| --- | --- | --- | --- | --- |\n".to_owned();
    let mut specs: Vec<&Spec> = all().iter().filter(|spec| spec.group == group).collect();
    specs.sort_by_key(|spec| spec.name);
    for spec in specs {
        row(spec, &mut table);
        spec.subcommands.iter().for_each(|inner| row(inner, &mut table));
    }
    table
}

fn unsupported_table() -> String {
    let mut table = "| what | commands | why |\n| --- | --- | --- |\n".to_owned();
    for (what, names, why) in UNSUPPORTED {
        let names: Vec<String> = names.split(' ').map(|name| format!("`{}`", name.replace('|', " "))).collect();
        writeln!(table, "| {what} | {} | {why} |", names.join(", ")).expect("a string takes everything");
    }
    table
}

fn table(name: &str) -> Option<String> {
    match Group::ALL.iter().find(|group| group.name() == name) {
        Some(group) => Some(group_table(*group)),
        None => (name == "unsupported").then(unsupported_table),
    }
}

/// The page with the tables in their places, and how many there were.
fn with_tables(page: &str) -> (String, usize) {
    let mut result = String::new();
    let mut count = 0;
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        writeln!(result, "{line}").expect("a string takes everything");
        let Some(name) = line.strip_prefix("<!-- table: ").and_then(|rest| rest.strip_suffix(" -->")) else {
            continue;
        };
        result += &table(name).unwrap_or_else(|| panic!("docs/redis.md: there is no table {name}"));
        assert!(lines.any(|line| line == END), "docs/redis.md: table {name} has no end");
        writeln!(result, "{END}").expect("a string takes everything");
        count += 1;
    }
    (result, count)
}

#[test]
fn the_page_has_the_tables_of_the_registry() {
    let page = std::fs::read_to_string(PAGE).expect("docs/redis.md is there");
    let (expected, count) = with_tables(&page);
    assert_eq!(count, Group::ALL.len() + 1, "docs/redis.md has a place for each table");
    if page != expected && std::env::var_os("LOCKSTEP_BLESS").is_some_and(|value| value == "1") {
        std::fs::write(PAGE, expected).expect("docs/redis.md can be written");
        return;
    }
    let line = page.lines().zip(expected.lines()).position(|(found, due)| found != due);
    let line = line.map(|index| (index + 1, expected.lines().nth(index)));
    assert!(
        page == expected,
        "docs/redis.md differs from the registry, first at {line:?}: run LOCKSTEP_BLESS=1 cargo test -p lockstep-server \
         registry::page, and read the diff"
    );
}

#[test]
fn what_is_said_not_to_be_there_is_not_there() {
    for name in UNSUPPORTED.iter().flat_map(|(_, names, _)| names.split(' ')) {
        assert!(find_full(name.as_bytes()).is_none(), "{name} is supported");
    }
}
