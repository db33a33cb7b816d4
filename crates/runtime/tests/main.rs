//! The runtime against a fake API server in the same process. Time is virtual.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![allow(
    clippy::needless_pass_by_value,
    reason = "json!(..) reads better than &json!(..)"
)]

mod chaos;
mod client;
mod controller;
mod fake;
mod informer;
mod reflector;
