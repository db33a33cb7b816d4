//! Accuracy and determinism on paused time, and real sockets.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::*;

const MS: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(60);

fn shape(delay_ms: u32, mbit: u64) -> Shape {
    Shape {
        delay: MS * delay_ms,
        rate: Some(mbit * 1_000_000),
        ..Shape::default()
    }
}

/// Sends `total` bytes as fast as they go in and takes them as they come out: when each came, asked every `step`.
fn arrivals(shape: Shape, seed: u64, total: u64, step: Duration) -> Vec<(Duration, u64)> {
    let start = Instant::now();
    let mut link = Link::new(shape, seed, start);
    let (mut sent, mut arrived, mut now) = (0, Vec::new(), start);
    let mut got = 0;
    while got < total {
        link.advance(now, 1);
        let room = link.room().min(total - sent);
        if room > 0 {
            link.accept(room, now);
            sent += room;
        }
        let due = link.due(now);
        if due > 0 {
            link.release(due);
            got += due;
            arrived.push((now - start, due));
        }
        assert!(now - start < Duration::from_secs(600), "it must end");
        now += step;
    }
    arrived
}

#[tokio::test(start_paused = true)]
async fn on_a_way_that_becomes_shorter_bytes_catch_up_with_those_before_them() {
    // 12,500 bytes a millisecond; 75 ms of them fly when the way shrinks to 10 ms.
    let start = Instant::now();
    let mut link = Link::new(shape(75, 100), 0, start);
    let (mut now, mut came) = (start, Vec::new());
    while now < start + MS * 400 {
        if now == start + MS * 200 {
            link.reshape(shape(10, 100), now);
        }
        link.advance(now, 1);
        link.accept(link.room(), now);
        let due = link.due(now);
        link.release(due);
        came.push(due);
        now += MS;
    }
    let sum = |from: usize, to: usize| came[from..to].iter().sum::<u64>() as f64 / 12_500.0;
    let near = |found: f64, expected: f64| (found - expected).abs() < 3.0;
    assert!(near(sum(200, 274), 74.0), "those before: {}", sum(200, 274));
    assert!(near(sum(274, 278), 65.0 + 4.0), "at once: {}", sum(274, 278));
    assert!(near(sum(278, 378), 100.0), "those after: {}", sum(278, 378));
}

#[tokio::test(start_paused = true)]
async fn bytes_come_out_after_the_delay_and_at_the_rate() {
    // 10 Mbit/s pass 1 MB in 0.8 s.
    let arrived = arrivals(shape(50, 10), 0, 1_000_000, MS / 10);
    let (first, last) = (arrived[0].0, arrived[arrived.len() - 1].0);
    assert!(first >= MS * 50 && first <= MS * 53, "first after {first:?}");
    assert!(last >= MS * 850 && last <= MS * 853, "last after {last:?}");
    let half: u64 = arrived
        .iter()
        .filter(|(at, _)| *at <= MS * 450)
        .map(|it| it.1)
        .sum();
    assert!(
        (495_000..505_000).contains(&half),
        "{half} bytes after half the time"
    );
}

