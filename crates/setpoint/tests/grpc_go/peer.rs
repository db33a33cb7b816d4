//! grpc-go's server as a process, and a client of its service, whose messages are bytes.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use setpoint_flow::channel::Channel;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{IntoRequest, Status};

use crate::wish;

/// A server that ends with the test.
pub(crate) struct Peer {
    pub(crate) addr: String,
    child: Child,
}

impl Peer {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let program =
            std::env::var("FLOWPEER").expect("FLOWPEER names the server: see conformance/grpc-go/run");
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the server");
        let mut first = String::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        lines.read_line(&mut first).unwrap();
        let addr = first
            .trim()
            .strip_prefix("listening ")
            .expect("it says where")
            .to_owned();
        Self { addr, child }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client.
#[derive(Clone)]
pub(crate) struct Client(pub(crate) Channel);

fn path(method: &str) -> PathAndQuery {
    format!("/setpoint.bench.Flow/{method}").parse().unwrap()
}

impl Client {
    async fn grpc(&self) -> Grpc<Channel> {
        let mut grpc = Grpc::new(self.0.clone()).max_decoding_message_size(usize::MAX);
        grpc.ready().await.unwrap();
        grpc
    }

    pub(crate) async fn echo(&self, message: Bytes) -> Result<Bytes, Status> {
        let mut grpc = self.grpc().await;
        Ok(grpc
            .unary(message.into_request(), path("Echo"), Raw)
            .await?
            .into_inner())
    }

    /// How many bytes the server counted.
    pub(crate) async fn upload(&self, messages: Vec<Bytes>) -> Result<u64, Status> {
        let messages = tokio_stream::iter(messages);
        let mut grpc = self.grpc().await;
        let request = messages.into_request();
        let mut answer = grpc
            .client_streaming(request, path("Upload"), Raw)
            .await?
            .into_inner();
        Ok(answer.get_u64())
    }

    /// How many bytes the server sent.
    pub(crate) async fn download(&self, count: usize, bytes: usize) -> Result<u64, Status> {
        let wish = tokio_stream::once(wish(count as u64, bytes as u64));
        let mut grpc = self.grpc().await;
        let request = wish.into_request();
        let mut answers = grpc.streaming(request, path("Download"), Raw).await?.into_inner();
        let mut total = 0;
        while let Some(message) = answers.message().await? {
            total += message.len() as u64;
        }
        Ok(total)
    }

    /// A call without an answer.
    pub(crate) async fn hold(&self) -> Result<Bytes, Status> {
        let requests = tokio_stream::once(Bytes::from_static(b"unread")).into_request();
        let mut grpc = self.grpc().await;
        let answer = grpc.client_streaming(requests, path("Hold"), Raw).await;
        Ok(answer?.into_inner())
    }
}

/// Messages that are bytes.
#[derive(Clone, Copy)]
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
