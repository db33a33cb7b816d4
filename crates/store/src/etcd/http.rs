//! The HTTP endpoints beside gRPC, as in etcd's `server/etcdserver/api/etcdhttp`.

use std::fmt::Write as _;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Response, StatusCode, Uri};
use setpoint_telemetry::Metrics;

use super::listen::Serves;
use super::server::Shared;
use super::{CLUSTER_VERSION, ETCD_VERSION, status, vars};
use crate::types::{Alarm, AlarmKind, Range};

const METRICS: &str = "/metrics";
const VARS: &str = "/debug/vars";
const LIVE: [&str; 1] = ["serializable_read"];
const READY: [&str; 4] = [
    "data_corruption",
    "linearizable_read",
    "non_learner",
    "serializable_read",
];

/// Answers one request.
pub(super) fn respond(shared: &Shared, serves: Serves, method: &Method, uri: &Uri) -> Response<Bytes> {
    let path = uri.path();
    let Some(answer) =
        route(path).filter(|_| serves != Serves::Metrics || !matches!(path, "/version" | VARS))
    else {
        return text(StatusCode::NOT_FOUND, "404 page not found\n".to_owned());
    };
    // Prometheus' handler takes every method.
    if method != Method::GET && path != METRICS {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n".to_owned());
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    answer(shared, &Query(uri.query().unwrap_or_default()), path)
}

type Answer = fn(&Shared, &Query<'_>, &str) -> Response<Bytes>;

fn route(path: &str) -> Option<Answer> {
    match path {
        "/health" => Some(|shared, query, _| health(shared, query)),
        "/version" => Some(|_, _, _| version()),
        METRICS => Some(|shared, _, _| metrics(shared)),
        VARS => Some(|shared, _, _| vars::answer(shared)),
        "/livez" => Some(|shared, query, _| all_checks(shared, query, "livez", &LIVE)),
        "/readyz" => Some(|shared, query, _| all_checks(shared, query, "readyz", &READY)),
        _ if one("/livez/", &LIVE, path).is_some() => {
            Some(|shared, query, path| checks(shared, query, "livez", one("/livez/", &LIVE, path).as_slice()))
        }
        _ if one("/readyz/", &READY, path).is_some() => Some(|shared, query, path| {
            checks(shared, query, "readyz", one("/readyz/", &READY, path).as_slice())
        }),
        _ => None,
    }
}

/// The check that a path below `prefix` names.
fn one(prefix: &str, known: &[&'static str], path: &str) -> Option<&'static str> {
    let name = path.strip_prefix(prefix)?;
    known.iter().copied().find(|known| *known == name)
}

/// A query string; names and values here never need decoding.
struct Query<'a>(&'a str);

impl Query<'_> {
    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.split('&').filter_map(move |pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        })
    }
}

fn health(shared: &Shared, query: &Query<'_>) -> Response<Bytes> {
    let excluded = |kind: AlarmKind| query.values("exclude").any(|name| name == kind.name());
    let alarms = shared.store.alarms();
    let problem = match alarms.iter().find(|alarm| !excluded(alarm.kind)) {
        Some(alarm) => Some(format!("ALARM {}", alarm.kind.name())),
        None => readable(shared).err().map(|error| format!("RANGE ERROR:{error}")),
    };
    match problem {
        None => {
            shared.metrics.health_success.inc();
            text(StatusCode::OK, r#"{"health":"true","reason":""}"#.to_owned())
        }
        Some(reason) => {
            shared.metrics.health_failures.inc();
            let reason = serde_json::Value::from(reason);
            let body = format!("{{\"health\":\"false\",\"reason\":{reason}}}\n");
            text(StatusCode::SERVICE_UNAVAILABLE, body)
        }
    }
}

fn readable(shared: &Shared) -> Result<(), crate::Error> {
    shared.store.range(&Range::key(&b"health"[..])).map(drop)
}

/// All checks of a kind, but for those the query leaves out.
fn all_checks(
    shared: &Shared,
    query: &Query<'_>,
    kind: &'static str,
    names: &[&'static str],
) -> Response<Bytes> {
    let names = names.iter().copied();
    let left: Vec<_> = names
        .filter(|name| !query.values("exclude").any(|excluded| excluded == *name))
        .collect();
    checks(shared, query, kind, &left)
}

fn checks(shared: &Shared, query: &Query<'_>, kind: &'static str, names: &[&'static str]) -> Response<Bytes> {
    let mut report = String::new();
    let mut failed = false;
    for name in names {
        let result = check(shared, name);
        shared.metrics.checked(kind, name, result.is_ok());
        // Writing to a string does not fail.
        let _ = match result {
            Ok(()) => writeln!(report, "[+]{name} ok"),
            Err(error) => {
                failed = true;
                writeln!(report, "[-]{name} failed: {error}")
            }
        };
    }
    if failed {
        // Go's server ends an error's text with a newline of its own.
        report.push('\n');
        return text(StatusCode::SERVICE_UNAVAILABLE, report);
    }
    if query.values("verbose").next().is_none() {
        report.clear();
    }
    report.push_str("ok\n");
    text(StatusCode::OK, report)
}

fn check(shared: &Shared, name: &str) -> Result<(), String> {
    let corrupt = |alarm: &Alarm| alarm.kind == AlarmKind::Corrupt;
    match name {
        "data_corruption" if shared.store.alarms().iter().any(corrupt) => {
            Err("alarm activated: CORRUPT".to_owned())
        }
        // The one member never learns.
        "data_corruption" | "non_learner" => Ok(()),
        _ => readable(shared).map_err(|error| status::status(&error).message().to_owned()),
    }
}

fn version() -> Response<Bytes> {
    let body = format!(
        r#"{{"etcdserver":"{ETCD_VERSION}","etcdcluster":"{CLUSTER_VERSION}","storage":"{CLUSTER_VERSION}"}}"#
    );
    let mut response = text(StatusCode::OK, body);
    set(&mut response, CONTENT_TYPE, "application/json");
    response
}

fn metrics(shared: &Shared) -> Response<Bytes> {
    let Some(metrics) = &shared.options.metrics else {
        return text(StatusCode::NOT_FOUND, "404 page not found\n".to_owned());
    };
    let mut response = text(StatusCode::OK, metrics.encode());
    set(&mut response, CONTENT_TYPE, Metrics::CONTENT_TYPE);
    response
}

pub(super) fn text(status: StatusCode, body: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    set(&mut response, CONTENT_TYPE, "text/plain; charset=utf-8");
    set(&mut response, X_CONTENT_TYPE_OPTIONS, "nosniff");
    response
}

fn set(response: &mut Response<Bytes>, name: HeaderName, value: &'static str) {
    response
        .headers_mut()
        .insert(name, HeaderValue::from_static(value));
}
