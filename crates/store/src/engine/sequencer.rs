//! The one thread that writes.
//!
//! It takes everything that waits, evaluates each proposal in order against the index and the writes of
//! the commit so far, encodes them into one buffer, writes and syncs it, and only then publishes and
//! acknowledges. So nobody ever sees what is not durable, and one sync serves all that waited.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use setpoint_base::TraceContext;

use super::publish::{self, Change, Commit};
use super::queue::{Command, Proposal};
use super::shared::Shared;
use crate::core::check;
use crate::core::eval::{Eval, PROPOSAL_READ_BYTES_MAX, Write};
use crate::core::lease::{TTL_MAX, TTL_MIN};
use crate::core::meta::Pending;
use crate::core::overlay::{Overlay, PENDING};
use crate::core::record::{BODY_MAX, Encoder, Kind};
use crate::error::Error;
use crate::log::writer::{AppendError, Mark, Writer};
use crate::point::{self, Point};
use crate::types::{LeaseId, MetaTxn, Revision};

/// The sequencer wakes often and works shortly: it need not wait for the turns of threads that compute.
const TURN: Duration = Duration::from_micros(200);
/// Bytes of proposals that go into one commit.
const COMMIT_BYTES: usize = 4 << 20;

/// A larger buffer is not kept for the next commit.
const BUFFER_BYTES_MAX: usize = 2 << 20;

/// Bytes a proposal may take in the log beside its keys and values.
const PROPOSAL_COST: usize = 128;

/// Sends an answer once the commit is durable, or the error if it is not.
type Ack = Box<dyn FnOnce(Option<Error>) + Send>;

/// A commit that is being put together.
#[derive(Default)]
struct Draft {
    overlay: Overlay,
    tables: Pending,
    records: Encoder,
    commits: Vec<Commit>,
    acks: Vec<Ack>,
    floor: i64,
    revision: i64,
    /// Bytes that are reachable, or will be, for the quota.
    live: u64,
}

/// The sequencer's own state.
pub(crate) struct Sequencer {
    shared: Arc<Shared>,
    writer: Writer,
    /// The buffer of the last commit: one of some size costs more than what is written into it.
    buffer: Vec<u8>,
}

/// However the sequencer ends, nobody is left waiting for it.
struct Guard(Arc<Shared>);

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poison("the sequencer panicked".to_owned());
        }
        self.0.queue.close();
        // Dropping a proposal drops its reply, which its caller sees at once.
        while !self.0.queue.take(COMMIT_BYTES).is_empty() {}
    }
}

impl Sequencer {
    pub(crate) fn new(shared: Arc<Shared>, writer: Writer) -> Self {
        Self {
            shared,
            writer,
            buffer: Vec::new(),
        }
    }

    /// Runs until the line is closed and empty.
    pub(crate) fn run(mut self) {
        setpoint_base::prefer_turns_of(TURN);
        let _guard = Guard(Arc::clone(&self.shared));
        loop {
            let proposals = self.shared.queue.take(COMMIT_BYTES);
            if proposals.is_empty() {
                return;
            }
            self.commit(proposals);
        }
    }

    /// Commits what waits; whether there was something.
    #[cfg(feature = "simulation")]
    pub(crate) fn step(&mut self) -> bool {
        let proposals = self.shared.queue.try_take(COMMIT_BYTES);
        let any = !proposals.is_empty();
        if any {
            self.commit(proposals);
        }
        any
    }

    fn commit(&mut self, proposals: Vec<Proposal>) {
        let shared = Arc::clone(&self.shared);
        self.look_for_room(&proposals);
        let mut draft = Draft {
            floor: shared.floor(),
            revision: shared.committed(),
            live: shared.files.live_bytes(),
            records: Encoder::over(std::mem::take(&mut self.buffer)),
            ..Draft::default()
        };
        for proposal in proposals {
            draft.add(&shared, proposal);
        }
        if draft.records.is_empty() {
            draft.acks.into_iter().for_each(|ack| ack(None));
            return;
        }
        let mark = self.mark();
        point::hit(Point::Drafted);
        match self.writer.append(std::mem::take(&mut draft.records), mark) {
            Ok(appended) => {
                shared.metrics.fsync_seconds.observe(appended.sync.as_secs_f64());
                point::hit(Point::Synced);
                publish::publish(&shared, draft.commits, &appended);
                point::hit(Point::Published);
                draft.acks.into_iter().for_each(|ack| ack(None));
                point::hit(Point::Acknowledged);
                self.keep(appended.bytes);
            }
            Err(AppendError::Full) => {
                shared.no_space.store(true, Ordering::Release);
                draft.acks.into_iter().for_each(|ack| ack(Some(Error::NoSpace)));
            }
            Err(AppendError::Failed(why)) => {
                shared.poison(why.clone());
                draft
                    .acks
                    .into_iter()
                    .for_each(|ack| ack(Some(Error::Poisoned(why.clone()))));
            }
        }
    }
}

