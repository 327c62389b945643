//! Options that would have no effect are refused: whoever gives one believes to have measured with it.

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use super::CLUSTER_HEADING;
use crate::drive::Protocol;
use crate::plan::Workload;

/// Options of the load that a command does nothing with, and why.
const WITHOUT_EFFECT: &[(&str, &[&str], &str)] = &[
    (
        "load",
        &["arrivals", "workload", "read_share", "increments", "keys_distribution", "no_verify", "no_preload"],
        "it puts every key once, in order, and reads nothing",
    ),
    ("sweep", &["audit"], "only run and load read acknowledged writes back"),
    ("matrix", &["audit"], "only run and load read acknowledged writes back"),
    ("failover", &["audit"], "it always reads acknowledged writes back"),
    (
        "failover",
        &["protocol", "wait_replicas", "resp_password_file"],
        "it reads acknowledged writes back by their versions, which only the native protocol tells",
    ),
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
    ("calibrate", &["arrivals"], "it keeps every connection full"),
];

/// Leaves out of the help of each command what it refuses.
pub(super) fn hide(cli: Command) -> Command {
    WITHOUT_EFFECT.iter().fold(cli, |cli, (name, ids, _)| {
        cli.mut_subcommand(name, |command| {
            ids.iter().fold(command, |command, id| command.mut_arg(id, |argument| argument.hide(true)))
        })
    })
}

/// Refuses options that would have no effect. Those that have their value from a default or the environment are no matter.
///
/// # Errors
///
/// Names the first such option.
pub(super) fn check(cli: &mut Command, matches: &ArgMatches) -> Result<(), clap::Error> {
    let Some((name, given)) = matches.subcommand() else { return Ok(()) };
    let Some(command) = cli.find_subcommand_mut(name) else { return Ok(()) };
    let line = Line { name, given, command };
    let refused = [line.of_the_command(), line.of_pacing(), line.of_the_workload(), line.of_running_servers()];
    match refused.into_iter().flatten().next() {
        Some((id, why)) => {
            let text = format!("--{} has no effect with {why}", id.replace('_', "-"));
            Err(command.error(ErrorKind::ArgumentConflict, text))
        }
        None => Ok(()),
    }
}

/// An option without effect, and why.
type Refused = (String, String);

/// A command with its options as they were given.
struct Line<'a> {
    name: &'a str,
    given: &'a ArgMatches,
    command: &'a Command,
}

