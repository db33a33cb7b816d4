//! The gateway over a WebSocket: streams for programs in a browser.
//!
//! As etcd's (`grpc-websocket-proxy` in front of its gateway): the socket opens at the path of a call, each message of the
//! client is a line of the request's body, each line of the answer is a message. What the call ends with is a message as
//! well: there is no HTTP status left to say it with. Browsers cannot set headers, so a token comes as a subprotocol
//! (`Sec-WebSocket-Protocol: Bearer, TOKEN`), and every page may connect.
//!
//! Unlike there, the end is said with a code before the connection closes; a token in a cookie is not looked at, because a
//! browser sends cookies for pages that are not its reader's.
//!
//! ```text
//! client            {"create_request":{"key":"Zm9v"}}             {"cancel_request":{"watch_id":"0"}}
//! server                       {"result":{…,"created":true}}                              {"result":{…,"canceled":true}}
//! ```

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use http::header::{
    AUTHORIZATION, CONNECTION, ORIGIN, REFERER, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use setpoint_base::Stop;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

use super::super::connection::Client;
use super::super::few::Hold;
use super::super::http as plain;
use super::super::server::Shared;
use super::super::web::{AnswerBody, Body};
use super::requests;

/// WebSockets that are open at a time: each may hold a message on its way, which no budget counts.
pub(in super::super) const OPEN_MAX: usize = 256;
/// What every server appends to the client's key (RFC 6455, section 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const BEARER: &str = "Bearer";

/// A WebSocket that is about to open.
pub(in super::super) struct Opening {
    head: Parts,
    upgrade: OnUpgrade,
    open: OwnedSemaphorePermit,
}

/// Whether a request asks for a WebSocket.
pub(in super::super) fn is_asked(headers: &HeaderMap) -> bool {
    has_token(headers, &CONNECTION, "upgrade") && has_token(headers, &UPGRADE, "websocket")
}

fn has_token(headers: &HeaderMap, name: &http::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).into_iter();
    let mut texts = values.filter_map(|value| value.to_str().ok());
    texts.any(|text| {
        text.split(',')
            .any(|part| part.trim().eq_ignore_ascii_case(token))
    })
}

/// Agrees to a WebSocket, or says why not.
pub(in super::super) fn accept(shared: &Shared, head: &mut Parts) -> (Response<AnswerBody>, Option<Opening>) {
    let refused = |status: StatusCode, why: &str| {
        let response = plain::text(status, format!("{why}\n"));
        (response.map(|body| AnswerBody::full(body, Hold::Nothing)), None)
    };
    if head.method != Method::GET {
        return refused(StatusCode::METHOD_NOT_ALLOWED, "a WebSocket is opened with GET");
    }
    if !has_token(&head.headers, &SEC_WEBSOCKET_VERSION, "13") {
        let (mut response, none) = refused(StatusCode::UPGRADE_REQUIRED, "WebSockets are of version 13 here");
        let headers = response.headers_mut();
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return (response, none);
    }
    let key = head.headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
    let Some(key) = key.filter(|key| BASE64_STANDARD.decode(key).is_ok_and(|key| key.len() == 16)) else {
        return refused(
            StatusCode::BAD_REQUEST,
            "Sec-WebSocket-Key: 16 bytes in base64 are missing",
        );
    };
    let answer = answer_to(key);
    let Some(upgrade) = head.extensions.remove::<OnUpgrade>() else {
        return refused(
            StatusCode::BAD_REQUEST,
            "this connection cannot become a WebSocket",
        );
    };
    let Ok(open) = shared.websockets.clone().try_acquire_owned() else {
        return refused(StatusCode::SERVICE_UNAVAILABLE, "too many WebSockets are open");
    };
    let mut response = Response::new(AnswerBody::full("", Hold::Nothing));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, answer);
    if offered(&head.headers).starts_with(BEARER) {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(BEARER));
    }
    // What a browser says beside is not the call's.
    let headers = forwarded(&head.headers);
    let mut empty = http::Request::new(()).into_parts().0;
    empty.method = Method::POST;
    empty.uri = head.uri.clone();
    empty.headers = headers;
    let opening = Opening {
        head: empty,
        upgrade,
        open,
    };
    (response, Some(opening))
}

fn answer_to(key: &[u8]) -> HeaderValue {
    let sum = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID.as_bytes()].concat());
    let text = BASE64_STANDARD.encode(sum);
    HeaderValue::from_str(&text).expect("base64 is printable")
}

