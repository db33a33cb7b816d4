//! Rules at work, call by call.

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
    let rules = Rules {
        rules,
        ..Rules::default()
    };
    limits.replace(&rules, Instant::now()).unwrap();
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
        ..Rules::default()
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
        ..Rules::default()
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
