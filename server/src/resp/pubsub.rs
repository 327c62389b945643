//! Who listens to what, over all shards of the server.
//!
//! One table for the server, behind a lock that is held for one look-up or change: publishing is seldom compared with
//! reads and writes. A message is handed to each shard once, with those of its clients that it is for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
};

use lockstep_store::glob;

use super::writer::Writer;

/// Most channels and patterns of one client together.
pub const SUBSCRIPTIONS_MAX: usize = 65_536;

/// Most bytes of the names of one client's channels and patterns together.
pub const SUBSCRIPTION_BYTES_MAX: usize = 8 << 20;

/// What a subscription takes beside its name, in bytes, about: two entries of trees.
const SUBSCRIPTION_SIZE: usize = 64;

/// A client: its shard, and its number.
pub type Subscriber = (u16, u64);

/// Whether a name is one of a channel or a pattern for such names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// The name of a channel.
    Channel,
    /// A pattern.
    Pattern,
}

/// What one client is subscribed to.
#[derive(Debug, Default)]
pub struct Subscriptions {
    channels: BTreeSet<Arc<[u8]>>,
    patterns: BTreeSet<Arc<[u8]>>,
    bytes: usize,
}

impl Subscriptions {
    /// Number of channels and patterns.
    pub fn len(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What it takes of the memory, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.bytes + self.len() * SUBSCRIPTION_SIZE
    }

    /// Number of channels, or of patterns.
    pub fn count(&self, topic: Topic) -> usize {
        self.of(topic).len()
    }

    /// The names of the channels, or the patterns, in order.
    pub fn names(&self, topic: Topic) -> Vec<Arc<[u8]>> {
        self.of(topic).iter().cloned().collect()
    }

    fn of(&self, topic: Topic) -> &BTreeSet<Arc<[u8]>> {
        match topic {
            Topic::Channel => &self.channels,
            Topic::Pattern => &self.patterns,
        }
    }

    fn of_mut(&mut self, topic: Topic) -> &mut BTreeSet<Arc<[u8]>> {
        match topic {
            Topic::Channel => &mut self.channels,
            Topic::Pattern => &mut self.patterns,
        }
    }
}

/// A message on its way to the clients of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// What was published, shared by all shards.
    pub message: Arc<Message>,
    /// Who listens to the channel.
    pub listeners: Vec<u64>,
    /// Who listens to patterns that fit it, by pattern.
    pub pattern_listeners: Vec<(Arc<[u8]>, Vec<u64>)>,
}

/// What was published.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// Where.
    pub channel: Box<[u8]>,
    /// What.
    pub payload: Box<[u8]>,
}

impl Delivery {
    /// Writes the message for a client that listens to the channel.
    pub fn write(&self, out: &mut Writer<'_>) {
        out.push(3);
        out.bulk(b"message");
        out.bulk(&self.message.channel);
        out.bulk(&self.message.payload);
    }

    /// Writes the message for a client that listens to this pattern.
    pub fn write_for_pattern(&self, pattern: &[u8], out: &mut Writer<'_>) {
        out.push(4);
        out.bulk(b"pmessage");
        out.bulk(pattern);
        out.bulk(&self.message.channel);
        out.bulk(&self.message.payload);
    }
}

type Listeners = BTreeMap<Arc<[u8]>, BTreeSet<Subscriber>>;

#[derive(Debug, Default)]
struct Tables {
    channels: Listeners,
    patterns: Listeners,
}

/// The channels and patterns of one server.
#[derive(Debug, Default)]
pub struct PubSub(Mutex<Tables>);

impl PubSub {
    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Lets a client listen. `false` if it is at its bound.
    pub fn subscribe(&self, topic: Topic, name: &[u8], who: Subscriber, client: &mut Subscriptions) -> bool {
        if client.of(topic).contains(name) {
            return true;
        }
        if client.len() >= SUBSCRIPTIONS_MAX || client.bytes + name.len() > SUBSCRIPTION_BYTES_MAX {
            return false;
        }
        let mut tables = self.lock();
        let table = tables.of_mut(topic);
        let name = match table.get_key_value(name) {
            Some((name, _)) => name.clone(),
            None => Arc::from(name),
        };
        client.bytes += name.len();
        client.of_mut(topic).insert(name.clone());
        table.entry(name).or_default().insert(who);
        true
    }

    /// Lets a client no longer listen.
    pub fn unsubscribe(&self, topic: Topic, name: &[u8], who: Subscriber, client: &mut Subscriptions) {
        if client.of_mut(topic).remove(name) {
            client.bytes -= name.len();
            self.lock().remove(topic, name, who);
        }
    }

    /// Forgets a client that has gone, or has reset its connection.
    pub fn forget(&self, who: Subscriber, client: &mut Subscriptions) {
        if client.is_empty() {
            return;
        }
        let client = std::mem::take(client);
        let mut tables = self.lock();
        for topic in [Topic::Channel, Topic::Pattern] {
            for name in client.of(topic) {
                tables.remove(topic, name, who);
            }
        }
    }

