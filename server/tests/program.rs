//! The program as a process: what it prints, how it ends, and what it does where io_uring is forbidden.

mod harness;

use std::{
    os::unix::process::CommandExt,
    process::{Command, Output},
};

use harness::{Cluster, Hangup, Spec, get, scratch_folder, server_binary, set_hangup};

fn run(arguments: &[&str]) -> Output {
    Command::new(server_binary()).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Has every later `io_uring_setup` of this process, and of what it becomes, fail with `errno`, as a container's
/// seccomp profile does.
fn forbid_io_uring(errno: u32) -> std::io::Result<()> {
    let instruction =
        |code: u32, jump_if_not: u8, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: jump_if_not, k };
    // The number of the system call is the first field of what a filter is given.
    let mut filter = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, libc::SYS_io_uring_setup as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | errno),
        instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: both calls only change what this process may do; the filter outlives the call, which copies it.
    let refused = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) != 0
    };
    if refused { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

#[test]
fn without_io_uring_start_and_dev_end_with_one_line_that_says_what_to_change() {
    for (errno, cause) in [(libc::EPERM, "seccomp"), (libc::ENOSYS, "kernel")] {
        for arguments in [&["start", "--data-dir=D", "--peers=127.0.0.1:1"][..], &["dev", "--port=0"]] {
            let mut command = Command::new(server_binary());
            command.args(arguments);
            // SAFETY: between fork and exec only system calls are made, and no memory is allocated.
            unsafe { command.pre_exec(move || forbid_io_uring(errno as u32)) };
            let output = command.output().unwrap();
            let error = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{error}");
            assert!(
                error.starts_with("lockstep-server: io_uring cannot be used: ") && error.contains(cause),
                "{error}"
            );
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}

#[test]
fn a_check_over_several_options_ends_like_any_wrong_usage() {
    let output = run(&["start", "--data-dir=D", "--peers=127.0.0.1:1", "--pipeline=0"]);
    assert_eq!(output.status.code(), Some(2));
    let error = text(&output.stderr);
    assert!(error.starts_with("error: --pipeline is 0: choose from 1 to 256"), "{error}");
    assert!(error.contains("Usage: lockstep-server start"), "{error}");
}

#[test]
fn help_gives_units_defaults_and_dangers_and_fits_a_terminal() {
    let help = text(&run(&["start", "--help"]).stdout);
    for expected in
        ["[default: 1s]", "[default: 2MiB]", "MUST BE THE SAME ON EVERY SERVER", "ACKNOWLEDGED WRITES ARE LOST"]
    {
        assert!(help.contains(expected), "{expected} is not in:\n{help}");
    }
    let widest = help.lines().map(|line| line.chars().count()).max().unwrap();
    assert!(widest <= 110, "{widest} columns");
}

#[test]
fn inspect_shows_a_stopped_and_a_running_server_and_both_formats() {
    let mut cluster = Cluster::start(Spec::of(1));
    let folder = cluster.servers[0].folder.to_str().unwrap().to_owned();
    let running = run(&["inspect", "--data-dir", &folder]);
    assert!(text(&running.stdout).contains("in use by a server"), "{}", text(&running.stdout));

    cluster.signal(0, "TERM");
    assert_eq!(cluster.wait_for_exit(0).code(), Some(0));
    let stopped = run(&["inspect", "--data-dir", &folder, "--output", "json"]);
    assert_eq!(stopped.status.code(), Some(0), "{}", text(&stopped.stderr));
    let view: serde_json::Value = serde_json::from_slice(&stopped.stdout).unwrap();
    assert_eq!(view["is_in_use"], false);
    assert_eq!(view["shards"][0]["superblock"]["journal_size"], 16 << 20);
}

#[test]
fn what_a_folder_has_to_do_with_is_said_once_and_by_name() {
    let place = tempfile::tempdir_in(scratch_folder()).unwrap();
    let path = |name: &str| place.path().join(name).display().to_string();
    let format = |dir: &str| {
        run(&["format", "--data-dir", dir, "--cluster=one", "--id=0", "--servers=1", "--journal-size=16MiB"])
    };
    let error = text(&format("/proc/lockstep").stderr);
    assert_eq!(error.matches("os error").count(), 1, "{error}");
    let made = format(&path("data"));
    assert!(made.status.success(), "{}", text(&made.stderr));

    let start = run(&["start", "--data-dir", &path("data"), "--peers=127.0.0.1:1", "--cluster=other"]);
    let error = text(&start.stderr);
    assert!(start.status.code() == Some(1) && error.contains("not `other`"), "{error}");

    // Neither the folder of a server nor one with something else in it becomes one of `dev`.
    for (dir, reason) in [(path("data"), "is the data folder of a server"), (path(""), "is not empty")] {
        let dev = run(&["dev", "--data-dir", &dir, "--port=0", "--journal-size=16MiB"]);
        assert!(dev.status.code() == Some(1) && text(&dev.stderr).contains(reason), "{}", text(&dev.stderr));
        assert!(!place.path().join("server-0").exists() && !place.path().join("data/server-0").exists());
    }
}

#[test]
fn log_lines_are_json_where_that_was_asked_for() {
    let mut cluster = Cluster::start(Spec::of(1).with(&["--log-format=json"]));
    cluster.signal(0, "TERM");
    assert_eq!(cluster.wait_for_exit(0).code(), Some(0));
    let log = cluster.log(0);
    assert!(log.lines().count() >= 3, "{log}");
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["level"].is_string() && line["message"].is_string(), "{line}");
    }
}

#[test]
fn a_closed_terminal_ends_a_server_in_order_unless_that_is_ignored() {
    let mut cluster = Cluster::format(Spec::of(1));
    let mut command = cluster.start_command(0);
    set_hangup(&mut command, Hangup::Ends);
    cluster.start_by(0, command);
    cluster.wait_until_healthy();
    cluster.signal(0, "HUP");
    assert_eq!(cluster.wait_for_exit(0).code(), Some(0), "{}", cluster.log(0));
    assert!(cluster.log(0).contains("SIGHUP: accepting no more") && cluster.log(0).contains("stopped"));

    let mut command = cluster.start_command(0);
    set_hangup(&mut command, Hangup::IsIgnored);
    cluster.start_by(0, command);
    cluster.wait_until_healthy();
    cluster.signal(0, "HUP");
    // A signal is there before what is sent after it, and would be the first one.
    cluster.signal(0, "TERM");
    assert_eq!(cluster.wait_for_exit(0).code(), Some(0), "{}", cluster.log(0));
    assert!(cluster.log(0).contains("SIGTERM: accepting no more"), "{}", cluster.log(0));
}

#[test]
fn a_log_that_could_not_be_written_ended_the_server() {
    let mut cluster = Cluster::format(Spec::of(1));
    let mut command = cluster.start_command(0);
    command.stderr(std::fs::File::options().write(true).open("/dev/full").unwrap());
    cluster.adopt(0, command.spawn().unwrap());
    cluster.wait_until_healthy();
    cluster.signal(0, "TERM");
    assert_eq!(cluster.wait_for_exit(0).code(), Some(0));
}

#[test]
fn a_limit_of_open_files_below_the_usual_bounds_was_a_warning_at_every_start() {
    for (options, level) in [(&[][..], " INFO "), (&["--connections-max=10001"], " WARN ")] {
        let mut cluster = Cluster::format(Spec::of(1).with(options));
        let mut command = cluster.start_command(0);
        // SAFETY: between fork and exec only a system call is made, and no memory is allocated.
        unsafe {
            command.pre_exec(|| {
                let limit = libc::rlimit { rlim_cur: 4096, rlim_max: 4096 };
                if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0 {
                    Ok(())
                } else {
                    Err(std::io::Error::last_os_error())
                }
            });
        }
        cluster.start_by(0, command);
        cluster.wait_until_healthy();
        let log = cluster.log(0);
        let line = log.lines().find(|line| line.contains("may have 4096 files open, so about 4040 clients fit"));
        assert!(line.is_some_and(|line| line.contains(level)), "{log}");
    }
}

#[test]
fn durability_in_memory_is_warned_about_at_the_start() {
    let cluster = Cluster::start(Spec::of(1).with(&["--durability=memory"]));
    assert!(cluster.log(0).contains("acknowledged writes are lost"), "{}", cluster.log(0));
}

#[test]
fn the_admin_port_of_a_real_server_tells_of_its_shard() {
    let cluster = Cluster::start(Spec::of(1));
    let server = &cluster.servers[0];
    assert_eq!(get(server, "/healthz"), Some((200, "shard 0: primary\n".to_owned())));
    let (code, hash) = get(server, "/state-hash").unwrap();
    let hash: serde_json::Value = serde_json::from_str(&hash).unwrap();
    assert_eq!((code, hash["keys"].as_u64()), (200, Some(0)));
    assert_eq!(cluster.metric(0, "lockstep_role", &["shard=\"0\""]), Some(1.0));
}
