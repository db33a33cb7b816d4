//! `/debug/pprof/`: profiles for Go's `pprof`, where they are switched on.
//!
//! Paths and texts are those of Go's `net/http/pprof`. There is a CPU profile; what there is not (a heap's, and what
//! describes Go's own runtime) is answered with a sentence that says why, and where else to look.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode, Uri};

use super::http::text;

const PREFIX: &str = "/debug/pprof";
/// Seconds of a profile for which none are named, as in Go.
const SECONDS: u64 = 30;
/// Seconds of the longest profile.
const SECONDS_MAX: u64 = 300;

/// Takes profiles of this process.
pub trait Profiler: fmt::Debug + Send + Sync {
    /// What the processors did for so long, in `pprof`'s format; or why that cannot be said. Dropping the future ends it.
    fn cpu(&self, time: Duration) -> BoxFuture<'static, Result<Vec<u8>, String>>;
}

/// Whether a path is one of these.
pub(super) fn is_meant(path: &str) -> bool {
    path.strip_prefix(PREFIX)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Answers one request.
pub(super) async fn respond(
    profiler: &dyn Profiler,
    method: &Method,
    uri: &Uri,
    command_line: &[String],
) -> Response<Bytes> {
    let name = uri.path().strip_prefix(PREFIX).unwrap_or_default();
    match name.trim_start_matches('/') {
        "" => text(
            StatusCode::OK,
            format!(
                "{PREFIX}/\n\ncmdline\nprofile?seconds=N  what the processors do for so long\nsymbol\n\n\
                 allocs, block, goroutine, heap, mutex, threadcreate, trace: absent, each says why\n"
            ),
        ),
        "cmdline" => text(StatusCode::OK, command_line.join("\0")),
        // No: the profile has its names with it.
        "symbol" if matches!(*method, Method::GET | Method::POST) => {
            text(StatusCode::OK, "num_symbols: 0\n".to_owned())
        }
        "profile" => match seconds(uri.query().unwrap_or_default()) {
            Ok(time) => profile(profiler, time).await,
            Err(problem) => failed(StatusCode::BAD_REQUEST, &problem),
        },
        name => match absent(name) {
            Some(why) => failed(
                StatusCode::NOT_IMPLEMENTED,
                &format!("there is no {name} profile here: {why}"),
            ),
            None => failed(StatusCode::NOT_FOUND, &format!("Unknown profile {name:?}")),
        },
    }
}

/// Why there is no profile of that name, if Go has one.
fn absent(name: &str) -> Option<&'static str> {
    Some(match name {
        "heap" | "allocs" => {
            "the allocator does not note who asks for memory, as that would cost every request; process_resident_memory_bytes in \
             /metrics says how much there is, the store's metrics what it holds, and heaptrack or `perf record -e page-faults` who \
             asked for it"
        }
        "goroutine" | "threadcreate" => {
            "there are no goroutines; process_* in /metrics count threads and files, and a debugger shows stacks"
        }
        "block" | "mutex" => {
            "locks are not measured; profile shows who waits while it spins, /metrics how long calls take"
        }
        "trace" => "Go's tracer is not here; calls can be followed with OpenTelemetry",
        _ => return None,
    })
}

fn seconds(query: &str) -> Result<Duration, String> {
    let named = query.split('&').find_map(|pair| pair.strip_prefix("seconds="));
    let seconds = match named.map(str::parse) {
        None | Some(Ok(0)) => SECONDS,
        Some(Ok(seconds)) if seconds <= SECONDS_MAX => seconds,
        Some(_) => return Err(format!("seconds: write a whole number up to {SECONDS_MAX}")),
    };
    Ok(Duration::from_secs(seconds))
}

async fn profile(profiler: &dyn Profiler, time: Duration) -> Response<Bytes> {
    let bytes = match profiler.cpu(time).await {
        Ok(bytes) => bytes,
        Err(why) => {
            let why = format!("Could not enable CPU profiling: {why}");
            return failed(StatusCode::INTERNAL_SERVER_ERROR, &why);
        }
    };
    let mut response = Response::new(Bytes::from(bytes));
    for (name, value) in [
        (CONTENT_TYPE, "application/octet-stream"),
        (CONTENT_DISPOSITION, "attachment; filename=\"profile\""),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

fn failed(status: StatusCode, why: &str) -> Response<Bytes> {
    let mut response = text(status, format!("{why}\n"));
    // By this `pprof` knows that the text is for people.
    response
        .headers_mut()
        .insert("x-go-pprof", HeaderValue::from_static("1"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_below_are_meant() {
        assert!(is_meant("/debug/pprof") && is_meant("/debug/pprof/heap"));
        assert!(!is_meant("/debug/pproffer") && !is_meant("/debug/vars"));
    }

    #[derive(Debug)]
    struct Idle;

    impl Profiler for Idle {
        fn cpu(&self, _: Duration) -> BoxFuture<'static, Result<Vec<u8>, String>> {
            Box::pin(async { Err("not now".to_owned()) })
        }
    }

    #[tokio::test]
    async fn what_there_is_not_is_listed_and_says_why() {
        let ask = async |path: &str| {
            let uri = format!("{PREFIX}/{path}").parse::<Uri>().unwrap();
            let response = respond(&Idle, &Method::GET, &uri, &[]).await;
            let text = String::from_utf8(response.body().to_vec()).unwrap();
            (response.status().as_u16(), text)
        };
        let (status, index) = ask("").await;
        assert_eq!(status, 200);
        for name in [
            "heap",
            "allocs",
            "goroutine",
            "threadcreate",
            "block",
            "mutex",
            "trace",
        ] {
            assert!(index.contains(name));
            let (status, why) = ask(name).await;
            assert!(status == 501 && why.contains(name) && why.len() > 60, "{why}");
        }
        assert_eq!(ask("nope").await.0, 404);
        assert_eq!(ask("profile").await.0, 500);
    }

    #[test]
    fn a_profile_takes_so_long_as_is_asked_within_reason() {
        for (query, expected) in [("", Ok(30)), ("seconds=0", Ok(30)), ("a=1&seconds=5", Ok(5))] {
            assert_eq!(seconds(query), expected.map(Duration::from_secs), "{query}");
        }
        assert!(seconds("seconds=301").is_err() && seconds("seconds=x").is_err());
    }
}
