//! Integration tests of the store, one binary.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod client;
mod engine;
mod mutation;
mod recovery;
mod regressions;
mod remote;
mod room;
mod sim;
mod simulation;
mod snapshot;
mod stopped;
mod support;
mod tables;
mod watching;
mod wire;
