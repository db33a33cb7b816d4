//! Discovery: which groups, versions and resources are served.
//!
//! Every document is made from one [`Snapshot`], at the first request after it changed, and kept until the next: a
//! definition that was just accepted is in the next answer.
//!
//! | path | legacy | `as=APIGroupDiscoveryList` |
//! |---|---|---|
//! | `/api` | `APIVersions` | the core group with its resources |
//! | `/apis` | `APIGroupList` | all other groups with theirs |
//! | `/apis/G` | `APIGroup` | |
//! | `/api/v1`, `/apis/G/V` | `APIResourceList` | |

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{Method, Response, StatusCode};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::answer;
use crate::body::ApiBody;
use crate::negotiate::{Answer, Shape, negotiate};
use crate::resources::{ResourceInfo, Snapshot};
use crate::server::Head;

/// Parameters are compared one by one by clients, and missing ones make them fall back.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// The discovery documents of the newest snapshot somebody asked about.
#[derive(Debug, Default)]
pub(crate) struct Discovery(ArcSwapOption<Documents>);

impl Discovery {
    /// Answers when the path is one of discovery's.
    pub(crate) fn respond(&self, snapshot: &Snapshot, head: &Head) -> Option<Response<ApiBody>> {
        let path = head.path.trim_end_matches('/');
        if path != "/api" && path != "/apis" && !path.starts_with("/api/") && !path.starts_with("/apis/") {
            return None;
        }
        let documents = self.documents(snapshot);
        let legacy = documents.legacy.get(path)?;
        if !matches!(head.method, Method::GET | Method::HEAD) {
            return Some(answer::text(
                StatusCode::METHOD_NOT_ALLOWED,
                "405: Method Not Allowed",
            ));
        }
        let aggregated = documents.aggregated.iter().find(|document| document.path == path);
        let kind = if aggregated.is_some() {
            Answer::Discovery
        } else {
            Answer::Object
        };
        let accepted = match negotiate(&head.headers, &head.query, kind, false) {
            Ok(accepted) => accepted,
            Err(status) => return Some(answer::status(&status)),
        };
        let mut response = match (accepted.shape, aggregated) {
            (Shape::Discovery, Some(document)) => document.answer(head),
            (Shape::Object, _) => answer::document(accepted, legacy),
            _ => answer::status(&setpoint_apimachinery::status::Status::not_acceptable(&[
                "application/json",
            ])),
        };
        response
            .headers_mut()
            .insert(VARY, HeaderValue::from_static("Accept"));
        Some(response)
    }

    fn documents(&self, snapshot: &Snapshot) -> Arc<Documents> {
        if let Some(documents) = &*self.0.load()
            && documents.generation == snapshot.generation()
        {
            return Arc::clone(documents);
        }
        let documents = Arc::new(Documents::new(snapshot));
        self.0.store(Some(Arc::clone(&documents)));
        documents
    }
}

#[derive(Debug)]
struct Documents {
    generation: u64,
    /// By path without trailing slash.
    legacy: HashMap<String, Bytes>,
    aggregated: [Aggregated; 2],
}

#[derive(Debug)]
struct Aggregated {
    path: &'static str,
    body: Bytes,
    etag: HeaderValue,
}

impl Aggregated {
    fn new(path: &'static str, groups: &[Value]) -> Self {
        let list = json!({
            "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": groups,
        });
        let body = Bytes::from(list.to_string());
        let hash = digest(&SHA256, &body);
        let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
        let etag =
            HeaderValue::from_str(&format!("\"{hex}\"")).expect("hex digits in quotes are a header value");
        Self { path, body, etag }
    }

    fn answer(&self, head: &Head) -> Response<ApiBody> {
        let known = head
            .headers
            .get_all(IF_NONE_MATCH)
            .iter()
            .any(|tag| *tag == self.etag);
        let mut response = if known {
            answer::bytes(StatusCode::NOT_MODIFIED, AGGREGATED, Bytes::new())
        } else {
            answer::bytes(StatusCode::OK, AGGREGATED, self.body.clone())
        };
        response.headers_mut().insert(ETAG, self.etag.clone());
        response
            .headers_mut()
            .insert(CACHE_CONTROL, HeaderValue::from_static("public"));
        response
    }
}

/// The versions of one group, most preferred first, each with its resources by name.
type Versions<'a> = Vec<(&'a str, Vec<&'a ResourceInfo>)>;

