//! A network in memory and peers on it that answer, stall, drain, freeze and vanish on command.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use parking_lot::Mutex;
use prost::Message;
use setpoint_base::{Stop, TaskGroup};
use setpoint_flow::Channel;
use setpoint_flow::channel::{Address, ByteStream, ChannelOptions, Dialer, Dialled};
use setpoint_proto::etcdserverpb::kv_client::KvClient;
use setpoint_proto::etcdserverpb::{RangeRequest, RangeResponse};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, duplex};
use tokio::sync::{mpsc, watch};
use tonic::{Code, Status};

/// What a peer does with a call.
pub(super) type Handler = Arc<dyn Fn(Exchange) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// One call, as a peer sees it.
pub(super) struct Exchange {
    pub(super) request: Request<RecvStream>,
    pub(super) respond: SendResponse<Bytes>,
    /// Calls the peer has had before.
    pub(super) number: usize,
}

impl Exchange {
    /// Reads the request to its end.
    pub(super) async fn body(&mut self) -> Result<Bytes, h2::Error> {
        let mut all = BytesMut::new();
        while let Some(data) = self.request.body_mut().data().await {
            let data = data?;
            self.request
                .body_mut()
                .flow_control()
                .release_capacity(data.len())?;
            all.put(data);
        }
        Ok(all.freeze())
    }

    /// Answers with one message.
    pub(super) fn answer(mut self, message: Bytes) {
        let head = Response::builder()
            .header("content-type", "application/grpc")
            .body(())
            .unwrap();
        let Ok(mut stream) = self.respond.send_response(head, false) else {
            return;
        };
        let _ = stream.send_data(message, false);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let _ = stream.send_trailers(trailers);
    }

    /// Answers with a status alone.
    pub(super) fn refuse(mut self, code: Code, headers: &[(&'static str, &str)]) {
        let mut head = Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", code as i32);
        for (name, value) in headers {
            head = head.header(*name, *value);
        }
        let _ = self.respond.send_response(head.body(()).unwrap(), true);
    }

    /// Resets the stream.
    pub(super) fn reset(mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }
}

/// A message as gRPC frames it.
pub(super) fn framed(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(message.encoded_len() as u32);
    message.encode(&mut bytes).unwrap();
    bytes.freeze()
}

/// An answer that says which count it is.
pub(super) fn counted(count: i64) -> Bytes {
    framed(&RangeResponse {
        count,
        ..Default::default()
    })
}

/// A handler out of an async function.
pub(super) fn handler<F>(work: impl Fn(Exchange) -> F + Send + Sync + 'static) -> Handler
where
    F: Future<Output = ()> + Send + 'static,
{
    Arc::new(move |exchange| Box::pin(work(exchange)))
}

/// Answers every call after `delay` with `count`.
pub(super) fn answering(count: i64, delay: Duration) -> Handler {
    handler(move |mut exchange| async move {
        if exchange.body().await.is_ok() {
            tokio::time::sleep(delay).await;
            exchange.answer(counted(count));
        }
    })
}

/// A network in memory. Cloning gives another handle to the same one.
#[derive(Clone, Default)]
pub(super) struct Net(Arc<Mutex<HashMap<String, mpsc::Sender<DuplexStream>>>>);

impl Dialer for Net {
    fn dial<'a>(&'a self, address: &'a Address) -> Dialled<'a> {
        Box::pin(async move {
            let listener = self.0.lock().get(&address.to_string()).cloned();
            let (ours, theirs) = duplex(256 << 10);
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            let listener = listener.ok_or_else(refused)?;
            listener.send(theirs).await.map_err(|_| refused())?;
            Ok(Box::new(ours) as Box<dyn ByteStream>)
        })
    }
}

/// Options of a peer.
#[derive(Clone, Copy, Default)]
pub(super) struct PeerOptions {
    pub(super) streams_max: Option<u32>,
}

/// What all connections of a peer are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Serve,
    Drain,
    /// An abrupt GOAWAY with this reason.
    GoAway(Reason),
    Frozen,
    /// Connections end without a farewell.
    Cut,
}

/// A peer. It ends when it is dropped.
pub(super) struct Peer {
    state: Arc<State>,
    tasks: TaskGroup,
    address: String,
    net: Option<Net>,
}

struct State {
    handler: Handler,
    options: PeerOptions,
    calls: AtomicUsize,
    accepted: AtomicUsize,
    open: AtomicUsize,
    mode: watch::Sender<Mode>,
}

impl Peer {
    /// A peer on a network in memory.
    pub(super) fn start(net: &Net, address: &str, options: PeerOptions, handler: Handler) -> Self {
        let (sender, mut streams) = mpsc::channel::<DuplexStream>(16);
        let peer = Self::new(options, handler, address, Some(net.clone()));
        let (state, tasks) = (Arc::clone(&peer.state), peer.tasks.clone());
        peer.tasks.spawn(async move {
            while let Some(stream) = streams.recv().await {
                tasks.spawn(serve(stream, Arc::clone(&state), tasks.clone()));
            }
        });
        net.0.lock().insert(address.to_owned(), sender);
        peer
    }

    /// A peer on a listener of this machine.
    pub(super) fn listen(listener: tokio::net::TcpListener, handler: Handler) -> Self {
        let peer = Self::new(PeerOptions::default(), handler, "", None);
        let (state, tasks) = (Arc::clone(&peer.state), peer.tasks.clone());
        peer.tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                tasks.spawn(serve(stream, Arc::clone(&state), tasks.clone()));
            }
        });
        peer
    }

    /// A peer on a stream that was made elsewhere, besides those it has.
    pub(super) fn serve_on(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        self.tasks
            .spawn(serve(stream, Arc::clone(&self.state), self.tasks.clone()));
    }

    pub(super) fn new(options: PeerOptions, handler: Handler, address: &str, net: Option<Net>) -> Self {
        Self {
            state: Arc::new(State {
                handler,
                options,
                calls: AtomicUsize::new(0),
                accepted: AtomicUsize::new(0),
                open: AtomicUsize::new(0),
                mode: watch::Sender::new(Mode::Serve),
            }),
            tasks: TaskGroup::new(&Stop::new()),
            address: address.to_owned(),
            net,
        }
    }

    /// Calls that have arrived.
    pub(super) fn calls(&self) -> usize {
        self.state.calls.load(Ordering::SeqCst)
    }

    /// Connections that were accepted.
    pub(super) fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// Connections there are.
    pub(super) fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Says a graceful GOAWAY on every connection there is; new ones are welcome.
    pub(super) fn drain(&self) {
        self.state.mode.send_replace(Mode::Drain);
    }

    /// Says GOAWAY with a reason on every connection there is; new ones are welcome.
    pub(super) fn drain_with(&self, reason: Reason) {
        self.state.mode.send_replace(Mode::GoAway(reason));
    }

    /// Nothing is read or written any more.
    pub(super) fn freeze(&self) {
        self.state.mode.send_replace(Mode::Frozen);
    }

    pub(super) fn thaw(&self) {
        self.state.mode.send_replace(Mode::Serve);
    }

    /// Cuts every connection; new ones are welcome.
    pub(super) fn cut(&self) {
        self.state.mode.send_replace(Mode::Cut);
    }

    /// Nobody listens there any more; connections there are go on.
    pub(super) fn close_listener(&self) {
        if let Some(net) = &self.net {
            net.0.lock().remove(&self.address);
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.close_listener();
        self.state.mode.send_replace(Mode::Cut);
        self.tasks.stop().cancel();
    }
}

