//! Values as Go's flag package and etcd's own flag types read them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::flags::{GATES, Kind};

impl Kind {
    /// Whether a value may be said; what is wrong with it.
    pub(super) fn check(self, value: &str) -> Result<(), String> {
        let parsed = |fine: bool| {
            if fine {
                Ok(())
            } else {
                Err("parse error".to_owned())
            }
        };
        match self {
            Self::Text | Self::Words | Self::Ignored => Ok(()),
            Self::Bool => parsed(bool(value).is_some()),
            Self::Uint => parsed(uint(value).is_some()),
            Self::Int => parsed(int(value).is_some()),
            Self::Time => parsed(time(value).is_some()),
            Self::Urls => urls(value).map(drop),
            Self::Gates => words(value).iter().try_for_each(|gate| check_gate(gate)),
            Self::OneOf(known) if known.contains(&value) => Ok(()),
            Self::OneOf(known) => {
                let known: Vec<_> = known.iter().copied().filter(|word| !word.is_empty()).collect();
                Err(format!("invalid value, must be one of {}", known.join("|")))
            }
        }
    }

    /// Whether the flag alone says something.
    pub(super) fn stands_alone(self) -> bool {
        matches!(self, Self::Bool | Self::Ignored)
    }
}

/// `strconv.ParseBool`.
pub(super) fn bool(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// `strconv.ParseUint` with base 0: decimal, `0x`, `0o` or a leading 0, `0b`.
pub(super) fn uint(value: &str) -> Option<u64> {
    let lower = value.to_ascii_lowercase();
    let (digits, radix) = match lower.as_bytes() {
        [b'0', b'x', ..] => (&lower[2..], 16),
        [b'0', b'b', ..] => (&lower[2..], 2),
        [b'0', b'o', ..] => (&lower[2..], 8),
        [b'0', _, ..] => (&lower[1..], 8),
        _ => (&lower[..], 10),
    };
    // The standard library takes a sign here.
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(&digits.replace('_', ""), radix).ok()
}

/// `strconv.ParseInt` with base 0.
pub(super) fn int(value: &str) -> Option<i64> {
    match value.strip_prefix('-') {
        Some(rest) => 0_i64.checked_sub_unsigned(uint(rest)?),
        None => i64::try_from(uint(value.strip_prefix('+').unwrap_or(value))?).ok(),
    }
}

/// `time.ParseDuration`; below zero is nothing here.
pub(super) fn time(value: &str) -> Option<Duration> {
    let unsigned = value.strip_prefix('+').unwrap_or(value);
    if unsigned == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = unsigned;
    let mut nanos = 0_f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let unit = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 6e10,
            "h" => 3.6e12,
            _ => return None,
        };
        nanos += number.parse::<f64>().ok()? * unit;
        rest = tail;
    }
    // Go counts nanoseconds in 63 bits.
    (nanos <= i64::MAX as f64).then(|| Duration::from_nanos(nanos as u64))
}

/// One gate with its switch, as Kubernetes' library for them reads it.
fn check_gate(gate: &str) -> Result<(), String> {
    match gate.split_once('=') {
        Some((name, value)) if GATES.contains(&name) => match bool(value) {
            Some(_) => Ok(()),
            None => Err(format!("invalid value of {name}={value}: write true or false")),
        },
        Some((name, _)) => Err(format!("unrecognized feature gate: {name}")),
        None => Err(format!("missing bool value for {gate}")),
    }
}

/// Words between commas; none in an empty text.
pub(super) fn words(value: &str) -> Vec<String> {
    value
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// A URL as etcd listens on or advertises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) scheme: Scheme,
    /// Host and port, or the path of a socket.
    pub(super) address: String,
}

/// How a URL is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
    Unix,
    Unixs,
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Unix => "unix",
            Scheme::Unixs => "unixs",
        };
        write!(f, "{scheme}://{}", self.address)
    }
}

/// What a URL means for a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Url {
    pub(super) fn secure(&self) -> bool {
        matches!(self.scheme, Scheme::Https | Scheme::Unixs)
    }

    /// Where to listen: an address, or `localhost`; other names are refused, as in etcd.
    pub(super) fn place(&self) -> Result<Place, String> {
        if matches!(self.scheme, Scheme::Unix | Scheme::Unixs) {
            return Ok(Place::Unix(self.address.clone().into()));
        }
        let (host, port) = host_and_port(&self.address)
            .ok_or_else(|| format!("URL address does not have the form \"host:port\": {self}"))?;
        let ip = match host {
            "localhost" => IpAddr::from([127, 0, 0, 1]),
            _ => host
                .parse()
                .map_err(|_| format!("expected IP in URL for binding ({self})"))?,
        };
        Ok(Place::Tcp(SocketAddr::new(ip, port)))
    }
}

