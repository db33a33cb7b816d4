//! A server in memory, clients that behave, and frames for those that do not.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use setpoint_base::{Stop, TaskGroup};
use setpoint_flow::http2::{self, Cork, End, Handler, Http2Options, Pace, Receive, ReceivedBody};
use setpoint_flow::{ConnectionSnapshot, Flow};
use setpoint_telemetry::Metrics;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

/// No test waits longer; paused time makes it come as soon as nothing else can.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What the tests' server does, by path.
struct Calls {
    pace: Pace,
}

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Handler for Calls {
    type Call = Running;

    fn begin(&mut self, request: Request<Receive>, respond: SendResponse<Bytes>) -> Option<Running> {
        let pace = self.pace.clone();
        Some(Box::pin(answer(pace, request, respond)))
    }
}

async fn answer(pace: Pace, request: Request<Receive>, mut respond: SendResponse<Bytes>) {
    let (head, body) = request.into_parts();
    let mut body = ReceivedBody::new(body, &head.headers);
    match head.uri.path() {
        // Never reads, never answers.
        "/hold" => {
            let _body = body;
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
        }
        // Answers, and never has anything to say.
        "/idle" => {
            let silence = futures_util::stream::pending::<Result<http_body::Frame<Bytes>, std::io::Error>>();
            let _ = http2::send(&pace, &mut respond, Response::new(StreamBody::new(silence))).await;
        }
        // Counts what it is sent.
        "/sink" => {
            let mut bytes = 0;
            while let Some(frame) = body.frame().await {
                match frame {
                    Ok(frame) => bytes += frame.data_ref().map_or(0, Bytes::len),
                    Err(_) => return,
                }
            }
            let answer = Response::new(Full::new(Bytes::from(bytes.to_string())));
            let _ = http2::send(&pace, &mut respond, answer).await;
        }
        // As many bytes as the path says.
        path => {
            let bytes = path[1..].parse().unwrap();
            let answer = Response::new(Full::new(Bytes::from(vec![7; bytes])));
            let _ = http2::send(&pace, &mut respond, answer).await;
        }
    }
}

/// A server of one connection, in memory.
pub(crate) struct Server {
    pub(crate) flow: Flow,
    pub(crate) metrics: Metrics,
    pub(crate) ended: JoinHandle<End>,
    pub(crate) stop: Stop,
    pub(crate) tasks: TaskGroup,
}

impl Server {
    pub(crate) fn start(flow: Flow, options: Http2Options) -> (Self, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(256 << 10);
        (Self::over(ours, flow, options), theirs)
    }

    /// One of a connection that has been accepted.
    pub(crate) fn over(
        socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        flow: Flow,
        options: Http2Options,
    ) -> Self {
        let metrics = Metrics::new();
        flow.register_metrics(&metrics).unwrap();
        let live = flow.open("test", "peer");
        let calls = Calls {
            pace: Pace::of(&live),
        };
        let (tasks, stop) = (TaskGroup::new(&Stop::new()), Stop::new());
        let stopped = stop.clone();
        let ended = tasks.spawn(async move {
            let cork = Cork::new(socket, Bytes::new());
            http2::serve(cork, calls, live, &options, &stopped).await
        });
        Self {
            flow,
            metrics,
            ended,
            stop,
            tasks,
        }
    }

    pub(crate) fn plain() -> (Self, DuplexStream) {
        Self::start(Flow::default(), Http2Options::default())
    }

    /// The one connection.
    pub(crate) fn connection(&self) -> ConnectionSnapshot {
        self.flow.snapshot().connections.pop().unwrap()
    }

    /// How it ended.
    pub(crate) async fn end(&mut self) -> End {
        let ended = tokio::time::timeout(PATIENCE, &mut self.ended).await;
        ended.expect("the connection ends").unwrap()
    }

