//! From the arguments as a manual writes them to the tree that `COMMAND DOCS` answers with.
//!
//! Words in capitals are tokens, other words are names of arguments. `[x]` may be left out, `<x | y>` is one of these,
//! `x ...` may be given several times; `{x y} ...` does so for several together.

/// An argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Its name, in lower case.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// The word in front of it, or the word that it consists of.
    pub token: Option<String>,
    /// Whether it may be left out.
    pub is_optional: bool,
    /// Whether it may be given several times.
    pub is_multiple: bool,
    /// What it is made of.
    pub arguments: Vec<Argument>,
}

/// Kinds of arguments, by Redis's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any bytes.
    String,
    /// A whole number.
    Integer,
    /// A number.
    Double,
    /// A key.
    Key,
    /// A pattern.
    Pattern,
    /// A moment.
    UnixTime,
    /// Nothing but a token.
    PureToken,
    /// One of several.
    OneOf,
    /// Several together.
    Block,
}

impl Kind {
    /// Redis's name.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::String => "string",
            Kind::Integer => "integer",
            Kind::Double => "double",
            Kind::Key => "key",
            Kind::Pattern => "pattern",
            Kind::UnixTime => "unix-time",
            Kind::PureToken => "pure-token",
            Kind::OneOf => "oneof",
            Kind::Block => "block",
        }
    }

    fn of_name(name: &str) -> Kind {
        match name {
            "key" | "newkey" | "source" | "destination" => Kind::Key,
            "pattern" => Kind::Pattern,
            "increment-float" => Kind::Double,
            "unix-time-seconds" | "unix-time-milliseconds" => Kind::UnixTime,
            "seconds" | "milliseconds" | "start" | "end" | "offset" | "increment" | "decrement" | "index"
            | "cursor" | "count" | "protover" | "numreplicas" | "numlocal" | "timeout" | "client-id" | "slot"
            | "port" | "destination-db" => Kind::Integer,
            _ => Kind::String,
        }
    }
}

/// The arguments that a text describes.
///
/// # Panics
///
/// If it is not well formed: the texts are part of the program, and a test reads them all.
pub fn parse(syntax: &str) -> Vec<Argument> {
    let spaced: String =
        syntax.chars().flat_map(|c| if "[]<>{}|".contains(c) { vec![' ', c, ' '] } else { vec![c] }).collect();
    let mut words = Words { words: spaced.split_ascii_whitespace().collect(), next: 0 };
    let arguments = sequence(&mut words);
    assert_eq!(words.peek(), None, "nothing is left of {syntax}");
    arguments
}

struct Words<'a> {
    words: Vec<&'a str>,
    next: usize,
}

impl<'a> Words<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.next).copied()
    }

    fn take(&mut self) -> Option<&'a str> {
        let word = self.peek();
        self.next += 1;
        word
    }

    fn expect(&mut self, word: &str) {
        assert_eq!(self.take(), Some(word), "a bracket is closed");
    }

    fn take_if(&mut self, word: &str) -> bool {
        let is_next = self.peek() == Some(word);
        if is_next {
            self.next += 1;
        }
        is_next
    }
}

fn sequence(words: &mut Words<'_>) -> Vec<Argument> {
    let mut arguments = Vec::new();
    while words.peek().is_some_and(|word| !["]", ">", "}", "|"].contains(&word)) {
        arguments.push(argument(words));
    }
    arguments
}

fn is_token(word: &str) -> bool {
    word.bytes().any(|byte| byte.is_ascii_uppercase()) && !word.bytes().any(|byte| byte.is_ascii_lowercase())
}

fn leaf(name: &str, kind: Kind) -> Argument {
    let name = name.to_ascii_lowercase();
    Argument { name, kind, token: None, is_optional: false, is_multiple: false, arguments: Vec::new() }
}

