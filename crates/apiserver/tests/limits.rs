//! Rate limits: who is refused, with what, and who is not asked.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use setpoint_apiserver::{Identity, Options};
use setpoint_flow::{Concurrency, Find, Limits, Per, Rule, Rules, Scope};
use tokio::time::Instant;
use tower::ServiceExt as _;

use crate::harness::Plane;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn rule(name: &str, methods: &[&str], per: Per) -> Rule {
    Rule {
        name: name.to_owned(),
        methods: methods.iter().map(|&method| method.to_owned()).collect(),
        per,
        rate: "1/h".to_owned(),
        burst: Some(2),
    }
}

/// A plane, and what it answers on a connection: code, Retry-After, message.
async fn ask(plane: &Plane, scope: &Arc<Scope>, path: &str) -> (u16, Option<String>, String) {
    let request = Request::get(path)
        .extension(Identity::loopback())
        .extension(Arc::clone(scope))
        .body(Full::new(Bytes::new()))
        .unwrap();
    let response = plane.server.service().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let after = parts.headers.get("retry-after");
    let after = after.map(|value| value.to_str().unwrap().to_owned());
    let message = json["message"].as_str().unwrap_or_default().to_owned();
    (parts.status.as_u16(), after, message)
}

#[tokio::test]
async fn a_refused_request_gets_429_with_the_time_to_come_again() {
    let limits = Limits::new();
    let rules = vec![
        rule("lists", &["list configmaps"], Per::Connection),
        rule("lease-gets", &["get leases.coordination.k8s.io"], Per::Peer),
    ];
    let rules = Rules {
        rules,
        ..Rules::default()
    };
    limits.replace(&rules, Instant::now()).unwrap();
    let options = Options {
        limits: Some(limits),
        ..Options::default()
    };
    let plane = Plane::with(options, |_| ()).await;
    let (noisy, quiet) = (Arc::<Scope>::default(), Arc::<Scope>::default());
    for _ in 0..2 {
        assert_eq!(ask(&plane, &noisy, MAPS).await.0, 200);
    }
    let (code, after, message) = ask(&plane, &noisy, MAPS).await;
    assert_eq!(code, 429);
    assert_eq!(after.as_deref(), Some("3600"));
    assert!(message.contains("\"lists\""), "{message}");
    // Another connection, another verb, and the plane's own loops, which come on none.
    assert_eq!(ask(&plane, &quiet, MAPS).await.0, 200);
    assert_eq!(ask(&plane, &noisy, &format!("{MAPS}/none")).await.0, 404);
    plane.get(MAPS).await.expect(200);
    // One user on two connections.
    let lease = "/apis/coordination.k8s.io/v1/namespaces/default/leases/none";
    for (scope, code) in [(&noisy, 404), (&quiet, 404), (&noisy, 429), (&quiet, 429)] {
        assert_eq!(ask(&plane, scope, lease).await.0, code);
    }
}

#[tokio::test]
async fn the_page_is_for_whom_may_read_metrics() {
    let plane = Plane::with(Options::default(), |_| ()).await;
    let anonymous = Identity::anonymous();
    for (identity, code) in [(Identity::loopback(), 200), (anonymous, 403)] {
        for path in ["/debug/flow", "/debug/flow?format=json", "/metrics"] {
            let request = Request::get(path).extension(identity.clone());
            let request = request.body(Full::new(Bytes::new())).unwrap();
            let response = plane.server.service().oneshot(request).await.unwrap();
            assert_eq!(response.status().as_u16(), code, "{path}");
            let policy = response.headers().get("content-security-policy");
            assert_eq!(policy.is_some(), code == 200 && path != "/metrics", "{path}");
        }
    }
}

#[tokio::test]
async fn a_request_without_a_place_gets_429_and_watches_need_none() {
    let limits = Limits::new();
    let one = Concurrency {
        name: "reads".to_owned(),
        methods: vec!["* configmaps".to_owned()],
        per: Per::Global,
        limit: Find::fixed(1),
        min: None,
        max: None,
        queue: Some(0),
        wait: None,
    };
    let rules = Rules {
        concurrency: vec![one],
        ..Rules::default()
    };
    limits.replace(&rules, Instant::now()).unwrap();
    let options = Options {
        limits: Some(limits.clone()),
        ..Options::default()
    };
    let plane = Plane::with(options, |_| ()).await;
    let scope = Arc::<Scope>::default();
    let watch = Request::get(format!("{MAPS}?watch=1"))
        .extension(Identity::loopback())
        .extension(Arc::clone(&scope))
        .body(Full::new(Bytes::new()))
        .unwrap();
    let watch = plane.server.service().oneshot(watch).await.unwrap();
    assert_eq!(watch.status().as_u16(), 200);
    assert_eq!(
        ask(&plane, &scope, MAPS).await.0,
        200,
        "a place for one, and the watch has none"
    );
    let held = limits.enter("list configmaps").await.unwrap();
    let (code, after, message) = ask(&plane, &scope, MAPS).await;
    assert_eq!((code, after.as_deref()), (429, Some("1")), "{message}");
    assert!(message.contains("overloaded: limit \"reads\""), "{message}");
    drop(held);
    assert_eq!(ask(&plane, &scope, MAPS).await.0, 200);
}