#[tokio::test(start_paused = true)]
async fn how_often_a_link_is_asked_changes_nothing_but_the_grain() {
    let shape = Shape {
        jitter: MS * 5,
        stall: Some(Stall {
            chance: 0.002,
            pause: Some(MS * 30),
        }),
        buffer: Some(8 << 20),
        ..shape(20, 80)
    };
    let by = |step, until| -> u64 {
        let arrived = arrivals(shape, 7, 4_000_000, step);
        arrived.iter().filter(|(at, _)| *at <= until).map(|it| it.1).sum()
    };
    for until in [MS * 100, MS * 200, MS * 300] {
        // 10 KB a ms: they differ by what came since the last look, or by less than a grain.
        let (fine, coarse) = (by(MS / 10, until), by(MS * 4, until));
        assert!(coarse.abs_diff(fine) <= 45_000, "{coarse} of {fine} at {until:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_is_the_same_link_and_another_is_not() {
    let shape = Shape {
        jitter: MS * 10,
        stall: Some(Stall {
            chance: 0.01,
            pause: None,
        }),
        ..shape(10, 50)
    };
    let run = |seed| arrivals(shape, seed, 500_000, MS);
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[tokio::test(start_paused = true)]
async fn a_lost_packet_is_a_pause_and_then_a_burst() {
    let shape = Shape {
        stall: Some(Stall {
            chance: 0.001,
            pause: Some(MS * 200),
        }),
        ..shape(5, 100)
    };
    let arrived = arrivals(shape, 3, 20_000_000, MS);
    let gaps = arrived
        .windows(2)
        .filter(|pair| pair[1].0 - pair[0].0 >= MS * 150);
    // About 14 of 13,800 packets are lost; whoever is lost in a pause makes it longer.
    assert!(
        (3..=30).contains(&gaps.clone().count()),
        "{} pauses",
        gaps.count()
    );
    let most = arrived.iter().map(|it| it.1).max().unwrap();
    assert!(most > 500_000, "a burst of {most} bytes");
}

#[tokio::test(start_paused = true)]
async fn jitter_delays_and_never_reorders_or_shortens() {
    let even = arrivals(shape(10, 100), 1, 2_000_000, MS / 4);
    let uneven = Shape {
        jitter: MS * 8,
        ..shape(10, 100)
    };
    let uneven = arrivals(uneven, 1, 2_000_000, MS / 4);
    let last = |arrived: &[(Duration, u64)]| arrived.last().unwrap().0;
    assert!(last(&uneven) >= last(&even));
    assert!(last(&uneven) <= last(&even) + MS * 12);
    assert!(uneven[0].0 >= MS * 10);
}

#[tokio::test(start_paused = true)]
async fn a_full_link_takes_no_more_than_it_can_hold() {
    let now = Instant::now();
    let mut link = Link::new(shape(100, 100), 0, now);
    let mut taken = 0;
    // Nobody takes anything out, for ten seconds.
    for step in 0..10_000 {
        let now = now + MS * step;
        link.advance(now, 1);
        let room = link.room();
        link.accept(room, now);
        taken += room;
    }
    // 100 ms at 100 Mbit/s, and a buffer at either end.
    assert!((1_250_000..1_500_000).contains(&taken), "{taken} bytes");
    assert_eq!(link.held_bytes(), taken);
    assert_eq!(link.room(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_new_rate_holds_for_what_waits_and_a_new_delay_for_what_passes() {
    let start = Instant::now();
    let mut link = Link::new(
        Shape {
            buffer: Some(4 << 20),
            ..shape(10, 8)
        },
        0,
        start,
    );
    link.accept(100_000, start);
    let now = start + MS * 50;
    link.advance(now, 1);
    // 50,000 bytes have passed; the rest passes ten times as fast.
    link.reshape(shape(30, 80), now);
    link.advance(start + MS * 55, 1);
    assert_eq!(link.due(start + MS * 60), 50_000);
    let last = start + MS * 85;
    assert!(link.due(last - MS) < 100_000);
    assert_eq!(link.due(last), 100_000);
}

#[tokio::test(start_paused = true)]
async fn what_is_held_comes_out_afterwards() {
    let start = Instant::now();
    let mut link = Link::new(
        Shape {
            held: true,
            ..shape(10, 100)
        },
        0,
        start,
    );
    link.accept(10_000, start);
    let later = start + Duration::from_secs(5);
    link.advance(later, 1);
    assert_eq!((link.due(later), link.next(later)), (0, None));
    link.reshape(shape(10, 100), later);
    assert_eq!(link.due(later), 10_000);
}

/// Two ends of a link on paused time.
fn joined(
    setting: Setting,
    seed: u64,
) -> (
    DuplexStream,
    DuplexStream,
    tokio::task::JoinSet<std::io::Result<()>>,
) {
    let (client, near) = duplex(64 << 10);
    let (far, server) = duplex(64 << 10);
    let (_, setting) = watch::channel(setting);
    let mut task = tokio::task::JoinSet::new();
    task.spawn(join(near, far, setting, seed));
    (client, server, task)
}

#[tokio::test(start_paused = true)]
async fn a_round_trip_on_paused_time_takes_what_it_should() {
    let (mut client, mut server, _task) = joined(Setting::symmetric(MS * 150, Some(100_000_000)), 1);
    for _ in 0..5 {
        let start = Instant::now();
        client.write_all(b"ping").await.unwrap();
        let mut word = [0; 4];
        server.read_exact(&mut word).await.unwrap();
        server.write_all(&word).await.unwrap();
        client.read_exact(&mut word).await.unwrap();
        let took = start.elapsed();
        // Each way is rounded up to tokio's next millisecond.
        assert!(took >= MS * 150 && took <= MS * 156, "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_on_paused_time_keeps_order_rate_and_end() {
    let (mut client, mut server, mut task) = joined(Setting::symmetric(MS * 40, Some(100_000_000)), 1);
    let sent: Vec<u8> = (0..2_500_000u32)
        .map(|n| n.wrapping_mul(2_654_435_761) as u8)
        .collect();
    let start = Instant::now();
    let sending = async {
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let (_, count) = tokio::join!(sending, server.read_to_end(&mut got));
    assert_eq!(count.unwrap(), sent.len());
    assert!(got == sent, "bytes in another order");
    // 200 ms at the rate and 20 ms on the way.
    let took = start.elapsed();
    assert!(took >= MS * 219 && took <= MS * 235, "{took:?}");
    drop((client, server));
    task.join_next().await.unwrap().unwrap().unwrap();
}

/// A server that sends back what it gets, behind a proxy.
async fn echo(options: ProxyOptions) -> (Proxy, tokio::task::JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::listen(listener.local_addr().unwrap(), options)
        .await
        .unwrap();
    let mut task = tokio::task::JoinSet::new();
    task.spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            connections.spawn(async move {
                let (mut from, mut to) = socket.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    });
    (proxy, task)
}

async fn round(socket: &mut TcpStream) -> std::io::Result<()> {
    socket.write_all(b"ping").await?;
    let mut word = [0; 4];
    timeout(PATIENCE, socket.read_exact(&mut word)).await??;
    Ok(())
}

#[tokio::test]
async fn real_sockets_take_at_least_the_round_trip_and_see_the_end_behind_the_data() {
    let setting = Setting::symmetric(MS * 30, Some(1_000_000_000));
    let (proxy, _server) = echo(ProxyOptions {
        setting,
        ..ProxyOptions::default()
    })
    .await;
    let mut socket = TcpStream::connect(proxy.addr()).await.unwrap();
    let start = Instant::now();
    round(&mut socket).await.unwrap();
    assert!(start.elapsed() >= MS * 30);
    socket.write_all(&[7; 300_000]).await.unwrap();
    socket.shutdown().await.unwrap();
    let mut got = Vec::new();
    timeout(PATIENCE, socket.read_to_end(&mut got))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(got.len(), 300_000);
    let traffic = proxy.traffic();
    assert_eq!((traffic.up_bytes, traffic.down_bytes), (300_004, 300_004));
    assert_eq!((traffic.up_inside, traffic.down_inside), (0, 0));
    proxy.stop().await;
}

#[tokio::test]
async fn a_frozen_link_moves_nothing_until_it_thaws() {
    let (proxy, _server) = echo(ProxyOptions::default()).await;
    let mut socket = TcpStream::connect(proxy.addr()).await.unwrap();
    round(&mut socket).await.unwrap();
    proxy.freeze();
    socket.write_all(b"late").await.unwrap();
    let mut word = [0; 4];
    assert!(timeout(MS * 200, socket.read_exact(&mut word)).await.is_err());
    proxy.thaw();
    timeout(PATIENCE, socket.read_exact(&mut word))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&word, b"late");
}

#[tokio::test]
async fn a_half_open_link_still_carries_what_the_client_sends() {
    let (proxy, _server) = echo(ProxyOptions::default()).await;
    let mut socket = TcpStream::connect(proxy.addr()).await.unwrap();
    round(&mut socket).await.unwrap();
    proxy.half_open();
    socket.write_all(b"gone").await.unwrap();
    let arrived = async {
        while proxy.traffic().up_bytes < 8 {
            tokio::time::sleep(MS).await;
        }
    };
    timeout(PATIENCE, arrived).await.unwrap();
    let mut word = [0; 4];
    assert!(timeout(MS * 100, socket.read_exact(&mut word)).await.is_err());
}

#[tokio::test]
async fn a_cut_connection_is_reset_and_a_refusing_proxy_lets_nobody_in() {
    let (proxy, _server) = echo(ProxyOptions::default()).await;
    let mut socket = TcpStream::connect(proxy.addr()).await.unwrap();
    round(&mut socket).await.unwrap();
    proxy.cut();
    assert!(round(&mut socket).await.is_err());
    let mut socket = TcpStream::connect(proxy.addr()).await.unwrap();
    round(&mut socket).await.unwrap();
    proxy.refuse();
    assert!(round(&mut socket).await.is_err());
    let refused = async { round(&mut TcpStream::connect(proxy.addr()).await?).await };
    assert!(refused.await.is_err());
    proxy.thaw();
    round(&mut TcpStream::connect(proxy.addr()).await.unwrap())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_script_is_played_on_a_real_link() {
    let (proxy, _server) = echo(ProxyOptions::default()).await;
    let script = Script::parse("0s rtt=40ms; 50ms down freeze 20ms; 100ms rtt=0 rate=10mbit").unwrap();
    timeout(PATIENCE, proxy.play(&script)).await.unwrap().unwrap();
    let setting = proxy.setting();
    assert_eq!(setting, Setting::symmetric(Duration::ZERO, Some(10_000_000)));
    round(&mut TcpStream::connect(proxy.addr()).await.unwrap())
        .await
        .unwrap();
}

#[tokio::test]
async fn connections_share_the_rate() {
    // Ten connections send 60 KB each at 16 Mbit/s: 300 ms together, where each alone would take 30 ms.
    let mut setting = Setting::default();
    setting.up.rate = Some(16_000_000);
    let (proxy, _server) = echo(ProxyOptions {
        setting,
        ..ProxyOptions::default()
    })
    .await;
    let start = Instant::now();
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let addr = proxy.addr();
        all.spawn(async move {
            let mut socket = TcpStream::connect(addr).await.unwrap();
            socket.write_all(&[1; 60_000]).await.unwrap();
            let mut got = vec![0; 60_000];
            timeout(PATIENCE, socket.read_exact(&mut got))
                .await
                .unwrap()
                .unwrap();
        });
    }
    all.join_all().await;
    assert!(start.elapsed() >= MS * 200, "{:?}", start.elapsed());
}
