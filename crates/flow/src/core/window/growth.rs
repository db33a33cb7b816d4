//! A window that is filled faster than a round trip is what limits the sender; or what came was a little late at first.

use std::time::Duration;

use super::{Estimator, SLACK, Span};

/// Most that a window grows by at once, and least.
pub(super) const GROWTH_MAX: f64 = 8.0;
pub(super) const GROWTH_MIN: f64 = 1.25;
/// A full link's window has to be filled so many times as fast as the link was, to grow by that, and else by this part of it
/// at first, or by a millisecond of the link.
const FASTER: f64 = 1.33;
const GROWTH_UNCLEAR: f64 = 0.0625;

/// How far the window in force has been filled.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fill {
    span: Span,
    last: Duration,
    /// When four fifths were there.
    pub(super) full_after: Option<Duration>,
}

impl Estimator {
    /// Notices that the window in force was filled, and how fast.
    pub(super) fn fill(&mut self, bytes: u64, now: Duration) {
        if now < self.effective_from || self.dip.is_some() || self.nod.is_some() || self.rise.is_some() {
            return;
        }
        let rtt = self.rtt.get();
        let fill = &mut self.fill;
        let stale = rtt.is_some_and(|rtt| {
            now.saturating_sub(fill.last) > rtt / 4 || now.saturating_sub(fill.span.since) > rtt
        });
        if stale || fill.span.bytes == 0 {
            *fill = Fill {
                span: Span::at(now),
                ..Fill::default()
            };
        }
        fill.last = now;
        fill.span.bytes += bytes;
        if fill.full_after.is_none() && fill.span.bytes >= u64::from(self.window) / 5 * 4 {
            fill.full_after = Some(now.saturating_sub(fill.span.since));
            self.grow_if_full(now);
        }
    }

    /// Grows the window if it was filled in less than a round trip, the more the faster.
    pub(super) fn grow_if_full(&mut self, now: Duration) {
        let (Some(rtt), Some(took)) = (self.rtt.get(), self.fill.full_after) else {
            return;
        };
        self.fill = Fill::default();
        // A link that is full takes a window in a round trip or more, and four fifths of it in as much of that.
        if took >= rtt * 4 / 5 {
            return;
        }
        // Where the link was full with it before, that may be what was held up somewhere, or a way that became shorter.
        let used = self.link() * rtt.as_secs_f64() >= f64::from(self.window) / 2.0;
        let was_full = used && now >= self.effective_from + rtt * 4;
        let last = self.filled_at.replace(now);
        if was_full && last.is_none_or(|last| now.saturating_sub(last) > rtt * 2) {
            return;
        }
        let share = rtt.as_secs_f64() / took.as_secs_f64().max(1e-6);
        let at_rate = f64::from(self.window) * 4.0 / 5.0 / self.link().max(1.0);
        let all = (1.1 * share).clamp(GROWTH_MIN, GROWTH_MAX);
        let unclear = self.unclear.filter(|(at, _)| now < *at + rtt * 8);
        let factor = if (was_full || unclear.is_some()) && took.as_secs_f64() * FASTER > at_rate {
            // Hardly faster than the link: it may as well have been a little late to begin with, unless that happens again.
            let growth = unclear.map_or(GROWTH_UNCLEAR, |(_, growth)| growth * 2.0);
            // Turns that come late by a millisecond are most of a short path.
            let growth = growth.max(SLACK * self.link() / f64::from(self.window));
            self.unclear = Some((now, growth));
            all.min(1.0 + growth)
        } else {
            all
        };
        self.set((f64::from(self.window) * factor) as u32, now);
    }
}
