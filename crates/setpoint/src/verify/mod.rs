//! `setpoint verify watch`: does a store keep what it promises to watchers, and does a client survive its worst day?
//!
//! - [`args`]: what can be told. `traffic`: numbered writes, each exactly once.
//! - `fault`: drops, frozen links, compactions, restarts, from a seed. `server`: who is killed. Links break in the proxies
//!   of `setpoint_flow::impair`.
//! - `follow`: watchers of each class. `library`: etcd's own client, as a program. `check`: their logs against the guarantees, as they come.
//! - [`report`]: what was found.

pub mod args;
pub mod fault;
pub mod report;

mod check;
mod follow;
mod library;
mod run;
mod server;
mod traffic;

pub use args::VerifyWatchArgs;
pub use report::Report;
pub use run::watch;
