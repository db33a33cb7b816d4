//! One gRPC call: messages in and out, limits, deadline, and the status it ends with.
//!
//! The framing is gRPC over HTTP/2 (`grpc/doc/PROTOCOL-HTTP2.md`): each message is a flag byte, its length in four
//! bytes, and itself; the status comes in the trailers, or alone in the headers when nothing was said before.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use h2::RecvStream;
use h2::server::SendResponse;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use setpoint_base::{Stop, TraceContext};
use tokio::time::timeout;
use tonic::{Code, Status};

use super::auth::{self, Access, Caller};
use super::connection::Client;
use super::method::{METHODS, Method};
use super::server::Shared;
use super::wide::{self, Wide};
use super::wire::Reply;
use super::{election, health, http as plain, kv, lease, lock, maintenance, snapshot, status, watch};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
/// The flag byte and the length before each message.
pub(super) const FRAME_BYTES: usize = 5;
/// A message larger than this is counted while it is on its way.
const COUNTED_BYTES: usize = 64 << 10;
/// Answers up to this size are handed to the protocol without asking for room.
const SMALL_BYTES: usize = 16 << 10;

/// The patience of a client that names none: 100 years, which timers can count.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The client has gone; nothing can be said to it.
#[derive(Debug)]
pub(super) struct Gone;

/// A call as its handler sees it.
pub(super) struct Call {
    pub(super) shared: Arc<Shared>,
    pub(super) method: Method,
    pub(super) inbound: Inbound,
    pub(super) outbound: Outbound,
    pub(super) caller: Caller,
    /// The trace the client is in, from its `traceparent`.
    pub(super) trace: Option<TraceContext>,
    /// How long the client waits, from `grpc-timeout`.
    patience: Option<Duration>,
}

/// Starts a call. What comes back is polled by the connection's task.
pub(super) fn begin(
    shared: &Arc<Shared>,
    client: &Client,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    stop: &Stop,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let (head, body) = request.into_parts();
    let outbound = Outbound::new(shared.clone(), respond);
    let grpc = head
        .headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if !(grpc && client.serves.grpc()) {
        let response = plain::respond(shared, client.serves, &head.method, &head.uri);
        return Box::pin(outbound.plain(response));
    }
    let Some(method) = Method::of(head.uri.path()) else {
        let status = unknown(head.uri.path());
        return Box::pin(async move { outbound.fail(&status) });
    };
    shared.metrics.began(method);
    // Who stays may still be there when authentication is switched on.
    let asks = method.is_stream() || method.waits() || shared.auth.is_on();
    let call = Call {
        shared: shared.clone(),
        method,
        inbound: Inbound::new(shared.clone(), body),
        outbound,
        caller: if asks {
            Caller::of(&head.headers, client.common_name.as_ref())
        } else {
            Caller::default()
        },
        trace: text(&head.headers, "traceparent").and_then(|value| value.parse().ok()),
        patience: text(&head.headers, "grpc-timeout").and_then(patience),
    };
    if method.is_stream() {
        Box::pin(stream(call, stop.clone()))
    } else if method.waits() {
        Box::pin(waiting(call, stop.clone()))
    } else {
        Box::pin(unary(call))
    }
}

async fn unary(mut call: Call) {
    let result = call.answer().await;
    let code = result.as_ref().err().map_or(Code::Ok, Status::code);
    call.shared.metrics.ended(call.method, code);
    match result {
        Ok(reply) => call.outbound.reply(reply).await,
        Err(status) => call.outbound.fail(&status),
    }
}

