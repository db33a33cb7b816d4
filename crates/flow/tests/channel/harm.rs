//! Servers that harm their clients: each is told why, with GOAWAY, its calls end, and the next connection works.

use std::sync::Arc;
use std::time::Duration;

use h2::Reason;
use parking_lot::Mutex;
use setpoint_base::{Stop, TaskGroup};
use setpoint_flow::channel::{Address, ByteStream, ChannelOptions, Dialer, Dialled};
use setpoint_flow::{Channel, Flow};
use setpoint_telemetry::Metrics;
use setpoint_testkit::frames::{ACK, DATA, END_HEADERS, GOAWAY, HEADERS, PING, PREFACE, SETTINGS, frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::peer::{Peer, PeerOptions, answering, range, until};

/// The first connection is to a server that answers the first request with this; the others are to one that behaves.
#[derive(Clone)]
struct Harmful {
    answer: Arc<Vec<u8>>,
    dialled: Arc<Mutex<usize>>,
    told: Arc<Mutex<Option<Reason>>>,
    well: Arc<Peer>,
    tasks: TaskGroup,
}

impl Harmful {
    fn answering(answer: Vec<u8>) -> Self {
        Self {
            answer: Arc::new(answer),
            dialled: Arc::default(),
            told: Arc::default(),
            well: Arc::new(Peer::new(
                PeerOptions::default(),
                answering(5, Duration::ZERO),
                "",
                None,
            )),
            tasks: TaskGroup::new(&Stop::new()),
        }
    }
}

impl Dialer for Harmful {
    fn dial<'a>(&'a self, _: &'a Address) -> Dialled<'a> {
        Box::pin(async move {
            let (ours, theirs) = tokio::io::duplex(256 << 10);
            let number = {
                let mut dialled = self.dialled.lock();
                *dialled += 1;
                *dialled
            };
            if number > 1 {
                self.well.serve_on(theirs);
            } else {
                let (answer, told) = (Arc::clone(&self.answer), Arc::clone(&self.told));
                self.tasks.spawn(async move {
                    *told.lock() = harm(theirs, &answer).await;
                });
            }
            Ok(Box::new(ours) as Box<dyn ByteStream>)
        })
    }
}

/// Greets, and answers the first request; what a GOAWAY then says.
async fn harm(socket: DuplexStream, answer: &[u8]) -> Option<Reason> {
    let (mut reader, mut writer) = tokio::io::split(socket);
    let mut greeting = [0; PREFACE.len()];
    reader.read_exact(&mut greeting).await.ok()?;
    writer.write_all(&frame(SETTINGS, 0, 0, &[])).await.ok()?;
    let mut answered = false;
    loop {
        let mut head = [0; 9];
        reader.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        reader.read_exact(&mut payload).await.ok()?;
        let reply = match (kind, flags & ACK != 0) {
            (SETTINGS, false) => frame(SETTINGS, ACK, 0, &[]),
            (PING, false) => frame(PING, ACK, 0, &payload),
            (HEADERS, _) if !std::mem::replace(&mut answered, true) => {
                assert_eq!(u32::from_be_bytes(stream), 1);
                // The client may hang up in the middle of it.
                let _ = writer.write_all(answer).await;
                continue;
            }
            (GOAWAY, _) => {
                let reason = payload.get(4..8)?.try_into().ok()?;
                return Some(u32::from_be_bytes(reason).into());
            }
            _ => continue,
        };
        // It may be gone for writing, and have left a word.
        let _ = writer.write_all(&reply).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_harms_its_client_is_told_why_and_the_next_connection_works() {
    // ":status: 200", without an end.
    let begun = frame(HEADERS, END_HEADERS, 1, &[0x88]);
    // ":status: 103".
    let early = frame(HEADERS, END_HEADERS, 1, &[0x08, 3, b'1', b'0', b'3']);
    let flood = |one: &[u8]| [&begun[..], &one.repeat(50_000)].concat();
    let (calm, flow_control) = (Reason::ENHANCE_YOUR_CALM, Reason::FLOW_CONTROL_ERROR);
    for (what, answer, reason, counted) in [
        (
            "more than its window",
            flood(&frame(DATA, 0, 1, &vec![0; 16_384])[..])[..8 << 20].to_vec(),
            flow_control,
            "flow_connections_cut_total{front=\"client\",reason=\"flow_control\"} 1",
        ),
        (
            "PING",
            flood(&frame(PING, 0, 0, &[0; 8])),
            calm,
            "flow_floods_total{front=\"client\",kind=\"PING\"} 1",
        ),
        (
            "unknown frames",
            flood(&frame(0x77, 0, 1, &[1; 9])),
            calm,
            "flow_floods_total{front=\"client\",kind=\"unknown\"} 1",
        ),
        (
            "early answers",
            early.repeat(50_000),
            calm,
            "flow_floods_total{front=\"client\",kind=\"HEADERS\"} 1",
        ),
    ] {
        let (harmful, metrics) = (Harmful::answering(answer), Metrics::new());
        let flow = Flow::default();
        flow.register_metrics(&metrics).unwrap();
        let channel = Channel::to("static:127.0.0.1:1")
            .dialer(harmful.clone())
            .options(ChannelOptions::default())
            .flow(&flow)
            .build()
            .unwrap();
        // It may be tried again on the other connection, as far as nothing was answered.
        let _ = range(&channel).await;
        until(|| harmful.told.lock().is_some()).await;
        assert_eq!(*harmful.told.lock(), Some(reason), "{what}");
        let text = metrics.encode();
        assert!(text.contains(counted), "{what}: {text}");
        // A peer that was lost at once is dialled again after a while.
        until(|| *harmful.dialled.lock() == 2 && channel.snapshot().connections == 1).await;
        assert_eq!(range(&channel).await.unwrap(), 5, "{what}");
        assert_eq!(*harmful.dialled.lock(), 2, "{what}");
        assert_eq!(channel.snapshot().in_flight, 0, "{what}");
    }
}