fn argument(words: &mut Words<'_>) -> Argument {
    let word = words.take().expect("an argument");
    let mut argument = match word {
        "[" => Argument { is_optional: true, ..group(words, "]") },
        "<" => group(words, ">"),
        "{" => group(words, "}"),
        token if is_token(token) => {
            let next = words.peek();
            let has_value = next.is_some_and(|next| next == "<" || (!is_token(next) && !"[]>}|{...".contains(next)));
            let value = if has_value { argument_value(words) } else { leaf(token, Kind::PureToken) };
            Argument { token: Some(token.to_owned()), ..value }
        }
        name => leaf(name.trim_end_matches("-float"), Kind::of_name(name)),
    };
    if words.take_if("...") {
        argument.is_multiple = true;
    }
    argument
}

/// What stands behind a token: without the repetition, which is the whole argument's.
fn argument_value(words: &mut Words<'_>) -> Argument {
    match words.take().expect("a value") {
        "<" => group(words, ">"),
        name => leaf(name, Kind::of_name(name)),
    }
}

/// The alternatives up to the closing bracket: one argument, one of several, or several together.
fn group(words: &mut Words<'_>, end: &str) -> Argument {
    let mut alternatives = vec![together(sequence(words))];
    while words.take_if("|") {
        alternatives.push(together(sequence(words)));
    }
    words.expect(end);
    if alternatives.len() == 1 {
        return alternatives.remove(0);
    }
    let name = alternatives.iter().map(|argument| argument.name.as_str()).collect::<Vec<_>>().join("_");
    Argument { arguments: alternatives, ..leaf(&name, Kind::OneOf) }
}

fn together(mut arguments: Vec<Argument>) -> Argument {
    if arguments.len() == 1 {
        return arguments.remove(0);
    }
    // A token in front of several arguments is the token of the whole.
    let token = arguments.first_mut().and_then(|first| first.token.take());
    let name = arguments.iter().map(|argument| argument.name.as_str()).collect::<Vec<_>>().join("_");
    Argument { arguments, token, ..leaf(&name, Kind::Block) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An argument in one line, to compare with.
    fn show(argument: &Argument) -> String {
        let inner: Vec<String> = argument.arguments.iter().map(show).collect();
        let mut text = format!("{}:{}", argument.name, argument.kind.name());
        if let Some(token) = &argument.token {
            text = format!("{token}={text}");
        }
        if !inner.is_empty() {
            text += &format!("({})", inner.join(" "));
        }
        if argument.is_multiple {
            text += "+";
        }
        if argument.is_optional {
            text += "?";
        }
        text
    }

    fn shown(syntax: &str) -> String {
        parse(syntax).iter().map(show).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn words_options_and_alternatives_are_told_apart() {
        assert_eq!(shown(""), "");
        assert_eq!(shown("key value"), "key:key value:string");
        assert_eq!(shown("key ..."), "key:key+");
        assert_eq!(shown("[channel ...]"), "channel:string+?");
        assert_eq!(shown("{key value} ..."), "key_value:block(key:key value:string)+");
        assert_eq!(shown("[NX | XX] [GET]"), "nx_xx:oneof(NX=nx:pure-token XX=xx:pure-token)? GET=get:pure-token?");
        assert_eq!(
            shown("[EX seconds | PX milliseconds | KEEPTTL]"),
            "seconds_milliseconds_keepttl:oneof(EX=seconds:integer PX=milliseconds:integer KEEPTTL=keepttl:pure-token)?"
        );
        assert_eq!(shown("<ON | OFF>"), "on_off:oneof(ON=on:pure-token OFF=off:pure-token)");
        assert_eq!(
            shown("[TYPE <NORMAL | PUBSUB>] [ID client-id ...]"),
            "TYPE=normal_pubsub:oneof(NORMAL=normal:pure-token PUBSUB=pubsub:pure-token)? ID=client-id:integer+?"
        );
        assert_eq!(shown("key increment-float"), "key:key increment:double");
    }

    #[test]
    fn a_token_before_several_arguments_is_the_token_of_all() {
        assert_eq!(
            shown("[protover [AUTH username password]]"),
            "protover_username_password:block(protover:integer AUTH=username_password:block(username:string password:string)?)?"
        );
    }
}
