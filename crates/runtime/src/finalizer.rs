//! Finalizers: a promise that cleaning up happens before an object is gone.
//!
//! ```no_run
//! # use setpoint_runtime::controller::{Context, Outcome, ReconcileError};
//! use setpoint_runtime::finalizer::{self, Phase};
//!
//! # async fn reconcile(context: Context) -> Result<Outcome, ReconcileError> {
//! # let Some(site) = context.object() else { return Ok(Outcome::Done) };
//! match finalizer::enter(&context.api(), &site, "demo.setpoint.dev/port").await? {
//!     Phase::Live => { /* make it so */ }
//!     Phase::Leaving => {
//!         /* clean up, then: */
//!         finalizer::leave(&context.api(), &site, "demo.setpoint.dev/port").await?;
//!     }
//!     Phase::Left => {}
//! }
//! # Ok(Outcome::Done)
//! # }
//! ```

use serde_json::{Value, json};
use setpoint_apimachinery::Encoded;

use crate::client::{Api, Error, PatchKind};

/// Where an object is in its life, as far as one finalizer is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It is not being deleted, and the finalizer is in place.
    Live,
    /// It is being deleted and waits for this finalizer: clean up, then [`leave`].
    Leaving,
    /// It is being deleted, and this finalizer is not (or no longer) there: nothing to do.
    Left,
}

/// Says which phase the object is in; puts the finalizer in place if it is not being deleted.
///
/// # Errors
/// As [`Api::patch`]; 409 when the object has changed since it was read: retry.
pub async fn enter(api: &Api, object: &Encoded, finalizer: &str) -> Result<Phase, Error> {
    let present = finalizers(object);
    let has = present.iter().any(|name| name == finalizer);
    match (object.header().deleting, has) {
        (true, true) => Ok(Phase::Leaving),
        (true, false) => Ok(Phase::Left),
        (false, true) => Ok(Phase::Live),
        (false, false) => {
            let mut wanted = present;
            wanted.push(finalizer.to_owned());
            write(api, object, &wanted).await?;
            Ok(Phase::Live)
        }
    }
}

/// Takes the finalizer away. An object that is gone, or never had it, is fine.
///
/// # Errors
/// As [`Api::patch`]; 409 when the object has changed since it was read: retry.
pub async fn leave(api: &Api, object: &Encoded, finalizer: &str) -> Result<(), Error> {
    let present = finalizers(object);
    let wanted: Vec<String> = present
        .iter()
        .filter(|name| *name != finalizer)
        .cloned()
        .collect();
    if wanted.len() == present.len() {
        return Ok(());
    }
    match write(api, object, &wanted).await {
        Err(error) if error.is_not_found() => Ok(()),
        result => result,
    }
}

fn finalizers(object: &Encoded) -> Vec<String> {
    object
        .field("metadata.finalizers")
        .and_then(|raw| serde_json::from_slice(raw).ok())
        .unwrap_or_default()
}

/// The version makes the patch a comparison and an exchange: nobody else's finalizer is lost.
async fn write(api: &Api, object: &Encoded, wanted: &[String]) -> Result<(), Error> {
    let header = object.header();
    let patch: Value = json!({"metadata": {
        "finalizers": wanted,
        "uid": &*header.uid,
        "resourceVersion": header.resource_version.to_string(),
    }});
    api.patch(&header.name, PatchKind::Merge, &patch).await.map(drop)
}
