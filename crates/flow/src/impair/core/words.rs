//! The words of settings: `rtt=20ms`, `rate=100mbit`, `up`, `lan`.

use std::fmt;
use std::time::Duration;

use super::script::Action;
use super::shape::{Direction, Preset, Setting, Shape, Stall};
use super::units;

/// What is wrong with a word.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Nothing has this name.
    #[error(
        "{0:?} is nothing that a link can do: settings are rtt, delay, rate, jitter, stall, buffer; links are clean, lan, \
         wan, longhaul; events are freeze, half-open, refuse, cut, thaw, retarget; up and down name a direction"
    )]
    Unknown(String),
    /// No time.
    #[error("{0}={1:?} is no time: write 300us, 20ms, 1.5s or 2m, at most an hour")]
    Time(&'static str, String),
    /// No rate.
    #[error("rate={0:?} is no rate: write 64kbit, 100mbit or 1gbit (1kbit to 100gbit), or none")]
    Rate(String),
    /// No size.
    #[error("buffer={0:?} is no size: write 64k or 1m (1448 bytes to 256m)")]
    Size(String),
    /// No chance.
    #[error("stall={0:?} is no loss: write 0.1%, or 0.1%:300ms with the length of a pause, or none")]
    Stall(String),
    /// A round trip belongs to both directions.
    #[error("rtt is of both directions: for one of them write delay=, which is one way")]
    RoundTripOfOneDirection,
    /// Only `HOST:PORT` can be a target.
    #[error("retarget={0:?} is no address: write retarget=HOST:PORT")]
    Target(String),
    /// A step must begin with its time.
    #[error("{0:?} is no time to begin a step with: write, for example, 5s rtt=150ms")]
    NoTime(String),
    /// Steps are in order.
    #[error("it is before the step above: write steps in the order of their times")]
    BeforeLast,
    /// Nothing happens in the step.
    #[error("nothing happens then: name a setting or an event after the time")]
    Nothing,
    /// More steps than a script may have.
    #[error("a script has at most {0} steps")]
    TooMany(usize),
}

/// Reads settings without times, such as `wan jitter=5ms down rate=10mbit`, on top of `base`.
///
/// # Errors
/// The first word that is wrong. Events such as `cut` are wrong here, except those that last.
pub fn parse_setting(base: Setting, text: &str) -> Result<Setting, Problem> {
    let mut setting = base;
    let mut words = Words::new(text);
    while let Some(word) = words.next() {
        match words.action(word)? {
            (Some(action), None) if action.lasts() => action.apply(&mut setting),
            (None, _) => (),
            _ => return Err(Problem::Unknown(word.to_owned())),
        }
    }
    Ok(setting)
}

/// The words of a step, and the direction they are about.
pub(super) struct Words<'a> {
    words: std::iter::Peekable<std::str::SplitAsciiWhitespace<'a>>,
    direction: Direction,
}

impl<'a> Words<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            words: text.split_ascii_whitespace().peekable(),
            direction: Direction::Both,
        }
    }

    pub(super) fn next(&mut self) -> Option<&'a str> {
        self.words.next()
    }

    /// What `word` does, and for how long if it says so; nothing when it only names a direction.
    pub(super) fn action(&mut self, word: &str) -> Result<(Option<Action>, Option<Duration>), Problem> {
        let direction = self.direction;
        if let Some((name, value)) = word.split_once('=') {
            return Ok((Some(self.assignment(name, value, word)?), None));
        }
        let preset = Preset::ALL.iter().find(|(name, _)| *name == word);
        let action = match word {
            "up" | "down" | "both" => {
                self.direction = match word {
                    "up" => Direction::Up,
                    "down" => Direction::Down,
                    _ => Direction::Both,
                };
                return Ok((None, None));
            }
            "cut" => Action::Cut,
            "thaw" => Action::Thaw,
            "freeze" => return Ok((Some(Action::Hold(direction, true)), self.lasting())),
            "half-open" => return Ok((Some(Action::Hold(Direction::Down, true)), self.lasting())),
            "refuse" => return Ok((Some(Action::Refuse(true)), self.lasting())),
            _ => match preset {
                Some((_, preset)) => Action::Shape(direction, preset.shape()),
                None => return Err(Problem::Unknown(word.to_owned())),
            },
        };
        Ok((Some(action), None))
    }

    fn assignment(&self, name: &str, value: &str, word: &str) -> Result<Action, Problem> {
        let direction = self.direction;
        let time = |name| units::duration(value).ok_or_else(|| Problem::Time(name, value.to_owned()));
        Ok(match name {
            "rtt" if direction != Direction::Both => return Err(Problem::RoundTripOfOneDirection),
            "rtt" => Action::Delay(direction, time("rtt")? / 2),
            "delay" => Action::Delay(direction, time("delay")?),
            "jitter" => Action::Jitter(direction, time("jitter")?),
            "rate" => Action::Rate(direction, rate(value)?),
            "stall" => Action::Stall(direction, stall(value)?),
            "buffer" => {
                let bytes = units::size(value).ok_or_else(|| Problem::Size(value.to_owned()))?;
                Action::Buffer(direction, bytes)
            }
            "retarget" if is_address(value) => Action::Retarget(value.to_owned()),
            "retarget" => return Err(Problem::Target(value.to_owned())),
            _ => return Err(Problem::Unknown(word.to_owned())),
        })
    }

    /// The time that may follow an event that lasts.
    fn lasting(&mut self) -> Option<Duration> {
        let time = units::duration(self.words.peek()?)?;
        self.words.next();
        Some(time)
    }
}

fn rate(text: &str) -> Result<Option<u64>, Problem> {
    if text == "none" {
        return Ok(None);
    }
    let rate = units::rate(text).ok_or_else(|| Problem::Rate(text.to_owned()))?;
    Ok(Some(rate))
}

fn stall(text: &str) -> Result<Option<Stall>, Problem> {
    if text == "none" {
        return Ok(None);
    }
    let wrong = || Problem::Stall(text.to_owned());
    let (chance, pause) = match text.split_once(':') {
        Some((chance, pause)) => (chance, Some(units::duration(pause).ok_or_else(wrong)?)),
        None => (text, None),
    };
    let chance = units::chance(chance).ok_or_else(wrong)?;
    Ok((chance > 0.0).then_some(Stall { chance, pause }))
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// As one would write it; what is not set is not shown.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "delay={}", units::show_duration(self.delay))?;
        if let Some(rate) = self.rate {
            write!(f, " rate={}", units::show_rate(rate))?;
        }
        if !self.jitter.is_zero() {
            write!(f, " jitter={}", units::show_duration(self.jitter))?;
        }
        if let Some(Stall { chance, pause }) = self.stall {
            write!(f, " stall={}%", chance * 100.0)?;
            if let Some(pause) = pause {
                write!(f, ":{}", units::show_duration(pause))?;
            }
        }
        if let Some(buffer) = self.buffer {
            write!(f, " buffer={buffer}")?;
        }
        f.write_str(if self.held { " freeze" } else { "" })
    }
}

/// As one would write it.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.up == self.down {
            write!(f, "{}", self.up)?;
        } else {
            write!(f, "up {} down {}", self.up, self.down)?;
        }
        f.write_str(if self.refusing { " refuse" } else { "" })
    }
}
