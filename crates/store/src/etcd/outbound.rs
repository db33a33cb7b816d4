//! The messages a client gets, as fast as it reads them, and the status a call ends with.
//!
//! gRPC's status comes in the trailers, or alone in the headers when nothing was said before.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use h2::server::SendResponse;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response};
use setpoint_flow::http2::Pace;
use tokio::time::timeout;
use tonic::Status;

use super::few::Hold;
use super::gateway::Answers;
use super::inbound::FRAME_BYTES;
use super::method::Method;
use super::room::{self, Share};
use super::server::{ROOM_FREE, SMALL_BYTES, Shared};
use super::wide::Wide;
use super::wire::Reply;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// Why an answer is given up that its client does not take: it takes too long, or there is no room to wait in.
const SLOW: &str = "slow";
pub(super) const NO_ROOM: &str = "room";

impl Shared {
    /// An answer is given up for that.
    pub(super) fn cut(&self, why: &'static str) -> Gone {
        self.metrics.cut(why);
        Gone
    }
}

/// The client has gone; nothing can be said to it.
#[derive(Debug)]
pub(super) struct Gone;

/// Where framed messages go.
pub(super) enum Sink {
    Http2(Http2),
    /// They become JSON.
    Gateway(Answers),
}

/// The messages a client gets.
pub(super) struct Outbound {
    shared: Arc<Shared>,
    method: Method,
    sink: Sink,
    /// What is still to come of the message that has begun.
    rest: usize,
    /// What the connection may have of the room for answers.
    share: Share,
}

impl Outbound {
    pub(super) fn new(shared: Arc<Shared>, method: Method, sink: Sink, share: &Share) -> Self {
        Self {
            shared,
            method,
            sink,
            rest: 0,
            share: Arc::clone(share),
        }
    }

    pub(super) fn share(&self) -> &Share {
        &self.share
    }

    /// Counts bytes and the messages that begin in them.
    fn count(&mut self, mut data: &[u8]) {
        let metrics = &self.shared.metrics;
        metrics.sent_bytes.inc_by(data.len() as u64);
        let mut messages = 0;
        while data.len() > self.rest {
            data = &data[self.rest..];
            let [_, a, b, c, d, ..] = data else {
                break;
            };
            messages += 1;
            self.rest = FRAME_BYTES + u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        }
        self.rest = self.rest.saturating_sub(data.len());
        if messages > 0 {
            metrics.sent(self.method, messages);
        }
    }

    /// Sends response headers without a message, so that the client knows the stream is up.
    pub(super) fn greet(&mut self) -> Result<(), Gone> {
        match &mut self.sink {
            Sink::Http2(sink) => sink.open().map(drop),
            // The first message brings them.
            Sink::Gateway(_) => Ok(()),
        }
    }

    /// Waits while the connection has said more than could be written.
    pub(super) async fn turn(&self) {
        match &self.sink {
            Sink::Http2(sink) => sink.pace.turn().await,
            // A message at a time: it waits where it is sent.
            Sink::Gateway(_) => (),
        }
    }

    /// Sends bytes of framed messages, as fast as the client reads them.
    pub(super) async fn send(&mut self, data: Bytes) -> Result<(), Gone> {
        self.count(&data);
        match &mut self.sink {
            Sink::Http2(sink) => sink.send(data).await,
            Sink::Gateway(sink) => sink.send(&data).await,
        }
    }

    /// Waits until the client gives the call up.
    pub(super) async fn reset(&mut self) {
        match &mut self.sink {
            Sink::Http2(sink) => sink.reset().await,
            // The call is dropped with the answer that its client no longer reads.
            Sink::Gateway(_) => std::future::pending().await,
        }
    }

