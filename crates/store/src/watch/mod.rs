//! Watching: every write, in order, to everybody who asked, without the writer waiting for anybody.
//!
//! The writer gives each commit to the [`Hub`]. A dispatcher thread finds the watchers that want its events
//! and leaves them in the mailbox of their stream. A watcher whose stream does not keep up becomes a cursor:
//! a revision, from which its stream reads history until it has caught up and is listed again.
//!
//! ```text
//! writer --Arc<Batch>--> ring --dispatcher--> registry (who wants it) --> mailbox --+--> WatchStream::next
//!                                                                         history --+
//! ```
//!
//! Reading order: [`registry`] (the state machine, and why nothing is lost or repeated), [`index`] and
//! [`spans`] (who wants an event), [`mailbox`] (the bound), [`cursor`] and [`scan`] (catching up), [`hub`]
//! (the thread), [`members`] and [`delivery`] (who sees what is shown), [`chorus`] (what streams say alike), [`stream`] (the
//! consumer).

mod chorus;
mod cursor;
mod delivery;
mod hub;
mod index;
mod mailbox;
mod members;
mod registry;
mod scan;
mod slab;
mod spans;
mod stream;

pub(crate) use delivery::Step;
pub(crate) use hub::{Feed, Hub};
pub use stream::WatchStream;

#[cfg(test)]
mod tests;