impl Sequencer {
    fn keep(&mut self, buffer: Vec<u8>) {
        if buffer.capacity() <= BUFFER_BYTES_MAX {
            self.buffer = buffer;
        }
    }

    fn mark(&self) -> Mark {
        let index = self.shared.tip.lock().log_index;
        Mark {
            revision: self.shared.committed(),
            index,
            floor: self.shared.floor(),
        }
    }

    /// Finds out before anything is evaluated whether the disk is full, so that what grows is refused and the
    /// rest of the commit goes on.
    fn look_for_room(&mut self, proposals: &[Proposal]) {
        let len: usize = proposals
            .iter()
            .map(|proposal| proposal.bytes + PROPOSAL_COST)
            .sum();
        if self.shared.no_space.load(Ordering::Acquire) || self.shared.poisoned().is_some() {
            return;
        }
        match self.writer.can_grow(len as u64, self.mark()) {
            Ok(true) => (),
            Ok(false) => {
                if !self.shared.no_space.swap(true, Ordering::AcqRel) {
                    tracing::error!("the disk is full: only reads, deletes and compaction are accepted");
                }
            }
            Err(AppendError::Failed(why)) => self.shared.poison(why),
            Err(AppendError::Full) => (),
        }
    }
}

impl Draft {
    fn add(&mut self, shared: &Shared, proposal: Proposal) {
        let trace = proposal.trace;
        if let Some(error) = shared.poisoned() {
            refuse(proposal.command, error);
            return;
        }
        let so_far = (&self.tables, &self.overlay);
        if let Some(rests) = &proposal.rests
            && !rests.hold(shared, so_far, self.revision, &proposal.command)
        {
            refuse(proposal.command, Error::FactChanged);
            return;
        }
        match proposal.command {
            Command::Put(put, reply) => {
                shared.metrics.puts.inc();
                let room = self.make_room(shared, check::put_cost(&put));
                let result = room.and_then(|()| self.evaluate(shared, trace, |eval| eval.put(&put)));
                self.answer(reply, result);
            }
            Command::Delete(delete, reply) => {
                shared.metrics.deletes.inc();
                let result = self.evaluate(shared, trace, |eval| eval.delete(&delete));
                self.answer(reply, result);
            }
            Command::Txn(txn, reply) => {
                shared.metrics.txns.inc();
                let room = self.make_room(shared, check::txn_cost(&txn));
                let result = room.and_then(|()| self.evaluate(shared, trace, |eval| eval.txn(&txn)));
                self.answer(reply, result);
            }
            Command::Compact(at, reply) => {
                let result = self.compact(at);
                self.answer(reply, result);
            }
            Command::Grant(id, ttl, reply) => {
                let result = self.grant(shared, id, ttl);
                self.answer(reply, result);
            }
            Command::Revoke(id, reply) => {
                let result = if self.revoke(shared, id.0, trace) {
                    Ok(Revision(self.revision))
                } else {
                    Err(Error::LeaseNotFound(id))
                };
                self.answer(reply, result);
            }
            Command::Meta(txn, reply) => {
                let result = self.meta(shared, txn, trace);
                self.answer(reply, result);
            }
            Command::Expire(ids) => {
                for id in ids {
                    // One that was granted anew since it ended lives.
                    let ended = self.overlay.lease(id).is_none() && shared.leases.lock().has_ended(id);
                    if ended && self.revoke(shared, id, None) {
                        shared.metrics.leases_expired.inc();
                    }
                }
            }
        }
    }

    /// Refuses what would make a full store grow. Deletions cost nothing, so they always pass.
    fn make_room(&mut self, shared: &Shared, cost: u64) -> Result<(), Error> {
        if cost == 0 {
            return Ok(());
        }
        if shared.is_full() {
            return Err(Error::NoSpace);
        }
        if shared.room.has_quota() {
            shared.room.take(self.live, cost)?;
            self.live += cost;
        }
        Ok(())
    }