/// One answer, for which the client may wait as long as it likes: until then the call ends with its client's patience,
/// its reset, or the stop. Dropping it cleans up.
async fn waiting(mut call: Call, stop: Stop) {
    let patience = call.patience.unwrap_or(FOREVER);
    let Call {
        shared,
        method,
        inbound,
        outbound,
        caller,
        trace,
        ..
    } = &mut call;
    let result = tokio::select! {
        biased;
        () = stop.cancelled() => Err(status::stopped()),
        () = outbound.reset() => Err(Status::cancelled("context canceled")),
        result = timeout(patience, receive_and_wait(shared, *method, inbound, (*trace, &*caller))) => {
            result.unwrap_or_else(|_| Err(out_of_patience()))
        }
    };
    let code = result.as_ref().err().map_or(Code::Ok, Status::code);
    call.shared.metrics.ended(call.method, code);
    match result {
        Ok(reply) => call.outbound.reply(reply).await,
        Err(status) => call.outbound.fail(&status),
    }
}

async fn receive_and_wait(
    shared: &Arc<Shared>,
    method: Method,
    inbound: &mut Inbound,
    (trace, caller): (Option<TraceContext>, &Caller),
) -> Result<Reply, Status> {
    let limit = shared.options.request_timeout;
    let request = timeout(limit, inbound.message()).await;
    let request = request
        .map_err(|_| status::timed_out())??
        .ok_or_else(|| Status::internal("unexpected EOF"))?;
    let access = shared.auth.access(caller);
    access.gate(&shared.store, method, &request)?;
    match method {
        Method::Lock => lock::lock(shared, request, trace).await,
        Method::Campaign => election::campaign(shared, request, trace).await,
        method => Err(unimplemented(method)),
    }
}

/// Streams end at the stop with the one code on which clients reconnect.
async fn stream(mut call: Call, stop: Stop) {
    let result = tokio::select! {
        biased;
        () = stop.cancelled() => Err(status::stopped()),
        result = serve_stream(&mut call) => result,
    };
    let code = result.as_ref().err().map_or(Code::Ok, Status::code);
    call.shared.metrics.ended(call.method, code);
    match result {
        Ok(()) => call.outbound.succeed(),
        Err(status) => call.outbound.fail(&status),
    }
}

async fn serve_stream(call: &mut Call) -> Result<(), Status> {
    match call.method {
        Method::Watch => watch::serve(call).await,
        Method::LeaseKeepAlive => lease::keep_alive(call).await,
        Method::Observe => election::observe(call).await,
        Method::HealthWatch => health::watch(call).await,
        Method::RangeStream => wide::range_stream(call).await,
        Method::Snapshot => snapshot::snapshot(call).await,
        method => Err(unimplemented(method)),
    }
}

impl Call {
    /// What the caller may do now.
    pub(super) fn access(&self) -> Access {
        self.shared.auth.access(&self.caller)
    }

    /// Receives the one request and answers it, within the client's and our own patience.
    async fn answer(&mut self) -> Result<Reply, Status> {
        let limit = self.shared.options.request_timeout;
        let limit = self.patience.map_or(limit, |patience| patience.min(limit));
        let ours = limit == self.shared.options.request_timeout;
        timeout(limit, self.receive_and_answer())
            .await
            .unwrap_or_else(|_| {
                Err(if ours {
                    status::timed_out()
                } else {
                    out_of_patience()
                })
            })
    }

