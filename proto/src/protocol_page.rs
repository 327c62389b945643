//! The tables of `docs/protocol.md` are made from the code, and this test holds the two together.
//!
//! Each table stands between a line `<!-- table: NAME -->` and a line `<!-- end of table -->`. After a change of the code,
//! `LOCKSTEP_BLESS=1 cargo test -p lockstep-proto protocol_page` writes the tables anew; the diff is then for a person to
//! read.

use std::fmt::Write;

use crate::{
    LAYOUTS, Layout, Operation, Status,
    hello::{Answer, Role},
    limits,
    message::Command,
    program::{ErrorCode, Kind, Opcode, Word},
    request::{FLAG_STALE, FLAG_TTL},
    shape::Shape,
};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol.md");
const END: &str = "<!-- end of table -->";

struct Table {
    name: String,
    lines: Vec<String>,
}

impl Table {
    fn new(name: &str, columns: &[&str]) -> Table {
        let mut table = Table { name: name.to_string(), lines: Vec::new() };
        table.row(columns);
        table.row(&vec!["---"; columns.len()]);
        table
    }

    fn row<T: AsRef<str>>(&mut self, cells: &[T]) {
        let mut line = "|".to_string();
        for cell in cells {
            let cell = cell.as_ref();
            assert!(!cell.contains(['|', '\n']), "this would break the table: {cell}");
            write!(line, " {cell} |").expect("a string takes everything");
        }
        self.lines.push(line);
    }
}

fn layout(layout: &Layout) -> Table {
    let mut table = Table::new(layout.name, &["offset", "size", "field", "meaning"]);
    for field in layout.fields {
        table.row(&[
            field.offset.to_string(),
            field.size.to_string(),
            format!("`{}`", field.name),
            field.meaning.to_string(),
        ]);
    }
    table.row(&[layout.size.to_string(), String::new(), String::new(), "End.".to_string()]);
    table
}

fn values(name: &str, values: impl Iterator<Item = (u8, String, &'static str)>) -> Table {
    let mut table = Table::new(name, &["value", "name", "meaning"]);
    for (value, name, meaning) in values {
        table.row(&[value.to_string(), format!("`{name}`"), meaning.to_string()]);
    }
    table
}

fn operations() -> Table {
    let mut table = Table::new("Operation", &["value", "name", "kind", "key", "session", "flags", "meaning"]);
    for &operation in Operation::ALL {
        let shape = Shape::of(operation);
        let kind = match (operation.is_logged(), operation.is_read()) {
            (true, _) => "logged",
            (_, true) => "read",
            _ => "neither",
        };
        let yes = |is_set: bool| if is_set { "yes" } else { "" };
        let flags = match shape.flags {
            0 => "",
            FLAG_TTL => "`FLAG_TTL`",
            FLAG_STALE => "`FLAG_STALE`",
            _ => unreachable!("no operation takes both flags"),
        };
        table.row(&[
            &operation.to_wire().to_string(),
            &format!("`{operation:?}`"),
            kind,
            yes(shape.has_key),
            yes(shape.has_session),
            flags,
            operation.meaning(),
        ]);
    }
    table
}

fn opcodes() -> Table {
    let mut table = Table::new("Opcode", &["value", "name", "kind", "arguments", "flags", "meaning"]);
    for &opcode in Opcode::ALL {
        let form = opcode.form();
        let kinds: Vec<&str> = form.kinds.iter().map(|&kind| kind_name(kind)).collect();
        let arguments = kinds.join(", ") + if form.is_repeated { ", ..." } else { "" };
        let flags: Vec<&str> = opcode.flag_names().iter().map(|&(_, name)| name).collect();
        let flags: Vec<String> = flags.iter().map(|name| format!("`{name}`")).collect();
        table.row(&[
            &opcode.to_wire().to_string(),
            &format!("`{opcode:?}`"),
            &(if opcode.is_write() { "writes" } else { "reads" }).to_string(),
            &arguments,
            &flags.join(" "),
            &opcode.meaning().to_string(),
        ]);
    }
    table
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Key => "key",
        Kind::Value => "value",
        Kind::Number => "number",
        Kind::Text => "text",
    }
}

fn error_codes() -> Table {
    let mut table = Table::new("ErrorCode", &["value", "name", "text", "meaning"]);
    for &code in ErrorCode::ALL {
        let text = format!("`{}`", code.text());
        table.row(&[code.to_wire().to_string(), format!("`{code:?}`"), text, code.meaning().to_string()]);
    }
    table
}