    /// How many times a message will be received, and what each shard has to hand to its clients.
    pub fn publish(&self, channel: &[u8], payload: &[u8]) -> (usize, Vec<(u16, Delivery)>) {
        let tables = self.lock();
        let fitting = tables.patterns.iter().filter(|(pattern, _)| glob::matches(pattern, channel, false));
        let fitting: Vec<_> = fitting.collect();
        let listeners = tables.channels.get(channel);
        if listeners.is_none() && fitting.is_empty() {
            return (0, Vec::new());
        }
        let message = Arc::new(Message { channel: channel.into(), payload: payload.into() });
        let mut count = 0;
        let mut deliveries: BTreeMap<u16, Delivery> = BTreeMap::new();
        let new = || Delivery { message: message.clone(), listeners: Vec::new(), pattern_listeners: Vec::new() };
        for &(shard, client) in listeners.into_iter().flatten() {
            deliveries.entry(shard).or_insert_with(new).listeners.push(client);
            count += 1;
        }
        for (pattern, listeners) in fitting {
            for &(shard, client) in listeners {
                let groups = &mut deliveries.entry(shard).or_insert_with(new).pattern_listeners;
                match groups.last_mut().filter(|(last, _)| last == pattern) {
                    Some((_, clients)) => clients.push(client),
                    None => groups.push((pattern.clone(), vec![client])),
                }
                count += 1;
            }
        }
        (count, deliveries.into_iter().collect())
    }

    /// The channels that somebody listens to and that fit a pattern, if there is one.
    pub fn channels(&self, pattern: Option<&[u8]>) -> Vec<Arc<[u8]>> {
        let tables = self.lock();
        let names = tables.channels.keys();
        names.filter(|name| pattern.is_none_or(|pattern| glob::matches(pattern, name, false))).cloned().collect()
    }

    /// Number of clients that listen to a channel.
    pub fn listeners(&self, channel: &[u8]) -> usize {
        self.lock().channels.get(channel).map_or(0, BTreeSet::len)
    }

    /// Number of channels and of different patterns that somebody listens to.
    pub fn counts(&self) -> (usize, usize) {
        let tables = self.lock();
        (tables.channels.len(), tables.patterns.len())
    }
}

impl Tables {
    fn of_mut(&mut self, topic: Topic) -> &mut Listeners {
        match topic {
            Topic::Channel => &mut self.channels,
            Topic::Pattern => &mut self.patterns,
        }
    }

    fn remove(&mut self, topic: Topic, name: &[u8], who: Subscriber) {
        let table = self.of_mut(topic);
        let Some(listeners) = table.get_mut(name) else { return };
        listeners.remove(&who);
        if listeners.is_empty() {
            table.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_goes_once_to_each_shard_with_all_who_listen() {
        let pubsub = PubSub::default();
        let mut clients: Vec<Subscriptions> = (0..4).map(|_| Subscriptions::default()).collect();
        let who: [Subscriber; 4] = [(0, 1), (0, 2), (1, 3), (1, 4)];
        for index in [0, 1, 2] {
            assert!(pubsub.subscribe(Topic::Channel, b"news", who[index], &mut clients[index]));
            assert!(pubsub.subscribe(Topic::Channel, b"news", who[index], &mut clients[index]), "twice is once");
        }
        for index in [0, 3] {
            assert!(pubsub.subscribe(Topic::Pattern, b"n*", who[index], &mut clients[index]));
        }
        let (count, deliveries) = pubsub.publish(b"news", b"payload");
        assert_eq!(count, 5);
        assert_eq!(deliveries.len(), 2);
        let (shard, first) = &deliveries[0];
        assert_eq!((*shard, first.listeners.as_slice()), (0, [1, 2].as_slice()));
        assert_eq!(first.pattern_listeners, [(Arc::from(b"n*".as_slice()), vec![1])]);
        let (shard, second) = &deliveries[1];
        assert_eq!((*shard, second.listeners.as_slice()), (1, [3].as_slice()));
        assert_eq!(second.pattern_listeners, [(Arc::from(b"n*".as_slice()), vec![4])]);
        assert_eq!(pubsub.publish(b"other", b""), (0, Vec::new()));
        assert_eq!((pubsub.counts(), pubsub.listeners(b"news")), ((1, 1), 3));

        pubsub.unsubscribe(Topic::Channel, b"news", who[1], &mut clients[1]);
        assert!(clients[1].is_empty() && clients[1].bytes == 0);
        for index in 0..4 {
            pubsub.forget(who[index], &mut clients[index]);
        }
        assert_eq!((pubsub.counts(), pubsub.channels(None).len()), ((0, 0), 0));
    }

    #[test]
    fn a_client_cannot_subscribe_without_end() {
        let pubsub = PubSub::default();
        let mut client = Subscriptions::default();
        let long = vec![b'x'; SUBSCRIPTION_BYTES_MAX / 2];
        assert!(pubsub.subscribe(Topic::Channel, &long, (0, 1), &mut client));
        assert!(pubsub.subscribe(Topic::Pattern, &long, (0, 1), &mut client));
        assert!(!pubsub.subscribe(Topic::Channel, b"y", (0, 1), &mut client));
        pubsub.unsubscribe(Topic::Channel, &long, (0, 1), &mut client);
        assert!(pubsub.subscribe(Topic::Channel, b"y", (0, 1), &mut client));
    }

    #[test]
    fn channels_are_listed_by_pattern() {
        let pubsub = PubSub::default();
        let mut client = Subscriptions::default();
        for name in ["a1", "a2", "b1"] {
            assert!(pubsub.subscribe(Topic::Channel, name.as_bytes(), (0, 1), &mut client));
        }
        assert_eq!(pubsub.channels(Some(b"a*")).len(), 2);
        assert_eq!(pubsub.channels(None).len(), 3);
    }
}
