//! What `up` shows: one line per fact, written by one thread.
//!
//! Lines wait in a bounded queue, so that a terminal that does not read slows the programs it shows and never the
//! plane. Plain text when not a terminal, JSON lines with `--log-format json`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

/// Lines that may wait for the terminal; whoever writes more waits.
const LINES_MAX: usize = 1024;
/// How long the end of the program waits for the terminal to take the last lines.
const FLUSH_GRACE: Duration = Duration::from_secs(1);

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Color,
    Plain,
    Json,
}

/// One fact.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub(crate) enum Line {
    /// Something happened to the plane or a program.
    Note { text: String },
    /// Something is wrong.
    Problem { text: String },
    /// An object changed.
    Change(Change),
    /// A program said something.
    Output { program: String, text: String },
    /// What to try next.
    Hint { about: String, command: String },
}

/// One change of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Change {
    pub(crate) what: What,
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<String>,
    pub(crate) revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) trace: Option<String>,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum What {
    Found,
    Added,
    Changed,
    Deleted,
}

/// A handle to the terminal. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Terminal {
    lines: mpsc::Sender<Line>,
}

/// Resolves when all handles are gone and the last line is out.
pub(crate) struct Flushed(oneshot::Receiver<()>);

impl Terminal {
    /// Starts the thread that writes to standard output.
    pub(crate) fn start(style: Style) -> (Self, Flushed) {
        let (lines, mut queue) = mpsc::channel::<Line>(LINES_MAX);
        let (done, flushed) = oneshot::channel();
        let spawned = std::thread::Builder::new()
            .name("terminal".to_owned())
            .spawn(move || {
                while let Some(line) = queue.blocking_recv() {
                    // A closed pipe is no reason to stop the plane: go on and drop lines.
                    let _ = std::io::stdout()
                        .lock()
                        .write_all(render(&line, style).as_bytes());
                }
                let _ = std::io::stdout().lock().flush();
                let _ = done.send(());
            });
        if let Err(error) = spawned {
            tracing::error!(%error, "start the terminal's thread: nothing will be shown");
        }
        (Self { lines }, Flushed(flushed))
    }

    /// A terminal that a test reads.
    #[cfg(test)]
    pub(crate) fn captured() -> (Self, mpsc::Receiver<Line>) {
        let (lines, queue) = mpsc::channel(LINES_MAX);
        (Self { lines }, queue)
    }

    /// Shows a line; waits while the terminal is behind.
    pub(crate) async fn show(&self, line: Line) {
        // Fails only when the thread has ended, at the end of the program.
        let _ = self.lines.send(line).await;
    }

    pub(crate) async fn note(&self, text: impl Into<String>) {
        self.show(Line::Note { text: text.into() }).await;
    }

    pub(crate) async fn problem(&self, text: impl Into<String>) {
        self.show(Line::Problem { text: text.into() }).await;
    }
}

impl Flushed {
    /// Waits until everything was written, a moment at most.
    pub(crate) async fn wait(self) {
        let _ = tokio::time::timeout(FLUSH_GRACE, self.0).await;
    }
}

fn render(line: &Line, style: Style) -> String {
    if style == Style::Json {
        return match serde_json::to_string(line) {
            Ok(text) => text + "\n",
            Err(error) => format!("{{\"type\":\"problem\",\"text\":\"{error}\"}}\n"),
        };
    }
    let color = style == Style::Color;
    let paint = |code: &str, text: &str| {
        if color {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    };
    match line {
        Line::Note { text } => format!("{} {text}\n", paint("36", "•")),
        Line::Problem { text } => format!("{} {text}\n", paint("31", "✗")),
        Line::Change(change) => render_change(change, &paint),
        Line::Output { program, text } => {
            let code = PROGRAM_COLORS[program.bytes().map(usize::from).sum::<usize>() % PROGRAM_COLORS.len()];
            format!("{} {text}\n", paint(code, &format!("{program} |")))
        }
        Line::Hint { about, command } => format!("  {}\n      {}\n", paint("2", about), paint("1", command)),
    }
}

/// Colours told apart on dark and light grounds, red and green left for states.
const PROGRAM_COLORS: [&str; 4] = ["35", "34", "33", "36"];

fn render_change(change: &Change, paint: &dyn Fn(&str, &str) -> String) -> String {
    let (mark, code) = match change.what {
        What::Found => ("=", "2"),
        What::Added => ("+", "32"),
        What::Changed => ("~", "33"),
        What::Deleted => ("-", "31"),
    };
    let state_code = match change.state.as_str() {
        "Ready" | "Serving" | "Active" | "Established" => "32",
        "Degraded" | "Failed" | "Warning" => "31",
        _ => "33",
    };
    // Padding before painting: escape sequences have no width.
    let subject = format!("{:<46}", format!("{}/{}", change.kind, change.name));
    let state = format!("{:<12}", change.state);
    let mut text = format!(
        "{} {subject} {} {}",
        paint(code, mark),
        paint(state_code, &state),
        paint("2", &format!("rev {:<6}", change.revision)),
    );
    if let Some(trace) = &change.trace {
        let _ = write!(text, " {}", paint("2", &format!("trace {trace}")));
    }
    if let Some(message) = &change.message {
        let _ = write!(text, "\n    {}", paint("2", message));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change() -> Line {
        Line::Change(Change {
            what: What::Changed,
            kind: "Site".to_owned(),
            name: "default/hello".to_owned(),
            state: "Serving".to_owned(),
            message: None,
            revision: 42,
            trace: Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned()),
        })
    }

    #[test]
    fn a_change_is_one_line_with_state_revision_and_trace() {
        let text = render(&change(), Style::Plain);
        assert_eq!(
            text,
            "~ Site/default/hello                             Serving      rev 42     trace 4bf92f3577b34da6a3ce929d0e0e4736\n"
        );
    }

    #[test]
    fn colour_is_only_for_terminals_and_json_is_one_object_a_line() {
        assert!(render(&change(), Style::Color).contains("\x1b["));
        let json: serde_json::Value = serde_json::from_str(&render(&change(), Style::Json)).unwrap();
        assert_eq!(json["type"], "change");
        assert_eq!(json["what"], "changed");
        assert_eq!(json["revision"], 42);
    }

    #[test]
    fn a_program_keeps_its_prefix() {
        let line = Line::Output {
            program: "web".to_owned(),
            text: "hello".to_owned(),
        };
        assert_eq!(render(&line, Style::Plain), "web | hello\n");
    }
}
