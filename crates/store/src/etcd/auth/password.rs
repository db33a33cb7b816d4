//! Passwords: bcrypt, off the threads that serve connections, few at a time.
//!
//! One check takes about 60 ms of a core at the default cost, which is its purpose. So that a flood of logins does
//! not take the cores from everybody else, only some run at a time, and only some more wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::error::AuthError;

/// Calls that may wait for a check; more are refused.
const WAITING_MAX: usize = 256;
/// bcrypt looks at no more of a password.
const PASSWORD_BYTES_MAX: usize = 72;
/// The costs there are (`golang.org/x/crypto/bcrypt`).
pub(super) const COSTS: std::ops::RangeInclusive<u32> = 4..=31;
/// What a cost outside of them is taken for.
pub(super) const COST_DEFAULT: u32 = 10;

/// Hashes and checks passwords.
pub(super) struct Passwords {
    cost: u32,
    /// Who may run now: at most half of the cores.
    running: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// Counts a call while it waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Passwords {
    pub(super) fn new(cost: u32) -> Self {
        if !COSTS.contains(&cost) {
            tracing::warn!(cost, used = COST_DEFAULT, "there is no such bcrypt cost");
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            cost: if COSTS.contains(&cost) { cost } else { COST_DEFAULT },
            running: Arc::new(Semaphore::new((cores / 2).max(1))),
            waiting: AtomicUsize::new(0),
        }
    }

    /// The hash of a password.
    pub(super) async fn hash(&self, password: String) -> Result<Bytes, AuthError> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(AuthError::PasswordTooLong);
        }
        let cost = self.cost;
        let hash = self.run(move || hash(&password, cost)).await?;
        hash.ok_or(AuthError::Crypto("bcrypt failed"))
    }

    /// Whether a password has this hash. For a user who is not there, `None`, it takes as long.
    pub(super) async fn check(&self, password: String, expect: Option<Bytes>) -> Result<bool, AuthError> {
        let cost = self.cost;
        let checked = self.run(move || match expect {
            Some(expect) => {
                let expect = std::str::from_utf8(&expect).unwrap_or_default();
                bcrypt::verify(&password, expect).unwrap_or(false)
            }
            None => {
                hash(&password, cost);
                false
            }
        });
        checked.await
    }

    /// Runs on a thread for it. The permit goes with the work, not with the caller, who may leave.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, AuthError> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting(&self.waiting);
        if before >= WAITING_MAX {
            return Err(AuthError::Busy);
        }
        let permit = self.running.clone().acquire_owned().await;
        let ran = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        let ran = ran.await.map_err(|_| AuthError::Crypto("bcrypt stopped"));
        drop(waiting);
        ran
    }
}

/// `$2a$`, as Go writes it.
fn hash(password: &str, cost: u32) -> Option<Bytes> {
    let parts = bcrypt::hash_with_result(password, cost).ok()?;
    Some(parts.format_for_version(bcrypt::Version::TwoA).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_hashed_is_recognised_and_nothing_else() {
        let passwords = Passwords::new(4);
        let expect = passwords.hash("secret".to_owned()).await.unwrap();
        assert!(expect.starts_with(b"$2a$04$"), "{expect:?}");
        for (password, hash, same) in [
            ("secret", Some(expect.clone()), true),
            ("Secret", Some(expect.clone()), false),
            ("", Some(expect), false),
            ("secret", None, false),
            ("secret", Some(Bytes::new()), false),
            ("secret", Some(Bytes::from_static(b"\xff\xfe")), false),
            // Made by Go's golang.org/x/crypto/bcrypt.
            (
                "allmine",
                Some("$2a$10$XajjQvNhvvRt5GSeFk1xFeyqRrsxkhBkUiQeg0dt.wU1qD4aFDcga".into()),
                true,
            ),
        ] {
            let checked = passwords.check(password.to_owned(), hash.clone()).await;
            assert_eq!(checked.unwrap(), same, "{password} {hash:?}");
        }
        let long = passwords.hash("x".repeat(73)).await;
        assert!(matches!(long, Err(AuthError::PasswordTooLong)), "{long:?}");
        assert_eq!(passwords.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_flood_is_refused_and_leaves_nothing_behind() {
        let passwords = Passwords::new(4);
        let all = passwords.running.available_permits();
        let flood = (0..WAITING_MAX + 10).map(|_| passwords.check("x".to_owned(), None));
        let results = futures_util::future::join_all(flood).await;
        let refused = results
            .iter()
            .filter(|result| matches!(result, Err(AuthError::Busy)));
        assert_eq!(refused.count(), 10);
        assert_eq!(passwords.running.available_permits(), all);
    }
}
