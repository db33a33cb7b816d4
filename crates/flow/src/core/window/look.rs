//! Looks for a shorter path below a queue of our own: nods, and dips.

use std::time::Duration;

use super::{DIP_MIN, Estimator, FULL_MIN, Fill, MEMORY_MIN, Span};

/// From one dip to the next. Each takes a few PINGs, so that there is one PING in ten seconds on average.
const DIP_EVERY: Duration = Duration::from_secs(60);
/// The same where the rate has changed.
const DIP_AFTER_CHANGE: Duration = Duration::from_secs(2);
/// The first dip comes so long after the first PING: it costs a flow of seconds more than it can tell it.
pub(super) const FIRST_DIP_AFTER: Duration = DIP_EVERY;
/// From one after a way became shorter to the next, if it did.
const SHORT_PAUSE_MIN: Duration = Duration::from_secs(1);
/// So much sooner credit has to be used, at least: turns that come late make a round trip look longer than it is.
const SHORTER_MIN: Duration = Duration::from_millis(2);
/// Longest wait for a window to drain, in seconds.
pub(super) const DRAIN_MAX: f64 = 2.0;
/// From one nod to the next: so many round trips, and this time at least, while nods show something.
const NOD_ROUNDS: u32 = 8;
const NOD_EVERY_MIN: Duration = Duration::from_secs(1);
/// The first nod comes so long after the first PING, at least: what it finds costs a flow of a second more than it brings.
const FIRST_NOD_AFTER: Duration = Duration::from_secs(2);
/// The pause grows so many times with each that shows nothing, up to so many times the shortest.
const NOD_BACKOFF: u32 = 4;
const NOD_PAUSE_MAX: u32 = 8;
/// What of a link's content the window of a nod is.
const NOD_SHARE: f64 = 0.9;
/// After a nod the window is what it was within so many round trips, in so many steps. The link was idle for a moment, and until
/// that comes round again all that was kept back would queue.
const RISE_ROUNDS: u32 = 2;
const RISE_STEPS: u32 = 16;

/// A window made small for a moment, so that nothing queues.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dip {
    pub(super) since: Duration,
    /// When what was on the way before has come, if it came at the link's rate.
    pub(super) drained_at: Duration,
    /// What of it has not come yet, as far as it exceeds the new window; in bytes. The most there is where that is not known.
    pub(super) left: u64,
    /// A way that became shorter was the reason.
    is_shorter: bool,
    /// The round trip before.
    path: Duration,
    /// When it is given up.
    pub(super) over_at: Duration,
}

/// A window made a little smaller than the link, so that a queue of our own would be gone for a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nod {
    pub(super) window: u32,
    /// The round trip before.
    pub(super) least: Duration,
    pub(super) since: Duration,
    /// Bytes that have to come until some credit has been given within it. From then on the window is what it was.
    pub(super) left: u64,
    pub(super) over_at: Duration,
}

/// A window on its way back to what it was before a nod.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rise {
    from: u32,
    since: Duration,
    takes: Duration,
    pub(super) window: u32,
}

impl Estimator {
    /// Credit that was given at `since` has been used: a round trip and the queue before the link took no longer.
    pub fn credit_used(&mut self, since: Duration, now: Duration) {
        let took = now.saturating_sub(since).max(Duration::from_micros(1));
        self.proof.credit_used(took);
        self.rtt.credit_used(since, took);
        let Some(least) = self.rtt.get() else {
            return;
        };
        if self.usual.credit_used(since, took, least) {
            self.nod_pause = 1;
            self.next_nod = self.next_nod.min(now + self.nod_every());
        }
        if took < least {
            // It falls bit by bit, with each that catches up.
            let fell = self.fell.filter(|(from, at)| now.saturating_sub(*at) < *from);
            let (from, _) = *self.fell.insert(fell.unwrap_or((least, now)));
            self.became_shorter(took, from, now);
            self.rtt.is(took);
        }
        let Some(nod) = self.nod.take_if(|nod| since >= nod.since) else {
            return;
        };
        if took >= nod.least * 19 / 20 {
            self.nods_won = 0;
            self.nod_pause = (self.nod_pause * NOD_BACKOFF).min(NOD_PAUSE_MAX);
            self.next_nod = now + self.nod_every();
            return;
        }
        // There was a queue, and a shorter path below it; or the round trip had been taken for too long.
        self.ends_nod();
        self.nods_won += 1;
        self.nod_pause = 1;
        self.next_nod = now;
        if self.nods_won == 2 && self.dip.is_none() {
            self.dip(now);
        }
    }

