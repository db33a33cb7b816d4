//! Paths that are not about a resource: discovery, OpenAPI, health, version, metrics.

use std::sync::Arc;

use http::{Response, StatusCode, header};

use crate::body::ApiBody;
use crate::server::{Head, Server};

/// Answers a path outside `/api/V/…` and `/apis/G/V/…`. Authentication and authorisation are done.
pub(crate) async fn respond(_server: &Arc<Server>, _head: &Head) -> Response<ApiBody> {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// A plain text answer.
pub(crate) fn text(code: StatusCode, body: &'static str) -> Response<ApiBody> {
    let mut response = Response::new(ApiBody::full(body));
    *response.status_mut() = code;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
