//! What happens when there is more to do than can be done.
//!
//! - `rules`: how people write it: concurrency limits, classes of calls, the memory budget.
//! - `limiter`: places for calls at a time, a short queue in front, and the limit that learns.
//! - `memory`: readings of memory become pressure; `machine`: where readings come from.

pub(crate) mod limiter;
pub(crate) mod machine;
pub(crate) mod memory;
pub(crate) mod metrics;
pub(crate) mod rules;

pub use limiter::{Outcome, Permit};
pub use machine::{Machine, Reading};
pub use rules::{Classes, Concurrency, Find, Memory, MemoryLimit, Span};
