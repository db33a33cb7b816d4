//! `/debug/flow`: who is connected and what limits do, as a page.
//!
//! It shows names and addresses of clients. While authentication is off, whoever reaches the port can read every key, and
//! may see the page where `/metrics` is served. While it is on, administrators may: by their token, or by their
//! certificate.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use setpoint_flow::page;

use super::auth::Caller;
use super::connection::Client;
use super::http::text;
use super::server::Shared;

/// Answers a request for the page or its parts.
pub(super) fn respond(shared: &Shared, client: &Client, head: &Parts) -> Response<Bytes> {
    if !matches!(head.method, Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n".to_owned());
        let allowed = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, allowed);
        return response;
    }
    let caller = Caller::of(&head.headers, client.common_name.as_ref());
    let access = shared.auth.access(&caller);
    if access.named().is_err() {
        let mut response = text(StatusCode::UNAUTHORIZED, "a token is needed\n".to_owned());
        let scheme = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
        return response;
    }
    if access.admin().is_err() {
        return text(
            StatusCode::FORBIDDEN,
            "this page is for administrators\n".to_owned(),
        );
    }
    let format = page::format(head.uri.query().unwrap_or_default());
    let limits = shared.options.limits.as_ref();
    let Some(document) = page::respond(format, limits, Some(&shared.options.flow)) else {
        return text(StatusCode::NOT_FOUND, "404 page not found\n".to_owned());
    };
    let mut response = Response::new(Bytes::from(document.body));
    let kind = [(CONTENT_TYPE.as_str(), document.content_type)];
    for (name, value) in kind.into_iter().chain(page::HEADERS) {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}
