//! SIGINT and SIGTERM: the first asks, the second insists. SIGHUP asks as well, or is only noted.

use std::io;
use std::time::Duration;

use setpoint_base::{Stop, TaskGroup};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

/// What the process ends with when a second signal does not let it finish: 128 + SIGINT.
const INSISTED: i32 = 130;
/// A signal this soon after the first is the same wish: wrappers such as `timeout` signal both the program and its group.
const ECHO: Duration = Duration::from_millis(250);

/// What SIGHUP means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hangup {
    /// The terminal has gone, and whoever looked at it.
    Ends,
    /// Somebody wants files to be read again, which happens by itself.
    IsNoted,
}

/// Cancels `stop` on the first signal; on the second, does `last` and ends the process at once.
///
/// # Errors
/// When the handlers cannot be installed.
pub(crate) fn listen(
    tasks: &TaskGroup,
    stop: Stop,
    hangup: Hangup,
    last: impl Fn() + Send + 'static,
) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    let ended = tasks.stop().clone();
    tasks.spawn(async move {
        let mut asked: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = interrupt.recv() => (),
                _ = terminate.recv() => (),
                _ = hung_up.recv() => if hangup == Hangup::IsNoted {
                    tracing::info!("SIGHUP: nothing to do; limits and certificates are read again when their files change");
                    continue;
                },
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
