//! The running store: threads, queues and locks around the pure core.
//!
//! - `sequencer`: the one thread that writes. Evaluates, encodes, syncs, publishes, acknowledges.
//!   `rests`: whether what a proposal was checked against is still so when its turn comes.
//! - `reader`: reads on the caller's thread, under short read locks; `scan`: wide ones, piece by piece. `give`: keys and
//!   values where they lie, for whoever makes an answer of them; `kvs` makes a list.
//! - `pins`: what is not pruned, since somebody reads it.
//! - `history`: events for watchers that lag.
//! - `room`: quota and alarms.
//! - `ticker`: ended leases, and the next segment.
//! - `janitor`: prunes the index, writes checkpoints; `clean` gives space back. Both at the `pace` of who has time.

mod clean;
mod give;
mod history;
mod janitor;
mod kvs;
mod open;
mod pace;
mod pins;
mod publish;
mod queue;
mod reader;
mod rests;
mod room;
mod scan;
mod sequencer;
mod shared;
mod ticker;

pub(crate) use give::{Given, Read, Taker, Value, few};
pub(crate) use kvs::Kvs;
pub(crate) use open::{Engine, open};
pub(crate) use pace::Courtesy;
pub(crate) use pins::Pin;
pub(crate) use queue::{Command, Proposal, Reply};
pub(crate) use reader::{holds_few, range, read_only_txn};
pub(crate) use rests::{Found, MayWrite, Rests};
pub(crate) use scan::Scan;
pub(crate) use shared::{Shared, Tip};
#[cfg(feature = "simulation")]
pub(crate) use {janitor::Janitor, open::prepare, sequencer::Sequencer, ticker::Ticker};
