//! Tasks that somebody owns.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The signal to stop; children of a stop are stopped with it.
pub type Stop = CancellationToken;

/// Tasks that are stopped together and awaited: no task outlives its group unnoticed.
///
/// Cloning gives another handle to the same group.
#[derive(Clone, Debug, Default)]
pub struct TaskGroup {
    stop: Stop,
    tracker: TaskTracker,
}

impl TaskGroup {
    /// A group that stops when `parent` does.
    #[must_use]
    pub fn new(parent: &Stop) -> Self {
        Self {
            stop: parent.child_token(),
            tracker: TaskTracker::new(),
        }
    }

    /// The stop that every task of the group should obey.
    #[must_use]
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Starts a task in the group, on the current tokio runtime.
    pub fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(task)
    }

    /// Starts blocking work in the group. It cannot be interrupted: it has to look at the stop itself.
    pub fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.tracker.spawn_blocking(work)
    }

    /// Tasks that have not ended.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether no task is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Asks all tasks to stop and waits for them, at most `grace`.
    ///
    /// Returns how many were still running when the grace ended: 0 is a clean stop.
    pub async fn shutdown(&self, grace: Duration) -> usize {
        self.stop.cancel();
        self.tracker.close();
        let _ = tokio::time::timeout(grace, self.tracker.wait()).await;
        self.tracker.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn shutdown_waits_for_tasks_that_obey_and_counts_those_that_do_not() {
        let group = TaskGroup::new(&Stop::new());
        let stop = group.stop().clone();
        group.spawn(async move { stop.cancelled().await });
        group.spawn(std::future::pending::<()>());
        assert_eq!(group.shutdown(Duration::from_secs(1)).await, 1);
    }
}
