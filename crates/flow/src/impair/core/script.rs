//! Settings over time, as people write them.
//!
//! ```text
//! 0s  wan jitter=2ms            # a preset, and what differs from it
//! 5s  rtt=150ms; 10s freeze 3s  # a line or a semicolon ends a step
//! 20s up rate=1mbit down rate=20mbit
//! 25s cut
//! ```

use std::time::Duration;

use super::shape::{Direction, Setting, Shape, Stall};
use super::units;
use super::words::{Problem, Words};

/// Steps of a script at most.
const STEPS_MAX: usize = 10_000;

/// One thing that happens to a proxy.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Action {
    /// A whole shape, such as a preset's.
    Shape(Direction, Shape),
    /// Another delay, one way.
    Delay(Direction, Duration),
    /// Another rate, in bits per second; none is no limit.
    Rate(Direction, Option<u64>),
    /// Another jitter.
    Jitter(Direction, Duration),
    /// Other losses.
    Stall(Direction, Option<Stall>),
    /// Another buffer before the bottleneck, in bytes.
    Buffer(Direction, u64),
    /// Nothing comes out any more, or again.
    Hold(Direction, bool),
    /// Nobody gets in any more, and who is in is reset; or they may again.
    Refuse(bool),
    /// Every connection is reset.
    Cut,
    /// What was held or refused no longer is.
    Thaw,
    /// New connections go to another `HOST:PORT`.
    Retarget(String),
}

impl Action {
    /// Whether it is a setting, which lasts, and not an event.
    pub(super) fn lasts(&self) -> bool {
        !matches!(self, Self::Cut | Self::Thaw | Self::Retarget(_))
    }

    /// Changes what a setting can hold of it.
    pub fn apply(&self, setting: &mut Setting) {
        match *self {
            Self::Shape(direction, shape) => setting.change(direction, |it| {
                let held = it.held;
                *it = Shape { held, ..shape };
            }),
            Self::Delay(direction, delay) => setting.change(direction, |it| it.delay = delay),
            Self::Rate(direction, rate) => setting.change(direction, |it| it.rate = rate),
            Self::Jitter(direction, jitter) => setting.change(direction, |it| it.jitter = jitter),
            Self::Stall(direction, stall) => setting.change(direction, |it| it.stall = stall),
            Self::Buffer(direction, bytes) => setting.change(direction, |it| it.buffer = Some(bytes)),
            Self::Hold(direction, held) => setting.change(direction, |it| it.held = held),
            Self::Refuse(refusing) => setting.refusing = refusing,
            Self::Thaw => {
                setting.change(Direction::Both, |it| it.held = false);
                setting.refusing = false;
            }
            Self::Cut | Self::Retarget(_) => (),
        }
    }
}

/// What happens when, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Script {
    steps: Vec<(Duration, Action)>,
}

