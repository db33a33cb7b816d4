//! Load generators: what a server does per second, how long it takes, and what it costs.
//!
//! - [`store`]: etcd's API over gRPC, against us or a real etcd or both in turns. `scenario`: whole situations.
//! - [`api`]: a Kubernetes API server over HTTPS.
//! - `h2load`: an HTTP/2 client that costs little, so that what is measured is the server. `target`: a server and the
//!   load on it. `spawn`: servers that the benchmark starts and kills by itself; `said`: what they print.
//! - [`flow`]: servers' flow control beside each other, over bad networks.
//! - [`proxy`]: a bad network to put between a client and a server.
//! - `requests`: the calls, encoded beforehand. `events`: what watchers receive.
//! - `machine`: what ran, on what, beside what else. `report`, `table`: the result.
//!
//! The loop is closed unless a scenario says otherwise: each client sends its next request when the last was answered,
//! so latency and throughput belong together. Server and generator share the machine; the server's CPU time is the
//! number to compare.

pub mod api;
pub mod flow;
pub mod proxy;
pub mod store;

mod events;
mod h2load;
pub(crate) mod machine;
mod report;
mod requests;
mod said;
mod scenario;
pub(crate) mod spawn;
mod table;
mod target;
