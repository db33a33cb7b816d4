//! What the client decides, without doing any of it: no network, no clock of its own, nothing spawned.
//!
//! - [`stream`]: one gRPC watch stream shared by many watchers, as a state machine: `step(input, now) -> effects`.
//! - [`watcher`]: what is remembered of one watcher: where it resumes, what it has seen, its half-received answer.
//! - [`listing`]: the range read again in pages, and the deletes that nobody reported.
//! - [`mailbox`]: what a watcher was told and its owner has not taken yet: bounded.
//! - [`backoff`]: how long to wait between attempts. [`contact`]: whether anybody answers at all.

pub(crate) mod backoff;
pub(crate) mod contact;
pub(crate) mod listing;
pub(crate) mod mailbox;
pub(crate) mod stream;
pub(crate) mod watcher;

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
