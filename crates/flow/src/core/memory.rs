//! How short memory is, and who has to do without.
//!
//! Memory that is used nears what there is; before the kernel ends the process, calls of the lowest class are refused,
//! nearer still all but the highest. Pressure rises at once and falls slowly: only when there was enough for a while, by
//! some distance, so that what was refused does not come back all at once to a process that has just got its breath.

use std::time::Duration;

use serde::Serialize;

use super::gate::Class;

/// How far below its threshold usage has to be, in per cent of the memory, before pressure falls.
const DISTANCE: f64 = 5.0;
/// And how long.
const CALM: Duration = Duration::from_secs(3);

/// From which usage on calls are refused, in per cent of the memory there is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// Calls of the class batch (90).
    pub batch: f64,
    /// All but those of the class system (95).
    pub interactive: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            batch: 90.0,
            interactive: 95.0,
        }
    }
}

/// How short memory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Pressure {
    /// Everybody is served.
    #[default]
    None = 0,
    /// Calls of the class batch are refused.
    Batch = 1,
    /// All but those of the class system are.
    Interactive = 2,
}

impl Pressure {
    /// Whether calls of a class are refused.
    #[must_use]
    pub fn refuses(self, class: Class) -> bool {
        match self {
            Self::None => false,
            Self::Batch => class == Class::Batch,
            Self::Interactive => class != Class::System,
        }
    }

    /// What a byte says.
    #[must_use]
    pub fn of(byte: u8) -> Self {
        match byte {
            0 => Self::None,
            1 => Self::Batch,
            _ => Self::Interactive,
        }
    }
}

/// Makes pressure out of readings.
#[derive(Debug, Default)]
pub struct Controller {
    pressure: Pressure,
    /// Since when readings have been low enough for less.
    calm_since: Option<Duration>,
}

impl Controller {
    /// Looks at a reading, in per cent of what there is; the pressure from now on. Time is counted from any moment that
    /// stays the same.
    pub fn step(&mut self, used: f64, thresholds: Thresholds, now: Duration) -> Pressure {
        let level = |distance: f64| match used + distance {
            used if used >= thresholds.interactive => Pressure::Interactive,
            used if used >= thresholds.batch => Pressure::Batch,
            _ => Pressure::None,
        };
        let (up, down) = (level(0.0), level(DISTANCE));
        if up > self.pressure {
            self.pressure = up;
            self.calm_since = None;
        } else if down < self.pressure {
            let since = *self.calm_since.get_or_insert(now);
            if now.saturating_sub(since) >= CALM {
                self.pressure = down;
                self.calm_since = None;
            }
        } else {
            self.calm_since = None;
        }
        self.pressure
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Readings a second apart, and the pressure after each.
    #[track_caller]
    fn check(readings: &[(f64, Pressure)]) {
        let mut controller = Controller::default();
        for (second, (used, expect)) in readings.iter().enumerate() {
            let now = Duration::from_secs(second as u64);
            let got = controller.step(*used, Thresholds::default(), now);
            assert_eq!(got, *expect, "after {second} s at {used} %");
        }
    }

    #[test]
    fn pressure_rises_at_once() {
        check(&[
            (89.9, Pressure::None),
            (90.0, Pressure::Batch),
            (95.0, Pressure::Interactive),
        ]);
        check(&[(99.0, Pressure::Interactive)]);
    }

    #[test]
    fn pressure_falls_after_a_while_at_a_distance() {
        let (none, batch, interactive) = (Pressure::None, Pressure::Batch, Pressure::Interactive);
        check(&[
            (96.0, interactive),
            (89.0, interactive),
            (89.0, interactive),
            (89.0, interactive),
            (89.0, batch),
            (84.0, batch),
            (84.0, batch),
            (84.0, batch),
            (84.0, none),
        ]);
    }

    #[test]
    fn who_swings_round_a_threshold_stays_above_it() {
        let swing = [(90.5, Pressure::Batch), (88.0, Pressure::Batch)];
        check(&swing.repeat(20));
        let dips = [
            (91.0, Pressure::Batch),
            (80.0, Pressure::Batch),
            (80.0, Pressure::Batch),
        ];
        check(&dips.repeat(20));
    }

    #[test]
    fn the_lowest_class_goes_first_and_the_highest_never() {
        for (pressure, refused) in [
            (Pressure::None, vec![]),
            (Pressure::Batch, vec![Class::Batch]),
            (Pressure::Interactive, vec![Class::Interactive, Class::Batch]),
        ] {
            let got: Vec<_> = Class::ALL
                .into_iter()
                .filter(|class| pressure.refuses(*class))
                .collect();
            assert_eq!(got, refused);
            assert_eq!(Pressure::of(pressure as u8), pressure);
        }
    }

    proptest! {
        /// Whatever the readings: never below what the last one asks for, and calm in the end.
        #[test]
        fn pressure_follows_usage(readings in prop::collection::vec((0.0_f64..110.0, 0_u64..4_000), 1..100)) {
            let (mut controller, thresholds) = (Controller::default(), Thresholds::default());
            let mut now = Duration::ZERO;
            for (used, after) in readings {
                now += Duration::from_millis(after);
                let pressure = controller.step(used, thresholds, now);
                prop_assert!(used < thresholds.batch || pressure.refuses(Class::Batch));
                prop_assert!(used < thresholds.interactive || pressure.refuses(Class::Interactive));
                prop_assert!(!pressure.refuses(Class::System));
            }
            controller.step(10.0, thresholds, now);
            prop_assert_eq!(controller.step(10.0, thresholds, now + CALM), Pressure::None);
        }
    }
}
