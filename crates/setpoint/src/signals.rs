//! SIGINT and SIGTERM: the first asks, the second insists.

use std::io;

use setpoint_base::{Stop, TaskGroup};
use tokio::signal::unix::{SignalKind, signal};

/// What the process ends with when a second signal does not let it finish: 128 + SIGINT.
const INSISTED: i32 = 130;

/// Cancels `stop` on the first signal and ends the process at once on the second.
///
/// # Errors
/// When the handlers cannot be installed.
pub(crate) fn listen(tasks: &TaskGroup, stop: Stop) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let ended = tasks.stop().clone();
    tasks.spawn(async move {
        for insisted in [false, true] {
            tokio::select! {
                _ = interrupt.recv() => (),
                _ = terminate.recv() => (),
                () = ended.cancelled() => return,
            }
            if insisted {
                tracing::warn!("second signal: ending without waiting");
                std::process::exit(INSISTED);
            }
            stop.cancel();
        }
    });
    Ok(())
}
