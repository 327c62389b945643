//! A round trip over TCP loopback between two pinned threads: the least that any request over a socket costs here.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::record::latency_histogram;

/// The size of a message each way: a header and a little more.
const MESSAGE_LEN: usize = 64;
/// Round trips before measuring, for the scheduler to settle.
const WARMUP_ROUNDS: usize = 500;

/// Measures round trips for `duration`, in nanoseconds.
///
/// # Errors
///
/// When the sockets or the second thread fail.
pub fn ping_pong(duration: Duration) -> io::Result<Histogram<u64>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let (near_core, far_core) = two_cores()?;
    std::thread::scope(|scope| {
        let far = scope.spawn(move || -> io::Result<()> {
            pin_to(far_core)?;
            let (stream, _) = listener.accept()?;
            answer_until_closed(stream)
        });
        // A thread of its own, for a pinned caller would stay pinned.
        let near = scope.spawn(move || -> io::Result<Histogram<u64>> {
            pin_to(near_core)?;
            measure(TcpStream::connect(address)?, duration)
        });
        let died = |_| io::Error::other("a measuring thread ended early");
        let measured = near.join().map_err(died)??;
        far.join().map_err(died)??;
        Ok(measured)
    })
}

fn measure(mut stream: TcpStream, duration: Duration) -> io::Result<Histogram<u64>> {
    stream.set_nodelay(true)?;
    let mut round_trips = latency_histogram();
    let mut message = [0x5a; MESSAGE_LEN];
    for _ in 0..WARMUP_ROUNDS {
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
    }
    let begun = Instant::now();
    let mut sent = begun;
    while sent - begun < duration {
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        let answered = Instant::now();
        round_trips.saturating_record((answered - sent).as_nanos() as u64);
        sent = answered;
    }
    Ok(round_trips)
}

fn answer_until_closed(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut message = [0; MESSAGE_LEN];
    loop {
        match stream.read_exact(&mut message) {
            Ok(()) => stream.write_all(&message)?,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// The first two cores that this process may use; the same one twice when there is only one.
fn two_cores() -> io::Result<(usize, usize)> {
    let allowed = sched_getaffinity(None)?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core));
    let first = cores.next().ok_or_else(|| io::Error::other("this process may use no core"))?;
    Ok((first, cores.next().unwrap_or(first)))
}

fn pin_to(core: usize) -> io::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_are_measured_for_the_time_given() {
        let begun = Instant::now();
        let round_trips = ping_pong(Duration::from_millis(50)).expect("loopback works");
        let elapsed_ns = begun.elapsed().as_nanos() as f64;
        assert!(!round_trips.is_empty());
        let sum_ns = round_trips.mean() * round_trips.len() as f64;
        assert!(sum_ns >= 49e6, "they follow each other without a gap: {sum_ns} ns");
        // The histogram keeps three digits.
        assert!(sum_ns <= elapsed_ns * 1.001, "they add up to no more than the time that passed");
    }
}
