//! The etcd front: etcd's v3 API over gRPC, and its HTTP endpoints, on one port.
//!
//! Bytes come in here and nothing of their format goes further: requests become the types of [`crate::types`],
//! answers and errors become etcd's again. What a request means is the store's business, how it is said is ours.
//!
//! - `listen`, `server`: listeners, worker threads, drain. One connection lives on one thread.
//! - `socket`, `tls`: TCP, TLS or a local socket; certificates, and the user one names.
//! - `connection`: HTTP/1 or HTTP/2, and the calls of a connection. HTTP/2 is driven by `setpoint_flow::http2`, which
//!   also deals with clients that do not read.
//! - `call`: one call: who serves it, deadline, status. `inbound`, `outbound`: its messages, within limits. `method`:
//!   the calls there are. `quick`: reads that are over when they begin.
//! - `kv`, `txn`, `watch`, `lease`, `maintenance`: the services. `convert`: requests to store types.
//! - `lock`, `election`: waiting for others; `contest` is what they share, `waits` who may wait and what is taken back.
//!   `health`: gRPC's own health service.
//! - `wide`: ranges of many keys, read as they are sent. `listing`: the answer of a range, made where its keys are. `snapshot`: what reads the whole log.
//! - `auth`: who calls, and what they may do. `cluster`: one member, which takes no others.
//! - `wire`: answers to bytes, without copying large values. `gather`: many watch answers into few frames. `status`: errors to etcd's codes and texts.
//! - `web`: HTTP that is not gRPC. `gateway`: the same calls as JSON. `http`: `/health`, `/livez`, `/readyz`,
//!   `/version`, `/metrics`. `debug`: `/debug/flow`. `metrics`, `readings`: every metric of the front.
//! - `overload`: places among the calls that are served at a time. `room` and `few`: what answers on their way
//!   to clients may have.
//!
//! gRPC is spoken here over the `h2` crate, without a gRPC server library (`docs/adr/0003-grpc-stack.md`).

mod arriving;
mod auth;
mod bypass;
mod call;
mod cluster;
mod connection;
mod contest;
mod convert;
mod debug;
mod election;
mod few;
pub(crate) mod fuzzing;
mod gateway;
mod gather;
mod health;
mod http;
mod inbound;
mod kv;
mod lease;
mod listen;
mod listing;
mod lock;
mod maintenance;
mod method;
mod metrics;
mod options;
mod outbound;
mod overload;
mod pprof;
mod quick;
mod readings;
mod room;
mod server;
mod snapshot;
mod socket;
mod status;
mod timing;
mod tls;
mod txn;
mod vars;
mod waits;
mod watch;
mod web;
mod wide;
mod wire;

pub use auth::{AuthOptions, Jwt, KeyError, TokenError, TokenOptions};
pub use listen::{Listener, Serves};
pub use options::FrontOptions;
pub use pprof::Profiler;
pub use server::Front;
pub use tls::{TlsError, TlsOptions};
pub(crate) use wire::RAFT_TERM;

/// The etcd release whose API and behaviour this front has. Clients switch features by it
/// (Kubernetes: `pkg/storage/feature/feature_support_checker.go`).
pub const ETCD_VERSION: &str = "3.7.3";

/// The version of the whole cluster, as etcd reports it: its minor release.
pub(crate) const CLUSTER_VERSION: &str = "3.7.0";
