//! Programs end with `up`, however `up` ends.
//!
//! [`Groups`] is what is running now, to be killed before a second signal ends the process. A guard is a shell that
//! waits for the end of a pipe from us: the kernel closes it even after SIGKILL, and the guard then ends the program's
//! group. Linux could signal the program itself when its parent dies (`PR_SET_PDEATHSIG`), but only the program, not
//! what it started, and at the death of the *thread* that started it.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};

/// SIGTERM, up to 5 s, SIGKILL: as `up` does when it stops by itself.
const SCRIPT: &str = "read -r _; kill -s TERM -- \"-$0\" 2>/dev/null || exit 0; for _ in 1 2 3 4 5; do sleep 1; \
    kill -s 0 -- \"-$0\" 2>/dev/null || exit 0; done; kill -s KILL -- \"-$0\"";

/// The process groups of the programs that are running.
#[derive(Clone, Debug, Default)]
pub(crate) struct Groups(Arc<Mutex<BTreeSet<i32>>>);

impl Groups {
    /// Adds a group until the entry is dropped.
    pub(super) fn enter(&self, group: Pid) -> Entry {
        self.0.lock().insert(group.as_raw_nonzero().get());
        Entry {
            groups: self.clone(),
            group,
        }
    }

    /// Ends all of them at once.
    pub(crate) fn kill(&self) {
        for group in self.0.lock().iter().filter_map(|&group| Pid::from_raw(group)) {
            // It may have ended by itself.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}

/// A running group.
pub(super) struct Entry {
    groups: Groups,
    group: Pid,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.groups.0.lock().remove(&self.group.as_raw_nonzero().get());
    }
}

/// Starts the guard of a group; `None` where there is no shell.
pub(super) fn start(group: Pid) -> Option<Child> {
    let guard = Command::new("/bin/sh")
        .args(["-c", SCRIPT, &group.as_raw_nonzero().to_string()])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Ctrl-C in a terminal goes to our group: the guard must outlive us.
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    if let Err(error) = &guard {
        tracing::warn!(%error, "no guard: should this process be killed, its programs run on until the next start");
    }
    guard.ok()
}

/// Ends a guard whose group has ended, before the number of the group is used again.
pub(super) async fn dismiss(guard: Option<Child>) {
    if let Some(mut guard) = guard {
        // Fails when it has ended, which is as good.
        let _ = guard.kill().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn program(script: &str) -> (Child, Pid) {
        let child = Command::new("sh")
            .args(["-c", script])
            .process_group(0)
            .spawn()
            .unwrap();
        let group = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
        (child, group)
    }

    async fn ends(mut child: Child) {
        tokio::time::timeout(Duration::from_secs(20), child.wait())
            .await
            .expect("it ends")
            .unwrap();
    }

    #[tokio::test]
    async fn when_the_pipe_ends_the_guard_ends_the_group() {
        let (mut child, group) = program("sleep 1000 & wait");
        let mut guard = start(group).unwrap();
        // What the kernel does when we are killed.
        drop(guard.stdin.take());
        ends(guard).await;
        let alive =
            rustix::process::test_kill_process_group(group).is_ok() && child.try_wait().unwrap().is_none();
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
        assert!(!alive, "the guard ended before its group");
    }

    #[tokio::test]
    async fn a_dismissed_guard_leaves_the_group_alone() {
        let (mut child, group) = program("exec sleep 1000");
        dismiss(start(group)).await;
        assert!(child.try_wait().unwrap().is_none());
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
        ends(child).await;
    }

    #[tokio::test]
    async fn all_groups_that_run_are_killed_at_once() {
        let groups = Groups::default();
        let (stubborn, group) = program("trap '' TERM; while :; do sleep 1; done");
        let entry = groups.enter(group);
        groups.kill();
        ends(stubborn).await;
        drop(entry);
        assert!(groups.0.lock().is_empty());
    }
}
