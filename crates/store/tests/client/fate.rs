//! What becomes of a call that a member does not answer as it should: told by members made of frames.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use parking_lot::Mutex;
use prost::Message;
use setpoint_base::{Stop, TaskGroup};
use setpoint_store::client::{Client, ClientError, ClientOptions, WatchOptions, pb};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::PATIENCE;

/// What a member does with a call.
#[derive(Clone, Copy, Debug)]
enum Does {
    Answers,
    /// Says that it has not acted on it.
    RefusesStream,
    /// Ends it without a word.
    Resets,
    /// Says GOAWAY when the call comes, and that it has not acted on it. Only for the first call.
    GoesAway,
    /// Drops the connection.
    Drops,
    /// Ends it by the deadline that it was told.
    GivesUp,
}

/// A member that does these things with calls, one after the other, and answers from then on.
struct Member {
    tasks: TaskGroup,
    calls: Arc<AtomicUsize>,
    /// What each call said of its time.
    timeouts: Arc<Mutex<Vec<Option<String>>>>,
    client: Client,
}

impl Member {
    async fn start(does: &'static [Does]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut options = ClientOptions::new([format!("http://{}", listener.local_addr().unwrap())]);
        options.request_timeout = PATIENCE;
        let member = Self {
            tasks: TaskGroup::new(&Stop::new()),
            calls: Arc::default(),
            timeouts: Arc::default(),
            client: Client::new(options).unwrap(),
        };
        let (tasks, calls, timeouts) = (
            member.tasks.clone(),
            Arc::clone(&member.calls),
            Arc::clone(&member.timeouts),
        );
        member.tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (calls, timeouts) = (Arc::clone(&calls), Arc::clone(&timeouts));
                if let (0, [Does::GoesAway, ..]) = (calls.load(Ordering::SeqCst), does) {
                    tasks.spawn(go_away(stream, calls));
                    continue;
                }
                tasks.spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        let number = calls.fetch_add(1, Ordering::SeqCst);
                        let header = request.headers().get("grpc-timeout");
                        let header = header.map(|value| value.to_str().unwrap().to_owned());
                        timeouts.lock().push(header);
                        match does.get(number).copied().unwrap_or(Does::Answers) {
                            // Without the frame that is on its way to the answer.
                            Does::Drops => return,
                            does => {
                                let work = act(does, request, respond);
                                // The connection has to go on moving its bytes meanwhile.
                                tokio::select! {
                                    () = work => (),
                                    _ = std::future::poll_fn(|cx| connection.poll_closed(cx)) => return,
                                }
                            }
                        }
                    }
                });
            }
        });
        member
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    async fn put(&self) -> Result<pb::PutResponse, ClientError> {
        let request = pb::PutRequest {
            key: "a".into(),
            ..Default::default()
        };
        timeout(PATIENCE, self.client.put(request)).await.unwrap()
    }

    async fn get(&self) -> Result<pb::RangeResponse, ClientError> {
        let request = pb::RangeRequest {
            key: "a".into(),
            ..Default::default()
        };
        timeout(PATIENCE, self.client.range(request)).await.unwrap()
    }

    async fn stop(self) {
        self.client.close(PATIENCE).await;
        self.tasks.shutdown(Duration::from_millis(1)).await;
    }
}

/// Speaks HTTP/2 by hand until the first HEADERS; the answer to them is a GOAWAY for all streams.
async fn go_away(mut stream: TcpStream, calls: Arc<AtomicUsize>) {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await.unwrap();
        match (head[3], head[4]) {
            (4, 0) => stream.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0]).await.unwrap(),
            (6, 0) => {
                let pong = [&[0, 0, 8, 6, 1, 0, 0, 0, 0], &payload[..]].concat();
                stream.write_all(&pong).await.unwrap();
            }
            (1, _) => break,
            _ => (),
        }
    }
    calls.fetch_add(1, Ordering::SeqCst);
    let frame = [&[0, 0, 8, 7, 0, 0, 0, 0, 0][..], &[0; 8]].concat();
    stream.write_all(&frame).await.unwrap();
    // Until the client hangs up.
    while stream.read(&mut [0; 64]).await.is_ok_and(|n| n > 0) {}
}