    async fn receive_and_answer(&mut self) -> Result<Reply, Status> {
        let request = self
            .inbound
            .message()
            .await?
            .ok_or_else(|| Status::internal("unexpected EOF"))?;
        let (shared, trace, access) = (&self.shared, self.trace, &self.access());
        access.gate(&shared.store, self.method, &request)?;
        match self.method {
            Method::Range => kv::range(shared, request, access).await,
            Method::Put => kv::put(shared, request, trace, access).await,
            Method::DeleteRange => kv::delete(shared, request, trace, access).await,
            Method::Txn => kv::txn(shared, request, trace, access).await,
            Method::Compact => kv::compact(shared, request).await,
            Method::LeaseGrant => lease::grant(shared, request).await,
            Method::LeaseRevoke => lease::revoke(shared, request, access).await,
            Method::LeaseTimeToLive => lease::time_to_live(shared, request, access),
            Method::LeaseLeases => lease::leases(shared, access),
            Method::MemberList => maintenance::member_list(shared),
            Method::Alarm => maintenance::alarm(shared, request),
            Method::Status => maintenance::status(shared),
            Method::Hash => snapshot::hash_all(shared).await,
            Method::HashKv => snapshot::hash_kv(shared, request).await,
            Method::Unlock => lock::unlock(shared, request, trace).await,
            Method::Proclaim => election::proclaim(shared, request, trace).await,
            Method::Leader => election::leader(shared, request).await,
            Method::Resign => election::resign(shared, request, trace).await,
            Method::HealthCheck => health::check(request),
            method if method.is_auth() => auth::serve(shared, method, request, access).await,
            method => Err(unimplemented(method)),
        }
    }
}

/// The client's own deadline has passed.
fn out_of_patience() -> Status {
    Status::deadline_exceeded("context deadline exceeded")
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// `grpc-timeout`: at most eight digits and a unit.
fn patience(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let n: u32 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(u64::from(n) * 3600),
        "M" => Duration::from_secs(u64::from(n) * 60),
        "S" => Duration::from_secs(u64::from(n)),
        "m" => Duration::from_millis(u64::from(n)),
        "u" => Duration::from_micros(u64::from(n)),
        "n" => Duration::from_nanos(u64::from(n)),
        _ => return None,
    })
}

/// What is described on the wire but not served.
fn unimplemented(method: Method) -> Status {
    let (_, _, name) = METHODS[method as usize];
    Status::unimplemented(format!("method {name} not implemented"))
}

/// Like grpc-go, tells a service that does not exist from a method that does not.
fn unknown(path: &str) -> Status {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    if METHODS.iter().any(|(_, known, _)| *known == service) {
        Status::unimplemented(format!("method {method} not implemented"))
    } else {
        Status::unimplemented(format!("unknown service {service}"))
    }
}

/// The messages a client sends.
pub(super) struct Inbound {
    shared: Arc<Shared>,
    body: RecvStream,
    /// What has arrived of messages not yet whole.
    waiting: BytesMut,
    /// How much of the front's budget this call holds.
    counted: usize,
}

impl Inbound {
    fn new(shared: Arc<Shared>, body: RecvStream) -> Self {
        Self {
            shared,
            body,
            waiting: BytesMut::new(),
            counted: 0,
        }
    }

    /// The next message, `None` once the client has said all. Cancel-safe.
    pub(super) async fn message(&mut self) -> Result<Option<Bytes>, Status> {
        self.uncount();
        loop {
            if self.waiting.len() >= FRAME_BYTES {
                let len = self.message_len(&self.waiting)?;
                if self.waiting.len() >= FRAME_BYTES + len {
                    self.waiting.advance(FRAME_BYTES);
                    return Ok(Some(self.waiting.split_to(len).freeze()));
                }
                self.count(len)?;
            }
            let Some(chunk) = self.chunk().await? else {
                return if self.waiting.is_empty() {
                    Ok(None)
                } else {
                    Err(Status::internal("unexpected EOF"))
                };
            };
            if self.waiting.is_empty() && chunk.len() >= FRAME_BYTES {
                // The usual case: the frame is the message, and is not copied.
                let len = self.message_len(&chunk)?;
                if chunk.len() == FRAME_BYTES + len {
                    return Ok(Some(chunk.slice(FRAME_BYTES..)));
                }
            }
            self.waiting.extend_from_slice(&chunk);
        }
    }

