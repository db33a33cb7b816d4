//! One attempt: a stream on one connection, the request sent, the answer's beginning awaited.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use super::error::{ChannelError, code_of_http, of_stream};
use super::hub::Hub;
use super::lease::Lease;
use super::names;
use super::replay::{Part, Replay};
use crate::core::retry::{Failure, Pushback};
use crate::http2::{Expected, Pace, Receive};

/// What an attempt came to, if it came to something.
pub(super) struct Answer {
    pub(super) head: http::response::Parts,
    pub(super) body: Receive,
    pub(super) lease: Lease,
    pub(super) pump: Pump,
}

/// An attempt failed.
pub(super) struct Failed {
    pub(super) failure: Failure,
    /// What the caller is told if it is not made again.
    pub(super) told: Told,
}

/// What a caller is told of a failure.
pub(super) enum Told {
    /// The peer's own words.
    Answer(Box<Answer>),
    /// Ours.
    Status(Status),
}

impl Failed {
    /// Nothing was sent: as safe to make again as if the peer had refused it.
    pub(super) fn here(error: ChannelError) -> Self {
        Self {
            failure: Failure::Answered(error.code(), None),
            told: Told::Status(error.into()),
        }
    }
}

/// What still sends the request while the answer is being read. Dropping it ends that.
#[derive(Default)]
pub(super) struct Pump {
    task: Option<JoinHandle<()>>,
    /// What went wrong on this side.
    failure: Arc<Mutex<Option<Status>>>,
}

