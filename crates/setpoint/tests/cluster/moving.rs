//! A plane moves from its data directory to a cluster of three real members, and back.

use std::path::Path;
use std::process::Command;

use serde_json::json;
use setpoint::envtest::TempDir;

use crate::load::{self, send};
use crate::members::Members;
use crate::{MAPS, binary, harness, server, server_with};

#[track_caller]
fn migrate(from: &str, to: &str) -> String {
    let output = Command::new(binary())
        .args(["store", "migrate", "--from", from, "--to", to])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The store's directory below a server's.
fn data(dir: &Path) -> String {
    dir.join("data").to_string_lossy().into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plane_moves_to_three_members_and_back_with_all_it_has() {
    const OBJECTS: usize = 300;
    let dir = TempDir::new().unwrap();
    let (home, back) = (dir.path().join("home"), dir.path().join("back"));
    let plane = server_with(&home, &[]).await;
    let client = load::client(plane.text("kubeconfig")).await;
    for n in 0..OBJECTS {
        let map = json!({"metadata": {"name": format!("m-{n}")}, "data": {"n": n.to_string()}});
        send(&client, "POST", MAPS, Some(map)).await.unwrap();
    }
    let made = send(&client, "GET", MAPS, None).await.unwrap();
    assert!(plane.stop().await.success());

    let mut members = Members::start(dir.path(), 3).await;
    let endpoints = members.endpoints();
    let said = migrate(&data(&home), &endpoints);
    assert!(said.contains("moved: both sides hold"), "{said}");
    // What a majority has is there: any one member may go.
    members.kill(0);
    let plane = server(&dir, "away", &endpoints).await;
    let client = load::client(plane.text("kubeconfig")).await;
    let moved = harness::eventually("served again", async || {
        send(&client, "GET", MAPS, None).await.ok()
    })
    .await;
    let content = |list: &serde_json::Value| {
        let items = list["items"].as_array().unwrap().iter();
        items
            .map(|item| (item["metadata"]["uid"].clone(), item["data"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(content(&moved), content(&made));
    for n in 0..10 {
        let mut map = send(&client, "GET", &format!("{MAPS}/m-{n}"), None)
            .await
            .unwrap();
        map["data"]["moved"] = json!("yes");
        send(&client, "PUT", &format!("{MAPS}/m-{n}"), Some(map))
            .await
            .unwrap();
    }
    let changed = send(&client, "GET", MAPS, None).await.unwrap();
    assert!(plane.stop().await.success());
    members.restart(0).await;

    migrate(&endpoints, &data(&back));
    let again = migrate(&endpoints, &data(&back));
    assert!(again.starts_with("nothing to do"), "{again}");
    let plane = server_with(&back, &[]).await;
    let client = load::client(plane.text("kubeconfig")).await;
    let list = send(&client, "GET", MAPS, None).await.unwrap();
    assert_eq!(content(&list), content(&changed));
    assert!(plane.stop().await.success());
}