/// The host without brackets, and the port.
fn host_and_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(inside) => inside.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    Some((host, port.parse().ok()?))
}

/// URLs between commas, each once.
pub(super) fn urls(value: &str) -> Result<Vec<Url>, String> {
    let mut urls = Vec::new();
    for text in value.split(',').map(str::trim) {
        let url = url(text)?;
        if !urls.contains(&url) {
            urls.push(url);
        }
    }
    Ok(urls)
}

fn url(text: &str) -> Result<Url, String> {
    let wrong_scheme = || format!("URL scheme must be http, https, unix, or unixs: {text}");
    let (scheme, address) = text.split_once("://").ok_or_else(wrong_scheme)?;
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        "unix" => Scheme::Unix,
        "unixs" => Scheme::Unixs,
        _ => return Err(wrong_scheme()),
    };
    if matches!(scheme, Scheme::Http | Scheme::Https) {
        if address.contains('/') {
            return Err(format!("URL must not contain a path: {text}"));
        }
        if host_and_port(address).is_none() {
            return Err(format!(
                "URL address does not have the form \"host:port\": {text}"
            ));
        }
    }
    Ok(Url {
        scheme,
        address: address.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_gos() {
        assert_eq!(uint("0x10"), Some(16));
        assert_eq!(uint("1_000"), Some(1000));
        assert_eq!(uint("010"), Some(8));
        assert_eq!(uint("0"), Some(0));
        for wrong in ["", "-1", "+1", "1.5", "0x", "ten"] {
            assert_eq!(uint(wrong), None, "{wrong}");
        }
        assert_eq!(int("-9223372036854775808"), Some(i64::MIN));
        assert_eq!(int("9223372036854775808"), None);
        for (text, expect) in [
            ("300ms", Some(Duration::from_millis(300))),
            ("1h30m", Some(Duration::from_secs(5400))),
            ("1.5s", Some(Duration::from_millis(1500))),
            ("2h0m0s", Some(Duration::from_secs(7200))),
            ("10µs", Some(Duration::from_micros(10))),
            ("0", Some(Duration::ZERO)),
            ("10", None),
            ("s", None),
            ("", None),
            ("5 s", None),
            ("-5s", None),
            ("9999999999h", None),
        ] {
            assert_eq!(time(text), expect, "{text}");
        }
    }

    #[test]
    fn listeners_are_at_addresses_not_names() {
        let place = |text: &str| urls(text).and_then(|urls| urls[0].place());
        let tcp = |addr: &str| Ok(Place::Tcp(addr.parse().unwrap()));
        assert_eq!(place("http://localhost:2379"), tcp("127.0.0.1:2379"));
        assert_eq!(place("https://[::1]:1"), tcp("[::1]:1"));
        assert_eq!(place("http://0.0.0.0:0"), tcp("0.0.0.0:0"));
        assert_eq!(
            place("unix:///run/etcd.sock"),
            Ok(Place::Unix("/run/etcd.sock".into()))
        );
        assert_eq!(place("unix://localhost:1"), Ok(Place::Unix("localhost:1".into())));
        for (text, error) in [
            (
                "http://db:2379",
                "expected IP in URL for binding (http://db:2379)",
            ),
            (
                "http://1.2.3.4",
                "URL address does not have the form \"host:port\": http://1.2.3.4",
            ),
            (
                "http://1.2.3.4:5/x",
                "URL must not contain a path: http://1.2.3.4:5/x",
            ),
            (
                "ftp://1.2.3.4:5",
                "URL scheme must be http, https, unix, or unixs: ftp://1.2.3.4:5",
            ),
            (
                "1.2.3.4:5",
                "URL scheme must be http, https, unix, or unixs: 1.2.3.4:5",
            ),
        ] {
            assert_eq!(place(text), Err(error.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_list_names_each_url_once() {
        let two = urls("http://1.1.1.1:1, http://1.1.1.1:1,http://2.2.2.2:2").unwrap();
        assert_eq!(two.len(), 2);
        assert!(urls("").is_err());
    }
}
