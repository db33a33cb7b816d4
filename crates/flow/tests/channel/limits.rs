//! Limits in front of a channel: what is refused is not sent.

use std::time::Duration;

use setpoint_flow::{Channel, Limits, Per, Rule, Rules};
use setpoint_proto::etcdserverpb::RangeRequest;
use setpoint_proto::etcdserverpb::kv_client::KvClient;
use tonic::Code;

use super::peer::{Net, Peer, PeerOptions, answering};

#[tokio::test(start_paused = true)]
async fn calls_beyond_a_limit_are_refused_before_anything_is_sent() {
    let net = Net::default();
    let peer = Peer::start(
        &net,
        "127.0.0.1:1",
        PeerOptions::default(),
        answering(3, Duration::ZERO),
    );
    let rule = Rule::new("kv", "1/s").burst(2).per(Per::Method);
    let limits = Limits::of(&Rules {
        rules: vec![rule],
        ..Rules::default()
    })
    .unwrap();
    let channel = Channel::to("static:127.0.0.1:1")
        .dialer(net)
        .limits(&limits)
        .build()
        .unwrap();
    let range = async || {
        let answer = KvClient::new(channel.clone())
            .range(RangeRequest::default())
            .await;
        answer.map(|answer| answer.into_inner().count)
    };
    assert_eq!((range().await.unwrap(), range().await.unwrap()), (3, 3));
    let refused = range().await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert_eq!(peer.calls(), 2);
    // Changed while the channel runs.
    limits.update("kv", "1000/s").unwrap();
    tokio::time::advance(Duration::from_millis(10)).await;
    assert_eq!(range().await.unwrap(), 3);
    assert_eq!(peer.calls(), 3);
}
