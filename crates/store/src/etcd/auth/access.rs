//! What one caller may do: etcd's rules for each request (`server/etcdserver/apply/auth.go`, `v3_server.go`).

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use tonic::Status;

use super::error::AuthError;
use super::policy::{Policy, Verb};
use crate::engine::{Found, MayWrite, Rests};
use crate::etcd::server::Shared;
use crate::etcd::status;
use crate::types::{Delete, KeyRange, LeaseId, Op, Put, PutLease, Txn};
use crate::{Error, Store};

/// What a request may rest on.
#[derive(Clone, Debug)]
pub(in crate::etcd) enum Access {
    /// Authentication is off.
    Open,
    /// It is on, and the caller has not said who it is.
    Nobody,
    /// It is on, and the caller's token is none.
    Invalid,
    /// A caller who has a name.
    User(User),
}

/// A caller with a name, who may be gone by now.
#[derive(Clone, Debug)]
pub(in crate::etcd) struct User {
    pub(super) policy: Arc<Policy>,
    pub(super) name: Arc<str>,
    /// The auth revision that the token speaks of.
    pub(super) revision: u64,
}

type Checked = Result<(), AuthError>;

impl User {
    /// What keys of leases must pass; nothing for an administrator.
    fn may_write(&self) -> Option<MayWrite> {
        if self.policy.admin(&self.name).is_ok() {
            return None;
        }
        let (policy, name) = (Arc::clone(&self.policy), Arc::clone(&self.name));
        Some(Arc::new(move |key| {
            let key = KeyRange::Key(Bytes::copy_from_slice(key));
            policy.permits(&name, Verb::Write, &key).is_ok()
        }))
    }
}

