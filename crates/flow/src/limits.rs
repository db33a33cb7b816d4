//! Rules at work: which buckets a call takes from, and what it is told when one is empty.
//!
//! [`Limits`] is shared by all listeners of a process; each connection has a [`Scope`] for the buckets that are its
//! own, which go with it. Rules are replaced as a whole while calls go on: a call sees the old ones or the new ones.
//! Without rules a call costs one atomic load.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use setpoint_telemetry::{DuplicateMetric, Metrics};
use tokio::time::Instant;

use crate::core::bucket::{Bucket, Quota};
use crate::core::glob;
use crate::core::rate::ticks;
use crate::keyed::Keyed;
use crate::metrics::{LimitMetrics, RuleCounters};
use crate::rules::{Per, RULES_MAX, Rules};

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
#[error("rate limit {rule:?} is used up: retry in {} ms", .retry_after.as_millis().max(1))]
pub struct Refused {
    /// The rule that refused.
    pub rule: Arc<str>,
    /// When asking again can succeed.
    pub retry_after: Duration,
}

/// The limits of a process. Cloning gives another handle to the same ones.
#[derive(Clone)]
pub struct Limits(Arc<Inner>);

struct Inner {
    table: ArcSwap<Table>,
    /// Serialises changes.
    changing: Mutex<u64>,
    began: Instant,
    metrics: LimitMetrics,
}

#[derive(Default)]
struct Table {
    rules: Vec<Arc<Active>>,
}

/// A rule with its buckets.
struct Active {
    /// Told apart from all rules there ever were: a connection's buckets belong to one.
    id: u64,
    name: Arc<str>,
    methods: Vec<String>,
    per: Per,
    quota: Quota,
    shared: Arc<Shared>,
    counters: RuleCounters,
}

/// Buckets that outlive a change of the rule's numbers.
#[derive(Default)]
struct Shared {
    global: Bucket,
    keyed: Keyed,
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

/// A connection's bucket for the rule with this id, under the quota that it was last asked with.
struct Own {
    rule: u64,
    quota: Quota,
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
            table: ArcSwap::default(),
            changing: Mutex::new(0),
            began: Instant::now(),
            metrics: LimitMetrics::default(),
        }))
    }

    /// Adds the metrics of the limits to a registry.
    ///
    /// # Errors
    /// A name is taken: each registry can have one set of limits.
    pub fn register_metrics(&self, metrics: &Metrics) -> Result<(), DuplicateMetric> {
        self.0.metrics.register(metrics)
    }

    /// Puts `rules` in place of those there are. A rule that keeps its name and who shares its buckets keeps the
    /// buckets, so nobody gets a second burst.
    ///
    /// # Errors
    /// Every problem of the rules; the old ones stay.
    pub fn replace(&self, rules: &Rules, now: Instant) -> Result<(), Vec<String>> {
        rules.validate()?;
        let mut last_id = self.0.changing.lock();
        let before = self.0.table.load();
        let mut active = Vec::with_capacity(rules.rules.len());
        for rule in &rules.rules {
            let same = before
                .rules
                .iter()
                .find(|old| *old.name == *rule.name && old.per == rule.per);
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
                name: rule.name.as_str().into(),
                methods: rule.methods.clone(),
                per: rule.per.clone(),
                quota,
                shared,
                counters: self.0.metrics.of_rule(&rule.name),
            }));
        }
        self.0.metrics.keep(active.iter().map(|rule| &*rule.name));
        self.0.table.store(Arc::new(Table { rules: active }));
        Ok(())
    }

    /// The counter that buckets go by. It begins at 1: 0 is a bucket's "never".
    fn ticks(&self, now: Instant) -> u64 {
        ticks(now.saturating_duration_since(self.0.began)).wrapping_add(1)
    }

    /// Asks every rule that is about the call.
    ///
    /// # Errors
    /// The first rule that refuses; what the ones before it gave is given back.
    pub fn admit(&self, ask: &Ask<'_>, scope: &Scope, now: Instant) -> Result<(), Refused> {
        let table = self.0.table.load();
        if table.rules.is_empty() {
            return Ok(());
        }
        let now = self.ticks(now);
        let about = |rule: &&Arc<Active>| rule.is_about(ask.method);
        for (n, rule) in table.rules.iter().filter(about).enumerate() {
            let taken = rule.with_bucket(ask, scope, now, |bucket| bucket.take(rule.quota, now));
            if let Err(retry_after) = taken {
                for before in table.rules.iter().filter(about).take(n) {
                    before.with_bucket(ask, scope, now, |bucket| bucket.give_back(before.quota));
                }
                rule.counters.refused.inc();
                return Err(Refused {
                    rule: Arc::clone(&rule.name),
                    retry_after,
                });
            }
            rule.counters.admitted.inc();
        }
        Ok(())
    }
}

