//! Rules at work: which buckets a call takes from, which limit it needs a place of, and what it is told when there is
//! none.
//!
//! [`Limits`] is shared by all listeners of a process; each connection has a [`Scope`] for the buckets that are its
//! own, which go with it. Rules are replaced as a whole while calls go on: a call sees the old ones or the new ones.
//! Without rules a call costs one atomic load.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use setpoint_telemetry::{DuplicateMetric, Metrics};
use tokio::time::Instant;

use crate::core::bucket::{Bucket, Quota};
use crate::core::gate::Class;
use crate::core::glob;
use crate::core::rate::ticks;
use crate::keyed::Keyed;
use crate::metrics::{LimitMetrics, RuleCounters};
use crate::overload::limiter::Limiter;
use crate::overload::metrics::OverloadMetrics;
use crate::overload::{Classes, Concurrency, Memory, Reading};
use crate::rules::{Per, RULES_MAX, Rule, Rules};

/// What is known of a call before it begins.
pub struct Ask<'a> {
    /// See [`Rule::methods`](crate::Rule::methods).
    pub method: &'a str,
    /// The user, the client certificate's name, or the address.
    pub peer: &'a str,
    /// Looks up a metadata key or header.
    pub metadata: &'a dyn Fn(&str) -> Option<&'a str>,
}

/// A call was not admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: retry in {} ms", .cause.text(.rule), .retry_after.as_millis().max(1))]
pub struct Refused {
    /// The rule that refused.
    pub rule: Arc<str>,
    /// When asking again can succeed.
    pub retry_after: Duration,
    /// What there was not enough of.
    pub cause: Cause,
}

/// What there was not enough of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Permits of a token bucket.
    Rate,
    /// Places among the calls that are served at a time.
    Concurrency,
    /// Memory, for a call of this class.
    Memory(Class),
}

impl Cause {
    fn text(self, rule: &str) -> String {
        match self {
            Self::Rate => format!("rate limit {rule:?} is used up"),
            Self::Concurrency => format!("overloaded: limit {rule:?} had no place in time"),
            Self::Memory(class) => {
                format!("memory is short: calls of the class {} are refused", class.name())
            }
        }
    }
}

/// The limits of a process. Cloning gives another handle to the same ones.
#[derive(Clone)]
pub struct Limits(Arc<Inner>);

struct Inner {
    /// What there is at all: all that a call looks at when there is nothing.
    flags: AtomicU8,
    table: ArcSwap<Table>,
    /// Serialises changes.
    changing: Mutex<u64>,
    began: Instant,
    metrics: LimitMetrics,
    overload: OverloadMetrics,
    reading: Mutex<Option<Reading>>,
}

#[derive(Default)]
pub(crate) struct Table {
    pub(crate) rules: Vec<Arc<Active>>,
    pub(crate) places: Vec<Places>,
    classes: Classes,
    memory: Memory,
    streams_max: Option<u32>,
    /// As they were written.
    written: Rules,
}

/// A concurrency rule at work.
pub(crate) struct Places {
    pub(crate) rule: Concurrency,
    pub(crate) limiter: Arc<Limiter>,
}

/// A rule with its buckets.
pub(crate) struct Active {
    /// Told apart from all rules there ever were: a connection's buckets belong to one.
    id: u64,
    pub(crate) rule: Rule,
    name: Arc<str>,
    quota: Quota,
    pub(crate) shared: Arc<Shared>,
    pub(crate) counters: RuleCounters,
}

/// Buckets that outlive a change of the rule's numbers.
#[derive(Default)]
pub(crate) struct Shared {
    global: Bucket,
    pub(crate) keyed: Keyed,
}

impl Shared {
    fn change(&self, from: Quota, to: Quota, now: u64) {
        if from != to {
            self.global.change(from, to, now);
            self.keyed.change(from, to, now);
        }
    }
}

/// A connection's own buckets. Dropping it frees them.
#[derive(Default)]
pub struct Scope(Mutex<Vec<Own>>);

