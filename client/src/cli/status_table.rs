//! The cluster's status as a table.

use std::{io, time::Duration};

use comfy_table::{Attribute, Cell, CellAlignment, Color, Table, presets};
use lockstep_client::{ReplicaRole, ReplicaStatus, ServerStatus};

use super::output::has_color;

const HEADER: [&str; 12] = [
    "server",
    "address",
    "shard",
    "role",
    "view",
    "op",
    "commit",
    "applied",
    "lag",
    "in-sync",
    "connections",
    "uptime",
];

/// Columns that hold numbers, which are easier to compare when they end at the same place.
const NUMBERS: [usize; 8] = [0, 2, 4, 5, 6, 7, 8, 10];

/// The table, ready to be printed on standard output.
pub fn render(lines: &[ServerStatus]) -> String {
    let is_colored = has_color(&io::stdout());
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(HEADER.map(|name| {
        let cell = Cell::new(name);
        if is_colored { cell.add_attribute(Attribute::Bold) } else { cell }
    }));
    if !is_colored {
        table.force_no_tty();
    }
    for line in lines {
        table.add_row(row(line, primary_of(lines, line.shard), is_colored));
    }
    for column in NUMBERS {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = table.trim_fmt();
    for line in lines {
        if let Some(error) = &line.error {
            text.push_str(&format!("\nserver {} shard {}: {error}", line.server, line.shard));
        }
    }
    text
}

/// What a shard's primary says: the replica with the highest view of those that call themselves so.
pub fn primary_of(lines: &[ServerStatus], shard: u16) -> Option<&ReplicaStatus> {
    lines
        .iter()
        .filter(|line| line.shard == shard)
        .filter_map(|line| line.replica.as_ref())
        .filter(|replica| replica.role == ReplicaRole::Primary)
        .max_by_key(|replica| replica.view)
}

fn row(line: &ServerStatus, primary: Option<&ReplicaStatus>, is_colored: bool) -> Vec<Cell> {
    let plain = |text: String| Cell::new_owned(text);
    let in_sync = match primary {
        Some(primary) if primary.in_sync.contains(&line.server) => ("yes", None),
        Some(_) => ("no", Some(Color::Yellow)),
        None => ("?", None),
    };
    let in_sync = styled(in_sync.0.to_owned(), in_sync.1, is_colored);
    let mut cells = vec![plain(line.server.to_string()), plain(line.address.clone()), plain(line.shard.to_string())];
    let Some(replica) = &line.replica else {
        cells.push(styled("unreachable".to_owned(), Some(Color::Red), is_colored));
        cells.extend(std::iter::repeat_with(|| plain("-".to_owned())).take(4));
        cells.extend([plain(lag(line, primary)), in_sync, plain("-".to_owned()), plain("-".to_owned())]);
        return cells;
    };
    let (role, color) = match replica.role {
        ReplicaRole::Primary => ("primary", Some(Color::Green)),
        ReplicaRole::Backup => ("backup", None),
        ReplicaRole::Recovering => ("recovering", Some(Color::Yellow)),
        ReplicaRole::Deficient => ("deficient", Some(Color::Yellow)),
        ReplicaRole::Unknown => ("unknown", Some(Color::Yellow)),
    };
    let uptime = Duration::from_secs(replica.uptime_ms / 1000);
    cells.push(styled(role.to_owned(), color, is_colored));
    cells.extend([replica.view, replica.op, replica.commit, replica.applied].map(|number| plain(number.to_string())));
    cells.extend([
        plain(lag(line, primary)),
        in_sync,
        plain(replica.connections.to_string()),
        plain(humantime::format_duration(uptime).to_string()),
    ]);
    cells
}

/// By how many ops a server is behind, as the shard's primary sees it.
fn lag(line: &ServerStatus, primary: Option<&ReplicaStatus>) -> String {
    let is_primary = line.replica.as_ref().is_some_and(|replica| replica.role == ReplicaRole::Primary);
    let peer = primary.and_then(|primary| primary.peers.iter().find(|peer| peer.server == line.server));
    if let Some(transfer) = line.replica.as_ref().and_then(|replica| replica.transfer) {
        let lag = peer.map_or_else(|| "?".to_owned(), |peer| peer.lag.to_string());
        return format!("{lag} (checkpoint: {} %)", transfer.percent());
    }
    match peer {
        _ if is_primary => "0".to_owned(),
        Some(peer) if peer.is_behind => format!("{} (needs a checkpoint)", peer.lag),
        Some(peer) => peer.lag.to_string(),
        None => "?".to_owned(),
    }
}

fn styled(text: String, color: Option<Color>, is_colored: bool) -> Cell {
    let cell = Cell::new_owned(text);
    match color {
        Some(color) if is_colored => cell.fg(color),
        _ => cell,
    }
}
