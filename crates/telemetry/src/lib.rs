//! Logs, metrics and traces: names, set-up, exporters.
