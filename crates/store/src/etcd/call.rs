//! One call: who serves it, how long it may take, and the status it ends with.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request};
use setpoint_base::{Stop, TraceContext};
use setpoint_flow::Ask;
use setpoint_flow::http2::Receive;
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};

use super::auth::{self, Access, Caller};
use super::connection::Client;
use super::contest::{self, Asker};
use super::gateway::{Answers, Requests};
use super::inbound::{Inbound, Source};
use super::method::{METHODS, Method};
use super::outbound::{Http2, Outbound, Sink};
use super::quick::{self, Quick};
use super::server::Shared;
use super::timing::{Lasting, Timing};
use super::web::{self, Body, Kept};
use super::wire::Reply;
use super::{
    cluster, election, health, kv, lease, lock, maintenance, overload, snapshot, status, watch, wide,
};

/// The patience of a client that names none: 100 years, which timers can count.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The version that a client says it has.
pub(super) const CLIENT_VERSION: &str = "client-api-version";

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

/// A call's future, polled by its connection's task.
pub(super) type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Starts a call. What comes back is polled by the connection's task; nothing, if the call is over.
pub(super) fn begin(
    shared: &Arc<Shared>,
    client: &Client,
    request: Request<Receive>,
    respond: SendResponse<Bytes>,
    stop: &Stop,
) -> Option<Running> {
    let (head, body) = request.into_parts();
    let mut sink = Http2::new(respond, client.pace.clone());
    let grpc = head.headers.get(CONTENT_TYPE).is_some_and(is_grpc);
    if !(grpc && client.serves.grpc()) {
        let (shared, client, stop) = (shared.clone(), client.clone(), stop.clone());
        return Some(Box::pin(async move {
            let (body, mut rest) = Kept::of(body);
            let response = web::respond(&shared, &client, &head, Body::Http2(body), &stop).await;
            web::send(&shared, response, sink).await;
            if let Ok(rest) = rest.try_recv() {
                rest.spare().await;
            }
        }));
    }
    let method = Method::of(head.uri.path());
    let Some(method) = method else {
        sink.fail(&unknown(head.uri.path()));
        return None;
    };
    if let Err(status) = admit(shared, client, method, &head.headers) {
        sink.fail(&status);
        return None;
    }
    count(shared, client, method, &head.headers);
    let inbound;
    if method.is_quick() && is_text(&head.headers, CLIENT_VERSION) && quick::suits(shared, client) {
        match quick::begin(shared, client, method, &head.headers, body, sink) {
            Quick::Over => return None,
            Quick::Running(call) => return Some(call),
            Quick::No(rest, back) => (inbound, sink) = (rest, back),
        }
    } else {
        let of_one = client.arriving.clone();
        inbound = Inbound::new(shared.clone(), of_one, method, Source::Http2(body));
    }
    let outbound = Outbound::new(shared.clone(), method, Sink::Http2(sink), &client.share);
    let user = client.common_name.as_ref();
    Some(Call::start(
        shared,
        method,
        &head.headers,
        user,
        (inbound, outbound),
        stop,
    ))
}

/// Starts a call that came as JSON. A client's certificate names no user here, as in etcd.
pub(super) fn begin_gateway(
    shared: &Arc<Shared>,
    client: &Client,
    method: Method,
    metadata: &HeaderMap,
    requests: Requests,
    answers: Answers,
    stop: &Stop,
) -> Running {
    let outbound = Outbound::new(shared.clone(), method, Sink::Gateway(answers), &client.share);
    if let Err(status) = admit(shared, client, method, metadata) {
        return Box::pin(async move { outbound.fail(&status) });
    }
    let of_one = client.arriving.clone();
    let inbound = Inbound::new(
        shared.clone(),
        of_one,
        method,
        Source::Gateway(Box::new(requests)),
    );
    count(shared, client, method, metadata);
    Call::start(shared, method, metadata, None, (inbound, outbound), stop)
}

/// Counts the call for the version that its client says it has.
fn count(shared: &Shared, client: &Client, method: Method, metadata: &HeaderMap) {
    let version = metadata.get(CLIENT_VERSION);
    let versions = &shared.metrics.versions;
    versions.count(&client.seen, version, method.is_stream());
}

/// Asks rate limits and memory, if there are any limits. A refused call is counted like any other.
fn admit(shared: &Shared, client: &Client, method: Method, metadata: &HeaderMap) -> Result<(), Status> {
    let (Some(limits), Some(limited)) = (&shared.options.limits, &client.limited) else {
        return Ok(());
    };
    if limits.is_idle() {
        return Ok(());
    }
    let (_, service, name) = METHODS[method as usize];
    let ask = Ask {
        method: &format!("/{service}/{name}"),
        peer: &limited.peer,
        metadata: &|name| text(metadata, name),
    };
    limits
        .admit(&ask, &limited.scope, Instant::now())
        .map_err(|refused| {
            shared.metrics.began(method);
            shared.metrics.ended(method, Code::ResourceExhausted);
            refused.status()
        })
}

