//! The runtime against a fake API server in the same process. Time is virtual.

mod chaos;
mod client;
mod controller;
mod fake;
mod informer;
mod reflector;
