//! What the command line takes, refuses, and says about it.

use std::time::Duration;

use clap::{CommandFactory, Parser};
use lockstep_proto::checksum::cluster_id;

use super::*;
use crate::shard::Identity;

const THREE: &str = "--peers=10.0.0.1:7000,10.0.0.2:7000,10.0.0.3:7000";

fn start_args(more: &[&str]) -> StartArgs {
    let arguments = ["lockstep-server", "start", "--data-dir=D"].iter().chain(more);
    match Cli::try_parse_from(arguments).expect("these arguments are well-formed").command {
        Command::Start(args) => *args,
        other => panic!("not a start: {other:?}"),
    }
}

fn start(more: &[&str]) -> Result<StartOptions, String> {
    start_args(&[&[THREE], more].concat()).validate()
}

fn parse_error(arguments: &[&str]) -> clap::Error {
    Cli::try_parse_from([&["lockstep-server"], arguments].concat()).expect_err("must be refused")
}

fn identity(servers: u8, shards: u16) -> Identity {
    Identity { cluster: cluster_id("test"), replica: 0, servers, shards }
}

#[test]
fn the_definition_is_consistent_and_every_option_of_start_explains_itself() {
    let mut command = Cli::command();
    command.build();
    command.clone().debug_assert();
    for name in ["format", "start", "dev", "inspect"] {
        let part = command.find_subcommand(name).expect("exists");
        for option in part.get_arguments() {
            assert!(option.get_help().is_some(), "{name}: {} has no help", option.get_id());
        }
    }
}

#[test]
fn defaults_are_valid_and_are_what_the_help_says() {
    let options = start(&[]).expect("defaults are valid");
    assert_eq!((options.ack, options.fanout, options.durability), (Ack::Majority, FanOut::Parallel, Durability::Disk));
    assert_eq!(options.batch_linger_ns, 0);
    assert_eq!(options.heartbeat_interval_ns, 25_000_000);
    assert_eq!(options.view_timeout_ns, 250_000_000);
    assert_eq!(options.stall_timeout_ns, 500_000_000);
    assert_eq!(options.backup_silence_ns, 1_000_000_000);
    assert_eq!(options.advertise, options.peers);
    assert_eq!(options.pinning, Pinning::Available);
    assert_eq!(options.admin, None);
}

#[test]
fn every_option_reaches_the_settings() {
    let options = start(&[
        "--advertise=a:1,b:2,c:3",
        "--listen=0.0.0.0:7000",
        "--admin=127.0.0.1:0",
        "--ack=strict",
        "--fanout=sequential",
        "--durability=memory",
        "--heartbeat-interval=5ms",
        "--view-timeout=40ms",
        "--stall-timeout=90ms",
        "--backup-silence=300ms",
        "--batch-max-ops=7",
        "--batch-max-bytes=3MiB",
        "--batch-linger=50us",
        "--batch-gather=9",
        "--batch-gather-time=70us",
        "--pipeline=3",
        "--checkpoint-every=32MiB",
        "--connections-max=11",
        "--clients-memory=64MiB",
        "--sessions-max=12",
        "--log-format=json",
        "--cpus=1,0",
        "--busy-poll=60us",
    ])
    .expect("valid");
    let expected = StartOptions {
        data_dir: "D".into(),
        peers: ["10.0.0.1:7000", "10.0.0.2:7000", "10.0.0.3:7000"].map(|peer| peer.parse().expect("valid")).to_vec(),
        advertise: ["a:1", "b:2", "c:3"].map(|address| address.parse().expect("valid")).to_vec(),
        listen: Some("0.0.0.0:7000".parse().expect("valid")),
        admin: Some("127.0.0.1:0".parse().expect("valid")),
        resp: None,
        ack: Ack::Strict,
        fanout: FanOut::Sequential,
        durability: Durability::Memory,
        heartbeat_interval_ns: 5_000_000,
        view_timeout_ns: 40_000_000,
        stall_timeout_ns: 90_000_000,
        backup_silence_ns: 300_000_000,
        batch_ops_max: 7,
        batch_bytes_max: 3 << 20,
        batch_linger_ns: 50_000,
        batch_gather_ops: 9,
        batch_gather_ns: 70_000,
        pipeline_max: 3,
        checkpoint_every: Some(32 << 20),
        connections_max: 11,
        client_bytes_max: 64 << 20,
        sessions_max: 12,
        log_format: LogFormat::Json,
        pinning: Pinning::Cpus(vec![1, 0]),
        busy_poll_ns: 60_000,
    };
    assert_eq!(options, expected);
}

