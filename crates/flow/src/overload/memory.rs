//! Readings of memory become pressure, which every call asks for.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::machine::{Machine, Reading};
use crate::core::memory::{Controller, Pressure};
use crate::limits::Limits;

/// Time between two readings. A process that gets a gigabyte a second takes 250 MB meanwhile.
const EVERY: Duration = Duration::from_millis(250);
/// The same while nothing limits memory: somebody may set a limit.
const SELDOM: Duration = Duration::from_secs(5);

impl Limits {
    /// Reads memory until it is dropped, and has calls refused while there is little: see
    /// [`Rules::memory`](crate::Rules::memory). Without a limit, nothing is refused.
    pub async fn watch_memory(&self, machine: &Machine) {
        let (mut controller, began) = (Controller::default(), Instant::now());
        loop {
            let rule = self.memory_rule();
            let reading = machine.read(rule.limit);
            let used = reading.map_or(0.0, |reading| reading.per_cent());
            let before = self.pressure();
            let pressure = controller.step(used, rule.thresholds(), began.elapsed());
            self.set_pressure(pressure, reading);
            if pressure != before {
                tell(before, pressure, reading);
            }
            sleep(if reading.is_some() { EVERY } else { SELDOM }).await;
        }
    }
}

fn tell(before: Pressure, now: Pressure, reading: Option<Reading>) {
    let Reading { used, limit, source } = reading.unwrap_or(Reading {
        used: 0,
        limit: 0,
        source: "no limit",
    });
    let refused = match now {
        Pressure::None => "nobody",
        Pressure::Batch => "calls of the class batch",
        Pressure::Interactive => "all calls but those of the class system",
    };
    if now > before {
        tracing::warn!(used, limit, source, refused, "memory is short: calls are refused");
    } else {
        tracing::info!(used, limit, source, refused, "memory is less short");
    }
}