    /// Whether as much comes as the link gives.
    fn is_full(&self) -> bool {
        self.recent > 0.0 && self.recent >= 0.8 * self.link()
    }

    pub(super) fn nod_every(&self) -> Duration {
        (self.rtt.get().unwrap_or_default() * NOD_ROUNDS).max(NOD_EVERY_MIN) * self.nod_pause
    }

    /// The first PING is back. Where it is proven that it met no queue, or what it took was seen before there was anything to
    /// queue, only a path that changes can be shorter than that.
    pub(super) fn plan_first_nod(&mut self, now: Duration) {
        let rtt = self.rtt.get().unwrap_or_default();
        self.next_nod = now + self.nod_every().max(FIRST_NOD_AFTER);
        if self.proof.covers(rtt) || self.was_greeted(rtt, now) {
            self.nod_pause = NOD_PAUSE_MAX;
            self.next_nod = now + self.nod_every();
        }
    }

    /// `bytes` have come: begins and ends nods.
    pub(super) fn nods(&mut self, bytes: u64, now: Duration) {
        if let Some(nod) = &mut self.nod {
            let is_over = now >= nod.over_at;
            let was_low = nod.left > 0;
            nod.left = nod.left.saturating_sub(bytes);
            if was_low && (is_over || nod.left == 0) {
                self.usual.ends(now + nod.least * RISE_ROUNDS / 2);
                self.rise = Some(Rise {
                    from: nod.window,
                    since: now,
                    takes: nod.least * RISE_ROUNDS,
                    window: nod.window,
                });
            }
            if is_over {
                self.nod = None;
                self.next_nod = now + self.nod_every();
            }
        }
        self.rises(now);
        if self.nod.is_some() {
            return;
        }
        let Some(rtt) = self.rtt.get() else {
            return;
        };
        let busy = self.dip.is_some()
            || self.rise.is_some()
            || self.trial.is_some()
            || now < self.effective_from + rtt;
        if busy || now < self.next_nod || !self.is_full() {
            return;
        }
        let window = (NOD_SHARE * self.link().min(self.recent) * rtt.as_secs_f64()) as u32;
        if window < FULL_MIN || !self.queues && window < self.window / 2 {
            // Who has more than he needs is not held up by it, and shows nothing.
            return;
        }
        self.fill = Fill::default();
        self.usual.begins(now);
        self.nod = Some(Nod {
            window,
            least: rtt,
            since: now,
            left: u64::from(self.window.saturating_sub(window) + window / 8),
            over_at: now + rtt * 3,
        });
    }

    fn rises(&mut self, now: Duration) {
        let Some(rise) = &mut self.rise else {
            return;
        };
        let step = rise.takes / RISE_STEPS;
        let steps = now.saturating_sub(rise.since).as_nanos() / step.as_nanos().max(1);
        if rise.from >= self.window || steps >= u128::from(RISE_STEPS) {
            self.rise = None;
            return;
        }
        // Less than the number of all steps.
        rise.window = rise.from + (self.window - rise.from) / RISE_STEPS * steps as u32;
    }

    /// The window is what it was at once, or another one: what comes now says nothing of a path without a queue.
    pub(super) fn ends_nod(&mut self) {
        (self.nod, self.rise) = (None, None);
        self.usual.is_disturbed();
    }

