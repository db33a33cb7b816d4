//! OpenAPI v3: an index with a hash for every group version, and a document for each, made when it is first asked for
//! (kube-openapi `pkg/handler3/handler.go`). Definitions that nobody asks about cost their hash and nothing else.
//!
//! Version 2 is there in name only, a document without definitions: kubectl since 1.27 looks there for kinds that
//! version 3 does not have, and is content to find none, but not to be refused.

mod paths;
mod schemas;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, ETAG, EXPIRES, HeaderValue, IF_NONE_MATCH, LOCATION, VARY};
use http::{Method, Response, StatusCode};
use parking_lot::Mutex;
use ring::digest::{Context, SHA256};
use serde_json::{Map, Value, json};

use crate::answer;
use crate::body::ApiBody;
use crate::negotiate::{Answer, negotiate};
use crate::resources::{ResourceInfo, Snapshot};
use crate::server::Head;

/// Documents kept, in bytes. With more, the one asked for longest ago is made anew when it is wanted again.
const KEPT_BYTES_MAX: usize = 8 << 20;
/// Life of a document under its hash: upstream's year, from the epoch of nobody's clock.
const NEVER: &str = "Fri, 31 Dec 2100 00:00:00 GMT";

/// What is served under `/openapi`, cached until the resources change.
#[derive(Debug, Default)]
pub(crate) struct OpenApi(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    generation: u64,
    index: Bytes,
    groups: HashMap<String, Arc<Group>>,
    /// Made documents, newest last.
    kept: VecDeque<(String, Bytes)>,
}

/// One group version.
#[derive(Debug)]
struct Group {
    infos: Vec<Arc<ResourceInfo>>,
    hash: String,
}

impl OpenApi {
    /// Answers when the path is one of OpenAPI's.
    pub(crate) fn respond(&self, snapshot: &Snapshot, head: &Head) -> Option<Response<ApiBody>> {
        let rest = head.path.strip_prefix("/openapi/")?.trim_end_matches('/');
        if !matches!(head.method, Method::GET | Method::HEAD) {
            return Some(answer::text(
                StatusCode::METHOD_NOT_ALLOWED,
                "405: Method Not Allowed",
            ));
        }
        if rest == "v2" && wants_gnostic(head) {
            return Some(answer::bytes(StatusCode::OK, GNOSTIC, version_two_protobuf()));
        }
        let accepted = match negotiate(&head.headers, &head.query, Answer::Object, false) {
            Ok(accepted) => accepted,
            Err(status) => return Some(answer::status(&status)),
        };
        let mut response = match rest {
            "v2" => answer::document(accepted, &version_two()),
            "v3" => answer::document(accepted, &self.state(snapshot).index),
            _ => {
                let path = rest.strip_prefix("v3/")?;
                let group = self.state(snapshot).groups.get(path).cloned()?;
                let asked = head.query.get("hash");
                if asked.is_some_and(|asked| asked != group.hash) {
                    return Some(moved(path, &group.hash));
                }
                let known = head.headers.get_all(IF_NONE_MATCH).iter();
                if known
                    .into_iter()
                    .any(|tag| tag.as_bytes() == quoted(&group.hash).as_bytes())
                {
                    answer::bytes(StatusCode::NOT_MODIFIED, "application/json", Bytes::new())
                } else {
                    answer::document(accepted, &self.document(path, &group))
                }
                .with_hash(&group.hash, asked.is_some())
            }
        };
        response
            .headers_mut()
            .insert(VARY, HeaderValue::from_static("Accept"));
        Some(response)
    }

    /// The document of a group version, made outside the lock: two who ask at once may both make it.
    fn document(&self, path: &str, group: &Group) -> Bytes {
        let key = format!("{path}?{}", group.hash);
        let mut state = self.0.lock();
        if let Some(at) = state.kept.iter().position(|(kept, _)| *kept == key)
            && let Some(found) = state.kept.remove(at)
        {
            state.kept.push_back(found.clone());
            return found.1;
        }
        drop(state);
        let made = document(group);
        let mut state = self.0.lock();
        state.kept.push_back((key, made.clone()));
        while state.kept.len() > 1
            && state.kept.iter().map(|(_, body)| body.len()).sum::<usize>() > KEPT_BYTES_MAX
        {
            state.kept.pop_front();
        }
        made
    }