/// A script that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("step {number} of the script, {text:?}: {problem}")]
pub struct InvalidScript {
    /// Which step, from 1.
    pub number: usize,
    /// The step as it was written.
    pub text: String,
    /// What is wrong with it.
    pub problem: Problem,
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    /// The first step that is wrong, and why.
    pub fn parse(text: &str) -> Result<Self, InvalidScript> {
        let mut script = Self::default();
        let mut last = Duration::ZERO;
        let lines = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default());
        let steps = lines.flat_map(|line| line.split(';')).map(str::trim);
        for (index, step) in steps.filter(|step| !step.is_empty()).enumerate() {
            let number = index + 1;
            let begins = script.step(step, last).and_then(|begins| match number {
                ..=STEPS_MAX => Ok(begins),
                _ => Err(Problem::TooMany(STEPS_MAX)),
            });
            last = begins.map_err(|problem| InvalidScript {
                number,
                text: step.to_owned(),
                problem,
            })?;
        }
        // What ends by itself was written down with what began it.
        script.steps.sort_by_key(|(at, _)| *at);
        Ok(script)
    }

    fn step(&mut self, step: &str, last: Duration) -> Result<Duration, Problem> {
        let mut words = Words::new(step);
        let first = words.next().unwrap_or_default();
        let at = units::duration(first).ok_or_else(|| Problem::NoTime(first.to_owned()))?;
        if at < last {
            return Err(Problem::BeforeLast);
        }
        let before = self.steps.len();
        while let Some(word) = words.next() {
            let (Some(action), lasting) = words.action(word)? else {
                continue;
            };
            let end = match action {
                Action::Hold(direction, _) => Some(Action::Hold(direction, false)),
                Action::Refuse(_) => Some(Action::Refuse(false)),
                _ => None,
            };
            self.steps.push((at, action));
            if let (Some(lasting), Some(end)) = (lasting, end) {
                self.steps.push((at + lasting, end));
            }
        }
        if self.steps.len() == before {
            return Err(Problem::Nothing);
        }
        Ok(at)
    }

    /// What happens, each with its time since the start, in order.
    #[must_use]
    pub fn steps(&self) -> &[(Duration, Action)] {
        &self.steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> (usize, Problem) {
        let error = Script::parse(text).unwrap_err();
        (error.number, error.problem)
    }

    #[test]
    fn a_script_is_read_step_by_step() {
        let script =
            Script::parse("0s rtt=20ms rate=100mbit; 5s rtt=150ms\n# calm\n10s freeze 3s  # dead\n").unwrap();
        let secs = Duration::from_secs;
        let both = Direction::Both;
        assert_eq!(
            script.steps(),
            [
                (secs(0), Action::Delay(both, Duration::from_millis(10))),
                (secs(0), Action::Rate(both, Some(100_000_000))),
                (secs(5), Action::Delay(both, Duration::from_millis(75))),
                (secs(10), Action::Hold(both, true)),
                (secs(13), Action::Hold(both, false)),
            ]
        );
    }

    #[test]
    fn what_ends_by_itself_ends_between_later_steps() {
        let script = Script::parse("1s refuse 5s; 3s cut").unwrap();
        let times: Vec<u64> = script.steps().iter().map(|(at, _)| at.as_secs()).collect();
        assert_eq!(times, [1, 3, 6]);
    }

    #[test]
    fn each_direction_has_its_own_settings() {
        let script = Script::parse("0s wan up rate=1mbit down jitter=5ms").unwrap();
        let mut setting = Setting::default();
        script
            .steps()
            .iter()
            .for_each(|(_, action)| action.apply(&mut setting));
        assert_eq!(setting.up.rate, Some(1_000_000));
        assert_eq!(setting.down.rate, Some(20_000_000));
        assert_eq!(setting.up.jitter, Duration::ZERO);
        assert_eq!(setting.down.jitter, Duration::from_millis(5));
    }

    #[test]
    fn a_wrong_step_is_named_with_what_is_wrong() {
        assert_eq!(
            problem("0s lan; 5s rtt=fast"),
            (2, Problem::Time("rtt", "fast".to_owned()))
        );
        assert_eq!(problem("0s rate=100"), (1, Problem::Rate("100".to_owned())));
        assert_eq!(problem("5s cut; 1s thaw"), (2, Problem::BeforeLast));
        assert_eq!(problem("rtt=5ms"), (1, Problem::NoTime("rtt=5ms".to_owned())));
        assert_eq!(problem("5s up rtt=5ms"), (1, Problem::RoundTripOfOneDirection));
        assert_eq!(problem("5s"), (1, Problem::Nothing));
        assert_eq!(problem("5s explode"), (1, Problem::Unknown("explode".to_owned())));
        assert_eq!(
            problem("5s freeze soon"),
            (1, Problem::Unknown("soon".to_owned()))
        );
        assert_eq!(
            problem("5s retarget=here"),
            (1, Problem::Target("here".to_owned()))
        );
        assert_eq!(problem("0s stall=5"), (1, Problem::Stall("5".to_owned())));
    }

    #[test]
    fn the_message_says_which_step_and_what_to_write() {
        let error = Script::parse("0s lan\n5s rate=fast").unwrap_err();
        assert_eq!(
            error.to_string(),
            "step 2 of the script, \"5s rate=fast\": rate=\"fast\" is no rate: write 64kbit, 100mbit or 1gbit (1kbit to \
             100gbit), or none"
        );
    }

    #[test]
    fn an_empty_script_does_nothing() {
        assert_eq!(Script::parse(" \n# nothing\n;;").unwrap(), Script::default());
    }
}
