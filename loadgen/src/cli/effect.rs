//! Options that would have no effect are refused: whoever gives one believes to have measured with it.

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use super::CLUSTER_HEADING;
use crate::drive::Protocol;

/// Options of the load that a command does nothing with, and why.
const WITHOUT_EFFECT: &[(&str, &[&str], &str)] = &[
    (
        "load",
        &["arrivals", "workload", "read_share", "increments", "keys_distribution", "no_verify", "no_preload"],
        "it puts every key once, in order, and reads nothing",
    ),
    ("sweep", &["audit"], "only run and load read acknowledged writes back"),
    ("matrix", &["audit"], "only run and load read acknowledged writes back"),
    (
        "compare",
        &["audit", "protocol", "wait_replicas", "resp_password_file", "no_preload"],
        "it decides that itself, so that all systems get the same",
    ),
    (
        "calibrate",
        &["audit", "protocol", "wait_replicas", "resp_password_file", "no_preload", "no_verify", "increments"],
        "its server only answers, in the native protocol, and remembers nothing",
    ),
];

/// Refuses options that would have no effect. Those that have their value from a default or the environment are no matter.
///
/// # Errors
///
/// Names the first such option.
pub(super) fn check(cli: &mut Command, matches: &ArgMatches) -> Result<(), clap::Error> {
    let Some((name, given)) = matches.subcommand() else { return Ok(()) };
    let Some(command) = cli.find_subcommand_mut(name) else { return Ok(()) };
    let is_given = |id: &str| given.value_source(id) == Some(ValueSource::CommandLine);
    let has = |id: &str| command.get_arguments().any(|argument| argument.get_id() == id);
    let mut refused: Vec<(String, String)> = Vec::new();
    for (_, ids, why) in WITHOUT_EFFECT.iter().filter(|(of, ..)| *of == name) {
        refused.extend(ids.iter().filter(|id| is_given(id)).map(|id| ((*id).to_owned(), format!("{name}: {why}"))));
    }
    if has("targets") && is_given("targets") {
        let is_resp = given.get_one::<Protocol>("protocol") == Some(&Protocol::Resp);
        let why = "--targets: it is a setting of a cluster that is started with --servers";
        // The native protocol goes to each shard's own port.
        let is_idle = |id: &str| id != "shards" || is_resp;
        let of_cluster =
            command.get_arguments().filter(|argument| argument.get_help_heading() == Some(CLUSTER_HEADING));
        let ids = of_cluster.map(|argument| argument.get_id().as_str()).filter(|id| is_given(id) && is_idle(id));
        refused.extend(ids.map(|id| (id.to_owned(), why.to_owned())));
    }
    match refused.first() {
        Some((id, why)) => {
            let text = format!("--{} has no effect with {why}", id.replace('_', "-"));
            Err(command.error(ErrorKind::ArgumentConflict, text))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Cli;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::parse_checked(format!("lockstep-loadgen {line}").split(' '))
    }

    #[track_caller]
    fn refused(line: &str, option: &str) {
        let error = parse(line).expect_err(line);
        let text = error.to_string();
        assert!(text.contains(&format!("{option} has no effect with")), "{text}");
        assert_eq!(error.exit_code(), 2);
        let command = line.split(' ').next().expect("there is one");
        assert!(text.contains(&format!("Usage: lockstep-loadgen {command}")), "{text}");
    }

    #[test]
    fn settings_of_a_started_cluster_were_silently_ignored_with_targets() {
        for (options, option) in [
            ("--ack all", "--ack"),
            ("--link-delay 1ms", "--link-delay"),
            ("--durability memory", "--durability"),
            ("--batch-max-ops 1", "--batch-max-ops"),
            ("--start-arg x", "--start-arg"),
            ("--protocol resp --shards 2", "--shards"),
        ] {
            refused(&format!("run --targets 127.0.0.1:1 --rate 1k {options}"), option);
            refused(&format!("sweep --targets 127.0.0.1:1 --rates 1k {options}"), option);
            refused(&format!("load --targets 127.0.0.1:1 {options}"), option);
            assert!(parse(&format!("run --servers 3 --rate 1k {options}")).is_ok());
        }
        for line in ["run --rate 1k", "sweep --rates 1k", "load"] {
            assert!(
                parse(&format!("{line} --targets 127.0.0.1:1 --results x --name y --keys 1k --timeout 1s")).is_ok()
            );
        }
        assert!(parse("run --targets 127.0.0.1:1 --rate 1k --shards 2").is_ok(), "a shard has a port of its own");
    }

    #[test]
    fn options_of_the_load_without_effect_were_taken() {
        refused("load --servers 3 --workload a", "--workload");
        refused("load --servers 3 --arrivals uniform", "--arrivals");
        refused("load --targets 127.0.0.1:1 --keys-distribution uniform", "--keys-distribution");
        refused("sweep --servers 3 --rates 1k --audit", "--audit");
        refused("matrix --rate 1k --audit", "--audit");
        refused("compare --protocol native", "--protocol");
        refused("calibrate --no-verify", "--no-verify");
        assert!(parse("load --servers 3 --keys 10k --audit --values 64..128").is_ok());
        assert!(parse("run --servers 3 --rate 1k --audit --workload a --arrivals uniform").is_ok());
    }
}
