//! Reads that are answered where they begin.
//!
//! A read of few keys whose request is there already has nothing to wait for: neither a future, nor a timer, nor a
//! place among the connection's calls is made for it. Whatever is unusual about a call sends it the long way, with what
//! has been read of it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::HeaderMap;
use setpoint_flow::http2::Receive;
use tonic::{Code, Status};

use super::call::{Running, is_text};
use super::connection::Client;
use super::inbound::{Begun, Inbound};
use super::kv;
use super::method::Method;
use super::outbound::{Gone, Http2, Outbound, Sink};
use super::server::Shared;
use super::status;
use super::wire::Reply;

/// What came of it.
pub(super) enum Quick {
    /// Answered.
    Over,
    /// Answered as far as the client reads.
    Running(Running),
    /// Not answered.
    No(Inbound, Http2),
}

/// Whether there is nothing unusual about a call: no permission to be asked for, no time to be measured, and a client
/// that takes what the calls before have said.
pub(super) fn suits(shared: &Shared, client: &Client, headers: &HeaderMap) -> bool {
    shared.options.slow_call.is_none()
        && is_text(headers, "client-api-version")
        && !shared.auth.is_on()
        && !shared.store.is_corrupt()
        && client.pace.turn().now_or_never().is_some()
}

/// Answers a Range, if that can be done at once.
pub(super) fn range(shared: &Arc<Shared>, mut body: Receive, mut sink: Http2) -> Quick {
    let begun = Begun::read(shared, Method::Range, &mut body);
    let answer = match &begun {
        Begun::Message(request) => kv::range_at_hand(shared, request.clone()),
        Begun::Nothing | Begun::Part(_) => None,
    };
    let Some(answer) = answer else {
        let inbound = Inbound::behind(shared.clone(), Method::Range, body, begun);
        return Quick::No(inbound, sink);
    };
    let metrics = &shared.metrics;
    metrics.began(Method::Range);
    let code = answer.as_ref().err().map_or(Code::Ok, Status::code);
    metrics.ended(Method::Range, code);
    let reply = match answer {
        Err(status) => {
            sink.fail(&status);
            return Quick::Over;
        }
        Ok(Reply::Whole(message)) => match sink.hand_if_room(&message) {
            Ok(true) => {
                metrics.sent_bytes.inc_by(message.len() as u64);
                metrics.sent(Method::Range, 1);
                sink.succeed();
                return Quick::Over;
            }
            Ok(false) => Reply::Whole(message),
            Err(Gone) => {
                sink.abandon();
                return Quick::Over;
            }
        },
        Ok(Reply::Pieces(pieces)) => return in_pieces(shared, sink, pieces),
        Ok(reply) => reply,
    };
    let outbound = Outbound::new(shared.clone(), Method::Range, Sink::Http2(sink));
    Quick::Running(Box::pin(outbound.reply(reply)))
}

/// What the client takes at once is handed over before the next call begins; the rest takes room, or the call fails.
fn in_pieces(shared: &Arc<Shared>, sink: Http2, mut pieces: VecDeque<Bytes>) -> Quick {
    let all = pieces.len();
    let mut outbound = Outbound::new(shared.clone(), Method::Range, Sink::Http2(sink));
    if outbound.hand_pieces(&mut pieces).is_err() {
        outbound.abandon();
        return Quick::Over;
    }
    if pieces.is_empty() {
        outbound.succeed();
        return Quick::Over;
    }
    let untouched = pieces.len() == all;
    let reply = match shared.room_to_wait(pieces.iter().map(Bytes::len).sum()) {
        Some(Some(room)) => Reply::Held(Box::new(Reply::Pieces(pieces)), room),
        Some(None) => Reply::Pieces(pieces),
        None if untouched => {
            outbound.fail(&status::overloaded());
            return Quick::Over;
        }
        None => {
            outbound.abandon();
            return Quick::Over;
        }
    };
    Quick::Running(Box::pin(outbound.reply(reply)))
}
