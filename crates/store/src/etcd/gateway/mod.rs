//! etcd's JSON gateway: its API for programs that have no gRPC.
//!
//! `POST /v3/kv/range` with `{"key":"Zm9v"}` is the call `etcdserverpb.KV/Range` with that message: bytes are base64,
//! 64-bit integers are texts, fields may have their name in either spelling, what is empty is left out of answers. A
//! streaming call takes objects one after the other and answers with a line of JSON each, `{"result":…}`.
//!
//! Nothing here knows a service: requests become framed messages for the same call that gRPC has
//! ([`super::call`]), answers are turned back by the descriptions in `setpoint-proto`. A path in `routes` is all that a
//! new call needs.
//!
//! - `routes`: paths to calls. `requests`: a body cut into objects, which `scan` finds.
//! - `json`: messages from and to JSON; `read`: an object taken apart, with `number`.
//! - `exchange`: a call in progress. `answer`: what the client reads of it.
//! - `websocket`: the same for browsers, a message a line.

mod answer;
mod exchange;
mod json;
mod number;
mod read;
mod requests;
mod routes;
mod scan;
pub(super) mod websocket;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use setpoint_base::Stop;
use tokio::time::timeout;
use tonic::{Code, Status};

pub(super) use answer::Lines;
pub(super) use exchange::Answers;
pub(super) use requests::Requests;

use self::exchange::{Exchange, Step};
use self::json::{Call, error_body};
use super::call;
use super::connection::Client;
use super::few::Hold;
use super::method::Method;
use super::server::{ROOM_FREE, Shared};
use super::web::{AnswerBody, Body};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Says in etcd's answers that a gRPC call has been made.
const MADE: HeaderName = HeaderName::from_static("grpc-metadata-content-type");
/// In front of headers that are meant for the call.
const META: &str = "grpc-metadata-";

/// Whether bytes are the JSON of a method's request, for fuzzers.
pub(super) fn reads_as_request(method: Method, json: &[u8]) -> bool {
    let mut scan = scan::Scan::default();
    let found = scan
        .find(json)
        .ok()
        .and_then(|found| found.or_else(|| scan.finish()));
    let object = found.and_then(|range| json.get(range)).unwrap_or_default();
    Call::of(method).is_ok_and(|call| call.request(object).is_ok())
}

/// Bytes of the largest request, as gRPC or as JSON.
pub(super) fn request_bytes_max(shared: &Shared) -> usize {
    requests::bytes_max(shared)
}

/// Answers a request below `/v3/`.
pub(super) async fn respond(
    shared: &Arc<Shared>,
    client: &Client,
    head: &Parts,
    body: Body,
    stop: &Stop,
) -> Response<AnswerBody> {
    let Some(method) = routes::find(head.uri.path()) else {
        return refused(StatusCode::NOT_FOUND, &Status::not_found("Not Found"));
    };
    if head.method != http::Method::POST {
        let status = Status::unimplemented("Method Not Allowed");
        return refused(StatusCode::NOT_IMPLEMENTED, &status);
    }
    if let Some(wrong) = head.headers.get("grpc-timeout")
        && call::patience(&head.headers).is_none()
    {
        let wrong = String::from_utf8_lossy(wrong.as_bytes());
        return failed(&Status::invalid_argument(format!(
            "invalid grpc-timeout: {wrong}"
        )));
    }
    let call = match Call::of(method) {
        Ok(call) => call,
        Err(status) => return failed(&status),
    };
    let requests = Requests::new(
        shared.clone(),
        client.arriving.clone(),
        body,
        call.clone(),
        routes::takes_many(method),
    );
    let (answers, pending) = exchange::channel();
    let metadata = metadata(&head.headers);
    let running = call::begin_gateway(shared, client, method, &metadata, requests, answers, stop);
    let mut exchange = Exchange::new(running, pending);
    let first = exchange.next().await;
    if method.is_stream() {
        return match first {
            Step::Ended(Err(status)) => failed(&status),
            first => made(AnswerBody::Lines(Box::new(Lines::new(call, exchange, first)))),
        };
    }
    match first {
        Step::Message(message) => whole(shared, client, &call, message, exchange).await,
        Step::Ended(Err(status)) => failed(&status),
        Step::Ended(Ok(())) => failed(&Status::internal("the call ended without an answer")),
    }
}

/// The one answer of a call, once it is known that the call has ended well.
async fn whole(
    shared: &Arc<Shared>,
    client: &Client,
    call: &Call,
    message: Bytes,
    mut exchange: Exchange,
) -> Response<AnswerBody> {
    if let Step::Ended(Err(status)) = exchange.next().await {
        return failed(&status);
    }
    // The message, what is decoded of it and its JSON are in memory together.
    let bytes = 3 * message.len();
    let room = if bytes <= ROOM_FREE {
        shared.room_to_wait(&client.share, bytes)
    } else {
        let room = shared.room_of(&client.share, bytes);
        let room = timeout(shared.options.request_timeout, room).await;
        room.ok().map(Hold::Wide)
    };
    let Some(room) = room else {
        return failed(&super::status::overloaded());
    };
    match call.answer(message) {
        Ok(json) => made(AnswerBody::full(json, room)),
        Err(status) => failed(&status),
    }
}

/// What of the request's headers is the call's metadata (grpc-gateway's `DefaultHeaderMatcher`).
fn metadata(headers: &HeaderMap) -> HeaderMap {
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        let text = name.as_str();
        if name == AUTHORIZATION || text == "grpc-timeout" || text == "traceparent" {
            metadata.insert(name, value.clone());
        } else if let Some(name) = text.strip_prefix(META)
            && let Ok(name) = HeaderName::try_from(name)
        {
            metadata.append(name, value.clone());
        }
    }
    metadata
}

fn made(body: AnswerBody) -> Response<AnswerBody> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
        .headers_mut()
        .insert(MADE, HeaderValue::from_static("application/grpc"));
    response
}

fn failed(status: &Status) -> Response<AnswerBody> {
    refused(http_status(status.code()), status)
}

fn refused(code: StatusCode, status: &Status) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::full(error_body(status), Hold::Nothing));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// grpc-gateway's translation (`runtime/errors.go`).
fn http_status(code: Code) -> StatusCode {
    let code = match code {
        Code::Ok => 200,
        Code::Cancelled => 499,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::DeadlineExceeded => 504,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::PermissionDenied => 403,
        Code::Unauthenticated => 401,
        Code::ResourceExhausted => 429,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
    };
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
