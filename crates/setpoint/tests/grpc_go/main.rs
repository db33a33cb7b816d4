//! Our client channel against grpc-go's server, in the ways that have gone wrong between HTTP/2 stacks.
//! `conformance/grpc-go/run` builds the server and names it in `FLOWPEER`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod peer;

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::join_all;
use setpoint_flow::channel::{Channel, ChannelOptions};
use setpoint_flow::core::keepalive::Pace;
use tokio::time::{Instant, timeout};
use tonic::Code;

use peer::{Client, Peer};

/// Nothing here takes as long, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(60);
const MIB: usize = 1 << 20;

fn options() -> ChannelOptions {
    ChannelOptions {
        timeout: PATIENCE,
        send_bytes_max: 64 * MIB,
        receive_bytes_max: 64 * MIB,
        ..ChannelOptions::default()
    }
}

fn client(peer: &Peer, options: ChannelOptions) -> Client {
    Client(
        Channel::to(format!("http://{}", peer.addr))
            .options(options)
            .build()
            .unwrap(),
    )
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("in time")
}

/// Bytes that show when they arrive in another order.
fn payload(bytes: usize, seed: u8) -> Bytes {
    (0..bytes)
        .map(|n| (n / 1_021) as u8 ^ seed)
        .collect::<Vec<u8>>()
        .into()
}

async fn large_messages(windows: &[&str]) {
    let peer = Peer::start(windows);
    let client = client(&peer, options());
    within(async {
        let sent = payload(16 * MIB, 7);
        assert!(
            client.echo(sent.clone()).await.unwrap() == sent,
            "it came back as another"
        );
        let messages = vec![payload(MIB, 3); 24];
        assert_eq!(client.upload(messages).await.unwrap(), 24 * MIB as u64);
        assert_eq!(client.download(200, MIB).await.unwrap(), 200 * MIB as u64);
    })
    .await;
}

#[tokio::test]
async fn large_messages_pass_through_static_windows() {
    large_messages(&["-windows", "static"]).await;
}

#[tokio::test]
async fn large_messages_pass_through_windows_that_grow() {
    large_messages(&["-windows", "bdp"]).await;
}

#[tokio::test]
async fn calls_wait_for_a_stream_where_the_server_takes_few() {
    let peer = Peer::start(&["-streams", "4"]);
    let client = client(
        &peer,
        ChannelOptions {
            queue_timeout: PATIENCE,
            ..options()
        },
    );
    let calls = (0..200u8).map(|number| {
        let client = client.clone();
        async move {
            let sent = payload(50_000, number);
            assert!(client.echo(sent.clone()).await.unwrap() == sent);
        }
    });
    within(join_all(calls)).await;
}

#[tokio::test]
async fn no_call_fails_while_a_server_sends_its_connections_away() {
    let peer = Peer::start(&["-age", "400ms"]);
    let client = client(
        &peer,
        ChannelOptions {
            wait_for_ready: true,
            ..options()
        },
    );
    let end = Instant::now() + Duration::from_secs(4);
    let callers = (0..8u8).map(|number| {
        let client = client.clone();
        async move {
            let mut made = 0;
            while Instant::now() < end {
                let sent = payload(20_000, number);
                let got = client.echo(sent.clone()).await;
                assert!(got.unwrap() == sent, "caller {number} after {made} calls");
                made += 1;
            }
            assert!(made > 0);
        }
    });
    within(join_all(callers)).await;
}

#[tokio::test]
async fn a_channel_whose_pings_are_too_many_for_the_server_goes_on_working() {
    // grpc-go takes a ping in five minutes; with the third one it ends the connection (ENHANCE_YOUR_CALM).
    let peer = Peer::start(&[]);
    let eager = Pace {
        interval: Duration::from_millis(200),
        timeout: Duration::from_secs(20),
        idle: true,
    };
    let client = client(
        &peer,
        ChannelOptions {
            keepalive: eager,
            wait_for_ready: true,
            ..options()
        },
    );
    for _ in 0..4 {
        within(client.echo(payload(1_000, 1))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
}

#[tokio::test]
async fn a_deadline_ends_a_call_that_the_server_never_answers() {
    let peer = Peer::start(&[]);
    let client = client(
        &peer,
        ChannelOptions {
            timeout: Duration::from_millis(300),
            ..options()
        },
    );
    let status = within(client.hold()).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    // The connection is none the worse for it.
    within(client.echo(payload(1_000, 1))).await.unwrap();
}

/// Two numbers, as the server reads them.
fn wish(count: u64, bytes: u64) -> Bytes {
    let mut wish = BytesMut::new();
    wish.put_u64(count);
    wish.put_u64(bytes);
    wish.freeze()
}
