//! Paths that are not about a resource: discovery, OpenAPI, health, version, metrics.

use std::sync::Arc;

use http::{Method, Response, StatusCode};
use serde_json::json;
use setpoint_flow::page;
use setpoint_telemetry::Metrics;

use crate::answer;
use crate::body::ApiBody;
use crate::health;
use crate::negotiate::{Answer, negotiate};
use crate::overload;
use crate::server::{Head, Server};
use crate::version;

/// Answers a path outside `/api/V/…` and `/apis/G/V/…`. Authentication and authorisation are done.
pub(crate) async fn respond(server: &Arc<Server>, head: &Head) -> Response<ApiBody> {
    if let Some(response) = health::respond(server, head).await {
        return response;
    }
    let snapshot = server.resources.snapshot();
    if let Some(response) = server.openapi.respond(&snapshot, head) {
        return response;
    }
    if let Some(response) = server.discovery.respond(&snapshot, head) {
        return response;
    }
    match head.path.trim_end_matches('/') {
        "/metrics" if head.method == Method::GET => answer::bytes(
            StatusCode::OK,
            Metrics::CONTENT_TYPE,
            server.options.metrics.encode(),
        ),
        page::PATH => overload::debug(server, head),
        "/version" => document(head, &version::document()),
        "" => document(head, &paths()),
        _ => answer::text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

/// A JSON document, or YAML for who prefers it.
fn document(head: &Head, json: &bytes::Bytes) -> Response<ApiBody> {
    if !matches!(head.method, Method::GET | Method::HEAD) {
        return answer::text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
    }
    match negotiate(&head.headers, &head.query, Answer::Object, false) {
        Ok(accepted) => answer::document(accepted, json),
        Err(status) => answer::status(&status),
    }
}

/// What `/` lists.
fn paths() -> bytes::Bytes {
    let paths = [
        "/api",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ];
    json!({ "paths": paths }).to_string().into()
}
