//! The HTTP endpoints beside gRPC, as in etcd's `server/etcdserver/api/etcdhttp`.

use std::fmt::Write as _;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Response, StatusCode, Uri};
use setpoint_telemetry::Metrics;

use super::listen::Serves;
use super::server::Shared;
use super::{CLUSTER_VERSION, ETCD_VERSION};
use crate::types::Range;

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
    let Some(answer) = route(path).filter(|_| serves != Serves::Metrics || path != "/version") else {
        return text(StatusCode::NOT_FOUND, "404 page not found\n".to_owned());
    };
    if method != Method::GET {
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
        "/metrics" => Some(|shared, _, _| metrics(shared)),
        "/livez" => Some(|shared, query, _| checks(shared, query, &LIVE)),
        "/readyz" => Some(|shared, query, _| checks(shared, query, &READY)),
        _ => {
            let known = path
                .strip_prefix("/livez/")
                .is_some_and(|name| LIVE.contains(&name))
                || path
                    .strip_prefix("/readyz/")
                    .is_some_and(|name| READY.contains(&name));
            known.then_some(|shared, query, path| {
                let name = path.rsplit('/').next().unwrap_or_default();
                checks(shared, query, &[name])
            })
        }
    }
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
    let alarmed = shared.store.status().no_space && !query.values("exclude").any(|name| name == "NOSPACE");
    let problem = if alarmed {
        Some("ALARM NOSPACE".to_owned())
    } else {
        readable(shared).err().map(|error| format!("RANGE ERROR:{error}"))
    };
    match problem {
        None => text(StatusCode::OK, r#"{"health":"true","reason":""}"#.to_owned()),
        Some(reason) => text(
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "{{\"health\":\"false\",\"reason\":\"{}\"}}\n",
                reason.escape_default()
            ),
        ),
    }
}

fn readable(shared: &Shared) -> Result<(), crate::Error> {
    shared.store.range(&Range::key(&b"health"[..])).map(drop)
}

fn checks(shared: &Shared, query: &Query<'_>, names: &[&str]) -> Response<Bytes> {
    let mut report = String::new();
    let mut failed = false;
    for name in names {
        if names.len() > 1 && query.values("exclude").any(|excluded| excluded == *name) {
            continue;
        }
        let result = match *name {
            // One member, whose records have checksums: damage stops it, and it never learns.
            "data_corruption" | "non_learner" => Ok(()),
            _ => readable(shared),
        };
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
        return text(StatusCode::SERVICE_UNAVAILABLE, report);
    }
    if query.values("verbose").next().is_none() {
        report.clear();
    }
    report.push_str("ok\n");
    text(StatusCode::OK, report)
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
