//! Which tokens there are.

use std::sync::Arc;
use std::time::Duration;

use super::error::AuthError;
use super::password::{COST_DEFAULT, COSTS};
use super::simple::Simple;

/// How long a simple token lives without being used, unless said otherwise.
const SIMPLE_TTL: Duration = Duration::from_secs(300);

/// How callers say who they are.
#[derive(Clone, Debug)]
pub struct AuthOptions {
    /// The kind of token that a password is exchanged for (etcd's `--auth-token`; simple).
    pub token: TokenOptions,
    /// How long a simple token lives without being used (300 s, etcd's `--auth-token-ttl`). 0 is the default.
    pub token_ttl: Duration,
    /// The cost of a password's hash, from 4 to 31, each twice the one before (10, etcd's `--bcrypt-cost`).
    pub bcrypt_cost: u32,
}

impl Default for AuthOptions {
    fn default() -> Self {
        Self {
            token: TokenOptions::Simple,
            token_ttl: SIMPLE_TTL,
            bcrypt_cost: COST_DEFAULT,
        }
    }
}

impl AuthOptions {
    /// Every problem, each with its remedy.
    ///
    /// # Errors
    /// The list of problems, if there is one.
    pub fn validate(&self) -> Result<(), Vec<String>> {
        if COSTS.contains(&self.bcrypt_cost) {
            return Ok(());
        }
        Err(vec![format!(
            "bcrypt_cost is {}: give one from {} to {}",
            self.bcrypt_cost,
            COSTS.start(),
            COSTS.end()
        )])
    }
}

/// A kind of token.
#[derive(Clone, Debug, Default)]
pub enum TokenOptions {
    /// Random words that this process remembers.
    #[default]
    Simple,
    /// None: only certificates say who calls.
    Off,
}

/// Makes and reads tokens.
pub(super) enum Tokens {
    Simple(Simple),
    Off,
}

impl Tokens {
    pub(super) fn new(options: &AuthOptions) -> Self {
        let ttl = Some(options.token_ttl).filter(|ttl| !ttl.is_zero());
        match &options.token {
            TokenOptions::Simple => Self::Simple(Simple::new(ttl.unwrap_or(SIMPLE_TTL))),
            TokenOptions::Off => Self::Off,
        }
    }

    /// A token for a user. `revision` is the auth revision at which its password was checked, `index` a position in
    /// the log.
    pub(super) fn assign(&self, user: &str, _revision: u64, index: u64) -> Result<String, AuthError> {
        match self {
            Self::Simple(simple) => simple.assign(user, index),
            Self::Off => Err(AuthError::NoTokens),
        }
    }

    /// Whose token it is, and the auth revision it speaks of, if that is not the one of now.
    pub(super) fn user(&self, token: &str, now: u64) -> Option<(Arc<str>, u64)> {
        match self {
            Self::Simple(simple) => Some((simple.user(token)?, now)),
            Self::Off => None,
        }
    }

    /// Forgets the tokens of users who may not keep them, where that can be.
    pub(super) fn retain(&self, may_keep: impl Fn(&str) -> bool) {
        if let Self::Simple(simple) = self {
            simple.retain(may_keep);
        }
    }
}
