//! A call in progress: its messages and how it ended, in order.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use super::super::inbound::FRAME_BYTES;
use super::super::outbound::Gone;

/// Largest answer that is made into JSON, in bytes: it is in memory as a whole.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What a call says.
pub(super) enum Step {
    /// A message, out of its frame.
    Message(Bytes),
    Ended(Result<(), Status>),
}

/// The call's end: takes framed messages.
pub(in super::super) struct Answers {
    messages: mpsc::Sender<Bytes>,
    ended: oneshot::Sender<Result<(), Status>>,
    waiting: BytesMut,
    too_large: bool,
}

/// The client's end.
pub(super) struct Pending {
    messages: mpsc::Receiver<Bytes>,
    ended: oneshot::Receiver<Result<(), Status>>,
}

/// One message may wait: a call goes on when its client has read.
pub(super) fn channel() -> (Answers, Pending) {
    let (to_messages, messages) = mpsc::channel(1);
    let (to_ended, ended) = oneshot::channel();
    let answers = Answers {
        messages: to_messages,
        ended: to_ended,
        waiting: BytesMut::new(),
        too_large: false,
    };
    (answers, Pending { messages, ended })
}

impl Answers {
    /// Takes bytes of framed messages, whole or in pieces.
    pub(in super::super) async fn send(&mut self, data: &Bytes) -> Result<(), Gone> {
        self.waiting.extend_from_slice(data);
        while let Some(len) = message_len(&self.waiting) {
            if len > ANSWER_BYTES_MAX {
                self.too_large = true;
                return Err(Gone);
            }
            if self.waiting.len() < FRAME_BYTES + len {
                break;
            }
            self.waiting.advance(FRAME_BYTES);
            let message = self.waiting.split_to(len).freeze();
            self.messages.send(message).await.map_err(|_| Gone)?;
        }
        Ok(())
    }

    pub(in super::super) fn end(self, result: Result<(), Status>) {
        let result = match result {
            Err(_) if self.too_large => Err(Status::resource_exhausted(
                "the answer is too large for JSON: ask for fewer keys at a time",
            )),
            result => result,
        };
        let _ = self.ended.send(result);
    }
}

fn message_len(frame: &[u8]) -> Option<usize> {
    let [_, a, b, c, d, ..] = frame else { return None };
    Some(u32::from_be_bytes([*a, *b, *c, *d]) as usize)
}

/// A call and what it says. It runs while it is asked; dropping it ends it.
pub(super) struct Exchange {
    call: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    pending: Pending,
}

impl Exchange {
    pub(super) fn new(call: Pin<Box<dyn Future<Output = ()> + Send>>, pending: Pending) -> Self {
        Self {
            call: Some(call),
            pending,
        }
    }

    pub(super) async fn next(&mut self) -> Step {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        loop {
            if let Poll::Ready(Some(message)) = self.pending.messages.poll_recv(cx) {
                return Poll::Ready(Step::Message(message));
            }
            let Some(call) = &mut self.call else {
                let ended = self.pending.ended.try_recv();
                let gone = || Err(Status::internal("the call ended without a status"));
                return Poll::Ready(Step::Ended(ended.unwrap_or_else(|_| gone())));
            };
            let done = call.as_mut().poll(cx).is_ready();
            if done {
                self.call = None;
            } else if self.pending.messages.is_empty() {
                return Poll::Pending;
            }
        }
    }
}
