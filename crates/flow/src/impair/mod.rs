//! Bad networks, made on purpose: a TCP proxy that is slow, narrow, uneven, dead or cut, in each direction by itself.
//!
//! - [`Shape`]: what one direction does to bytes. [`Setting`]: both, and whether anybody gets in. [`Preset`]: known links.
//! - [`Script`]: settings over time, as people write them: `0s rtt=20ms rate=100mbit; 10s freeze 3s`.
//! - [`Link`]: the model of one direction, without I/O: bytes go in at a time, and it says when which may leave. The
//!   same seed and the same calls give the same answer, on any clock.
//! - [`Proxy`]: the model between real sockets. [`join`]: between any two streams, also on paused time.
//!
//! The model is a fluid one. Bytes wait before a bottleneck, which passes them at the rate; then they fly for the delay,
//! plus jitter, and come out in order. A lost packet is one that comes a retransmission later: all that is behind it
//! waits, and then arrives at once, as TCP's receiver would see it. The sender's congestion control is not modelled: this
//! is what flow control above TCP meets on a path that TCP has already filled.
//!
//! ```text
//!  sender ─▶ buffer ─▶ bottleneck (rate) ─▶ flight (delay, jitter, stalls) ─▶ receiver
//!            full: the sender's socket is not read          not read: the bottleneck stops
//! ```

mod core;
mod proxy;
mod timer;
mod wire;

#[cfg(test)]
mod tests;

pub use core::{
    Action, Direction, InvalidScript, Link, Preset, Problem, Script, Setting, Shape, Stall, parse_setting,
};
pub use proxy::{Proxy, ProxyOptions, Traffic};
pub use wire::join;
