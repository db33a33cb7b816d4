//! `/healthz`, `/livez`, `/readyz`: whether to keep and whether to use this server
//! (apiserver `pkg/server/healthz/healthz.go`).
//!
//! `?verbose` lists every check, `?exclude=NAME` skips one, `/readyz/NAME` asks for one.

use std::time::Duration;

use http::{Method, Response, StatusCode};
use setpoint_store::types::Range;

use crate::answer;
use crate::body::ApiBody;
use crate::server::{Head, Server};

/// What a check asks.
enum Holds {
    /// Nothing: who answers is alive.
    Always,
    /// That the store answers in time.
    Store,
    /// That the server is not stopping.
    NotStopping,
}

/// One thing that must hold.
struct Check {
    name: &'static str,
    ready_only: bool,
    holds: Holds,
}

/// How long the store may take (apiserver `pkg/storage/storagebackend/factory/etcd3.go` gives it 2 s too).
const STORE_WAIT: Duration = Duration::from_secs(2);

/// `etcd` is the name that tools know for "the store answers".
const CHECKS: &[Check] = &[
    Check {
        name: "ping",
        ready_only: false,
        holds: Holds::Always,
    },
    Check {
        name: "etcd",
        ready_only: false,
        holds: Holds::Store,
    },
    Check {
        name: "shutdown",
        ready_only: true,
        holds: Holds::NotStopping,
    },
];

impl Holds {
    async fn check(&self, server: &Server) -> Result<(), String> {
        match self {
            Self::Always => Ok(()),
            Self::Store => store_answers(server).await,
            Self::NotStopping if server.stop.is_cancelled() => Err("process is shutting down".to_owned()),
            Self::NotStopping => Ok(()),
        }
    }
}

async fn store_answers(server: &Server) -> Result<(), String> {
    let mut range = Range::key("/registry/health");
    range.count_only = true;
    match tokio::time::timeout(STORE_WAIT, server.store.range(&range)).await {
        Ok(answer) => answer.map(drop).map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", STORE_WAIT.as_secs())),
    }
}

/// Answers when the path is one of health's.
pub(crate) async fn respond(server: &Server, head: &Head) -> Option<Response<ApiBody>> {
    let (endpoint, one) = match head.path.trim_start_matches('/').split_once('/') {
        None => (head.path.trim_start_matches('/'), ""),
        Some((endpoint, one)) => (endpoint, one),
    };
    if !matches!(endpoint, "healthz" | "livez" | "readyz") {
        return None;
    }
    if !matches!(head.method, Method::GET | Method::HEAD) {
        return Some(answer::text(
            StatusCode::METHOD_NOT_ALLOWED,
            "405: Method Not Allowed",
        ));
    }
    let checks = CHECKS
        .iter()
        .filter(|check| !check.ready_only || endpoint == "readyz");
    let mut results = Vec::new();
    for check in checks {
        results.push((check.name, check.holds.check(server).await));
    }
    if one.is_empty() {
        return Some(all(endpoint, results, head));
    }
    let (_, result) = results.into_iter().find(|(name, _)| *name == one)?;
    Some(match result {
        Ok(()) => answer::text(StatusCode::OK, "ok"),
        Err(why) => {
            tracing::warn!(check = one, why, "health check failed");
            let text = format!("internal server error: {why}\n");
            answer::text(StatusCode::INTERNAL_SERVER_ERROR, text)
        }
    })
}

fn all(endpoint: &str, results: Vec<(&'static str, Result<(), String>)>, head: &Head) -> Response<ApiBody> {
    let mut excluded: Vec<&str> = head.query.all("exclude").collect();
    let (mut text, mut failed) = (String::new(), false);
    for (name, result) in results {
        if let Some(at) = excluded.iter().position(|&wanted| wanted == name) {
            excluded.swap_remove(at);
            text.push_str(&format!("[+]{name} excluded: ok\n"));
            continue;
        }
        match result {
            Ok(()) => text.push_str(&format!("[+]{name} ok\n")),
            Err(why) => {
                // Everybody may ask: the reason is for the log.
                tracing::warn!(check = name, why, "health check failed");
                text.push_str(&format!("[-]{name} failed: reason withheld\n"));
                failed = true;
            }
        }
    }
    if !excluded.is_empty() {
        let names: Vec<String> = excluded.iter().map(|name| format!("{name:?}")).collect();
        let names = names.join(",");
        text.push_str(&format!(
            "warn: some health checks cannot be excluded: no matches for {names}\n"
        ));
    }
    match (failed, head.query.get("verbose").is_some()) {
        (true, _) => answer::text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("{text}{endpoint} check failed\n"),
        ),
        (false, true) => answer::text(StatusCode::OK, format!("{text}{endpoint} check passed\n")),
        (false, false) => answer::text(StatusCode::OK, "ok"),
    }
}
