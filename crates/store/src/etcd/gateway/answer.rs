//! A stream's messages as lines of JSON.

use std::task::{Context, Poll};

use bytes::Bytes;
use tonic::Status;

use super::exchange::{Exchange, Step};
use super::json::{Call, error_body};

/// The lines of an answer.
pub(in super::super) struct Lines {
    call: Call,
    exchange: Exchange,
    /// What the call said first, before anything was answered.
    first: Option<Step>,
    over: bool,
}

impl Lines {
    pub(super) fn new(call: Call, exchange: Exchange, first: Step) -> Self {
        Self {
            call,
            exchange,
            first: Some(first),
            over: false,
        }
    }

    /// The next line; `None` after the last.
    pub(in super::super) fn poll_line(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.over {
            return Poll::Ready(None);
        }
        let step = match self.first.take() {
            Some(step) => step,
            None => match self.exchange.poll_next(cx) {
                Poll::Ready(step) => step,
                Poll::Pending => return Poll::Pending,
            },
        };
        Poll::Ready(match step {
            Step::Message(message) => Some(match self.call.answer(message) {
                Ok(json) => line("result", &json),
                Err(status) => self.end(&status),
            }),
            Step::Ended(Err(status)) => Some(self.end(&status)),
            Step::Ended(Ok(())) => {
                self.over = true;
                None
            }
        })
    }

    fn end(&mut self, status: &Status) -> Bytes {
        self.over = true;
        line("error", &error_body(status))
    }
}

fn line(name: &str, json: &[u8]) -> Bytes {
    [b"{\"", name.as_bytes(), b"\":", json, b"}\n"].concat().into()
}