impl Documents {
    fn new(snapshot: &Snapshot) -> Self {
        let groups = groups(snapshot);
        let core = |group: &str| group.is_empty();
        let mut legacy = HashMap::new();
        let named: Vec<Value> = groups
            .iter()
            .filter(|(name, _)| !core(name))
            .map(|(name, v)| api_group(name, v))
            .collect();
        let core_versions = groups
            .iter()
            .filter(|(name, _)| core(name))
            .flat_map(|(_, versions)| versions);
        let core_versions: Vec<&str> = core_versions.map(|(version, _)| *version).collect();
        let versions =
            json!({"kind": "APIVersions", "versions": core_versions, "serverAddressByClientCIDRs": []});
        legacy.insert("/api".to_owned(), versions.to_string().into());
        let list = json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": named});
        legacy.insert("/apis".to_owned(), list.to_string().into());
        for (group, versions) in &groups {
            if !core(group) {
                let mut one = api_group(group, versions);
                one["kind"] = "APIGroup".into();
                one["apiVersion"] = "v1".into();
                legacy.insert(format!("/apis/{group}"), one.to_string().into());
            }
            for (version, infos) in versions {
                let path = if core(group) {
                    format!("/api/{version}")
                } else {
                    format!("/apis/{group}/{version}")
                };
                legacy.insert(path, resource_list(group, version, infos).to_string().into());
            }
        }
        let pick = |want_core: bool| -> Vec<Value> {
            let picked = groups.iter().filter(|(name, _)| core(name) == want_core);
            picked
                .map(|(name, versions)| group_discovery(name, versions))
                .collect()
        };
        Self {
            generation: snapshot.generation(),
            legacy,
            aggregated: [
                Aggregated::new("/api", &pick(true)),
                Aggregated::new("/apis", &pick(false)),
            ],
        }
    }
}

/// Groups in the snapshot's order, which puts built-in ones first.
fn groups(snapshot: &Snapshot) -> Vec<(&str, Versions<'_>)> {
    let mut order: Vec<&str> = Vec::new();
    let mut groups: HashMap<&str, BTreeMap<&str, Vec<&ResourceInfo>>> = HashMap::new();
    for info in snapshot.all() {
        let versions = groups.entry(&info.group).or_insert_with(|| {
            order.push(&info.group);
            BTreeMap::new()
        });
        versions.entry(&info.version).or_default().push(info);
    }
    let take = |group| {
        let versions = groups.remove(group).into_iter().flatten();
        let mut versions: Versions<'_> = versions.collect();
        versions.sort_by(|(a, _), (b, _)| by_preference(a, b));
        for (_, infos) in &mut versions {
            infos.sort_by_key(|info| &info.plural);
        }
        (group, versions)
    };
    order.into_iter().map(take).collect()
}

/// Stable before beta before alpha, newer before older, then what is no Kubernetes version by name
/// (apimachinery `pkg/version/helpers.go`).
pub(crate) fn by_preference(a: &str, b: &str) -> Ordering {
    match (rank(a), rank(b)) {
        (Some(a), Some(b)) => b.cmp(&a),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// `v1beta2` as (stage, major, minor).
fn rank(version: &str) -> Option<(u8, u32, u32)> {
    let rest = version.strip_prefix('v')?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let number = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| text.parse().ok())
            .flatten()
    };
    let (major, rest) = (number(&rest[..digits])?, &rest[digits..]);
    match (rest, rest.strip_prefix("beta"), rest.strip_prefix("alpha")) {
        ("", ..) => Some((2, major, 0)),
        (_, Some(minor), _) => Some((1, major, number(minor)?)),
        (_, _, Some(minor)) => Some((0, major, number(minor)?)),
        _ => None,
    }
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

fn api_group(group: &str, versions: &Versions<'_>) -> Value {
    let one = |version: &str| json!({"groupVersion": group_version(group, version), "version": version});
    let all: Vec<Value> = versions.iter().map(|(version, _)| one(version)).collect();
    json!({"name": group, "versions": all, "preferredVersion": all[0]})
}

/// What is served below a resource: name and verbs.
pub(crate) fn subresources(info: &ResourceInfo) -> Vec<(&'static str, &'static [&'static str])> {
    let mut all: Vec<(&str, &[&str])> = Vec::new();
    if info.group.is_empty() && &*info.plural == "namespaces" {
        all.push(("finalize", &["update"]));
    }
    if info.status {
        all.push(("status", &["get", "patch", "update"]));
    }
    all
}

fn resource_list(group: &str, version: &str, infos: &[&ResourceInfo]) -> Value {
    let mut resources = Vec::new();
    for info in infos {
        let mut one = json!({
            "name": info.plural, "singularName": info.singular, "namespaced": info.namespaced, "kind": info.kind,
            "verbs": info.verbs,
        });
        if !info.short_names.is_empty() {
            one["shortNames"] = json!(info.short_names);
        }
        if !info.categories.is_empty() {
            one["categories"] = json!(info.categories);
        }
        if info.storage {
            one["storageVersionHash"] = storage_hash(group, version, &info.kind).into();
        }
        resources.push(one);
        resources.extend(subresources(info).into_iter().map(|(name, verbs)| {
            json!({
                "name": format!("{}/{name}", info.plural), "singularName": "", "namespaced": info.namespaced,
                "kind": info.kind, "verbs": verbs,
            })
        }));
    }
    json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version(group, version),
        "resources": resources,
    })
}

