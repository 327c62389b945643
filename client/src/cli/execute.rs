//! What is done about a command.

use std::{
    ffi::OsString,
    io::{self, Read},
    time::Duration,
};

use lockstep_client::{Client, Entry, Error, Moved, ScanContent, ScanCursor, ScanEntry, Ttl, Written};
use lockstep_proto::limits::VALUE_SIZE_MAX;
use serde_json::{Map, Value, json};

use super::{
    arguments::{Command, Expiry, bytes},
    failure::Failure,
    output::{Printer, escape, put_bytes},
    session::Session,
    status_table,
};

/// Keys that a scan asks for at one time.
const SCAN_PAGE_SIZE: usize = 1_000;

/// What standard input is to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdin {
    /// The value that `-` stands for.
    IsValue,
    /// Where commands come from.
    IsCommands,
}

/// Carries out one command and prints its answer.
pub async fn execute(session: &mut Session, printer: &Printer, command: Command, stdin: Stdin) -> Result<(), Failure> {
    // Before anything is sent, so that a wrong command line is not reported as an unreachable cluster.
    let command = read_value(command, stdin)?;
    let client = session.client().await?;
    match command {
        Command::Put { key, value, ttl: None } => {
            print_written(printer, &client.put(bytes(&key), bytes(&value)).await?)
        }
        Command::Put { key, value, ttl: Some(ttl) } => {
            print_written(printer, &client.put_with_ttl(bytes(&key), bytes(&value), ttl).await?)
        }
        Command::Get { key, show_version } => get(&client, printer, &key, show_version).await,
        Command::Del { key } => print_found_written(printer, &key, client.delete(bytes(&key)).await?),
        Command::Cas { key, version, value, ttl } => {
            print_written(printer, &client.compare_and_set(bytes(&key), version, bytes(&value), ttl).await?)
        }
        Command::Incr { key, delta } => {
            let sum = client.increment(bytes(&key), delta).await?;
            let object = json!({"value": sum.value, "version": sum.version, "copies": sum.copies});
            Ok(printer.answer(&sum.value.to_string(), &object)?)
        }
        Command::Scan { prefix, limit, cursor, keys } => {
            let content = if keys { ScanContent::KeysOnly } else { ScanContent::Values };
            let prefix = prefix.unwrap_or_default();
            scan(&client, printer, bytes(&prefix), limit.unwrap_or(u64::MAX), cursor.unwrap_or_default(), content).await
        }
        Command::Mget { keys } => multi_get(&client, printer, &keys).await,
        Command::Mput { entries, ttl } => {
            let entries: Vec<_> = entries.chunks_exact(2).map(|pair| (bytes(&pair[0]), bytes(&pair[1]))).collect();
            print_written(printer, &client.multi_put(&entries, ttl).await?)
        }
        Command::Exists { key } => exists(&client, printer, &key).await,
        Command::Expire { key, ttl } => {
            let ttl = match ttl {
                Expiry::After(ttl) => Some(ttl),
                Expiry::Never => None,
            };
            print_found_written(printer, &key, client.expire(bytes(&key), ttl).await?)
        }
        Command::Ttl { key } => time_to_live(&client, printer, &key).await,
        Command::Status => status(&client, printer).await,
        Command::MovePrimary { to, shard } => move_primary(&client, printer, to, shard).await,
        Command::Ping { count, shard } => ping(&client, printer, count, shard).await,
    }
}

fn read_value(mut command: Command, stdin: Stdin) -> Result<Command, Failure> {
    if let Command::Put { value, .. } | Command::Cas { value, .. } = &mut command
        && value == "-"
    {
        if stdin == Stdin::IsCommands {
            let message =
                "`-` reads the value from standard input, but the commands come from there; quote the value instead";
            return Err(Failure::Usage(message.to_owned()));
        }
        let mut input = Vec::new();
        // One byte beyond the bound is enough to see that the value is too large.
        io::stdin().lock().take(VALUE_SIZE_MAX as u64 + 1).read_to_end(&mut input)?;
        if input.len() > VALUE_SIZE_MAX {
            return Err(Failure::Usage(format!("what is on standard input is longer than {VALUE_SIZE_MAX} bytes")));
        }
        *value = std::os::unix::ffi::OsStringExt::from_vec(input);
    }
    if let Command::Mput { entries, .. } = &command
        && entries.len() % 2 != 0
    {
        return Err(Failure::Usage("the last key has no value".to_owned()));
    }
    Ok(command)
}