    /// Sends the one answer and ends well. A client that does not read loses the call.
    pub(super) async fn reply(mut self, reply: Reply) {
        let stall = self.shared.options.stall_timeout;
        let (reply, _room) = match reply {
            Reply::Held(reply, room) => (*reply, Some(room)),
            reply => (reply, None),
        };
        let sent = match reply {
            Reply::Whole(message) => self.send_whole(message, stall).await,
            Reply::Pieces(pieces) => self.send_pieces(pieces, _room.is_some(), stall).await,
            Reply::Wide(wide) => self.send_wide(*wide).await,
            Reply::Held(..) => Err(Gone),
        };
        match sent {
            Ok(()) => self.succeed(),
            Err(Gone) => self.abandon(),
        }
    }

    async fn send_whole(&mut self, message: Bytes, stall: Duration) -> Result<(), Gone> {
        let mut _room = Hold::Nothing;
        if let Sink::Http2(sink) = &mut self.sink {
            if sink.hand_if_room(&message)? {
                self.count(&message);
                return Ok(());
            }
            // It waits for the client, and many like it may. Larger ones have their room already.
            if message.len() <= ROOM_FREE {
                _room = self
                    .shared
                    .room_to_wait(&self.share, message.len())
                    .ok_or_else(|| self.shared.cut(NO_ROOM))?;
            }
        }
        match timeout(stall, self.send(message)).await {
            Ok(sent) => sent,
            Err(_) => Err(self.cut(SLOW)),
        }
    }

    /// Hands over as many pieces as the client takes at once.
    pub(super) fn hand_pieces(&mut self, pieces: &mut VecDeque<Bytes>) -> Result<(), Gone> {
        while let Some(piece) = pieces.front()
            && let Sink::Http2(sink) = &mut self.sink
            && sink.hand_if_room(piece)?
        {
            if let Some(piece) = pieces.pop_front() {
                self.count(&piece);
            }
        }
        Ok(())
    }

    /// Sends pieces. What waits for the client takes room, if none is `held`: many like it may.
    async fn send_pieces(
        &mut self,
        mut pieces: VecDeque<Bytes>,
        held: bool,
        stall: Duration,
    ) -> Result<(), Gone> {
        self.hand_pieces(&mut pieces)?;
        let mut _room = Hold::Nothing;
        if !held && !pieces.is_empty() {
            let left = pieces.iter().map(Bytes::len).sum();
            let room = self.shared.room_to_wait(&self.share, left);
            _room = room.ok_or_else(|| self.cut(NO_ROOM))?;
        }
        self.send_parts(pieces, stall).await
    }

    async fn send_parts(
        &mut self,
        parts: impl IntoIterator<Item = Bytes>,
        stall: Duration,
    ) -> Result<(), Gone> {
        for part in parts {
            let Ok(sent) = timeout(stall, self.send(part)).await else {
                return Err(self.cut(SLOW));
            };
            sent?;
        }
        Ok(())
    }

    async fn send_wide(&mut self, mut wide: Wide) -> Result<(), Gone> {
        loop {
            match wide.next().await {
                Ok(Some(parts)) => {
                    for part in parts {
                        self.send_wide_part(part).await?;
                    }
                }
                Ok(None) => return Ok(()),
                Err(status) => {
                    tracing::error!(error = %status, "read the rest of a range");
                    return Err(Gone);
                }
            }
        }
    }

    /// Sends a part of an answer that has room. Who takes too long over it, by what others need, loses the call.
    pub(super) async fn send_wide_part(&mut self, mut part: Bytes) -> Result<(), Gone> {
        let shared = Arc::clone(&self.shared);
        while !part.is_empty() {
            let some = part.split_to(part.len().min(room::PART_BYTES));
            let sent = shared
                .room
                .taken(shared.options.stall_timeout, self.send(some))
                .await;
            sent.unwrap_or_else(|| Err(shared.cut(SLOW)))?;
        }
        Ok(())
    }

    fn cut(&self, why: &'static str) -> Gone {
        self.shared.cut(why)
    }

    pub(super) fn abandon(self) {
        match self.sink {
            Sink::Http2(sink) => sink.abandon(),
            Sink::Gateway(sink) => sink.end(Err(Status::internal("the answer could not be completed"))),
        }
    }

    /// Ends with status OK.
    pub(super) fn succeed(self) {
        match self.sink {
            Sink::Http2(sink) => sink.succeed(),
            Sink::Gateway(sink) => sink.end(Ok(())),
        }
    }

