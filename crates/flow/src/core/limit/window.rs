//! Calls, a window at a time: one call says little, and its neighbours say the same.

use std::time::Duration;

use super::Sample;

/// Shortest window.
const SPAN_MIN: Duration = Duration::from_millis(100);
/// Longest that grows with what calls take.
const SPAN_MAX: Duration = Duration::from_secs(2);
/// Fewer calls make no window, unless there are no more.
const CALLS_MIN: u32 = 10;
/// Then the window is closed after this many spans.
const PATIENCE: u32 = 10;
/// When more than one in this many was dropped, the server is overloaded. A few have reasons of their own.
const DROPS_IN: u32 = 20;

/// The window that is open.
#[derive(Debug, Default)]
pub(super) struct Window {
    began: Option<Duration>,
    seconds: f64,
    calls: u32,
    in_flight: u32,
    dropped: u32,
}

/// A window that is closed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// What calls took, on average, in seconds.
    pub(super) rtt: f64,
    pub(super) calls: u32,
    /// Most calls at a time.
    pub(super) in_flight: u32,
    /// Whether a notable part was dropped.
    pub(super) dropped: bool,
}

impl Window {
    /// Adds a call; the window, when that closes it. It spans the time of two calls as they took lately, in seconds, so
    /// that what it shows is what the last decision did.
    pub(super) fn add(&mut self, sample: Sample, lately: Option<f64>, now: Duration) -> Option<Seen> {
        let began = *self.began.get_or_insert(now);
        self.seconds += sample.rtt.as_secs_f64();
        self.calls += 1;
        self.in_flight = self.in_flight.max(sample.in_flight);
        self.dropped += u32::from(sample.dropped);
        let two_calls =
            Duration::from_secs_f64((2.0 * lately.unwrap_or_default()).min(SPAN_MAX.as_secs_f64()));
        let span = two_calls.max(SPAN_MIN);
        let open = now.saturating_sub(began);
        if open < span || (self.calls < CALLS_MIN && open < span * PATIENCE) {
            return None;
        }
        let window = std::mem::take(self);
        self.began = Some(now);
        Some(Seen {
            rtt: window.seconds / f64::from(window.calls),
            calls: window.calls,
            in_flight: window.in_flight,
            dropped: window.dropped * DROPS_IN > window.calls,
        })
    }
}
