//! Spans reach a collector over OTLP gRPC, with the ids that were handed on.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use setpoint_base::{Stop, TaskGroup, TraceContext};
use setpoint_telemetry::{Otlp, Setup, trace};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// A collector that hands each export request's body to the test.
async fn collect(listener: TcpListener, bodies: mpsc::Sender<Bytes>) {
    let Ok((stream, _)) = listener.accept().await else {
        return;
    };
    let answer = service_fn(move |request: Request<Incoming>| {
        let bodies = bodies.clone();
        async move {
            assert_eq!(
                request.uri().path(),
                "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
            );
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            let _ = bodies.send(body).await;
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            let frames = [
                Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[0; 5]))),
                Ok(Frame::trailers(trailers)),
            ];
            Response::builder()
                .header("content-type", "application/grpc")
                .body(StreamBody::new(futures_util::stream::iter(frames)))
        }
    });
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finished_span_reaches_the_collector_with_its_trace_its_parent_and_its_events() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (bodies, mut received) = mpsc::channel(16);
    let tasks = TaskGroup::new(&Stop::new());
    tasks.spawn(collect(listener, bodies));

    let otlp = Otlp::from_vars("test", |name| {
        (name == "OTEL_EXPORTER_OTLP_ENDPOINT").then(|| endpoint.clone())
    });
    let guard = Setup {
        otlp: otlp.unwrap(),
        filter: "off".to_owned(),
        ..Setup::default()
    };
    let guard = guard.install().unwrap();
    let cause = TraceContext::random();
    let span = tracing::info_span!("reconcile", otel.kind = "consumer", object = "default/hello");
    let own = trace::open(&span, Some(&cause));
    let linked = TraceContext::random();
    trace::link(&span, &linked);
    span.in_scope(|| tracing::error!("port taken"));
    drop(span);
    // Not sampled by whoever caused it: not exported.
    let quiet = tracing::info_span!("quiet");
    trace::adopt(
        &quiet,
        &TraceContext {
            flags: 0,
            ..TraceContext::random()
        },
    );
    drop(quiet);
    // Dropping the guard sends what waits.
    tokio::task::spawn_blocking(|| drop(guard)).await.unwrap();

    let body = tokio::time::timeout(Duration::from_secs(10), received.recv())
        .await
        .expect("an export in time")
        .expect("an export");
    for expected in [
        &b"reconcile"[..],
        b"default/hello",
        b"port taken",
        b"service.name",
        &cause.trace_id,
        &cause.span_id,
        &own.span_id,
        &linked.trace_id,
    ] {
        assert!(contains(&body, expected), "{}", String::from_utf8_lossy(expected));
    }
    assert!(!contains(&body, b"quiet"));
}
