//! What the commands print: lines or JSON on standard output, progress on a terminal's standard error.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::cli::Failure;

/// Time between two signs of life.
const PAUSE: Duration = Duration::from_millis(200);

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Lines for people
    Simple,
    /// One JSON object
    Json,
}

/// Prints an object of scalars and lists: as JSON, or a line for each field.
pub(super) fn print(out: Format, value: &Value) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    if out == Format::Json {
        writeln!(stdout, "{value}")?;
        return Ok(());
    }
    for (name, value) in value.as_object().into_iter().flatten() {
        match value {
            Value::String(text) => writeln!(stdout, "{name}: {text}")?,
            Value::Array(items) => {
                for item in items {
                    match item {
                        Value::String(text) => writeln!(stdout, "{name}: {text}")?,
                        item => writeln!(stdout, "{name}: {item}")?,
                    }
                }
            }
            value => writeln!(stdout, "{name}: {value}")?,
        }
    }
    Ok(())
}

/// Says on a terminal how far long work has come.
pub(super) struct Progress {
    what: &'static str,
    next: Instant,
    shown: bool,
    terminal: bool,
}

impl Progress {
    pub(super) fn new(what: &'static str) -> Self {
        Self {
            what,
            next: Instant::now() + PAUSE,
            shown: false,
            terminal: io::stderr().is_terminal(),
        }
    }

    /// Bytes, of all if that is known.
    pub(super) fn bytes(&mut self, done: u64, all: Option<u64>) {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        self.say(|| match all {
            Some(all) => format!("{:.1} of {:.1} MiB", mib(done), mib(all)),
            None => format!("{:.1} MiB", mib(done)),
        });
    }

    pub(super) fn count(&mut self, done: u64, of: &str) {
        self.say(|| format!("{done} {of}"));
    }

    fn say(&mut self, text: impl FnOnce() -> String) {
        if !self.terminal || Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + PAUSE;
        self.shown = true;
        // A terminal that went away is no reason to stop.
        let _ = write!(io::stderr(), "\r\x1b[K{}: {}", self.what, text());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