/// What the objects are stored as, for clients that migrate (apiserver `pkg/endpoints/discovery/storageversionhash.go`).
fn storage_hash(group: &str, version: &str, kind: &str) -> String {
    let hash = digest(&SHA256, format!("{group}/{version}/{kind}").as_bytes());
    STANDARD.encode(&hash.as_ref()[..8])
}

fn group_discovery(group: &str, versions: &Versions<'_>) -> Value {
    let version = |(version, infos): &(&str, Vec<&ResourceInfo>)| {
        let resources: Vec<Value> = infos.iter().map(|info| resource_discovery(info)).collect();
        json!({"version": version, "freshness": "Current", "resources": resources})
    };
    let metadata = if group.is_empty() {
        json!({})
    } else {
        json!({"name": group})
    };
    let versions: Vec<Value> = versions.iter().map(version).collect();
    json!({"metadata": metadata, "versions": versions})
}

fn resource_discovery(info: &ResourceInfo) -> Value {
    let kind = json!({"group": info.group, "version": info.version, "kind": info.kind});
    let mut one = json!({
        "resource": info.plural, "responseKind": kind, "singularResource": info.singular, "verbs": info.verbs,
        "scope": if info.namespaced { "Namespaced" } else { "Cluster" },
    });
    if !info.short_names.is_empty() {
        one["shortNames"] = json!(info.short_names);
    }
    if !info.categories.is_empty() {
        one["categories"] = json!(info.categories);
    }
    let below = subresources(info).into_iter();
    let below: Vec<Value> = below
        .map(|(name, verbs)| json!({"subresource": name, "responseKind": kind, "verbs": verbs}))
        .collect();
    if !below.is_empty() {
        one["subresources"] = below.into();
    }
    one
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use http::header::{ACCEPT, CONTENT_TYPE};
    use http_body_util::BodyExt;
    use setpoint_base::TraceContext;

    use super::*;
    use crate::request::{Identity, Query, Target};
    use crate::resources::Resources;
    use crate::testing::{corpus, resource};

    fn resources() -> Resources {
        Resources::new(vec![
            resource("", "v1", "namespaces", "Namespace", |r| {
                (r.namespaced, r.status, r.short_names) = (false, true, vec!["ns".into()]);
                r.verbs = &["create", "delete", "get", "list", "patch", "update", "watch"];
            }),
            resource("", "v1", "configmaps", "ConfigMap", |r| {
                r.short_names = vec!["cm".into()];
            }),
            resource("coordination.k8s.io", "v1", "leases", "Lease", |_| ()),
            resource("demo.example", "v1alpha1", "sites", "Site", |r| {
                (r.status, r.storage) = (true, false);
            }),
            resource("demo.example", "v2", "sites", "Site", |r| {
                (r.status, r.categories) = (true, vec!["all".into()]);
            }),
        ])
    }

    fn ask(
        discovery: &Discovery,
        resources: &Resources,
        path: &str,
        headers: HeaderMap,
    ) -> Option<(u16, HeaderMap, Value)> {
        let head = Head {
            connection: None,
            method: Method::GET,
            path: path.to_owned(),
            query: Query::parse(""),
            headers,
            identity: Identity::anonymous(),
            target: Target::Path,
            trace: TraceContext::random(),
        };
        let response = discovery.respond(&resources.snapshot(), &head)?;
        let (parts, body) = response.into_parts();
        let mut body = std::pin::pin!(body.collect());
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let std::task::Poll::Ready(Ok(body)) = body.as_mut().poll(&mut cx) else {
            panic!("discovery bodies are whole");
        };
        let value = serde_json::from_slice(&body.to_bytes()).unwrap_or(Value::Null);
        Some((parts.status.as_u16(), parts.headers, value))
    }

    fn get(path: &str) -> Value {
        ask(&Discovery::default(), &resources(), path, HeaderMap::new())
            .unwrap_or_else(|| panic!("{path} is not served"))
            .2
    }

    #[test]
    fn legacy_documents_say_of_our_resources_what_kubernetes_says() {
        let Some(theirs) = corpus("kubernetes/discovery/api__v1.json") else {
            return;
        };
        let theirs: Value = serde_json::from_slice(&theirs).unwrap();
        let ours = get("/api/v1");
        assert_eq!(ours["resources"].as_array().unwrap().len(), 4);
        for ours in ours["resources"].as_array().unwrap() {
            let theirs = theirs["resources"]
                .as_array()
                .unwrap()
                .iter()
                .find(|r| r["name"] == ours["name"]);
            assert_eq!(Some(ours), theirs);
        }
        let lease: Value = serde_json::from_slice(
            &corpus("kubernetes/discovery/apis__coordination.k8s.io__v1.json").unwrap(),
        )
        .unwrap();
        assert_eq!(get("/apis/coordination.k8s.io/v1"), lease);
    }

    #[test]
    fn groups_prefer_the_most_stable_and_newest_version() {
        let group = get("/apis/demo.example");
        assert_eq!(group["preferredVersion"]["groupVersion"], "demo.example/v2");
        assert_eq!(group["versions"][1]["version"], "v1alpha1");
        let list = get("/apis/");
        let names: Vec<_> = list["groups"]
            .as_array()
            .unwrap()
            .iter()
            .map(|g| g["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["coordination.k8s.io", "demo.example"]);
        assert_eq!(get("/api")["versions"], json!(["v1"]));
        let mut versions = [
            "v1", "v10", "v2", "v1beta1", "v2alpha1", "v11beta2", "foo1", "v1beta10", "foo10", "v3alpha1",
        ];
        versions.sort_by(|a, b| by_preference(a, b));
        // The order of Kubernetes' own documentation of version priority.
        assert_eq!(
            versions,
            [
                "v10", "v2", "v1", "v11beta2", "v1beta10", "v1beta1", "v3alpha1", "v2alpha1", "foo1", "foo10"
            ]
        );
    }

    fn v2_headers() -> HeaderMap {
        let accept = format!(
            "{AGGREGATED},application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
        );
        HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())])
    }

    #[test]
    fn aggregated_discovery_has_everything_and_an_etag_that_spares_the_body() {
        let (discovery, resources) = (Discovery::default(), resources());
        let (code, headers, body) = ask(&discovery, &resources, "/apis", v2_headers()).unwrap();
        assert_eq!((code, headers[CONTENT_TYPE].to_str().unwrap()), (200, AGGREGATED));
        assert_eq!(
            body["items"][1]["versions"][0]["resources"][0],
            json!({
                "resource": "sites", "scope": "Namespaced", "singularResource": "site", "categories": ["all"],
                "responseKind": {"group": "demo.example", "version": "v2", "kind": "Site"},
                "verbs": crate::resources::VERBS,
                "subresources": [{
                    "subresource": "status", "verbs": ["get", "patch", "update"],
                    "responseKind": {"group": "demo.example", "version": "v2", "kind": "Site"},
                }],
            })
        );
        let mut again = v2_headers();
        again.insert(IF_NONE_MATCH, headers[ETAG].clone());
        assert_eq!(
            ask(&discovery, &resources, "/apis", again.clone()).unwrap().0,
            304
        );
        resources.replace(resources.snapshot().all()[..3].to_vec());
        let (code, changed, body) = ask(&discovery, &resources, "/apis", again).unwrap();
        assert_eq!((code, body["items"].as_array().unwrap().len()), (200, 1));
        assert_ne!(changed[ETAG], headers[ETAG]);
    }

    #[test]
    fn the_old_aggregated_version_is_answered_with_the_legacy_documents() {
        let accept =
            "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        let headers = HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]);
        let (_, headers, body) = ask(&Discovery::default(), &resources(), "/apis", headers).unwrap();
        assert_eq!(
            (headers[CONTENT_TYPE].to_str().unwrap(), &body["kind"]),
            ("application/json", &json!("APIGroupList"))
        );
    }

    #[test]
    fn unknown_groups_and_versions_are_not_discoverys() {
        for path in ["/apis/nope", "/apis/demo.example/v3", "/api/v2", "/apiz"] {
            assert!(
                ask(&Discovery::default(), &resources(), path, HeaderMap::new()).is_none(),
                "{path}"
            );
        }
    }
}
