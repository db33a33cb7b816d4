//! The plane inside a test process.

use std::time::Duration;

use setpoint::envtest::Plane;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_planes_live_side_by_side() {
    let planes = futures_util::future::join_all((0..4).map(|_| Plane::start())).await;
    let mut urls = std::collections::BTreeSet::new();
    for plane in planes {
        let plane = plane.unwrap();
        assert!(urls.insert(plane.api_url()) && urls.insert(plane.etcd_url()));
        plane.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plane_starts_and_stops_quickly() {
    let started = Instant::now();
    let plane = Plane::start().await.unwrap();
    let up = started.elapsed();
    plane.stop().await;
    println!("plane in a test: up {up:?}, up and down {:?}", started.elapsed());
    // Generous: a debug build on a machine that does other things.
    assert!(started.elapsed() < Duration::from_secs(5));
}
