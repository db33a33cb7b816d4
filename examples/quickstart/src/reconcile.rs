//! Makes what is served match one `Site`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::json;
use setpoint_apimachinery::Encoded;
use setpoint_base::{SystemClock, WallClock};
use setpoint_runtime::client::{PatchKind, decode};
use setpoint_runtime::conditions::{self, Condition};
use setpoint_runtime::controller::OrTerminal;
use setpoint_runtime::events::EventKind;
use setpoint_runtime::finalizer::{self, Phase};
use setpoint_runtime::{Context, ObjectKey, Outcome, ReconcileError, Request, Resource};

use crate::page;
use crate::serve::Sites;

/// The kind that `crd.yaml` defines.
pub(crate) const SITES: Resource = Resource::namespaced("demo.setpoint.dev", "v1", "Site", "sites");
/// What sites may include.
pub(crate) const CONFIG_MAPS: Resource = Resource::namespaced("", "v1", "ConfigMap", "configmaps");

/// Keeps a deleted site's object until its port is free.
const FINALIZER: &str = "demo.setpoint.dev/port";
/// When to try a port again that another program has.
const PORT_RETRY: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
struct Site {
    metadata: Metadata,
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    generation: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    port: u16,
    #[serde(default)]
    title: String,
    html: String,
    config_map: Option<String>,
}

#[derive(Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    observed_generation: i64,
    conditions: Vec<Condition>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ConfigMap {
    data: BTreeMap<String, String>,
}

/// Why the newest edit of a site cannot be served.
struct Problem {
    /// For programs: one CamelCase word.
    reason: &'static str,
    /// For whoever made the edit.
    message: String,
    /// When to try again even if nobody edits anything.
    retry: Option<Duration>,
}

impl Problem {
    fn new(reason: &'static str, message: &dyn ToString) -> Self {
        Self {
            reason,
            message: message.to_string(),
            retry: None,
        }
    }
}

/// What is served, and which sites use which ConfigMap.
#[derive(Default)]
pub(crate) struct Operator {
    sites: Sites,
    users: Mutex<HashMap<ObjectKey, BTreeSet<String>>>,
}

impl Operator {
    /// The sites that were last seen to use a ConfigMap.
    pub(crate) fn using(&self, config_map: &Encoded) -> Vec<Request> {
        let header = config_map.header();
        let users = self.users.lock();
        let names = users.get(&ObjectKey::new(&header.namespace, &header.name));
        let requests = names.into_iter().flatten();
        requests
            .map(|name| Request::new(&header.namespace, name))
            .collect()
    }

    /// Closes all ports.
    pub(crate) async fn close(&self) {
        self.sites.close_all().await;
    }

    /// Called for every change of a site or of a ConfigMap it uses, and whenever the runtime sees fit.
    pub(crate) async fn reconcile(
        &self,
        request: Request,
        context: Context,
    ) -> Result<Outcome, ReconcileError> {
        let key = request.to_string();
        let Some(object) = context.object() else {
            self.sites.close(&key).await;
            return Ok(Outcome::Done);
        };
        match finalizer::enter(&context.api(), &object, FINALIZER).await? {
            Phase::Live => (),
            Phase::Left => return Ok(Outcome::Done),
            Phase::Leaving => {
                self.sites.close(&key).await;
                self.uses(&request, None);
                tracing::info!(site = key, "closed");
                finalizer::leave(&context.api(), &object, FINALIZER).await?;
                return Ok(Outcome::Done);
            }
        }
        let site: Site = decode(&object).or_terminal()?;
        let result = self.publish(&request, &site.spec, &context).await;
        self.report(&object, &site, &result, &context).await?;
        Ok(match result.err().and_then(|problem| problem.retry) {
            Some(wait) => Outcome::RequeueAfter(wait),
            None => Outcome::Done,
        })
    }

    /// Renders and serves the page. When that fails, what was served before still is.
    async fn publish(&self, request: &Request, spec: &Spec, context: &Context) -> Result<(), Problem> {
        let config = self.config(request, spec.config_map.as_deref(), context)?;
        let page = page::render(&spec.title, &spec.html, &config)
            .map_err(|error| Problem::new("InvalidTemplate", &error))?;
        let served = self.sites.serve(&request.to_string(), spec.port, page).await;
        served.map_err(|error| Problem {
            retry: Some(PORT_RETRY),
            ..Problem::new("PortTaken", &format!("port {}: {error}", spec.port))
        })
    }

    fn config(
        &self,
        request: &Request,
        name: Option<&str>,
        context: &Context,
    ) -> Result<BTreeMap<String, String>, Problem> {
        let Some(name) = name else {
            self.uses(request, None);
            return Ok(BTreeMap::new());
        };
        let key = ObjectKey::new(request.namespace(), name);
        // Noted before it is read: a change in between then finds us.
        self.uses(request, Some(key.clone()));
        let found = context.store(&CONFIG_MAPS).and_then(|store| store.get(&key));
        let found = found
            .ok_or_else(|| Problem::new("ConfigMapMissing", &format!("there is no ConfigMap {name:?}")))?;
        let map: ConfigMap = decode(&found).map_err(|error| Problem::new("ConfigMapInvalid", &error))?;
        Ok(map.data)
    }

    fn uses(&self, request: &Request, config_map: Option<ObjectKey>) {
        let mut users = self.users.lock();
        users.retain(|key, names| {
            if key.namespace() == request.namespace() {
                names.remove(request.name());
            }
            !names.is_empty()
        });
        if let Some(config_map) = config_map {
            users
                .entry(config_map)
                .or_default()
                .insert(request.name().to_owned());
        }
    }

    /// Writes the status if it says something new, and an Event then.
    async fn report(
        &self,
        object: &Encoded,
        site: &Site,
        result: &Result<(), Problem>,
        context: &Context,
    ) -> Result<(), ReconcileError> {
        let header = object.header();
        let port = self.sites.port(&format!("{}/{}", header.namespace, header.name));
        let mut status = site.status.clone();
        status.observed_generation = site.metadata.generation;
        status.url = port.map(|port| format!("http://127.0.0.1:{port}/"));
        let condition = match result {
            Ok(()) => Condition::new("Ready", true, "Serving", ""),
            Err(problem) => Condition::new("Ready", false, problem.reason, &problem.message),
        };
        status.phase = match (result, port) {
            (Ok(()), _) => "Serving",
            (Err(_), Some(_)) => "Degraded",
            (Err(_), None) => "Failed",
        }
        .to_owned();
        conditions::set(
            &mut status.conditions,
            condition.at_generation(site.metadata.generation),
            SystemClock.now(),
        );
        if status == site.status {
            return Ok(());
        }
        let api = context.api();
        api.patch_status(&header.name, PatchKind::Merge, &json!({"status": status}))
            .await?;
        let url = status.url.as_deref().unwrap_or("nowhere");
        match result {
            Ok(()) => {
                tracing::info!(url, "serving");
                if site.status.phase != status.phase || site.status.url != status.url {
                    context.recorder().event(
                        object,
                        EventKind::Normal,
                        "Serving",
                        format!("served at {url}"),
                    );
                }
            }
            Err(problem) => {
                tracing::warn!(
                    reason = problem.reason,
                    problem = problem.message,
                    url,
                    "kept what was served"
                );
                context
                    .recorder()
                    .event(object, EventKind::Warning, problem.reason, &problem.message);
            }
        }
        Ok(())
    }
}
