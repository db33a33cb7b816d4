//! Whole numbers of JSON in every spelling: `1`, `1.0`, `10e-1`, `0.1e1`.

/// Digits of the largest number there is.
const DIGITS_MAX: i64 = 20;

/// How long the number is that begins here.
pub(super) fn len(text: &[u8]) -> usize {
    text.iter()
        .position(|byte| !matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'))
        .unwrap_or(text.len())
}

/// The digits of a number, with a minus in front of a negative one; `None` for what is not whole.
pub(super) fn whole(number: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(number).ok()?;
    let (text, sign) = match text.strip_prefix('-') {
        Some(rest) => (rest, "-"),
        None => (text, ""),
    };
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let (before, behind) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let (before, behind) = (
        if before == "0" { "" } else { before },
        behind.trim_end_matches('0'),
    );
    if before.is_empty() && behind.is_empty() {
        return Some("0".to_owned());
    }
    let exponent: i32 = match exponent {
        Some(exponent) => exponent.parse().ok()?,
        None => 0,
    };
    let shifted = shifted(before, behind, exponent)?;
    Some(format!("{sign}{shifted}"))
}

/// The digits with the point moved to the right.
fn shifted(before: &str, behind: &str, exponent: i32) -> Option<String> {
    let Ok(right) = usize::try_from(exponent) else {
        let left = exponent.unsigned_abs() as usize;
        let place = before.len().checked_sub(left)?;
        let (kept, dropped) = before.split_at(place);
        let whole = behind.is_empty() && dropped.bytes().all(|digit| digit == b'0');
        return whole.then(|| kept.to_owned());
    };
    let zeros = right.checked_sub(behind.len())?;
    // Nobody may ask for a billion zeros.
    if before.len() as i64 + i64::from(exponent) > DIGITS_MAX {
        return None;
    }
    Some(format!("{before}{behind}{}", "0".repeat(zeros)))
}

/// The digits of a number within quotes: what begins as one. What follows it is not looked at, as in Go.
pub(super) fn whole_text(text: &str) -> Option<String> {
    let number = prefix(text.as_bytes())?;
    let follows = text.as_bytes().get(number.len());
    let delimited = !follows
        .is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.' | b'_'));
    // White space around it is refused.
    (delimited && text.trim() == text).then(|| whole(number))?
}

/// The number that a text begins with.
fn prefix(text: &[u8]) -> Option<&[u8]> {
    let digits = |from: usize| {
        text.get(from..)
            .unwrap_or_default()
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count()
    };
    let mut end = usize::from(text.first() == Some(&b'-'));
    end += match text.get(end) {
        Some(b'0') => 1,
        Some(b'1'..=b'9') => digits(end),
        _ => return None,
    };
    if text.get(end) == Some(&b'.') && digits(end + 1) > 0 {
        end += 1 + digits(end + 1);
    }
    if matches!(text.get(end), Some(b'e' | b'E')) {
        let signed = usize::from(matches!(text.get(end + 1), Some(b'+' | b'-')));
        if digits(end + 1 + signed) == 0 {
            return None;
        }
        end += 1 + signed + digits(end + 1 + signed);
    }
    text.get(..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_whole_in_whatever_spelling() {
        for (text, expect) in [
            ("0", Some("0")),
            ("-0", Some("0")),
            ("0e400", Some("0")),
            ("12", Some("12")),
            ("-12", Some("-12")),
            ("1.0", Some("1")),
            ("1.50e1", Some("15")),
            ("0.1e1", Some("1")),
            ("100e-2", Some("1")),
            ("1E+2", Some("100")),
            ("9.223372036854775807e18", Some("9223372036854775807")),
            ("1.5", None),
            ("105e-1", None),
            ("1e-400", None),
            ("1e400", None),
            ("1e2147483648", None),
        ] {
            assert_eq!(whole(text.as_bytes()).as_deref(), expect, "{text}");
        }
    }

    #[test]
    fn a_number_within_quotes_is_one_of_json() {
        for (text, expect) in [
            ("7", Some("7")),
            ("-7", Some("-7")),
            ("7.0", Some("7")),
            ("7,x", Some("7")),
            ("7 8", Some("7")),
            ("+7", None),
            ("07", None),
            ("0x7", None),
            ("7_0", None),
            (" 7", None),
            ("7\n", None),
            ("7.", None),
            ("7e", None),
            ("", None),
            ("true", None),
            ("\u{e9}", None),
        ] {
            assert_eq!(whole_text(text).as_deref(), expect, "{text}");
        }
    }
}
