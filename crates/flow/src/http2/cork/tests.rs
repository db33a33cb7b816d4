//! What the protocol gets to see of what arrives, and when.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Waker;

use proptest::prelude::*;
use setpoint_testkit::frames::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::wire::HEADS_A_TURN;
use super::*;
use crate::flow::Flow;

/// Reads until there is nothing more for now; how many HEADERS have passed so far.
async fn heads_after_reading<T: AsyncRead + AsyncWrite + Unpin>(cork: &Cork<T>) -> u64 {
    poll_fn(|cx| {
        let mut room = [0; 8 << 10];
        let mut buf = ReadBuf::new(&mut room);
        while Pin::new(&mut cork.clone()).poll_read(cx, &mut buf).is_ready() {
            buf.clear();
        }
        Poll::Ready(())
    })
    .await;
    cork.wire(|wire| wire.received.count(Kind::Headers)).unwrap()
}

/// The head of a frame of DATA on stream 1.
fn data_head(bytes: usize) -> [u8; 9] {
    let [.., a, b, c] = bytes.to_be_bytes();
    [a, b, c, Kind::Data as u8, 0, 0, 0, 0, 1]
}

#[tokio::test]
async fn pieces_that_were_lent_are_sent_without_a_copy_and_counted() {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    let (mut cork, live) = (Cork::new(ours, Bytes::new()), Flow::default().open("test", ""));
    cork.govern(Role::Server, Arc::clone(live.gauges()));
    let piece: Bytes = (0..40_000_u32).map(|n| n as u8).collect();
    let copied: Bytes = piece.iter().rev().copied().collect();
    live.gauges().lent.lend(&piece);
    let mut expect = Vec::new();
    // In two frames, after the beginning of each, as the protocol does it; and one that nobody has lent.
    for part in [&piece[..16_000], &piece[16_000..], &copied] {
        for bytes in [&data_head(part.len()), &part[..1_000], &part[1_000..]] {
            cork.write_all(bytes).await.unwrap();
            expect.extend_from_slice(bytes);
        }
    }
    let own = cork.0.lock().out.own.len();
    assert_eq!(own, 3 * 9 + 2 * 1_000 + 40_000);
    poll_fn(|cx| cork.poll_drain(cx)).await.unwrap();
    let mut seen = vec![0; expect.len()];
    theirs.read_exact(&mut seen).await.unwrap();
    assert!(seen == expect);
    let counted = cork.wire(|wire| (wire.sent.bytes, wire.sent.data_bytes, wire.sent.said.data));
    assert_eq!(counted, Some((expect.len() as u64, 80_000, 3)));
    assert_eq!(cork.total(), expect.len() as u64);
}

#[tokio::test]
async fn bytes_that_cross_the_end_of_a_frame_are_copied_whoever_lent_them() {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    let (mut cork, live) = (Cork::new(ours, Bytes::new()), Flow::default().open("test", ""));
    cork.govern(Role::Server, Arc::clone(live.gauges()));
    // What is within it are frames again, one of which must not pass: a WINDOW_UPDATE.
    let inner = [&[7; 8_000][..], &[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1]].concat();
    let piece = Bytes::from(inner);
    live.gauges().lent.lend(&piece);
    cork.write_all(&data_head(8_000)).await.unwrap();
    cork.write_all(&piece).await.unwrap();
    poll_fn(|cx| cork.poll_drain(cx)).await.unwrap();
    drop(cork);
    let mut seen = Vec::new();
    theirs.read_to_end(&mut seen).await.unwrap();
    assert!(
        seen == [&data_head(8_000)[..], &piece[..8_000]].concat(),
        "{}",
        seen.len()
    );
}

#[tokio::test]
async fn a_turn_takes_so_many_heads_and_the_next_one_goes_on() {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    let (cork, live) = (Cork::new(ours, Bytes::new()), Flow::default().open("test", ""));
    cork.govern(Role::Server, Arc::clone(live.gauges()));
    let calls = 3 * HEADS_A_TURN;
    let said: Vec<u8> = (0..calls)
        .flat_map(|n| call(2 * u32::try_from(n).unwrap() + 1, "/"))
        .collect();
    theirs.write_all(&[hello(65_535), said].concat()).await.unwrap();
    // What one read brings is not cut: some more than a turn's.
    let first = heads_after_reading(&cork).await;
    assert!((HEADS_A_TURN..HEADS_A_TURN + 1_000).contains(&first), "{first}");
    assert_eq!(heads_after_reading(&cork).await, first, "the turn is not over");
    poll_fn(|cx| cork.poll_drain(cx)).await.unwrap();
    let second = heads_after_reading(&cork).await;
    assert!(second >= first + HEADS_A_TURN && second < calls, "{second}");
    poll_fn(|cx| cork.poll_drain(cx)).await.unwrap();
    assert_eq!(heads_after_reading(&cork).await, calls);
}

