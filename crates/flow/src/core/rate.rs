//! How often: a number of permits in a time, exact enough to count on.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Time is counted in 1/256 ns: whole nanoseconds would be wrong by 0.04 % at 700,000 a second.
pub(crate) const TICKS_PER_NANO: u64 = 256;
const TICKS_PER_SECOND: u128 = 1_000_000_000 * TICKS_PER_NANO as u128;
/// Longest time in which a bucket may fill up, in ticks: about 100 days.
pub(crate) const FILL_TICKS_MAX: u64 = 1 << 61;

/// A rate, as the time between two permits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    permits: u32,
    per_seconds: u32,
}

impl Rate {
    /// `permits` a second. `None` for 0: to refuse everything, do not serve it.
    #[must_use]
    pub fn per_second(permits: u32) -> Option<Self> {
        Self::of(permits, 1)
    }

    /// `permits` in `seconds`. `None` when one of them is 0.
    #[must_use]
    pub fn of(permits: u32, seconds: u32) -> Option<Self> {
        (permits > 0 && seconds > 0).then_some(Self {
            permits,
            per_seconds: seconds,
        })
    }

    /// Time between two permits, in ticks, to the nearest.
    pub(crate) fn period_ticks(self) -> u64 {
        let ticks = u128::from(self.per_seconds) * TICKS_PER_SECOND;
        let permits = u128::from(self.permits);
        // At most 2^32 s in ticks, which is 2^70; FILL_TICKS_MAX keeps what is used below 2^62.
        u64::try_from((ticks + permits / 2) / permits).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.per_seconds {
            1 => write!(f, "{}/s", self.permits),
            60 => write!(f, "{}/m", self.permits),
            3_600 => write!(f, "{}/h", self.permits),
            seconds => write!(f, "{}/{seconds}s", self.permits),
        }
    }
}

impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is no rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no rate: write a number above 0 and a time, as in 100/s, 30/m, 1000/h or 5/10s")]
pub struct InvalidRate(String);

impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        let parse = || {
            let (permits, time) = text.split_once('/')?;
            let seconds = match time.trim() {
                "s" => 1,
                "m" => 60,
                "h" => 3_600,
                time => time.strip_suffix('s')?.parse().ok()?,
            };
            Self::of(permits.trim().parse().ok()?, seconds)
        };
        parse().ok_or_else(|| InvalidRate(text.to_owned()))
    }
}

/// A duration in ticks; what does not fit is the most there is.
pub(crate) fn ticks(time: Duration) -> u64 {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    nanos.saturating_mul(TICKS_PER_NANO)
}

/// Ticks as a duration, rounded up: who waits that long has waited long enough.
pub(crate) fn duration(ticks: u64) -> Duration {
    Duration::from_nanos(ticks.div_ceil(TICKS_PER_NANO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_read_and_print_in_words_people_use() {
        for (text, printed, period_nanos) in [
            ("100/s", "100/s", 10_000_000.0),
            (" 30 / m", "30/m", 2e9),
            ("3600/h", "3600/h", 1e9),
            ("5/10s", "5/10s", 2e9),
            ("700000/s", "700000/s", 1_428.571),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!(rate.to_string(), printed);
            let period = rate.period_ticks() as f64 / TICKS_PER_NANO as f64;
            assert!((period / period_nanos - 1.0).abs() < 1e-5, "{text}: {period}");
        }
        for text in ["", "100", "0/s", "5/0s", "-1/s", "1/d", "1.5/s", "9999999999/s"] {
            assert_eq!(text.parse::<Rate>(), Err(InvalidRate(text.to_owned())));
        }
    }

    #[test]
    fn a_wait_is_never_rounded_down() {
        assert_eq!(duration(1), Duration::from_nanos(1));
        assert_eq!(duration(TICKS_PER_NANO), Duration::from_nanos(1));
        assert_eq!(duration(TICKS_PER_NANO + 1), Duration::from_nanos(2));
    }
}
