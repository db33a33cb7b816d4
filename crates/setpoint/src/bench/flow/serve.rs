//! The servers that are this program: one service under each contender's HTTP/2.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::{Buf, BufMut, Bytes};
use h2::server::SendResponse;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use setpoint_base::{Stop, TaskGroup};
use setpoint_flow::http2::{self, Cork, Handler, Http2Options, Pace, Receive, ReceivedBody};
use setpoint_flow::{Flow, Tcp};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};
use tower::{Service, service_fn};

use super::GRACE;
use super::contender::{Contender, Estimate, say_estimate, say_listening};

/// Reads a stream of messages to its end.
pub(super) const UPLOAD: &str = "/setpoint.bench.Flow/Upload";
/// Accepts a stream and does not read it.
pub(super) const HOLD: &str = "/setpoint.bench.Flow/Hold";
/// Sends a message back.
pub(super) const ECHO: &str = "/setpoint.bench.Flow/Echo";

/// As many streams at a time as the etcd front takes.
const STREAMS_MAX: u32 = 65_536;
/// Between two words of ours about the link: a part of the shortest round trip.
const TELL: Duration = Duration::from_millis(5);
/// What the etcd front announced before its windows followed the link.
const FIXED_STREAM_WINDOW: u32 = 1 << 20;
const FIXED_CONNECTION_WINDOW: u32 = 4 << 20;

/// Serves until standard input ends, or `stop`.
pub(super) async fn run(contender: Contender, stop: Stop) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("listen")?;
    let addr = listener.local_addr().context("find the port")?;
    let tasks = TaskGroup::new(&Stop::new());
    let server = tasks.stop().clone();
    match contender {
        Contender::Setpoint => _ = tasks.spawn(serve_setpoint(listener, tasks.clone())),
        Contender::Fixed => _ = tasks.spawn(serve_fixed(listener, tasks.clone())),
        Contender::TonicDefault => _ = tasks.spawn(serve_tonic(listener, false, server)),
        Contender::TonicAdaptive => _ = tasks.spawn(serve_tonic(listener, true, server)),
        Contender::GrpcGoStatic | Contender::GrpcGoBdp => bail!("grpc-go is another program"),
    }
    say_listening(addr)?;
    tokio::select! {
        () = stop.cancelled() => (),
        () = until_input_ends() => (),
    }
    tasks.shutdown(GRACE).await;
    Ok(())
}

/// Until who started this program has ended, or wants its end.
pub(super) async fn until_input_ends() {
    let mut nothing = [0; 64];
    let mut input = tokio::io::stdin();
    while input.read(&mut nothing).await.is_ok_and(|count| count > 0) {}
}

/// The driver of all our fronts.
async fn serve_setpoint(listener: TcpListener, tasks: TaskGroup) {
    let flow = Flow::default();
    tasks.spawn(tell(flow.clone(), tasks.stop().clone()));
    accept(listener, flow, Calls, tasks).await;
}

/// Serves connections with it until the group of tasks stops.
pub(super) async fn accept<S>(listener: TcpListener, flow: Flow, service: S, tasks: TaskGroup)
where
    S: Service<http::Request<ReceivedBody>, Response = http::Response<tonic::body::Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let options = Http2Options {
        streams_max: STREAMS_MAX,
        ..Http2Options::default()
    };
    loop {
        let accepted = tokio::select! {
            () = tasks.stop().cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((socket, peer)) = accepted else { continue };
        let _ = socket.set_nodelay(true);
        let socket = Tcp::new(socket);
        let live = flow.open("bench", &peer.to_string());
        live.is_over(socket.info());
        let handler = Handling {
            pace: Pace::of(&live),
            service: service.clone(),
        };
        let stop = tasks.stop().clone();
        tasks.spawn(async move {
            let cork = Cork::new(socket, Bytes::new());
            let connection = http2::serve(cork, handler, live, &options, &stop);
            tokio::select! {
                () = stop.cancelled() => (),
                _ = connection => (),
            }
        });
    }
}

