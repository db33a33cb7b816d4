//! Which tokens there are.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::error::AuthError;
use super::jwt::Jwt;
use super::key::KeyError;
use super::password::{COST_DEFAULT, COSTS};
use super::simple::Simple;

/// How long a token lives, unless said otherwise: a simple one without being used, a signed one at all.
const TTL: Duration = Duration::from_secs(300);

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
            token_ttl: TTL,
            bcrypt_cost: COST_DEFAULT,
        }
    }
}

impl AuthOptions {
    /// Whether passwords can be hashed at this cost.
    ///
    /// # Errors
    /// What is wrong with the cost, with the remedy, to follow its name.
    pub fn validate(&self) -> Result<(), String> {
        if COSTS.contains(&self.bcrypt_cost) {
            return Ok(());
        }
        let (cost, least, most) = (self.bcrypt_cost, COSTS.start(), COSTS.end());
        Err(format!(
            "is {cost}: give one from {least} to {most}, each twice as slow as the one before"
        ))
    }
}

/// A kind of token.
#[derive(Clone, Debug, Default)]
pub enum TokenOptions {
    /// Random words that this process remembers.
    #[default]
    Simple,
    /// Signed ones.
    Jwt(Jwt),
    /// None: only certificates say who calls.
    Off,
}

/// What is wrong with an `--auth-token`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Neither `simple` nor `jwt`.
    #[error("token type {0:?} is neither simple nor jwt")]
    Kind(String),
    /// A part that is not NAME=VALUE, or a name that is there twice.
    #[error("token option {0:?} is not NAME=VALUE, or is there twice")]
    Option(String),
    /// Not a length of time as Go writes it.
    #[error("ttl {0:?} is not a duration: write it like 5m or 90s")]
    Ttl(String),
    /// A key's file.
    #[error("read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why it could not be read.
        #[source]
        source: io::Error,
    },
    /// What is in a key's file.
    #[error("{}", .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: KeyError,
    },
    /// The keys.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl TokenOptions {
    /// From etcd's `--auth-token`: `simple`, `jwt,sign-method=…,priv-key=FILE,pub-key=FILE,ttl=…`, or nothing.
    /// `read` reads the files.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn from_flag(flag: &str, read: impl Fn(&Path) -> io::Result<Vec<u8>>) -> Result<Self, TokenError> {
        let mut parts = flag.split(',');
        match parts.next().unwrap_or_default() {
            "" => Ok(Self::Off),
            "simple" => Ok(Self::Simple),
            "jwt" => {
                let options = options(parts)?;
                let file = |name: &str| match options.get(name) {
                    None | Some(&"") => Ok(None),
                    Some(path) => {
                        let path = PathBuf::from(path);
                        let bytes = read(&path).map_err(|source| TokenError::Read { path, source })?;
                        Ok::<_, TokenError>(Some(bytes))
                    }
                };
                let ttl = match options.get("ttl") {
                    None | Some(&"") => TTL,
                    Some(ttl) => duration(ttl).ok_or_else(|| TokenError::Ttl((*ttl).to_owned()))?,
                };
                let method = options.get("sign-method").copied().unwrap_or_default();
                let (private, public) = (file("priv-key")?, file("pub-key")?);
                let jwt = Jwt::new(method, private.as_deref(), public.as_deref(), ttl);
                let path = |error: &KeyError| options.get(error.option()?).map(PathBuf::from);
                jwt.map(Self::Jwt).map_err(|source| match path(&source) {
                    Some(path) => TokenError::Unusable { path, source },
                    None => TokenError::Key(source),
                })
            }
            kind => Err(TokenError::Kind(kind.to_owned())),
        }
    }
}

fn options<'a>(parts: impl Iterator<Item = &'a str>) -> Result<BTreeMap<&'a str, &'a str>, TokenError> {
    let mut options = BTreeMap::new();
    for part in parts {
        let pair = part.split_once('=').filter(|(_, value)| !value.contains('='));
        let new = pair.and_then(|(name, value)| options.insert(name, value).is_none().then_some(name));
        let name = new.ok_or_else(|| TokenError::Option(part.to_owned()))?;
        if !["sign-method", "priv-key", "pub-key", "ttl"].contains(&name) {
            tracing::warn!(name, "unknown JWT option");
        }
    }
    Ok(options)
}