#[test]
fn options_handed_to_a_child_are_read_back_the_same() {
    let more = [
        "--ack=all",
        "--batch-linger=1us",
        "--batch-gather=0",
        "--batch-gather-time=3us",
        "--busy-poll=7us",
        "--checkpoint-every=40MiB",
        "--cpus=0,3",
        "--clients-memory=0",
        "--log-format=json",
    ];
    let args = start_args(&[&[THREE], &more[..]].concat());
    let arguments = args.tuning.to_arguments();
    let handed_on: Vec<&str> = arguments.iter().map(String::as_str).collect();
    assert_eq!(start(&handed_on), args.validate());
    let unpinned = start_args(&[THREE, "--no-pin"]).tuning.to_arguments();
    assert!(unpinned.contains(&"--no-pin".to_owned()));
}

#[test]
fn a_value_out_of_range_is_answered_with_the_option_and_its_range() {
    let cases = [
        ("--batch-max-ops=0", "--batch-max-ops is 0: choose from 1 to"),
        ("--batch-max-ops=9999999", "--batch-max-ops is 9999999: choose from 1 to"),
        ("--batch-max-bytes=64KiB", "the largest request must fit"),
        ("--batch-max-bytes=1GiB", "--batch-max-bytes is 1.0 GiB"),
        ("--batch-gather=4097", "--batch-gather is 4097: choose from 0 to 4096"),
        ("--pipeline=0", "--pipeline is 0: choose from 1 to 256"),
        ("--pipeline=257", "--pipeline is 257: choose from 1 to 256"),
        ("--connections-max=0", "--connections-max is 0"),
        ("--clients-memory=63MiB", "--clients-memory is 63.0 MiB: choose 0, for no bound, or at least 64.0 MiB"),
        ("--sessions-max=0", "--sessions-max is 0"),
        ("--batch-linger=1s", "--batch-linger is 1s: choose from 0s to 100ms"),
        ("--heartbeat-interval=0", "--heartbeat-interval is 0s: choose from 1ms to 10s"),
        ("--backup-silence=74ms", "less than three times --heartbeat-interval (25ms)"),
        ("--view-timeout=99ms", "less than four times --heartbeat-interval (25ms)"),
        ("--stall-timeout=1ms", "--stall-timeout is 1ms: choose from 10ms"),
        ("--advertise=a:1,b:2", "--advertise has 2 addresses and --peers has 3"),
        ("--advertise=a:1,b:2,a:1", "--advertise: servers 0 and 2 have the same address a:1"),
    ];
    for (option, expected) in cases {
        let error = start(&[option]).expect_err(option);
        assert!(error.contains(expected), "{option}: {error}");
    }
}

#[test]
fn peers_are_bounded_and_distinct() {
    let eight: Vec<String> = (0..8).map(|id| format!("h{id}:1")).collect();
    let error = start_args(&["--peers", &eight.join(",")]).validate().expect_err("too many");
    assert!(error.contains("at most 7 servers"), "{error}");
    let error = start_args(&["--peers=a:1,a:1"]).validate().expect_err("twice the same");
    assert!(error.contains("servers 0 and 1 have the same address"), "{error}");
}

#[test]
fn settings_that_do_not_fit_the_folder_name_the_remedy() {
    let options = start(&[]).expect("valid");
    options.check_identity(&identity(3, 1)).expect("fits");
    let error = options.check_identity(&identity(5, 1)).expect_err("5 servers, 3 addresses");
    assert!(error.contains("--peers has 3 addresses") && error.contains("formatted for 5 servers"), "{error}");

    let high = start_args(&["--peers=a:65535"]).validate().expect("valid by itself");
    high.check_identity(&identity(1, 1)).expect("one shard fits");
    let error = high.check_identity(&identity(1, 2)).expect_err("the second shard's port does not exist");
    assert!(error.contains("a:65535 with 2 shards"), "{error}");

    let zero = start_args(&["--peers=a:0"]).validate().expect("valid by itself");
    let error = zero.check_identity(&identity(1, 1)).expect_err("port 0");
    assert!(error.contains("port 0"), "{error}");
}