fn print_written(printer: &Printer, written: &Written) -> Result<(), Failure> {
    let Written { version, copies } = written;
    let text = format!("OK version {version}, copies {copies}");
    Ok(printer.answer(&text, &json!({"version": version, "copies": copies}))?)
}

fn print_found_written(printer: &Printer, key: &OsString, written: Option<Written>) -> Result<(), Failure> {
    print_written(printer, &written.ok_or_else(|| not_found(key))?)
}

fn not_found(key: &OsString) -> Failure {
    Failure::NotFound(bytes(key).to_vec())
}

async fn get(client: &Client, printer: &Printer, key: &OsString, show_version: bool) -> Result<(), Failure> {
    let entry = client.get(bytes(key)).await?.ok_or_else(|| not_found(key))?;
    if printer.is_json() {
        return Ok(printer.json(&entry_object(bytes(key), Some(&entry)))?);
    }
    if show_version {
        printer.note(&format!("version {}", entry.version));
    }
    Ok(printer.value(&entry.value)?)
}

fn entry_object(key: &[u8], entry: Option<&Entry>) -> Value {
    let mut object = Map::new();
    put_bytes(&mut object, "key", key);
    match entry {
        Some(entry) => {
            put_bytes(&mut object, "value", &entry.value);
            object.insert("version".to_owned(), json!(entry.version));
        }
        None => {
            object.insert("value".to_owned(), Value::Null);
        }
    }
    object.into()
}

async fn multi_get(client: &Client, printer: &Printer, keys: &[OsString]) -> Result<(), Failure> {
    let keys: Vec<&[u8]> = keys.iter().map(bytes).collect();
    let entries = client.multi_get(&keys).await?;
    let mut missing = None;
    for (&key, entry) in keys.iter().zip(&entries) {
        if printer.is_json() {
            printer.json(&entry_object(key, entry.as_ref()))?;
        } else if let Some(entry) = entry {
            printer.line(&format!("{}\t{}", escape(key), escape(&entry.value)))?;
        } else {
            printer.note(&format!("(nil) {}", escape(key)));
        }
        if entry.is_none() {
            missing = Some(key);
        }
    }
    if missing.is_some() { Err(Failure::NotMet) } else { Ok(()) }
}

async fn exists(client: &Client, printer: &Printer, key: &OsString) -> Result<(), Failure> {
    let version = client.version(bytes(key)).await?;
    let answer = version.is_some();
    printer.answer(&answer.to_string(), &json!({"exists": answer, "version": version}))?;
    if answer { Ok(()) } else { Err(Failure::NotMet) }
}

async fn time_to_live(client: &Client, printer: &Printer, key: &OsString) -> Result<(), Failure> {
    match client.ttl(bytes(key)).await? {
        Ttl::Missing => Err(not_found(key)),
        Ttl::Persistent => Ok(printer.answer("never", &json!({"ttl_ms": null}))?),
        Ttl::Remaining(ttl) => {
            let ttl_ms = ttl.as_millis() as u64;
            Ok(printer.answer(&ttl_ms.to_string(), &json!({"ttl_ms": ttl_ms}))?)
        }
    }
}