/// A connection's bucket for a rule, as that was when it was last asked. There are as many as there are connections, so it is
/// small.
struct Own {
    rule: Arc<Active>,
    bucket: Bucket,
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.0.table.load();
        f.debug_list()
            .entries(table.rules.iter().map(|rule| &rule.name))
            .finish()
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new()
    }
}

impl Limits {
    /// No limits.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            flags: AtomicU8::new(0),
            table: ArcSwap::default(),
            changing: Mutex::new(0),
            began: Instant::now(),
            metrics: LimitMetrics::default(),
            overload: OverloadMetrics::default(),
            reading: Mutex::new(None),
        }))
    }

    /// These rules.
    ///
    /// # Errors
    /// Every problem of the rules.
    pub fn of(rules: &Rules) -> Result<Self, Vec<String>> {
        let limits = Self::new();
        limits.replace(rules, Instant::now())?;
        Ok(limits)
    }

    /// Adds the metrics of the limits to a registry.
    ///
    /// # Errors
    /// A name is taken: each registry can have one set of limits.
    pub fn register_metrics(&self, metrics: &Metrics) -> Result<(), DuplicateMetric> {
        self.0.metrics.register(metrics)?;
        self.0.overload.register(self, metrics)
    }

    /// Puts `rules` in place of those there are. A rule that keeps its name and who shares its buckets keeps the
    /// buckets, so nobody gets a second burst.
    ///
    /// # Errors
    /// Every problem of the rules; the old ones stay.
    pub fn replace(&self, rules: &Rules, now: Instant) -> Result<(), Vec<String>> {
        self.put(&mut self.0.changing.lock(), rules, now)
    }

    /// Gives token buckets another rate (`200/s`): those of the rule of this name, or of the rules whose methods say just
    /// that. The log says so.
    ///
    /// # Errors
    /// There is no such rule, or the rate is none; nothing changes.
    pub fn update(&self, rule: &str, rate: &str) -> Result<(), Vec<String>> {
        let mut last_id = self.0.changing.lock();
        let mut rules = self.0.table.load().written.clone();
        let meant =
            |known: &&mut Rule| known.name == rule || known.methods.iter().any(|method| method == rule);
        let mut changed = Vec::new();
        for known in rules.rules.iter_mut().filter(meant) {
            let before = std::mem::replace(&mut known.rate, rate.to_owned());
            changed.push((known.name.clone(), before));
        }
        if changed.is_empty() {
            let names: Vec<_> = rules.rules.iter().map(|known| &*known.name).collect();
            return Err(vec![format!("there is no rule {rule:?}, only {names:?}")]);
        }
        self.put(&mut last_id, &rules, Instant::now())?;
        for (rule, before) in changed {
            tracing::info!(rule, before, now = rate, "a rate limit was changed");
        }
        Ok(())
    }

    fn put(&self, last_id: &mut u64, rules: &Rules, now: Instant) -> Result<(), Vec<String>> {
        rules.validate()?;
        let before = self.0.table.load();
        let mut active = Vec::with_capacity(rules.rules.len());
        for rule in &rules.rules {
            let same = before
                .rules
                .iter()
                .find(|old| *old.name == *rule.name && old.rule.per == rule.per);
            let quota = rule.quota().map_err(|problem| vec![problem])?;
            let (id, shared) = match same {
                Some(old) => {
                    old.shared.change(old.quota, quota, self.ticks(now));
                    (old.id, Arc::clone(&old.shared))
                }
                None => {
                    *last_id += 1;
                    (*last_id, Arc::default())
                }
            };
            active.push(Arc::new(Active {
                id,
                rule: rule.clone(),
                name: rule.name.as_str().into(),
                quota,
                shared,
                counters: self.0.metrics.of_rule(&rule.name),
            }));
        }
        self.0.metrics.keep(active.iter().map(|rule| &*rule.name));
        let table = Table {
            rules: active,
            places: self.places(&before, rules),
            classes: rules.classes.clone(),
            memory: rules.memory.clone(),
            streams_max: rules.concurrency.iter().find_map(Concurrency::streams_max),
            written: rules.clone(),
        };
        let (buckets, places) = (!table.rules.is_empty(), !table.places.is_empty());
        self.0.table.store(Arc::new(table));
        self.there_are(buckets, places);
        Ok(())
    }

    /// The counter that buckets go by. It begins at 1: 0 is a bucket's "never".
    fn ticks(&self, now: Instant) -> u64 {
        ticks(now.saturating_duration_since(self.0.began)).wrapping_add(1)
    }

    /// Asks every token bucket that is about the call, and whether there is memory for one of its class.
    ///
    /// # Errors
    /// The first rule that refuses; what the ones before it gave is given back.
    pub fn admit(&self, ask: &Ask<'_>, scope: &Scope, now: Instant) -> Result<(), Refused> {
        if self.is_idle() {
            return Ok(());
        }
        let table = self.0.table.load();
        self.spare(ask.method, &table)?;
        let now = self.ticks(now);
        let about = |rule: &&Arc<Active>| rule.is_about(ask.method);
        for (n, rule) in table.rules.iter().filter(about).enumerate() {
            let taken = rule.with_bucket(ask, scope, now, |bucket| bucket.take(rule.quota, now));
            if let Err(retry_after) = taken {
                for before in table.rules.iter().filter(about).take(n) {
                    before.with_bucket(ask, scope, now, |bucket| bucket.give_back(before.quota));
                }
                rule.counters.refused.inc();
                let refused = Refused {
                    rule: Arc::clone(&rule.name),
                    retry_after,
                    cause: Cause::Rate,
                };
                return Err(refused.traced(ask.method));
            }
            rule.counters.admitted.inc();
        }
        Ok(())
    }
}

