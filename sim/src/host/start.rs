//! How a server comes up: from `format`, or from what its disk holds.

use std::collections::{BTreeMap, VecDeque};

use lockstep_proto::superblock::Superblock;
use lockstep_replica::{Config, Replica, Role};
use lockstep_server::{
    journal::{
        folder::Identity,
        format::{self, Origin},
        superblock::{self, SuperblockWriter},
    },
    shard::{
        memory_log::MemoryLog,
        replay::{ReplayFiles, ReplaySettings, Replayed, replay},
    },
};
use lockstep_store::StoreConfig;

use super::{
    CLUSTER, Process, SHARD, SHARDS, Server, SimPool,
    checkpoints::Checkpointer,
    door::Doors,
    journal::{Journal, Log},
    requests::Requests,
    transfer::Transfer,
};
use crate::{
    plan::{MS, Plan},
    schedule::Event,
    shared::Shared,
};

/// How often a server tries to connect to another that it does not reach, in ns.
const RECONNECT_NS: u64 = 20 * MS;

/// How long a start takes, in ns.
const START_NS: u64 = 2 * MS;

/// The superblock of a new folder.
pub(super) fn first_superblock(id: u8, plan: &Plan, origin: &Origin) -> Superblock {
    let identity = Identity { cluster: CLUSTER, replica: id, servers: plan.servers, shards: SHARDS };
    format::first_superblock(&identity, SHARD, plan.disk.journal_size, origin)
}

/// What of the plan decides how a server comes back.
pub(super) fn replay_settings(shared: &mut Shared) -> ReplaySettings {
    // The seed of the hashes must not be visible in anything, so it may as well be another one each time.
    let hash_seed = std::array::from_fn(|_| shared.host_dice.any());
    ReplaySettings {
        store: StoreConfig { hash_seed, shard: SHARD, shards: SHARDS, bytes_max: shared.plan.workload.store_bytes_max },
        sessions_max: shared.plan.workload.sessions_max,
        pipeline_max: shared.plan.pipeline_max,
        in_flight_max: shared.plan.disk.in_flight_max,
    }
}

/// The replica's settings.
fn replica_config(shared: &mut Shared, id: u8) -> Config {
    let jitter_seed = shared.host_dice.any();
    let plan = &shared.plan;
    Config {
        cluster: CLUSTER,
        shard: SHARD,
        replica: id,
        servers: plan.servers,
        ack: plan.ack,
        fanout: plan.fanout,
        batch_ops_max: plan.batch_ops_max,
        batch_bytes_max: 2 << 20,
        batch_linger_ns: plan.batch_linger_ns,
        batch_gather_ops: plan.batch_gather_ops,
        batch_gather_ns: plan.batch_gather_ns,
        pipeline_max: plan.pipeline_max,
        heartbeat_interval_ns: plan.heartbeat_ns,
        backup_silence_ns: 10 * plan.heartbeat_ns,
        view_timeout_ns: plan.view_timeout_ns(),
        stall_timeout_ns: 2 * plan.view_timeout_ns(),
        jitter_seed,
        resend_ns: 2 * plan.heartbeat_ns,
        log_memory_bytes_max: plan.log_memory,
    }
}

impl Server {
    /// Starts a process from what the disk holds.
    ///
    /// # Errors
    ///
    /// Why the server refuses to start.
    pub fn start(&mut self, shared: &mut Shared) -> Result<(), String> {
        assert!(self.process.is_none());
        let reading = superblock::read(&self.disk.superblock).map_err(|error| error.to_string())?;
        superblock::repair(&self.disk.superblock, &reading).map_err(|error| error.to_string())?;
        let superblock = reading.superblock;
        let settings = replay_settings(shared);
        let checkpoint_op = superblock.checkpoint.get();
        self.disk.remove_leftovers(checkpoint_op);
        let files = ReplayFiles {
            superblock: &self.disk.superblock,
            journal: &self.disk.journal,
            checkpoint: self.disk.checkpoint(checkpoint_op),
        };
        let replayed = replay(&files, &superblock, &settings, &shared.pool).map_err(|error| format!("{error:#}"))?;
        self.run(shared, replayed);
        Ok(())
    }

    fn run(&mut self, shared: &mut Shared, replayed: Replayed) {
        let Replayed { machine, mut recovered, superblock, ring, loss, .. } = replayed;
        let (id, now_ns) = (self.id, shared.now_ns);
        if let Some(loss) = &loss {
            shared.line(|| format!("{id}: {loss}"));
        }
        shared.line(|| {
            let record = &recovered.record;
            let (first, last) = (ring.first_op(), ring.last_op());
            format!(
                "{id}: starts: view={} log_view={} vouch={} checkpoint={} journal={first}..={last} commit={}",
                record.view, record.log_view, record.vouch_op, recovered.checkpoint_op, recovered.commit
            )
        });
        let mut writer = SuperblockWriter::new(superblock);
        if self.is_memory {
            shared.facts.is_damaged();
            // Only now is anything lost by the next restart, and it must be known then.
            for step in writer.begin(&shared.pool, |superblock| superblock.has_lost_memory = 1).steps {
                self.disk.superblock.put(step.offset, &step.bytes);
            }
            writer.finish();
        }
        let log: BTreeMap<u64, u128> = (ring.first_op()..=ring.last_op())
            .filter_map(|op| ring.locate(op).map(|location| (op, location.checksum)))
            .collect();
        shared.facts.has_started(id, &superblock, &recovered, log);
        self.boot += 1;
        self.clock.start(now_ns, machine.timestamp_ns);
        let journal_log = if self.is_memory {
            let log = MemoryLog::holding(ring.size(), recovered.commit + 1, recovered.suffix.iter().cloned());
            recovered.journal_first_op = log.first_op();
            Log::Memory(log)
        } else {
            Log::Journal(ring)
        };
        let config = replica_config(shared, id);
        let replica = Replica::new(config, recovered, SimPool::default(), self.clock.monotonic_ns(now_ns));
        self.process = Some(Box::new(Process {
            replica,
            role: Role::Recovering,
            machine,
            applies: VecDeque::new(),
            journal: Journal::new(journal_log, writer),
            purposes: BTreeMap::new(),
            requests: Requests::default(),
            doors: Doors::default(),
            checkpointer: Checkpointer::default(),
            transfer: Transfer::default(),
            has_turn: false,
            has_apply: false,
            tick_ns: u64::MAX,
            failure: None,
        }));
        self.ask_turn(shared);
        for to in (0..shared.plan.servers).filter(|to| *to != id) {
            let delay_ns = START_NS + shared.host_dice.below(RECONNECT_NS);
            shared.after(delay_ns, Event::Connect { from: id, to, boot: self.boot });
        }
    }
}
