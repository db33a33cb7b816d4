//! Memory in small pages. The first touch of a huge one takes milliseconds where the host has to find it first, and all that this
//! process does waits for that: `docs/adr/0012-put-tail.md`.

/// From now on, this process and its children take no huge pages: not for whoever starts programs of others, but by
/// [`as_they_come`].
pub(crate) fn take_small() {
    refuse_huge(true);
}

/// Runs `spawn`, whose child has the pages that the system gives to everybody, whatever this process takes.
pub(crate) fn as_they_come<T>(spawn: impl FnOnce() -> T) -> T {
    let refused = are_small();
    refuse_huge(false);
    let child = spawn();
    refuse_huge(refused);
    child
}

#[cfg(target_os = "linux")]
fn refuse_huge(refuse: bool) {
    // Without huge pages there is nothing to refuse.
    let _ = rustix::thread::disable_transparent_huge_pages(refuse);
}

#[cfg(target_os = "linux")]
fn are_small() -> bool {
    rustix::thread::transparent_huge_pages_are_disabled().unwrap_or(false)
}

#[cfg(not(target_os = "linux"))]
fn refuse_huge(_: bool) {}

#[cfg(not(target_os = "linux"))]
fn are_small() -> bool {
    false
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::Command;

    use super::*;

    fn child_says() -> String {
        let mut command = Command::new("sh");
        command.args(["-c", "grep THP_enabled /proc/self/status || true"]);
        let output = command.output().expect("there is a shell");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    #[test]
    fn children_inherit_small_pages_unless_they_are_started_as_they_come() {
        let before = are_small();
        let usual = as_they_come(child_says);
        take_small();
        let could = are_small();
        let inherits = child_says();
        let comes = as_they_come(child_says);
        let stays = are_small();
        refuse_huge(before);
        if !could || usual != "THP_enabled:\t1" {
            eprintln!("skipped: this system has no huge pages to refuse, or does not say so");
            return;
        }
        assert_eq!(inherits, "THP_enabled:\t0");
        assert_eq!(comes, usual);
        assert!(stays, "and this process goes on as before");
    }
}
