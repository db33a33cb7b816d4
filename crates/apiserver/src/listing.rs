//! Query parameters of LIST and WATCH, and which combinations are allowed
//! (apimachinery `pkg/apis/meta/internalversion/validation/validation.go`).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use setpoint_apimachinery::{Cause, Gvk, Status};

use crate::request::Query;

/// How `resourceVersion` is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// The newest, whatever it is when the request arrives.
    Newest,
    /// Anything; what the cache has.
    Any,
    /// This revision or a later one.
    NotOlderThan(u64),
    /// Exactly this revision.
    Exact(u64),
}

/// A page token: continue after a key, in the picture of a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Continue {
    /// The revision of the first page; `None` takes the newest (an inconsistent rest).
    pub(crate) revision: Option<u64>,
    /// First key of the page, as the store's key without the resource's prefix.
    pub(crate) start: String,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Token {
    v: String,
    rv: i64,
    start: String,
}

impl Continue {
    /// The opaque text, as upstream makes it (`pkg/storage/continue.go`).
    pub(crate) fn encode(&self) -> String {
        let token = Token {
            v: "meta.k8s.io/v1".to_owned(),
            rv: self.revision.map_or(-1, |r| i64::try_from(r).unwrap_or(-1)),
            start: self.start.clone(),
        };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }

    fn decode(text: &str) -> Result<Self, Status> {
        let invalid = || Status::bad_request("continue key is not valid".to_owned());
        let bytes = URL_SAFE_NO_PAD
            .decode(text.trim_end_matches('='))
            .map_err(|_| invalid())?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|_| invalid())?;
        if token.v != "meta.k8s.io/v1" || token.rv == 0 || token.start.is_empty() {
            return Err(invalid());
        }
        Ok(Self {
            revision: u64::try_from(token.rv).ok(),
            start: token.start,
        })
    }
}

/// Parameters of a LIST.
#[derive(Clone, Debug)]
pub(crate) struct ListParams {
    /// Largest number of items; 0 is no limit.
    pub(crate) limit: usize,
    /// Which revision.
    pub(crate) at: At,
    /// The page to continue with.
    pub(crate) page: Option<Continue>,
}

/// Parameters of a WATCH.
#[derive(Clone, Debug)]
pub(crate) struct WatchParams {
    /// Where to begin. `Exact` is "after this revision".
    pub(crate) at: At,
    /// Whether current objects come first.
    pub(crate) initial: bool,
    /// Whether a bookmark marks their end.
    pub(crate) mark_end: bool,
    /// Whether bookmarks are wanted.
    pub(crate) bookmarks: bool,
    /// The client's own end.
    pub(crate) timeout: Option<Duration>,
}

/// `resourceVersion` as a number; `None` when absent.
///
/// # Errors
/// 400 with Go's text when it is not one.
pub(crate) fn revision(query: &Query) -> Result<Option<u64>, Status> {
    match query.get("resourceVersion") {
        None | Some("") => Ok(None),
        Some(text) => parse_revision(text).map(Some),
    }
}

/// A resource version; "0" is 0.
///
/// # Errors
/// 400 with Go's text when it is not a number.
pub(crate) fn parse_revision(text: &str) -> Result<u64, Status> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let why = if digits {
        "value out of range"
    } else {
        "invalid syntax"
    };
    text.parse::<u64>()
        .ok()
        .filter(|r| digits && i64::try_from(*r).is_ok())
        .ok_or_else(|| {
            Status::bad_request(format!(
                "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: {why}"
            ))
        })
}

fn invalid(causes: Vec<Cause>) -> Status {
    Status::invalid(&Gvk::new("meta.k8s.io", "v1", "ListOptions"), "", causes)
}

const MATCH: &str = "resourceVersionMatch";

/// Checks the parameters that LIST and WATCH share.
fn check(query: &Query, watch: bool) -> Result<(), Status> {
    let sends = query.get("sendInitialEvents");
    let version = query.get("resourceVersion").unwrap_or_default();
    let matching = query.get(MATCH).unwrap_or_default();
    let forbid = |field: &str, why: &str| Err(invalid(vec![Cause::forbidden(field, why)]));
    if let Some(text) = sends {
        if !watch {
            return forbid("sendInitialEvents", "sendInitialEvents is forbidden for list");
        }
        if !matches!(text, "true" | "false" | "1" | "0") {
            return Err(Status::bad_request(format!(
                "strconv.ParseBool: parsing {text:?}: invalid syntax"
            )));
        }
        if matching != "NotOlderThan" {
            return forbid(
                MATCH,
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            );
        }
        return Ok(());
    }
    if matching.is_empty() {
        return Ok(());
    }
    if watch {
        return forbid(
            MATCH,
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        );
    }
    if version.is_empty() {
        return forbid(
            MATCH,
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        );
    }
    if query.get("continue").is_some_and(|c| !c.is_empty()) {
        return forbid(
            MATCH,
            "resourceVersionMatch is forbidden when continue is provided",
        );
    }
    match matching {
        "Exact" if version == "0" => forbid(
            MATCH,
            "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
        ),
        "Exact" | "NotOlderThan" => Ok(()),
        other => Err(invalid(vec![Cause::not_supported(
            MATCH,
            &Value::from(other),
            &["Exact", "NotOlderThan", ""],
        )])),
    }
}