// A call is captured by its future, not handed to it: an argument of an async function takes its room twice.

fn unary(mut call: Call) -> Running {
    Box::pin(async move {
        let timing = Timing::begin(&call.shared);
        let lasting = Lasting::new(call.shared.clone(), call.method, timing);
        let result = call.answer().await;
        let code = result.as_ref().err().map_or(Code::Ok, Status::code);
        lasting.answered(code);
        match result {
            Ok(reply) => call.outbound.reply(reply).await,
            Err(status) => call.outbound.fail(&status),
        }
    })
}

/// One answer, for which the client may wait as long as it likes: until then the call ends with its client's patience,
/// its reset, or the stop. Dropping it cleans up.
fn waiting(mut call: Call, stop: Stop) -> Running {
    Box::pin(async move {
        let patience = call.patience.unwrap_or(FOREVER);
        let timing = Timing::begin(&call.shared);
        let lasting = Lasting::new(call.shared.clone(), call.method, timing);
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
        lasting.ended(code);
        match result {
            Ok(reply) => call.outbound.reply(reply).await,
            Err(status) => call.outbound.fail(&status),
        }
    })
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
    let asker = Asker {
        shared,
        caller,
        trace,
    };
    match method {
        Method::Lock => lock::lock(asker, request).await,
        Method::Campaign => election::campaign(asker, request).await,
        Method::Hash => snapshot::hash_all(shared).await,
        Method::HashKv => snapshot::hash_kv(shared, request).await,
        Method::Compact => kv::compact(shared, request).await,
        method => Err(unimplemented(method)),
    }
}

/// Streams end at the stop with the one code on which clients reconnect.
fn stream(mut call: Call, stop: Stop) -> Running {
    Box::pin(async move {
        let timing = Timing::begin(&call.shared);
        let lasting = Lasting::new(call.shared.clone(), call.method, timing);
        let result = tokio::select! {
            biased;
            () = stop.cancelled() => Err(status::stopped()),
            result = serve_stream(&mut call) => result,
        };
        let code = result.as_ref().err().map_or(Code::Ok, Status::code);
        lasting.ended(code);
        match result {
            Ok(()) => call.outbound.succeed(),
            Err(status) => call.outbound.fail(&status),
        }
    })
}

/// What all have room for is as large as the largest that has no box of its own: thousands of watches stay open.
async fn serve_stream(call: &mut Call) -> Result<(), Status> {
    match call.method {
        Method::Watch => watch::serve(call).await,
        Method::LeaseKeepAlive => Box::pin(lease::keep_alive(call)).await,
        Method::Observe => Box::pin(election::observe(call)).await,
        Method::HealthWatch => Box::pin(health::watch(call)).await,
        Method::RangeStream => Box::pin(wide::range_stream(call)).await,
        Method::Snapshot => Box::pin(snapshot::snapshot(call)).await,
        method => Err(unimplemented(method)),
    }
}

impl Call {
    /// What the caller may do now.
    pub(super) fn access(&self) -> Access {
        self.shared.auth.access(&self.caller)
    }

