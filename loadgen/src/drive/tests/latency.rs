//! Latency counts from the intended time.

use std::time::Instant;

use super::*;
use hdrhistogram::Histogram;

use crate::drive::engine::alertness_ns;
use crate::plan::ArrivalPlan;

const MILLI: u64 = 1_000_000;

fn count_above(histogram: &Histogram<u64>, bound_ns: u64) -> u64 {
    histogram.count_between(bound_ns, u64::MAX)
}

/// The mistake that this guards against is known as coordinated omission: a generator that waits for a stalled server
/// and then counts from when it sent would report one slow request instead of all that should have been sent meanwhile.
#[test]
fn a_stall_is_charged_to_every_request_that_was_due_meanwhile() {
    // On a busy machine the generator itself may be kept from sending, which it has to say; not in every round.
    let begin = Instant::now();
    loop {
        let (slow_service, late) = slow_and_late_by_a_stall();
        if slow_service <= 50 && late <= 50 {
            return;
        }
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "{slow_service} slow after they were sent, {late} sent late"
        );
    }
}

/// Has a server stall. How many requests were slow once they had been sent: only those in flight when it began; and how
/// many were sent late: none, as waiting for a free place is the server's doing and not lateness of the generator.
fn slow_and_late_by_a_stall() -> (u64, u64) {
    let server = ScriptedServer::start(|seen| match seen.nth {
        400 => Act::Stall(Duration::from_millis(300)),
        _ => Act::Answer,
    });
    let record = run(&RunSpec {
        pacing: Pacing::Rate(2000.0),
        duration: Duration::from_millis(1000),
        connections: 1,
        in_flight: 4,
        ..spec(server.address)
    });
    assert_eq!(record.counts.ok, 2000);
    // 600 requests were due during the stall, and those of its first 200 ms waited for more than 100 ms.
    let slow = count_above(&record.histograms.response(), 100 * MILLI);
    assert!(slow >= 390, "{slow} requests were slow by their intended time");
    let slow_service = count_above(&record.histograms.service, 100 * MILLI);
    assert!(slow_service >= 1, "the one at which it stalled");
    (slow_service, count_above(&record.histograms.lateness, 100 * MILLI))
}

#[test]
fn a_request_without_an_answer_enters_at_its_elapsed_time() {
    let server = ScriptedServer::start(|seen| if seen.nth == 10 { Act::Swallow } else { Act::Answer });
    let record = run(&RunSpec {
        pacing: Pacing::Rate(500.0),
        timeout: Duration::from_secs(2),
        in_flight: 16,
        ..spec(server.address)
    });
    assert_eq!((record.counts.ok, record.counts.unknown), (149, 1));
    let slowest = record.histograms.writes.max();
    assert!(slowest >= 2000 * MILLI, "{slowest}");
}

#[test]
fn what_a_dead_server_kept_from_being_sent_is_recorded_too() {
    let server = ScriptedServer::start(|seen| if seen.nth < 50 { Act::Answer } else { Act::Swallow });
    let record = run(&RunSpec {
        pacing: Pacing::Rate(1000.0),
        timeout: Duration::from_secs(3),
        connections: 1,
        in_flight: 4,
        ..spec(server.address)
    });
    assert_eq!((record.counts.ok, record.counts.unknown), (50, 250));
    assert_eq!(record.histograms.writes.len(), 300);
}

#[test]
fn service_is_never_longer_than_response() {
    let server = ScriptedServer::honest();
    let record = run(&RunSpec { pacing: Pacing::Rate(2000.0), arrivals: Arrivals::Poisson, ..spec(server.address) });
    let response = record.histograms.response();
    for quantile in [0.1, 0.5, 0.9, 0.99, 1.0] {
        assert!(record.histograms.service.value_at_quantile(quantile) <= response.value_at_quantile(quantile));
    }
}

#[test]
fn a_thread_is_awake_before_a_request_is_due_for_a_fifth_of_its_time_at_most() {
    for (rate, awake_ns) in [(1.0, 200_000), (1_000.0, 200_000), (10_000.0, 20_000), (1_000_000.0, 200)] {
        let plan = ArrivalPlan::new(Arrivals::Uniform, rate, 0, 1, 7, u64::MAX);
        assert_eq!(alertness_ns(plan.mean_gap_ns()), awake_ns, "{rate}/s");
    }
}
