//! String formats (kube-openapi `pkg/validation/strfmt`). Formats not named here accept everything, as upstream.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine as _;

/// Whether `text` has the format `name`.
pub(super) fn matches(name: &str, text: &str) -> bool {
    match name {
        "date-time" | "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => cidr(text),
        "uuid" => uuid(text, None),
        "uuid3" => uuid(text, Some(b'3')),
        "uuid4" => uuid(text, Some(b'4')),
        "uuid5" => uuid(text, Some(b'5')),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "hostname" => hostname(text),
        "mac" => mac(text),
        "email" => text
            .split_once('@')
            .is_some_and(|(user, host)| !user.is_empty() && hostname(host)),
        "uri" => uri(text),
        "duration" => duration(text),
        "hexcolor" => hex_color(text),
        _ => true,
    }
}

fn cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else {
        return false;
    };
    let bits_max = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.parse::<u8>().is_ok_and(|bits| bits <= bits_max)
}

/// 32 hex digits, in groups divided by dashes or not.
fn uuid(text: &str, version: Option<u8>) -> bool {
    let bytes = text.as_bytes();
    let grouped = bytes.len() == 36 && [8, 13, 18, 23].iter().all(|i| bytes[*i] == b'-');
    let digits: Vec<u8> = bytes.iter().copied().filter(|b| *b != b'-').collect();
    (grouped || bytes.len() == 32)
        && digits.len() == 32
        && digits.iter().all(u8::is_ascii_hexdigit)
        && version.is_none_or(|version| digits[12] == version)
}

fn hostname(text: &str) -> bool {
    let label = |label: &str| {
        let bytes = label.as_bytes();
        (1..=63).contains(&bytes.len())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
            && bytes[0] != b'-'
            && bytes[bytes.len() - 1] != b'-'
    };
    text.len() <= 255 && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

fn mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    matches!(parts.len(), 6 | 8)
        && parts
            .iter()
            .all(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// A URI with a scheme, or an absolute path (Go's `url.ParseRequestURI`).
fn uri(text: &str) -> bool {
    let clean = !text.is_empty() && text.bytes().all(|b| b > b' ' && b != 0x7f);
    let scheme = text.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
    });
    clean && (text.starts_with('/') || scheme)
}

/// Go's `time.ParseDuration` (`1h30m`, `-1.5s`), or a number and a word (`3 days`).
fn duration(text: &str) -> bool {
    let text = text.trim_start_matches(['+', '-']);
    if text == "0" {
        return true;
    }
    let words = text.trim();
    if let Some((number, unit)) = words.split_once(' ') {
        const UNITS: &[&str] = &[
            "nanosecond",
            "microsecond",
            "millisecond",
            "second",
            "minute",
            "hour",
            "day",
            "week",
        ];
        let unit = unit.trim().to_lowercase();
        let unit = unit.strip_suffix('s').unwrap_or(&unit);
        return number.parse::<f64>().is_ok() && UNITS.contains(&unit);
    }
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.len()
            - rest
                .trim_start_matches(|c: char| c.is_ascii_digit() || c == '.')
                .len();
        let number = &rest[..digits];
        if !number.bytes().any(|b| b.is_ascii_digit()) || number.matches('.').count() > 1 {
            return false;
        }
        let unit = ["ns", "us", "µs", "ms", "s", "m", "h", "d", "w"]
            .iter()
            .find_map(|unit| rest[digits..].strip_prefix(unit));
        let Some(after) = unit else { return false };
        rest = after;
    }
    !text.is_empty()
}

fn hex_color(text: &str) -> bool {
    let digits = text.strip_prefix('#').unwrap_or(text);
    matches!(digits.len(), 3 | 6) && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_accept_their_own_and_nothing_else() {
        for (name, good, bad) in [
            ("date-time", "2024-02-29T10:00:00Z", "2024-02-30T10:00:00Z"),
            ("date-time", "2024-01-01T10:00:00.5+02:00", "yesterday"),
            ("date", "2024-02-29", "2024-2-9"),
            ("ipv4", "10.0.0.1", "10.0.0.256"),
            ("ipv6", "::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("uuid", "9f0c0c4e-8b1a-4a7e-9d3e-6a2f0f4b1c2d", "9f0c0c4e"),
            (
                "uuid4",
                "9f0c0c4e-8b1a-4a7e-9d3e-6a2f0f4b1c2d",
                "9f0c0c4e-8b1a-1a7e-9d3e-6a2f0f4b1c2d",
            ),
            ("byte", "AAEC", "*"),
            ("hostname", "a.example.com", "-a"),
            ("mac", "00:1b:63:84:45:e6", "00:1b"),
            ("email", "a@b.c", "a"),
            ("uri", "https://a/b", "a b"),
            ("duration", "1h30m", "1x"),
            ("duration", "3 days", "3 dogs"),
            ("hexcolor", "#fff", "#ff"),
        ] {
            assert!(matches(name, good), "{name} {good}");
            assert!(!matches(name, bad), "{name} {bad}");
        }
        assert!(matches("unheard-of", "anything"));
    }
}
