//! Shards that fail, and what becomes of the server. Stopping by a signal is tested with the real program.

use std::path::Path;

use clap::Parser;

use super::*;
use crate::{
    cli::{Cli, Command},
    journal::{
        folder::JOURNAL_SIZE_MIN,
        format::format_folder,
        open::{Expected, OpenedFolder, open_folder},
    },
};

const IDENTITY: Identity = Identity { cluster: 7, replica: 0, servers: 1, shards: 2 };

struct Fixture {
    options: Arc<StartOptions>,
    folder: OpenedFolder,
    listeners: Listeners,
    _scratch: tempfile::TempDir,
}

fn options(listen: SocketAddr, admin: Option<SocketAddr>) -> StartOptions {
    let mut arguments = vec!["lockstep-server".to_owned(), "start".to_owned(), "--data-dir=D".to_owned()];
    arguments.extend([format!("--peers={listen}"), "--no-pin".to_owned()]);
    arguments.extend(admin.map(|admin| format!("--admin={admin}")));
    match Cli::parse_from(arguments).command {
        Command::Start(args) => args.validate().expect("valid"),
        other => panic!("not a start: {other:?}"),
    }
}

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// A formatted server of two shards whose ports are bound.
fn fixture() -> Fixture {
    // Next to the program under test: a file system in memory, where temporary folders often are, has no direct I/O.
    let program = std::env::current_exe().expect("known");
    let scratch = tempfile::tempdir_in(program.parent().unwrap_or(Path::new("."))).expect("a folder");
    let dir = scratch.path().join("data");
    format_folder(&dir, &IDENTITY, JOURNAL_SIZE_MIN, &mut |_| {}).expect("formatted");
    let folder = open_folder(&dir, &Expected::default()).expect("just formatted");
    // The system chooses ports that need not follow each other: nobody connects to them here.
    let shards = (0..IDENTITY.shards).map(|_| listen(loopback(0)).expect("a free port")).collect();
    let listeners = Listeners { shards, front: Vec::new(), admin: None };
    Fixture { options: Arc::new(options(loopback(1), None)), folder, listeners, _scratch: scratch }
}

impl Fixture {
    fn serve(self, run_shard: impl Fn(ShardSetup) -> anyhow::Result<()> + Clone + Send + 'static) -> String {
        let result = serve(self.options, IDENTITY, self.folder.shards, self.listeners, run_shard);
        format!("{:#}", result.expect_err("a shard has failed"))
    }
}

/// Runs until the server is asked to stop, or is gone.
fn wait_for_stop(mut setup: ShardSetup) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let _ = runtime.block_on(setup.shutdown.wait_for(|is_asked| *is_asked));
    Ok(())
}

#[test]
fn the_failure_of_one_shard_ends_the_server_with_its_reason() {
    let error = fixture().serve(|setup| match setup.shard {
        1 => Err(anyhow!("no space left").context("shard 1")),
        _ => wait_for_stop(setup),
    });
    assert_eq!(error, "shard 1: no space left");
}

#[test]
fn a_shard_that_ends_without_being_asked_to_is_a_failure() {
    let error = fixture().serve(|setup| if setup.shard == 0 { Ok(()) } else { wait_for_stop(setup) });
    assert_eq!(error, "shard 0 ended without being asked to");
}

#[test]
fn a_panic_in_a_shard_is_a_failure_of_the_server() {
    let error = fixture().serve(|setup| match setup.shard {
        1 => panic!("an invariant does not hold"),
        _ => wait_for_stop(setup),
    });
    assert_eq!(error, "shard 1 panicked: an invariant does not hold");
}

#[test]
fn every_shard_is_given_its_own_files_port_and_numbers() {
    let fixture = fixture();
    let ports: Vec<u16> =
        fixture.listeners.shards.iter().map(|listener| listener.local_addr().expect("bound").port()).collect();
    let error = fixture.serve(move |setup| {
        let shard = setup.shard;
        let port = setup.listener.local_addr()?.port();
        let is_own = setup.files.superblock.shard.get() == shard
            && port == ports[shard as usize]
            && setup.metrics.shard == shard
            && std::thread::current().name() == Some(&format!("shard-{shard}"));
        // Shard 0 waits, so that it is shard 1 which is heard of.
        if is_own && shard == 0 { wait_for_stop(setup) } else { Err(anyhow!("{shard} {is_own}")) }
    });
    assert_eq!(error, "1 true");
}

#[test]
fn a_port_in_use_is_one_line_that_says_which_and_what_to_do() {
    let taken = listen(loopback(0)).expect("a free port");
    let address = taken.local_addr().expect("bound");
    let identity = Identity { shards: 1, ..IDENTITY };
    let error = Listeners::bind(&options(address, None), &identity).expect_err("in use").to_string();
    let expected = format!(
        "{address} is in use by another program: stop that one, or choose another port with --listen and --peers"
    );
    assert_eq!(error, expected);

    // On an address that nobody else uses.
    let free = SocketAddr::from(([127, 77, 7, 7], address.port()));
    let error = Listeners::bind(&options(free, Some(address)), &identity).expect_err("in use").to_string();
    assert!(error.starts_with(&format!("{address} is in use")) && error.ends_with("--admin"), "{error}");
}

#[test]
fn an_address_of_another_host_is_one_line_that_says_so() {
    // A block that is reserved for documentation: no host has it.
    let foreign = SocketAddr::from(([192, 0, 2, 1], 7000));
    let identity = Identity { shards: 1, ..IDENTITY };
    let error = Listeners::bind(&options(foreign, None), &identity).expect_err("not ours").to_string();
    assert!(error.contains("192.0.2.1:7000 is not an address of this host"), "{error}");
}