    /// The next bytes, given back to the client's window at once: what they add up to is bounded by
    /// [`FrontOptions::inbound_bytes_max`](super::FrontOptions::inbound_bytes_max).
    async fn chunk(&mut self) -> Result<Option<Bytes>, Status> {
        match self.body.data().await {
            Some(Ok(chunk)) => {
                let _ = self.body.flow_control().release_capacity(chunk.len());
                self.shared.metrics.received_bytes.inc_by(chunk.len() as u64);
                Ok(Some(chunk))
            }
            Some(Err(_)) => Err(Status::cancelled("context canceled")),
            None => Ok(None),
        }
    }

    fn message_len(&self, frame: &[u8]) -> Result<usize, Status> {
        let [flag, a, b, c, d, ..] = frame else {
            return Ok(0);
        };
        if *flag != 0 {
            return Err(Status::unimplemented(
                "grpc: Decompressor is not installed for grpc-encoding",
            ));
        }
        let len = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let max = self.shared.options.message_bytes_max();
        if len > max {
            return Err(Status::resource_exhausted(format!(
                "grpc: received message larger than max ({len} vs. {max})"
            )));
        }
        Ok(len)
    }

    /// Takes a large message's bytes from the front's budget, once.
    fn count(&mut self, len: usize) -> Result<(), Status> {
        if self.counted > 0 || len <= COUNTED_BYTES {
            return Ok(());
        }
        self.counted = len;
        let before = self.shared.inbound_bytes.fetch_add(len, Ordering::Relaxed);
        if before + len > self.shared.options.inbound_bytes_max {
            return Err(status::overloaded());
        }
        self.waiting.reserve(FRAME_BYTES + len - self.waiting.len());
        Ok(())
    }

    fn uncount(&mut self) {
        self.shared
            .inbound_bytes
            .fetch_sub(std::mem::take(&mut self.counted), Ordering::Relaxed);
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        self.uncount();
    }
}

/// The messages a client gets.
pub(super) struct Outbound {
    shared: Arc<Shared>,
    respond: SendResponse<Bytes>,
    stream: Option<h2::SendStream<Bytes>>,
}

impl Outbound {
    fn new(shared: Arc<Shared>, respond: SendResponse<Bytes>) -> Self {
        Self {
            shared,
            respond,
            stream: None,
        }
    }

    /// Sends the response headers, once.
    fn open(&mut self) -> Result<&mut h2::SendStream<Bytes>, Gone> {
        if self.stream.is_none() {
            let mut head = Response::new(());
            head.headers_mut().insert(CONTENT_TYPE, GRPC);
            self.stream = Some(self.respond.send_response(head, false).map_err(|_| Gone)?);
        }
        self.stream.as_mut().ok_or(Gone)
    }

    /// Sends response headers without a message, so that the client knows the stream is up.
    pub(super) fn greet(&mut self) -> Result<(), Gone> {
        self.open().map(drop)
    }

    /// Sends bytes of framed messages, as fast as the client reads them.
    pub(super) async fn send(&mut self, mut data: Bytes) -> Result<(), Gone> {
        self.shared.metrics.sent_bytes.inc_by(data.len() as u64);
        let stream = self.open()?;
        while !data.is_empty() {
            stream.reserve_capacity(data.len());
            while stream.capacity() == 0 {
                match poll_fn(|cx| stream.poll_capacity(cx)).await {
                    Some(Ok(_)) => (),
                    _ => return Err(Gone),
                }
            }
            let part = data.split_to(data.len().min(stream.capacity()));
            stream.send_data(part, false).map_err(|_| Gone)?;
        }
        Ok(())
    }

    /// Waits until the client gives the call up.
    pub(super) async fn reset(&mut self) {
        if let Some(stream) = &mut self.stream {
            let _ = poll_fn(|cx| stream.poll_reset(cx)).await;
        } else {
            let _ = poll_fn(|cx| self.respond.poll_reset(cx)).await;
        }
    }