/// The subprotocols, as the client wrote them.
fn offered(headers: &HeaderMap) -> &str {
    let value = headers.get(SEC_WEBSOCKET_PROTOCOL);
    value.and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The headers of the request that is made of it.
fn forwarded(headers: &HeaderMap) -> HeaderMap {
    let mut forwarded = HeaderMap::new();
    for name in [ORIGIN, REFERER] {
        if let Some(value) = headers.get(&name) {
            forwarded.insert(name, value.clone());
        }
    }
    if let Some((_, token)) = offered(headers).split_once("Bearer,")
        && let Ok(value) = HeaderValue::from_str(&format!("{BEARER} {}", token.trim()))
    {
        forwarded.insert(AUTHORIZATION, value);
    }
    forwarded
}

impl Opening {
    /// Serves the call until it or its client is at an end.
    pub(in super::super) async fn serve(self, shared: &Arc<Shared>, client: &Client, stop: &Stop) {
        let Self {
            head,
            upgrade,
            open: _open,
        } = self;
        let Ok(upgraded) = upgrade.await else {
            return;
        };
        let bytes_max = requests::bytes_max(shared);
        let config = WebSocketConfig::default()
            .read_buffer_size(4 << 10)
            .max_message_size(Some(bytes_max))
            .max_frame_size(Some(bytes_max));
        let io = TokioIo::new(upgraded);
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
        relay(shared, client, &head, socket, stop).await;
    }
}

/// Messages to the call, lines to the client; then the reason why it is over.
async fn relay<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Arc<Shared>,
    client: &Client,
    head: &Parts,
    socket: WebSocketStream<S>,
    stop: &Stop,
) {
    let (mut to_client, mut from_client) = socket.split();
    // One each: a call goes on when its client has read, and a client when the call has.
    let (to_call, messages) = mpsc::channel(1);
    let (to_lines, mut lines) = mpsc::channel(1);
    let call = async move {
        let response = super::respond(shared, client, head, Body::Messages(messages), stop).await;
        let mut body = response.into_body();
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(line) = frame.into_data()
                && to_lines.send(line).await.is_err()
            {
                return;
            }
        }
    };
    let said = async {
        while let Some(line) = lines.recv().await {
            let Some(message) = message(line) else {
                continue;
            };
            if to_client.send(message).await.is_err() {
                return None;
            }
        }
        Some(if stop.is_cancelled() {
            CloseCode::Away
        } else {
            CloseCode::Normal
        })
    };
    let heard = async {
        loop {
            // Nothing is read that there is no room for. A call that takes no more may go on: what is said then is lost.
            let room = to_call.reserve().await.ok();
            let line = match from_client.next().await {
                Some(Ok(Message::Text(text))) => line_of(text.as_ref()),
                Some(Ok(Message::Binary(bytes))) => line_of(&bytes),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Ok(Message::Close(_))) | None => return None,
                Some(Err(error)) => return code_of(&error),
            };
            if let Some(room) = room {
                room.send(line);
            }
        }
    };
    let code = tokio::select! {
        ((), code) = async { tokio::join!(call, said) } => code,
        code = heard => code,
    };
    let close = async {
        if let Some(code) = code {
            let reason = "".into();
            let _ = to_client
                .send(Message::Close(Some(CloseFrame { code, reason })))
                .await;
            // Until the client has said the same.
            while let Some(Ok(_)) = from_client.next().await {}
        } else {
            let _ = to_client.flush().await;
        }
    };
    let _ = timeout(shared.options.hello_timeout, close).await;
}

/// A line without its end; nothing of an empty one.
fn message(line: Bytes) -> Option<Message> {
    let line = match line.strip_suffix(b"\n") {
        Some(text) => line.slice(..text.len()),
        None => line,
    };
    if line.is_empty() {
        return None;
    }
    // JSON is UTF-8.
    line.try_into().ok().map(Message::Text)
}

fn line_of(message: &[u8]) -> Bytes {
    let mut line = BytesMut::with_capacity(message.len() + 1);
    line.extend_from_slice(message);
    line.extend_from_slice(b"\n");
    line.freeze()
}

/// What the client is told about a message that cannot be read; nothing where it has gone.
fn code_of(error: &Error) -> Option<CloseCode> {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => Some(CloseCode::Size),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Protocol(_) => Some(CloseCode::Protocol),
        Error::Utf8(_) => Some(CloseCode::Invalid),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(http::HeaderName, &'static str)]) -> HeaderMap {
        let entries = list.iter().cloned();
        entries
            .map(|(name, value)| (name, HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn the_answer_to_a_key_is_that_of_the_standard() {
        assert_eq!(
            answer_to(b"dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn a_websocket_is_asked_for_by_two_headers_however_they_are_written() {
        let firefox = [(CONNECTION, "keep-alive, Upgrade"), (UPGRADE, "WebSocket")];
        assert!(is_asked(&headers(&firefox)));
        assert!(!is_asked(&headers(&firefox[..1])) && !is_asked(&headers(&firefox[1..])));
    }

    #[test]
    fn a_subprotocol_is_the_token_and_other_headers_stay_behind() {
        for (offered, expect) in [
            ("Bearer, abc.1", Some("Bearer abc.1")),
            ("Bearer,abc.1", Some("Bearer abc.1")),
            ("chat", None),
        ] {
            let all = [
                (SEC_WEBSOCKET_PROTOCOL, offered),
                (ORIGIN, "http://page"),
                (AUTHORIZATION, "not this"),
            ];
            let forwarded = forwarded(&headers(&all));
            assert_eq!(
                forwarded.get(AUTHORIZATION).map(|value| value.to_str().unwrap()),
                expect
            );
            assert_eq!(forwarded.len(), 1 + usize::from(expect.is_some()));
        }
    }

    #[test]
    fn a_line_loses_its_end_and_nothing_is_no_message() {
        assert_eq!(message("{}\n".into()), Some(Message::text("{}")));
        assert_eq!(message("{}".into()), Some(Message::text("{}")));
        assert_eq!(message("\n".into()), None);
    }
}
