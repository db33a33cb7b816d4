//! A controller: informers that say which objects need a look, a queue, workers, and your reconciler.
//!
//! Reading order: `builder`, `outcome`, `context`, `worker`.

mod builder;
mod causes;
mod context;
mod outcome;
mod worker;

pub use self::builder::{Builder, RunError, spec_changed};
pub use self::context::Context;
pub use self::outcome::{OrTerminal, Outcome, ReconcileError, Reconciler};

use crate::client::{Client, Resource};

/// Where a controller begins.
///
/// ```no_run
/// use setpoint_runtime::{Client, Context, Controller, Outcome, ReconcileError, Request, Resource};
///
/// const SITES: Resource = Resource::namespaced("demo.setpoint.dev", "v1", "Site", "sites");
///
/// async fn reconcile(request: Request, context: Context) -> Result<Outcome, ReconcileError> {
///     let Some(site) = context.object() else {
///         return Ok(Outcome::Done); // it is gone
///     };
///     tracing::info!(%request, version = site.header().resource_version, "seen");
///     Ok(Outcome::Done)
/// }
///
/// # async fn run(client: Client, stop: setpoint_base::Stop) -> Result<(), Box<dyn std::error::Error>> {
/// Controller::builder("site", &client, &SITES).workers(2).run(reconcile, stop).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Controller;

impl Controller {
    /// A controller of the objects of `primary`. The name labels metrics, events and field ownership.
    pub fn builder(name: &str, client: &Client, primary: &Resource) -> Builder {
        Builder::new(name, client, primary)
    }
}
