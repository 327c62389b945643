//! Normal operation at the primary: batches, prepares, commits, answers, read rounds, and feeding the backups.

use bytes::Bytes;
use lockstep_proto::{
    limits::SERVERS_MAX,
    message::{Command, FLAG_CHECKPOINT, MessageHeader},
    mutant::{self, Mutant},
};
use zerocopy::little_endian::{U32, U64, U128};

use crate::{
    batch::{BatchPool, OpenBatch},
    config::{AckPolicy, Config, FanOut},
    io::{Output, Refusal},
    peers::Peer,
    read_ahead::Next,
    replica::Replica,
    status::Role,
    timers::Timer,
};

/// Bytes of a batch that make it worth a prepare, however few requests they are.
const GATHERED_BYTES: usize = 64 << 10;

impl<P: BatchPool> Replica<P> {
    /// Takes a request in: copies its frame into the open batch. Returns the op that the batch will have.
    ///
    /// This is the input of requests, apart from [`Replica::step`] because it is the hot path: it is called once per
    /// request, and the host hands over a frame that it has checked and that is for the log. The batch is closed by
    /// [`crate::Input::TurnEnd`], or here when it is full.
    ///
    /// # Errors
    ///
    /// If this server is not the primary, has no room for more, or is about to hand its view over.
    #[inline]
    pub fn offer(&mut self, now_ns: u64, frame: &[u8]) -> Result<u64, Refusal> {
        if self.role != Role::Primary {
            return Err(self.refusal().unwrap_or(Refusal::Recovering));
        }
        if self.handover.is_some() {
            return Err(Refusal::Busy);
        }
        if let Some(open) = &self.open
            && (open.count() >= self.config.batch_ops_max
                || open.len() + frame.len() > self.config.batch_bytes_max as usize)
        {
            if !self.has_pipeline_room() {
                return Err(Refusal::Busy);
            }
            // The time of day is as old as the last input; the batch is to be stamped with that of now.
            self.wall_ns += now_ns.saturating_sub(self.now_ns);
            self.now_ns = self.now_ns.max(now_ns);
            if mutant::is(Mutant::OfferedTwice)
                && let Some(open) = &mut self.open
            {
                open.push(&mut self.pool, frame);
            }
            self.close_batch();
        }
        let open = self.open.get_or_insert_with(|| OpenBatch::open(&mut self.pool, now_ns));
        open.push(&mut self.pool, frame);
        Ok(self.log.op() + 1)
    }

    /// The time of day at which confirmed reads are to be answered: now, unless a prepare was stamped earlier that is
    /// not applied yet. A key must not have expired for a read and be there for a write that follows it in the log.
    pub fn read_time_ns(&self, wall_ns: u64) -> u64 {
        self.log.header(self.applied + 1).map_or(wall_ns, |next| wall_ns.min(next.timestamp_ns.get()))
    }

