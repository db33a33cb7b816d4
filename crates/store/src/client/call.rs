//! A call with its deadline and its second chances.
//!
//! As clientv3 retries (`client/v3/retry.go`): reads when the server is unavailable, writes only when they were never
//! sent. A refused token is renewed once. Nothing is retried that the server refused.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::error::{ClientError, token_refused};
use super::link::{Links, NotConnected, is_transport, unary, was_never_sent};

/// Between attempts of a read, with a tenth of jitter either way.
const BETWEEN: Duration = Duration::from_millis(25);

/// Whether a call may be made again when nobody knows what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
}

/// What became of one attempt.
enum Attempt<A> {
    Done(A),
    /// It never left.
    NotSent(String),
    /// It may have been done.
    Unanswered(String),
    /// It was not done, for want of a good token.
    Token(u64),
    Refused(Status),
}

impl Links {
    /// A unary call, at whatever endpoint answers.
    pub(crate) async fn unary<Q, A>(
        &self,
        path: &'static str,
        kind: Kind,
        request: Q,
    ) -> Result<A, ClientError>
    where
        Q: prost::Message + Clone + 'static,
        A: prost::Message + Default + 'static,
    {
        self.call(kind, move |channel, metadata| {
            let request = request.clone();
            async move { unary(&channel, path, request, metadata).await }
        })
        .await
    }

    /// Any call that has one answer.
    pub(crate) async fn call<A, C, F>(&self, kind: Kind, call: C) -> Result<A, ClientError>
    where
        C: Fn(Channel, MetadataMap) -> F,
        F: Future<Output = Result<A, Status>>,
    {
        let until = Instant::now() + self.options.request_timeout;
        let mut renewed = false;
        loop {
            let index = self.pick();
            let sent = AtomicBool::new(false);
            let attempt = match timeout_at(until, self.attempt(index, &call, &sent)).await {
                Ok(attempt) => attempt,
                Err(_) if sent.into_inner() => Attempt::Unanswered("not in time".to_owned()),
                Err(_) => Attempt::NotSent("not in time".to_owned()),
            };
            self.note(&attempt);
            let again = match attempt {
                Attempt::Done(answer) => return Ok(answer),
                Attempt::Refused(status) => return Err(ClientError::refused(&status)),
                Attempt::Token(number) if !renewed => {
                    renewed = true;
                    self.refuse_token(number);
                    continue;
                }
                Attempt::Token(_) => {
                    return Err(ClientError::refused(&Status::unauthenticated(
                        "the server does not accept the token it gave",
                    )));
                }
                Attempt::NotSent(last) => ClientError::Unreachable {
                    endpoints: self.options.endpoints.join(", "),
                    last,
                },
                Attempt::Unanswered(last) if kind == Kind::Read => ClientError::Unanswered { last },
                Attempt::Unanswered(last) => return Err(ClientError::Unanswered { last }),
            };
            let wait = BETWEEN.mul_f64(0.9 + 0.2 * fastrand::f64());
            if Instant::now() + wait >= until {
                return Err(again);
            }
            sleep(wait).await;
        }
    }

    fn note<A>(&self, attempt: &Attempt<A>) {
        match attempt {
            Attempt::Done(_) | Attempt::Refused(_) | Attempt::Token(_) => self.heard(),
            Attempt::NotSent(why) | Attempt::Unanswered(why) => self.missed(why),
        }
    }

    async fn attempt<A, C, F>(&self, index: usize, call: &C, sent: &AtomicBool) -> Attempt<A>
    where
        C: Fn(Channel, MetadataMap) -> F,
        F: Future<Output = Result<A, Status>>,
    {
        let channel = match self.channel(index).await {
            Ok(channel) => channel,
            Err(NotConnected(why)) => return Attempt::NotSent(why),
        };
        let mut metadata = MetadataMap::new();
        if self.options.require_leader {
            metadata.insert("hasleader", tonic::metadata::MetadataValue::from_static("true"));
        }
        let signed = self.guard(&channel, self.sign(&channel, &mut metadata)).await;
        let number = match signed {
            Ok(Ok(number)) => number,
            Ok(Err(status)) if is_transport(&status) => return self.not_sent(index, &status).await,
            Ok(Err(status)) => return Attempt::Refused(status),
            Err(_) => {
                self.discard(index).await;
                return Attempt::NotSent("the link is dead".to_owned());
            }
        };
        sent.store(true, Ordering::Relaxed);
        let called = self.guard(&channel, call(channel.clone(), metadata)).await;
        match called {
            Ok(Ok(answer)) => Attempt::Done(answer),
            Ok(Err(status)) if was_never_sent(&status) => self.not_sent(index, &status).await,
            Ok(Err(status)) if is_transport(&status) => {
                self.discard(index).await;
                Attempt::Unanswered(setpoint_base::Chain(&status).to_string())
            }
            Ok(Err(status)) if status.code() == Code::Unavailable => {
                self.rest(index);
                Attempt::Unanswered(status.message().to_owned())
            }
            Ok(Err(status)) if token_refused(status.message()) && self.options.credentials.is_some() => {
                Attempt::Token(number)
            }
            Ok(Err(status)) => Attempt::Refused(status),
            Err(_) => {
                self.discard(index).await;
                Attempt::Unanswered("the link is dead".to_owned())
            }
        }
    }

    async fn not_sent<A>(&self, index: usize, status: &Status) -> Attempt<A> {
        self.discard(index).await;
        Attempt::NotSent(setpoint_base::Chain(status).to_string())
    }
}
