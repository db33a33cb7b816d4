//! An answer with its body, sent as fast as its client reads.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::Response;
use http_body::Body;

use super::pacing::Pace;

/// The answer could not be sent to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// The peer has given the call up, or the connection is gone.
    Peer,
    /// The body failed: the stream was reset, so that nobody takes what was sent for all.
    Body,
}

/// Sends an answer to its end, trailers included. While the body has nothing to say, a reset by the peer ends it.
///
/// # Errors
/// [`Gone`] when the peer or the body gave up before the end.
pub async fn send<B>(
    pace: &Pace,
    respond: &mut SendResponse<Bytes>,
    response: Response<B>,
) -> Result<(), Gone>
where
    B: Body<Data = Bytes>,
{
    let (head, body) = response.into_parts();
    let ended = body.is_end_stream();
    let head = Response::from_parts(head, ());
    let mut stream = respond.send_response(head, ended).map_err(|_| Gone::Peer)?;
    if ended {
        return Ok(());
    }
    let mut body = pin!(body);
    loop {
        let frame = poll_fn(|cx| match stream.poll_reset(cx) {
            Poll::Ready(_) => Poll::Ready(Err(Gone::Peer)),
            // Nothing is reserved before there is something to send: what one stream holds, others lack.
            Poll::Pending => body.as_mut().poll_frame(cx).map(Ok),
        });
        let Some(frame) = frame.await? else {
            return stream.send_data(Bytes::new(), true).map_err(|_| Gone::Peer);
        };
        let Ok(frame) = frame else {
            stream.send_reset(Reason::INTERNAL_ERROR);
            return Err(Gone::Body);
        };
        match frame.into_data() {
            Ok(data) => {
                let last = body.is_end_stream();
                send_data(pace, &mut stream, data, last).await?;
                if last {
                    return Ok(());
                }
            }
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                return stream.send_trailers(trailers).map_err(|_| Gone::Peer);
            }
        }
    }
}

async fn send_data(
    pace: &Pace,
    stream: &mut SendStream<Bytes>,
    mut data: Bytes,
    last: bool,
) -> Result<(), Gone> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let credit = pace.credit(stream).await.ok_or(Gone::Peer)?;
        let part = data.split_to(data.len().min(credit));
        let last = last && data.is_empty();
        stream.send_data(part, last).map_err(|_| Gone::Peer)?;
        if last {
            return Ok(());
        }
    }
    if last {
        return stream.send_data(Bytes::new(), true).map_err(|_| Gone::Peer);
    }
    Ok(())
}