impl Line<'_> {
    fn has(&self, id: &str) -> bool {
        self.command.get_arguments().any(|argument| argument.get_id() == id)
    }

    fn is_given(&self, id: &str) -> bool {
        self.has(id) && self.given.value_source(id) == Some(ValueSource::CommandLine)
    }

    fn first_given(&self, ids: &[&str], why: &str) -> Option<Refused> {
        let id = ids.iter().find(|id| self.is_given(id))?;
        Some(((*id).to_owned(), why.to_owned()))
    }

    fn of_the_command(&self) -> Option<Refused> {
        let mut own = WITHOUT_EFFECT.iter().filter(|(of, ..)| *of == self.name);
        own.find_map(|(name, ids, why)| self.first_given(ids, &format!("{name}: {why}")))
    }

    fn of_pacing(&self) -> Option<Refused> {
        let is_saturating = self.is_given("saturate");
        self.first_given(&["arrivals"], "--saturate: requests are sent as soon as there is room")
            .filter(|_| is_saturating)
    }

    fn of_the_workload(&self) -> Option<Refused> {
        // What compare measures beside its rates reads and writes, whatever the workload.
        if !self.has("workload") || self.name == "compare" {
            return None;
        }
        let share = self.given.get_one::<f64>("read_share").copied().map(Workload::ReadShare);
        let workload = self.given.get_one::<Workload>("workload").copied().or(share).unwrap_or(Workload::WRITES);
        let mix = workload.mix();
        let with = |why: &str| format!("the workload '{workload}': {why}");
        if mix.update == 0.0
            && let Some(refused) = self.first_given(&["increments"], &with("it has no puts of keys that are there"))
        {
            return Some(refused);
        }
        if !workload.writes()
            && let Some(refused) = self.first_given(&["audit", "wait_replicas"], &with("it writes nothing"))
        {
            return Some(refused);
        }
        self.first_given(&["no_verify"], &with("it reads nothing")).filter(|_| !workload.reads())
    }

    fn of_running_servers(&self) -> Option<Refused> {
        if !self.is_given("targets") {
            return None;
        }
        let why = "--targets: keys are put before measuring only where the servers are started with --servers";
        if let Some(refused) = self.first_given(&["no_preload"], why) {
            return Some(refused);
        }
        let is_resp = self.given.get_one::<Protocol>("protocol") == Some(&Protocol::Resp);
        // The native protocol goes to each shard's own port.
        let is_idle = |id: &str| id != "shards" || is_resp;
        let arguments = self.command.get_arguments();
        let of_cluster = arguments.filter(|argument| argument.get_help_heading() == Some(CLUSTER_HEADING));
        let ids: Vec<_> = of_cluster.map(|argument| argument.get_id().as_str()).filter(|id| is_idle(id)).collect();
        self.first_given(&ids, "--targets: it is a setting of a cluster that is started with --servers")
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
        refused("calibrate --arrivals uniform", "--arrivals");
        refused("failover --audit", "--audit");
        refused("run --targets 127.0.0.1:1 --rate 1k --no-preload", "--no-preload");
        assert!(parse("load --servers 3 --keys 10k --audit --values 64..128").is_ok());
        assert!(parse("run --servers 3 --rate 1k --audit --workload a --arrivals uniform").is_ok());
    }

    #[test]
    fn spacing_of_requests_was_taken_where_every_connection_is_kept_full() {
        refused("run --servers 3 --saturate --arrivals uniform", "--arrivals");
        refused("matrix --saturate --arrivals poisson", "--arrivals");
        assert!(parse("run --servers 3 --saturate").is_ok());
    }

    #[test]
    fn a_failover_with_the_redis_protocol_was_refused_only_once_its_cluster_had_been_started() {
        refused("failover --protocol resp", "--protocol");
        refused("failover --wait-replicas 1", "--wait-replicas");
        assert!(parse("failover --repeat 3 --increments 0").is_ok());
    }

    #[test]
    fn options_about_reads_or_writes_were_taken_by_workloads_without_any() {
        refused("run --servers 3 --rate 1k --workload c --increments 0.1", "--increments");
        refused("run --servers 3 --rate 1k --workload d --increments 0.1", "--increments");
        refused("run --servers 3 --rate 1k --read-share 1 --audit", "--audit");
        refused("sweep --servers 3 --rates 1k --workload read --protocol resp --wait-replicas 1", "--wait-replicas");
        refused("run --servers 3 --rate 1k --no-verify", "--no-verify");
        refused("failover --no-verify", "--no-verify");
        assert!(parse("run --servers 3 --rate 1k --workload a --increments 0.1 --audit --no-verify").is_ok());
        assert!(parse("compare --no-verify").is_ok(), "one of its loads reads");
    }

    #[test]
    fn the_help_listed_options_that_the_command_refuses() {
        for (line, hidden, shown) in [
            ("load --help", "--workload", "--keys "),
            ("failover --help", "--wait-replicas", "--gap-max"),
            ("calibrate -h", "--audit", "--connections"),
            ("sweep --help", "--audit", "--protocol"),
        ] {
            let help = parse(line).expect_err("help is no command").to_string();
            let begins = |option: &str| help.lines().any(|line| line.trim_start().starts_with(option));
            assert!(!begins(hidden) && begins(shown), "{line}: {help}");
        }
        assert!(parse("run --help").expect_err("help is no command").to_string().contains("--audit"));
    }
}