/// Says what is known of the busiest link, whenever that changes.
async fn tell(flow: Flow, stop: Stop) {
    let mut last = None;
    while !stop.is_cancelled() {
        let snapshot = flow.snapshot();
        let busiest = snapshot.connections.iter().max_by_key(|it| it.in_bytes);
        let known = busiest.and_then(|it| Some((it.estimate?, it.stream_window_bytes)));
        let estimate = known.map(|(link, window_bytes)| Estimate {
            rtt_ms: link.rtt_seconds * 1e3,
            mbit: link.bandwidth_bytes_per_second * 8.0 / 1e6,
            window_bytes,
        });
        if let Some(estimate) = estimate.filter(|estimate| last != Some(*estimate)) {
            last = Some(estimate);
            if say_estimate(&estimate).is_err() {
                return;
            }
        }
        tokio::time::sleep(TELL).await;
    }
}

/// Makes the service's calls out of the driver's requests.
struct Handling<S> {
    pace: Pace,
    service: S,
}

impl<S> Handler for Handling<S>
where
    S: Service<http::Request<ReceivedBody>, Response = http::Response<tonic::body::Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

    fn begin(
        &mut self,
        request: http::Request<Receive>,
        mut respond: SendResponse<Bytes>,
    ) -> Option<Self::Call> {
        let (head, body) = request.into_parts();
        let body = ReceivedBody::new(body, &head.headers);
        // The services here are always ready.
        let answer = self.service.call(http::Request::from_parts(head, body));
        let pace = self.pace.clone();
        Some(Box::pin(async move {
            let Ok(answer) = answer.await;
            // Who has gone does not want to know.
            let _ = http2::send(&pace, &mut respond, answer).await;
        }))
    }
}

async fn serve_tonic(listener: TcpListener, adaptive: bool, stop: Stop) {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let mut server = Server::builder();
    if adaptive {
        server = server.http2_adaptive_window(Some(true));
    }
    let serving = server.serve_with_incoming(Calls, incoming);
    tokio::select! {
        () = stop.cancelled() => (),
        served = serving => if let Err(error) = served {
            tracing::warn!(%error, "tonic's server ended");
        },
    }
}

/// The `h2` crate by way of hyper, with windows that never change.
async fn serve_fixed(listener: TcpListener, tasks: TaskGroup) {
    loop {
        let accepted = tokio::select! {
            () = tasks.stop().cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((socket, _)) = accepted else { continue };
        let _ = socket.set_nodelay(true);
        let stop = tasks.stop().clone();
        tasks.spawn(async move {
            let service = TowerToHyperService::new(Calls);
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(FIXED_STREAM_WINDOW)
                .initial_connection_window_size(FIXED_CONNECTION_WINDOW)
                .max_concurrent_streams(None)
                .serve_connection(TokioIo::new(socket), service);
            tokio::select! {
                () = stop.cancelled() => (),
                _ = connection => (),
            }
        });
    }
}

/// The service.
#[derive(Clone)]
struct Calls;

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<tonic::body::Body>, Infallible>> + Send>>;

impl<B> Service<http::Request<B>> for Calls
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Answer {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Raw);
            Ok(match request.uri().path() {
                UPLOAD => grpc.client_streaming(service_fn(upload), request).await,
                HOLD => grpc.client_streaming(service_fn(hold), request).await,
                ECHO => grpc.unary(service_fn(echo), request).await,
                _ => Status::unimplemented("there is Upload, Hold and Echo").into_http(),
            })
        })
    }
}

/// Answers with the number of bytes.
async fn upload(request: Request<Streaming<Bytes>>) -> Result<Response<Bytes>, Status> {
    let mut messages = request.into_inner();
    let mut total = 0u64;
    while let Some(message) = messages.message().await? {
        total += message.len() as u64;
    }
    Ok(Response::new(Bytes::copy_from_slice(&total.to_be_bytes())))
}

/// Never answers.
async fn hold(request: Request<Streaming<Bytes>>) -> Result<Response<Bytes>, Status> {
    let _unread = request.into_inner();
    std::future::pending().await
}

async fn echo(request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
    Ok(Response::new(request.into_inner()))
}

/// Messages that are bytes.
#[derive(Clone, Copy, Default)]
pub(super) struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = input.remaining();
        Ok(Some(input.copy_to_bytes(length)))
    }
}
