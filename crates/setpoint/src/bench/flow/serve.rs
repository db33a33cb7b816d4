//! The servers that are this program: one service under each contender's HTTP/2.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use anyhow::{Context, Result, bail};
use bytes::{Buf, BufMut, Bytes};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use setpoint_base::{Stop, TaskGroup};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};
use tower::{Service, service_fn};

use super::GRACE;
use super::contender::{Contender, say_listening};

/// Reads a stream of messages to its end.
pub(super) const UPLOAD: &str = "/setpoint.bench.Flow/Upload";
/// Accepts a stream and does not read it.
pub(super) const HOLD: &str = "/setpoint.bench.Flow/Hold";
/// Sends a message back.
pub(super) const ECHO: &str = "/setpoint.bench.Flow/Echo";

/// What the etcd front announces.
const FIXED_STREAM_WINDOW: u32 = 1 << 20;
const FIXED_CONNECTION_WINDOW: u32 = 4 << 20;

/// Serves until standard input ends, or `stop`.
pub(super) async fn run(contender: Contender, stop: Stop) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("listen")?;
    let addr = listener.local_addr().context("find the port")?;
    let tasks = TaskGroup::new(&Stop::new());
    let server = tasks.stop().clone();
    match contender {
        Contender::Fixed => _ = tasks.spawn(serve_fixed(listener, tasks.clone())),
        Contender::TonicDefault => _ = tasks.spawn(serve_tonic(listener, false, server)),
        Contender::TonicAdaptive => _ = tasks.spawn(serve_tonic(listener, true, server)),
        Contender::GrpcGoStatic | Contender::GrpcGoBdp => bail!("grpc-go is another program"),
    }
    say_listening(addr)?;
    let mut nothing = [0; 64];
    let mut input = tokio::io::stdin();
    let ended = async { while input.read(&mut nothing).await.is_ok_and(|count| count > 0) {} };
    tokio::select! {
        () = stop.cancelled() => (),
        () = ended => (),
    }
    tasks.shutdown(GRACE).await;
    Ok(())
}

async fn serve_tonic(listener: TcpListener, adaptive: bool, stop: Stop) {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let mut server = Server::builder();
    if adaptive {
        server = server.http2_adaptive_window(Some(true));
    }
    let serving = server.serve_with_incoming(Flow, incoming);
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
            let service = TowerToHyperService::new(Flow);
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
struct Flow;

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<tonic::body::Body>, Infallible>> + Send>>;

impl<B> Service<http::Request<B>> for Flow
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
struct Raw;

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
