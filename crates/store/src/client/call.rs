//! A call with its deadline and its second chances.
//!
//! As clientv3 retries (`client/v3/retry.go`): reads when the server is unavailable, writes only when they were never
//! sent. A refused token is renewed once. Nothing is retried that the server refused.

use std::future::Future;
use std::time::Duration;

use setpoint_flow::Channel;
use setpoint_flow::channel::ChannelError;
use tokio::time::{Instant, sleep};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use super::error::{ClientError, token_refused};
use super::link::{Links, NotConnected, unary};

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
    /// It may have been done, and the answer is of no use, as another one would be.
    Unusable(String),
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
        self.call(kind, move |channel, metadata, until| {
            let request = request.clone();
            async move { unary(&channel, path, request, metadata, until).await }
        })
        .await
    }

    /// Any call that has one answer. What is called ends by the time it is given.
    pub(crate) async fn call<A, C, F>(&self, kind: Kind, call: C) -> Result<A, ClientError>
    where
        C: Fn(Channel, MetadataMap, Instant) -> F,
        F: Future<Output = Result<A, Status>>,
    {
        let until = Instant::now() + self.options.request_timeout;
        let mut renewed = false;
        loop {
            let index = self.pick();
            let attempt = self.attempt(index, &call, until).await;
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
                Attempt::Unanswered(last) | Attempt::Unusable(last) => {
                    return Err(ClientError::Unanswered { last });
                }
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
            Attempt::Done(_) | Attempt::Refused(_) | Attempt::Token(_) | Attempt::Unusable(_) => self.heard(),
            Attempt::NotSent(why) | Attempt::Unanswered(why) => self.missed(why),
        }
    }

    async fn attempt<A, C, F>(&self, index: usize, call: &C, until: Instant) -> Attempt<A>
    where
        C: Fn(Channel, MetadataMap, Instant) -> F,
        F: Future<Output = Result<A, Status>>,
    {
        let channel = match self.channel(index) {
            Ok(channel) => channel,
            Err(NotConnected(why)) => return Attempt::NotSent(why),
        };
        let mut metadata = MetadataMap::new();
        if self.options.require_leader {
            metadata.insert("hasleader", tonic::metadata::MetadataValue::from_static("true"));
        }
        let signed = self
            .guard(&channel, self.sign(&channel, &mut metadata, until))
            .await;
        let number = match signed {
            Ok(Ok(number)) => number,
            Ok(Err(status)) if is_no_answer(&status) => {
                self.rest(index);
                return Attempt::NotSent(status.message().to_owned());
            }
            Ok(Err(status)) => return Attempt::Refused(status),
            Err(_) => {
                self.discard(index, &channel);
                return Attempt::NotSent("the link is dead".to_owned());
            }
        };
        let called = self.guard(&channel, call(channel.clone(), metadata, until)).await;
        match called {
            Ok(Ok(answer)) => Attempt::Done(answer),
            Ok(Err(status)) if token_refused(status.message()) && self.options.credentials.is_some() => {
                Attempt::Token(number)
            }
            Ok(Err(status)) => {
                let attempt = failed(status);
                if matches!(attempt, Attempt::NotSent(_) | Attempt::Unanswered(_)) {
                    self.rest(index);
                }
                attempt
            }
            Err(_) => {
                self.discard(index, &channel);
                Attempt::Unanswered("the link is dead".to_owned())
            }
        }
    }
}

/// Whether nobody said anything, or nobody who could say more than that it is not possible now.
fn is_no_answer(status: &Status) -> bool {
    ChannelError::of(status).is_some() || status.code() == Code::Unavailable
}

/// What a failed call means. What the channel says of itself is certain; what a member says that gave up is not.
fn failed<A>(status: Status) -> Attempt<A> {
    let said = || status.message().to_owned();
    match ChannelError::of(&status) {
        // No other endpoint and no other time makes it smaller.
        Some(ChannelError::SendTooLarge { .. } | ChannelError::Request(_)) => Attempt::Refused(status),
        Some(ChannelError::ReceiveTooLarge { .. } | ChannelError::Encoding { .. }) => {
            Attempt::Unusable(said())
        }
        Some(error) if error.may_have_happened() => Attempt::Unanswered(said()),
        Some(_) => Attempt::NotSent(said()),
        None if matches!(
            status.code(),
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled
        ) =>
        {
            Attempt::Unanswered(said())
        }
        None => Attempt::Refused(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> ChannelError {
        ChannelError::Lost {
            endpoint: "a".to_owned(),
            why: "reset".to_owned(),
        }
    }

    fn not_taken() -> ChannelError {
        ChannelError::NotTaken {
            endpoint: "a".to_owned(),
            why: "GOAWAY".to_owned(),
        }
    }

    fn late(sent: bool) -> ChannelError {
        ChannelError::Deadline {
            method: "/etcdserverpb.KV/Put".to_owned(),
            timeout: Duration::from_secs(1),
            sent,
            why: None,
        }
    }

    #[test]
    fn what_may_have_been_done_is_what_the_channel_says() {
        let of = |error: ChannelError| failed::<()>(error.into());
        assert!(matches!(of(lost()), Attempt::Unanswered(_)));
        assert!(matches!(of(late(true)), Attempt::Unanswered(_)));
        assert!(matches!(of(late(false)), Attempt::NotSent(_)));
        assert!(matches!(of(not_taken()), Attempt::NotSent(_)));
        let large = ChannelError::ReceiveTooLarge {
            bytes: 9,
            bytes_max: 8,
        };
        assert!(matches!(of(large), Attempt::Unusable(_)));
        let request = ChannelError::Request("no".to_owned());
        assert!(matches!(of(request), Attempt::Refused(_)));
    }

    #[test]
    fn a_member_that_gave_up_may_have_done_it_and_one_that_refused_has_not() {
        for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled] {
            assert!(matches!(
                failed::<()>(Status::new(code, "context deadline exceeded")),
                Attempt::Unanswered(_)
            ));
        }
        for code in [Code::ResourceExhausted, Code::InvalidArgument, Code::Unknown] {
            assert!(matches!(
                failed::<()>(Status::new(code, "no")),
                Attempt::Refused(_)
            ));
        }
    }
}
