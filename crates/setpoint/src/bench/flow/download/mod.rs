//! The other direction: this program's server sends without an end, and the windows of a contender's client decide.

pub(super) mod fetch;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use setpoint_base::{Stop, TaskGroup};
use setpoint_flow::impair::{Proxy, ProxyOptions, Setting};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;

use super::GRACE;
use super::contender::{Peer, Start};
use super::sender::{self, Failure, SEND_BUFFER_BYTES, SOCKET_BYTES};

/// Sends messages until its client has enough.
pub(super) const DOWNLOAD: &str = "/setpoint.bench.Flow/Pour";
const BACKLOG: u32 = 16;

/// A contender's client, the link to it, and a server that sends.
pub(super) struct Download {
    pub(super) peer: Peer,
    pub(super) proxy: Proxy,
    source: Source,
}

impl Download {
    /// Starts a fresh client behind a fresh link; back when the server begins to send.
    pub(super) async fn start(command: &Start, setting: Setting) -> Result<Self> {
        let source = Source::listen()?;
        let options = ProxyOptions {
            setting,
            ..ProxyOptions::default()
        };
        let proxy = Proxy::listen(source.addr, options)
            .await
            .context("start the proxy")?;
        let peer = Peer::start(&command.clone().with_argument(proxy.addr().to_string())).await?;
        source.began.notified().await;
        Ok(Self { peer, proxy, source })
    }

    /// Ends all of it.
    ///
    /// # Errors
    /// The download had ended before.
    pub(super) async fn stop(self) -> Result<()> {
        let ended = self
            .source
            .failure
            .check("a download ended early: its figure is not one of flow control");
        // The client goes first, of its own accord: from here on the streams may end.
        self.peer.stop().await;
        self.source.tasks.shutdown(GRACE).await;
        self.proxy.stop().await;
        ended
    }
}

/// The server.
struct Source {
    addr: SocketAddr,
    began: Arc<Notify>,
    failure: Failure,
    tasks: TaskGroup,
}

impl Source {
    fn listen() -> Result<Self> {
        let socket = TcpSocket::new_v4().context("make a socket")?;
        // What is accepted has it from the listener.
        socket
            .set_send_buffer_size(SOCKET_BYTES)
            .context("bound the socket's buffer")?;
        socket
            .bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .context("find a port")?;
        let listener = socket.listen(BACKLOG).context("listen")?;
        let source = Self {
            addr: listener.local_addr().context("find the port")?,
            began: Arc::default(),
            failure: Failure::default(),
            tasks: TaskGroup::new(&Stop::new()),
        };
        source.tasks.spawn(accept(
            listener,
            source.began.clone(),
            source.failure.clone(),
            source.tasks.clone(),
        ));
        Ok(source)
    }
}

async fn accept(listener: TcpListener, began: Arc<Notify>, failure: Failure, tasks: TaskGroup) {
    loop {
        let accepted = tokio::select! {
            () = tasks.stop().cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((socket, _)) = accepted else { continue };
        let _ = socket.set_nodelay(true);
        let (began, failure, group) = (began.clone(), failure.clone(), tasks.clone());
        tasks.spawn(async move {
            let stop = group.stop().clone();
            tokio::select! {
                () = stop.cancelled() => (),
                _ = serve(socket, began, failure, group) => (),
            }
        });
    }
}

async fn serve(socket: TcpStream, began: Arc<Notify>, failure: Failure, tasks: TaskGroup) -> Result<()> {
    let mut builder = Builder::new();
    builder.max_send_buffer_size(SEND_BUFFER_BYTES);
    let mut connection = builder.handshake(socket).await.context("greet the client")?;
    while let Some(request) = connection.accept().await {
        let (_, respond) = request.context("take a request")?;
        let (began, failure, stop) = (began.clone(), failure.clone(), tasks.stop().clone());
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => (),
                ended = pour(respond, &began) => failure.note(ended),
            }
        });
    }
    Ok(())
}

async fn pour(mut respond: SendResponse<Bytes>, began: &Notify) -> Result<()> {
    let head = http::Response::builder()
        .header("content-type", "application/grpc")
        .body(())?;
    let stream = respond.send_response(head, false).context("begin an answer")?;
    began.notify_one();
    sender::pour(stream).send(u64::MAX).await
}