    fn asker(&self) -> Asker<'_> {
        Asker {
            shared: &self.shared,
            caller: &self.caller,
            trace: self.trace,
        }
    }

    fn start(
        shared: &Arc<Shared>,
        method: Method,
        metadata: &HeaderMap,
        user: Option<&Arc<str>>,
        (inbound, outbound): (Inbound, Outbound),
        stop: &Stop,
    ) -> Running {
        shared.metrics.began(method);
        if !is_text(metadata, CLIENT_VERSION) {
            let status = status::invalid_client_version();
            shared.metrics.ended(method, status.code());
            return Box::pin(async move { outbound.fail(&status) });
        }
        // Who stays may still be there when authentication is switched on.
        let asks = method.is_stream() || method.waits() || shared.auth.is_on();
        let call = Self {
            shared: shared.clone(),
            method,
            inbound,
            outbound,
            caller: if asks {
                Caller::of(metadata, user)
            } else {
                Caller::default()
            },
            trace: trace(metadata),
            patience: patience(metadata),
        };
        call.run(stop)
    }

    fn run(self, stop: &Stop) -> Running {
        if self.method.needs_trust() && self.shared.store.is_corrupt() {
            let refused = if self.method.writes_as_client() {
                contest::as_client(status::corrupt())
            } else {
                status::corrupt()
            };
            self.shared.metrics.ended(self.method, refused.code());
            return Box::pin(async move { self.outbound.fail(&refused) });
        }
        if self.method.is_stream() {
            stream(self, stop.clone())
        } else if self.method.waits() {
            waiting(self, stop.clone())
        } else {
            unary(self)
        }
    }

    /// Receives the one request and answers it, within the client's and our own patience.
    async fn answer(&mut self) -> Result<Reply, Status> {
        let patience = Patience::of(self.patience, self.shared.options.request_timeout);
        timeout(patience.limit, self.receive_and_answer())
            .await
            .unwrap_or_else(|_| Err(patience.over()))
    }

    async fn receive_and_answer(&mut self) -> Result<Reply, Status> {
        let request = self
            .inbound
            .message()
            .await?
            .ok_or_else(|| Status::internal("unexpected EOF"))?;
        if self.method == Method::Range {
            // What is not read yet takes no memory while those before it wait to be written.
            self.outbound.turn().await;
        }
        let (shared, trace, access) = (&self.shared, self.trace, &self.access());
        access.gate(&shared.store, self.method, &request)?;
        let place = overload::enter(shared, self.method, &request).await?;
        let result = match self.method {
            Method::Range => kv::range(shared, request, access, self.outbound.share()).await,
            Method::Put => kv::put(shared, request, trace, access).await,
            Method::DeleteRange => kv::delete(shared, request, trace, access).await,
            Method::Txn => kv::txn(shared, request, trace, access, self.outbound.share()).await,
            Method::LeaseGrant => lease::grant(shared, request).await,
            Method::LeaseRevoke => lease::revoke(shared, request, access).await,
            Method::LeaseTimeToLive => lease::time_to_live(shared, request, access),
            Method::LeaseLeases => lease::leases(shared, access),
            Method::MemberList => Ok(cluster::list(shared)),
            Method::MemberAdd => Err(cluster::add(request)),
            Method::MemberRemove => Err(cluster::remove(shared, request)),
            Method::MemberUpdate => Err(cluster::update(shared, request)),
            Method::MemberPromote => Err(cluster::promote(shared, request)),
            Method::MoveLeader => cluster::move_leader(shared, request),
            Method::Alarm => maintenance::alarm(shared, request).await,
            Method::Defragment => Ok(maintenance::defragment(shared)),
            Method::Downgrade => maintenance::downgrade(shared, request),
            Method::Status => maintenance::status(shared),
            Method::Unlock => lock::unlock(self.asker(), request).await,
            Method::Proclaim => election::proclaim(self.asker(), request).await,
            Method::Leader => election::leader(shared, request).await,
            Method::Resign => election::resign(self.asker(), request).await,
            Method::HealthCheck => health::check(request),
            method if method.is_auth() => auth::serve(shared, method, request, access).await,
            method => Err(unimplemented(method)),
        };
        if let Some(place) = place {
            place.end(&result);
        }
        result
    }
}

/// How long a call with one answer may take.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    pub(super) limit: Duration,
    /// The client would wait longer.
    ours: bool,
}

impl Patience {
    /// As long as the client waits, if it says so, and not longer than `limit`.
    pub(super) fn of(client: Option<Duration>, limit: Duration) -> Self {
        let ours = client.is_none_or(|client| client >= limit);
        Self {
            limit: client.filter(|_| !ours).unwrap_or(limit),
            ours,
        }
    }

    /// It took longer.
    pub(super) fn over(self) -> Status {
        if self.ours {
            status::timed_out()
        } else {
            out_of_patience()
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

/// Whether a call with this content type is gRPC.
pub(super) fn is_grpc(content_type: &HeaderValue) -> bool {
    content_type.as_bytes().starts_with(b"application/grpc")
}

/// Whether a header is UTF-8, if it is there.
pub(super) fn is_text(headers: &HeaderMap, name: &str) -> bool {
    headers
        .get(name)
        .is_none_or(|value| std::str::from_utf8(value.as_bytes()).is_ok())
}

/// The trace a client is in.
pub(super) fn trace(headers: &HeaderMap) -> Option<TraceContext> {
    text(headers, "traceparent").and_then(|value| value.parse().ok())
}

/// How long a client waits, if it says so.
pub(super) fn patience(headers: &HeaderMap) -> Option<Duration> {
    text(headers, "grpc-timeout").and_then(grpc_timeout)
}

/// `grpc-timeout`: at most eight digits and a unit.
fn grpc_timeout(value: &str) -> Option<Duration> {
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
            assert_eq!(grpc_timeout(text), expect, "{text}");
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
