//! Bugs that can be planted: each must be found by the simulation, or it proves less than it seems to.
//!
//! A planted bug holds on one thread, so that tests beside it are unharmed. Without the feature `simulation` (no product
//! has it) every question here is answered no, at compile time.

/// A bug of the kind that stores have had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "simulation"),
    expect(unreachable_pub, reason = "only a simulation plants one")
)]
pub enum Plant {
    /// Writes are acknowledged before they are synced: a crash loses them.
    LostWrite,
    /// The directory is not synced when a segment gets its name.
    SkippedSync,
    /// Two events of one commit change places.
    ReorderedEvent,
    /// A watcher whose mailbox is full goes on one revision too late.
    LostEvent,
    /// A revision is used again after a restart.
    DuplicateRevision,
    /// A read below the compaction floor is answered.
    MissedCompaction,
    /// A lease ends a second before its time.
    EarlyExpiry,
    /// The end of a lease is forgotten by a restart.
    RevivedLease,
    /// A checkpoint lacks a version of a key.
    TornCheckpoint,
    /// A rewritten segment lacks a deletion.
    LostDeletion,
    /// A rewritten segment lacks a deletion below the compaction floor, though an older segment has the key.
    ForgottenDeletion,
    /// A read shows the state one revision ago.
    StaleRead,
}

#[cfg(feature = "simulation")]
impl Plant {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::LostWrite,
        Self::SkippedSync,
        Self::ReorderedEvent,
        Self::LostEvent,
        Self::DuplicateRevision,
        Self::MissedCompaction,
        Self::EarlyExpiry,
        Self::RevivedLease,
        Self::TornCheckpoint,
        Self::LostDeletion,
        Self::ForgottenDeletion,
        Self::StaleRead,
    ];
}

#[cfg(feature = "simulation")]
mod planted {
    use std::cell::Cell;

    use super::Plant;

    thread_local! {
        static PLANTED: Cell<Option<Plant>> = const { Cell::new(None) };
    }

    /// Plants a bug on this thread; `None` pulls it out.
    pub fn plant(plant: Option<Plant>) {
        PLANTED.set(plant);
    }

    pub(crate) fn has(plant: Plant) -> bool {
        PLANTED.get() == Some(plant)
    }
}

#[cfg(feature = "simulation")]
pub(crate) use planted::has;
#[cfg(feature = "simulation")]
pub use planted::plant;

/// The product has none.
#[cfg(not(feature = "simulation"))]
#[inline(always)]
pub(crate) fn has(_: Plant) -> bool {
    false
}
