//! COMMAND and its subcommands: what commands there are.

use lockstep_store::glob;

use super::{
    super::{
        arguments::Arguments,
        context::{Action, Context},
        registry::{
            self, Spec,
            syntax::{self, Argument, Kind},
        },
        writer::Writer,
    },
    connection::SYNTAX_ERROR,
    help::{help, subcommand_error},
};

/// COMMAND.
pub fn command<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    if arguments.len() > 1 {
        return subcommand_error(context, "COMMAND", arguments);
    }
    write_all_infos(&mut context.out);
    Action::Done
}

/// COMMAND HELP.
pub fn command_help<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    help(context, "command")
}

/// COMMAND COUNT.
pub fn command_count<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    context.out.integer(registry::all().len() as i64);
    Action::Done
}

/// COMMAND INFO.
pub fn command_info<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    if arguments.len() == 2 {
        write_all_infos(&mut context.out);
        return Action::Done;
    }
    context.out.array(arguments.len() - 2);
    for name in arguments.iter().skip(2) {
        match registry::find_full(name) {
            Some(spec) => write_info(spec, &mut context.out),
            None => context.out.null(),
        }
    }
    Action::Done
}

fn write_all_infos(out: &mut Writer<'_>) {
    out.array(registry::all().len());
    for spec in registry::all() {
        write_info(spec, out);
    }
}

fn write_words<'a>(words: impl IntoIterator<Item = &'a str, IntoIter: ExactSizeIterator>, out: &mut Writer<'_>) {
    let words = words.into_iter();
    out.set(words.len());
    for word in words {
        out.simple(word);
    }
}

fn write_info(spec: &Spec, out: &mut Writer<'_>) {
    out.array(10);
    out.bulk(spec.full_name().as_bytes());
    out.integer(spec.arity.into());
    write_words(spec.flag_names(), out);
    let (first, last, step) = spec.keys;
    for position in [first, last, step] {
        out.integer(position.into());
    }
    write_words(spec.categories(), out);
    out.set(spec.tips.len());
    for tip in spec.tips {
        out.bulk(tip.as_bytes());
    }
    out.set(spec.key_flags.len());
    for (index, flags) in spec.key_flags.iter().enumerate() {
        write_key_spec(spec, index, flags, out);
    }
    out.set(spec.subcommands.len());
    for inner in spec.subcommands {
        write_info(inner, out);
    }
}

/// Where a command's keys are, and what it does to them: one text for all of them, or one for each.
fn write_key_spec(spec: &Spec, index: usize, flags: &str, out: &mut Writer<'_>) {
    let (first, last, step) = spec.keys;
    let is_one_for_all = spec.key_flags.len() == 1;
    out.map(3);
    out.bulk(b"flags");
    write_words(flags.split(' ').collect::<Vec<_>>(), out);
    out.bulk(b"begin_search");
    out.map(2);
    out.bulk(b"type");
    out.bulk(b"index");
    out.bulk(b"spec");
    out.map(1);
    out.bulk(b"index");
    out.integer(i64::from(first) + index as i64);
    out.bulk(b"find_keys");
    out.map(2);
    out.bulk(b"type");
    out.bulk(b"range");
    out.bulk(b"spec");
    out.map(3);
    let last = match last {
        last if last < 0 => last.into(),
        _ if !is_one_for_all => 0,
        last => i64::from(last - first),
    };
    for (name, number) in [("lastkey", last), ("keystep", step.into()), ("limit", 0)] {
        out.bulk(name.as_bytes());
        out.integer(number);
    }
}

/// COMMAND DOCS.
pub fn command_docs<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let asked: Vec<&Spec> = if arguments.len() == 2 {
        registry::all().iter().collect()
    } else {
        arguments.iter().skip(2).filter_map(registry::find_full).collect()
    };
    context.out.map(asked.len());
    for spec in asked {
        write_docs(spec, &mut context.out);
    }
    Action::Done
}

fn write_docs(spec: &Spec, out: &mut Writer<'_>) {
    let arguments = syntax::parse(spec.syntax);
    out.bulk(spec.full_name().as_bytes());
    out.map(3 + usize::from(!arguments.is_empty()) + usize::from(!spec.subcommands.is_empty()));
    for (name, text) in [("summary", spec.summary), ("since", spec.since), ("group", spec.group.name())] {
        out.bulk(name.as_bytes());
        out.bulk(text.as_bytes());
    }
    if !arguments.is_empty() {
        out.bulk(b"arguments");
        write_arguments(&arguments, spec, out);
    }
    if !spec.subcommands.is_empty() {
        out.bulk(b"subcommands");
        out.map(spec.subcommands.len());
        for inner in spec.subcommands {
            write_docs(inner, out);
        }
    }
}

fn write_arguments(arguments: &[Argument], spec: &Spec, out: &mut Writer<'_>) {
    out.array(arguments.len());
    for argument in arguments {
        write_argument(argument, spec, out);
    }
}

