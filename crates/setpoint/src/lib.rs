//! The binary as a library: roles, command line, configuration, wiring, signals; and [`envtest`].
//!
//! - [`mod@bench`]: load generators for the store and the API.
//! - [`plane`]: a whole control plane in one process, started and stopped in order.
//! - [`envtest`]: the same inside a test, for authors of operators.
//! - [`verify`]: does a store keep what it promises to watchers?
//! - [`cli`]: the commands; the only place that reads arguments and environment.
//! - [`config`]: what was said, and what will be done.
//! - [`migrate`]: a plane moves from one log to another.
//! - `up`: a project folder on a plane: manifests, programs, the view of what happens.
//!
//! It has no logic of the log or of the API: those are the crates below, and only this one plugs them together.
//!
//! Reading order: `plane`, `cli`, `config`, `up`.

pub mod bench;
pub mod cli;
pub mod config;
mod engine_args;
pub mod envtest;
mod flow_args;
mod front_args;
pub mod migrate;
pub mod plane;
pub mod ready;
pub mod verify;

mod loopback;
mod pages;
mod profile;
mod signals;
mod store_args;
mod up;
