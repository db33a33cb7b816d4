//! A watch whose past is gone ends alone.

use serde_json::json;
use setpoint::envtest::TempDir;

use crate::load::{self, send};
use crate::members::Members;
use crate::{MAPS, server};

/// etcd answers no progress request on a stream that has a watcher which compaction has ended, and lists of resources that do
/// not change rest on those answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_compaction_ends_does_not_hold_up_the_lists_of_others() {
    let dir = TempDir::new().unwrap();
    let members = Members::start(dir.path(), 1).await;
    let endpoints = members.endpoints();
    let plane = server(&dir, "a", &endpoints).await;
    let client = load::client(plane.text("kubeconfig")).await;
    let mut revisions = Vec::new();
    for n in 0..5 {
        let map = json!({"metadata": {"name": format!("m-{n}")}});
        let made = send(&client, "POST", MAPS, Some(map)).await.unwrap();
        let revision = &made["metadata"]["resourceVersion"];
        revisions.push(revision.as_str().unwrap().to_owned());
    }
    assert!(plane.stop().await.success());
    members.ctl(&["compact", &revisions[4]]);

    // The one that starts now has not seen what was before, and asks the cluster.
    let plane = server(&dir, "b", &endpoints).await;
    let client = load::client(plane.text("kubeconfig")).await;
    let past = format!(
        "{MAPS}?watch=true&resourceVersion={}&timeoutSeconds=10",
        revisions[1]
    );
    let ended = send(&client, "GET", &past, None).await.unwrap();
    assert_eq!(ended["object"]["code"], 410, "{ended}");
    for name in ["after-1", "after-2"] {
        let map = json!({"metadata": {"name": name}});
        send(&client, "POST", MAPS, Some(map)).await.unwrap();
        let list = send(&client, "GET", "/api/v1/namespaces", None).await.unwrap();
        assert_eq!(list["kind"], "NamespaceList");
    }
    assert!(plane.stop().await.success());
}
