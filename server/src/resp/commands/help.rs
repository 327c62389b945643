//! HELP of every container, and the errors about its subcommands.

use super::super::{
    arguments::Arguments,
    context::{Action, Context},
    registry::{self, Spec},
};

/// Answers the list of a container's subcommands.
pub(super) fn help<'a>(context: &mut Context<'_>, container: &str) -> Action<'a> {
    let spec = registry::find(container.as_bytes()).expect("the container exists");
    let mut lines =
        vec![format!("{} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:", container.to_ascii_uppercase())];
    for inner in spec.subcommands.iter().filter(|inner| inner.name != "help") {
        lines.extend(describe(inner));
    }
    lines.extend(["HELP".to_owned(), "    Prints this help.".to_owned()]);
    context.out.array(lines.len());
    for line in &lines {
        context.out.simple(line);
    }
    Action::Done
}

fn describe(spec: &Spec) -> [String; 2] {
    let call = format!("{} {}", spec.name.to_ascii_uppercase(), spec.syntax);
    [call.trim_end().to_owned(), format!("    {}", spec.summary)]
}

/// Answers that a subcommand was not called as it has to be.
pub(super) fn subcommand_error<'a>(
    context: &mut Context<'_>,
    container: &str,
    arguments: &Arguments<'_>,
) -> Action<'a> {
    let name = registry::shown(arguments.find(1).unwrap_or_default());
    let help = format!("'. Try {container} HELP.");
    let text =
        [b"ERR unknown subcommand or wrong number of arguments for '", &name[..name.len().min(128)], help.as_bytes()];
    context.out.error_bytes(&text.concat());
    Action::Done
}