    #[track_caller]
    pub(crate) fn counted(&self, line: &str) {
        let text = self.metrics.encode();
        assert!(text.contains(line), "{line} in {text}");
    }
}

/// Somebody else on the same listener, with a call under way.
pub(crate) struct Neighbour {
    _server: Server,
    client: Client,
    call: (h2::client::ResponseFuture, h2::SendStream<Bytes>),
    sent: usize,
}

impl Neighbour {
    pub(crate) async fn of(flow: &Flow) -> Self {
        let (server, socket) = Server::start(flow.clone(), Http2Options::default());
        let client = Client::over(socket).await;
        let call = client.begin("/sink", false).await;
        Self {
            _server: server,
            client,
            call,
            sent: 0,
        }
    }

    /// Its call goes on, and others are answered.
    pub(crate) async fn is_well(&mut self) {
        for bytes in [9, 100_000] {
            let chunk = Bytes::from(vec![1; bytes]);
            self.call.1.send_data(chunk, false).unwrap();
            self.sent += bytes;
            let uploaded = in_time(self.client.upload("/sink", bytes)).await.unwrap();
            assert_eq!(uploaded, bytes.to_string());
        }
    }

    /// Its call ends as it should.
    pub(crate) async fn ends_well(mut self) {
        self.is_well().await;
        let (answer, mut stream) = self.call;
        stream.send_data(Bytes::new(), true).unwrap();
        let answer = in_time(answer).await.unwrap();
        assert_eq!(read(answer.into_body()).await.unwrap(), self.sent.to_string());
    }
}

/// A client that behaves.
pub(crate) struct Client {
    pub(crate) requests: SendRequest<Bytes>,
    _tasks: TaskGroup,
}

impl Client {
    pub(crate) async fn over(socket: DuplexStream) -> Self {
        Self::with(socket, &h2::client::Builder::new()).await
    }

    pub(crate) async fn with(socket: DuplexStream, builder: &h2::client::Builder) -> Self {
        let (requests, connection) = builder.handshake(socket).await.unwrap();
        let tasks = TaskGroup::new(&Stop::new());
        tasks.spawn(connection);
        Self {
            requests,
            _tasks: tasks,
        }
    }

    /// Begins a call.
    pub(crate) async fn begin(
        &self,
        path: &str,
        end: bool,
    ) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
        let mut ready = self.requests.clone().ready().await.unwrap();
        ready.send_request(request(path), end).unwrap()
    }

    /// Sends so many bytes as fast as it may; the answer.
    pub(crate) async fn upload(&self, path: &str, bytes: usize) -> Result<Bytes, h2::Error> {
        let (answer, mut stream) = self.begin(path, bytes == 0).await;
        let sent = if bytes == 0 {
            Ok(())
        } else {
            pour(&mut stream, bytes).await
        };
        sent?;
        read(answer.await?.into_body()).await
    }
}

pub(crate) fn request(path: &str) -> Request<()> {
    Request::post(format!("http://test{path}")).body(()).unwrap()
}

/// Sends so many bytes, and the end.
pub(crate) async fn pour(stream: &mut h2::SendStream<Bytes>, mut bytes: usize) -> Result<(), h2::Error> {
    let chunk = Bytes::from(vec![1; 64 << 10]);
    while bytes > 0 {
        stream.reserve_capacity(bytes.min(chunk.len()));
        let credit = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let credit = credit.ok_or(h2::Reason::CANCEL)??;
        let part = credit.min(bytes).min(chunk.len());
        bytes -= part;
        stream.send_data(chunk.slice(..part), bytes == 0)?;
    }
    Ok(())
}

pub(crate) async fn read(mut body: h2::RecvStream) -> Result<Bytes, h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok(all.into())
}

pub(crate) async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("in time")
}

pub(crate) mod raw {
    //! Frames, as no library would send them.

    pub(crate) use setpoint_testkit::frames::*;

    use super::*;

