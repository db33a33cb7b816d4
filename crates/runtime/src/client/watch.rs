//! The stream of a watch.

use std::collections::BTreeMap;

use bytes::Bytes;
use http_body_util::BodyExt;
use serde::Deserialize;
use setpoint_apimachinery::{Encoded, Status, scan_event};
use tokio::time::Instant;

use super::error::Error;
use super::lines::Lines;

/// The annotation of the bookmark that ends the initial events of a watch-list
/// (`metav1.InitialEventsAnnotationKey`).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// What a watch tells.
#[derive(Clone, Debug)]
pub enum WatchEvent {
    /// The object is new, or new to the selector.
    Added(Encoded),
    /// The object changed.
    Modified(Encoded),
    /// The object is gone, or no longer selected; this is its last state.
    Deleted(Encoded),
    /// Nothing else happened up to this version.
    Bookmark {
        /// The version reached.
        resource_version: u64,
        /// The initial events of a watch-list are complete.
        initial_events_end: bool,
    },
}

/// The open answer to a watch. Dropping it ends the watch.
pub struct WatchStream {
    body: kube_client::client::Body,
    lines: Lines,
    call: String,
    deadline: Instant,
    line_bytes_max: usize,
}

impl WatchStream {
    pub(super) fn new(
        body: kube_client::client::Body,
        call: String,
        deadline: Instant,
        line_bytes_max: usize,
    ) -> Self {
        Self {
            body,
            lines: Lines::new(line_bytes_max),
            call,
            deadline,
            line_bytes_max,
        }
    }

    /// The next event; `None` when the server ended the watch. A last line without its end is dropped:
    /// the server will send it again to the next watch. Safe to drop while it waits.
    pub async fn next(&mut self) -> Option<Result<WatchEvent, Error>> {
        loop {
            match self.lines.next() {
                Ok(Some(line)) => return Some(self.parse(&line.bytes, line.pinned)),
                Ok(None) => (),
                Err(_) => {
                    return Some(Err(Error::TooLong {
                        call: self.call.clone(),
                        bytes_max: self.line_bytes_max,
                    }));
                }
            }
            match tokio::time::timeout_at(self.deadline, self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.lines.push(data);
                    }
                }
                Ok(Some(Err(error))) => {
                    return Some(Err(Error::Transport {
                        call: self.call.clone(),
                        source: Box::new(error),
                    }));
                }
                // The server should have ended it by now: the connection is dead.
                Ok(None) | Err(_) => return None,
            }
        }
    }

    fn parse(&self, line: &Bytes, pinned: usize) -> Result<WatchEvent, Error> {
        parse(line, pinned, &self.call)
    }
}

impl std::fmt::Debug for WatchStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WatchStream")
            .field("call", &self.call)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Marked {
    metadata: Mark,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mark {
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

fn parse(line: &Bytes, pinned: usize, call: &str) -> Result<WatchEvent, Error> {
    let event = scan_event(line).map_err(|error| undecodable(call, error))?;
    let object = || {
        // A small object must not keep the whole frame it came in alive.
        let bytes = if event.object.len() * 4 < pinned * 3 {
            Bytes::copy_from_slice(&event.object)
        } else {
            event.object.clone()
        };
        Encoded::wire(bytes, event.trace).map_err(|error| undecodable(call, error))
    };
    match &*event.kind {
        "ADDED" => object().map(WatchEvent::Added),
        "MODIFIED" => object().map(WatchEvent::Modified),
        "DELETED" => object().map(WatchEvent::Deleted),
        "BOOKMARK" => {
            let marked: Marked =
                serde_json::from_slice(&event.object).map_err(|error| undecodable(call, error))?;
            Ok(WatchEvent::Bookmark {
                resource_version: marked.metadata.resource_version.parse().unwrap_or(0),
                initial_events_end: marked
                    .metadata
                    .annotations
                    .get(INITIAL_EVENTS_END)
                    .is_some_and(|v| v == "true"),
            })
        }
        "ERROR" => Err(match Status::parse(&event.object) {
            Some(status) => Error::Status {
                call: call.to_owned(),
                status: Box::new(status),
            },
            None => undecodable(call, "an ERROR event without a Status"),
        }),
        other => Err(undecodable(call, format!("unknown event type {other:?}"))),
    }
}

fn undecodable(call: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Decode {
        what: format!("an event of {call}"),
        source: source.into(),
    }
}
