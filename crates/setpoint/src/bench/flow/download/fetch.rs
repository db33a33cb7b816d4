//! The clients that are this program: ours and tonic's, reading as fast as they can.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::uri::PathAndQuery;
use setpoint_flow::Channel;
use setpoint_flow::channel::CallOptions;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::codegen::StdError;
use tonic::transport::Endpoint;
use tonic::{Request, Status};

use super::DOWNLOAD;
use crate::bench::flow::contender::{Contender, say_fetching};
use crate::bench::flow::serve::{Raw, until_input_ends};

/// Nothing here takes as long.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Reads until standard input ends.
pub(in crate::bench::flow) async fn run(contender: Contender, from: SocketAddr) -> Result<()> {
    tokio::select! {
        () = until_input_ends() => Ok(()),
        ended = read(contender, from) => ended,
    }
}

async fn read(contender: Contender, from: SocketAddr) -> Result<()> {
    let address = format!("http://{from}");
    let endpoint = Endpoint::from_shared(address.clone())
        .context("make an endpoint")?
        .tcp_nodelay(true);
    say_fetching(from)?;
    match contender {
        Contender::Setpoint => fetch(Channel::to(address).build().context("build a channel")?).await,
        Contender::TonicDefault => fetch(endpoint.connect_lazy()).await,
        Contender::TonicAdaptive => fetch(endpoint.http2_adaptive_window(true).connect_lazy()).await,
        _ => bail!("{} is no client of this program", contender.name()),
    }
}

async fn fetch<C>(channel: C) -> Result<()>
where
    C: GrpcService<Body>,
    C::Error: Into<StdError>,
    C::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <C::ResponseBody as http_body::Body>::Error: Into<StdError> + Send,
{
    let mut grpc = Grpc::new(channel);
    let ready = grpc
        .ready()
        .await
        .map_err(|error| Status::unavailable(error.into().to_string()));
    ready.context("wait for the channel")?;
    let mut request = Request::new(Bytes::new());
    request
        .extensions_mut()
        .insert(CallOptions::new().long_stream(TIMEOUT));
    let answer = grpc
        .server_streaming(request, PathAndQuery::from_static(DOWNLOAD), Raw)
        .await;
    let mut messages = answer.context("begin a download")?.into_inner();
    while messages.message().await.context("read a message")?.is_some() {}
    bail!("the server had enough")
}
