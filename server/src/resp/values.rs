//! Results of programs, as answers.

use lockstep_proto::{
    Status,
    program::{Value, results},
};

use super::writer::Writer;

/// What is answered when a write would go beyond what a store may hold.
pub const OUT_OF_MEMORY: &str = "OOM command not allowed when used memory > 'maxmemory'.";

/// Writes one result.
pub fn write_value(out: &mut Writer<'_>, value: &Value<'_>) {
    match value {
        Value::Nil => out.null(),
        Value::Ok => out.ok(),
        Value::Integer(number) => out.integer(*number),
        Value::Bulk(bytes) => out.bulk(bytes),
        Value::Word(word) => out.simple(word.text()),
        Value::Array(items) => {
            out.array(items.len());
            items.iter().for_each(|item| write_value(out, &item));
        }
        Value::Error(code) => out.error(code.text()),
        Value::Aborted => out.null_array(),
    }
}

/// Writes the only result of a program.
pub fn write_single(out: &mut Writer<'_>, body: &[u8]) {
    match results(body).next() {
        Some(value) => write_value(out, &value),
        None => out.error("ERR internal error: the store gave no result"),
    }
}

/// Writes why a request was not carried out.
pub fn write_refusal(out: &mut Writer<'_>, status: Status, body: &[u8]) {
    match status {
        Status::NotPrimary => out.error(READ_ONLY),
        Status::Busy => out.error(OUT_OF_MEMORY),
        Status::Unavailable => out.error(NO_PRIMARY),
        Status::WrongShard => out.error("CROSSSLOT Keys in request don't hash to the same slot"),
        _ => {
            let text = [b"ERR ", body].concat();
            out.error_bytes(&text);
        }
    }
}

/// What a backup answers in plain mode.
pub const READ_ONLY: &str = "READONLY You can't write against a read only replica.";

/// What a server answers that knows of no primary.
pub const NO_PRIMARY: &str = "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.";
