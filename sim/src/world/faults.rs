//! What goes wrong, and how it is made to.

use lockstep_proto::{limits::SECTOR_SIZE, superblock::SUPERBLOCK_COPIES};
use lockstep_replica::Role;
use lockstep_server::journal::{file::BlockFile, superblock};

use super::{DAMAGING, World};
use crate::{
    host::Doom,
    network::{Arriving, Blocked, ClientCut},
    plan::{Fault, FaultEvent, MS},
    schedule::Event,
};

/// How long a server that crashes again and again may run in between, in ns.
const AGAIN_NS: u64 = 60 * MS;

/// What a disk has lost, and its server may not know yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Damage {
    /// Highest op that is damaged in the journal.
    op: u64,
    /// The process that ran then.
    boot: u32,
    /// Whether it can be told from a torn write only once much has followed.
    needs_proof: bool,
}

impl World {
    /// A fault of the plan begins.
    pub(super) fn fault(&mut self, index: usize) {
        let event = self.shared.plan.faults[index];
        let server = (event.choice % self.servers.len() as u64) as u8;
        let is_wipe = event.fault == Fault::Wipe;
        if self.shared.is_healed || (DAMAGING.contains(&event.fault) && !self.may_damage(server, is_wipe)) {
            return;
        }
        if !self.make(&event, server) {
            return;
        }
        self.shared.line(|| format!("fault: {} {server} for {} ms", event.fault.name(), event.duration_ns / MS));
        // These count when they have an effect.
        if !matches!(event.fault, Fault::Crash | Fault::WriteError | Fault::DiskFull) {
            self.shared.counters.count(event.fault);
        }
        if DAMAGING.contains(&event.fault) {
            self.shared.facts.is_damaged();
        }
    }

    /// Makes it happen. Returns whether it could.
    fn make(&mut self, event: &FaultEvent, server: u8) -> bool {
        match event.fault {
            Fault::Crash => self.crash_for(server, event.choice, event.duration_ns),
            Fault::PowerCut => self.cut_power(event.duration_ns),
            Fault::Pause => self.pause(server, event.choice, event.duration_ns),
            Fault::IsolatePrimary | Fault::Partition | Fault::PartitionOneWay | Fault::Clog => self.cut(event, server),
            Fault::Disconnect => self.disconnect(event, server),
            Fault::ClientReset => self.reset_client(event),
            Fault::ClientCut => self.cut_clients(event, server),
            Fault::DiskStall | Fault::DiskSlow | Fault::DiskFull | Fault::WriteError => self.hamper(event, server),
            Fault::MisdirectedRead => {
                self.servers[server as usize].disk.misdirects_read_by = Some(event.choice >> 8);
                true
            }
            Fault::Rot => self.rot(event, server),
            Fault::MisdirectedWrite => self.misdirect(event, server),
            Fault::RotSuperblock => self.rot_superblock(event, server),
            Fault::RotCheckpoint => self.rot_checkpoint(event, server),
            Fault::Wipe => self.wipe_for(server, event.duration_ns),
            Fault::ClockJump => {
                self.servers[server as usize].clock.set_offset(event.choice % (2 * event.duration_ns));
                true
            }
            Fault::Handover => self.hand_over(event.choice),
            _ => false,
        }
    }

    /// The server that says it is the primary of the highest view.
    pub fn primary(&self) -> Option<u8> {
        self.servers
            .iter()
            .filter_map(|server| Some((server.process.as_deref()?, server.id)))
            .filter(|(process, _)| process.role() == Role::Primary)
            .max_by_key(|(process, _)| process.status().view)
            .map(|(_, id)| id)
    }

    /// Whether damage to a server's disk leaves enough of the others.
    fn may_damage(&mut self, server: u8, is_wipe: bool) -> bool {
        // What a second fault does to the same disk may hide the traces of the first.
        if self.is_damaged(server) && !is_wipe {
            return false;
        }
        let others = (0..self.servers.len() as u8).filter(|&other| other != server);
        let damaged = others.filter(|&other| self.is_damaged(other)).count();
        damaged < self.shared.plan.damaged_max as usize
    }

