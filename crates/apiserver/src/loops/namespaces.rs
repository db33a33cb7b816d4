//! What every namespace has, and how one ends
//! (kube-controller-manager `pkg/controller/{namespace,serviceaccount,certificates/rootcacertpublisher}`).
//!
//! A living namespace gets the service account `default` and the ConfigMap `kube-root-ca.crt`; both come back when they
//! are deleted. One that is being deleted is emptied, resource by resource; while objects wait for their finalizers the
//! conditions say which, and when the last is gone the finalizer `kubernetes` is taken off, which lets it go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::{Map, Value, json};
use setpoint_apimachinery::Status;
use setpoint_base::{Stop, TaskGroup};
use setpoint_runtime::informer::Event;
use setpoint_runtime::workqueue::{LimiterOptions, WorkQueue};
use setpoint_runtime::{Client, ObjectKey, Resource, SharedInformer, key_of};
use setpoint_store::types::{KeyRange, Range};

use super::front::{Front, MERGE, METADATA_LIST};
use crate::resources::ResourceInfo;
use crate::server::Server;

const NAMESPACES: Resource = Resource::cluster("", "v1", "Namespace", "namespaces");
const SERVICE_ACCOUNTS: Resource = Resource::namespaced("", "v1", "ServiceAccount", "serviceaccounts");
const CONFIG_MAPS: Resource = Resource::namespaced("", "v1", "ConfigMap", "configmaps");

/// The service account that every namespace has.
const ACCOUNT: &str = "default";
/// The ConfigMap that every namespace has.
const ROOT_CA: &str = "kube-root-ca.crt";
/// The finalizer in `spec` that stands for a namespace's content.
const FINALIZER: &str = "kubernetes";

/// Namespaces worked on at once.
const WORKERS: usize = 2;
/// Waits between looks at a namespace that does not empty, and after errors.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));
/// Objects whose finalizers are counted for the condition, a resource.
const COUNTED_MAX: usize = 500;

/// The loop.
pub(super) struct Namespaces {
    server: Arc<Server>,
    front: Front,
    queue: WorkQueue<Arc<str>>,
    namespaces: SharedInformer,
    accounts: SharedInformer,
    config_maps: SharedInformer,
}

/// What is left of a namespace's content.
#[derive(Debug, Default, PartialEq, Eq)]
struct Remains {
    /// Objects by resource, such as `sites.demo.example`.
    objects: BTreeMap<String, usize>,
    /// How many objects wait for each finalizer.
    finalizers: BTreeMap<String, usize>,
    /// What could not be deleted.
    failures: Vec<String>,
}

impl Namespaces {
    pub(super) fn new(server: Arc<Server>, front: Front, client: &Client) -> Self {
        let named = |resource, name: &str| {
            SharedInformer::builder(client, resource)
                .fields(&format!("metadata.name={name}"))
                .build()
        };
        let limits = LimiterOptions {
            base: RETRY.0,
            max: RETRY.1,
            bucket: None,
        };
        Self {
            queue: WorkQueue::new(
                "namespaces",
                limits,
                &setpoint_runtime::metrics::RuntimeMetrics::default(),
            ),
            namespaces: SharedInformer::builder(client, &NAMESPACES).build(),
            accounts: named(&SERVICE_ACCOUNTS, ACCOUNT),
            config_maps: named(&CONFIG_MAPS, ROOT_CA),
            server,
            front,
        }
    }

    /// Runs until `stop`; a namespace already begun is finished with.
    pub(super) async fn run(self, stop: Stop) {
        let tasks = TaskGroup::new(&stop);
        let by_name = |event: &Event| key_of(event.object()).name().into();
        let by_namespace = |event: &Event| key_of(event.object()).namespace().into();
        let this = Arc::new(self);
        this.feed(&tasks, &this.namespaces, by_name);
        this.feed(&tasks, &this.accounts, by_namespace);
        if this.server.options.root_ca.is_some() {
            this.feed(&tasks, &this.config_maps, by_namespace);
        }
        for _ in 0..WORKERS {
            let worker = Arc::clone(&this);
            tasks.spawn(async move { worker.work().await });
        }
        stop.cancelled().await;
        this.queue.shut_down();
        tasks.shutdown(Duration::from_secs(5)).await;
    }

    fn feed(
        &self,
        tasks: &TaskGroup,
        informer: &SharedInformer,
        namespace_of: impl Fn(&Event) -> Arc<str> + Send + 'static,
    ) {
        let queue = self.queue.clone();
        if let Err(error) = informer.add_handler(move |event| queue.add(namespace_of(event))) {
            tracing::error!(%error, "namespaces are not looked after");
        }
        let (informer, stop) = (informer.clone(), tasks.stop().clone());
        tasks.spawn(async move { informer.run(stop).await });
    }

    async fn work(&self) {
        while let Some(name) = self.queue.get().await {
            match self.reconcile(&name).await {
                Ok(true) => self.queue.forget(&name),
                Ok(false) => drop(self.queue.add_rate_limited(name.clone())),
                Err(status) => {
                    let wait = self.queue.add_rate_limited(name.clone());
                    tracing::warn!(namespace = %name, error = %status.message, ?wait, "namespace not settled");
                }
            }
            self.queue.done(&name);
        }
    }

