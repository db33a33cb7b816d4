//! A watch that is resumed where it broke, as client-go does it, and remembers what it saw.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use kube_client::Client;
use kube_client::client::Body;
use parking_lot::Mutex;
use serde_json::Value;
use setpoint_base::{Stop, TaskGroup};
use tokio::time::sleep;

use crate::{MAPS, harness};

/// What a watch says about a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) revision: u64,
}

/// A watch that runs.
pub(crate) struct Watching {
    seen: Arc<Mutex<Vec<Seen>>>,
    tasks: TaskGroup,
}

impl Watching {
    pub(crate) fn start(client: Client, begin: &str) -> Self {
        let this = Self {
            seen: Arc::default(),
            tasks: TaskGroup::new(&Stop::new()),
        };
        let (seen, stop) = (this.seen.clone(), this.tasks.stop().clone());
        let mut revision: u64 = begin.parse().unwrap();
        this.tasks.spawn(async move {
            while !stop.is_cancelled() {
                let step = follow(&client, &mut revision, u64::MAX, |event| seen.lock().push(event));
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = step => sleep(Duration::from_millis(50)).await,
                }
            }
        });
        this
    }

    /// Waits until the watch has seen the revision; everything it saw.
    pub(crate) async fn stop(self, revision: u64) -> Vec<Seen> {
        harness::eventually("the watch has caught up", async || {
            let last = self.seen.lock().last().map_or(0, |event| event.revision);
            (last >= revision).then_some(())
        })
        .await;
        self.tasks.shutdown(harness::PATIENCE).await;
        self.seen.lock().clone()
    }
}

/// One watch from `revision` on, until it breaks or has passed `end`.
async fn follow(client: &Client, revision: &mut u64, end: u64, mut tell: impl FnMut(Seen)) {
    let uri = format!("{MAPS}?watch=true&allowWatchBookmarks=true&resourceVersion={revision}");
    let request = http::Request::get(uri).body(Body::empty()).unwrap();
    let Ok(answer) = client.send(request).await else {
        return;
    };
    if answer.status() != 200 {
        return;
    }
    let (mut body, mut buffer) = (answer.into_body(), Vec::new());
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { return };
        buffer.extend_from_slice(&data);
        while let Some(at) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=at).collect();
            let event: Value = serde_json::from_slice(&line).unwrap();
            let kind = event["type"].as_str().unwrap().to_owned();
            assert_ne!(kind, "ERROR", "nothing is compacted here: {event}");
            let metadata = &event["object"]["metadata"];
            let at: u64 = metadata["resourceVersion"].as_str().unwrap().parse().unwrap();
            if kind == "BOOKMARK" {
                *revision = at;
            } else {
                assert!(at > *revision, "{kind} at {at} after {revision}");
                *revision = at;
                let name = metadata["name"].as_str().unwrap().to_owned();
                tell(Seen {
                    kind,
                    name,
                    revision: at,
                });
            }
            if *revision >= end {
                return;
            }
        }
    }
}

/// All there was after `begin` up to `end`, read in one piece.
pub(crate) async fn history(client: &Client, begin: &str, end: u64) -> Vec<Seen> {
    let mut all = Vec::new();
    let mut revision = begin.parse().unwrap();
    while revision < end {
        // The last change of this resource may be older than the end: a moment of silence is the end, too.
        let step = follow(client, &mut revision, end, |event| all.push(event));
        if tokio::time::timeout(Duration::from_secs(5), step).await.is_err() {
            break;
        }
    }
    all
}