    /// Whether a server's disk has lost something and has not got it back.
    pub(super) fn is_damaged(&mut self, server: u8) -> bool {
        let committed = self.shared.facts.committed_op();
        let damage = self.damage[server as usize];
        let node = &mut self.servers[server as usize];
        if !node.is_damaged {
            return false;
        }
        let boot = node.boot;
        let is_whole = node.process.as_deref().is_some_and(|process| {
            let (status, superblock) = (process.status(), process.superblock());
            // In view 0 nothing has happened yet.
            let is_member = status.role != Role::Recovering && status.view == status.log_view && status.log_view > 0;
            let is_over = damage.is_none_or(|damage| superblock.checkpoint.get() >= damage.op || boot > damage.boot);
            let is_vouched = superblock.vouch_op.get() == 0 && superblock.is_recovering == 0;
            is_member && is_over && is_vouched && status.durable >= committed
        });
        if is_whole {
            node.is_damaged = false;
            self.damage[server as usize] = None;
        }
        !is_whole
    }

    fn crash_for(&mut self, server: u8, choice: u64, duration_ns: u64) -> bool {
        let is_amnesia = self.servers[server as usize].is_memory;
        if !self.servers[server as usize].is_up() || (is_amnesia && !self.may_damage(server, true)) {
            return false;
        }
        let again = if choice >> 40 & 3 == 0 && !is_amnesia { 3 } else { 0 };
        // A crash without a disk is damage, which must come when it is looked at whether there may be any.
        let writes = if is_amnesia { 0 } else { choice >> 42 & 3 };
        self.doom(server, writes, duration_ns, again);
        true
    }

    /// A process will end without warning once so many of its journal's writes are on their way.
    fn doom(&mut self, server: u8, writes: u64, down_ns: u64, again: u8) {
        let latest_ns = self.shared.now_ns + 2 * self.shared.plan.view_timeout_ns();
        let writes = writes.min(u64::from(self.shared.plan.pipeline_max)) as usize;
        self.servers[server as usize].doom = Some(Doom { writes, latest_ns, down_ns, again });
        self.end_doomed(server);
    }

    /// Ends a process whose time has come.
    pub(super) fn end_doomed(&mut self, server: u8) {
        let node = &mut self.servers[server as usize];
        let Some(Doom { down_ns, again, .. }) = node.take_doom(self.shared.now_ns) else { return };
        self.shared.counters.count(Fault::Crash);
        self.crash(server);
        self.shared.after(down_ns, Event::Start { server });
        if again > 0 {
            let delay_ns = down_ns + self.shared.host_dice.below(AGAIN_NS);
            self.shared.after(delay_ns, Event::CrashAgain { server, times: again });
        }
    }

    /// Crashes come in rows: a server that starts is likely to meet what has ended it before.
    pub(super) fn crash_again(&mut self, server: u8, times: u8) {
        let is_amnesia = self.servers[server as usize].is_memory;
        if !self.shared.is_healed && self.servers[server as usize].is_running() && !is_amnesia {
            let writes = self.shared.host_dice.below(4);
            self.doom(server, writes, 2 * MS, times - 1);
        }
    }

    fn cut_power(&mut self, duration_ns: u64) -> bool {
        if self.servers.iter().any(|server| server.is_memory) {
            return false;
        }
        for server in 0..self.servers.len() as u8 {
            self.crash(server);
            let delay_ns = duration_ns / 2 + self.shared.host_dice.below(duration_ns / 2 + 1);
            self.shared.after(delay_ns, Event::Start { server });
        }
        true
    }

    /// Sometimes it is the primary that sleeps, and that hears nothing for a while when it wakes up: it then takes
    /// itself for the primary longer than anything else could make it.
    fn pause(&mut self, server: u8, choice: u64, duration_ns: u64) -> bool {
        let is_cut_off = choice >> 40 & 1 == 0 && self.servers.len() > 1;
        let server = if is_cut_off { self.primary().unwrap_or(server) } else { server };
        if !self.servers[server as usize].is_running() {
            return false;
        }
        if is_cut_off {
            let grace_ns = 2 * self.shared.plan.view_timeout_ns();
            self.block(self.shared.network.rows_around(1 << server), Blocked::Lost, duration_ns + grace_ns);
        }
        let node = &mut self.servers[server as usize];
        node.is_paused = true;
        let boot = node.boot;
        self.shared.after(duration_ns, Event::Resume { server, boot });
        true
    }

