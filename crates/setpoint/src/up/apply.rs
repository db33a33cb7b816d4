//! Brings manifests into the API server: create what is not there, merge what changed.
//!
//! A manifest that is the same as when it was last applied is left alone, whatever became of the object since: what a
//! user edited survives a restart of `up`. A changed manifest is merged as `kubectl apply` does.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::Value;
use setpoint_base::TraceContext;

use super::merge;
use super::project::Manifest;
use crate::loopback::{Loopback, MERGE_PATCH, Refusal};

/// Tries while somebody else writes the same object.
const TRIES: u32 = 5;
/// How long a new definition may take until its resource is served.
const ESTABLISH_TIMEOUT: Duration = Duration::from_secs(10);
const ESTABLISH_POLL: Duration = Duration::from_millis(5);

/// What became of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Created,
    Configured,
    Unchanged,
}

/// A resource as discovery describes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Resource {
    /// `/api/v1` or `/apis/<group>/<version>`.
    pub(crate) base: String,
    pub(crate) plural: String,
    pub(crate) kind: String,
    pub(crate) namespaced: bool,
    /// Whether it has a status that somebody is expected to write.
    pub(crate) status: bool,
}

impl Resource {
    /// The path of all objects.
    pub(crate) fn path(&self) -> String {
        format!("{}/{}", self.base, self.plural)
    }

    fn collection(&self, namespace: &str) -> String {
        if self.namespaced {
            format!("{}/namespaces/{namespace}/{}", self.base, self.plural)
        } else {
            self.path()
        }
    }
}

/// A manifest that could not be applied.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) file: PathBuf,
    pub(crate) subject: String,
    pub(crate) why: Refusal,
}

impl Failure {
    fn new(manifest: &Manifest, why: Refusal) -> Self {
        Self {
            file: manifest.file.clone(),
            subject: format!("{} {}", manifest.kind(), manifest.name()),
            why,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}: {}", self.file.display(), self.subject, self.why)
    }
}

/// Applies manifests one after the other.
pub(crate) struct Applier {
    api: Loopback,
    resources: HashMap<(String, String), Resource>,
}

impl Applier {
    pub(crate) fn new(api: Loopback) -> Self {
        Self {
            api,
            resources: HashMap::new(),
        }
    }

    /// Finds the resource of a manifest by discovery.
    pub(crate) async fn find(&mut self, manifest: &Manifest) -> Result<Resource, Failure> {
        self.resource(manifest)
            .await
            .map_err(|why| Failure::new(manifest, why))
    }

    /// Applies one manifest; a definition is waited for until its resource is served. Returns the revision since which
    /// the object is as the manifest says, too.
    pub(crate) async fn apply(
        &self,
        manifest: &Manifest,
        resource: &Resource,
    ) -> Result<(Outcome, u64), Failure> {
        let fail = |why: Refusal| Failure::new(manifest, why);
        let outcome = self.write(manifest, resource).await.map_err(fail)?;
        if manifest.kind() == "CustomResourceDefinition" {
            let path = format!("{}/{}", resource.path(), manifest.name());
            self.established(&path).await.map_err(fail)?;
        }
        Ok(outcome)
    }

    async fn resource(&mut self, manifest: &Manifest) -> Result<Resource, Refusal> {
        let key = (manifest.api_version().to_owned(), manifest.kind().to_owned());
        if let Some(resource) = self.resources.get(&key) {
            return Ok(resource.clone());
        }
        let base = match key.0.contains('/') {
            true => format!("/apis/{}", key.0),
            false => format!("/api/{}", key.0),
        };
        let unknown = || Refusal {
            code: 404,
            message: format!(
                "no kind {} in {}: is its definition among the manifests?",
                key.1, key.0
            ),
        };
        let list = self.api.get(&base).await;
        let list = list.map_err(|refusal| {
            if refusal.is(StatusCode::NOT_FOUND) {
                unknown()
            } else {
                refusal
            }
        })?;
        let resource = find(&list, &base, &key.1).ok_or_else(unknown)?;
        self.resources.insert(key, resource.clone());
        Ok(resource)
    }

