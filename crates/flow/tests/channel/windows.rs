//! Receive windows of channels: they open on a long link, and what nobody reads stops nobody.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use setpoint_base::{Stop, TaskGroup};
use setpoint_flow::channel::{
    Address, ByteStream, CallOptions, ChannelOptions, Dialer, Dialled, ResponseBody,
};
use setpoint_flow::impair::{Setting, join};
use setpoint_flow::{Channel, Flow, FlowOptions};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tower::Service;

use super::peer::{Exchange, Handler, Peer, PeerOptions, handler, until};

/// Bytes a second of the link.
const RATE: u64 = 60_000_000;
const ROUND_TRIP: Duration = Duration::from_millis(100);

/// Sends as many bytes as the path says, as fast as it is let.
async fn send(mut exchange: Exchange) {
    let bytes: usize = exchange.request.uri().path()[1..].parse().unwrap();
    let Ok(mut stream) = exchange.respond.send_response(Response::new(()), false) else {
        return;
    };
    let (mut left, chunk) = (bytes, Bytes::from(vec![7; 64 << 10]));
    while left > 0 {
        stream.reserve_capacity(left.min(chunk.len()));
        match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(Ok(room)) => {
                let n = room.min(left).min(chunk.len());
                left -= n;
                if stream.send_data(chunk.slice(..n), left == 0).is_err() {
                    return;
                }
            }
            _ => return,
        }
    }
}

/// A peer at the other end of a long link.
#[derive(Clone)]
struct Far {
    peer: Arc<Peer>,
    tasks: TaskGroup,
    setting: watch::Sender<Setting>,
}

impl Far {
    fn new() -> Self {
        let handler: Handler = handler(send);
        Self {
            peer: Arc::new(Peer::new(PeerOptions::default(), handler, "", None)),
            tasks: TaskGroup::new(&Stop::new()),
            setting: watch::Sender::new(Setting::symmetric(ROUND_TRIP, Some(RATE * 8))),
        }
    }
}

impl Dialer for Far {
    fn dial<'a>(&'a self, _: &'a Address) -> Dialled<'a> {
        Box::pin(async move {
            let (ours, near) = tokio::io::duplex(256 << 10);
            let (far, theirs) = tokio::io::duplex(256 << 10);
            let setting = self.setting.subscribe();
            self.tasks.spawn(async move {
                let _ = join(near, far, setting, 1).await;
            });
            self.peer.serve_on(theirs);
            Ok(Box::new(ours) as Box<dyn ByteStream>)
        })
    }
}

fn channel(far: &Far, flow: &Flow) -> Channel {
    Channel::to("static:127.0.0.1:1")
        .dialer(far.clone())
        .options(ChannelOptions::default())
        .flow(flow)
        .build()
        .unwrap()
}

async fn ask(channel: &Channel, bytes: usize) -> ResponseBody {
    let mut request = Request::get(format!("/{bytes}"))
        .body(Empty::<Bytes>::new())
        .unwrap();
    let lasting = CallOptions::new().long_stream(Duration::from_secs(3_600));
    request.extensions_mut().insert(lasting);
    channel.clone().call(request).await.unwrap().into_body()
}

/// How long it takes to read so many bytes.
async fn download(channel: &Channel, bytes: usize) -> Duration {
    let began = Instant::now();
    let mut body = ask(channel, bytes).await;
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        read += frame.unwrap().data_ref().map_or(0, Bytes::len);
    }
    assert_eq!(read, bytes);
    began.elapsed()
}

/// How long it takes on a link that is full from the first moment.
fn ideal(bytes: usize) -> Duration {
    ROUND_TRIP + Duration::from_secs_f64(bytes as f64 / RATE as f64)
}

#[tokio::test(start_paused = true)]
async fn a_download_fills_a_long_link_and_rest_closes_its_window() {
    let (far, flow) = (Far::new(), Flow::default());
    let channel = channel(&far, &flow);
    let bytes = 96 << 20;
    let first = download(&channel, bytes).await;
    // With the window of the start it would take 10 s.
    assert!(
        first < ideal(bytes) + ROUND_TRIP * 10,
        "{first:?}, ideal {:?}",
        ideal(bytes)
    );
    let connection = flow.snapshot().connections.pop().unwrap();
    assert!(connection.stream_window_bytes > RATE / 10, "{connection:?}");
    assert_eq!(connection.streams_open, 0);
    let estimate = connection.estimate.unwrap();
    assert!((0.09..0.13).contains(&estimate.rtt_seconds), "{estimate:?}");
    // The second one finds the window as it is.
    let second = download(&channel, bytes).await;
    assert!(
        second < ideal(bytes) + ROUND_TRIP * 2,
        "{second:?}, ideal {:?}",
        ideal(bytes)
    );
    sleep(Duration::from_secs(60)).await;
    let connection = flow.snapshot().connections.pop().unwrap();
    assert_eq!(connection.stream_window_bytes, 1 << 20, "{connection:?}");
    assert_eq!(far.peer.accepted(), 1);
    // One ping serves both: the connection is alive, and was never given up.
    assert_eq!(channel.snapshot().keepalive_failures, 0);
}

#[tokio::test(start_paused = true)]
async fn bodies_that_nobody_reads_stop_no_other_call_and_fill_no_memory() {
    let far = Far::new();
    let budget = 16 << 20;
    let flow = Flow::new(FlowOptions {
        budget_bytes: budget,
        ..FlowOptions::default()
    });
    let channel = channel(&far, &flow);
    let bytes = 32 << 20;
    download(&channel, bytes).await;
    let alone = download(&channel, bytes).await;
    let unread = join_all((0..100).map(|_| ask(&channel, 64 << 20))).await;
    sleep(Duration::from_secs(5)).await;
    let hoarded = flow.snapshot().budget.unread_bytes;
    assert!(hoarded > 1 << 20 && hoarded <= budget, "{hoarded}");
    let beside = download(&channel, bytes).await;
    assert!(
        beside < alone * 2,
        "{alone:?} alone, {beside:?} beside what nobody reads"
    );
    // Small calls of the same connection take their round trip.
    let began = Instant::now();
    assert_eq!(
        ask(&channel, 5).await.collect().await.unwrap().to_bytes().len(),
        5
    );
    assert!(began.elapsed() < ROUND_TRIP * 2, "{:?}", began.elapsed());
    assert_eq!(far.peer.accepted(), 1);
    drop(unread);
    until(|| flow.snapshot().budget.unread_bytes == 0).await;
    assert_eq!(channel.snapshot().in_flight, 0);
}
