//! Installs the process's one subscriber.

use std::io;
use std::path::PathBuf;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{DefaultFields, JsonFields};
use tracing_subscriber::layer::{Layer, SubscriberExt};

use crate::format;
use crate::otlp::{Exporter, Otlp, Pipeline};
use crate::output::{Output, Outputs};
use crate::trace::TraceLayer;
use crate::zap;

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
    /// One JSON object a line, in the shape that etcd's logger gives it.
    Zap,
    /// etcd's lines for people.
    ZapConsole,
}

/// What to log, how, and where spans go.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// How a log line looks.
    pub format: Format,
    /// Which events are logged, in the grammar of `RUST_LOG`: `info`, `warn,setpoint_store=debug`. Empty means
    /// `info`. Trace ids do not depend on it: spans of level INFO are always followed.
    pub filter: String,
    /// Whether text lines are coloured; say so only for a terminal.
    pub color: bool,
    /// Where lines go; standard error when empty.
    pub outputs: Vec<Output>,
    /// Where finished spans are sent; `None` sends them nowhere.
    pub otlp: Option<Otlp>,
}

/// Telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// The filter does not parse.
    #[error(
        "log filter {filter:?} is not valid: write for example \"info\" or \"warn,setpoint_store=debug\""
    )]
    Filter {
        /// What was said.
        filter: String,
    },
    /// A file for log lines cannot be opened.
    #[error("write the log to {}: {cause}; choose a file in a directory you may write", .path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// Why not. Part of the message, before the remedy.
        cause: io::Error,
    },
    /// The exporter does not accept its settings.
    #[error("export traces to {endpoint}: {detail}")]
    Otlp {
        /// Where to.
        endpoint: String,
        /// Why not.
        detail: String,
    },
    /// A subscriber is installed already.
    #[error("a log subscriber is installed already: set up telemetry once a process")]
    Installed,
}

/// Sends what is left when dropped. Hold it until the end of the process.
#[must_use = "spans that wait are lost when the guard is dropped early"]
pub struct Guard {
    pipeline: Option<Pipeline>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(pipeline) = self.pipeline.take() {
            pipeline.shutdown();
        }
    }
}

impl Setup {
    /// Installs the subscriber for the whole process. With [`Setup::otlp`] it must be called inside a tokio runtime.
    ///
    /// # Errors
    /// A filter that does not parse, an exporter that cannot be built, or a second call.
    pub fn install(self) -> Result<Guard, SetupError> {
        let outputs =
            Outputs::open(&self.outputs).map_err(|(path, cause)| SetupError::Output { path, cause })?;
        let (subscriber, guard) = self.build(outputs)?;
        tracing::subscriber::set_global_default(subscriber).map_err(|_| SetupError::Installed)?;
        Ok(guard)
    }

