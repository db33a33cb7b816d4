//! Simple tokens: random words that this process remembers, each for a time that every use extends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::Instant;

use super::error::AuthError;

/// Letters of a token (etcd's `defaultSimpleTokenLength`).
const LETTERS: usize = 16;
/// Tokens at a time. Each took a checked password, so no client makes so many in a token's life.
const TOKENS_MAX: usize = 100_000;
/// Time between two removals of tokens whose time is over.
const SWEEP: Duration = Duration::from_secs(1);

struct Token {
    user: Arc<str>,
    until: Instant,
}

struct Tokens {
    by_text: HashMap<Box<str>, Token>,
    next_sweep: Instant,
}

/// The tokens there are.
pub(super) struct Simple {
    tokens: Mutex<Tokens>,
    ttl: Duration,
    random: SystemRandom,
}

impl Simple {
    pub(super) fn new(ttl: Duration) -> Self {
        let tokens = Tokens {
            by_text: HashMap::new(),
            next_sweep: Instant::now(),
        };
        Self {
            tokens: Mutex::new(tokens),
            ttl,
            random: SystemRandom::new(),
        }
    }

    /// A new token: letters, a dot, and `index`, a position in the log at which the user was there.
    pub(super) fn assign(&self, user: &str, index: u64) -> Result<String, AuthError> {
        let token = format!("{}.{index}", self.letters()?);
        let now = Instant::now();
        let mut tokens = self.tokens.lock();
        if now >= tokens.next_sweep {
            tokens.by_text.retain(|_, token| token.until > now);
            tokens.next_sweep = now + SWEEP;
        }
        if tokens.by_text.len() >= TOKENS_MAX {
            return Err(AuthError::Busy);
        }
        let user = Token {
            user: user.into(),
            until: now + self.ttl,
        };
        tokens.by_text.insert(token.clone().into(), user);
        Ok(token)
    }

    fn letters(&self) -> Result<String, AuthError> {
        let mut letters = String::with_capacity(LETTERS);
        while letters.len() < LETTERS {
            let mut bytes = [0; 4 * LETTERS];
            let filled = self.random.fill(&mut bytes);
            filled.map_err(|_| AuthError::Crypto("no random bytes"))?;
            // 208 is four times 52: each letter is as likely as any other.
            let fair = bytes.iter().filter(|byte| **byte < 208).map(|byte| byte % 52);
            letters.extend(fair.take(LETTERS - letters.len()).map(|n| match n {
                0..26 => char::from(b'a' + n),
                _ => char::from(b'A' + n - 26),
            }));
        }
        Ok(letters)
    }

    /// Whose token it is; its time begins anew.
    pub(super) fn user(&self, token: &str) -> Option<Arc<str>> {
        let now = Instant::now();
        let mut tokens = self.tokens.lock();
        let token = tokens.by_text.get_mut(token).filter(|token| token.until > now)?;
        token.until = now + self.ttl;
        Some(Arc::clone(&token.user))
    }

    /// Forgets the tokens of users who may not keep them.
    pub(super) fn retain(&self, may_keep: impl Fn(&str) -> bool) {
        self.tokens
            .lock()
            .by_text
            .retain(|_, token| may_keep(&token.user));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_token_lives_from_use_to_use_and_is_gone_with_its_user() {
        let tokens = Simple::new(Duration::from_secs(10));
        let (alice, bob) = (
            tokens.assign("alice", 7).unwrap(),
            tokens.assign("bob", 8).unwrap(),
        );
        let (letters, index) = alice.split_once('.').unwrap();
        assert!(letters.len() == 16 && letters.bytes().all(|byte| byte.is_ascii_alphabetic()));
        assert_eq!(index, "7");
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(9)).await;
            assert_eq!(tokens.user(&alice).as_deref(), Some("alice"));
        }
        assert_eq!(tokens.user(&bob), None, "not used for 27 s");
        assert_eq!(tokens.user("x.1"), None);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(tokens.user(&alice), None);
        let again = tokens.assign("alice", 9).unwrap();
        assert_eq!(tokens.tokens.lock().by_text.len(), 1, "the rest was swept");
        tokens.retain(|user| user != "alice");
        assert_eq!(tokens.user(&again), None);
    }
}
