//! The one sender: an HTTP/2 client that has always more to send than it may.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{Method, Request};
use parking_lot::Mutex;
use setpoint_base::TaskGroup;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use super::serve::{ECHO, UPLOAD};

/// Payload of a message of an upload, in bytes.
const MESSAGE_BYTES: usize = 64 << 10;
/// What a stream may have queued in this program; the link has its own buffers.
pub(super) const SEND_BUFFER_BYTES: usize = 1 << 20;
/// More streams than any scenario opens.
const STREAMS_MAX: usize = 4_096;
/// What the kernel queues: 1 ms at 1 Gbit/s and a little more. A small call waits behind it.
pub(super) const SOCKET_BYTES: u32 = 128 << 10;
/// Our own windows, for answers.
const WINDOW: u32 = 1 << 20;

/// One connection.
#[derive(Clone)]
pub(super) struct Sender {
    requests: SendRequest<Bytes>,
    authority: String,
    /// A message as it is on the wire.
    message: Bytes,
    pub(super) failure: Failure,
}

/// What ended an upload or a download before its time, if anything did.
#[derive(Clone, Debug, Default)]
pub(super) struct Failure(Arc<Mutex<Option<anyhow::Error>>>);

impl Failure {
    /// Keeps the first error.
    pub(super) fn note(&self, ended: Result<()>) {
        if let Err(error) = ended {
            self.0.lock().get_or_insert(error);
        }
    }

    /// # Errors
    /// The one that was kept, and what it means.
    pub(super) fn check(&self, what: &'static str) -> Result<()> {
        self.0
            .lock()
            .take()
            .map_or(Ok(()), |error| Err(error.context(what)))
    }
}

/// A stream of messages without an end.
pub(super) struct Upload {
    stream: SendStream<Bytes>,
    message: Bytes,
    /// Where in the message it is.
    at: usize,
    /// Bytes handed to the protocol.
    pub(super) sent: Arc<AtomicU64>,
    /// Dropped, it would end the upload.
    _response: Option<ResponseFuture>,
}

impl Sender {
    pub(super) async fn connect(address: SocketAddr, tasks: &TaskGroup) -> Result<Self> {
        let socket = TcpSocket::new_v4().context("make a socket")?;
        socket
            .set_send_buffer_size(SOCKET_BYTES)
            .context("bound the socket's buffer")?;
        let socket = socket
            .connect(address)
            .await
            .with_context(|| format!("connect to {address}"))?;
        socket.set_nodelay(true)?;
        let (requests, connection) = Builder::new()
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            .initial_max_send_streams(STREAMS_MAX)
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .enable_push(false)
            .handshake(socket)
            .await
            .context("greet the server")?;
        drive(connection, tasks);
        Ok(Self {
            requests,
            authority: address.to_string(),
            message: payload(),
            failure: Failure::default(),
        })
    }

    /// Opens a stream to `path`.
    pub(super) async fn open(&self, path: &str) -> Result<Upload> {
        let (response, stream) = self.request(path, false).await?;
        Ok(Upload {
            stream,
            message: self.message.clone(),
            at: 0,
            sent: Arc::default(),
            _response: Some(response),
        })
    }

    /// Opens an upload and sends until the group of tasks stops: the count of bytes.
    pub(super) async fn upload(&self, tasks: &TaskGroup) -> Result<Arc<AtomicU64>> {
        let mut upload = self.open(UPLOAD).await?;
        let sent = upload.sent.clone();
        let (stop, failure) = (tasks.stop().clone(), self.failure.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => (),
                ended = upload.send(u64::MAX) => failure.note(ended),
            }
        });
        Ok(sent)
    }

    /// One small call: how long it took.
    pub(super) async fn echo(&self, bytes: usize) -> Result<Duration> {
        let started = Instant::now();
        let (response, mut stream) = self.request(ECHO, false).await?;
        stream
            .send_data(message(&vec![1; bytes]), true)
            .context("send a call")?;
        let (head, mut body) = response.await.context("wait for an answer")?.into_parts();
        let length = read(&mut body).await?;
        if !head.status.is_success() || length != bytes + 5 {
            bail!("an answer of {length} bytes with status {}", head.status);
        }
        Ok(started.elapsed())
    }

    async fn request(&self, path: &str, end: bool) -> Result<(ResponseFuture, SendStream<Bytes>)> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}{path}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .context("make a request")?;
        let mut requests = self.requests.clone().ready().await.context("wait for a stream")?;
        requests.send_request(request, end).context("open a stream")
    }
}

impl Upload {
    /// Sends until `bytes` have gone, which may be never.
    pub(super) async fn send(&mut self, bytes: u64) -> Result<()> {
        let mut left = bytes;
        while left > 0 {
            self.stream.reserve_capacity(MESSAGE_BYTES);
            if self.stream.capacity() == 0 {
                let granted = poll_fn(|cx| self.stream.poll_capacity(cx)).await;
                if granted.transpose().context("wait for a window")?.is_none() {
                    bail!("the stream was closed");
                }
            }
            let granted = self.stream.capacity();
            let most = usize::try_from(left).unwrap_or(usize::MAX);
            let end = self.message.len().min(self.at + granted.min(most));
            let piece = self.message.slice(self.at..end);
            let count = piece.len() as u64;
            self.at = if end == self.message.len() { 0 } else { end };
            self.stream.send_data(piece, false).context("send")?;
            self.sent.fetch_add(count, Ordering::Relaxed);
            left -= count;
        }
        Ok(())
    }
}

/// Moves a connection's bytes until it ends or the group of tasks stops.
pub(super) fn drive(connection: Connection<TcpStream, Bytes>, tasks: &TaskGroup) {
    let stop = tasks.stop().clone();
    tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => (),
            ended = connection => if let Err(error) = ended {
                tracing::debug!(%error, "a client's connection");
            },
        }
    });
}

/// A stream that messages without an end can be sent on.
pub(super) fn pour(stream: SendStream<Bytes>) -> Upload {
    Upload {
        stream,
        message: payload(),
        at: 0,
        sent: Arc::default(),
        _response: None,
    }
}

fn payload() -> Bytes {
    message(&[0x5a; MESSAGE_BYTES])
}

/// A payload with gRPC's head.
fn message(payload: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(payload.len() + 5);
    message.put_u8(0);
    message.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
    message.put_slice(payload);
    message.freeze()
}

/// Reads a body to its end: its length.
async fn read(body: &mut RecvStream) -> Result<usize> {
    let mut length = 0;
    while let Some(data) = body.data().await {
        let data = data.context("read an answer")?;
        length += data.len();
        let _ = body.flow_control().release_capacity(data.len());
    }
    Ok(length)
}