async fn scan(
    client: &Client,
    printer: &Printer,
    prefix: &[u8],
    limit: u64,
    mut cursor: ScanCursor,
    content: ScanContent,
) -> Result<(), Failure> {
    let mut printed = 0;
    loop {
        // Without a prefix a page is never larger than what is still to be printed, so that its end is a place to go on.
        let page_size = if prefix.is_empty() { limit.saturating_sub(printed) } else { u64::MAX };
        let page_size = usize::try_from(page_size).unwrap_or(usize::MAX).min(SCAN_PAGE_SIZE);
        let page = client.scan_page(cursor, page_size, content).await?;
        for entry in page.entries.iter().filter(|entry| entry.key.starts_with(prefix)) {
            print_scan_entry(printer, entry, content)?;
            printed += 1;
        }
        let Some(next) = page.next else { return Ok(()) };
        if printed >= limit {
            if printer.is_json() {
                printer.json(&json!({"cursor": next.to_string()}))?;
            } else {
                printer.note(&format!("more: --cursor {next}"));
            }
            return Ok(());
        }
        cursor = next;
    }
}

fn print_scan_entry(printer: &Printer, entry: &ScanEntry, content: ScanContent) -> io::Result<()> {
    let has_values = content == ScanContent::Values;
    if !printer.is_json() {
        let value = if has_values { format!("\t{}", escape(&entry.value)) } else { String::new() };
        return printer.line(&format!("{}{value}", escape(&entry.key)));
    }
    let mut object = Map::new();
    put_bytes(&mut object, "key", &entry.key);
    if has_values {
        put_bytes(&mut object, "value", &entry.value);
    }
    object.insert("version".to_owned(), json!(entry.version));
    printer.json(&object.into())
}

async fn status(client: &Client, printer: &Printer) -> Result<(), Failure> {
    let lines = client.status().await;
    let cluster = client.cluster();
    let object = || json!({"cluster": format!("{:032x}", cluster.id), "shards": client.shards(), "servers": lines});
    if printer.is_json() {
        printer.json(&object())?;
    } else {
        printer.line(&status_table::render(&lines))?;
    }
    match (0..client.shards()).find(|&shard| status_table::primary_of(&lines, shard).is_none()) {
        Some(shard) => Err(Failure::Other(format!("shard {shard} has no primary that can be reached"))),
        None => Ok(()),
    }
}

/// A shard that fails does not keep the others from being moved; the first failure is the command's.
async fn move_primary(client: &Client, printer: &Printer, to: Option<u8>, shard: Option<u16>) -> Result<(), Failure> {
    let mut result = Ok(());
    for shard in shard.map_or(0..client.shards(), |shard| shard..shard.saturating_add(1)) {
        let moved = match client.move_primary(shard, to).await {
            Ok(moved) => moved,
            Err(error) => {
                let failure = match error {
                    Error::Refused { message, .. } => Failure::Refused(format!("shard {shard}: {message}")),
                    other => Failure::from(other),
                };
                if result.is_err() {
                    // Only the first is reported at the end.
                    printer.note(&format!("shard {shard}: not moved"));
                }
                result = result.and(Err(failure));
                continue;
            }
        };
        let Moved { from, to, view, took, .. } = moved;
        let text = if from == to {
            format!("shard {shard}: server {to} is the primary already, view {view}")
        } else {
            let took_ms = took.as_secs_f64() * 1e3;
            format!("shard {shard}: server {to} is the primary now, was server {from}; view {view}, {took_ms:.1} ms")
        };
        let took_us = took.as_micros() as u64;
        printer.answer(&text, &json!({"shard": shard, "from": from, "to": to, "view": view, "time_us": took_us}))?;
    }
    result
}

async fn ping(client: &Client, printer: &Printer, count: u32, shard: Option<u16>) -> Result<(), Failure> {
    let shards = shard.map_or(0..client.shards(), |shard| shard..shard.saturating_add(1));
    for _ in 0..count {
        for shard in shards.clone() {
            let time: Duration = client.ping_shard(shard).await?;
            let time_us = time.as_micros() as u64;
            let text = format!("shard {shard}: {:.3} ms", time.as_secs_f64() * 1e3);
            printer.answer(&text, &json!({"shard": shard, "time_us": time_us}))?;
        }
    }
    Ok(())
}