    fn cut(&mut self, event: &FaultEvent, server: u8) -> bool {
        let all = ((1u16 << self.servers.len()) - 1) as u8;
        let choice = event.choice >> 8;
        let (left, right) = match event.fault {
            Fault::IsolatePrimary => {
                let primary = self.primary().unwrap_or(server);
                (1 << primary, all & !(1 << primary))
            }
            Fault::Clog => (1 << server, 1 << (choice % self.servers.len() as u64)),
            _ => (choice as u8 & all, !(choice as u8) & all),
        };
        if left == 0 || right == 0 || left == right {
            return false;
        }
        let there = self.shared.network.rows(left, right);
        let back = self.shared.network.rows(right, left);
        let both = std::array::from_fn(|row| there[row] | back[row]);
        let rows = match event.fault {
            Fault::Partition => both,
            Fault::IsolatePrimary => [both, there, back][(choice >> 16) as usize % 3],
            _ => there,
        };
        let is_held = event.fault == Fault::Clog || choice >> 24 & 3 == 0;
        self.block(rows, if is_held { Blocked::Held } else { Blocked::Lost }, event.duration_ns);
        true
    }

    fn disconnect(&mut self, event: &FaultEvent, from: u8) -> bool {
        let to = ((event.choice >> 8) % self.servers.len() as u64) as u8;
        let connection = self.shared.network.connection(from, to);
        if connection == 0 {
            return false;
        }
        if event.choice >> 16 & 1 == 0 {
            self.shared.network.lose_in_flight(from, to);
        }
        self.shared.after(0, Event::Disconnected { from, to, connection });
        true
    }

    /// All that a client has sent arrives, or nothing of what is on its way, or the first part of it.
    fn reset_client(&mut self, event: &FaultEvent) -> bool {
        let client = ((event.choice >> 8) % self.all_clients()) as u8;
        let Some(connection) = self.shared.network.client_connection(client) else { return false };
        let arriving = match event.choice >> 16 & 3 {
            0 => Arriving::All,
            1 => Arriving::Nothing,
            _ => Arriving::Some,
        };
        self.shared.reset_client(client, connection, arriving);
        true
    }

    /// One client or all do not reach one server or all, or are not reached by them.
    fn cut_clients(&mut self, event: &FaultEvent, server: u8) -> bool {
        let choice = event.choice >> 8;
        let clients = if choice & 1 == 0 { u32::MAX } else { 1 << ((choice >> 1) % self.all_clients()) };
        let servers = if choice >> 8 & 1 == 0 { u8::MAX } else { 1 << server };
        let (there, back) = [(true, true), (true, false), (false, true)][(choice >> 9) as usize % 3];
        let block = self.shared.network.cut_clients(ClientCut { clients, servers, there, back });
        self.shared.after(event.duration_ns, Event::Unblock { block });
        true
    }

    fn all_clients(&self) -> u64 {
        (self.clients.len() + self.redis.len()) as u64
    }

    fn hamper(&mut self, event: &FaultEvent, server: u8) -> bool {
        let until_ns = self.shared.now_ns + event.duration_ns;
        let node = &mut self.servers[server as usize];
        match event.fault {
            Fault::DiskStall => node.disk.stalled_until_ns = until_ns,
            Fault::DiskSlow => node.disk.slow_until_ns = until_ns,
            // Without a disk, a restart is amnesia, and must be within what the others bear.
            _ if node.is_memory => return false,
            Fault::DiskFull => node.disk.full_until_ns = until_ns,
            _ => node.disk.fails_next_write = node.is_up(),
        }
        true
    }

