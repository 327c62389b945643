//! Waiting for sockets and for the next due moment.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// The token of the timer.
const TIMER: u64 = u64::MAX;

/// An epoll set with a precise timer in it. All registrations are level-triggered.
#[derive(Debug)]
pub(super) struct Poller {
    epoll: OwnedFd,
    timer: OwnedFd,
    armed: Option<Instant>,
}

/// What a descriptor is watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Interest {
    pub(super) readable: bool,
    pub(super) writable: bool,
}

impl Interest {
    pub(super) const READABLE: Self = Self { readable: true, writable: false };

    fn flags(self) -> EventFlags {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, self.readable);
        flags.set(EventFlags::OUT, self.writable);
        flags
    }
}

/// Something that is ready.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ready {
    pub(super) token: u64,
    pub(super) writable: bool,
    /// The connection is broken or closed both ways.
    pub(super) hung_up: bool,
}

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
        Ok(Self { epoll, timer, armed: None })
    }

    pub(super) fn add(&self, source: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        debug_assert_ne!(token, TIMER);
        Ok(epoll::add(&self.epoll, source, EventData::new_u64(token), interest.flags())?)
    }

    pub(super) fn change(&self, source: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, source, EventData::new_u64(token), interest.flags())?)
    }

    /// Waits until something is ready or `due` has come, and appends what is ready.
    pub(super) fn wait(&mut self, due: Option<Instant>, ready: &mut Vec<Ready>) -> io::Result<()> {
        self.arm(due)?;
        let mut space = [MaybeUninit::<Event>::uninit(); 64];
        let (events, _) = match epoll::wait(&self.epoll, &mut space, None) {
            Ok(filled) => filled,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for event in events {
            let (token, flags) = (event.data.u64(), event.flags);
            if token == TIMER {
                self.disarm();
            } else {
                let hung_up = flags.intersects(EventFlags::HUP | EventFlags::ERR);
                ready.push(Ready { token, writable: flags.contains(EventFlags::OUT), hung_up });
            }
        }
        Ok(())
    }

    fn arm(&mut self, due: Option<Instant>) -> io::Result<()> {
        if due == self.armed {
            return Ok(());
        }
        // A zero value would disarm the timer, so a moment that has passed becomes the next nanosecond.
        let wait = due.map(|due| due.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1)));
        let wait = wait.unwrap_or(Duration::ZERO);
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec::try_from(wait).map_err(|_| io::Error::other("a delay beyond the kernel's range"))?;
        let timer = Itimerspec { it_interval: zero, it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &timer)?;
        self.armed = due;
        Ok(())
    }

    fn disarm(&mut self) {
        // Reading resets readiness; it fails only when another arming has reset it already.
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
        self.armed = None;
    }
}