    async fn write(&self, manifest: &Manifest, resource: &Resource) -> Result<(Outcome, u64), Refusal> {
        let namespace = match manifest.namespace() {
            "" => "default",
            named => named,
        };
        let collection = resource.collection(namespace);
        let path = format!("{collection}/{}", manifest.name());
        let (wanted, note) = merge::noted(&manifest.object);
        let trace = TraceContext::random();
        let mut last = Refusal {
            code: 409,
            message: "somebody else keeps changing the object".to_owned(),
        };
        for _ in 0..TRIES {
            let result = match self.api.get(&path).await {
                Ok(live) => self.merge(&path, &wanted, &note, &live, trace).await,
                Err(refusal) if refusal.is(StatusCode::NOT_FOUND) => {
                    let path = format!("{collection}?fieldManager=setpoint-up&fieldValidation=Strict");
                    let body = Some(("application/json", &wanted));
                    let created = self.api.call(Method::POST, &path, body, Some(trace)).await;
                    created.map(|object| (Outcome::Created, revision(&object)))
                }
                Err(refusal) => Err(refusal),
            };
            match result {
                Err(refusal) if refusal.is(StatusCode::CONFLICT) => last = refusal,
                result => return result,
            }
        }
        Err(last)
    }

    async fn merge(
        &self,
        path: &str,
        wanted: &Value,
        note: &str,
        live: &Value,
        trace: TraceContext,
    ) -> Result<(Outcome, u64), Refusal> {
        let annotations = &live["metadata"]["annotations"];
        let before = annotations[merge::LAST_APPLIED].as_str().unwrap_or_default();
        let unchanged = (Outcome::Unchanged, revision(live));
        if before == note {
            return Ok(unchanged);
        }
        let before = serde_json::from_str(before).unwrap_or(Value::Null);
        let Some(patch) = merge::three_way(&before, wanted, live) else {
            return Ok(unchanged);
        };
        let path = format!("{path}?fieldManager=setpoint-up&fieldValidation=Strict");
        let body = Some((MERGE_PATCH, &patch));
        let merged = self.api.call(Method::PATCH, &path, body, Some(trace)).await?;
        let same = merged["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"];
        let outcome = if same {
            Outcome::Unchanged
        } else {
            Outcome::Configured
        };
        Ok((outcome, revision(&merged)))
    }

    async fn established(&self, path: &str) -> Result<(), Refusal> {
        let wait = async {
            loop {
                let definition = self.api.get(path).await?;
                let conditions = definition["status"]["conditions"].as_array();
                let mut conditions = conditions.into_iter().flatten();
                if conditions.any(|one| one["type"] == "Established" && one["status"] == "True") {
                    return Ok(());
                }
                tokio::time::sleep(ESTABLISH_POLL).await;
            }
        };
        tokio::time::timeout(ESTABLISH_TIMEOUT, wait)
            .await
            .unwrap_or_else(|_| {
                Err(Refusal {
                    code: 504,
                    message: format!(
                        "not established after {} s: see its status.conditions",
                        ESTABLISH_TIMEOUT.as_secs()
                    ),
                })
            })
    }
}

fn revision(object: &Value) -> u64 {
    let revision = object["metadata"]["resourceVersion"].as_str();
    revision.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Finds the resource of a kind in an `APIResourceList`.
fn find(list: &Value, base: &str, kind: &str) -> Option<Resource> {
    let resources = list["resources"].as_array()?;
    let name = |resource: &Value| resource["name"].as_str().unwrap_or_default().to_owned();
    let resource = resources
        .iter()
        .find(|resource| resource["kind"] == kind && !name(resource).contains('/'))?;
    let plural = name(resource);
    let status = format!("{plural}/status");
    Some(Resource {
        base: base.to_owned(),
        kind: kind.to_owned(),
        namespaced: resource["namespaced"].as_bool().unwrap_or_default(),
        status: resources.iter().any(|resource| name(resource) == status),
        plural,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_kind_is_found_with_its_status_subresource() {
        let list = json!({"resources": [
            {"name": "sites/status", "kind": "Site", "namespaced": true},
            {"name": "sites", "kind": "Site", "namespaced": true},
            {"name": "zones", "kind": "Zone", "namespaced": false},
        ]});
        let site = find(&list, "/apis/demo/v1", "Site").unwrap();
        assert_eq!(
            (site.plural.as_str(), site.status, site.namespaced),
            ("sites", true, true)
        );
        assert_eq!(site.collection("a"), "/apis/demo/v1/namespaces/a/sites");
        let zone = find(&list, "/apis/demo/v1", "Zone").unwrap();
        assert_eq!(
            (zone.collection("a").as_str(), zone.status),
            ("/apis/demo/v1/zones", false)
        );
        assert_eq!(find(&list, "/apis/demo/v1", "Other"), None);
    }
}