    fn build<W>(self, writer: W) -> Result<(impl tracing::Subscriber + Send + Sync, Guard), SetupError>
    where
        W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
    {
        let directives = if self.filter.is_empty() {
            "info"
        } else {
            &self.filter
        };
        let filter = EnvFilter::builder()
            .parse(directives)
            // The parser's own words say no more than that.
            .map_err(|_| SetupError::Filter {
                filter: self.filter.clone(),
            })?;
        let pipeline = self.otlp.map(Pipeline::start).transpose()?;
        let exporting = pipeline.is_some();
        let follow = filter_fn(move |metadata| {
            *metadata.level() <= tracing::Level::INFO && (exporting || metadata.is_span())
        })
        .with_max_level_hint(LevelFilter::INFO);
        let trace = TraceLayer {
            exporter: pipeline.as_ref().map(Exporter::new),
        };
        let lines = tracing_subscriber::fmt::layer().with_writer(writer);
        let lines = match self.format {
            Format::Text => lines
                .with_ansi(self.color)
                .fmt_fields(DefaultFields::new())
                .event_format(format::Text)
                .boxed(),
            Format::Json => lines
                .with_ansi(false)
                .fmt_fields(JsonFields::new())
                .event_format(format::Json)
                .boxed(),
            Format::Zap => lines
                .with_ansi(false)
                .fmt_fields(JsonFields::new())
                .event_format(zap::Zap)
                .boxed(),
            Format::ZapConsole => lines
                .with_ansi(false)
                .fmt_fields(JsonFields::new())
                .event_format(zap::ZapConsole)
                .boxed(),
        };
        // The trace layer lies below: a line is written after the span's context is known.
        let subscriber = tracing_subscriber::registry()
            .with(trace.with_filter(follow))
            .with(lines.with_filter(filter));
        Ok((subscriber, Guard { pipeline }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use setpoint_base::TraceContext;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format, filter: &str, body: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let setup = Setup {
            format,
            filter: filter.to_owned(),
            ..Setup::default()
        };
        let (subscriber, _guard) = setup.build(move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, body);
        String::from_utf8(lines.0.lock().clone()).unwrap()
    }

    fn reconcile_something() {
        let cause: TraceContext = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
            .parse()
            .unwrap();
        let span = tracing::info_span!(
            "reconcile",
            object = "default/a\"b",
            attempt = tracing::field::Empty
        );
        crate::trace::adopt(&span, &cause);
        span.record("attempt", 2);
        span.in_scope(|| tracing::warn!(port = 8080, bound = true, "port \"taken\""));
    }

    #[test]
    fn a_json_line_carries_message_fields_span_and_trace() {
        let line = logged(Format::Json, "info", reconcile_something);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["level"], "WARN");
        assert_eq!(value["message"], "port \"taken\"");
        assert_eq!(value["fields"]["port"], 8080);
        assert_eq!(value["fields"]["bound"], true);
        assert_eq!(value["span"]["name"], "reconcile");
        assert_eq!(value["span"]["object"], "default/a\"b");
        assert_eq!(value["span"]["attempt"], 2);
        assert_eq!(value["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(value["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn a_line_for_readers_of_etcds_log_has_its_keys() {
        let line = logged(Format::Zap, "info", reconcile_something);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(line.starts_with(r#"{"level":"warn","ts":""#), "{line}");
        assert_eq!(value["msg"], "port \"taken\"");
        assert_eq!((&value["port"], &value["bound"]), (&8080.into(), &true.into()));
        assert!(
            value["caller"].as_str().unwrap().starts_with("src/setup.rs:"),
            "{line}"
        );
        let ts = value["ts"].as_str().unwrap();
        assert_eq!(
            (ts.len(), &ts[ts.len() - 1..]),
            ("2026-11-26T13:26:06.788657Z".len(), "Z")
        );
        let line = logged(Format::ZapConsole, "info", reconcile_something);
        assert!(line.contains("\twarn\tsrc/setup.rs:"), "{line}");
        assert!(
            line.contains("\tport \"taken\"\t{\"port\":8080,\"bound\":true"),
            "{line}"
        );
    }

    #[test]
    fn every_output_gets_every_line() {
        let dir = std::env::temp_dir().join(format!("setpoint-log-{}", std::process::id()));
        let files = [dir.with_extension("a"), dir.with_extension("b")];
        let outputs = files.clone().map(Output::File);
        let mut opened = Outputs::open(&outputs).ok().unwrap();
        for line in ["one\n", "two\n"] {
            io::Write::write_all(&mut opened, line.as_bytes()).unwrap();
        }
        for file in &files {
            assert_eq!(std::fs::read_to_string(file).unwrap(), "one\ntwo\n");
            std::fs::remove_file(file).unwrap();
        }
        let nowhere = Output::File(dir.join("nowhere/log"));
        assert!(Outputs::open(&[nowhere]).is_err());
    }

    #[test]
    fn a_text_line_reads_left_to_right_and_ends_with_the_trace() {
        let line = logged(Format::Text, "", reconcile_something);
        assert!(
            line.contains(
                " WARN  setpoint_telemetry::setup::tests: port \"taken\" port=8080 bound=true reconcile{"
            ),
            "{line}"
        );
        assert!(
            line.ends_with("trace=4bf92f3577b34da6a3ce929d0e0e4736\n"),
            "{line}"
        );
        assert!(!line.contains('\x1b'), "{line}");
    }

    #[test]
    fn the_filter_hides_lines_but_not_the_trace_of_those_that_remain() {
        let line = logged(Format::Json, "warn", || {
            reconcile_something();
            tracing::info!("hidden");
        });
        assert_eq!(line.lines().count(), 1);
        assert!(line.contains("4bf92f3577b34da6a3ce929d0e0e4736"), "{line}");
    }

    #[test]
    fn a_filter_that_does_not_parse_is_refused_with_an_example() {
        let setup = Setup {
            filter: "info,=,x=loud".to_owned(),
            ..Setup::default()
        };
        let error = setup.build(io::stderr).err().unwrap().to_string();
        assert!(
            error.contains("x=loud") && error.contains("for example"),
            "{error}"
        );
    }
}
