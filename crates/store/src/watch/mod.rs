//! Watching: who sees which event, without the writer knowing.
//!
//! ```text
//! sequencer ──push Arc<Batch>, O(1)──▶ inbox ──▶ dispatcher thread ──matches──▶ stream queue ──▶ next()
//!                                                                                   │ full
//!                                      history (hot ring, segments) ◀──cursor───────┘
//! ```
//!
//! - [`Hub`]: registration and the dispatcher. The writer pushes one pointer per commit and goes on.
//! - [`WatchStream`]: many watchers with one consumer. A stream that does not keep up is not queued for: its
//!   watchers become cursors that read history in the consumer's own task, and rejoin at the head.
//! - `matcher`: from a key to the watchers that want it, without asking each of them.
//! - `cursor`: the watchers of a stream that read history.
//!
//! **Why nothing is lost or doubled.** The dispatcher handles revisions strictly in order and holds the
//! registry's lock while it does; `head` is the next one. A watcher is either *synced*: registered with the
//! matcher, given every event at or above its `next` as the dispatcher passes it; or *lagging*: not
//! registered, its `next` moved on by history alone. It changes from lagging to synced under the same lock
//! and only when `next >= head`: everything below `head` it has read itself, everything from `head` on the
//! dispatcher will give it, and what lies in `head..next` the matcher skips because it is below `next`.
//! From synced to lagging it changes when its queue is full, with `next` set to the first revision that was
//! not queued; what is queued is delivered before history is read.

mod cursor;
mod hub;
mod matcher;
mod stream;

#[cfg(test)]
mod tests;

pub(crate) use hub::{Feed, Hub};
pub use stream::WatchStream;
