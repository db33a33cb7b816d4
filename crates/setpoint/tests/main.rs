//! The built binary and the plane inside a test, driven as users drive them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod api;
mod crash;
mod damage;
mod etcd;
mod harness;
mod interop;
mod lifecycle;
mod limits;
mod migrate;
mod network;
mod overload;
mod plane;
mod quickstart;
mod remote;
mod verify;