    /// A ticket for a linearizable read that has arrived: it may be answered once
    /// [`crate::Output::ReadsConfirmed`] names this ticket or a later one.
    ///
    /// All reads of a turn get the same ticket; one round of messages confirms them all, and shows that no other
    /// primary can have been at work when they arrived.
    ///
    /// # Errors
    ///
    /// If this server is not the primary, or is about to hand its view over.
    pub fn read_ticket(&mut self) -> Result<u64, Refusal> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        if self.handover.is_some() {
            return Err(Refusal::Busy);
        }
        if mutant::is(Mutant::ReadJoinsRound) && self.round_confirmed < self.round {
            return Ok(self.round);
        }
        self.has_reads = true;
        Ok(self.round + 1)
    }

    fn has_pipeline_room(&self) -> bool {
        // What the other servers commit while our own disk stands still is kept in memory: that must end somewhere,
        // too.
        self.log.op() - self.applied < u64::from(self.config.pipeline_max)
            && self.log.op() - self.log.durable() < self.config.window_ops() as u64
    }

    pub(crate) fn end_primary_turn(&mut self) {
        // A round that is not confirmed yet collects the reads that come meanwhile for the next one, so that at most
        // one round of heartbeats is on its way.
        let starts_round = self.has_reads && self.round_confirmed == self.round;
        if starts_round {
            self.has_reads = false;
            self.round += 1;
        }
        let op_before = self.log.op();
        self.close_batch_if_due();
        if starts_round {
            let rides_on_prepare = self.log.op() > op_before && self.config.fanout == FanOut::Parallel;
            self.ask_round(!rides_on_prepare);
        }
        self.pump_all();
        self.advance_handover();
    }

    /// Asks the backups to confirm the present read round.
    fn ask_round(&mut self, with_heartbeats: bool) {
        self.confirm_rounds();
        if self.round_confirmed == self.round {
            return;
        }
        if with_heartbeats {
            self.send_heartbeats();
        }
        self.timers.set(Timer::Resend, self.now_ns + self.config.resend_ns);
    }

    fn confirm_rounds(&mut self) {
        // What was committed before this view began must be in the state that reads see.
        if self.applied < self.view_start_op && !mutant::is(Mutant::ReadsBeforeViewStart) {
            return;
        }
        if self.round_confirmed == self.round {
            return;
        }
        // The round that a commit quorum, this server included, has confirmed: any view change needs one of them, and
        // none of them had heard of a later view when it confirmed.
        let rounds = self.ranked(self.round, |peer| peer.round);
        let is_alone_enough = mutant::is(Mutant::ReadsWithoutRound);
        let confirmed = if is_alone_enough { self.round } else { rounds[self.quorums.commit as usize - 1] };
        if confirmed > self.round_confirmed {
            self.round_confirmed = confirmed;
            self.outputs.push_back(Output::ReadsConfirmed { ticket: confirmed });
        }
    }

    /// This server's own number and that of each other one, the highest first; zeroes behind.
    fn ranked(&self, own: u64, of: impl Fn(&Peer) -> u64) -> [u64; SERVERS_MAX as usize] {
        let mut numbers = [0; SERVERS_MAX as usize];
        numbers[0] = own;
        for (number, (_, peer)) in numbers[1..].iter_mut().zip(self.others()) {
            *number = of(peer);
        }
        numbers.sort_unstable_by(|left, right| right.cmp(left));
        numbers
    }

    /// Requests that are in prepares which are not applied yet.
    fn requests_in_flight(&self) -> u64 {
        let next_revision = self.log.position().revision;
        self.log.header(self.applied + 1).map_or(0, |first| next_revision - first.revision.get())
    }

    /// Whether a batch is large enough to go while others are on their way: a prepare costs every server the same
    /// whatever is in it. A batch cannot be committed before those, and each of them that is makes this one more likely
    /// to go.
    fn has_gathered(&self, open: &OpenBatch<P::Buffer>) -> bool {
        let most = self.config.batch_gather_ops.min(self.config.batch_ops_max);
        let enough = self.requests_in_flight().min(u64::from(most));
        u64::from(open.count()) >= enough || open.len() >= GATHERED_BYTES
    }

    pub(crate) fn close_batch_if_due(&mut self) {
        let Some(open) = &self.open else { return };
        if !self.has_pipeline_room() {
            return;
        }
        // Where a commit takes long, over slow links or with sequential fan-out, what others cost in CPU does not
        // matter so much: gathering has a bound in time.
        let Config { batch_linger_ns, batch_gather_ns, .. } = self.config;
        let wait_ns = if self.has_gathered(open) { batch_linger_ns } else { batch_linger_ns.max(batch_gather_ns) };
        let due_ns = open.opened_ns + wait_ns;
        if due_ns > self.now_ns && open.count() < self.config.batch_ops_max {
            self.timers.set(Timer::Linger, due_ns);
            return;
        }
        self.close_batch();
    }

    /// Makes the open batch the next prepare of the log.
    fn close_batch(&mut self) {
        let Some(open) = self.open.take() else { return };
        assert!(self.has_pipeline_room() && open.count() > 0);
        self.timers.stop(Timer::Linger);
        let position = self.log.position();
        let mut header = self.header(Command::Prepare);
        header.parent = U128::new(position.checksum);
        header.op = U64::new(self.log.op() + 1);
        header.timestamp_ns = U64::new(self.wall_ns.max(position.timestamp_ns));
        header.revision = U64::new(position.revision);
        header.request_count = U32::new(open.count());
        header.in_sync = self.in_sync_mask();
        header.round = U64::new(self.round);
        header.log_view = U64::ZERO;
        header.checkpoint = U64::ZERO;
        header.incarnations = Default::default();
        header.flags = if std::mem::take(&mut self.is_checkpoint_due) { FLAG_CHECKPOINT } else { 0 };
        let (header, message) = open.close(&mut self.pool, header);
        self.log.push(header, message.clone(), false);
        self.verified = self.log.op();
        // The backups' round trip and write take longer than this server's own write, so they are sent to first.
        self.pump_all();
        self.outputs.push_back(Output::WriteJournal { op: header.op.get(), message });
    }

    /// Sends every backup what it may have next.
    pub(crate) fn pump_all(&mut self) {
        let mut limit = self.log.op();
        let me = self.config.replica;
        let servers = self.config.servers;
        for step in 1..servers {
            let replica = (me + step) % servers;
            let peer = &self.peers[replica as usize];
            let is_chained =
                self.config.fanout == FanOut::Sequential && (peer.is_in_sync || self.config.ack == AckPolicy::Strict);
            if is_chained {
                let acked = peer.acked;
                self.pump(replica, limit);
                limit = limit.min(acked);
            } else {
                self.pump(replica, self.log.op());
            }
        }
    }

    /// Sends one backup prepares up to `limit`, as far as its window allows.
    fn pump(&mut self, replica: u8, limit: u64) {
        let window_ops = self.config.window_ops();
        let mut needs_proof = false;
        loop {
            let peer = &mut self.peers[replica as usize];
            let op = peer.next;
            if !peer.is_connected || !peer.has_joined || op > limit || !peer.has_window(window_ops) {
                break;
            }
            let message = match peer.reads.take(op) {
                Next::Unasked => self.log.message(op).cloned(),
                Next::Asked => None,
                Next::Done(message) => Some(message),
                Next::Gone => {
                    peer.reads.clear();
                    self.is_out_of_reach(replica, op);
                    break;
                }
            };
            let Some(message) = message else {
                self.read_ahead(replica, limit);
                break;
            };
            needs_proof = self.send_prepare(replica, op, message);
        }
        if needs_proof {
            // A prepare of an earlier view proves nothing about this view's log; this heartbeat does.
            self.send_heartbeat(replica);
        }
    }

    /// Has the next prepares for a backup read from the journal, up to `limit` or to those that are in memory.
    fn read_ahead(&mut self, replica: u8, limit: u64) {
        let next = self.peers[replica as usize].next;
        while let Some(op) = self.peers[replica as usize].reads.op_to_ask(next)
            && op <= limit
            && self.log.message(op).is_none()
        {
            if op < self.journal_first_op {
                // If others before it are being read, the answers tell.
                if op == next {
                    self.is_out_of_reach(replica, op);
                }
                break;
            }
            self.peers[replica as usize].reads.ask(op);
            self.outputs.push_back(Output::ReadJournal { peer: replica, op });
        }
    }

    /// Returns whether the prepare is of an earlier view.
    fn send_prepare(&mut self, replica: u8, op: u64, message: Bytes) -> bool {
        let header = MessageHeader::view(&message).expect("a prepare has a header");
        let is_old = header.view.get() != self.view;
        self.peers[replica as usize].sent(op, header.checksum.get(), header.size.get() as usize);
        self.outputs.push_back(Output::Send { to: replica, message });
        is_old
    }

    fn is_out_of_reach(&mut self, replica: u8, op: u64) {
        let peer = &mut self.peers[replica as usize];
        peer.is_behind = true;
        // A checkpoint that was of use to it may not have brought it to where the journal begins.
        if op <= peer.behind_op {
            return;
        }
        peer.behind_op = op;
        self.outputs.push_back(Output::BackupBehind { peer: replica, op });
        self.send_behind(replica, op);
    }

    pub(crate) fn send_behind(&mut self, replica: u8, op: u64) {
        let mut header = self.header(Command::Behind);
        header.op = U64::new(op);
        header.commit = U64::new(self.journal_first_op);
        self.send(replica, header);
    }

    pub(crate) fn on_journal_read(&mut self, replica: u8, op: u64, message: Option<Bytes>) {
        let was_repair = self.peers[replica as usize].repairing.take_if(|repairing| *repairing == op).is_some();
        if was_repair || self.role != Role::Primary {
            match message {
                Some(message) => self.outputs.push_back(Output::Send { to: replica, message }),
                None if !was_repair && self.may_speak() => self.send_behind(replica, op),
                None => {}
            }
            return;
        }
        if self.peers[replica as usize].reads.answer(op, message) {
            self.pump_all();
        }
    }

    /// A backup misses the log from an op on.
    pub(crate) fn on_request_prepare(&mut self, header: &MessageHeader) {
        let op = header.op.get();
        if header.nonce.get() != 0 {
            return self.serve_repair(header.replica, op);
        }
        if header.view.get() != self.view {
            return;
        }
        if self.role != Role::Primary {
            return self.serve_view_change(header.replica, op);
        }
        let peer = &mut self.peers[header.replica as usize];
        if peer.has_joined && op > 0 && op <= peer.next {
            // A server that has lost a part of its log needs again what it had.
            peer.received = peer.received.min(op - 1);
            peer.rewind(op - 1);
            self.pump_all();
        }
    }

    /// A backup is alive, and has this much.
    pub(crate) fn on_ok(&mut self, header: &MessageHeader) {
        let view = header.view.get();
        if view > self.view {
            return self.enter_view(view);
        }
        if self.role != Role::Primary {
            return;
        }
        if view < self.view {
            return self.send_start_view(header.replica, 0);
        }
        let op = header.op.get();
        // What it has must be what we have; an op that we know no header of any more was committed long ago.
        let is_ours = op <= self.log.op() && self.log.checksum(op).is_none_or(|ours| ours == header.parent.get());
        let is_member = header.log_view.get() == self.view || mutant::is(Mutant::VoteOfOldLogView);
        let peer = &mut self.peers[header.replica as usize];
        peer.last_heard_ns = self.now_ns;
        peer.round = peer.round.max(header.round.get().min(self.round));
        if is_ours {
            if !peer.has_joined {
                peer.has_joined = true;
                peer.rewind(op);
            }
            peer.says_it_has(op);
            if is_member && op > peer.acked {
                peer.acked = op;
                peer.last_progress_ns = self.now_ns;
            }
            if op + 1 >= self.journal_first_op {
                (peer.is_behind, peer.behind_op) = (false, 0);
            }
        }
        if header.nonce.get() != 0 {
            // It has lost a part of what it had acknowledged in this view. Whatever that has helped to commit stays
            // committed, but it is no copy that an answer could count, nor does a member of the in-sync set hold it. It
            // needs it again, behind the answer to its question.
            let peer = &mut self.peers[header.replica as usize];
            peer.acked = peer.acked.min(op);
            if is_ours {
                peer.received = op;
                peer.rewind(op);
            }
            self.send_start_view(header.replica, header.nonce.get());
        }
        let from = header.replica as usize;
        if is_member && header.incarnations[from].get() > self.incarnations[from] {
            // Heard of for the first time: what it says of itself must not be less some day.
            self.learn_incarnations(header);
            self.persist_record();
        }
        if header.checkpoint.get() != self.peers[header.replica as usize].checkpoint.op {
            self.on_backup_checkpoint(header);
        }
        self.confirm_rounds();
        self.advance_commit();
        self.pump_all();
    }

    /// Commits what is durable on enough servers, and gives out what may be answered.
    pub(crate) fn advance_commit(&mut self) {
        if self.role != Role::Primary {
            return;
        }
        let acked = self.ranked(self.log.durable(), |peer| peer.acked);
        let mut votes = self.quorums.commit;
        if mutant::is(Mutant::CommitQuorumTooSmall) && votes > 1 {
            votes -= 1;
        }
        let quorum = acked[votes as usize - 1];
        assert!(quorum <= self.log.op(), "nothing is acknowledged that was not sent");
        self.commit = self.commit.max(quorum);
        self.update_in_sync();
        let release = self.release_op();
        while self.applied < release {
            let copies = acked.iter().filter(|&&op| op > self.applied).count() as u8;
            // Under `all` and `majority` alike an answer means that a commit quorum holds the op durably. What an
            // earlier view committed may be held by servers that are not heard of yet.
            assert!(copies >= votes || self.applied < self.view_start_op);
            self.apply_to(self.applied + 1, copies);
        }
        self.confirm_rounds();
    }

    /// The highest op that the ack policy lets be answered.
    fn release_op(&self) -> u64 {
        let everyone = |is_needed: &dyn Fn(bool) -> bool| {
            self.others()
                .filter(|(_, peer)| is_needed(peer.is_in_sync))
                .map(|(_, peer)| peer.acked)
                .fold(self.commit.min(self.log.durable()), u64::min)
        };
        match self.config.ack {
            AckPolicy::Majority => self.commit,
            AckPolicy::All if mutant::is(Mutant::AllAsMajority) => self.commit,
            AckPolicy::All => everyone(&|is_in_sync| is_in_sync),
            AckPolicy::Strict if mutant::is(Mutant::StrictAsAll) => everyone(&|is_in_sync| is_in_sync),
            AckPolicy::Strict => everyone(&|_| true),
        }
    }

    pub(crate) fn in_sync_mask(&self) -> u8 {
        self.others()
            .filter(|(_, peer)| peer.is_in_sync)
            .fold(1 << self.config.replica, |mask, (replica, _)| mask | (1 << replica))
    }

    /// Drops backups that have fallen silent from the in-sync set, and takes those back that have caught up: to what
    /// was committed when the last heartbeat was due. One that is always a little later than the others would never
    /// hold all that is committed while writes go on.
    pub(crate) fn update_in_sync(&mut self) {
        let (now_ns, silence_ns) = (self.now_ns, self.config.backup_silence_ns);
        let (op, target_op) = (self.log.op(), self.heartbeat_commit);
        let mut count = self.in_sync_mask().count_ones();
        for replica in self.other_ids() {
            let peer = &mut self.peers[replica as usize];
            if peer.acked >= op {
                peer.last_progress_ns = now_ns;
            }
            let is_silent = now_ns.saturating_sub(peer.last_heard_ns.min(peer.last_progress_ns)) > silence_ns;
            let is_spare = count > u32::from(self.quorums.commit) || mutant::is(Mutant::InSyncBelowQuorum);
            let has_caught_up = peer.acked >= target_op || mutant::is(Mutant::TakenBackTooEarly);
            if peer.is_in_sync && is_silent && is_spare {
                peer.is_in_sync = false;
                count -= 1;
            } else if !peer.is_in_sync && !is_silent && has_caught_up {
                peer.is_in_sync = true;
                count += 1;
            }
        }
        let mask = self.in_sync_mask();
        if mask != self.in_sync_told {
            self.in_sync_told = mask;
            self.outputs.push_back(Output::InSyncChanged { mask });
        }
    }

    /// `due_ns` is when the timer should have fired.
    pub(crate) fn on_heartbeat_timer(&mut self, due_ns: u64) {
        if self.now_ns - due_ns > self.config.view_timeout_ns / 2 {
            // This process did not run for a while; what has been sent to it meanwhile is still to be read.
            self.watch_itself();
        }
        if self.should_abdicate() {
            return self.abdicate();
        }
        self.check_handover();
        self.heartbeat_commit = self.commit;
        self.send_heartbeats();
        for replica in self.other_ids() {
            let peer = &self.peers[replica as usize];
            let (is_connected, has_joined, is_behind, next) =
                (peer.is_connected, peer.has_joined, peer.is_behind, peer.next);
            if is_connected && !has_joined {
                self.send_start_view(replica, 0);
            } else if is_connected && is_behind {
                self.send_behind(replica, next);
            }
        }
        self.advance_commit();
        self.pump_all();
        self.timers.set(Timer::Heartbeat, self.now_ns + self.config.heartbeat_interval_ns);
    }

    pub(crate) fn send_heartbeats(&mut self) {
        for replica in self.other_ids() {
            self.send_heartbeat(replica);
        }
    }

    /// Says that we are alive, what is committed, and which op the backup should have by now.
    pub(crate) fn send_heartbeat(&mut self, replica: u8) {
        if !self.peers[replica as usize].is_connected {
            return;
        }
        let mut header = self.header(Command::Heartbeat);
        if let Some((op, checksum)) = self.peers[replica as usize].last_sent {
            header.op = U64::new(op);
            header.parent = U128::new(checksum);
        }
        header.round = U64::new(self.round);
        header.in_sync = self.in_sync_mask();
        header.state_hash = U128::new(self.checkpoint().state_hash);
        self.send(replica, header);
    }

    /// Says again what may have been lost: the present read round.
    pub(crate) fn resend_round(&mut self) {
        if self.round_confirmed < self.round {
            self.send_heartbeats();
            self.timers.set(Timer::Resend, self.now_ns + self.config.resend_ns);
        }
    }
}
