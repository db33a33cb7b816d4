//! Moments between two steps that a simulation can hold on to: to cut the power there, or to let everybody else run.
//!
//! No lock is held at any of them. Without the feature `simulation` (no product has it) a point is nothing at all.

/// A moment between two steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    not(feature = "simulation"),
    expect(unreachable_pub, reason = "only a simulation sees it from outside")
)]
pub enum Point {
    /// A commit is evaluated and encoded; nothing is written.
    Drafted,
    /// A commit is written and not synced.
    Written,
    /// A commit is synced; nobody sees it.
    Synced,
    /// A commit is visible to reads and not yet on its way to watchers.
    Applied,
    /// A commit is visible; nobody is told.
    Published,
    /// A commit is acknowledged.
    Acknowledged,
    /// A segment has its header, durably, and not its name.
    SegmentPrepared,
    /// A segment has its name, and the directory is not synced.
    SegmentNamed,
    /// A segment is the newest of the log.
    SegmentBegun,
    /// The index is about to be pruned after a compaction.
    PruneBegins,
    /// Some of the index is pruned, and what that frees is not accounted for.
    PrunedSome,
    /// The index is pruned.
    Pruned,
    /// A checkpoint knows what it speaks of; nothing is written.
    CheckpointBegins,
    /// A checkpoint is written, under another name.
    CheckpointWritten,
    /// A checkpoint is durable, under another name.
    CheckpointSynced,
    /// A checkpoint has its name, and the directory is not synced.
    CheckpointNamed,
    /// A checkpoint is in place.
    CheckpointDone,
    /// What stays of a segment is decided.
    RewritePlanned,
    /// A rewritten segment is durable, under another name.
    RewriteSynced,
    /// A rewritten segment has its name, and the directory is not synced.
    RewriteNamed,
    /// A rewritten segment is durable, and the index names the old one.
    RewriteDone,
    /// Some of the index names the rewritten segment.
    RewriteSwitching,
    /// Nothing names the old segment any more.
    RewriteSwitched,
    /// Cleaning rests between two segments.
    RewritePause,
    /// A replaced segment is about to be deleted.
    ReplacedGoes,
    /// A dead segment is about to be emptied.
    DeadGoes,
    /// A leading segment is about to be deleted.
    LeadingGoes,
    /// Recovery knows the files.
    RecoveryListed,
    /// Recovery has read everything and changed nothing.
    RecoveryRead,
    /// Recovery has cut the log to its last complete commit.
    RecoveryClosed,
    /// A read knows the places of its values.
    ReadLocated,
    /// A read of history knows its segments.
    HistoryLocated,
    /// Events are about to be handed to watchers.
    Dispatching,
    /// Time passes while somebody would wait.
    Waiting,
}

#[cfg(feature = "simulation")]
impl Point {
    /// All of them.
    pub const ALL: [Self; 34] = [
        Self::Drafted,
        Self::Written,
        Self::Synced,
        Self::Applied,
        Self::Published,
        Self::Acknowledged,
        Self::SegmentPrepared,
        Self::SegmentNamed,
        Self::SegmentBegun,
        Self::PruneBegins,
        Self::PrunedSome,
        Self::Pruned,
        Self::CheckpointBegins,
        Self::CheckpointWritten,
        Self::CheckpointSynced,
        Self::CheckpointNamed,
        Self::CheckpointDone,
        Self::RewritePlanned,
        Self::RewriteSynced,
        Self::RewriteNamed,
        Self::RewriteDone,
        Self::RewriteSwitching,
        Self::RewriteSwitched,
        Self::RewritePause,
        Self::ReplacedGoes,
        Self::DeadGoes,
        Self::LeadingGoes,
        Self::RecoveryListed,
        Self::RecoveryRead,
        Self::RecoveryClosed,
        Self::ReadLocated,
        Self::HistoryLocated,
        Self::Dispatching,
        Self::Waiting,
    ];
}

#[cfg(feature = "simulation")]
mod hook {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::Point;

    /// What happens at a point.
    pub type Hook = Rc<dyn Fn(Point)>;

    thread_local! {
        static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
    }

    /// Sets what happens on this thread at each point; `None` is nothing.
    pub fn set_hook(hook: Option<Hook>) {
        HOOK.set(hook);
    }

    pub(crate) fn hit(point: Point) {
        // A copy, so that a hook may let others run who come to points of their own.
        let hook = HOOK.with_borrow(Clone::clone);
        if let Some(hook) = hook {
            hook(point);
        }
    }

    pub(crate) fn is_simulated() -> bool {
        HOOK.with_borrow(Option::is_some)
    }
}

#[cfg(feature = "simulation")]
pub use hook::{Hook, set_hook};
#[cfg(feature = "simulation")]
pub(crate) use hook::{hit, is_simulated};

/// The product's points.
#[cfg(not(feature = "simulation"))]
#[inline(always)]
pub(crate) fn hit(_: Point) {}

/// Whether a simulation drives this thread.
#[cfg(not(feature = "simulation"))]
#[inline(always)]
pub(crate) fn is_simulated() -> bool {
    false
}