async fn act(does: Does, mut request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    while let Some(Ok(data)) = request.body_mut().data().await {
        let _ = request
            .body_mut()
            .flow_control()
            .release_capacity(data.remaining());
    }
    let head = |status: Option<&'static str>| {
        let head = Response::builder().header("content-type", "application/grpc");
        let head = status
            .into_iter()
            .fold(head, |head, code| head.header("grpc-status", code));
        head.body(()).unwrap()
    };
    match does {
        Does::RefusesStream => respond.send_reset(Reason::REFUSED_STREAM),
        Does::Resets => respond.send_reset(Reason::INTERNAL_ERROR),
        Does::GivesUp => {
            let _ = respond.send_response(head(Some("4")), true);
        }
        Does::Answers | Does::GoesAway | Does::Drops => {
            // It is the same for every answer that has nothing in it but a header.
            let answer = pb::PutResponse {
                header: Some(pb::ResponseHeader {
                    revision: 7,
                    ..Default::default()
                }),
                ..Default::default()
            };
            let mut message = BytesMut::new();
            message.put_u8(0);
            message.put_u32(u32::try_from(answer.encoded_len()).unwrap());
            answer.encode(&mut message).unwrap();
            let mut stream = respond.send_response(head(None), false).unwrap();
            stream.send_data(message.freeze(), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let _ = stream.send_trailers(trailers);
        }
    }
}

#[tokio::test]
async fn a_write_is_made_again_when_no_member_acted_on_it_and_only_then() {
    for (does, done, calls) in [
        (&[Does::RefusesStream][..], true, 2),
        (&[Does::GoesAway], true, 2),
        (
            &[Does::GoesAway, Does::RefusesStream, Does::RefusesStream],
            true,
            4,
        ),
        (&[Does::GoesAway, Does::Drops], false, 2),
        (&[Does::Resets], false, 1),
        (&[Does::Drops], false, 1),
        (&[Does::GivesUp], false, 1),
        (&[Does::RefusesStream, Does::Drops], false, 2),
    ] {
        let member = Member::start(does).await;
        let outcome = member.put().await;
        match outcome {
            Ok(answer) => assert!(done && answer.header.unwrap().revision == 7, "{does:?}"),
            Err(error) => assert!(!done && error.may_have_happened(), "{does:?}: {error:?}"),
        }
        assert_eq!(member.calls(), calls, "{does:?}");
        member.stop().await;
    }
}

#[tokio::test]
async fn a_read_is_made_again_whatever_became_of_it() {
    let member = Member::start(&[Does::GoesAway, Does::Resets, Does::Drops, Does::GivesUp]).await;
    assert_eq!(member.get().await.unwrap().header.unwrap().revision, 7);
    assert_eq!(member.calls(), 5);
    member.stop().await;
}

#[tokio::test]
async fn members_are_told_how_long_a_call_may_take_and_that_a_watch_lasts() {
    let member = Member::start(&[]).await;
    member.get().await.unwrap();
    let of_call = member.timeouts.lock().pop().unwrap().unwrap();
    let seconds = |text: &str| {
        let time = setpoint_flow::core::timeout::parse(text.as_bytes()).unwrap();
        time.as_secs()
    };
    assert!((1..=PATIENCE.as_secs()).contains(&seconds(&of_call)), "{of_call}");
    let watcher = member.client.watch(WatchOptions::key("a"));
    let called = async {
        while member.timeouts.lock().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, called).await.unwrap();
    let of_watch = member.timeouts.lock().pop().unwrap().unwrap();
    assert!(seconds(&of_watch) > 10 * 365 * 86_400, "{of_watch}");
    drop(watcher);
    member.stop().await;
}
