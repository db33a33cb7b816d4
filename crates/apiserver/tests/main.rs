//! The API server as clients see it: requests in, responses out, over a real store in a directory.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::needless_pass_by_value,
    reason = "helpers of tests"
)]

mod cluster;
mod crd;
mod forms;
mod harness;
mod informer;
mod limits;
mod list;
mod namespaces;
mod published;
mod verbs;
mod watch;
