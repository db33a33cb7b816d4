//! `/healthz`, `/livez`, `/readyz`: whether to keep and whether to use this server
//! (apiserver `pkg/server/healthz/healthz.go`).
//!
//! `?verbose` lists every check, `?exclude=NAME` skips one, `/readyz/NAME` asks for one.

use http::{Method, Response, StatusCode};

use crate::answer;
use crate::body::ApiBody;
use crate::server::{Head, Server};

/// One thing that must hold.
struct Check {
    name: &'static str,
    ready_only: bool,
    holds: fn(&Server) -> Result<(), String>,
}

/// `etcd` is the name that tools know for "the store answers".
const CHECKS: &[Check] = &[
    Check {
        name: "ping",
        ready_only: false,
        holds: |_| Ok(()),
    },
    Check {
        name: "etcd",
        ready_only: false,
        holds: store_answers,
    },
    Check {
        name: "shutdown",
        ready_only: true,
        holds: |server| match server.stop.is_cancelled() {
            true => Err("process is shutting down".to_owned()),
            false => Ok(()),
        },
    },
];

fn store_answers(server: &Server) -> Result<(), String> {
    use setpoint_store::types::Range;
    let mut range = Range::key("/registry/health");
    range.count_only = true;
    server
        .store
        .range(&range)
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Answers when the path is one of health's.
pub(crate) fn respond(server: &Server, head: &Head) -> Option<Response<ApiBody>> {
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
    let results = checks
        .map(|check| (check.name, (check.holds)(server)))
        .collect::<Vec<_>>();
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