    /// The state for this snapshot; groups whose resources are the same keep their hash.
    fn state(&self, snapshot: &Snapshot) -> parking_lot::MutexGuard<'_, State> {
        let mut state = self.0.lock();
        if state.generation == snapshot.generation() {
            return state;
        }
        let mut groups: BTreeMap<String, Vec<Arc<ResourceInfo>>> = BTreeMap::new();
        for info in snapshot.all() {
            groups.entry(path_of(info)).or_default().push(Arc::clone(info));
        }
        let old = std::mem::take(&mut state.groups);
        let same = |a: &[Arc<ResourceInfo>], b: &[Arc<ResourceInfo>]| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
        };
        let groups = groups.into_iter().map(|(path, infos)| match old.get(&path) {
            Some(group) if same(&group.infos, &infos) => (path, Arc::clone(group)),
            _ => (path, Arc::new(Group::new(infos))),
        });
        state.groups = groups.collect();
        state.index = index(&state.groups);
        state.generation = snapshot.generation();
        let State { groups, kept, .. } = &mut *state;
        kept.retain(|(key, _)| {
            key.split_once('?')
                .is_some_and(|(path, hash)| groups.get(path).is_some_and(|group| group.hash == hash))
        });
        state
    }
}

trait WithHash {
    fn with_hash(self, hash: &str, asked: bool) -> Self;
}

impl WithHash for Response<ApiBody> {
    /// Under its hash a document never changes.
    fn with_hash(mut self, hash: &str, asked: bool) -> Self {
        let headers = self.headers_mut();
        if let Ok(etag) = HeaderValue::from_str(&quoted(hash)) {
            headers.insert(ETAG, etag);
        }
        if asked {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
            headers.insert(EXPIRES, HeaderValue::from_static(NEVER));
        } else {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        }
        self
    }
}

fn quoted(hash: &str) -> String {
    format!("\"{hash}\"")
}

/// A hash of the past leads to the document of the present.
fn moved(path: &str, hash: &str) -> Response<ApiBody> {
    let mut response = answer::text(StatusCode::MOVED_PERMANENTLY, Bytes::new());
    if let Ok(location) = HeaderValue::from_str(&url(path, hash)) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

fn url(path: &str, hash: &str) -> String {
    format!("/openapi/v3/{path}?hash={hash}")
}

/// `api/v1`, `apis/coordination.k8s.io/v1`.
fn path_of(info: &ResourceInfo) -> String {
    match &*info.group {
        "" => format!("api/{}", info.version),
        group => format!("apis/{group}/{}", info.version),
    }
}

fn index(groups: &HashMap<String, Arc<Group>>) -> Bytes {
    let entry = |(path, group): (&String, &Arc<Group>)| {
        (path.clone(), json!({"serverRelativeURL": url(path, &group.hash)}))
    };
    let paths: Map<String, Value> = groups.iter().map(entry).collect();
    json!({ "paths": paths }).to_string().into()
}

impl Group {
    /// The hash changes with everything the document is made of, and with the program that makes it.
    fn new(infos: Vec<Arc<ResourceInfo>>) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(env!("CARGO_PKG_VERSION").as_bytes());
        for info in &infos {
            let shape = (
                &info.plural,
                &info.kind,
                &info.list_kind,
                info.namespaced,
                info.verbs,
                info.status,
            );
            context.update(format!("{shape:?}").as_bytes());
            context.update(&schemas::fingerprint(info));
        }
        let hash = context.finish().as_ref()[..16]
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect();
        Self { infos, hash }
    }
}

fn document(group: &Group) -> Bytes {
    let (mut all_paths, mut components) = (Map::new(), Map::new());
    for info in &group.infos {
        let names = schemas::add(info, &mut components);
        paths::add(info, &names, &mut all_paths);
    }
    let document = json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": all_paths,
        "components": {"schemas": components},
    });
    document.to_string().into()
}

/// The protobuf that client-go decodes version 2 from, as it is asked for and as the answer must call it: `@` may not
/// stand in a media type.
const GNOSTIC_ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const GNOSTIC: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

fn wants_gnostic(head: &Head) -> bool {
    let asked = |accept: &HeaderValue| {
        [GNOSTIC_ASKED, GNOSTIC]
            .iter()
            .any(|name| accept.as_bytes().starts_with(name.as_bytes()))
    };
    head.headers.get_all(ACCEPT).iter().any(asked)
}

/// `Document{swagger = 1, info = 2 {title = 1, version = 2}}` of gnostic's `openapiv2/OpenAPIv2.proto`.
fn version_two_protobuf() -> Bytes {
    fn field(number: u8, value: &[u8]) -> Vec<u8> {
        let length = u8::try_from(value.len()).expect("the few words of this document are short");
        [&[number << 3 | 2, length], value].concat()
    }
    let info = [field(1, b"Kubernetes"), field(2, b"unversioned")].concat();
    [field(1, b"2.0"), field(2, &info)].concat().into()
}

fn version_two() -> Bytes {
    let document = json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "unversioned", "description": "Use /openapi/v3."},
        "paths": {},
        "definitions": {},
    });
    document.to_string().into()
}