impl Access {
    /// The store, for writes of this caller: they are refused if, when their turn comes, the policy has changed or a lease
    /// they use has got a key that is not the caller's to write; or, of a caller who was not asked for a name, if
    /// authentication has been switched on. [`Access::told`] says what a refusal is to the caller.
    pub(in crate::etcd) fn store<'a>(&self, shared: &'a Shared) -> Cow<'a, Store> {
        match self {
            Self::User(user) => Cow::Owned(shared.store.resting(Rests::On(Arc::new(Found {
                fact: user.policy.fact(),
                may_write: user.may_write(),
            })))),
            _ => Cow::Borrowed(&shared.auth.for_nobody),
        }
    }

    /// A refusal as etcd tells it to this caller.
    pub(in crate::etcd) fn told(&self, error: &Error) -> Status {
        match (self, error) {
            (Self::User(_), _) => status::status(error),
            (_, Error::FactChanged) => AuthError::UserEmpty.into(),
            _ => status::status(error),
        }
    }

    /// The same caller under a newer policy.
    pub(super) fn under(&self, policy: &Arc<Policy>) -> Self {
        match self {
            _ if !policy.enabled() => Self::Open,
            Self::Open | Self::Nobody => Self::Nobody,
            Self::Invalid => Self::Invalid,
            Self::User(user) => Self::User(User {
                policy: Arc::clone(policy),
                ..user.clone()
            }),
        }
    }

    /// Whether the caller has said who it is.
    pub(in crate::etcd) fn named(&self) -> Checked {
        match self {
            Self::Open | Self::User(_) => Ok(()),
            Self::Nobody => Err(AuthError::UserEmpty),
            Self::Invalid => Err(AuthError::InvalidToken),
        }
    }

    /// Whether there is nothing wrong with the token, if there is one.
    pub(in crate::etcd) fn not_invalid(&self) -> Checked {
        match self {
            Self::Invalid => Err(AuthError::InvalidToken),
            _ => Ok(()),
        }
    }

    /// Whether the caller is an administrator.
    pub(in crate::etcd) fn admin(&self) -> Checked {
        match self {
            Self::User(user) if user.name.is_empty() => Err(AuthError::UserEmpty),
            Self::User(user) => user.policy.admin(&user.name),
            _ => self.named(),
        }
    }

    /// Whether the caller may see this user.
    pub(super) fn user_get(&self, name: &str) -> Checked {
        self.not_invalid()?;
        self.admin().or_else(|error| match self {
            Self::User(user) if *user.name == *name => Ok(()),
            // Nobody is the user without a name, who is not found.
            Self::Nobody if name.is_empty() => Ok(()),
            _ => Err(error),
        })
    }

    /// Whether the caller may see this role.
    pub(super) fn role_get(&self, role: &str) -> Checked {
        self.not_invalid()?;
        self.admin().or_else(|error| match self {
            Self::User(user) if user.policy.has_role(&user.name, role) => Ok(()),
            _ => Err(error),
        })
    }

    fn keys(&self, verb: Verb, keys: &KeyRange) -> Checked {
        let Self::User(user) = self else {
            return self.named();
        };
        if user.revision == 0 {
            return Err(AuthError::UserEmpty);
        }
        if user.revision < user.policy.revision() {
            return Err(AuthError::OldRevision);
        }
        user.policy.permits(&user.name, verb, keys)
    }

    /// Whether the caller may read, or watch, these keys.
    pub(in crate::etcd) fn range(&self, keys: &KeyRange) -> Checked {
        self.keys(Verb::Read, keys)
    }

    /// Whether the caller may write this. A lease can be used by whoever may write all the keys it has: it takes them
    /// with it when it ends.
    pub(in crate::etcd) fn put(&self, store: &Store, put: &Put) -> Checked {
        if matches!(self, Self::Open) {
            return Ok(());
        }
        let key = KeyRange::Key(put.key.clone());
        self.keys(Verb::Write, &key)?;
        if let PutLease::Set(Some(lease)) = put.lease {
            self.lease_writes(store, lease)?;
        }
        if put.prev_kv {
            self.keys(Verb::Read, &key)?;
        }
        Ok(())
    }

    pub(in crate::etcd) fn delete(&self, delete: &Delete) -> Checked {
        self.keys(Verb::Write, &delete.keys)?;
        if delete.prev_kv {
            self.keys(Verb::Read, &delete.keys)?;
        }
        Ok(())
    }

    /// Both branches count, at every level: an answer tells which one was taken.
    pub(in crate::etcd) fn txn(&self, store: &Store, txn: &Txn) -> Checked {
        if matches!(self, Self::Open) {
            return Ok(());
        }
        self.not_invalid()?;
        for compare in &txn.compares {
            self.range(&compare.keys)?;
        }
        for op in txn.success.iter().chain(&txn.failure) {
            match op {
                Op::Range(range) => self.range(&range.keys)?,
                Op::Put(put) => self.put(store, put)?,
                Op::Delete(delete) => self.delete(delete)?,
                Op::Txn(txn) => self.txn(store, txn)?,
            }
        }
        Ok(())
    }

    /// Whether the caller may write all keys of a lease: to attach one more, to renew it, to end it.
    pub(in crate::etcd) fn lease_writes(&self, store: &Store, lease: LeaseId) -> Checked {
        self.lease(store, lease, Verb::Write)
    }

    /// Whether the caller may see which keys a lease has.
    pub(in crate::etcd) fn lease_reads(&self, store: &Store, lease: LeaseId) -> Checked {
        self.lease(store, lease, Verb::Read)
    }

    /// Whether the caller may see these keys of a lease.
    pub(in crate::etcd) fn sees(&self, keys: &[Bytes]) -> Checked {
        self.each(keys, Verb::Read)
    }

    fn lease(&self, store: &Store, lease: LeaseId, verb: Verb) -> Checked {
        if matches!(self, Self::Open) || self.admin().is_ok() {
            return Ok(());
        }
        let keys = store.lease(lease, true).map(|lease| lease.keys);
        self.each(&keys.unwrap_or_default(), verb)
    }

    fn each(&self, keys: &[Bytes], verb: Verb) -> Checked {
        if matches!(self, Self::Open) || self.admin().is_ok() {
            return Ok(());
        }
        self.named()?;
        for key in keys {
            self.keys(verb, &KeyRange::Key(key.clone()))?;
        }
        Ok(())
    }
}
