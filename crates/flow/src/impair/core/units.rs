//! Times, rates, sizes and chances as people write them, read and shown.

use std::time::Duration;

/// Longest time that is understood: nothing on a network takes an hour.
const TIME_MAX_SECONDS: f64 = 3_600.0;

/// `20ms`, `1.5s`, `2m`, `300us`; `0` needs no unit.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let seconds = match split(text)? {
        (0.0, "") => 0.0,
        (number, "us" | "µs") => number / 1e6,
        (number, "ms") => number / 1e3,
        (number, "s") => number,
        (number, "m" | "min") => number * 60.0,
        _ => return None,
    };
    (seconds <= TIME_MAX_SECONDS).then(|| Duration::from_secs_f64(seconds))
}

/// `100mbit`, `1gbit`, `64kbit`, `9600bit`: bits per second.
pub(super) fn rate(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let bits = match unit {
        "bit" => number,
        "kbit" => number * 1e3,
        "mbit" => number * 1e6,
        "gbit" => number * 1e9,
        _ => return None,
    };
    (1_000.0..=100e9).contains(&bits).then_some(bits as u64)
}

/// `64k`, `1m`, `65536`: bytes, in powers of 1,024.
pub(super) fn size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let bytes = match unit {
        "" | "b" => number,
        "k" | "kb" | "kib" => number * 1024.0,
        "m" | "mb" | "mib" => number * 1024.0 * 1024.0,
        _ => return None,
    };
    (1_448.0..=(256u64 << 20) as f64)
        .contains(&bytes)
        .then_some(bytes as u64)
}

/// `0.1%`: a share from 0 to 1.
pub(super) fn chance(text: &str) -> Option<f64> {
    match split(text)? {
        (number, "%") if number <= 100.0 => Some(number / 100.0),
        _ => None,
    }
}

/// The number at the front and the unit behind it, in lower case only.
fn split(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let number: f64 = number.parse().ok()?;
    Some((number, unit.trim_start()))
}

/// A time in the unit that suits it.
pub(super) fn show_duration(time: Duration) -> String {
    let micros = time.as_micros();
    match micros {
        _ if micros.is_multiple_of(1_000_000) => format!("{}s", micros / 1_000_000),
        _ if micros.is_multiple_of(1_000) => format!("{}ms", micros / 1_000),
        _ if micros > 10_000 => format!("{:.1}ms", micros as f64 / 1e3),
        _ => format!("{micros}us"),
    }
}

/// A rate in the unit that suits it.
pub(super) fn show_rate(bits: u64) -> String {
    match bits {
        _ if bits >= 1_000_000_000 => format!("{}gbit", bits as f64 / 1e9),
        _ if bits >= 1_000_000 => format!("{}mbit", bits as f64 / 1e6),
        _ if bits >= 1_000 => format!("{}kbit", bits as f64 / 1e3),
        _ => format!("{bits}bit"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_rates_sizes_and_chances_are_read_with_their_units() {
        assert_eq!(duration("20ms"), Some(Duration::from_millis(20)));
        assert_eq!(duration("1.5s"), Some(Duration::from_millis(1_500)));
        assert_eq!(duration("0"), Some(Duration::ZERO));
        assert_eq!(rate("100mbit"), Some(100_000_000));
        assert_eq!(rate("1.5gbit"), Some(1_500_000_000));
        assert_eq!(size("64k"), Some(65_536));
        assert_eq!(chance("0.1%"), Some(0.001));
    }

    #[test]
    fn what_has_no_unit_or_is_out_of_range_is_nothing() {
        for text in ["20", "ms", "-1s", "1e9s", "2h", "100000s", "1.2.3s", ""] {
            assert_eq!(duration(text), None, "{text}");
        }
        for text in ["100", "100MB", "0mbit", "999gbit", "nanbit"] {
            assert_eq!(rate(text), None, "{text}");
        }
        for text in ["0", "100", "1g", "300m"] {
            assert_eq!(size(text), None, "{text}");
        }
        for text in ["0.1", "101%", "-1%"] {
            assert_eq!(chance(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_shown_is_read_again() {
        for micros in [0, 1, 999, 1_000, 1_500, 30_000, 2_000_000, 61_000_000] {
            let time = Duration::from_micros(micros);
            assert_eq!(duration(&show_duration(time)), Some(time));
        }
        for bits in [1_000, 64_000, 1_500_000, 100_000_000, 2_500_000_000] {
            assert_eq!(rate(&show_rate(bits)), Some(bits));
        }
    }
}
