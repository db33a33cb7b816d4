//! What a request is about, from its method, path and query
//! (apiserver `pkg/endpoints/request/requestinfo.go`).

use http::Method;

/// Who asks: put into the request's extensions by the front that authenticated it. Absent is anonymous.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User name.
    pub user: String,
    /// Groups, without the ones every authenticated user has.
    pub groups: Vec<String>,
}

impl Identity {
    /// A caller that showed no credentials.
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            user: "system:anonymous".to_owned(),
            groups: vec!["system:unauthenticated".to_owned()],
        }
    }

    /// The plane's own loops, which may do everything.
    #[must_use]
    pub fn loopback() -> Self {
        Self {
            user: "system:apiserver".to_owned(),
            groups: vec!["system:masters".to_owned()],
        }
    }

    /// Whether it shows no credentials.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.user == "system:anonymous"
    }

    /// Whether it is in the group.
    #[must_use]
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// Decoded query parameters in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Splits and decodes; a malformed escape is kept as it is.
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode(name, true), percent_decode(value, true))
        });
        Self(pairs.collect())
    }

    /// The first value; an absent one is `None`.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// All values of one name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// Kubernetes' reading of a boolean parameter: present and neither `false` nor `0`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| !matches!(value.to_ascii_lowercase().as_str(), "false" | "0"))
    }
}

/// Decodes `%XX`, and `+` in queries.
pub(crate) fn percent_decode(text: &str, plus: bool) -> String {
    if !text.contains(['%', '+']) {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes
            .get(at + 1..at + 3)
            .and_then(|h| std::str::from_utf8(h).ok());
        match (bytes[at], hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) if plus => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Something under `/api/V/` or `/apis/G/V/`.
    Resource(ResourcePath),
    /// Discovery, OpenAPI, health and everything else.
    Path,
}

/// The parts of a resource path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    /// API group, empty for core.
    pub(crate) group: String,
    /// Version.
    pub(crate) version: String,
    /// Namespace, empty for cluster scope or all namespaces.
    pub(crate) namespace: String,
    /// Plural.
    pub(crate) resource: String,
    /// Object name, empty for the collection.
    pub(crate) name: String,
    /// Such as `status`; empty for the object itself. Further segments stay in it, separated by `/`.
    pub(crate) subresource: String,
}

impl Target {
    /// Splits a path. `namespaces/NAME` alone, and its `status` and `finalize`, are about the namespace.
    pub(crate) fn parse(path: &str) -> Self {
        let mut parts: Vec<String> = path
            .trim_matches('/')
            .split('/')
            .map(|part| percent_decode(part, false))
            .collect();
        let fixed = match parts.first().map(String::as_str) {
            Some("api") if parts.len() >= 3 => 2,
            Some("apis") if parts.len() >= 4 => 3,
            _ => return Self::Path,
        };
        let mut rest = parts.split_off(fixed);
        let version = parts.pop().unwrap_or_default();
        let group = if fixed == 3 {
            parts.pop().unwrap_or_default()
        } else {
            String::new()
        };
        let mut target = ResourcePath {
            group,
            version,
            ..ResourcePath::default()
        };
        let about_namespace = rest.len() < 3 || matches!(rest[2].as_str(), "status" | "finalize");
        if rest[0] == "namespaces" && !about_namespace {
            target.namespace = std::mem::take(&mut rest[1]);
            rest.drain(..2);
        } else if rest[0] == "namespaces" && rest.len() > 1 && fixed == 2 {
            target.namespace = rest[1].clone();
        }
        let mut rest = rest.into_iter();
        target.resource = rest.next().unwrap_or_default();
        target.name = rest.next().unwrap_or_default();
        target.subresource = rest.collect::<Vec<_>>().join("/");
        Self::Resource(target)
    }
}

/// The verb of a resource request (`get`, `list`, `watch`, …); empty for a method that has none.
pub(crate) fn verb(method: &Method, path: &ResourcePath, query: &Query) -> &'static str {
    let collection = path.name.is_empty();
    match *method {
        Method::GET | Method::HEAD if collection && query.flag("watch") => "watch",
        Method::GET | Method::HEAD if collection => "list",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if collection => "deletecollection",
        Method::DELETE => "delete",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Option<(String, String, String, String, String, String)> {
        match Target::parse(text) {
            Target::Path => None,
            Target::Resource(p) => Some((p.group, p.version, p.namespace, p.resource, p.name, p.subresource)),
        }
    }

    #[test]
    fn paths_are_split_as_upstream_splits_them() {
        let rows = [
            ("/api", None),
            ("/api/v1", None),
            ("/apis/apps/v1", None),
            ("/healthz", None),
            ("/api/v1/namespaces", Some(["", "v1", "", "namespaces", "", ""])),
            (
                "/api/v1/namespaces/a",
                Some(["", "v1", "a", "namespaces", "a", ""]),
            ),
            (
                "/api/v1/namespaces/a/finalize",
                Some(["", "v1", "a", "namespaces", "a", "finalize"]),
            ),
            (
                "/api/v1/namespaces/a/secrets",
                Some(["", "v1", "a", "secrets", "", ""]),
            ),
            (
                "/api/v1/namespaces/a/secrets/b",
                Some(["", "v1", "a", "secrets", "b", ""]),
            ),
            ("/apis/g.io/v1/sites", Some(["g.io", "v1", "", "sites", "", ""])),
            (
                "/apis/g.io/v1/namespaces/a/sites/b/status",
                Some(["g.io", "v1", "a", "sites", "b", "status"]),
            ),
            (
                "/apis/g.io/v1/sites/b%2Fc",
                Some(["g.io", "v1", "", "sites", "b/c", ""]),
            ),
        ];
        for (text, want) in rows {
            let want = want
                .map(|w| w.map(str::to_owned))
                .map(|[a, b, c, d, e, f]| (a, b, c, d, e, f));
            assert_eq!(path(text), want, "{text}");
        }
    }

    #[test]
    fn queries_are_decoded_and_flags_read_as_upstream_reads_them() {
        let query = Query::parse("labelSelector=a%3Db%2Cc&watch=1&x=false&y&z=a+b");
        assert_eq!(query.get("labelSelector"), Some("a=b,c"));
        assert_eq!(query.get("z"), Some("a b"));
        let flags = ["watch", "x", "y", "none"].map(|name| query.flag(name));
        assert_eq!(flags, [true, false, true, false]);
    }
}
