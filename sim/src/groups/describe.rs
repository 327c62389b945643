//! Operations on groups, in words.

use lockstep_proto::{
    Operation, Status,
    program::{Commands, Kind as Argument, Value, results},
    request::Request,
};

use super::{Operated, search::Stuck, witness::Refused};
use crate::keyspace::Keyspace;

/// Operations that an explanation lists at most.
const LISTED_MAX: usize = 16;

fn text(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(24)];
    let rest = if shown.len() < bytes.len() { format!("... ({} bytes)", bytes.len()) } else { String::new() };
    format!("\"{}\"{rest}", shown.escape_ascii())
}

/// A request, on one line.
fn describe_request(request: &Request<'_>) -> String {
    if !matches!(request.operation(), Operation::Transact | Operation::Query) {
        let arguments = text(&[request.arguments()].concat());
        return format!("{:?} {} {arguments}", request.operation(), text(request.key()));
    }
    let commands = Commands::new(request.program()).map(|command| {
        let kinds = command.opcode.form().kinds.iter().cycle();
        let arguments = command.arguments().zip(kinds).map(|(bytes, kind)| match (kind, bytes.try_into()) {
            (Argument::Number, Ok(number)) => i64::from_le_bytes(number).to_string(),
            _ => text(bytes),
        });
        let flags = command.opcode.flag_names().iter().filter(|(flag, _)| command.has(*flag)).map(|(_, name)| *name);
        let words: Vec<String> = arguments.chain(flags.map(str::to_owned)).collect();
        format!("{:?} {}", command.opcode, words.join(" "))
    });
    commands.collect::<Vec<_>>().join("; ")
}

fn describe_value(value: &Value<'_>) -> String {
    match value {
        Value::Bulk(bytes) => text(bytes),
        Value::Integer(number) => number.to_string(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| describe_value(&item)).collect();
            format!("[{}]", items.join(", "))
        }
        other => format!("{other:?}"),
    }
}

/// An answer, on one line.
pub fn describe_answer(operation: Operation, status: Status, version: u64, body: &[u8]) -> String {
    let body = match operation {
        Operation::Transact | Operation::Query => {
            results(body).map(|value| describe_value(&value)).collect::<Vec<_>>().join("; ")
        }
        Operation::Increment => body.try_into().map_or(String::new(), |sum| i64::from_le_bytes(sum).to_string()),
        _ => text(body),
    };
    format!("{status:?} at {version}: {body}")
}

fn describe(operated: &Operated) -> String {
    let told = match &operated.told {
        Some(told) => describe_answer(told.operation, told.status, told.version, &told.body),
        None => "outcome unknown".to_owned(),
    };
    let ms =
        |ns: u64| if ns == u64::MAX { "?".to_owned() } else { format!("{}.{:06}", ns / 1_000_000, ns % 1_000_000) };
    format!(
        "[{} .. {} ms] client {}{}: {} -> {told}",
        ms(operated.invoke_ns),
        ms(operated.return_ns),
        operated.client,
        operated.connection.map_or(String::new(), |connection| format!(" on {}", connection & 0xFF_FFFF)),
        describe_request(&operated.request())
    )
}

/// Why there is no order, and the operations around the place where every order ends.
pub(super) fn explain(group: u16, operations: &[Operated], stuck: &Stuck) -> String {
    let (state, around) = around(operations, stuck.overdue, &stuck.state);
    format!(
        "no order of effects on group {group} explains these answers. At best it was {{{state}}} before this was answered:\n  {around}"
    )
}

/// Why the order of the log does not explain what clients were told.
pub(super) fn explain_refused(group: u16, operations: &[Operated], refused: &Refused) -> String {
    let (state, around) = around(operations, refused.place, &refused.state);
    let why = &refused.why;
    format!(
        "the log is no order of effects on group {group}: {why}. It was {{{state}}}; what does not fit:\n  {around}"
    )
}

/// What the keys hold, and an operation with those around it.
fn around(operations: &[Operated], place: u32, state: &Keyspace) -> (String, String) {
    let overdue = &operations[place as usize];
    let around: Vec<&Operated> =
        operations.iter().filter(|operated| !operated.is_refused && operated.invoke_ns <= overdue.return_ns).collect();
    let skipped = around.len().saturating_sub(LISTED_MAX);
    let lines: Vec<String> = around[skipped..].iter().map(|operated| describe(operated)).collect();
    let state: Vec<String> = state
        .iter()
        .map(|(key, entry)| {
            format!("{} = {} at {:?}, expiry {:?}", text(key), text(&entry.value), entry.version, entry.expiry)
        })
        .collect();
    let around = format!("{}\n({skipped} earlier operations)\n  {}", describe(overdue), lines.join("\n  "));
    (state.join("; "), around)
}
