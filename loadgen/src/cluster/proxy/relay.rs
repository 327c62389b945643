//! The loop of the proxy's thread.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::line::Line;
use super::poller::{Interest, Poller, Ready};
use super::{Control, Route};

const CONTROL: u64 = 0;
const LISTENERS: u64 = 1;
/// Connections have even tokens from here on for the dialling side, and the odd one after it for the target's side.
const CONNECTIONS: u64 = 1 << 32;

const SCRATCH_LEN: usize = 256 * 1024;
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Relay {
    poller: Poller,
    control: Arc<Control>,
    /// The routes that are cut now.
    cut: BTreeSet<usize>,
    listeners: Vec<(TcpListener, SocketAddr)>,
    delay: Duration,
    connections: BTreeMap<u64, Connection>,
    next_token: u64,
    /// When the pieces of all directions are due, oldest first: the delay is the same for all, so one queue is enough.
    schedule: VecDeque<(Instant, u64)>,
    scratch: Vec<u8>,
}

/// Two sockets, index 0 towards the dialling side, and the lines *from* each.
#[derive(Debug)]
struct Connection {
    route: usize,
    sockets: [TcpStream; 2],
    lines: [Line; 2],
    interests: [Interest; 2],
}

impl Relay {
    pub(super) fn new(routes: Vec<Route>, delay: Duration, control: Arc<Control>) -> io::Result<Self> {
        let poller = Poller::new()?;
        poller.add(&control.wake, CONTROL, Interest::READABLE)?;
        let mut listeners = Vec::with_capacity(routes.len());
        for (index, Route { listener, target }) in routes.into_iter().enumerate() {
            listener.set_nonblocking(true)?;
            poller.add(&listener, LISTENERS + index as u64, Interest::READABLE)?;
            listeners.push((listener, target));
        }
        Ok(Self {
            poller,
            control,
            cut: BTreeSet::new(),
            listeners,
            delay,
            connections: BTreeMap::new(),
            next_token: CONNECTIONS,
            schedule: VecDeque::new(),
            scratch: vec![0; SCRATCH_LEN],
        })
    }

    pub(super) fn run(&mut self) -> io::Result<()> {
        let mut ready = Vec::new();
        loop {
            let due = self.schedule.front().map(|(due, _)| *due);
            self.poller.wait(due, &mut ready)?;
            for event in ready.drain(..) {
                match event.token {
                    CONTROL => {
                        if self.obey() {
                            return Ok(());
                        }
                    }
                    token if token < CONNECTIONS => self.accept((token - LISTENERS) as usize)?,
                    _ => self.serve(event),
                }
            }
            self.pass_on(Instant::now());
        }
    }

    /// Does what it is told. True when it is over.
    fn obey(&mut self) -> bool {
        // Reading resets the event counter.
        let _ = rustix::io::read(&self.control.wake, &mut [0; 8]);
        let orders = self.control.orders();
        let changed: Vec<usize> = self.cut.symmetric_difference(&orders.cut).copied().collect();
        self.cut = orders.cut;
        let is_changed = |connection: &Connection| changed.contains(&connection.route);
        let tokens: Vec<u64> =
            self.connections.iter().filter(|(_, connection)| is_changed(connection)).map(|(&token, _)| token).collect();
        for token in tokens {
            self.flush(token);
        }
        orders.is_over
    }

    /// Passes on what is due in both directions of a connection, unless its route is cut.
    fn flush(&mut self, base: u64) {
        let Some(connection) = self.connections.get_mut(&base) else { return };
        if !self.cut.contains(&connection.route) {
            for side in 0..2 {
                if connection.lines[side].flush(&mut connection.sockets[1 - side]).is_err() {
                    self.connections.remove(&base);
                    return;
                }
            }
        }
        self.watch(base);
    }

