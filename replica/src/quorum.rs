//! How many servers are enough.

/// The two quorums of a cluster.
///
/// Any commit quorum and any view-change quorum have a server in common, so whoever begins a view hears of everything
/// that was committed before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quorums {
    /// Servers on which an op must be durable to be committed.
    pub commit: u8,
    /// Servers that must answer before a view begins.
    pub view_change: u8,
    /// Servers of these that must vouch for what they have acknowledged: so many that any commit quorum has one of
    /// them.
    pub vouchers: u8,
    /// Other servers that must tell a wiped server their view: so many that any view-change quorum which it was part of
    /// has one of them.
    pub recovery: u8,
}

impl Quorums {
    /// The quorums of a cluster of `servers` servers: R = ceil(N / 2) and V = N - R + 1; at N = 2 both are 2.
    ///
    /// # Panics
    ///
    /// If `servers` is 0 or more than [`lockstep_proto::limits::SERVERS_MAX`].
    pub fn of(servers: u8) -> Quorums {
        assert!((1..=lockstep_proto::limits::SERVERS_MAX).contains(&servers));
        let quorums = if servers == 2 {
            // R = 1 would commit on the primary alone, and its loss would lose what was acknowledged.
            Quorums { commit: 2, view_change: 2, vouchers: 1, recovery: 1 }
        } else {
            let commit = servers.div_ceil(2);
            let view_change = servers - commit + 1;
            Quorums { commit, view_change, vouchers: view_change, recovery: servers - view_change + 1 }
        };
        assert!(quorums.commit + quorums.view_change > servers, "the quorums must meet");
        assert!(quorums.commit + quorums.vouchers > servers && quorums.vouchers <= quorums.view_change);
        assert!(quorums.recovery + quorums.view_change > servers);
        assert!(quorums.commit <= servers && quorums.view_change <= servers);
        quorums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quorums_of_every_size_meet_and_tolerate_what_the_design_says() {
        let tolerated: Vec<u8> = (1..=7)
            .map(|servers| {
                let quorums = Quorums::of(servers);
                servers - quorums.commit.max(quorums.view_change)
            })
            .collect();
        assert_eq!(tolerated, [0, 0, 1, 1, 2, 2, 3]);
    }
}