/// Counts a connection while it is there.
struct Counted(Arc<State>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    state: Arc<State>,
    tasks: TaskGroup,
) {
    state.accepted.fetch_add(1, Ordering::SeqCst);
    state.open.fetch_add(1, Ordering::SeqCst);
    let _counted = Counted(Arc::clone(&state));
    let mut mode = state.mode.subscribe();
    mode.mark_unchanged();
    let mut builder = h2::server::Builder::new();
    if let Some(most) = state.options.streams_max {
        builder.max_concurrent_streams(most);
    }
    let frozen = |mode: &Mode| *mode != Mode::Frozen;
    let Ok(_) = mode.wait_for(frozen).await.map(drop) else {
        return;
    };
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else {
        return;
    };
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                let number = state.calls.fetch_add(1, Ordering::SeqCst);
                tasks.spawn((state.handler)(Exchange { request, respond, number }));
            }
            changed = mode.changed() => {
                let now = *mode.borrow_and_update();
                match now {
                    _ if changed.is_err() => return,
                    Mode::Cut => return,
                    Mode::GoAway(reason) => connection.abrupt_shutdown(reason),
                    Mode::Drain => connection.graceful_shutdown(),
                    Mode::Frozen => if mode.wait_for(frozen).await.is_err() { return },
                    Mode::Serve => (),
                }
            }
        }
    }
}

/// A channel over the network in memory to these addresses.
pub(super) fn channel(net: &Net, target: &str, options: ChannelOptions) -> Channel {
    Channel::to(target)
        .dialer(net.clone())
        .options(options)
        .build()
        .unwrap()
}

/// A generated client's call; the count in the answer.
pub(super) async fn range(channel: &Channel) -> Result<i64, Status> {
    let mut client = KvClient::new(channel.clone());
    let answer = client.range(RangeRequest::default()).await?;
    Ok(answer.into_inner().count)
}

/// Waits until something is so; in stopped time that is for nothing.
pub(super) async fn until(mut done: impl FnMut() -> bool) {
    for _ in 0..60_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("it never came to be");
}
