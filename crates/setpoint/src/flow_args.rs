//! What may be said about flow control: receive windows and the budget for what nobody has read yet.

use clap::Args;
use setpoint_flow::{Bounds, Windows};

use crate::config::{Said, Setting};
use crate::plane::PlaneOptions;

const WINDOWS: &str = "flow-windows";
const WINDOW_MAX: &str = "flow-window-max";
const BUDGET: &str = "flow-budget";

pub(crate) const SETTINGS: [Setting; 3] = [
    Setting::new(WINDOWS, "SETPOINT_FLOW_WINDOWS"),
    Setting::new(WINDOW_MAX, "SETPOINT_FLOW_WINDOW_MAX"),
    Setting::new(BUDGET, "SETPOINT_FLOW_BUDGET"),
];

/// The flags (docs/ops/flow-control.md).
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Flow control")]
pub(crate) struct FlowArgs {
    /// HTTP/2 receive windows: adaptive, or static, or static:BYTES for each stream [default: adaptive]
    #[arg(long, value_name = "HOW", env = "SETPOINT_FLOW_WINDOWS")]
    flow_windows: Option<String>,
    /// Largest adaptive window of a stream, in bytes [default: 67108864]
    #[arg(long, value_name = "BYTES", env = "SETPOINT_FLOW_WINDOW_MAX")]
    flow_window_max: Option<String>,
    /// Bytes that all peers together may have us keep unread before windows close [default: 67108864]
    #[arg(long, value_name = "BYTES", env = "SETPOINT_FLOW_BUDGET")]
    flow_budget: Option<String>,
}

impl FlowArgs {
    /// In the order of [`SETTINGS`].
    pub(crate) fn values(&self) -> [&Option<String>; 3] {
        [&self.flow_windows, &self.flow_window_max, &self.flow_budget]
    }
}

/// Turns what was said about flow control into options.
pub(crate) fn resolve(said: &mut Said, plane: &mut PlaneOptions, problems: &mut Vec<String>) {
    let flow = &mut plane.flow;
    let before = problems.len();
    if let Some((value, source)) = said.take(WINDOWS) {
        match windows(&value) {
            Some(windows) => flow.windows = windows,
            None => problems.push(format!(
                "{source} is {value:?}: write adaptive, static, or static:BYTES as in static:1048576"
            )),
        }
    }
    let mut bytes = |name: &str| {
        let (value, source) = said.take(name)?;
        let bytes = value.parse::<u64>().ok();
        if bytes.is_none() {
            problems.push(format!("{source} is {value:?}: write a number of bytes"));
        }
        bytes
    };
    let (cap, budget) = (bytes(WINDOW_MAX), bytes(BUDGET));
    if let Some(cap) = cap {
        match &mut flow.windows {
            Windows::Adaptive(bounds) => {
                bounds.cap = u32::try_from(cap).unwrap_or(u32::MAX);
                bounds.start = bounds.start.min(bounds.cap);
            }
            Windows::Static(_) => problems.push(format!("--{WINDOW_MAX} is for adaptive windows alone")),
        }
    }
    if let Some(budget) = budget {
        flow.budget_bytes = budget;
    }
    if problems.len() == before {
        problems.extend(flow.validate().err().into_iter().flatten());
    }
}

fn windows(text: &str) -> Option<Windows> {
    match text.split_once(':') {
        None if text == "adaptive" => Some(Windows::default()),
        None if text == "static" => Some(Windows::Static(Bounds::default().start)),
        Some(("static", bytes)) => bytes.parse().ok().map(Windows::Static),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_adaptive_or_static() {
        assert_eq!(windows("adaptive"), Some(Windows::default()));
        assert_eq!(windows("static"), Some(Windows::Static(1 << 20)));
        assert_eq!(windows("static:65535"), Some(Windows::Static(65_535)));
        for wrong in ["", "static:", "static:-1", "adaptive:1", "none"] {
            assert_eq!(windows(wrong), None, "{wrong}");
        }
    }
}
