//! Peers that hear nothing more, but had said something before: it counts.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use h2::Reason;
use setpoint_flow::Channel;
use setpoint_flow::channel::{Address, ByteStream, ChannelError, Dialer, Dialled};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::time::{Instant, sleep};

use super::peer::{Peer, PeerOptions, answering, range, until};

const OPEN: u8 = 0;
/// What the peer says from here on is on its way until a write has failed.
const CLOSING: u8 = 1;
const CLOSED: u8 = 2;

/// A stream that takes no more when it is told so, and of which only then is read what had come meanwhile.
struct Deafened {
    socket: DuplexStream,
    state: Arc<AtomicU8>,
}

impl AsyncRead for Deafened {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.state.load(Ordering::Relaxed) == CLOSING {
            return Poll::Pending;
        }
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Deafened {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.state.load(Ordering::Relaxed) == OPEN {
            return Pin::new(&mut self.socket).poll_write(cx, buf);
        }
        self.state.store(CLOSED, Ordering::Relaxed);
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
    }
}

/// Dials one peer; the first connection can be deafened.
#[derive(Clone)]
struct Net {
    peer: Arc<Peer>,
    state: Arc<AtomicU8>,
    dialled: Arc<AtomicUsize>,
}

impl Net {
    fn new(delay: Duration) -> Self {
        let peer = Peer::new(PeerOptions::default(), answering(7, delay), "", None);
        Self {
            peer: Arc::new(peer),
            state: Arc::default(),
            dialled: Arc::default(),
        }
    }

    fn channel(&self) -> Channel {
        let to = Channel::to("static:127.0.0.1:1");
        to.dialer(self.clone()).build().unwrap()
    }

    fn deafen(&self) {
        self.state.store(CLOSING, Ordering::Relaxed);
    }
}

impl Dialer for Net {
    fn dial<'a>(&'a self, _: &'a Address) -> Dialled<'a> {
        Box::pin(async move {
            let (ours, theirs) = tokio::io::duplex(256 << 10);
            self.peer.serve_on(theirs);
            if self.dialled.fetch_add(1, Ordering::Relaxed) > 0 {
                return Ok(Box::new(ours) as Box<dyn ByteStream>);
            }
            let state = Arc::clone(&self.state);
            Ok(Box::new(Deafened { socket: ours, state }) as Box<dyn ByteStream>)
        })
    }
}

/// A GOAWAY and the end of the connection cross a request: it was never taken, and is made again unseen.
#[tokio::test(start_paused = true)]
async fn a_farewell_that_crosses_a_request_costs_no_call() {
    let net = Net::new(Duration::ZERO);
    let channel = net.channel();
    assert_eq!(range(&channel).await.unwrap(), 7);
    net.deafen();
    net.peer.drain_with(Reason::NO_ERROR);
    until(|| net.peer.open() == 0).await;
    assert_eq!(range(&channel).await.unwrap(), 7);
    assert_eq!((net.peer.calls(), net.peer.accepted()), (2, 2));
    assert_eq!(channel.snapshot().in_flight, 0);
}

/// The answer to one call had come when the request of another found nobody: the first is answered, the second is lost.
#[tokio::test(start_paused = true)]
async fn an_answer_that_crosses_a_request_is_not_lost() {
    let net = Net::new(Duration::from_secs(1));
    let channel = net.channel();
    let early = range(&channel);
    let late = async {
        until(|| net.peer.calls() == 1).await;
        net.deafen();
        sleep(Duration::from_secs(2)).await;
        range(&channel).await
    };
    let (early, late) = tokio::join!(early, late);
    assert_eq!(early.unwrap(), 7);
    let lost = late.unwrap_err();
    assert!(ChannelError::of(&lost).is_some_and(ChannelError::may_have_happened));
    assert!(lost.message().contains("broken pipe"), "{lost:?}");
    assert_eq!(range(&channel).await.unwrap(), 7);
}

/// Who hears nothing and says nothing is not waited for.
#[tokio::test(start_paused = true)]
async fn a_peer_that_only_stopped_to_listen_is_given_up_soon() {
    let net = Net::new(Duration::ZERO);
    let channel = net.channel();
    assert_eq!(range(&channel).await.unwrap(), 7);
    net.deafen();
    let begun = Instant::now();
    let lost = range(&channel).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(lost.message().contains("broken pipe"), "{lost:?}");
    assert_eq!(range(&channel).await.unwrap(), 7);
    assert_eq!(net.peer.accepted(), 2);
}
