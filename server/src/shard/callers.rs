//! The servers that are connected to this one, and by which of their processes: two processes under one id must not
//! both take part, since what one of them has promised the other does not know.

use std::{
    cell::RefCell,
    rc::{Rc, Weak},
    time::Duration,
};

use lockstep_proto::limits::SERVERS_MAX;
use socket2::TcpKeepalive;
use tokio_uring::net::TcpStream;

use crate::socket::with_socket;

/// How long a connection may be idle before the kernel asks whether the other side is still there, and between
/// questions.
const KEEPALIVE: Duration = Duration::from_secs(1);

/// By server id: the process that has called last, and its connection for as long as that is open.
#[derive(Default)]
pub struct Callers(RefCell<[(u64, Weak<TcpStream>); SERVERS_MAX as usize]>);

impl Callers {
    /// Whether another process is connected as this server. A process that does not say its number is not told from
    /// others.
    pub fn is_taken(&self, server: u8, instance: u64) -> bool {
        let callers = self.0.borrow();
        callers.get(server as usize).is_some_and(|(present, stream)| {
            instance != 0 && *present != 0 && *present != instance && stream.strong_count() > 0
        })
    }

    /// A process has been let in as this server.
    pub fn enter(&self, server: u8, instance: u64, stream: &Rc<TcpStream>) {
        keep_alive(stream);
        if let Some(place) = self.0.borrow_mut().get_mut(server as usize) {
            *place = (instance, Rc::downgrade(stream));
        }
    }
}

/// Lets the kernel find out that the other side is gone: a host that has lost its power does not close its connections,
/// and its server could not come back before they are closed. Nothing is said of a failure: the connection then closes
/// later.
fn keep_alive(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(3);
    let _ = with_socket(stream, |socket| socket.set_tcp_keepalive(&keepalive));
}
