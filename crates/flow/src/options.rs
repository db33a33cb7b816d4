//! How connections are flow-controlled.

use std::time::Duration;

use crate::core::window::Bounds;

/// The receive windows of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// As large as the link needs, between these bounds.
    Adaptive(Bounds),
    /// This many bytes a stream, and four times as many a connection.
    Static(u32),
}

impl Default for Windows {
    fn default() -> Self {
        Self::Adaptive(Bounds::default())
    }
}

/// Options of [`Flow`](crate::Flow).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowOptions {
    /// Receive windows (adaptive, from 1 MiB to 64 MiB).
    pub windows: Windows,
    /// Bytes that all peers together may have us keep unread before windows close (64 MiB). What HTTP/2 grants a
    /// connection by itself, 64 KiB, comes on top.
    pub budget_bytes: u64,
    /// A stream that waits for its peer's credit for so long leaves an event (5 s).
    pub stall_event_after: Duration,
}

impl Default for FlowOptions {
    fn default() -> Self {
        Self {
            windows: Windows::default(),
            budget_bytes: 64 << 20,
            stall_event_after: Duration::from_secs(5),
        }
    }
}

/// The largest window HTTP/2 knows (RFC 9113 §6.9.1), in bytes.
const WINDOW_MAX: u32 = (1 << 31) - 1;
/// The smallest that is worth announcing, in bytes: a frame.
const WINDOW_MIN: u32 = 16 << 10;

impl FlowOptions {
    /// Whether they can be used.
    ///
    /// # Errors
    /// Every problem, each with its remedy.
    pub fn validate(&self) -> Result<(), Vec<String>> {
        let mut problems = Vec::new();
        let mut window = |bytes: u32, what: &str| {
            if !(WINDOW_MIN..=WINDOW_MAX / 4).contains(&bytes) {
                problems.push(format!(
                    "{what} of {bytes} bytes: give from {WINDOW_MIN} to {}",
                    WINDOW_MAX / 4
                ));
            }
        };
        match self.windows {
            Windows::Static(bytes) => window(bytes, "a static window"),
            Windows::Adaptive(bounds) => {
                window(bounds.start, "a first window");
                window(bounds.cap, "a largest window");
            }
        }
        if self.budget_bytes < 1 << 20 {
            problems.push(format!(
                "a receive budget of {} bytes: give at least 1 MiB",
                self.budget_bytes
            ));
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(problems)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_no_peer_could_be_told_are_refused() {
        assert_eq!(FlowOptions::default().validate(), Ok(()));
        let options = FlowOptions {
            windows: Windows::Static(0),
            budget_bytes: 7,
            ..FlowOptions::default()
        };
        assert_eq!(options.validate().unwrap_err().len(), 2);
        let options = FlowOptions {
            windows: Windows::Static(u32::MAX),
            ..FlowOptions::default()
        };
        assert!(options.validate().unwrap_err()[0].contains("static window"));
    }
}