fn write_argument(argument: &Argument, spec: &Spec, out: &mut Writer<'_>) {
    let is_text = !matches!(argument.kind, Kind::OneOf | Kind::Block);
    // Which of the key specifications this key is of: the second only where each key has one of its own.
    let key_spec = match argument.name.as_str() {
        "newkey" | "destination" => spec.key_flags.len().saturating_sub(1),
        _ => 0,
    };
    let is_key = argument.kind == Kind::Key && !spec.key_flags.is_empty();
    let mut flags = Vec::new();
    if argument.is_optional {
        flags.push("optional");
    }
    if argument.is_multiple {
        flags.push("multiple");
    }
    let parts = [is_text, is_key, argument.token.is_some(), !flags.is_empty(), !argument.arguments.is_empty()];
    out.map(2 + parts.iter().filter(|is_there| **is_there).count());
    out.bulk(b"name");
    out.bulk(argument.name.as_bytes());
    out.bulk(b"type");
    out.bulk(argument.kind.name().as_bytes());
    if is_text {
        out.bulk(b"display_text");
        out.bulk(argument.name.as_bytes());
    }
    if is_key {
        out.bulk(b"key_spec_index");
        out.integer(key_spec as i64);
    }
    if let Some(token) = &argument.token {
        out.bulk(b"token");
        out.bulk(token.as_bytes());
    }
    if !flags.is_empty() {
        out.bulk(b"flags");
        out.array(flags.len());
        for flag in flags {
            out.simple(flag);
        }
    }
    if !argument.arguments.is_empty() {
        out.bulk(b"arguments");
        write_arguments(&argument.arguments, spec, out);
    }
}

/// COMMAND LIST.
pub fn command_list<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let is_filtered = arguments.len() == 5 && arguments.is(2, "filterby");
    let kind = arguments.find(3).map(<[u8]>::to_ascii_lowercase);
    let fits: Box<dyn Fn(&Spec) -> bool> = match (arguments.len(), kind.as_deref()) {
        (2, _) => Box::new(|_| true),
        (5, Some(b"module")) if is_filtered => Box::new(|_| false),
        (5, Some(b"aclcat")) if is_filtered => {
            let category = [b"@", arguments.get(4)].concat().to_ascii_lowercase();
            Box::new(move |spec| spec.categories().iter().any(|name| name.as_bytes() == category))
        }
        (5, Some(b"pattern")) if is_filtered => {
            let pattern = arguments.get(4);
            Box::new(move |spec| glob::matches(pattern, spec.full_name().as_bytes(), true))
        }
        _ => {
            context.out.error(SYNTAX_ERROR);
            return Action::Done;
        }
    };
    let specs = registry::all().iter().flat_map(|spec| [spec].into_iter().chain(spec.subcommands));
    let names: Vec<String> = specs.filter(|spec| fits(spec)).map(Spec::full_name).collect();
    context.out.array(names.len());
    for name in names {
        context.out.bulk(name.as_bytes());
    }
    Action::Done
}

/// COMMAND GETKEYS.
pub fn command_getkeys<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let Some((_, keys)) = keys_of(context, arguments) else { return Action::Done };
    context.out.array(keys.len());
    for key in keys {
        context.out.bulk(key);
    }
    Action::Done
}

/// COMMAND GETKEYSANDFLAGS.
pub fn command_getkeysandflags<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let Some((spec, keys)) = keys_of(context, arguments) else { return Action::Done };
    let call = arguments.from(2);
    context.out.array(keys.len());
    for (index, key) in keys.iter().enumerate() {
        let last = spec.key_flags.len() - 1;
        context.out.array(2);
        context.out.bulk(key);
        let flags = match spec.key_flags[index.min(last)] {
            // What SET does to its key depends on its options.
            "RW access update variable_flags" if call.iter().skip(3).any(|word| word.eq_ignore_ascii_case(b"get")) => {
                "RW access update"
            }
            "RW access update variable_flags" => "OW update",
            flags => flags,
        };
        write_words(flags.split(' ').collect::<Vec<_>>(), &mut context.out);
    }
    Action::Done
}

/// The keys of the call in the arguments; `None` if there are none, which has been answered.
fn keys_of<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Option<(&'static Spec, Vec<&'a [u8]>)> {
    let call = arguments.from(2);
    let mut spec = registry::find(call.get(0));
    if let Some(container) = spec.filter(|spec| !spec.subcommands.is_empty() && call.len() > 1) {
        spec = registry::find_subcommand(container, call.get(1));
    }
    let text = match spec {
        None => "ERR Invalid command specified",
        Some(spec) if spec.keys.0 == 0 => "ERR The command has no key arguments",
        Some(spec) if !spec.takes(call.len()) => "ERR Invalid number of arguments specified for command",
        Some(spec) => {
            return Some((spec, spec.key_positions(call.len()).map(|position| call.get(position)).collect()));
        }
    };
    context.out.error(text);
    None
}
