//! Reads that are answered where they begin, and puts that are proposed there.
//!
//! A read of few keys whose request is there already has nothing to wait for: neither a future, nor a timer, nor a
//! place among the connection's calls is made for it. A put waits for its sync alone, so its future holds no more than
//! that takes. Whatever is unusual about a call sends it the long way, with what has been read of it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::HeaderMap;
use setpoint_flow::http2::Receive;
use tokio::time::timeout;
use tonic::{Code, Status};

use super::auth::Access;
use super::call::{Patience, Running, patience, trace};
use super::connection::Client;
use super::few::Hold;
use super::inbound::{Begun, Inbound};
use super::kv;
use super::method::Method;
use super::outbound::{Gone, Http2, NO_ROOM, Outbound, Sink};
use super::overload;
use super::server::Shared;
use super::status;
use super::timing::{Lasting, Timing};
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

/// Whether there is nothing unusual about calls: no permission and no place among others to be asked for, and a client
/// that takes what the calls before have said.
pub(super) fn suits(shared: &Shared, client: &Client) -> bool {
    !shared.auth.is_on()
        && !shared.store.is_corrupt()
        && !overload::has_door(shared)
        && client.pace.turn().now_or_never().is_some()
}

/// Begins a call of a method that [is quick](Method::is_quick).
pub(super) fn begin(
    shared: &Arc<Shared>,
    client: &Client,
    method: Method,
    headers: &HeaderMap,
    body: Receive,
    sink: Http2,
) -> Quick {
    if method == Method::Put {
        put(shared, client, headers, body, sink)
    } else {
        range(shared, client, body, sink)
    }
}

/// Answers a Range, if that can be done at once.
fn range(shared: &Arc<Shared>, client: &Client, mut body: Receive, mut sink: Http2) -> Quick {
    let timing = Timing::begin(shared);
    let begun = Begun::read(shared, Method::Range, &mut body);
    let answer = match &begun {
        Begun::Message(request) => kv::range_at_hand(shared, request.clone()),
        Begun::Nothing | Begun::Part(_) => None,
    };
    let Some(answer) = answer else {
        let inbound = Inbound::behind(
            shared.clone(),
            client.arriving.clone(),
            Method::Range,
            body,
            begun,
        );
        return Quick::No(inbound, sink);
    };
    let metrics = &shared.metrics;
    metrics.began(Method::Range);
    let code = answer.as_ref().err().map_or(Code::Ok, Status::code);
    timing.answered(shared, Method::Range, code);
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
        Ok(Reply::Pieces(pieces)) => return in_pieces(shared, client, sink, pieces),
        Ok(reply) => reply,
    };
    let outbound = Outbound::new(shared.clone(), Method::Range, Sink::Http2(sink), &client.share);
    Quick::Running(Box::pin(outbound.reply(reply)))
}

/// Proposes a Put, if its request is there.
fn put(
    shared: &Arc<Shared>,
    client: &Client,
    headers: &HeaderMap,
    mut body: Receive,
    mut sink: Http2,
) -> Quick {
    let begun = Begun::read(shared, Method::Put, &mut body);
    let Begun::Message(request) = begun else {
        let inbound = Inbound::behind(shared.clone(), client.arriving.clone(), Method::Put, body, begun);
        return Quick::No(inbound, sink);
    };
    let timing = Timing::begin(shared);
    shared.metrics.began(Method::Put);
    let proposed = match kv::begin_put(shared, request, trace(headers)) {
        Ok(proposed) => proposed,
        Err(status) => {
            timing.answered(shared, Method::Put, status.code());
            sink.fail(&status);
            return Quick::Over;
        }
    };
    let (shared, share) = (shared.clone(), client.share.clone());
    let patience = Patience::of(patience(headers), shared.options.request_timeout);
    Quick::Running(Box::pin(async move {
        let _body = body;
        let lasting = Lasting::new(&*shared, Method::Put, timing);
        let result = match timeout(patience.limit, proposed).await {
            Ok(result) => result.map_err(|error| Access::Open.told(&error)),
            Err(_) => Err(patience.over()),
        };
        let code = result.as_ref().err().map_or(Code::Ok, Status::code);
        lasting.answered(code);
        let message = match result {
            Ok(result) => kv::put_answer(&shared, &result),
            Err(status) => return sink.fail(&status),
        };
        match sink.hand_if_room(&message) {
            Ok(true) => {
                shared.metrics.sent_bytes.inc_by(message.len() as u64);
                shared.metrics.sent(Method::Put, 1);
                sink.succeed();
            }
            // A large value that was there before, for a client that does not read.
            Ok(false) => {
                let outbound = Outbound::new(shared, Method::Put, Sink::Http2(sink), &share);
                Box::pin(outbound.reply(Reply::Whole(message))).await;
            }
            Err(Gone) => sink.abandon(),
        }
    }))
}

/// What the client takes at once is handed over before the next call begins; the rest takes room, or the call fails.
fn in_pieces(shared: &Arc<Shared>, client: &Client, sink: Http2, mut pieces: VecDeque<Bytes>) -> Quick {
    let all = pieces.len();
    let mut outbound = Outbound::new(shared.clone(), Method::Range, Sink::Http2(sink), &client.share);
    if outbound.hand_pieces(&mut pieces).is_err() {
        outbound.abandon();
        return Quick::Over;
    }
    if pieces.is_empty() {
        outbound.succeed();
        return Quick::Over;
    }
    let untouched = pieces.len() == all;
    let reply = match shared.room_to_wait(&client.share, pieces.iter().map(Bytes::len).sum()) {
        Some(Hold::Nothing) => Reply::Pieces(pieces),
        Some(room) => Reply::Held(Box::new(Reply::Pieces(pieces)), room),
        None if untouched => {
            outbound.fail(&status::overloaded());
            return Quick::Over;
        }
        None => {
            shared.cut(NO_ROOM);
            outbound.abandon();
            return Quick::Over;
        }
    };
    Quick::Running(Box::pin(outbound.reply(reply)))
}