fn number(query: &Query, name: &str) -> Result<Option<i64>, Status> {
    match query.get(name) {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| {
            Status::bad_request(format!(
                "{name}: Invalid value: {text:?}: strconv.ParseInt: parsing {text:?}: invalid syntax"
            ))
        }),
    }
}

impl ListParams {
    /// Reads and checks.
    ///
    /// # Errors
    /// 400 for what does not parse, 422 for what may not be combined.
    pub(crate) fn parse(query: &Query) -> Result<Self, Status> {
        check(query, false)?;
        let limit = usize::try_from(number(query, "limit")?.unwrap_or(0)).unwrap_or(0);
        let version = revision(query)?;
        if let Some(token) = query.get("continue").filter(|token| !token.is_empty()) {
            if version.is_some_and(|v| v > 0) {
                return Err(Status::bad_request(
                    "specifying resource version is not allowed when using continue".to_owned(),
                ));
            }
            return Ok(Self {
                limit,
                at: At::Newest,
                page: Some(Continue::decode(token)?),
            });
        }
        // A limited list at a version was exact before there was resourceVersionMatch, and still is.
        let at = match (version, query.get(MATCH).unwrap_or_default()) {
            (None, _) => At::Newest,
            (Some(0), _) => At::Any,
            (Some(version), "Exact") => At::Exact(version),
            (Some(version), "") if limit > 0 => At::Exact(version),
            (Some(version), _) => At::NotOlderThan(version),
        };
        Ok(Self {
            limit,
            at,
            page: None,
        })
    }
}

impl WatchParams {
    /// Reads and checks.
    ///
    /// # Errors
    /// As of [`ListParams::parse`].
    pub(crate) fn parse(query: &Query) -> Result<Self, Status> {
        check(query, true)?;
        let version = revision(query)?;
        let asked = query
            .get("sendInitialEvents")
            .map(|text| matches!(text, "true" | "1"));
        let bookmarks = query.flag("allowWatchBookmarks");
        let (at, initial) = match (version, asked) {
            (None, Some(true)) => (At::Newest, true),
            (Some(0), Some(true)) => (At::Any, true),
            (Some(version), Some(true)) => (At::NotOlderThan(version), true),
            (None | Some(0), Some(false)) => (At::Newest, false),
            // Without sendInitialEvents a watch from "" or 0 begins with what is there.
            (None, None) => (At::Newest, true),
            (Some(0), None) => (At::Any, true),
            (Some(version), Some(false) | None) => (At::Exact(version), false),
        };
        let timeout = number(query, "timeoutSeconds")?.filter(|t| *t > 0);
        Ok(Self {
            at,
            initial,
            mark_end: initial && bookmarks && asked == Some(true),
            bookmarks,
            timeout: timeout
                .and_then(|t| u64::try_from(t).ok())
                .map(Duration::from_secs),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_version_and_match_are_combined_as_documented() {
        let rows = [
            ("", Ok(At::Newest)),
            ("resourceVersion=0", Ok(At::Any)),
            ("resourceVersion=5", Ok(At::NotOlderThan(5))),
            ("resourceVersion=5&limit=3", Ok(At::Exact(5))),
            (
                "resourceVersion=5&limit=3&resourceVersionMatch=NotOlderThan",
                Ok(At::NotOlderThan(5)),
            ),
            ("resourceVersion=5&resourceVersionMatch=Exact", Ok(At::Exact(5))),
            ("resourceVersion=0&resourceVersionMatch=Exact", Err(422)),
            ("resourceVersionMatch=Exact", Err(422)),
            ("resourceVersion=5&resourceVersionMatch=Newer", Err(422)),
            ("sendInitialEvents=true", Err(422)),
            ("resourceVersion=abc", Err(400)),
            ("resourceVersion=-1", Err(400)),
            ("resourceVersion=99999999999999999999", Err(400)),
            ("limit=x", Err(400)),
            ("continue=%21", Err(400)),
        ];
        for (query, want) in rows {
            let got = ListParams::parse(&Query::parse(query))
                .map(|p| p.at)
                .map_err(|s| s.code);
            assert_eq!(got, want, "{query}");
        }
    }

    #[test]
    fn a_page_token_survives_the_wire() {
        for revision in [Some(7), None] {
            let token = Continue {
                revision,
                start: "ns/a\0".to_owned(),
            };
            assert_eq!(Continue::decode(&token.encode()).unwrap(), token);
        }
    }

    #[test]
    fn watches_start_where_the_documentation_says() {
        let rows = [
            ("", Ok((At::Newest, true, false))),
            ("resourceVersion=0", Ok((At::Any, true, false))),
            ("resourceVersion=9", Ok((At::Exact(9), false, false))),
            (
                "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
                Ok((At::Newest, true, true)),
            ),
            ("sendInitialEvents=true", Err(422)),
            ("resourceVersion=9&resourceVersionMatch=NotOlderThan", Err(422)),
        ];
        for (query, want) in rows {
            let got = WatchParams::parse(&Query::parse(query));
            let got = got.map(|p| (p.at, p.initial, p.mark_end)).map_err(|s| s.code);
            assert_eq!(got, want, "{query}");
        }
    }
}
