//! Places and memory: what a call asks besides its buckets.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Cause, Limits, Places, Refused, Table};
use crate::core::memory::Pressure;
use crate::overload::limiter::{Limiter, Permit};
use crate::overload::{Concurrency, Memory, Reading};
use crate::rules::Rules;

/// There are token buckets.
const BUCKETS: u8 = 1;
/// There are concurrency limits.
const PLACES: u8 = 2;
/// The pressure of memory is in the bits from here on.
const PRESSURE_SHIFT: u32 = 2;
/// When somebody who was refused for want of memory may come again: pressure lasts some seconds at least.
const SHORT_RETRY: Duration = Duration::from_secs(3);

impl Limits {
    /// The concurrency limits; those there were go on under their new rule.
    pub(super) fn places(&self, before: &Table, rules: &Rules) -> Vec<Places> {
        let rules = rules.concurrency.iter();
        let kept: Vec<_> = rules.filter(|rule| rule.streams_max().is_none()).collect();
        for old in &before.places {
            if !kept.iter().any(|rule| *rule.name == *old.limiter.name) {
                self.0.overload.forget(&old.limiter.name);
            }
        }
        let place = |rule: &Concurrency| {
            let old = before.places.iter().find(|old| *old.limiter.name == *rule.name);
            let limiter = match old {
                Some(old) => {
                    old.limiter.change(rule);
                    Arc::clone(&old.limiter)
                }
                None => Arc::new(Limiter::new(rule, self.0.overload.of_limiter(&rule.name))),
            };
            Places {
                rule: rule.clone(),
                limiter,
            }
        };
        kept.into_iter().map(place).collect()
    }

    /// Says what a call has to look at.
    pub(super) fn there_are(&self, buckets: bool, places: bool) {
        let flag = |is: bool, flag| if is { flag } else { 0 };
        self.flag(BUCKETS | PLACES, flag(buckets, BUCKETS) | flag(places, PLACES));
    }

    fn flag(&self, mask: u8, bits: u8) {
        let change = |flags: u8| Some(flags & !mask | bits);
        // The closure never refuses.
        let _ = self
            .0
            .flags
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }

    /// Whether no call can be refused now: nobody need say what it is.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.0.flags.load(Ordering::Relaxed) == 0
    }

    /// Whether calls that are answered once have to [`Limits::enter`]: there are concurrency limits, or memory is short.
    #[must_use]
    pub fn has_door(&self) -> bool {
        self.0.flags.load(Ordering::Relaxed) & !BUCKETS != 0
    }

    /// Calls that a connection may have open at a time, if a rule says so.
    #[must_use]
    pub fn streams_max(&self) -> Option<u32> {
        self.0.table.load().streams_max
    }

    /// A place for a call that is answered once, at once or after a short wait. Whoever stays long (a watch, a
    /// keep-alive) must not ask: its place would never be free. Costs one atomic load while there is no door.
    ///
    /// # Errors
    /// There was no place in time, or there is no memory for a call of its class.
    pub async fn enter(&self, method: &str) -> Result<Permit, Refused> {
        if !self.has_door() {
            return Ok(Permit::default());
        }
        let found = {
            let table = self.0.table.load();
            self.spare(method, &table)?;
            let place = table.places.iter().find(|place| place.rule.is_about(method));
            place.map(|place| (Arc::clone(&place.limiter), table.classes.of(method)))
        };
        match found {
            Some((limiter, class)) => {
                let entered = limiter.enter(class).await;
                entered.map_err(|refused| refused.traced(method))
            }
            None => Ok(Permit::default()),
        }
    }

    pub(crate) fn table(&self) -> Arc<Table> {
        self.0.table.load_full()
    }

    pub(crate) fn limiters(&self) -> Vec<Arc<Limiter>> {
        let table = self.0.table.load();
        let limiters = table.places.iter().map(|place| Arc::clone(&place.limiter));
        limiters.collect()
    }

    pub(crate) fn memory_rule(&self) -> Memory {
        self.0.table.load().memory.clone()
    }

    /// How short memory is.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        Pressure::of(self.0.flags.load(Ordering::Relaxed) >> PRESSURE_SHIFT)
    }

    /// The last reading of memory, where something limits it.
    #[must_use]
    pub fn reading(&self) -> Option<Reading> {
        *self.0.reading.lock()
    }

    pub(crate) fn set_pressure(&self, pressure: Pressure, reading: Option<Reading>) {
        *self.0.reading.lock() = reading;
        self.flag(!(BUCKETS | PLACES), (pressure as u8) << PRESSURE_SHIFT);
    }

    /// Refuses what has to do without while memory is short.
    pub(super) fn spare(&self, method: &str, table: &Table) -> Result<(), Refused> {
        let pressure = self.pressure();
        if pressure == Pressure::None {
            return Ok(());
        }
        let class = table.classes.of(method);
        if !pressure.refuses(class) {
            return Ok(());
        }
        self.0.overload.short(class);
        let refused = Refused {
            rule: "memory".into(),
            retry_after: SHORT_RETRY,
            cause: Cause::Memory(class),
        };
        Err(refused.traced(method))
    }
}
