//! Which CPU a thread runs on.

use rustix::{io, thread::CpuSet};

use crate::cli::Pinning;

/// CPUs that this process may use, ascending.
///
/// # Errors
///
/// If the kernel does not say.
pub fn available_cpus() -> io::Result<Vec<usize>> {
    let set = rustix::thread::sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

/// The CPU that the thread of `shard` belongs on; `None` if it may run anywhere.
///
/// With fewer CPUs than shards, the shards go round.
pub fn cpu_of_shard(pinning: &Pinning, available: &[usize], shard: u16) -> Option<usize> {
    let cpus = match pinning {
        Pinning::Unpinned => return None,
        Pinning::Available => available,
        Pinning::Cpus(cpus) => cpus,
    };
    if cpus.is_empty() { None } else { Some(cpus[shard as usize % cpus.len()]) }
}

/// Keeps the calling thread on one CPU from now on.
///
/// # Errors
///
/// If the CPU does not exist or the process may not use it.
pub fn pin_to(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::Errno::INVAL);
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_go_round_over_the_cpus() {
        let of = |pinning: &Pinning| [0, 1, 2, 3].map(|shard| cpu_of_shard(pinning, &[4, 6], shard));
        assert_eq!(of(&Pinning::Available), [Some(4), Some(6), Some(4), Some(6)]);
        assert_eq!(of(&Pinning::Cpus(vec![1])), [Some(1); 4]);
        assert_eq!(of(&Pinning::Unpinned), [None; 4]);
        assert_eq!(cpu_of_shard(&Pinning::Available, &[], 0), None);
    }

    #[test]
    fn a_pinned_thread_may_use_that_cpu_only() {
        let cpu = *available_cpus().expect("known").last().expect("at least one");
        let pinned = std::thread::spawn(move || {
            pin_to(cpu).expect("it is available");
            available_cpus().expect("known")
        });
        assert_eq!(pinned.join().expect("no panic"), [cpu]);
    }

    #[test]
    fn a_cpu_that_does_not_exist_is_an_error() {
        assert_eq!(pin_to(CpuSet::MAX_CPU), Err(io::Errno::INVAL));
        assert_eq!(pin_to(CpuSet::MAX_CPU - 1), Err(io::Errno::INVAL));
    }
}
