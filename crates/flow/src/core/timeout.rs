//! `grpc-timeout` on the wire: up to eight digits and a unit.

use std::time::Duration;

const DIGITS_MAX: u64 = 99_999_999;

/// Reads a header's value. `None` when it is none.
#[must_use]
pub fn parse(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3_600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Writes a header's value, in the finest unit that has room: rounded up, so that a peer does not give up before us.
#[must_use]
pub fn format(timeout: Duration) -> String {
    let nanos = timeout.as_nanos();
    for (unit, size) in [
        ('n', 1),
        ('u', 1_000),
        ('m', 1_000_000),
        ('S', 1_000_000_000),
        ('M', 60_000_000_000),
        ('H', 3_600_000_000_000_u128),
    ] {
        let count = nanos.div_ceil(size);
        if count <= u128::from(DIGITS_MAX) {
            return format!("{count}{unit}");
        }
    }
    format!("{DIGITS_MAX}H")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_unit_is_understood_and_nonsense_is_not() {
        for (text, expect) in [
            ("1H", Some(Duration::from_secs(3_600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3_600))),
            ("123456789S", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("1 S", None),
            ("1x", None),
        ] {
            assert_eq!(parse(text.as_bytes()), expect, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_as_no_less_and_hardly_more(seconds in 0_u64..1_000_000_000, nanos in 0_u32..1_000_000_000) {
            let timeout = Duration::new(seconds, nanos);
            let back = parse(format(timeout).as_bytes()).unwrap();
            prop_assert!(back >= timeout, "{back:?} {timeout:?}");
            prop_assert!(back.as_secs_f64() <= timeout.as_secs_f64() * 1.001 + 1e-6, "{back:?} {timeout:?}");
        }
    }
}
