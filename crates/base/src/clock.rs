//! Calendar time as an argument.
//!
//! Monotonic time is `tokio::time::Instant`, which a paused test runtime stops. Calendar time appears on
//! the wire (`creationTimestamp`, lease records) and is handed in through [`WallClock`].

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

/// A source of calendar time.
pub trait WallClock: Send + Sync + fmt::Debug + 'static {
    /// The present instant, UTC.
    fn now(&self) -> Timestamp;
}

/// The machine's clock. The only place that reads it.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl SystemClock {
    /// The clock behind the shared handle that services take.
    #[must_use]
    pub fn shared() -> Arc<dyn WallClock> {
        Arc::new(Self)
    }
}

impl WallClock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A clock that stands still, for tests of what ends up on the wire.
#[derive(Clone, Copy, Debug)]
pub struct FixedClock(pub Timestamp);

impl WallClock for FixedClock {
    fn now(&self) -> Timestamp {
        self.0
    }
}