    /// Sends the one answer and ends well. A client that does not read loses the call.
    async fn reply(mut self, reply: Reply) {
        let stall = self.shared.options.stall_timeout;
        let (reply, _room) = match reply {
            Reply::Held(reply, room) => (*reply, Some(room)),
            reply => (reply, None),
        };
        let sent = match reply {
            Reply::Whole(message) if message.len() <= SMALL_BYTES => self.send_small(message),
            Reply::Whole(message) => timeout(stall, self.send(message)).await.unwrap_or(Err(Gone)),
            Reply::Parts(parts) => self.send_parts(parts, stall).await,
            Reply::Wide(wide) => self.send_wide(*wide, stall).await,
            Reply::Held(..) => Err(Gone),
        };
        match sent {
            Ok(()) => self.succeed(),
            Err(Gone) => self.abandon(),
        }
    }

    fn send_small(&mut self, message: Bytes) -> Result<(), Gone> {
        self.shared.metrics.sent_bytes.inc_by(message.len() as u64);
        self.open()?.send_data(message, false).map_err(|_| Gone)
    }

    async fn send_parts(&mut self, parts: impl Iterator<Item = Bytes>, stall: Duration) -> Result<(), Gone> {
        for part in parts {
            timeout(stall, self.send(part)).await.unwrap_or(Err(Gone))?;
        }
        Ok(())
    }

    async fn send_wide(&mut self, mut wide: Wide, stall: Duration) -> Result<(), Gone> {
        loop {
            match wide.next().await {
                Ok(Some(parts)) => self.send_parts(parts, stall).await?,
                Ok(None) => return Ok(()),
                Err(status) => {
                    tracing::error!(error = %status, "read the rest of a range");
                    return Err(Gone);
                }
            }
        }
    }

    fn abandon(mut self) {
        match &mut self.stream {
            Some(stream) => stream.send_reset(h2::Reason::CANCEL),
            None => self.respond.send_reset(h2::Reason::CANCEL),
        }
    }

    /// Ends with status OK.
    pub(super) fn succeed(mut self) {
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        if let Ok(stream) = self.open() {
            let _ = stream.send_trailers(trailers);
        }
    }

    /// Ends with an error: in the trailers, or in the headers alone when there was no message.
    pub(super) fn fail(mut self, status: &Status) {
        let mut headers = HeaderMap::with_capacity(4);
        if status.add_header(&mut headers).is_err() {
            return self.abandon();
        }
        if let Some(stream) = &mut self.stream {
            let _ = stream.send_trailers(headers);
            return;
        }
        headers.insert(CONTENT_TYPE, GRPC);
        let mut head = Response::new(());
        *head.headers_mut() = headers;
        let _ = self.respond.send_response(head, true);
    }

    /// Answers a request that is not gRPC.
    async fn plain(mut self, response: Response<Bytes>) {
        let (head, body) = response.into_parts();
        let Ok(stream) = self
            .respond
            .send_response(Response::from_parts(head, ()), body.is_empty())
        else {
            return;
        };
        self.stream = Some(stream);
        let stall = self.shared.options.stall_timeout;
        if !body.is_empty()
            && matches!(timeout(stall, self.send(body)).await, Ok(Ok(())))
            && let Some(stream) = &mut self.stream
        {
            let _ = stream.send_data(Bytes::new(), true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_have_a_unit() {
        for (text, expect) in [
            ("5S", Some(Duration::from_secs(5))),
            ("250m", Some(Duration::from_millis(250))),
            ("1H", Some(Duration::from_secs(3600))),
            ("7", None),
            ("", None),
            ("xS", None),
            ("5é", None),
        ] {
            assert_eq!(patience(text), expect, "{text}");
        }
    }

    #[test]
    fn a_method_that_does_not_exist_is_told_from_a_service_that_does_not() {
        assert_eq!(
            unknown("/etcdserverpb.KV/Nope").message(),
            "method Nope not implemented"
        );
        assert_eq!(
            unknown("/etcdserverpb.Nope/Range").message(),
            "unknown service etcdserverpb.Nope"
        );
    }
}