    /// Ends with an error.
    pub(super) fn fail(self, status: &Status) {
        match self.sink {
            Sink::Http2(sink) => sink.fail(status),
            Sink::Gateway(sink) => sink.end(Err(status.clone())),
        }
    }
}

/// The answering half of an HTTP/2 stream.
pub(super) struct Http2 {
    respond: SendResponse<Bytes>,
    stream: Option<SendStream<Bytes>>,
    pace: Pace,
}

impl Http2 {
    pub(super) fn new(respond: SendResponse<Bytes>, pace: Pace) -> Self {
        Self {
            respond,
            stream: None,
            pace,
        }
    }

    /// Hands a message over, unless it would have to wait for the client.
    pub(super) fn hand_if_room(&mut self, message: &Bytes) -> Result<bool, Gone> {
        // Very small ones need not ask whether the client's windows have room.
        let room = message.len() <= SMALL_BYTES || self.has_room(message.len())?;
        if room {
            self.hand(message.clone())?;
        }
        Ok(room)
    }

    /// Whether the client's windows take that much at once.
    fn has_room(&mut self, bytes: usize) -> Result<bool, Gone> {
        let stream = self.open()?;
        stream.reserve_capacity(bytes);
        Ok(stream.capacity() >= bytes)
    }

    fn hand(&mut self, data: Bytes) -> Result<(), Gone> {
        self.pace.hands(&data);
        self.open()?.send_data(data, false).map_err(|_| Gone)
    }

    /// Sends the headers of a gRPC response, once.
    fn open(&mut self) -> Result<&mut SendStream<Bytes>, Gone> {
        if self.stream.is_none() {
            let mut head = Response::new(());
            head.headers_mut().insert(CONTENT_TYPE, GRPC);
            self.start(head, false)?;
        }
        self.stream.as_mut().ok_or(Gone)
    }

    /// Sends response headers.
    pub(super) fn start(&mut self, head: Response<()>, end: bool) -> Result<(), Gone> {
        self.stream = Some(self.respond.send_response(head, end).map_err(|_| Gone)?);
        Ok(())
    }

    pub(super) async fn send(&mut self, mut data: Bytes) -> Result<(), Gone> {
        while !data.is_empty() {
            self.pace.turn().await;
            self.open()?.reserve_capacity(data.len());
            let Some(stream) = &mut self.stream else {
                return Err(Gone);
            };
            let credit = self.pace.credit(stream).await.ok_or(Gone)?;
            let part = data.split_to(data.len().min(credit));
            self.hand(part)?;
        }
        Ok(())
    }

    /// Ends a response that is not gRPC.
    pub(super) fn finish(&mut self) {
        if let Some(stream) = &mut self.stream {
            let _ = stream.send_data(Bytes::new(), true);
        }
    }

    async fn reset(&mut self) {
        if let Some(stream) = &mut self.stream {
            let _ = poll_fn(|cx| stream.poll_reset(cx)).await;
        } else {
            let _ = poll_fn(|cx| self.respond.poll_reset(cx)).await;
        }
    }

    pub(super) fn abandon(mut self) {
        match &mut self.stream {
            Some(stream) => stream.send_reset(h2::Reason::CANCEL),
            None => self.respond.send_reset(h2::Reason::CANCEL),
        }
    }

    pub(super) fn succeed(mut self) {
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        if let Ok(stream) = self.open() {
            let _ = stream.send_trailers(trailers);
        }
    }

    /// In the trailers, or in the headers alone when there was no message.
    pub(super) fn fail(mut self, status: &Status) {
        let mut headers = HeaderMap::with_capacity(4);
        if status.add_header(&mut headers).is_err() {
            return self.abandon();
        }
        if let Some(stream) = &mut self.stream {
            let _ = stream.send_trailers(headers);
            return;
        }
        headers.insert(CONTENT_TYPE, GRPC);
        let mut head = Response::new(());
        *head.headers_mut() = headers;
        let _ = self.start(head, true);
    }
}
