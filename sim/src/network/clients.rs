//! The connections of clients to servers.

use bytes::Bytes;

use super::Network;
use crate::{schedule::Event, shared::Shared};

/// The newest connection of a client.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ClientLink {
    /// 0: it has sent nothing yet.
    connection: u32,
    /// To which server it is.
    server: u8,
    /// When something sent on it last arrives.
    last_arrival_ns: u64,
    /// The newest connection with a reply, and when the last one arrives.
    replies: (u32, u64),
    /// What was sent on this connection, or an earlier one, and is not there at this time, never arrives.
    reset: (u32, u64),
    /// Something that was sent on this connection, or an earlier one, is lost, and so nothing arrives that is sent on
    /// it later: by the client, and to it.
    broken: (u32, u32),
}

/// Clients and servers that do not reach each other.
#[derive(Clone, Copy, Debug)]
pub struct ClientCut {
    /// A bit for each client.
    pub clients: u32,
    /// A bit for each server.
    pub servers: u8,
    /// Whether what clients send is lost.
    pub there: bool,
    /// Whether what is sent to clients is lost.
    pub back: bool,
}

/// What of that which is on its way on a connection that breaks arrives all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arriving {
    /// All.
    All,
    /// The first part.
    Some,
    /// Nothing.
    Nothing,
}

impl Network {
    /// When a reply arrives that would arrive then if none had been sent before it on its connection.
    pub fn reply_arrival(&mut self, client: u8, connection: u32, at_ns: u64) -> u64 {
        not_before(&mut self.clients[client as usize].replies, connection, at_ns)
    }

    /// The newest connection of a client, if it has sent something.
    pub fn client_connection(&self, client: u8) -> Option<u32> {
        Some(self.clients[client as usize].connection).filter(|connection| *connection != 0)
    }

    /// Keeps clients and servers from each other. Returns a name for [`Shared::unblock`].
    pub fn cut_clients(&mut self, cut: ClientCut) -> u32 {
        self.blocks_total += 1;
        self.client_cuts.push((self.blocks_total, cut));
        self.blocks_total
    }

    fn is_cut(&self, client: u8, server: u8, is_meant: impl Fn(&ClientCut) -> bool) -> bool {
        let covers = |cut: &ClientCut| cut.clients >> client & 1 == 1 && cut.servers >> server & 1 == 1;
        self.client_cuts.iter().any(|(_, cut)| covers(cut) && is_meant(cut))
    }

    /// Whether a request that arrives now was lost on its way.
    pub fn is_request_lost(&self, client: u8, connection: u32, now_ns: u64) -> bool {
        let (reset, until_ns) = self.clients[client as usize].reset;
        connection <= reset && now_ns > until_ns
    }

    /// Whether what is sent to a client on a connection now is lost.
    pub fn loses_reply(&mut self, client: u8, connection: u32) -> bool {
        let ClientLink { connection: newest, server, .. } = self.clients[client as usize];
        let is_cut = connection == newest && self.is_cut(client, server, |cut| cut.back);
        let broken = &mut self.clients[client as usize].broken.1;
        if is_cut {
            *broken = connection.max(*broken);
        }
        connection <= *broken
    }
}

impl Shared {
    /// A client sends something to a server, which takes so long: `event` happens when it is there. Nothing overtakes
    /// what was sent before on the same connection.
    pub fn request(&mut self, (client, connection): (u8, u32), server: u8, delay_ns: u64, event: Event) {
        let is_cut = self.network.is_cut(client, server, |cut| cut.there);
        let at_ns = self.now_ns + delay_ns;
        let link = &mut self.network.clients[client as usize];
        if connection > link.connection {
            (link.connection, link.server, link.last_arrival_ns) = (connection, server, 0);
        }
        if is_cut {
            link.broken.0 = connection.max(link.broken.0);
        }
        if connection <= link.broken.0 {
            return;
        }
        link.last_arrival_ns = at_ns.max(link.last_arrival_ns);
        let at_ns = link.last_arrival_ns;
        self.schedule.at(at_ns, event);
    }

