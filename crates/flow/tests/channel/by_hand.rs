//! Servers whose frames are made one by one: a farewell together with the first answer, errors of streams without end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use setpoint_base::{Stop, TaskGroup};
use setpoint_flow::Channel;
use setpoint_flow::channel::{Address, ByteStream, Dialer, Dialled};
use setpoint_testkit::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, SETTINGS, frame,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::sleep;

use super::peer::range;

/// What a server says when it gets a frame of this kind, on this stream, with this payload, beside what it must.
type Say = Arc<Words>;
type Words = dyn Fn(u8, u32, &[u8]) -> Vec<u8> + Send + Sync;

/// A server that greets, acknowledges SETTINGS, and for the rest says what it is told to.
#[derive(Clone)]
struct ByHand {
    say: Say,
    dialled: Arc<AtomicUsize>,
    tasks: TaskGroup,
}

impl ByHand {
    fn new(say: impl Fn(u8, u32, &[u8]) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self {
            say: Arc::new(say),
            dialled: Arc::default(),
            tasks: TaskGroup::new(&Stop::new()),
        }
    }

    fn channel(&self) -> Channel {
        let to = Channel::to("static:127.0.0.1:1");
        to.dialer(self.clone()).build().unwrap()
    }

    fn dialled(&self) -> usize {
        self.dialled.load(Ordering::Relaxed)
    }
}

impl Dialer for ByHand {
    fn dial<'a>(&'a self, _: &'a Address) -> Dialled<'a> {
        Box::pin(async move {
            let (ours, theirs) = tokio::io::duplex(256 << 10);
            self.dialled.fetch_add(1, Ordering::Relaxed);
            let say = Arc::clone(&self.say);
            self.tasks.spawn(async move {
                // It ends with the client's end.
                let _ = serve(theirs, say).await;
            });
            Ok(Box::new(ours) as Box<dyn ByteStream>)
        })
    }
}

async fn serve(mut socket: DuplexStream, say: Say) -> std::io::Result<()> {
    let mut greeting = [0; PREFACE.len()];
    socket.read_exact(&mut greeting).await?;
    socket.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    loop {
        let mut head = [0; 9];
        socket.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        socket.read_exact(&mut payload).await?;
        let mut reply = match kind {
            _ if flags & ACK != 0 && matches!(kind, SETTINGS | PING) => continue,
            SETTINGS => frame(SETTINGS, ACK, 0, &[]),
            PING => frame(PING, ACK, 0, &payload),
            _ => Vec::new(),
        };
        reply.extend(say(kind, u32::from_be_bytes(stream), &payload));
        socket.write_all(&reply).await?;
    }
}

#[tokio::test(start_paused = true)]
async fn a_farewell_that_comes_with_the_first_answer_is_no_connection_and_is_not_hammered() {
    let farewell = frame(GOAWAY, 0, 0, &[0; 8]);
    let server = ByHand::new(move |kind, _, _| {
        if kind == PING {
            farewell.clone()
        } else {
            Vec::new()
        }
    });
    let channel = server.channel();
    sleep(Duration::from_secs(20)).await;
    assert!(server.dialled() < 15, "{} times", server.dialled());
    let status = range(&channel).await.unwrap_err();
    assert!(status.message().contains("closed by the peer"), "{status:?}");
}

/// The library would end a connection after a thousand of them, however long it had lived.
#[tokio::test(start_paused = true)]
async fn a_server_that_errs_in_streams_now_and_then_keeps_its_connection_for_life() {
    const ERRORS: usize = 3_000;
    let calls = Arc::new(AtomicUsize::new(0));
    let served = Arc::clone(&calls);
    let server = ByHand::new(move |kind, stream, _| {
        if kind != HEADERS {
            return Vec::new();
        }
        // ":status: 200", and "content-length: 0" or "grpc-status: 12", whose name is not in the table.
        let erring = served.fetch_add(1, Ordering::Relaxed) < ERRORS;
        if erring {
            let head = frame(HEADERS, END_HEADERS, stream, &[0x88, 0x0f, 13, 1, b'0']);
            [head, frame(DATA, 0, stream, b"more")].concat()
        } else {
            let mut block = vec![0x88, 0, 11];
            block.extend_from_slice(b"grpc-status");
            block.extend_from_slice(&[2, b'1', b'2']);
            frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
        }
    });
    let channel = server.channel();
    for n in 0..ERRORS {
        let status = range(&channel).await.unwrap_err();
        assert_ne!(status.code(), tonic::Code::Unimplemented, "{n}: {status:?}");
        sleep(Duration::from_millis(2)).await;
    }
    let status = range(&channel).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unimplemented, "{status:?}");
    assert_eq!((server.dialled(), calls.load(Ordering::Relaxed)), (1, ERRORS + 1));
    assert_eq!(channel.snapshot().in_flight, 0);
}
