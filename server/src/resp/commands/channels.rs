//! SUBSCRIBE, UNSUBSCRIBE, PSUBSCRIBE, PUNSUBSCRIBE, PUBLISH, PUBSUB.

use std::sync::atomic::Ordering::Relaxed;

use super::{
    super::{
        arguments::Arguments,
        client::ReplyMode,
        context::{Action, Context},
        pubsub::{Delivery, Topic},
    },
    help::{help, subcommand_error},
    program::{are_keys_in_bounds, is_pattern_in_bounds},
};

/// SUBSCRIBE.
pub fn subscribe<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    listen(context, arguments, Topic::Channel, b"subscribe")
}

/// PSUBSCRIBE.
pub fn psubscribe<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    listen(context, arguments, Topic::Pattern, b"psubscribe")
}

/// UNSUBSCRIBE.
pub fn unsubscribe<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    listen_no_longer(context, arguments, Topic::Channel, b"unsubscribe")
}

/// PUNSUBSCRIBE.
pub fn punsubscribe<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    listen_no_longer(context, arguments, Topic::Pattern, b"punsubscribe")
}

fn listen<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>, topic: Topic, word: &[u8]) -> Action<'a> {
    let (who, server) = (context.who(), context.server);
    for name in arguments.iter().skip(1) {
        let is_in_bounds = match topic {
            Topic::Pattern => is_pattern_in_bounds(context, name),
            Topic::Channel => are_keys_in_bounds(context, [name].into_iter()),
        };
        if !is_in_bounds {
            continue;
        }
        if !server.pubsub.subscribe(topic, name, who, &mut context.client.subscriptions) {
            context.out.error("ERR too many subscriptions of one client");
            continue;
        }
        // What others see is up to date before the answer is: a message may come right behind it.
        share_counts(context);
        confirm(context, word, Some(name));
    }
    Action::Done
}

fn listen_no_longer<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>, topic: Topic, word: &[u8]) -> Action<'a> {
    let (who, server) = (context.who(), context.server);
    let all = if arguments.len() == 1 { context.client.subscriptions.names(topic) } else { Vec::new() };
    if arguments.len() == 1 && all.is_empty() {
        confirm(context, word, None);
        return Action::Done;
    }
    for name in all.iter().map(AsRef::as_ref).chain(arguments.iter().skip(1)) {
        server.pubsub.unsubscribe(topic, name, who, &mut context.client.subscriptions);
        confirm(context, word, Some(name));
    }
    share_counts(context);
    Action::Done
}

fn confirm(context: &mut Context<'_>, word: &[u8], name: Option<&[u8]>) {
    let count = context.client.subscriptions.len() as i64;
    context.out.push(3);
    context.out.bulk(word);
    match name {
        Some(name) => context.out.bulk(name),
        None => context.out.null(),
    }
    context.out.integer(count);
}

fn share_counts(context: &Context<'_>) {
    let (subscriptions, shared) = (&context.client.subscriptions, &context.client.shared);
    shared.channels.store(subscriptions.count(Topic::Channel) as u32, Relaxed);
    shared.patterns.store(subscriptions.count(Topic::Pattern) as u32, Relaxed);
}

/// PUBLISH.
pub fn publish<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    let (count, deliveries) = context.server.pubsub.publish(arguments.get(1), arguments.get(2));
    if context.is_in_exec {
        // Nothing has happened yet, and will not if a watched key has changed.
        context.client.published.extend(deliveries);
        context.out.integer(count as i64);
        return Action::Done;
    }
    let is_heard_here = context.client.reply == ReplyMode::On;
    for (shard, mut delivery) in deliveries {
        if shard == context.shard && is_heard_here {
            hear_oneself(context, &mut delivery);
        }
        context.server.deliver(shard, delivery);
    }
    context.out.integer(count as i64);
    Action::Done
}

/// A client that listens to what it publishes hears that before it is answered.
fn hear_oneself(context: &mut Context<'_>, delivery: &mut Delivery) {
    let own = context.client.shared.id;
    if let Some(index) = delivery.listeners.iter().position(|&id| id == own) {
        delivery.listeners.remove(index);
        delivery.write(&mut context.out);
    }
    let mut heard = Vec::new();
    for (pattern, listeners) in &mut delivery.pattern_listeners {
        if let Some(index) = listeners.iter().position(|&id| id == own) {
            listeners.remove(index);
            heard.push(pattern.clone());
        }
    }
    for pattern in heard {
        delivery.write_for_pattern(&pattern, &mut context.out);
    }
}

/// PUBSUB alone.
pub fn pubsub<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    subcommand_error(context, "PUBSUB", arguments)
}

/// PUBSUB HELP.
pub fn pubsub_help<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    help(context, "pubsub")
}

/// PUBSUB CHANNELS.
pub fn pubsub_channels<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    if arguments.len() > 3 {
        return subcommand_error(context, "PUBSUB", arguments);
    }
    let names = context.server.pubsub.channels(arguments.find(2));
    context.out.array(names.len());
    for name in names {
        context.out.bulk(&name);
    }
    Action::Done
}

/// PUBSUB NUMPAT.
pub fn pubsub_numpat<'a>(context: &mut Context<'_>, _: &Arguments<'a>) -> Action<'a> {
    context.out.integer(context.server.pubsub.counts().1 as i64);
    Action::Done
}

/// PUBSUB NUMSUB.
pub fn pubsub_numsub<'a>(context: &mut Context<'_>, arguments: &Arguments<'a>) -> Action<'a> {
    context.out.array(2 * (arguments.len() - 2));
    for name in arguments.iter().skip(2) {
        context.out.bulk(name);
        context.out.integer(context.server.pubsub.listeners(name) as i64);
    }
    Action::Done
}
