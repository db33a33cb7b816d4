//! SIGINT and SIGTERM: the first asks, the second insists.

use std::io;
use std::time::Duration;

use setpoint_base::{Stop, TaskGroup};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

/// What the process ends with when a second signal does not let it finish: 128 + SIGINT.
const INSISTED: i32 = 130;
/// A signal this soon after the first is the same wish: wrappers such as `timeout` signal both the program and its group.
const ECHO: Duration = Duration::from_millis(250);

/// Cancels `stop` on the first signal; on the second, does `last` and ends the process at once.
///
/// # Errors
/// When the handlers cannot be installed.
pub(crate) fn listen(tasks: &TaskGroup, stop: Stop, last: impl Fn() + Send + 'static) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let ended = tasks.stop().clone();
    tasks.spawn(async move {
        let mut asked: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = interrupt.recv() => (),
                _ = terminate.recv() => (),
                () = ended.cancelled() => return,
            }
            match asked {
                None => asked = Some(Instant::now()),
                Some(first) if first.elapsed() < ECHO => continue,
                Some(_) => {
                    tracing::warn!("second signal: ending without waiting");
                    last();
                    std::process::exit(INSISTED);
                }
            }
            stop.cancel();
        }
    });
    Ok(())
}
