//! Messages, for the eyes of a test.

use bytes::Bytes;
use lockstep_proto::{
    Operation,
    limits::SECTOR_SIZE,
    message::{Command, MessageHeader},
    request::{Request, RequestParts, encode_request},
};
use lockstep_replica::{BatchPool, VOUCH_UNKNOWN};

/// Memory from the heap, padded as a journal needs it.
#[derive(Debug, Default)]
pub struct HeapPool;

impl BatchPool for HeapPool {
    type Buffer = Vec<u8>;

    fn take(&mut self, capacity: usize) -> Vec<u8> {
        vec![0xaa; capacity]
    }

    fn freeze(&mut self, mut buffer: Vec<u8>, len: usize) -> Bytes {
        buffer.truncate(len);
        buffer.resize(len.next_multiple_of(SECTOR_SIZE), 0);
        Bytes::from(buffer)
    }
}

pub fn header_of(message: &[u8]) -> MessageHeader {
    *MessageHeader::view(message).expect("a message has a header")
}

pub fn op_of(message: &[u8]) -> u64 {
    header_of(message).op.get()
}

pub fn checksum_of(message: &[u8]) -> u128 {
    header_of(message).checksum.get()
}

pub fn command_of(message: &[u8]) -> Command {
    header_of(message).command().expect("the command is known")
}

/// The sequences of the requests in a prepare. Tests number all requests of a world, so they stand for the requests.
pub fn sequences_of(message: &[u8]) -> Vec<u64> {
    let header = header_of(message);
    let mut rest = &message[MessageHeader::SIZE..header.size.get() as usize];
    let mut sequences = Vec::new();
    while let Some((request, after)) = Request::parse_trusted(rest) {
        sequences.push(request.sequence());
        rest = after;
    }
    assert_eq!(sequences.len(), header.request_count.get() as usize);
    sequences
}

/// A request to write a little.
pub fn request_frame(sequence: u64) -> Vec<u8> {
    let mut frame = Vec::new();
    let parts = RequestParts {
        operation: Operation::Put,
        flags: 0,
        session: 1,
        sequence,
        key: b"key",
        arguments: &[],
        value: b"value",
    };
    encode_request(&parts, &mut frame);
    frame
}

/// The message as it travels, and as the receiving host hands it on: checked, and padded again if it is a prepare.
pub fn carried(message: &Bytes, cluster: u128) -> Bytes {
    let header = header_of(message);
    let size = header.size.get() as usize;
    let command = header.check(cluster, 0).expect("replicas send what is valid");
    let body = &message[MessageHeader::SIZE..size];
    header.check_body(body).expect("a body is as its header says");
    if command != Command::Prepare {
        assert_eq!(message.len(), size, "only prepares are padded");
        return message.clone();
    }
    header.check_requests(body).expect("a prepare holds requests");
    HeapPool.freeze(message[..size].to_vec(), size)
}

/// One line about a message: its command, and the fields that the command gives a meaning to.
pub fn describe(message: &[u8]) -> String {
    let header = header_of(message);
    let (view, op, commit, round) = (header.view.get(), header.op.get(), header.commit.get(), header.round.get());
    match command_of(message) {
        Command::Prepare => {
            let round = if round == 0 { String::new() } else { format!(" round={round}") };
            format!("prepare op={op} view={view} commit={commit} requests={}{round}", header.request_count.get())
        }
        Command::HeartbeatOk if header.nonce.get() != 0 => format!("heartbeat_ok op={op} view={view} asks"),
        Command::RequestPrepare if header.nonce.get() != 0 => format!("request_prepare op={op} view={view} to repair"),
        Command::PrepareOk => format!("prepare_ok op={op} view={view} log_view={}", header.log_view.get()),
        Command::Heartbeat => format!("heartbeat op={op} view={view} commit={commit} round={round}"),
        Command::HeartbeatOk => format!("heartbeat_ok op={op} view={view} round={round}"),
        Command::RequestPrepare => format!("request_prepare op={op} view={view}"),
        Command::Behind => format!("behind op={op} view={view} first_op={commit}"),
        Command::Suspect => format!("suspect view={view}"),
        Command::Handover => format!("handover view={view} to view={op}"),
        Command::Recovery => format!("recovery incarnation={}", header.incarnations[header.replica as usize].get()),
        Command::RecoveryResponse => format!("recovery_response view={view} log_view={}", header.log_view.get()),
        Command::RequestCheckpoint => format!("request_checkpoint op={op} offset={}", header.offset.get()),
        Command::CheckpointChunk => format!("checkpoint_chunk op={op} offset={}", header.offset.get()),
        Command::Diverged => format!("diverged checkpoint={} flags={}", header.checkpoint.get(), header.flags),
        Command::StartViewChange => format!("start_view_change view={view}"),
        Command::DoViewChange => {
            let vouch = match header.vouch_op.get() {
                0 => String::new(),
                VOUCH_UNKNOWN => " vouch unknown".to_owned(),
                op => format!(" vouch op={op}"),
            };
            format!(
                "do_view_change view={view} log_view={} op={op}{vouch} commit={commit} headers={}",
                header.log_view.get(),
                header.body_size() / MessageHeader::SIZE
            )
        }
        Command::StartView => {
            format!(
                "start_view view={view} op={op} commit={commit} headers={}",
                header.body_size() / MessageHeader::SIZE
            )
        }
    }
}
