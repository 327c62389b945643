//! Completion of commands and options at the prompt, from the same description that parses them.

use clap::CommandFactory;
use rustyline::{Context, Helper, completion::Completer, highlight::Highlighter, hint::Hinter, validate::Validator};

use super::arguments::Line;

/// Knows the commands and their options.
pub struct Words {
    commands: Vec<(String, Vec<String>)>,
}

impl Words {
    /// The words of every command.
    pub fn new() -> Self {
        let mut line = Line::command();
        line.build();
        let options = |command: &clap::Command| {
            let mut options: Vec<String> = command
                .get_arguments()
                .filter_map(|argument| argument.get_long())
                .map(|long| format!("--{long}"))
                .collect();
            options.sort();
            options
        };
        let mut commands: Vec<(String, Vec<String>)> = line
            .get_subcommands()
            .flat_map(|command| {
                let names = std::iter::once(command.get_name()).chain(command.get_visible_aliases());
                names.map(|name| (name.to_owned(), options(command))).collect::<Vec<_>>()
            })
            .collect();
        commands.sort();
        Words { commands }
    }

    /// Where the word at the end of `line` begins, and what it may become.
    pub fn candidates(&self, line: &str) -> (usize, Vec<String>) {
        let start = line.rfind([' ', '\t']).map_or(0, |blank| blank + 1);
        let word = &line[start..];
        let before: Vec<&str> = line[..start].split_whitespace().collect();
        let names = || self.commands.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>();
        let possible: Vec<&str> = match before.first() {
            None => names(),
            Some(&"help") if before.len() == 1 => names(),
            Some(command) if word.starts_with('-') => self
                .commands
                .iter()
                .filter(|(name, _)| name == command)
                .flat_map(|(_, options)| options.iter().map(String::as_str))
                .collect(),
            Some(&"expire") if before.len() == 2 => vec!["never"],
            Some(_) => Vec::new(),
        };
        (start, possible.into_iter().filter(|name| name.starts_with(word)).map(|name| format!("{name} ")).collect())
    }
}

impl Completer for Words {
    type Candidate = String;

    fn complete(&self, line: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(self.candidates(&line[..position]))
    }
}

impl Helper for Words {}
impl Highlighter for Words {}
impl Validator for Words {}
impl Hinter for Words {
    type Hint = String;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, start: usize, candidates: &[&str]) {
        let (found_start, found) = Words::new().candidates(line);
        assert_eq!(
            (found_start, found.iter().map(|word| word.trim_end()).collect::<Vec<_>>()),
            (start, candidates.to_vec())
        );
    }

    #[test]
    fn commands_are_completed_at_the_start_and_after_help() {
        check("ge", 0, &["get"]);
        check("m", 0, &["mget", "move-primary", "mput"]);
        check("help sta", 5, &["status"]);
        check("q", 0, &["quit"]);
        check("nothing", 0, &[]);
    }

    #[test]
    fn options_are_completed_after_their_command() {
        check("scan --", 5, &["--cursor", "--help", "--keys", "--limit", "--prefix"]);
        check("put key value --t", 14, &["--ttl"]);
        check("move-primary --", 13, &["--help", "--shard", "--to"]);
        check("get k --ttl", 6, &[]);
    }

    #[test]
    fn keys_are_not_guessed() {
        check("get ", 4, &[]);
        check("expire key n", 11, &["never"]);
    }
}
