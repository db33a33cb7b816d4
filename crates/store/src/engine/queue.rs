//! The line in front of the sequencer.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};
use setpoint_base::TraceContext;
use tokio::sync::oneshot;

use super::rests::Rests;
use crate::error::Error;
use crate::types::{Delete, DeleteResult, LeaseId, MetaTxn, Put, PutResult, Revision, Txn, TxnResult};

/// How often the sequencer looks at the line before it sleeps: waking a sleeping thread costs more than
/// 30 µs on a virtual machine, so a short wait is cheaper awake.
const SPINS: u32 = 2_000;

/// Where the answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What is proposed.
pub(crate) enum Command {
    Put(Put, Reply<PutResult>),
    Delete(Delete, Reply<DeleteResult>),
    Txn(Txn, Reply<TxnResult>),
    Compact(Revision, Reply<Revision>),
    Grant(LeaseId, i64, Reply<()>),
    Revoke(LeaseId, Reply<Revision>),
    /// Changes side tables; whether what was expected was there.
    Meta(MetaTxn, Reply<bool>),
    /// Leases that have ended; those that are gone already are passed over.
    Expire(Vec<i64>),
}

/// A command with the trace it belongs to.
pub(crate) struct Proposal {
    pub(crate) command: Command,
    pub(crate) trace: Option<TraceContext>,
    /// What must still be so when the proposal's turn comes.
    pub(crate) rests: Option<Rests>,
    /// What it counts for in the line.
    pub(crate) bytes: usize,
}

#[derive(Default)]
struct Line {
    waiting: VecDeque<Proposal>,
    bytes: usize,
    closed: bool,
}

/// A bounded line of proposals.
pub(crate) struct Queue {
    line: Mutex<Line>,
    arrived: Condvar,
    /// Hint for the spinning sequencer.
    len: AtomicUsize,
    sleeping: AtomicBool,
    proposals_max: usize,
    bytes_max: usize,
}

impl Queue {
    pub(crate) fn new(proposals_max: usize, bytes_max: usize) -> Self {
        Self {
            line: Mutex::default(),
            arrived: Condvar::new(),
            len: AtomicUsize::new(0),
            sleeping: AtomicBool::new(false),
            proposals_max,
            bytes_max,
        }
    }

    /// Adds a proposal at the end. A full line refuses it: the client knows best whether to wait.
    pub(crate) fn push(&self, proposal: Proposal) -> Result<(), Error> {
        let mut line = self.line.lock();
        if line.closed {
            return Err(Error::Stopped);
        }
        let full = line.waiting.len() >= self.proposals_max
            || (line.bytes + proposal.bytes > self.bytes_max && !line.waiting.is_empty());
        if full {
            return Err(Error::TooManyRequests);
        }
        line.bytes += proposal.bytes;
        line.waiting.push_back(proposal);
        self.len.store(line.waiting.len(), Ordering::Release);
        drop(line);
        if self.sleeping.load(Ordering::SeqCst) {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Takes everything that waits, up to `bytes_max`; sleeps while nothing does. Empty once the line is
    /// closed and empty.
    pub(crate) fn take(&self, bytes_max: usize) -> Vec<Proposal> {
        for _ in 0..SPINS {
            if self.len.load(Ordering::Acquire) > 0 {
                break;
            }
            std::hint::spin_loop();
        }
        let mut line = self.line.lock();
        while line.waiting.is_empty() && !line.closed {
            self.sleeping.store(true, Ordering::SeqCst);
            self.arrived.wait(&mut line);
            self.sleeping.store(false, Ordering::SeqCst);
        }
        self.drain(&mut line, bytes_max)
    }

    /// As [`Queue::take`], but does not wait.
    #[cfg(feature = "simulation")]
    pub(crate) fn try_take(&self, bytes_max: usize) -> Vec<Proposal> {
        self.drain(&mut self.line.lock(), bytes_max)
    }

    fn drain(&self, line: &mut Line, bytes_max: usize) -> Vec<Proposal> {
        let mut taken = Vec::with_capacity(line.waiting.len());
        let mut bytes = 0;
        while let Some(next) = line.waiting.front() {
            if !taken.is_empty() && bytes + next.bytes > bytes_max {
                break;
            }
            bytes += next.bytes;
            taken.extend(line.waiting.pop_front());
        }
        line.bytes -= bytes;
        self.len.store(line.waiting.len(), Ordering::Release);
        taken
    }

    /// Proposals that wait.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// Refuses what comes from now on; what waits is still taken.
    pub(crate) fn close(&self) {
        self.line.lock().closed = true;
        self.arrived.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposal(bytes: usize) -> Proposal {
        Proposal {
            command: Command::Expire(vec![]),
            trace: None,
            rests: None,
            bytes,
        }
    }

    #[test]
    fn a_full_line_refuses_and_a_closed_one_is_emptied_first() {
        let queue = Queue::new(3, 100);
        assert_eq!(queue.push(proposal(60)), Ok(()));
        assert_eq!(queue.push(proposal(60)), Err(Error::TooManyRequests));
        assert_eq!(queue.push(proposal(1)), Ok(()));
        assert_eq!(queue.push(proposal(1)), Ok(()));
        assert_eq!(queue.push(proposal(1)), Err(Error::TooManyRequests));
        queue.close();
        assert_eq!(queue.push(proposal(1)), Err(Error::Stopped));
        assert_eq!(queue.take(61).len(), 2);
        assert_eq!(queue.take(61).len(), 1);
        assert!(queue.take(61).is_empty());
    }

    #[test]
    fn one_proposal_larger_than_the_bound_still_gets_through() {
        let queue = Queue::new(3, 100);
        assert_eq!(queue.push(proposal(1000)), Ok(()));
        assert_eq!(queue.take(10).len(), 1);
    }
}