    /// One look at a namespace; whether it is settled.
    async fn reconcile(&self, name: &str) -> Result<bool, Status> {
        let namespace = match self
            .front
            .get(&format!("/api/v1/namespaces/{name}"), "application/json")
            .await
        {
            Err(status) if status.is_not_found() => return Ok(true),
            found => found?,
        };
        if namespace["metadata"]["deletionTimestamp"].is_null() {
            self.provide(name).await?;
            return Ok(true);
        }
        let finalizers = namespace["spec"]["finalizers"].as_array();
        if !finalizers
            .into_iter()
            .flatten()
            .any(|finalizer| finalizer == FINALIZER)
        {
            return Ok(true);
        }
        let remains = self.empty(name).await;
        if remains == Remains::default() {
            self.finalize(name, namespace).await?;
            return Ok(true);
        }
        self.report(name, &namespace, &remains).await?;
        Ok(false)
    }

    /// Makes what every namespace has, where it is missing.
    async fn provide(&self, namespace: &str) -> Result<(), Status> {
        if self
            .accounts
            .store()
            .get(&ObjectKey::new(namespace, ACCOUNT))
            .is_none()
        {
            let account =
                json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT}});
            self.create(namespace, "serviceaccounts", &account).await?;
        }
        let Some(ca) = &self.server.options.root_ca else {
            return Ok(());
        };
        let data = json!({"ca.crt": &**ca});
        match self.config_maps.store().get(&ObjectKey::new(namespace, ROOT_CA)) {
            None => {
                let about =
                    "The CA that signs this API server's certificate, for clients inside the cluster.";
                let metadata = json!({"name": ROOT_CA, "annotations": {"kubernetes.io/description": about}});
                let map =
                    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data});
                self.create(namespace, "configmaps", &map).await
            }
            Some(present)
                if present
                    .field("data")
                    .and_then(|raw| serde_json::from_slice(raw).ok())
                    != Some(data.clone()) =>
            {
                // The map is replaced: keys that others added go.
                let path = format!("/api/v1/namespaces/{namespace}/configmaps/{ROOT_CA}");
                let patch = json!([{"op": "add", "path": "/data", "value": data}]);
                let patched = self
                    .front
                    .send(Method::PATCH, &path, "application/json-patch+json", Some(&patch))
                    .await;
                ignore(patched, Status::is_not_found)
            }
            Some(_) => Ok(()),
        }
    }

    async fn create(&self, namespace: &str, plural: &str, object: &Value) -> Result<(), Status> {
        let path = format!("/api/v1/namespaces/{namespace}/{plural}");
        let created = self
            .front
            .send(Method::POST, &path, "application/json", Some(object))
            .await;
        // The namespace may have gone, or begun to, since it was read.
        ignore(created, |status| {
            status.is_already_exists() || status.is_not_found() || status.is_forbidden()
        })
    }

    /// Deletes everything in the namespace that can be deleted now; what remains.
    async fn empty(&self, namespace: &str) -> Remains {
        let mut remains = Remains::default();
        let snapshot = self.server.resources.snapshot();
        for info in snapshot
            .all()
            .iter()
            .filter(|info| info.namespaced && info.storage)
        {
            let resource = info.group_resource().to_string();
            let emptied = async {
                if self.count(info, namespace).await? == 0 {
                    return Ok(());
                }
                let path = collection(info, namespace);
                self.front
                    .send(Method::DELETE, &path, "application/json", None)
                    .await?;
                let left = self.count(info, namespace).await?;
                if left > 0 {
                    remains.objects.insert(resource.clone(), left);
                    let path = format!("{path}?limit={COUNTED_MAX}");
                    count_finalizers(
                        &self.front.get(&path, METADATA_LIST).await?,
                        &mut remains.finalizers,
                    );
                }
                Ok::<_, Status>(())
            };
            if let Err(status) = emptied.await {
                remains.failures.push(format!("{resource}: {}", status.message));
            }
        }
        remains
    }

    /// Objects of the resource in the namespace, counted by the store's index without reading one.
    async fn count(&self, info: &ResourceInfo, namespace: &str) -> Result<usize, Status> {
        let mut range = Range::of(KeyRange::prefix(&info.home.key_prefix(namespace)));
        range.count_only = true;
        let counted = self
            .server
            .store
            .range(&range)
            .await
            .map_err(|error| crate::store_error::store_status(&error))?;
        Ok(usize::try_from(counted.count).unwrap_or(0))
    }

    async fn finalize(&self, name: &str, mut namespace: Value) -> Result<(), Status> {
        if let Some(finalizers) = namespace["spec"]["finalizers"].as_array_mut() {
            finalizers.retain(|finalizer| finalizer != FINALIZER);
        }
        let path = format!("/api/v1/namespaces/{name}/finalize");
        let finalized = self
            .front
            .send(Method::PUT, &path, "application/json", Some(&namespace))
            .await;
        ignore(finalized, Status::is_not_found)
    }

    /// Says in the conditions what the namespace waits for.
    async fn report(&self, name: &str, namespace: &Value, remains: &Remains) -> Result<(), Status> {
        let present = namespace["status"]["conditions"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let now = self.server.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let wanted = conditions(remains, present, &now);
        if wanted == present {
            return Ok(());
        }
        let patch = json!({"status": {"conditions": wanted}});
        let patched = self
            .front
            .send(
                Method::PATCH,
                &format!("/api/v1/namespaces/{name}/status"),
                MERGE,
                Some(&patch),
            )
            .await;
        ignore(patched, Status::is_not_found)
    }
}