    fn accept(&mut self, index: usize) -> io::Result<()> {
        let (listener, target) = &self.listeners[index];
        let dialler = match listener.accept() {
            Ok((dialler, _)) => dialler,
            // It was closed again before we came.
            Err(error) if is_passing(error.kind()) => return Ok(()),
            Err(error) => return Err(error),
        };
        // A target that refuses shows as a closed connection, as it would without a proxy.
        if let Ok(target) = TcpStream::connect_timeout(target, DIAL_TIMEOUT) {
            let _ = self.join(index, [dialler, target]);
        }
        Ok(())
    }

    fn join(&mut self, route: usize, sockets: [TcpStream; 2]) -> io::Result<()> {
        let token = self.next_token;
        for (side, socket) in sockets.iter().enumerate() {
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            self.poller.add(socket, token + side as u64, Interest::READABLE)?;
        }
        self.next_token += 2;
        let interests = [Interest::READABLE; 2];
        let lines = [Line::default(), Line::default()];
        self.connections.insert(token, Connection { route, sockets, lines, interests });
        self.watch(token);
        Ok(())
    }

    fn serve(&mut self, event: Ready) {
        let (base, side) = (event.token & !1, (event.token & 1) as usize);
        let Some(connection) = self.connections.get_mut(&base) else { return };
        if self.cut.contains(&connection.route) {
            // Only that a side is dead can be told here, and as epoll would tell it again and again, the connection
            // ends.
            if event.hung_up {
                self.connections.remove(&base);
            }
            return;
        }
        let mut result = Ok(());
        if event.writable {
            result = connection.lines[1 - side].flush(&mut connection.sockets[side]);
        }
        let made = connection.lines[side].fill(&mut connection.sockets[side], &mut self.scratch);
        let broken = match (&result, &made) {
            (Ok(()), Ok(0)) => event.hung_up && !connection.lines[side].wants_input() && side_is_dead(connection, side),
            (Ok(()), Ok(_)) => false,
            _ => true,
        };
        if broken {
            // The delay of a reset is of no interest to anyone, so it is passed on at once.
            self.connections.remove(&base);
            return;
        }
        let due = Instant::now() + self.delay;
        for _ in 0..made.unwrap_or(0) {
            self.schedule.push_back((due, event.token));
        }
        self.watch(base);
    }

    /// Writes everything whose time has come.
    fn pass_on(&mut self, now: Instant) {
        while let Some((due, token)) = self.schedule.front().copied()
            && due <= now
        {
            self.schedule.pop_front();
            let (base, side) = (token & !1, (token & 1) as usize);
            let Some(connection) = self.connections.get_mut(&base) else { continue };
            connection.lines[side].release();
            if self.cut.contains(&connection.route) {
                continue;
            }
            if connection.lines[side].flush(&mut connection.sockets[1 - side]).is_err() {
                self.connections.remove(&base);
                continue;
            }
            self.watch(base);
        }
    }

    /// Brings the watched events in line with the state of both lines, and forgets a connection that has nothing left.
    fn watch(&mut self, base: u64) {
        let Some(connection) = self.connections.get_mut(&base) else { return };
        let mut keep = !connection.lines.iter().all(Line::is_finished);
        let is_open = !self.cut.contains(&connection.route);
        for side in 0..2 {
            let interest = Interest {
                readable: is_open && connection.lines[side].wants_input(),
                writable: is_open && connection.lines[1 - side].wants_output(),
            };
            if interest != connection.interests[side] {
                connection.interests[side] = interest;
                let token = base + side as u64;
                keep &= self.poller.change(&connection.sockets[side], token, interest).is_ok();
            }
        }
        if !keep {
            self.connections.remove(&base);
        }
    }
}

fn is_passing(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted)
}

/// Whether nothing can be sent to `side` any more although something is, or may be, on its way there. Epoll reports a
/// hang-up again and again, and this ends it.
fn side_is_dead(connection: &Connection, side: usize) -> bool {
    connection.lines[side].is_finished() && !connection.lines[1 - side].is_finished()
}
