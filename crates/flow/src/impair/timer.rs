//! Waiting until a moment, as exactly as the system can.
//!
//! tokio's timers have a resolution of 1 ms, which is the whole delay of a short link. On Linux the kernel's timer
//! descriptors have that of the hardware; elsewhere, and on paused time, tokio's serve.

use std::pin::Pin;

use tokio::time::{Instant, Sleep, sleep_until};

/// One timer, used again and again.
pub(super) enum Timer {
    /// tokio's own, which stands still when time is paused.
    Tokio(Pin<Box<Sleep>>),
    /// The kernel's.
    #[cfg(target_os = "linux")]
    Kernel(kernel::Timer),
}

impl Timer {
    /// A timer on tokio's clock.
    pub(super) fn tokio() -> Self {
        Self::Tokio(Box::pin(sleep_until(Instant::now())))
    }

    /// The most exact timer there is.
    pub(super) fn exact() -> Self {
        #[cfg(target_os = "linux")]
        if let Ok(timer) = kernel::Timer::new() {
            return Self::Kernel(timer);
        }
        Self::tokio()
    }

    /// Waits until `at`. May be dropped at any time.
    pub(super) async fn until(&mut self, at: Instant) {
        match self {
            Self::Tokio(sleep) => {
                sleep.as_mut().reset(at);
                sleep.as_mut().await;
            }
            #[cfg(target_os = "linux")]
            Self::Kernel(timer) => {
                if timer.until(at).await.is_err() {
                    sleep_until(at).await;
                }
            }
        }
    }
}

#[cfg(target_os = "linux")]
mod kernel {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;
    use tokio::time::Instant;

    /// A zero would switch the timer off.
    const SHORTEST: Duration = Duration::from_nanos(1);
    const NEVER: Timespec = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };

    pub(in super::super) struct Timer {
        file: AsyncFd<OwnedFd>,
        /// What it is set to: setting it again would cost a call.
        at: Option<Instant>,
    }

    impl Timer {
        pub(super) fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let file = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            #[expect(
                deprecated,
                reason = "what replaces it is unsafe; an owned descriptor is what it asks for"
            )]
            let file = AsyncFd::with_interest(file, Interest::READABLE)?;
            Ok(Self { file, at: None })
        }

        pub(super) async fn until(&mut self, at: Instant) -> io::Result<()> {
            if self.at != Some(at) {
                self.set(at)?;
            }
            let mut count = [0; 8];
            self.file
                .async_io(Interest::READABLE, |file| {
                    rustix::io::read(file, &mut count).map_err(io::Error::from)
                })
                .await?;
            self.at = None;
            Ok(())
        }

        fn set(&mut self, at: Instant) -> io::Result<()> {
            let wait = at.saturating_duration_since(Instant::now()).max(SHORTEST);
            let value = Timespec::try_from(wait).map_err(io::Error::other)?;
            let once = Itimerspec {
                it_interval: NEVER,
                it_value: value,
            };
            timerfd_settime(&self.file, TimerfdTimerFlags::empty(), &once)?;
            self.at = Some(at);
            Ok(())
        }
    }
}
