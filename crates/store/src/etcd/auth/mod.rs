//! Authentication: who calls, and what they may do.
//!
//! While it is off, a request pays two atomic loads. While it is on, its caller is found once (a token, or the name
//! in a client certificate) and becomes an [`Access`], which the services ask before they do anything.
//!
//! - `policy`: users, roles, permissions at one moment, and each change to them. Pure.
//! - `access`: what a caller may do. `gate`: whom each method is for.
//! - `service`: the calls of the Auth service.
//! - `tokens`: which kind there is; `simple`, `jwt`: the kinds, `key` and `p521` what signs the latter.
//! - `password`: bcrypt, bounded.
//! - `error`: refusals and etcd's words for them.
//!
//! The truth lies in the store's side tables; the [`Policy`] in memory is made from them again whenever they have
//! changed, so it cannot drift, however a change ended.

mod access;
mod error;
mod gate;
mod jwt;
mod key;
mod p521;
mod password;
mod policy;
mod service;
mod simple;
mod tokens;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;

pub(super) use access::Access;
pub(super) use error::AuthError;
pub use jwt::Jwt;
pub(super) use jwt::reads_token;
pub use key::KeyError;
pub(super) use service::serve;
pub use tokens::{AuthOptions, TokenError, TokenOptions};

use access::User;
use password::Passwords;
use policy::Policy;
use tokens::Tokens;

use crate::Store;
use crate::engine::Rests;
use crate::types::Table;

/// No version of the tables: the policy has not been read yet.
const NEVER: u64 = u64::MAX;

/// Who calls, as the request and its connection say.
#[derive(Clone, Debug, Default)]
pub(super) struct Caller {
    token: Option<HeaderValue>,
    /// The common name of the client's certificate, which was verified.
    common_name: Option<Arc<str>>,
}

impl Caller {
    /// From a request's headers; `common_name` only where client certificates are verified.
    pub(super) fn of(headers: &HeaderMap, common_name: Option<&Arc<str>>) -> Self {
        let token = headers.get("token").or_else(|| headers.get("authorization"));
        // The name in a proxy's certificate is the proxy's, not its client's.
        let common_name = common_name.filter(|_| !headers.contains_key("grpcgateway-accept"));
        Self {
            token: token.cloned(),
            common_name: common_name.cloned(),
        }
    }
}

/// The front's authentication.
pub(super) struct Auth {
    store: Store,
    /// The store for writes of callers who need no name: they are refused once authentication is on.
    for_nobody: Store,
    /// The version of the tables that `policy` was made from.
    version: AtomicU64,
    enabled: AtomicBool,
    policy: ArcSwap<Policy>,
    loading: Mutex<()>,
    tokens: Tokens,
    passwords: Passwords,
}

impl Auth {
    pub(super) fn new(store: Store, options: &AuthOptions) -> Self {
        Self {
            for_nobody: store.resting(Rests::Unless(&policy::ON)),
            store,
            version: AtomicU64::new(NEVER),
            enabled: AtomicBool::new(false),
            policy: ArcSwap::default(),
            loading: Mutex::new(()),
            tokens: Tokens::new(options),
            passwords: Passwords::new(options.bcrypt_cost),
        }
    }

    /// Whether callers have to say who they are.
    pub(super) fn is_on(&self) -> bool {
        if self.version.load(Ordering::Acquire) != self.store.meta_version() {
            self.load();
        }
        self.enabled.load(Ordering::Acquire)
    }

    /// The policy as of now: every change that has been acknowledged is in it.
    fn policy(&self) -> Arc<Policy> {
        if self.version.load(Ordering::Acquire) != self.store.meta_version() {
            self.load();
        }
        self.policy.load_full()
    }

    /// Reads the tables; again, should they change meanwhile.
    fn load(&self) {
        let _one = self.loading.lock();
        loop {
            let version = self.store.meta_version();
            if self.version.load(Ordering::Acquire) == version {
                return;
            }
            let table = |table| self.store.meta(table);
            let policy = Policy::load(
                &table(Table::AUTH),
                table(Table::AUTH_USERS),
                table(Table::AUTH_ROLES),
            );
            if self.store.meta_version() != version {
                continue;
            }
            let before = self.policy.load_full();
            self.tokens
                .retain(|user| policy.enabled() && policy.is_same_user(&before, user));
            self.enabled.store(policy.enabled(), Ordering::Release);
            self.policy.store(Arc::new(policy));
            self.version.store(version, Ordering::Release);
        }
    }

    /// What a caller may do now. A stream asks again for each request on it.
    pub(super) fn access(&self, caller: &Caller) -> Access {
        if !self.is_on() {
            return Access::Open;
        }
        let policy = self.policy();
        if !policy.enabled() {
            return Access::Open;
        }
        if let Some(token) = &caller.token {
            let token = token.to_str().unwrap_or_default();
            let token = token.strip_prefix("Bearer ").unwrap_or(token);
            return match self.tokens.user(token, policy.revision()) {
                Some((name, revision)) => Access::User(User {
                    policy,
                    name,
                    revision,
                }),
                None => Access::Invalid,
            };
        }
        match &caller.common_name {
            Some(name) => Access::User(User {
                revision: policy.revision(),
                name: Arc::clone(name),
                policy,
            }),
            None => Access::Nobody,
        }
    }

    /// Whether what was read under this access may be told: the policy must not have changed since.
    pub(super) fn still(&self, access: &Access) -> Result<(), AuthError> {
        match access {
            Access::User(user) if user.revision != self.policy().revision() => Err(AuthError::OldRevision),
            _ => Ok(()),
        }
    }
}
