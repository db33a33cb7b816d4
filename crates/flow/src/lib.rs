//! Flow control that one can see and change while it runs.
//!
//! - [`Limits`]: token buckets for all calls, per method, per connection, per peer and per metadata value; a call that
//!   finds its bucket empty is answered at once and told when to come again, never parked.
//! - [`Limits::enter`]: a place among the calls served at a time, where the limit is found from how long calls take; what
//!   finds none in a few milliseconds is refused, least important first. [`Limits::watch_memory`]: the same for memory.
//! - [`Rules`]: the limits as people write them. [`page`]: what one sees of them. [`layer`]: limits in front of any service
//!   of HTTP, and under clients.
//! - [`Flow`]: what a process's connections share: how their windows are set, a receive budget, who is there.
//! - [`Tcp`]: a socket of which the kernel can be asked what it knows.
//! - [`http2`]: the driver of HTTP/2 connections, with windows as large as the link needs.
//! - [`http1`]: what is left of a request of HTTP/1.1 that is answered.
//! - [`impair`]: bad networks, made on purpose: to measure flow control, and to break links in tests.
//! - [`Channel`]: calls to a set of peers, under tonic's generated clients.
//!
//! The pure logic is in [`core`] and `impair::core`.
//!
//! ```
//! use setpoint_flow::{Ask, Limits, Per, Rule, Rules, Scope};
//! use tokio::time::Instant;
//!
//! let limits = Limits::new();
//! let one_put_a_second = Rule {
//!     name: "puts".to_owned(),
//!     methods: vec!["/etcdserverpb.KV/Put".to_owned()],
//!     per: Per::Connection,
//!     rate: "1/s".to_owned(),
//!     burst: Some(1),
//! };
//! let rules = Rules { rules: vec![one_put_a_second], ..Rules::default() };
//! limits.replace(&rules, Instant::now()).unwrap();
//!
//! let connection = Scope::default();
//! let ask = Ask { method: "/etcdserverpb.KV/Put", peer: "10.0.0.7", metadata: &|_| None };
//! let now = Instant::now();
//! assert!(limits.admit(&ask, &connection, now).is_ok());
//! let refused = limits.admit(&ask, &connection, now).unwrap_err();
//! assert_eq!(&*refused.rule, "puts");
//! ```

pub mod channel;
pub mod core;
#[doc(hidden)]
pub mod fuzzing;
pub mod http1;
pub mod http2;
pub mod impair;
pub mod layer;
pub mod page;

mod connection_metrics;
mod credit;
mod flow;
mod gauges;
mod keyed;
mod limits;
mod metrics;
mod options;
mod overload;
mod refusal;
mod rules;
mod snapshot;
mod tcp;

pub use channel::Channel;
pub use core::window::Bounds;
pub use flow::{Flow, Live};
pub use gauges::{Gauges, Holder};
pub use limits::{Ask, Cause, Limits, Refused, Scope};
pub use options::{FlowOptions, Windows};
pub use overload::{
    Classes, Concurrency, Find, Machine, Memory, MemoryLimit, Outcome, Permit, Reading, Span,
};
pub use refusal::REFUSED_BY;
pub use rules::{Per, RULES_MAX, Rule, Rules};
pub use snapshot::{
    BudgetSnapshot, ConnectionSnapshot, EstimatePoint, EstimateSnapshot, FlowSnapshot, StallSnapshot,
    StreamSnapshot, TcpSnapshot, WaitingStream,
};
pub use tcp::{Tcp, TcpInfo};