impl Pump {
    pub(super) fn failure(&self) -> Option<Status> {
        self.failure.lock().take()
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Makes the attempt. Dropping the future resets the stream, if there is one.
pub(super) async fn attempt(
    hub: &Hub,
    mut lease: Lease,
    request: Request<()>,
    body: &Replay,
) -> Result<Answer, Failed> {
    let failed = |lease: &mut Lease, error: &h2::Error| {
        let error = of_stream(error, &lease.endpoint.name, lease.link.why(), false);
        fail(lease, error)
    };
    let never_left = |lease: &mut Lease, why: String| {
        let endpoint = lease.endpoint.name.to_string();
        fail(lease, ChannelError::NotTaken { endpoint, why })
    };
    let Some(mut send) = lease.link.sender() else {
        return Err(never_left(
            &mut lease,
            "the connection takes no more calls".to_owned(),
        ));
    };
    let (response, stream) = match send.send_request(request, body.is_empty()) {
        Ok(sent) => sent,
        Err(error) if is_unfit(&error, &mut send).await => return Err(refuse(&mut lease, &error)),
        Err(error) => return Err(never_left(&mut lease, error.to_string())),
    };
    drop(send);
    let pace = &lease.link.pace;
    let expected = Expected::new(&stream, pace.clone());
    let mut response = std::pin::pin!(response);
    let mut sending: Option<Sending> =
        (!body.is_empty()).then(|| Box::pin(transmit(stream, body.clone(), pace.clone())) as Sending);
    let response: Response<RecvStream> = loop {
        tokio::select! {
            biased;
            result = &mut response => match result {
                Ok(response) => break response,
                Err(error) => return Err(failed(&mut lease, &error)),
            },
            result = poll_some(&mut sending) => {
                sending = None;
                if let Err(status) = result {
                    lease.not_taken();
                    let failure = Failure::Unknown(status.code());
                    return Err(Failed { failure, told: Told::Status(status) });
                }
            }
        }
    };
    lease.answered();
    let pump = sending.map_or_else(Pump::default, |sending| pump(hub, sending));
    let (head, stream) = response.into_parts();
    judge(Answer {
        head,
        body: expected.receive(stream),
        lease,
        pump,
    })
}

/// Whether it is the request that cannot be sent, here or elsewhere, rather than the connection that is no good.
async fn is_unfit(error: &h2::Error, send: &mut SendRequest<Bytes>) -> bool {
    let ready = std::future::poll_fn(|cx| Poll::Ready(send.poll_ready(cx))).await;
    !error.is_io() && error.reason().is_none() && !matches!(ready, Poll::Ready(Err(_)))
}

/// A request that is being sent.
type Sending = Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;

async fn poll_some(sending: &mut Option<Sending>) -> Result<(), Status> {
    match sending {
        Some(sending) => sending.await,
        None => std::future::pending().await,
    }
}

/// Goes on sending beside the answer.
fn pump(hub: &Hub, sending: Sending) -> Pump {
    let failure = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&failure);
    let task = hub.tasks.spawn(async move {
        if let Err(status) = sending.await {
            *slot.lock() = Some(status);
        }
    });
    Pump {
        task: Some(task),
        failure,
    }
}

/// Sends a body. The stream is reset if the body fails; the peer may have had enough before its end.
async fn transmit(mut stream: SendStream<Bytes>, body: Replay, pace: Pace) -> Result<(), Status> {
    for index in 0.. {
        let part = match std::future::poll_fn(|cx| body.poll_part(cx, index)).await {
            Ok(part) => part,
            Err(status) => {
                stream.send_reset(Reason::CANCEL);
                return Err(status);
            }
        };
        let sent = match part {
            Part::Data(data, last) => send_chunk(&mut stream, data, last, &pace)
                .await
                .map(|more| more && !last),
            Part::End(Some(trailers)) => stream.send_trailers(trailers).map(|()| false),
            Part::End(None) => stream.send_data(Bytes::new(), true).map(|()| false),
        };
        // What went wrong with the stream shows at the answer.
        if !sent.unwrap_or(false) {
            break;
        }
    }
    Ok(())
}

/// Sends a chunk as the peer makes room. False: it wants no more.
async fn send_chunk(
    stream: &mut SendStream<Bytes>,
    mut data: Bytes,
    last: bool,
    pace: &Pace,
) -> Result<bool, h2::Error> {
    if data.is_empty() {
        stream.send_data(data, last)?;
        return Ok(true);
    }
    stream.reserve_capacity(data.len());
    while !data.is_empty() {
        let Some(room) = pace.credit(stream).await else {
            return Ok(false);
        };
        let chunk = data.split_to(room.min(data.len()));
        stream.send_data(chunk, last && data.is_empty())?;
    }
    Ok(true)
}

/// An answer that is an error and nothing else can be thrown away for another attempt.
fn judge(mut answer: Answer) -> Result<Answer, Failed> {
    let headers = &answer.head.headers;
    let code = match headers.get(names::STATUS) {
        Some(code) => Code::from_bytes(code.as_bytes()),
        None if answer.head.status.is_success() => return encoding(answer),
        None => code_of_http(answer.head.status),
    };
    if code == Code::Ok {
        return encoding(answer);
    }
    let pushback = headers.get(names::PUSHBACK);
    let pushback = pushback.map(|value| Pushback::parse(value.as_bytes()));
    answer.lease.ended(code);
    Err(Failed {
        failure: Failure::Answered(code, pushback),
        told: Told::Answer(Box::new(answer)),
    })
}

/// Only identity was offered: anything else could be a small message that becomes a huge one.
fn encoding(mut answer: Answer) -> Result<Answer, Failed> {
    let encoding = answer.head.headers.get(names::ENCODING);
    let Some(encoding) = encoding.filter(|encoding| encoding.as_bytes() != b"identity") else {
        return Ok(answer);
    };
    let error = ChannelError::Encoding {
        endpoint: answer.lease.endpoint.name.to_string(),
        encoding: String::from_utf8_lossy(encoding.as_bytes()).into_owned(),
    };
    Err(fail(&mut answer.lease, error))
}

fn fail(lease: &mut Lease, error: ChannelError) -> Failed {
    let failure = if matches!(error, ChannelError::NotTaken { .. }) {
        lease.not_taken();
        Failure::NotProcessed
    } else {
        lease.ended(error.code());
        Failure::Unknown(error.code())
    };
    Failed {
        failure,
        told: Told::Status(error.into()),
    }
}

fn refuse(lease: &mut Lease, error: &h2::Error) -> Failed {
    lease.not_taken();
    Failed::here(ChannelError::Request(error.to_string()))
}

/// The headers that every attempt has.
pub(super) fn previous_attempts(headers: &mut HeaderMap, count: u32) {
    if count > 0 {
        headers.insert(names::PREVIOUS_ATTEMPTS, count.into());
    }
}