    /// Keeps an answer until the commit is durable. Even a refusal waits: it may rest on writes before it.
    fn answer<T: Send + 'static>(
        &mut self,
        reply: tokio::sync::oneshot::Sender<Result<T, Error>>,
        result: Result<T, Error>,
    ) {
        self.acks.push(Box::new(move |failure| {
            // Nobody to answer: the caller has gone away.
            let _ = reply.send(failure.map_or(result, Err));
        }));
    }

    fn evaluate<T>(
        &mut self,
        shared: &Shared,
        trace: Option<TraceContext>,
        run: impl FnOnce(&mut Eval<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let index = shared.index.read();
        let leases = shared.leases.lock();
        let mut eval = Eval {
            index: &index,
            values: &shared.values(),
            leases: Some(&leases),
            overlay: &mut self.overlay,
            current: self.revision,
            floor: self.floor,
            full: shared.is_full(),
            writes: Vec::new(),
            left: Cell::new(PROPOSAL_READ_BYTES_MAX),
        };
        let result = run(&mut eval)?;
        if self.records.len() + eval.bytes() > BODY_MAX {
            eval.undo();
            return Err(Error::RequestTooLarge);
        }
        let writes = std::mem::take(&mut eval.writes);
        drop((leases, index));
        if !writes.is_empty() {
            self.record(Change::None, Kind::Revision, writes, trace);
        }
        Ok(result)
    }

    /// Encodes a record; writes make it the next revision.
    fn record(&mut self, change: Change, kind: Kind, mut writes: Vec<Write>, trace: Option<TraceContext>) {
        if !writes.is_empty() {
            self.revision += 1;
        }
        let start = self.records.len() as u32;
        self.records.begin(kind, self.revision, trace.as_ref());
        for write in &mut writes {
            let version = &mut write.version;
            if version.is_tombstone() {
                self.records.delete(version.sub, &write.key);
                continue;
            }
            let (lease, create, number) = (version.lease, version.create, version.version);
            let at = self
                .records
                .put(version.sub, &write.key, &write.value, lease, create, number);
            version.at.offset = at as u32;
            self.overlay.place(&write.key, at as u32);
        }
        self.records.end();
        debug_assert!(writes.iter().all(|write| write.version.at.file == PENDING));
        self.commits.push(Commit {
            revision: self.revision,
            start,
            change,
            writes,
            meta: Vec::new(),
        });
    }

    /// Changes side tables, even on a full disk: what they say matters most then, and they are bounded.
    fn meta(&mut self, shared: &Shared, txn: MetaTxn, trace: Option<TraceContext>) -> Result<bool, Error> {
        let tables = shared.tables.read();
        if !self.tables.holds(&tables, &txn.expect) {
            return Ok(false);
        }
        if !self.tables.add(&tables, &txn.writes) {
            return Err(Error::NoSpace);
        }
        drop(tables);
        if !txn.writes.is_empty() {
            let start = self.records.len() as u32;
            self.records.begin(Kind::Meta, self.revision, trace.as_ref());
            txn.writes
                .iter()
                .for_each(|write| self.records.meta(&write.entry()));
            self.records.end();
            self.commits.push(Commit {
                revision: self.revision,
                start,
                change: Change::None,
                writes: Vec::new(),
                meta: txn.writes,
            });
        }
        Ok(true)
    }

    fn compact(&mut self, at: Revision) -> Result<Revision, Error> {
        if at.0 <= self.floor {
            return Err(Error::Compacted {
                asked: at,
                floor: Revision(self.floor),
            });
        }
        if at.0 > self.revision {
            return Err(Error::FutureRevision {
                asked: at,
                current: Revision(self.revision),
            });
        }
        self.floor = at.0;
        self.record(
            Change::Compact(at.0),
            Kind::Compact { floor: at.0 },
            Vec::new(),
            None,
        );
        Ok(Revision(self.revision))
    }

    fn grant(&mut self, shared: &Shared, id: LeaseId, ttl: i64) -> Result<(), Error> {
        if ttl > TTL_MAX {
            return Err(Error::LeaseTtlTooLarge);
        }
        self.make_room(shared, check::LEASE_COST)?;
        let exists = self
            .overlay
            .lease(id.0)
            .unwrap_or_else(|| shared.leases.lock().contains(id.0));
        if exists {
            return Err(Error::LeaseExists(id));
        }
        self.overlay.set_lease(id.0, true);
        let (id, ttl) = (id.0, ttl.max(TTL_MIN));
        self.record(
            Change::Grant { id, ttl },
            Kind::Grant { id, ttl },
            Vec::new(),
            None,
        );
        Ok(())
    }

    fn revoke(&mut self, shared: &Shared, id: i64, trace: Option<TraceContext>) -> bool {
        let index = shared.index.read();
        let leases = shared.leases.lock();
        let mut eval = Eval {
            index: &index,
            values: &shared.values(),
            leases: Some(&leases),
            overlay: &mut self.overlay,
            current: self.revision,
            floor: self.floor,
            full: false,
            writes: Vec::new(),
            left: Cell::new(PROPOSAL_READ_BYTES_MAX),
        };
        if !eval.lease_exists(id) {
            return false;
        }
        eval.revoke(id);
        let writes = std::mem::take(&mut eval.writes);
        drop((leases, index));
        self.overlay.set_lease(id, false);
        self.record(Change::Revoke(id), Kind::Revoke { id }, writes, trace);
        true
    }
}

fn refuse(command: Command, error: Error) {
    match command {
        Command::Put(_, reply) => drop(reply.send(Err(error))),
        Command::Delete(_, reply) => drop(reply.send(Err(error))),
        Command::Txn(_, reply) => drop(reply.send(Err(error))),
        Command::Compact(_, reply) => drop(reply.send(Err(error))),
        Command::Grant(_, _, reply) => drop(reply.send(Err(error))),
        Command::Revoke(_, reply) => drop(reply.send(Err(error))),
        Command::Meta(_, reply) => drop(reply.send(Err(error))),
        Command::Expire(_) => (),
    }
}
