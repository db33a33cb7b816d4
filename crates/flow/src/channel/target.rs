//! Where a channel goes: the text that a user writes, taken apart.
//!
//! ```text
//! dns:///store:2379     looked up, and again and again
//! http://store:2379     the same, in plain text whatever the options
//! https://store:2379    the same, with TLS
//! static:a:1,b:2        these, each with its name looked up when it is dialled
//! unix:/run/store.sock  a socket of this machine
//! ```

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// What can be dialled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// A machine and its port.
    Socket(SocketAddr),
    /// A name that is looked up whenever it is dialled.
    Host(String, u16),
    /// A socket of this machine.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A target is not written as it must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "target {target:?}: {problem}; write dns:///host:port, http://host:port, https://host:port, static:a:1,b:2 or \
     unix:/path"
)]
pub struct InvalidTarget {
    target: String,
    problem: &'static str,
}

/// Where a channel goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// As it was written.
    pub(super) text: String,
    pub(super) security: Security,
    pub(super) place: Place,
    /// The `:authority` of calls.
    pub(super) authority: String,
    /// The name in the peer's certificate.
    pub(super) host: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Security {
    Plain,
    Tls,
    /// TLS if there are certificates for it.
    AsOptions,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// These addresses for ever.
    Fixed(Vec<Address>),
    /// A name whose addresses change.
    Name(String, u16),
}

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        parse(text).map_err(|problem| InvalidTarget {
            target: text.to_owned(),
            problem,
        })
    }
}

fn parse(text: &str) -> Result<Target, &'static str> {
    let target = |security, place, authority: &str, host: &str| Target {
        text: text.to_owned(),
        security,
        place,
        authority: authority.to_owned(),
        host: host.to_owned(),
    };
    if let Some(path) = text.strip_prefix("unix:") {
        let address = unix(path)?;
        return Ok(target(
            Security::AsOptions,
            Place::Fixed(vec![address]),
            "localhost",
            "localhost",
        ));
    }
    if let Some(list) = text.strip_prefix("static:") {
        let addresses = list.split(',').map(address).collect::<Result<Vec<_>, _>>()?;
        let first = list.split(',').next().unwrap_or_default();
        let authority = if first.starts_with("unix:") {
            "localhost"
        } else {
            first
        };
        let host =
            host_and_port(authority, Some(0)).map_or_else(|_| "localhost".to_owned(), |(host, _)| host);
        return Ok(target(
            Security::AsOptions,
            Place::Fixed(addresses),
            authority,
            &host,
        ));
    }
    let (security, default_port, rest) = if let Some(rest) = text.strip_prefix("dns:///") {
        (Security::AsOptions, None, rest)
    } else if let Some(rest) = text.strip_prefix("http://") {
        (Security::Plain, Some(80), rest)
    } else if let Some(rest) = text.strip_prefix("https://") {
        (Security::Tls, Some(443), rest)
    } else {
        return Err("it names no way to get there");
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = host_and_port(authority, default_port)?;
    let place = match host.parse::<IpAddr>() {
        Ok(ip) => Place::Fixed(vec![Address::Socket(SocketAddr::new(ip, port))]),
        Err(_) => Place::Name(host.clone(), port),
    };
    Ok(target(security, place, authority, &host))
}

fn address(text: &str) -> Result<Address, &'static str> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix(path);
    }
    let (host, port) = host_and_port(text.trim(), None)?;
    Ok(match host.parse::<IpAddr>() {
        Ok(ip) => Address::Socket(SocketAddr::new(ip, port)),
        Err(_) => Address::Host(host, port),
    })
}

fn unix(path: &str) -> Result<Address, &'static str> {
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() {
        return Err("there is no path");
    }
    Ok(Address::Unix(PathBuf::from(path)))
}

/// Takes `host:port` or `[v6]:port` apart.
fn host_and_port(text: &str, default_port: Option<u16>) -> Result<(String, u16), &'static str> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("a [ is not closed")?;
            (host, after.strip_prefix(':'))
        }
        None => match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        Some(port) => port.parse().map_err(|_| "the port is no number up to 65535")?,
        None => default_port.ok_or("there is no port")?,
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
    if host.is_empty() || !host.chars().all(fits) {
        return Err("the host is no name and no address");
    }
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, security: Security, place: Place, authority: &str, host: &str) {
        let target: Target = text.parse().unwrap();
        assert_eq!(
            (target.security, target.place, &*target.authority, &*target.host),
            (security, place, authority, host)
        );
    }

    #[test]
    fn every_way_of_writing_a_target_is_understood() {
        let socket = |text: &str| Address::Socket(text.parse().unwrap());
        let name = |host: &str, port| Place::Name(host.to_owned(), port);
        check("dns:///kv:1", Security::AsOptions, name("kv", 1), "kv:1", "kv");
        check("http://kv", Security::Plain, name("kv", 80), "kv", "kv");
        check("https://kv/", Security::Tls, name("kv", 443), "kv", "kv");
        check(
            "https://[::1]:2",
            Security::Tls,
            Place::Fixed(vec![socket("[::1]:2")]),
            "[::1]:2",
            "::1",
        );
        check(
            "static:127.0.0.1:1,kv:2,unix:/s",
            Security::AsOptions,
            Place::Fixed(vec![
                socket("127.0.0.1:1"),
                Address::Host("kv".to_owned(), 2),
                Address::Unix("/s".into()),
            ]),
            "127.0.0.1:1",
            "127.0.0.1",
        );
        for unix in ["unix:/run/a.sock", "unix:///run/a.sock"] {
            let place = Place::Fixed(vec![Address::Unix("/run/a.sock".into())]);
            check(unix, Security::AsOptions, place, "localhost", "localhost");
        }
    }

    #[test]
    fn a_wrong_target_says_what_is_wrong() {
        for (text, problem) in [
            ("kv:1", "no way"),
            ("dns:///kv", "no port"),
            ("http://kv:x", "no number"),
            ("http://kv:70000", "no number"),
            ("http://", "no name"),
            ("http://a/b", "no name"),
            ("http://u@kv", "no name"),
            ("https://[::1", "not closed"),
            ("static:", "no port"),
            ("static:a:1,,b:2", "no port"),
            ("unix:", "no path"),
        ] {
            let error = text.parse::<Target>().unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains(text), "{text}: {error}");
        }
    }
}
