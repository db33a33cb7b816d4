//! Informers, work queues and controllers for any Kubernetes API server: what client-go and
//! controller-runtime are to Go.
//!
//! ```text
//! API server ─► reflector ─► delta queue ─► store + indexes ─► event ring ─► work queue ─► your reconcile
//!      ▲         (list, watch,   (ordered,      (snapshot         (a cursor       (one worker       │
//!      │          410, backoff)   bounded)       reads)            per handler)    per object)      │
//!      └──────────────────────────────── writes, carrying the trace of the cause ◄─────────────────┘
//! ```
//!
//! # An operator
//!
//! A reconciler is an async function from a name to an [`Outcome`]. It reads the cache through its
//! [`Context`], writes through the API, and is called again when anything it depends on changes. `?` on any
//! error means: try again later, with backoff.
//!
//! ```
//! use serde_json::json;
//! use setpoint_base::Stop;
//! use setpoint_runtime::client::PatchKind;
//! use setpoint_runtime::{Client, Context, Controller, Outcome, ReconcileError, Request, Resource};
//!
//! const SITES: Resource = Resource::namespaced("demo.setpoint.dev", "v1", "Site", "sites");
//!
//! async fn reconcile(request: Request, context: Context) -> Result<Outcome, ReconcileError> {
//!     let Some(site) = context.object() else {
//!         return Ok(Outcome::Done); // it was deleted
//!     };
//!     if site.field_text("status.phase").as_deref() != Some("Serving") {
//!         let status = json!({"status": {"phase": "Serving"}});
//!         context.api().patch_status(request.name(), PatchKind::Merge, &status).await?;
//!     }
//!     Ok(Outcome::Done)
//! }
//!
//! # fn fake(stop: Stop) -> Client {
//! #     // A server with one Site; its first write is all we wait for.
//! #     Client::from_service(tower::service_fn(move |request: http::Request<_>| {
//! #         let stop = stop.clone();
//! #         async move {
//! #             let site = json!({"metadata": {"name": "web", "namespace": "default", "resourceVersion": "1"}});
//! #             let query = request.uri().query().unwrap_or_default().to_owned();
//! #             let (code, body) = if request.method() == http::Method::PATCH {
//! #                 stop.cancel();
//! #                 (200, site)
//! #             } else if query.contains("sendInitialEvents") {
//! #                 (422, json!({"kind": "Status", "code": 422, "reason": "Invalid"}))
//! #             } else {
//! #                 (200, json!({"metadata": {"resourceVersion": "1"}, "items": [site]}))
//! #             };
//! #             let body = http_body_util::Full::new(bytes::Bytes::from(body.to_string()));
//! #             let mut response = http::Response::new(body);
//! #             *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
//! #             Ok::<_, std::io::Error>(response)
//! #         }
//! #     }))
//! # }
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
//! # runtime.block_on(async {
//! # let stop = Stop::new();
//! # let client = fake(stop.clone());
//! // In a program: let client = Client::infer().await?;
//! Controller::builder("site-operator", &client, &SITES)
//!     .workers(4)
//!     .run(reconcile, stop)
//!     .await
//!     .unwrap();
//! # });
//! ```
//!
//! More of it: [`owns`](controller::Builder::owns) and [`watches`](controller::Builder::watches) for objects
//! that concern others, [`filter(spec_changed)`](controller::spec_changed) against one's own status writes,
//! [`index`](controller::Builder::index) for lookups in the cache, [`finalizer`] for cleaning up,
//! [`conditions`] for the status, [`Context::recorder`] for Events, [`OrTerminal`](controller::OrTerminal)
//! for failures that repeating cannot mend.
//!
//! # What can be relied on
//!
//! - For one object the cache and each handler see a subsequence of its true states, in order; states in
//!   between may be skipped, deletions are not. There is no order across objects.
//! - The cache shows a change before any handler or reconciler hears of it.
//! - A name is never reconciled twice at once, and is reconciled again after a change during a reconcile.
//! - Nothing grows without bound: the delta queue merges per object and then stops reading the watch; a
//!   handler that lags is told latest states only; a queue holds a name once.
//! - Requests made within a reconcile carry the trace of the change that caused it.
//!
//! Not here: the API server, generated types, leader election, webhooks, server-side apply helpers.
//!
//! # Reading order
//!
//! | Module | What it is |
//! |---|---|
//! | [`key`](ObjectKey), [`client`] | names, and calls by bytes |
//! | [`queue`], [`indexer`], [`informer::ring`], [`workqueue::core`], [`reflector::core`] | the cores: no I/O, no tasks, time handed in |
//! | [`reflector`], [`informer`], [`workqueue`] | the shells around them |
//! | [`controller`] | the builder, the workers |
//! | [`events`], [`finalizer`], [`conditions`], [`trace`], [`metrics`] | what an operator needs besides |

pub mod client;
pub mod conditions;
pub mod controller;
pub mod events;
pub mod finalizer;
pub mod indexer;
pub mod informer;
mod key;
pub mod metrics;
mod object;
pub mod queue;
pub mod reflector;
pub mod trace;
pub mod workqueue;

pub use client::{Api, Client, Error, Resource};
pub use controller::{Context, Controller, Outcome, ReconcileError};
pub use informer::SharedInformer;
pub use key::{ObjectKey, Request};
pub use object::key_of;