    /// A frame that came: kind, flags, stream, payload.
    pub(crate) type Came = (u8, u8, u32, Vec<u8>);

    /// A peer that says what it is told to, and answers only SETTINGS.
    pub(crate) struct RawPeer<S = DuplexStream> {
        socket: S,
        waiting: Vec<u8>,
        /// What the last GOAWAY has said.
        pub(crate) told: Option<h2::Reason>,
    }

    impl<S: AsyncRead + AsyncWrite + Unpin> RawPeer<S> {
        /// One that lets the server speak first.
        pub(crate) fn listening(socket: S) -> Self {
            Self {
                socket,
                waiting: Vec::new(),
                told: None,
            }
        }

        pub(crate) async fn greet(socket: S, window: u32) -> Self {
            let mut peer = Self::listening(socket);
            peer.say(&hello(window)).await;
            peer
        }

        pub(crate) async fn say(&mut self, bytes: &[u8]) {
            self.socket.write_all(bytes).await.unwrap();
        }

        /// Says that nothing more will be said, and reads on.
        pub(crate) async fn half_close(&mut self) {
            self.socket.shutdown().await.unwrap();
        }

        /// Says it while reading away what is answered; whether all was taken.
        pub(crate) async fn flood(&mut self, bytes: &[u8]) -> bool {
            let (mut reader, mut writer) = tokio::io::split(&mut self.socket);
            let (waiting, told) = (&mut self.waiting, &mut self.told);
            let write = writer.write_all(bytes);
            let mut write = std::pin::pin!(write);
            loop {
                tokio::select! {
                    written = &mut write => return written.is_ok(),
                    read = reader.read_buf(waiting) => {
                        if matches!(read, Ok(0) | Err(_)) {
                            return false;
                        }
                        // Frames are read away, not bytes: what is read later begins with one.
                        while let Some(came) = cut(waiting) {
                            *told = reason(&came).or(*told);
                        }
                    }
                }
            }
        }

        /// The next frame; `None` once the server has closed.
        pub(crate) async fn next(&mut self) -> Option<Came> {
            loop {
                if let Some(came) = self.take() {
                    return Some(came);
                }
                let read = in_time(self.socket.read_buf(&mut self.waiting)).await;
                if matches!(read, Ok(0) | Err(_)) {
                    return None;
                }
            }
        }

        /// The next frame of that kind on that stream.
        pub(crate) async fn next_of(&mut self, kind: u8, stream: u32) -> Came {
            loop {
                let came = self.next().await.expect("more frames");
                if came.0 == SETTINGS && came.1 & ACK == 0 {
                    self.say(&frame(SETTINGS, ACK, 0, &[])).await;
                }
                if (came.0, came.2) == (kind, stream) {
                    return came;
                }
            }
        }

        /// The next frame of those that are here.
        pub(crate) fn take(&mut self) -> Option<Came> {
            let came = cut(&mut self.waiting)?;
            self.told = reason(&came).or(self.told);
            Some(came)
        }
    }

    /// What it says, if it is a GOAWAY.
    fn reason((kind, _, _, payload): &Came) -> Option<h2::Reason> {
        let reason = payload.get(4..8).filter(|_| *kind == GOAWAY)?;
        Some(u32::from_be_bytes(reason.try_into().unwrap()).into())
    }

    /// Cuts off the first frame, if it is whole.
    fn cut(bytes: &mut Vec<u8>) -> Option<Came> {
        let [a, b, c, kind, flags, s0, s1, s2, s3, ..] = bytes[..] else {
            return None;
        };
        let len = 9 + u32::from_be_bytes([0, a, b, c]) as usize;
        if bytes.len() < len {
            return None;
        }
        let frame: Vec<u8> = bytes.drain(..len).collect();
        Some((
            kind,
            flags,
            u32::from_be_bytes([s0, s1, s2, s3]),
            frame[9..].to_vec(),
        ))
    }
}