    /// Quarters the window until the queue is gone; a PING follows once it has drained.
    pub(super) fn dip(&mut self, now: Duration) {
        (self.trial, self.too_large) = (None, None);
        self.ends_nod();
        self.nods_won = 0;
        // What is on its way comes first, and the news has to get there.
        let full = f64::from(self.window) / self.link().max(1.0);
        let drains = Duration::from_secs_f64(full.min(DRAIN_MAX)) + self.rtt.get().unwrap_or_default() / 2;
        self.window = (self.window / 4).max(DIP_MIN.min(self.bounds.cap));
        self.fill = Fill::default();
        self.dip_due = false;
        let is_shorter = self.dip.is_some_and(|dip| dip.is_shorter);
        let path = self.dip.map(|dip| dip.path).or(self.rtt.get());
        self.dip = Some(Dip {
            path: path.unwrap_or_default(),
            since: now,
            drained_at: now + drains,
            left: u64::MAX,
            is_shorter,
            over_at: now + (drains * 10).max(MEMORY_MIN),
        });
    }

    /// Credit was used sooner than the `least` round trip: there may still be a queue below that, since what was on its way by
    /// the longer one has caught up. Dips to so little at once that a path of an eighth can be seen, and looks as soon as all
    /// but that has come.
    fn became_shorter(&mut self, took: Duration, least: Duration, now: Duration) {
        let clearly = least - took > (least / 32).max(SHORTER_MIN);
        let settled = now >= self.next_short_dip.max(self.effective_from + least * 4);
        if !clearly || !settled || self.dip.is_some() || !self.is_full() {
            return;
        }
        let under_way = u64::from(self.window);
        self.dip(now);
        self.window = (self.window / 2).max(DIP_MIN.min(self.bounds.cap));
        if let Some(dip) = &mut self.dip {
            dip.left = under_way.saturating_sub(self.window.into());
            dip.is_shorter = true;
        }
    }

    /// A PING has come back that left after the window was made small.
    pub(super) fn dipped(&mut self, took: Duration, queue: Option<Duration>, now: Duration) {
        let least = self.rtt.get().unwrap_or(took);
        let queues = self.rtt.is_explained(took, queue);
        if queues && took < least {
            self.rtt.is(took);
        }
        if queues && self.window > DIP_MIN {
            // The link is still full, so the path is shorter than that.
            return self.dip(now);
        }
        let near = took >= least * 3 / 4 && took <= least * 5 / 4;
        if !queues && took <= least * 5 / 4 {
            self.rtt.is(took.min(least));
            if !near {
                // Some of the queue may have been left.
                self.dip = self.dip.map(|dip| Dip {
                    drained_at: now,
                    ..dip
                });
                return;
            }
        } else if !queues && !self.rtt.sample(took, None) {
            // Longer, all of a sudden: once more.
            self.dip = self.dip.map(|dip| Dip {
                drained_at: now,
                ..dip
            });
            return;
        }
        self.end_dip(now);
        self.changed = false;
        self.pace_probes(!near, false, now);
    }

    /// Sets the window by what is known now.
    pub(super) fn end_dip(&mut self, now: Duration) {
        let before = self.dip.take().filter(|dip| dip.is_shorter).map(|dip| dip.path);
        if let (Some(before), Some(rtt)) = (before, self.rtt.get()) {
            self.short_pause = if rtt < before * 7 / 8 {
                self.nod_pause = 1;
                SHORT_PAUSE_MIN
            } else {
                (self.short_pause * 2).clamp(SHORT_PAUSE_MIN, DIP_EVERY)
            };
            self.next_short_dip = now + self.short_pause;
        }
        self.next_dip = now + DIP_EVERY;
        self.next_change_dip = now + DIP_AFTER_CHANGE;
        self.window = self.wanted();
        self.fill = Fill::default();
        self.effective_from = now + self.rtt.get().unwrap_or_default() * 2;
        self.bucket = Span::at(now);
    }
}