impl Active {
    /// Buckets in use, but for those of connections, which lie with them.
    pub(crate) fn keys(&self) -> Option<usize> {
        match self.rule.per {
            Per::Global => Some(1),
            Per::Connection => None,
            _ => Some(self.shared.keyed.len()),
        }
    }

    fn is_about(&self, method: &str) -> bool {
        self.rule.methods.is_empty() || glob::any(&self.rule.methods, method)
    }

    /// Does something with the bucket that a call takes from.
    fn with_bucket<T>(
        self: &Arc<Self>,
        ask: &Ask<'_>,
        scope: &Scope,
        now: u64,
        work: impl FnOnce(&Bucket) -> T,
    ) -> T {
        let key = match &self.rule.per {
            Per::Global => return work(&self.shared.global),
            Per::Connection => return scope.with_bucket(self, now, work),
            Per::Method => ask.method,
            Per::Peer => ask.peer,
            Per::Metadata(name) => (ask.metadata)(name).unwrap_or_default(),
        };
        self.shared.keyed.with_bucket(key, self.quota, now, work)
    }
}

impl Scope {
    /// Does something with the connection's bucket for a rule.
    fn with_bucket<T>(&self, rule: &Arc<Active>, now: u64, work: impl FnOnce(&Bucket) -> T) -> T {
        let mut buckets = self.0.lock();
        let at = buckets
            .iter()
            .position(|own| own.rule.id == rule.id)
            .unwrap_or_else(|| {
                // Rules that are gone leave their buckets behind; ids only grow, so the oldest go first.
                if buckets.len() >= RULES_MAX {
                    buckets.remove(0);
                }
                // No room that is not needed.
                buckets.reserve_exact(1);
                buckets.push(Own {
                    rule: Arc::clone(rule),
                    bucket: Bucket::default(),
                });
                buckets.len() - 1
            });
        let own = &mut buckets[at];
        if !Arc::ptr_eq(&own.rule, rule) {
            if own.rule.quota != rule.quota {
                own.bucket.change(own.rule.quota, rule.quota, now);
            }
            own.rule = Arc::clone(rule);
        }
        work(&own.bucket)
    }
}

mod overload;
#[cfg(test)]
mod tests;