    /// Flips a bit in a prepare of the journal that the server will be able to tell from a torn one: it is committed,
    /// and so is one that was placed only when this one was durable.
    fn rot(&mut self, event: &FaultEvent, server: u8) -> bool {
        let committed = self.shared.facts.committed_op();
        let in_flight_max = self.shared.plan.disk.in_flight_max;
        let node = &mut self.servers[server as usize];
        let Some((first, last)) = node.live_ops() else { return false };
        let last = last.min(committed).saturating_sub(in_flight_max);
        if last < first {
            return false;
        }
        let op = first + (event.choice >> 8) % (last - first + 1);
        let Some((offset, size)) = node.place_of(op) else { return false };
        let byte = (event.choice >> 24) % size as u64;
        node.disk.journal.rot(offset + byte, (event.choice >> 16) as u8);
        node.is_damaged = true;
        self.damage[server as usize] = Some(Damage { op, boot: node.boot, needs_proof: false });
        self.shared.line(|| format!("{server}: op={op} has rotted"));
        true
    }

    fn misdirect(&mut self, event: &FaultEvent, server: u8) -> bool {
        let in_flight_max = self.shared.plan.disk.in_flight_max;
        let node = &mut self.servers[server as usize];
        let Some((_, last)) = node.live_ops() else { return false };
        node.disk.misdirects_write_by = Some(event.choice >> 8);
        node.is_damaged = true;
        // The write that goes astray is one of the next ones, and what it hits is older.
        self.damage[server as usize] = Some(Damage { op: last + in_flight_max, boot: node.boot, needs_proof: true });
        true
    }

    /// A copy of the superblock of a server that is down rots; the others are whole.
    fn rot_superblock(&mut self, event: &FaultEvent, server: u8) -> bool {
        let node = &mut self.servers[server as usize];
        let is_complete = superblock::read(&node.disk.superblock).is_ok_and(|reading| reading.is_complete());
        if node.is_up() || !is_complete {
            return false;
        }
        let copy = (event.choice >> 8) % SUPERBLOCK_COPIES as u64;
        // The rest of the sector is not covered by the checksum, and not looked at.
        let byte = (event.choice >> 16) % 256;
        node.disk.superblock.rot(copy * SECTOR_SIZE as u64 + byte, (event.choice >> 32) as u8);
        true
    }

    fn rot_checkpoint(&mut self, event: &FaultEvent, server: u8) -> bool {
        let node = &mut self.servers[server as usize];
        let Some(&op) = node.disk.checkpoint_ops().last() else { return false };
        let Some(file) = node.disk.checkpoint(op) else { return false };
        let size = file.size().unwrap_or(SECTOR_SIZE as u64);
        file.rot((event.choice >> 8) % size, (event.choice >> 4) as u8);
        node.is_damaged = true;
        self.damage[server as usize] = Some(Damage { op: op + 1, boot: node.boot, needs_proof: false });
        true
    }

    fn wipe_for(&mut self, server: u8, duration_ns: u64) -> bool {
        self.crash(server);
        self.wipe(server);
        self.shared.after(duration_ns, Event::Start { server });
        true
    }

    /// The disk is lost, and the folder made anew with `recover`.
    pub fn wipe(&mut self, server: u8) {
        self.shared.line(|| format!("{server}: wiped"));
        // As `recover` has it: the time of day, which is above every incarnation before.
        let incarnation = 2 + self.shared.now_ns;
        self.shared.facts.is_wiped(server);
        self.servers[server as usize].recover(&self.shared.plan, incarnation);
        self.damage[server as usize] = None;
    }

    /// A disk that has misdirected a write and then lost power within the writes that follow: what it did cannot be
    /// told from torn writes, which is beyond what the format promises (see `docs/disk-format.md`). Such a disk is
    /// replaced.
    pub(super) fn wipe_if_beyond_repair(&mut self, server: u8) {
        let said = self.shared.facts.said_op(server).min(self.shared.facts.committed_op());
        let in_flight_max = self.shared.plan.disk.in_flight_max;
        let is_beyond = |damage: Damage| damage.needs_proof && said < damage.op + in_flight_max;
        if self.damage[server as usize].is_some_and(is_beyond) {
            self.wipe(server);
        }
    }

    fn hand_over(&mut self, choice: u64) -> bool {
        let Some(primary) = self.primary() else { return false };
        let servers = self.servers.len() as u64;
        let to = (choice >> 8 & 1 == 0).then(|| ((choice >> 16) % servers) as u8).filter(|to| *to != primary);
        let node = &mut self.servers[primary as usize];
        if !node.is_running() || servers == 1 {
            return false;
        }
        node.hand_over(&mut self.shared, to);
        true
    }
}