/// What arrives, in pieces, with nothing there for a moment between them.
struct Pieces(VecDeque<Vec<u8>>, bool);

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.1 = !self.1;
        if self.1 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(mut piece) = self.0.pop_front() {
            let rest = piece.split_off(piece.len().min(buf.remaining()));
            buf.put_slice(&piece);
            if !rest.is_empty() {
                self.0.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// All that the protocol gets to see of what arrives so, reading `room` bytes at most.
fn passed(pieces: VecDeque<Vec<u8>>, room: usize) -> Vec<u8> {
    let mut cork = Cork::new(Pieces(pieces, false), Bytes::new());
    let live = Flow::default().open("test", "");
    cork.govern(Role::Server, Arc::clone(live.gauges()));
    let mut all = Vec::new();
    let mut room = vec![0; room];
    loop {
        let mut buf = ReadBuf::new(&mut room);
        match Pin::new(&mut cork).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf) {
            Poll::Pending => (),
            Poll::Ready(Ok(())) if buf.filled().is_empty() => return all,
            Poll::Ready(read) => {
                read.unwrap();
                all.extend_from_slice(buf.filled());
            }
        }
    }
}

const PADDED: u8 = 8;

/// Frames of a peer with call 1 open, and what the protocol is to see instead of each.
fn said() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let data = |flags, stream, payload: &[u8]| frame(DATA, flags, stream, payload);
    let same = |bytes: Vec<u8>| (bytes.clone(), bytes);
    prop_oneof![
        4 => Just((data(0, 1, &[]), frame(0xf7, 0, 1, &[]))),
        // Flags that mean nothing.
        1 => Just((data(0x40, 1, &[]), frame(0xf7, 0x40, 1, &[]))),
        1 => Just(same(data(0, 1, b"abc"))),
        1 => Just(same(data(PADDED, 1, &[2, 0, 0]))),
        1 => Just(same(data(0, 99, &[]))),
        1 => Just(same(data(0, 0, &[]))),
        1 => Just(same(frame(PING, 0, 0, &[0; 8]))),
        1 => Just(same(frame(SETTINGS, 0, 0, &[]))),
        1 => Just(same(update(1, 1))),
    ]
}

proptest! {
    #[test]
    fn data_without_data_is_passed_over_and_all_else_is_passed_on_however_it_is_cut(
        frames in prop::collection::vec(said(), 1..20),
        ends in any::<bool>(),
        cuts in prop::collection::vec(1_usize..14, 1..30),
        room in 1_usize..40,
        lost in 0_usize..10,
    ) {
        let begun = [hello(65_535), frame(HEADERS, END_HEADERS, 1, &head("/"))].concat();
        let (mut arrives, mut expected) = (begun.clone(), begun);
        for (said, seen) in frames {
            arrives.extend(said);
            expected.extend(seen);
        }
        if ends {
            // And what comes after the end is for the protocol to judge.
            let end = [frame(DATA, END_STREAM, 1, &[]), frame(DATA, 0, 1, &[])].concat();
            arrives.extend_from_slice(&end);
            expected.extend(end);
        }
        // The last frame may be cut off.
        arrives.truncate(arrives.len() - lost);
        let mut rest = &arrives[..];
        let mut pieces = VecDeque::new();
        for cut in cuts.iter().cycle() {
            let (piece, more) = rest.split_at((*cut).min(rest.len()));
            pieces.push_back(piece.to_vec());
            rest = more;
            if rest.is_empty() {
                break;
            }
        }
        let passed = passed(pieces, room);
        prop_assert_eq!(passed.len(), arrives.len());
        // Of half a head nobody knows what it would have been.
        let whole = if lost == 0 { passed.len() } else { passed.len() - 8 };
        prop_assert_eq!(&passed[..whole], &expected[..whole]);
    }
}

#[tokio::test]
async fn the_protocol_is_told_of_its_credit_however_little_room_there_is() {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    let (cork, live) = (Cork::new(ours, Bytes::new()), Flow::default().open("test", ""));
    cork.govern(Role::Server, Arc::clone(live.gauges()));
    cork.reserve();
    theirs
        .write_all(&[super::PREFACE, &update(0, 1 << 20)].concat())
        .await
        .unwrap();
    heads_after_reading(&cork).await;
    cork.0.lock().wire.as_mut().unwrap().sent.data_bytes = 500_000;
    assert!(cork.gives_back());
    let mut told = Vec::new();
    for room in [5, 7, 100] {
        let mut room = vec![0; room];
        let mut buf = ReadBuf::new(&mut room);
        let read = poll_fn(|cx| Poll::Ready(Pin::new(&mut cork.clone()).poll_read(cx, &mut buf))).await;
        assert!(read.is_ready());
        told.extend_from_slice(buf.filled());
    }
    assert_eq!(told, update(0, (65_535 + (1 << 20)) / 2));
}
