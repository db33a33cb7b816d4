//! `/debug/vars`: what etcd publishes through Go's `expvar`, as far as there is something to say.
//!
//! Names and shapes are those of `server/etcdserver/{raft,server}.go` and raft's `status.go`. Of `memstats`, which
//! describes Go's heap, there is `Sys` alone: the bytes that the process has of the system's memory.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};
use setpoint_telemetry::process;

use super::http::text;
use super::server::Shared;
use super::wire::RAFT_TERM;

/// Answers with a JSON object.
pub(super) fn answer(shared: &Shared) -> Response<Bytes> {
    let vars = json!({
        "cmdline": shared.options.command_line,
        "file_descriptor_limit": process::open_files_max().unwrap_or(0),
        "memstats": { "Sys": process::resident_bytes().unwrap_or(0) },
        "raft.status": raft_status(shared),
    });
    let mut response = text(StatusCode::OK, format!("{vars:#}\n"));
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// The one member leads, and has applied what it has committed.
fn raft_status(shared: &Shared) -> Value {
    let index = shared.store.status().log_index;
    let member = format!("{:x}", shared.member_id);
    json!({
        "id": member,
        "term": RAFT_TERM,
        "vote": member,
        "commit": index,
        "lead": member,
        "raftState": "StateLeader",
        "applied": index,
        "progress": { member.clone(): { "match": index, "next": index + 1, "state": "StateReplicate" } },
        "leadtransferee": "0",
    })
}