#[test]
fn checkpoints_are_due_at_half_of_the_journal_or_where_asked_as_long_as_two_prepares_fit_above() {
    const MIB: u64 = 1 << 20;
    let options = start(&[]).expect("valid");
    assert_eq!(options.checkpoint_every_bytes(512 * MIB), Ok(256 * MIB));
    let largest = start(&["--batch-max-bytes=4MiB"]).expect("valid");
    assert_eq!(
        largest.checkpoint_every_bytes(JOURNAL_SIZE_MIN),
        Ok(8 * MIB),
        "every journal there is works by default"
    );

    let options = start(&["--checkpoint-every=13MiB"]).expect("valid");
    assert_eq!(options.checkpoint_every_bytes(17 * MIB), Ok(13 * MIB));
    let error = options.checkpoint_every_bytes(16 * MIB).expect_err("no room for two prepares of 2 MiB");
    assert!(error.contains("--checkpoint-every is 13.0 MiB") && error.contains("to 12.0 MiB"), "{error}");
    assert!(start(&["--checkpoint-every=0"]).expect("valid by itself").checkpoint_every_bytes(16 * MIB).is_err());
}

#[test]
fn a_malformed_option_is_a_usage_error_that_names_it() {
    let cases: [(&[&str], &str); 8] = [
        (&["start", "--data-dir=D"], "--peers"),
        (&["start", "--data-dir=D", "--peers=nowhere"], "write host:port"),
        (&["start", "--data-dir=D", THREE, "--ack=most"], "majority, all, strict"),
        (&["start", "--data-dir=D", THREE, "--batch-linger=5"], "such as 50us"),
        (&["start", "--data-dir=D", THREE, "--no-pin", "--cpus=1"], "--cpus"),
        (&["format", "--data-dir=D", "--cluster=c", "--id=0", "--servers=8"], "1..=7"),
        (&["dev", "--servers=0"], "1..=7"),
        (&["dev", "--shards=257"], "1..=256"),
    ];
    for (arguments, expected) in cases {
        let error = parse_error(arguments);
        assert_eq!(error.exit_code(), 2, "{arguments:?}");
        assert!(error.to_string().contains(expected), "{arguments:?}: {error}");
    }
}

#[test]
fn format_checks_its_options_together() {
    let format = |more: &[&str]| {
        let arguments = [&["lockstep-server", "format", "--data-dir=D", "--servers=3"], more].concat();
        match Cli::try_parse_from(arguments).expect("well-formed").command {
            Command::Format(args) => args.validate(),
            other => panic!("not a format: {other:?}"),
        }
    };
    format(&["--cluster=c", "--id=2"]).expect("valid");
    let error = |more| format(more).expect_err("must be refused");
    assert!(error(&["--cluster=c", "--id=3"]).contains("ids go from 0 to 2"));
    assert!(error(&["--cluster=", "--id=0"]).contains("--cluster is empty"));
    assert!(error(&["--cluster=c", "--id=0", "--journal-size=1MiB"]).contains("choose from 16.0 MiB to 1.0 TiB"));
    assert!(error(&["--cluster=c", "--id=0", "--journal-size=16777217"]).contains("a multiple of 4096"));
}

#[test]
fn the_guards_of_start_are_what_the_folder_is_compared_with() {
    let args = start_args(&[THREE, "--cluster=c", "--id=2"]);
    let expected = args.expected();
    assert_eq!((expected.cluster, expected.replica), (Some(cluster_id("c")), Some(2)));
    assert_eq!(start_args(&[THREE]).expected(), Default::default());
}

#[test]
fn a_time_is_kept_exactly() {
    let options = start(&["--batch-linger=1us 1ns"]).expect("valid");
    assert_eq!(Duration::from_nanos(options.batch_linger_ns), Duration::from_nanos(1001));
}