impl Active {
    fn is_about(&self, method: &str) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|pattern| glob::matches(pattern, method))
    }

    /// Does something with the bucket that a call takes from.
    fn with_bucket<T>(&self, ask: &Ask<'_>, scope: &Scope, now: u64, work: impl FnOnce(&Bucket) -> T) -> T {
        let key = match &self.per {
            Per::Global => return work(&self.shared.global),
            Per::Connection => return scope.with_bucket(self.id, self.quota, now, work),
            Per::Method => ask.method,
            Per::Peer => ask.peer,
            Per::Metadata(name) => (ask.metadata)(name).unwrap_or_default(),
        };
        self.shared.keyed.with_bucket(key, self.quota, now, work)
    }
}

impl Scope {
    /// Does something with the connection's bucket for a rule.
    fn with_bucket<T>(&self, rule: u64, quota: Quota, now: u64, work: impl FnOnce(&Bucket) -> T) -> T {
        let mut buckets = self.0.lock();
        let at = buckets
            .iter()
            .position(|own| own.rule == rule)
            .unwrap_or_else(|| {
                // Rules that are gone leave their buckets behind; ids only grow, so the oldest go first.
                if buckets.len() >= RULES_MAX {
                    buckets.remove(0);
                }
                buckets.push(Own {
                    rule,
                    quota,
                    bucket: Bucket::default(),
                });
                buckets.len() - 1
            });
        let own = &mut buckets[at];
        if own.quota != quota {
            own.bucket.change(own.quota, quota, now);
            own.quota = quota;
        }
        work(&own.bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Rule;

    fn rule(name: &str, per: Per, rate: &str, burst: u32) -> Rule {
        Rule {
            name: name.to_owned(),
            methods: Vec::new(),
            per,
            rate: rate.to_owned(),
            burst: Some(burst),
        }
    }

    fn limits(rules: Vec<Rule>) -> Limits {
        let limits = Limits::new();
        limits.replace(&Rules { rules }, Instant::now()).unwrap();
        limits
    }

    fn ask<'a>(method: &'a str, peer: &'a str) -> Ask<'a> {
        Ask {
            method,
            peer,
            metadata: &|key| (key == "tenant").then_some("blue"),
        }
    }

    /// How many of `tries` calls at one moment are admitted.
    fn admitted(limits: &Limits, ask: &Ask<'_>, scope: &Scope, now: Instant, tries: usize) -> usize {
        (0..tries)
            .filter(|_| limits.admit(ask, scope, now).is_ok())
            .count()
    }

    #[test]
    fn without_rules_everything_is_admitted() {
        let scope = Scope::default();
        let now = Instant::now();
        assert_eq!(
            admitted(&Limits::new(), &ask("m", "p"), &scope, now, 1_000),
            1_000
        );
    }

    #[test]
    fn one_noisy_connection_leaves_the_others_alone() {
        let limits = limits(vec![rule("each", Per::Connection, "10/s", 5)]);
        let (noisy, quiet, now) = (Scope::default(), Scope::default(), Instant::now());
        assert_eq!(admitted(&limits, &ask("m", "p"), &noisy, now, 1_000), 5);
        assert_eq!(admitted(&limits, &ask("m", "p"), &quiet, now, 5), 5);
    }

    #[test]
    fn methods_peers_and_tenants_have_buckets_of_their_own() {
        let now = Instant::now();
        for (per, again, another) in [
            (Per::Method, ask("a", "q"), ask("b", "p")),
            (Per::Peer, ask("b", "p"), ask("a", "q")),
        ] {
            let limits = limits(vec![rule("r", per, "1/s", 1)]);
            let scope = Scope::default();
            assert_eq!(admitted(&limits, &ask("a", "p"), &scope, now, 3), 1);
            assert_eq!(admitted(&limits, &again, &scope, now, 3), 0);
            assert_eq!(admitted(&limits, &another, &scope, now, 3), 1);
        }
        let limits = limits(vec![rule("r", Per::Metadata("tenant".to_owned()), "1/s", 1)]);
        let none = Ask {
            metadata: &|_| None,
            ..ask("a", "p")
        };
        assert_eq!(admitted(&limits, &ask("a", "p"), &Scope::default(), now, 3), 1);
        assert_eq!(admitted(&limits, &none, &Scope::default(), now, 3), 1);
    }

    #[test]
    fn a_rule_is_about_the_methods_it_names() {
        let limits = limits(vec![Rule {
            methods: vec!["/kv/*".to_owned(), "exact".to_owned()],
            ..rule("r", Per::Global, "1/s", 1)
        }]);
        let (scope, now) = (Scope::default(), Instant::now());
        assert_eq!(admitted(&limits, &ask("other", "p"), &scope, now, 9), 9);
        assert_eq!(admitted(&limits, &ask("/kv/put", "p"), &scope, now, 9), 1);
        assert_eq!(admitted(&limits, &ask("exact", "p"), &scope, now, 9), 0);
    }

    #[test]
    fn a_refusal_costs_nothing_elsewhere() {
        let limits = limits(vec![
            rule("wide", Per::Global, "1/s", 10),
            rule("narrow", Per::Peer, "1/s", 1),
        ]);
        let (scope, now) = (Scope::default(), Instant::now());
        assert_eq!(admitted(&limits, &ask("m", "noisy"), &scope, now, 100), 1);
        let others = (0..20)
            .filter(|n| limits.admit(&ask("m", &n.to_string()), &scope, now).is_ok())
            .count();
        assert_eq!(others, 9);
    }

    #[test]
    fn a_changed_rule_acts_at_once_and_gives_nobody_a_second_burst() {
        let limits = limits(vec![rule("r", Per::Connection, "10/s", 5)]);
        let (scope, now) = (Scope::default(), Instant::now());
        assert_eq!(admitted(&limits, &ask("m", "p"), &scope, now, 9), 5);
        let slower = Rules {
            rules: vec![rule("r", Per::Connection, "1/s", 5)],
        };
        limits.replace(&slower, now).unwrap();
        let refused = limits.admit(&ask("m", "p"), &scope, now).unwrap_err();
        assert_eq!(refused.retry_after, Duration::from_secs(1));
        let later = now + Duration::from_secs(2);
        assert_eq!(admitted(&limits, &ask("m", "p"), &scope, later, 9), 2);
        limits.replace(&Rules::default(), now).unwrap();
        assert_eq!(admitted(&limits, &ask("m", "p"), &scope, later, 9), 9);
    }

    #[test]
    fn wrong_rules_leave_the_old_ones_in_force() {
        let limits = limits(vec![rule("r", Per::Global, "1/s", 1)]);
        let wrong = Rules {
            rules: vec![rule("r", Per::Global, "fast", 1)],
        };
        assert!(limits.replace(&wrong, Instant::now()).is_err());
        let (scope, now) = (Scope::default(), Instant::now());
        assert_eq!(admitted(&limits, &ask("m", "p"), &scope, now, 3), 1);
    }

    #[test]
    fn refusals_name_the_rule_and_are_counted() {
        let metrics = Metrics::new();
        let limits = limits(vec![rule("puts", Per::Global, "1/s", 1)]);
        limits.register_metrics(&metrics).unwrap();
        let (scope, now) = (Scope::default(), Instant::now());
        assert_eq!(admitted(&limits, &ask("m", "p"), &scope, now, 3), 1);
        let refused = limits.admit(&ask("m", "p"), &scope, now).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "rate limit \"puts\" is used up: retry in 1000 ms"
        );
        let text = metrics.encode();
        assert!(
            text.contains("flow_limit_refused_total{rule=\"puts\"} 3"),
            "{text}"
        );
        limits.replace(&Rules::default(), now).unwrap();
        assert!(!metrics.encode().contains("puts"));
    }
}
