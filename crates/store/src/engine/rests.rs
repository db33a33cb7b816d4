//! What a proposal rests on, looked at again when its turn comes.
//!
//! A request is checked before it waits in line. Meanwhile users, roles and the keys of a lease can change, and a right
//! that was taken away must not be used: so what the check rested on goes along, and the sequencer refuses the proposal
//! when it is not so any more, with the batch so far counted in.

use std::sync::Arc;

use super::queue::Command;
use super::shared::Shared;
use crate::core::check::lease_named;
use crate::core::eval::keys_of_lease;
use crate::core::meta::{MetaWrite, Pending};
use crate::core::overlay::{Overlay, View};
use crate::types::{Op, Txn};

/// Whether a caller may write a key.
pub(crate) type MayWrite = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// What must be so.
#[derive(Clone)]
pub(crate) enum Rests {
    /// Nobody has been asked who calls, as long as a side table does not say this. Once it does, only the end of a
    /// lease without keys still goes, as in etcd.
    Unless(&'static MetaWrite),
    /// What the check found.
    On(Arc<Found>),
}

/// What a check found.
pub(crate) struct Found {
    /// What a side table says.
    pub(crate) fact: MetaWrite,
    /// What every key of each lease that is used must pass: a lease takes its keys with it when it ends. `None` for
    /// callers who may use any.
    pub(crate) may_write: Option<MayWrite>,
}

impl Rests {
    /// Whether it is so now, `tables` and `overlay` being what the batch adds and `revision` its newest.
    pub(super) fn hold(
        &self,
        shared: &Shared,
        (tables, overlay): (&Pending, &Overlay),
        revision: i64,
        command: &Command,
    ) -> bool {
        let says = |fact| tables.holds(&shared.tables.read(), std::slice::from_ref(fact));
        let (fact, may_write) = match self {
            Self::Unless(fact) => {
                return !says(fact)
                    || matches!(command, Command::Revoke(lease, _)
                        if all_pass(shared, overlay, revision, &[lease.0], &|_| false));
            }
            Self::On(found) => (&found.fact, &found.may_write),
        };
        says(fact)
            && may_write.as_ref().is_none_or(|may_write| {
                let mut used = Vec::new();
                leases_of(command, &mut used);
                used.is_empty() || all_pass(shared, overlay, revision, &used, &**may_write)
            })
    }
}

fn all_pass(
    shared: &Shared,
    overlay: &Overlay,
    revision: i64,
    used: &[i64],
    may_write: &dyn Fn(&[u8]) -> bool,
) -> bool {
    let index = shared.index.read();
    let leases = shared.leases.lock();
    let view = View {
        index: &index,
        overlay,
    };
    let mut keys = used
        .iter()
        .flat_map(|lease| keys_of_lease(view, &leases, revision, *lease));
    keys.all(|found| may_write(&found.key))
}

/// The leases that a command attaches keys to, or ends.
fn leases_of(command: &Command, used: &mut Vec<i64>) {
    match command {
        Command::Put(put, _) => used.extend(lease_named(put)),
        Command::Txn(txn, _) => leases_of_txn(txn, used),
        Command::Revoke(id, _) => used.push(id.0),
        Command::Delete(..)
        | Command::Compact(..)
        | Command::Grant(..)
        | Command::Meta(..)
        | Command::Expire(_) => (),
    }
}

/// Both branches count, as when it was checked.
fn leases_of_txn(txn: &Txn, used: &mut Vec<i64>) {
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Op::Put(put) => used.extend(lease_named(put)),
            Op::Txn(txn) => leases_of_txn(txn, used),
            Op::Range(_) | Op::Delete(_) => (),
        }
    }
}

#[cfg(all(test, feature = "simulation"))]
mod tests {
    use std::task::{Context, Waker};

    use setpoint_testkit::SimDisk;

    use super::*;
    use crate::simulation::{Simulated, Worker};
    use crate::types::{LeaseId, MetaWrite, Put, PutLease, Table};
    use crate::{Error, Options, Store};

    fn poll<T>(running: &mut std::pin::Pin<Box<impl Future<Output = T> + ?Sized>>) -> Option<T> {
        match running.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            std::task::Poll::Ready(done) => Some(done),
            std::task::Poll::Pending => None,
        }
    }

    fn leased(key: &str) -> Put {
        Put {
            lease: PutLease::Set(Some(LeaseId(7))),
            ..Put::new(key.to_owned(), "v")
        }
    }

    /// The store as seen by somebody who may write keys under `a/` alone.
    fn alice(store: &Store) -> Store {
        store.resting(Rests::On(Arc::new(Found {
            fact: MetaWrite::delete(Table::AUTH, "nothing"),
            may_write: Some(Arc::new(|key| key.starts_with(b"a/"))),
        })))
    }

    #[tokio::test]
    async fn a_lease_that_gets_a_foreign_key_while_its_end_waits_in_line_does_not_end() {
        let options = Options {
            prefill: false,
            ..Options::new("/data")
        };
        let sim = Simulated::open(options, Arc::new(SimDisk::default())).unwrap();
        let (store, alice) = (sim.store(), alice(sim.store()));
        let mut grant = Box::pin(store.lease_grant(Some(LeaseId(7)), 60));
        let mut own = Box::pin(alice.put(leased("a/1"), None));
        assert!(poll(&mut grant).is_none() && poll(&mut own).is_none());
        sim.step(Worker::Sequencer);
        assert!(poll(&mut grant).unwrap().is_ok() && poll(&mut own).unwrap().is_ok());

        // All in one batch, in this order.
        let mut foreign = Box::pin(store.put(leased("c"), None));
        let mut end = Box::pin(alice.lease_revoke(LeaseId(7)));
        let mut more = Box::pin(alice.put(leased("a/2"), None));
        let mut free = Box::pin(alice.put(Put::new("a/3", "v"), None));
        assert!(poll(&mut foreign).is_none() && poll(&mut end).is_none());
        assert!(poll(&mut more).is_none() && poll(&mut free).is_none());
        sim.step(Worker::Sequencer);
        assert!(poll(&mut foreign).unwrap().is_ok());
        assert_eq!(poll(&mut end), Some(Err(Error::FactChanged)));
        assert_eq!(poll(&mut more).unwrap().unwrap_err(), Error::FactChanged);
        assert!(poll(&mut free).unwrap().is_ok());

        // Who may write all of its keys ends it.
        let mut end = Box::pin(store.lease_revoke(LeaseId(7)));
        assert!(poll(&mut end).is_none());
        sim.step(Worker::Sequencer);
        assert!(poll(&mut end).unwrap().is_ok());
    }
}
