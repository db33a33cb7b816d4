//! Rules at work, call by call.

use super::*;
use crate::core::memory::Pressure;
use crate::overload::Find;

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

#[test]
fn a_million_connections_have_buckets_in_64_mb() {
    let limits = limits(vec![rule("each", Per::Connection, "10/s", 5)]);
    let scope = Scope::default();
    limits.admit(&ask("m", "p"), &scope, Instant::now()).unwrap();
    let buckets = scope.0.lock().capacity() * size_of::<Own>();
    assert!(
        size_of::<Scope>() + buckets <= 64,
        "{} + {buckets}",
        size_of::<Scope>()
    );
}

#[test]
fn a_flood_of_a_minute_is_admitted_to_the_permit() {
    let limits = limits(vec![rule("each", Per::Connection, "100/s", 200)]);
    let (noisy, quiet, began) = (Scope::default(), Scope::default(), Instant::now());
    let (mut admitted, mut others) = (0, 0);
    for millis in 0..60_000 {
        let now = began + Duration::from_millis(millis);
        admitted += usize::from(limits.admit(&ask("m", "p"), &noisy, now).is_ok());
        if millis % 20 == 0 {
            others += usize::from(limits.admit(&ask("m", "p"), &quiet, now).is_ok());
        }
    }
    assert!((6_138..=6_262).contains(&admitted), "{admitted}");
    assert_eq!(others, 3_000, "its neighbour is not concerned");
}

#[test]
fn while_memory_is_short_the_least_important_are_refused() {
    let limits = Limits::new();
    let (scope, now) = (Scope::default(), Instant::now());
    let refused = |limits: &Limits| {
        ["/etcdserverpb.Lease/LeaseGrant", "get pods", "list pods"]
            .map(|method| limits.admit(&ask(method, "p"), &scope, now).is_err())
    };
    assert_eq!(refused(&limits), [false; 3]);
    limits.set_pressure(Pressure::Batch, None);
    assert_eq!(refused(&limits), [false, false, true]);
    limits.set_pressure(Pressure::Interactive, None);
    assert_eq!(refused(&limits), [false, true, true]);
    let told = limits.admit(&ask("get pods", "p"), &scope, now).unwrap_err();
    assert_eq!(
        told.to_string(),
        "memory is short: calls of the class interactive are refused: retry in 3000 ms"
    );
    // Rules that come and go leave it as it is.
    limits.replace(&Rules::default(), now).unwrap();
    assert_eq!(refused(&limits), [false, true, true]);
    limits.set_pressure(Pressure::None, None);
    assert!(limits.is_idle());
}

#[tokio::test(start_paused = true)]
async fn concurrency_rules_come_change_and_go_with_their_metrics() {
    let (limits, metrics) = (Limits::new(), Metrics::new());
    limits.register_metrics(&metrics).unwrap();
    let with = |limit| Rules {
        concurrency: vec![Concurrency {
            name: "kv".to_owned(),
            methods: vec!["/kv/*".to_owned()],
            per: Per::Global,
            limit: Find::fixed(limit),
            min: None,
            max: None,
            queue: None,
            wait: None,
        }],
        ..Rules::default()
    };
    limits.replace(&with(1), Instant::now()).unwrap();
    let permit = limits.enter("/kv/put").await.unwrap();
    assert!(permit.is_limited());
    assert!(!limits.enter("/other/put").await.unwrap().is_limited());
    let refused = limits.enter("/kv/put").await.unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("overloaded: limit \"kv\" had no place in time"),
        "{refused}"
    );
    let text = metrics.encode();
    for line in [
        "flow_concurrency_limit{rule=\"kv\"} 1",
        "flow_concurrency_in_flight{rule=\"kv\"} 1",
        "flow_concurrency_refused_total{rule=\"kv\",class=\"interactive\"} 1",
        "flow_concurrency_queued_total{rule=\"kv\",class=\"interactive\"} 1",
        "flow_memory_pressure 0",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    limits.replace(&with(2), Instant::now()).unwrap();
    let second = limits.enter("/kv/put").await.unwrap();
    limits.replace(&Rules::default(), Instant::now()).unwrap();
    assert!(!limits.enter("/kv/put").await.unwrap().is_limited());
    drop((permit, second));
    assert!(!metrics.encode().contains("kv"));
}

#[test]
fn classes_are_those_of_the_file_or_the_built_in_ones() {
    let class = |classes: &str, method: &str| {
        let classes: Classes = serde_json::from_str(classes).unwrap();
        classes.of(method)
    };
    for (classes, method, expect) in [
        ("{}", "/etcdserverpb.Lease/LeaseKeepAlive", Class::System),
        ("{}", "update leases.coordination.k8s.io", Class::System),
        ("{}", "list leases.coordination.k8s.io", Class::System),
        ("{}", "patch nodes/status", Class::System),
        ("{}", "list pods", Class::Batch),
        ("{}", "create events", Class::Batch),
        ("{}", "/etcdserverpb.KV/Range?wide", Class::Batch),
        ("{}", "/etcdserverpb.KV/Range", Class::Interactive),
        ("{}", "get pods", Class::Interactive),
        (r#"{"batch": []}"#, "list pods", Class::Interactive),
        (r#"{"system": ["get *"]}"#, "get pods", Class::System),
        (r#"{"system": ["get *"]}"#, "list pods", Class::Batch),
    ] {
        assert_eq!(class(classes, method), expect, "{classes} {method}");
    }
}

#[test]
fn a_clock_that_jumps_gives_nobody_more_than_a_burst() {
    let limits = limits(vec![rule("r", Per::Connection, "10/s", 5)]);
    let (scope, now) = (Scope::default(), Instant::now() + Duration::from_secs(1_000));
    let ask = ask("m", "p");
    assert_eq!(admitted(&limits, &ask, &scope, now, 100), 5);
    // Back, further back, and forth by years: nothing extra, and nobody waits for years.
    for (at, expect) in [
        (now - Duration::from_millis(50), 0),
        (now - Duration::from_secs(3), 0),
        (now + Duration::from_secs(3 << 30), 5),
    ] {
        assert_eq!(admitted(&limits, &ask, &scope, at, 100), expect, "{:?}", at - now);
        let refused = limits.admit(&ask, &scope, at).unwrap_err();
        assert!(refused.retry_after <= Duration::from_secs(4), "{refused:?}");
    }
}