/// As Go writes it: numbers with units, the largest first by custom: `1h30m`, `1.5s`, `300ms`.
fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut sum) = (text, Duration::ZERO);
    if text.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, later) = after.split_at(unit_end);
        let unit = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()?;
        sum = sum.checked_add(part)?;
        rest = later;
    }
    Some(sum)
}

/// Makes and reads tokens.
pub(super) enum Tokens {
    Simple(Simple),
    Jwt(Jwt),
    Off,
}

impl Tokens {
    pub(super) fn new(options: &AuthOptions) -> Self {
        let ttl = Some(options.token_ttl).filter(|ttl| !ttl.is_zero());
        match &options.token {
            TokenOptions::Simple => Self::Simple(Simple::new(ttl.unwrap_or(TTL))),
            TokenOptions::Jwt(jwt) => Self::Jwt(jwt.clone()),
            TokenOptions::Off => Self::Off,
        }
    }

    /// A token for a user. `revision` is the auth revision at which its password was checked, `index` a position in
    /// the log.
    pub(super) fn assign(&self, user: &str, revision: u64, index: u64) -> Result<String, AuthError> {
        match self {
            Self::Simple(simple) => simple.assign(user, index),
            Self::Jwt(jwt) => jwt.assign(user, revision),
            Self::Off => Err(AuthError::NoTokens),
        }
    }

    /// Whose token it is, and the auth revision it speaks of: a simple one always of the one of now.
    pub(super) fn user(&self, token: &str, now: u64) -> Option<(Arc<str>, u64)> {
        match self {
            Self::Simple(simple) => Some((simple.user(token)?, now)),
            Self::Jwt(jwt) => jwt.user(token),
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

#[cfg(test)]
mod tests {
    use setpoint_base::Chain;

    use super::*;

    #[track_caller]
    fn check(flag: &str, expect: &str) {
        let read = |path: &Path| match path.to_str() {
            Some("key") => Ok(b"secret".to_vec()),
            Some("empty") => Ok(Vec::new()),
            Some("sealed") => Ok(
                b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n"
                    .to_vec(),
            ),
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        let shown = match TokenOptions::from_flag(flag, read) {
            Ok(options) => format!("{options:?}"),
            Err(error) => Chain(&error).to_string(),
        };
        assert_eq!(shown, expect, "{flag}");
    }

    #[test]
    fn the_flag_is_etcds() {
        check("simple", "Simple");
        check("", "Off");
        check("jwt,priv-key=key,sign-method=HS256", "Jwt(Jwt(HS256, 300s))");
        check(
            "jwt,priv-key=key,sign-method=HS512,ttl=1h1.5s,pub-key=",
            "Jwt(Jwt(HS512, 3601.5s))",
        );
        check("oauth", "token type \"oauth\" is neither simple nor jwt");
        check(
            "jwt,sign-method=HS256,priv-key=nokey",
            "read nokey: entity not found",
        );
        check(
            "jwt,ttl",
            "token option \"ttl\" is not NAME=VALUE, or is there twice",
        );
        check(
            "jwt,ttl=1s,ttl=2s",
            "token option \"ttl=2s\" is not NAME=VALUE, or is there twice",
        );
        check(
            "jwt,ttl=10",
            "ttl \"10\" is not a duration: write it like 5m or 90s",
        );
        check(
            "jwt,sign-method=RS256",
            "a key is missing: give priv-key to sign tokens, or pub-key to verify those that others sign",
        );
    }

    #[test]
    fn a_keys_file_that_cannot_be_used_is_named_with_its_fault() {
        for method in ["HS256", "RS256"] {
            check(
                &format!("jwt,sign-method={method},priv-key=empty"),
                "empty: the file is empty: the private key belongs in it",
            );
        }
        check(
            "jwt,sign-method=ES256,pub-key=empty",
            "empty: the file is empty: the public key belongs in it",
        );
        check(
            "jwt,sign-method=ES256,pub-key=key",
            "key: the public key is not one for ES256, in PEM",
        );
        check(
            "jwt,sign-method=ES256,priv-key=sealed",
            "sealed: the private key is encrypted and nobody is asked for its passphrase: write it without one, with \
             `openssl pkey -in FILE -out NEW`, readable by its owner alone",
        );
    }
}