fn collection(info: &ResourceInfo, namespace: &str) -> String {
    let (version, plural) = (&info.version, &info.plural);
    match &*info.group {
        "" => format!("/api/{version}/namespaces/{namespace}/{plural}"),
        group => format!("/apis/{group}/{version}/namespaces/{namespace}/{plural}"),
    }
}

fn count_finalizers(list: &Value, counts: &mut BTreeMap<String, usize>) {
    for item in list["items"].as_array().into_iter().flatten() {
        for finalizer in item["metadata"]["finalizers"].as_array().into_iter().flatten() {
            *counts
                .entry(finalizer.as_str().unwrap_or_default().to_owned())
                .or_default() += 1;
        }
    }
}

fn ignore(result: Result<Value, Status>, expected: impl FnOnce(&Status) -> bool) -> Result<(), Status> {
    match result {
        Err(status) if !expected(&status) => Err(status),
        _ => Ok(()),
    }
}

/// Upstream's five conditions (`pkg/controller/namespace/deletion/status_condition_utils.go`), with the times of those
/// that did not change.
fn conditions(remains: &Remains, present: &[Value], now: &str) -> Vec<Value> {
    let listed = |counts: &BTreeMap<String, usize>, words: &str| {
        counts
            .iter()
            .map(|(what, n)| format!("{what} {words} {n} resource instances"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let failure = (!remains.failures.is_empty()).then(|| {
        (
            "ContentDeletionFailed",
            format!(
                "Failed to delete all resource types, {} remaining: {}",
                remains.failures.len(),
                remains.failures.join(", ")
            ),
        )
    });
    let content = (!remains.objects.is_empty()).then(|| {
        (
            "SomeResourcesRemain",
            format!(
                "Some resources are remaining: {}",
                listed(&remains.objects, "has")
            ),
        )
    });
    let finalizers = (!remains.finalizers.is_empty()).then(|| {
        (
            "SomeFinalizersRemain",
            format!(
                "Some content in the namespace has finalizers remaining: {}",
                listed(&remains.finalizers, "in")
            ),
        )
    });
    let rows = [
        (
            "NamespaceDeletionDiscoveryFailure",
            None,
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            failure,
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            content,
            "ContentRemoved",
            "All content successfully removed",
        ),
        (
            "NamespaceFinalizersRemaining",
            finalizers,
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
        ),
    ];
    let condition = |(kind, problem, reason, message): (&str, Option<(&str, String)>, &str, &str)| {
        let (status, reason, message) = match problem {
            Some((reason, message)) => ("True", reason.to_owned(), message),
            None => ("False", reason.to_owned(), message.to_owned()),
        };
        let before = present
            .iter()
            .find(|condition| condition["type"] == kind && condition["status"] == status);
        let since = before
            .and_then(|condition| condition["lastTransitionTime"].as_str())
            .unwrap_or(now);
        let fields = [
            ("type", kind),
            ("status", status),
            ("lastTransitionTime", since),
            ("reason", &reason),
            ("message", &message),
        ];
        Value::Object(
            fields
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v.into()))
                .collect::<Map<_, _>>(),
        )
    };
    rows.into_iter().map(condition).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_name_what_remains_and_keep_the_time_of_what_did_not_change() {
        let mut remains = Remains::default();
        let clear = conditions(&remains, &[], "t0");
        assert!(
            clear
                .iter()
                .all(|condition| condition["status"] == "False" && condition["lastTransitionTime"] == "t0")
        );
        remains.objects.insert("sites.demo.example".to_owned(), 2);
        remains.finalizers.insert("demo.example/port".to_owned(), 1);
        let waiting = conditions(&remains, &clear, "t1");
        let row = |at: usize| {
            ["type", "status", "lastTransitionTime", "message"].map(|key| waiting[at][key].as_str().unwrap())
        };
        assert_eq!(row(2)[1..3], ["False", "t0"]);
        assert_eq!(
            row(3),
            [
                "NamespaceContentRemaining",
                "True",
                "t1",
                "Some resources are remaining: sites.demo.example has 2 resource instances"
            ]
        );
        assert_eq!(
            row(4)[3],
            "Some content in the namespace has finalizers remaining: demo.example/port in 1 resource instances"
        );
        assert_eq!(conditions(&remains, &waiting, "t2"), waiting);
    }
}