    /// A client's connection is gone at its server's end, and the client notices that unless it is cut off.
    pub fn hang_up(&mut self, client: u8, connection: u32, delay_ns: u64) {
        let is_lost = self.network.loses_reply(client, connection);
        let broken = &mut self.network.clients[client as usize].broken;
        *broken = (connection.max(broken.0), connection.max(broken.1));
        if !is_lost {
            self.after(delay_ns, Event::Reply { client, connection, frame: Bytes::new() });
        }
    }

    /// A client's connection breaks somewhere on its way, which both ends notice.
    pub fn reset_client(&mut self, client: u8, connection: u32, arriving: Arriving) {
        let [there_ns, back_ns] = [0; 2].map(|_| self.network.dice.delay(&self.plan.network.delay_ns));
        let link = &mut self.network.clients[client as usize];
        let until_ns = match arriving {
            Arriving::All => link.last_arrival_ns.max(self.now_ns),
            Arriving::Some => self.now_ns + there_ns,
            Arriving::Nothing => self.now_ns,
        };
        link.reset = (connection, until_ns);
        link.broken = (connection.max(link.broken.0), connection.max(link.broken.1));
        let server = link.server;
        self.schedule.at(until_ns, Event::HungUp { server, client, connection });
        self.after(back_ns, Event::Reply { client, connection, frame: Bytes::new() });
    }
}

/// On one connection nothing overtakes what was sent before it: `last` is the newest connection, and when that arrives.
fn not_before(last: &mut (u32, u64), connection: u32, at_ns: u64) -> u64 {
    if connection < last.0 {
        // Nobody listens there any more.
        return at_ns;
    }
    let at_ns = if last.0 == connection { at_ns.max(last.1) } else { at_ns };
    *last = (connection, at_ns);
    at_ns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;

    fn two() -> Shared {
        Shared::new(Plan::calm(2), false)
    }

    fn request(shared: &mut Shared, connection: u32) {
        let event = Event::Request { server: 1, client: 3, connection, frame: Bytes::new() };
        shared.request((3, connection), 1, 1000, event);
    }

    /// What happens next of client 3, all of it: requests that arrive, and what its end and the server's end notice.
    fn drain_client(shared: &mut Shared) -> Vec<&'static str> {
        let mut happened = Vec::new();
        while let Some((at_ns, event)) = shared.schedule.pop() {
            happened.push(match event {
                Event::Request { client, connection, .. }
                    if shared.network.is_request_lost(client, connection, at_ns) =>
                {
                    continue;
                }
                Event::Request { .. } => "request",
                Event::HungUp { .. } => "server",
                Event::Reply { .. } => "client",
                other => panic!("{other:?}"),
            });
        }
        happened.sort_unstable();
        happened
    }

    #[test]
    fn a_clients_connection_breaks_with_what_is_on_its_way_or_without() {
        for (arriving, left) in
            [(Arriving::All, vec!["client", "request", "server"]), (Arriving::Nothing, vec!["client", "server"])]
        {
            let mut shared = two();
            request(&mut shared, 7);
            shared.reset_client(3, 7, arriving);
            request(&mut shared, 7);
            assert!(shared.network.loses_reply(3, 7));
            assert_eq!(drain_client(&mut shared), left, "and nothing that was sent later");
            request(&mut shared, 8);
            assert!(!shared.network.loses_reply(3, 8));
            assert_eq!(drain_client(&mut shared), ["request"], "the next one is whole");
        }
    }

    #[test]
    fn a_client_that_is_cut_off_loses_what_is_sent_and_the_rest_of_the_connection() {
        for (there, back) in [(true, false), (false, true), (true, true)] {
            let mut shared = two();
            request(&mut shared, 7);
            let cut = shared.network.cut_clients(ClientCut { clients: 1 << 3, servers: 0b10, there, back });
            request(&mut shared, 7);
            assert_eq!(shared.network.loses_reply(3, 7), back);
            shared.unblock(cut);
            request(&mut shared, 7);
            assert_eq!(shared.network.loses_reply(3, 7), back, "over one connection there are no gaps");
            assert_eq!(drain_client(&mut shared).len(), if there { 1 } else { 3 });
            request(&mut shared, 8);
            assert!(!shared.network.loses_reply(3, 8));
            assert_eq!(drain_client(&mut shared), ["request"]);
        }
    }
}
