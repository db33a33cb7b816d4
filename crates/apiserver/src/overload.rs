//! What limits say to a request: token buckets and memory at its beginning, a place among those that are served at a time
//! once its body is there.

use http::{HeaderValue, Method, Response, StatusCode};
use setpoint_apimachinery::Status;
use setpoint_flow::{Ask, Limits, Outcome, Permit, Refused, page};
use tokio::time::Instant;

use crate::answer;
use crate::body::ApiBody;
use crate::request::ResourcePath;
use crate::server::{Head, Server};

/// What rules call a request: verb, resource, group, subresource.
fn method(path: &ResourcePath, verb: &str) -> String {
    let dot = if path.group.is_empty() { "" } else { "." };
    let slash = if path.subresource.is_empty() { "" } else { "/" };
    format!(
        "{verb} {}{dot}{}{slash}{}",
        path.resource, path.group, path.subresource
    )
}

/// The limits that a request is asked for. What comes from within the process, on no connection, is not limited.
fn limits<'a>(server: &'a Server, head: &Head) -> Option<&'a Limits> {
    head.connection.as_ref()?;
    server.options.limits.as_ref()
}

fn status(refused: &Refused) -> Status {
    let seconds = refused.retry_after.as_nanos().div_ceil(1_000_000_000);
    let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
    Status::rate_limited(refused.to_string(), seconds.max(1))
}

/// Asks rate limits and memory, if there are any limits.
///
/// # Errors
/// 429 with the time to come again.
pub(crate) fn admit(server: &Server, head: &Head, path: &ResourcePath, verb: &str) -> Result<(), Status> {
    let (Some(limits), Some(connection)) = (limits(server, head), &head.connection) else {
        return Ok(());
    };
    if limits.is_idle() {
        return Ok(());
    }
    let ask = Ask {
        method: &method(path, verb),
        peer: &head.identity.user,
        metadata: &|name| head.headers.get(name)?.to_str().ok(),
    };
    limits
        .admit(&ask, connection, Instant::now())
        .map_err(|refused| status(&refused))
}

/// A request's place.
pub(crate) struct Place {
    permit: Option<Permit>,
    late: Instant,
}

/// A place among the requests that are served at a time, where that is limited. Watches need none: they stay.
///
/// # Errors
/// 429 when there was none in time.
pub(crate) async fn enter(
    server: &Server,
    head: &Head,
    path: &ResourcePath,
    verb: &str,
) -> Result<Option<Place>, Status> {
    let Some(limits) = limits(server, head).filter(|limits| limits.has_door() && verb != "watch") else {
        return Ok(None);
    };
    let permit = limits.enter(&method(path, verb)).await;
    let permit = permit.map_err(|refused| status(&refused))?;
    Ok(permit.is_limited().then(|| Place {
        permit: Some(permit),
        late: Instant::now() + server.options.request_timeout / 2,
    }))
}

impl Place {
    /// The request is answered.
    pub(crate) fn end(mut self, result: &Result<Response<ApiBody>, Status>) {
        let served = result
            .as_ref()
            .is_ok_and(|response| response.status().is_success());
        let outcome = if served { Outcome::Served } else { Outcome::Ignored };
        if let Some(permit) = self.permit.take() {
            permit.finish(outcome);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Given up after that long, it was too slow; before, its client had less patience than we.
        if let Some(permit) = self.permit.take()
            && Instant::now() >= self.late
        {
            permit.finish(Outcome::Dropped);
        }
    }
}

/// The page that shows what limits do. Who may see it was decided before, as for `/metrics`.
pub(crate) fn debug(server: &Server, head: &Head) -> Response<ApiBody> {
    if !matches!(head.method, Method::GET | Method::HEAD) {
        return answer::text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
    }
    let limits = server.options.limits.as_ref();
    let format = head.query.get("format").unwrap_or("html");
    let Some(document) = page::respond(format, limits, server.options.flow.as_ref()) else {
        return answer::text(StatusCode::NOT_FOUND, "404 page not found\n");
    };
    let mut response = answer::bytes(StatusCode::OK, document.content_type, document.body);
    for (name, value) in page::HEADERS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}