fn bounds() -> Table {
    let mut table = Table::new("limits", &["name", "value", "meaning"]);
    for limit in limits::ALL {
        table.row(&[&format!("`{}`", limit.name), &limit.value.to_string(), limit.meaning]);
    }
    table
}

/// The table in the documentation of a module, without its links.
fn module_table(name: &str, source: &str) -> Table {
    let lines = source.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim);
    let lines = lines.filter(|line| line.starts_with('|'));
    let lines = lines.map(|line| line.replace("[`crate::items::", "`").replace("[`crate::", "`").replace("`]", "`"));
    let table = Table { name: name.to_string(), lines: lines.collect() };
    assert!(table.lines.len() > 2, "no table at the top of the module");
    table
}

fn tables() -> Vec<Table> {
    let mut tables: Vec<Table> = LAYOUTS.iter().map(layout).collect();
    tables.push(values("Role", Role::ALL.iter().map(|role| (role.to_wire(), format!("{role:?}"), role.meaning()))));
    tables.push(values("Answer", Answer::ALL.iter().map(|a| (a.to_wire(), format!("{a:?}"), a.meaning()))));
    tables.push(values("Status", Status::ALL.iter().map(|s| (s.to_wire(), format!("{s:?}"), s.meaning()))));
    tables.push(values("Command", Command::ALL.iter().map(|c| (c.to_wire(), format!("{c:?}"), c.meaning()))));
    tables.push(operations());
    tables.push(opcodes());
    tables.push(error_codes());
    tables.push(values("Word", Word::ALL.iter().map(|w| (w.to_wire(), format!("{w:?}"), w.meaning()))));
    tables.push(module_table("program results", include_str!("program/mod.rs")));
    tables.push(bounds());
    tables.push(module_table("request bodies", include_str!("request.rs")));
    tables.push(module_table("reply bodies", include_str!("reply.rs")));
    tables
}

/// The page with these tables in their places.
fn with_tables(page: &str, tables: &[Table]) -> Result<String, String> {
    let mut result = String::new();
    let mut missing: Vec<&Table> = tables.iter().collect();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        writeln!(result, "{line}").expect("a string takes everything");
        let Some(name) = line.strip_prefix("<!-- table: ").and_then(|rest| rest.strip_suffix(" -->")) else {
            continue;
        };
        let index = missing.iter().position(|table| table.name == name).ok_or_else(|| {
            format!("the page has a place for a table {name}, which is unknown or has a place already")
        })?;
        for line in &missing.remove(index).lines {
            writeln!(result, "{line}").expect("a string takes everything");
        }
        if !lines.any(|line| line == END) {
            return Err(format!("table {name} has no end"));
        }
        writeln!(result, "{END}").expect("a string takes everything");
    }
    match missing.first() {
        None => Ok(result),
        Some(table) => Err(format!("the page has no place for table {}", table.name)),
    }
}

#[test]
fn the_page_has_the_tables_of_the_code() {
    let page = std::fs::read_to_string(PAGE).expect("docs/protocol.md is there");
    let expected = with_tables(&page, &tables()).unwrap_or_else(|error| panic!("docs/protocol.md: {error}"));
    if page != expected && std::env::var_os("LOCKSTEP_BLESS").is_some_and(|value| value == "1") {
        std::fs::write(PAGE, expected).expect("docs/protocol.md can be written");
        return;
    }
    let line = page.lines().zip(expected.lines()).position(|(found, due)| found != due);
    let line = line.map(|index| (index + 1, expected.lines().nth(index)));
    assert!(
        page == expected,
        "docs/protocol.md differs from the code, first at {line:?}: \
         run LOCKSTEP_BLESS=1 cargo test -p lockstep-proto protocol_page, and read the diff"
    );
}

#[test]
fn a_page_with_too_few_or_too_many_places_is_not_accepted() {
    let table = || Table::new("one", &["a", "b"]);
    let place = format!("before\n<!-- table: one -->\nold\n{END}\nafter\n");
    let filled = with_tables(&place, &[table()]).expect("one table in one place");
    assert_eq!(filled, format!("before\n<!-- table: one -->\n| a | b |\n| --- | --- |\n{END}\nafter\n"));
    assert_eq!(with_tables(&filled, &[table()]), Ok(filled.clone()));
    assert!(with_tables("nothing\n", &[table()]).is_err());
    assert!(with_tables(&place.repeat(2), &[table()]).is_err());
    assert!(with_tables(&place, &[]).is_err());
    assert!(with_tables("<!-- table: one -->\n", &[table()]).is_err());
}
