//! Messages, for the eyes of a person.

use lockstep_proto::message::{Command, MessageHeader};

use lockstep_replica::ViewRecord;

use crate::facts::header_of;

/// What a superblock says about views.
pub fn describe_record(record: &ViewRecord) -> String {
    let mut text = format!("view={} log_view={}", record.view, record.log_view);
    if record.vouch_op != 0 {
        text += &format!(" vouch={}", record.vouch_op);
    }
    if record.is_recovering {
        text += " recovering";
    }
    text
}

/// One line about a message: its command, and the fields that the command gives a meaning to.
pub fn describe(message: &[u8]) -> String {
    let header = header_of(message);
    let Some(command) = header.command() else { return "an unknown command".to_string() };
    let (view, op, commit, round) = (header.view.get(), header.op.get(), header.commit.get(), header.round.get());
    let log_view = header.log_view.get();
    let headers = header.body_size() / MessageHeader::SIZE;
    match command {
        Command::Prepare => {
            let round = if round == 0 { String::new() } else { format!(" round={round}") };
            format!("prepare op={op} view={view} commit={commit} requests={}{round}", header.request_count.get())
        }
        Command::PrepareOk => format!("prepare_ok op={op} view={view} log_view={log_view}"),
        Command::Heartbeat => format!("heartbeat op={op} view={view} commit={commit} round={round}"),
        Command::HeartbeatOk => {
            format!("heartbeat_ok op={op} view={view} log_view={log_view} round={round} nonce={:x}", header.nonce.get())
        }
        Command::RequestPrepare => format!("request_prepare op={op} view={view}"),
        Command::Behind => {
            format!("behind op={op} view={view} first_op={commit} checkpoint={}", header.checkpoint.get())
        }
        Command::StartViewChange => format!("start_view_change view={view}"),
        Command::DoViewChange => format!(
            "do_view_change view={view} log_view={log_view} op={op} commit={commit} vouch={} flags={} headers={headers}",
            header.vouch_op.get(),
            header.flags
        ),
        Command::StartView => format!(
            "start_view view={view} op={op} commit={commit} head={} nonce={:x} headers={headers}",
            header.vouch_op.get(),
            header.nonce.get()
        ),
        Command::CheckpointChunk => format!(
            "checkpoint_chunk checkpoint={} offset={} size={} of {}",
            header.checkpoint.get(),
            header.offset.get(),
            header.body_size(),
            header.total_size.get()
        ),
        Command::RequestCheckpoint => {
            format!("request_checkpoint checkpoint={} offset={}", header.checkpoint.get(), header.offset.get())
        }
        _ => format!("{command:?} view={view} op={op} nonce={:x}", header.nonce.get()),
    }
}
