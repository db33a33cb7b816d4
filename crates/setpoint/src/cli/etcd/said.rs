//! Everything that was said, from arguments and environment or from a file, with etcd's precedence: with a file, the
//! file alone; else a flag, then its variable, then the default. A flag and its variable together are refused.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::flags::{self, FLAGS, Flag, Kind};
use super::parse::Parsed;
use super::values;

/// Flags with their values, and what is to be told about them.
#[derive(Debug, Default)]
pub(super) struct Said {
    values: BTreeMap<&'static str, String>,
    /// Lines to log once the log is open.
    pub(super) remarks: Vec<Remark>,
}

/// A line to log: a message of etcd's (or ours), and what it is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Remark {
    pub(super) warn: bool,
    pub(super) message: String,
    pub(super) about: String,
}

impl Said {
    /// From arguments and environment. `vars` are all variables.
    ///
    /// # Errors
    /// What etcd too ends with.
    pub(super) fn here(parsed: &Parsed, vars: &[(String, String)]) -> Result<Self, String> {
        let mut said = Self::default();
        for (name, word) in &parsed.values {
            said.values.insert(name, word.value.clone());
            if word.name != *name {
                let message = "an experimental flag of etcd 3.5 or 3.6: use the name without it";
                said.remark(true, message, &format!("--{}", word.name));
            }
        }
        for (variable, value) in vars.iter().filter(|(name, _)| name.starts_with("ETCD_")) {
            let flag = FLAGS.iter().find(|flag| flags::variable(flag.name) == *variable);
            let Some(flag) = flag else {
                said.remark(true, "unrecognized environment variable", variable);
                continue;
            };
            if parsed.values.contains_key(flag.name) {
                return Err(format!(
                    "conflicting environment variable is shadowed by corresponding command-line flag (either unset \
                     environment variable or disable flag): {variable}"
                ));
            }
            // As if it were not there.
            if value.is_empty() {
                continue;
            }
            let checked = flag.kind.check(value);
            checked.map_err(|problem| format!("invalid value {value:?} for {variable}: {problem}"))?;
            said.remark(false, "recognized and used environment variable", variable);
            said.values.insert(flag.name, value.clone());
        }
        Ok(said)
    }

    /// From a file alone.
    ///
    /// # Errors
    /// It cannot be read, or a value is not one.
    pub(super) fn file(path: &Path) -> Result<Self, String> {
        let told = |problem: &dyn std::fmt::Display| format!("{}: {problem}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| told(&error))?;
        let file: Value = serde_saphyr::from_str(&text).map_err(|error| told(&error))?;
        let mut said = Self::default();
        said.remark(
            false,
            "loaded server configuration, other configuration command line flags and environment variables will be \
             ignored if provided",
            &path.display().to_string(),
        );
        match file {
            Value::Null => (),
            Value::Object(map) => {
                for (key, value) in map {
                    said.entry("", &key, value).map_err(|problem| told(&problem))?;
                }
            }
            _ => return Err(told(&"no settings: write NAME: VALUE")),
        }
        Ok(said)
    }

    /// One entry of a file, below `group`.
    fn entry(&mut self, group: &str, key: &str, value: Value) -> Result<(), String> {
        if let Value::Object(map) = value {
            return map
                .into_iter()
                .try_for_each(|(inner, value)| self.entry(key, &inner, value));
        }
        let name = flag_name(group, key);
        let Some(flag) = FLAGS.iter().find(|flag| flag.name == name) else {
            self.remark(true, "unrecognized setting in the configuration file", &name);
            return Ok(());
        };
        let Some(text) = text(flag, &value) else {
            return Ok(());
        };
        let checked = flag.kind.check(&text);
        checked.map_err(|problem| format!("invalid value {text:?} for {name}: {problem}"))?;
        self.values.insert(flag.name, text);
        Ok(())
    }

    fn remark(&mut self, warn: bool, message: &str, about: &str) {
        self.remarks.push(Remark {
            warn,
            message: message.to_owned(),
            about: about.to_owned(),
        });
    }

    /// The value, if the flag was said.
    pub(super) fn said(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// The value or its default.
    pub(super) fn get(&self, name: &str) -> &str {
        self.said(name)
            .or_else(|| flags::find(name).map(|flag| flag.default))
            .unwrap_or_default()
    }

    /// A switch.
    pub(super) fn is(&self, name: &str) -> bool {
        values::bool(self.get(name)).unwrap_or(false)
    }

    /// Flags whose value is not the default, in the order of the list.
    pub(super) fn changed(&self) -> impl Iterator<Item = &'static Flag> {
        FLAGS
            .iter()
            .filter(|flag| self.said(flag.name).is_some_and(|value| !same(flag, value)))
    }
}

/// Whether a value says what the default says.
fn same(flag: &Flag, value: &str) -> bool {
    let default = flag.default;
    value == default
        || match flag.kind {
            Kind::Bool => values::bool(value) == values::bool(default),
            Kind::Uint => values::uint(value) == values::uint(default),
            Kind::Int => values::int(value) == values::int(default),
            Kind::Time => values::time(value) == values::time(default),
            _ => false,
        }
}

/// The flag that an entry of a file means (`server/embed/config.go`).
fn flag_name(group: &str, key: &str) -> String {
    match (group, key) {
        ("peer-transport-security", "allowed-cn" | "allowed-hostname") => format!("peer-cert-{key}"),
        ("peer-transport-security", _) => format!("peer-{key}"),
        ("client-transport-security", "allowed-hostname") => format!("client-cert-{key}"),
        ("socket-options", _) => format!("socket-{key}"),
        ("discovery-config", "token") => "discovery-token".to_owned(),
        ("" | "client-transport-security", _) => key.to_owned(),
        _ => format!("{group}.{key}"),
    }
}

/// A value of a file in the flag's spelling; `None` for null.
fn text(flag: &Flag, value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        // A time without its unit is in nanoseconds there.
        Value::Number(number) if flag.kind == Kind::Time => Some(format!("{number}ns")),
        Value::Array(items) => {
            let items = items.iter().filter_map(|item| text(flag, item));
            Some(items.collect::<Vec<_>>().join(","))
        }
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    fn here(args: &[&str], vars: &[(&str, &str)]) -> Result<Said, String> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Said::here(&parse(&args).unwrap(), &vars.iter().map(pair).collect::<Vec<_>>())
    }

    fn file(text: &str) -> Result<Said, String> {
        let name = format!(
            "setpoint-etcd-{}-{:x}.yaml",
            std::process::id(),
            fastrand::u64(..)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        let said = Said::file(&path);
        std::fs::remove_file(path).unwrap();
        said
    }

    #[test]
    fn a_variable_says_what_its_flag_says() {
        let said = here(&["--name=a"], &[("ETCD_MAX_TXN_OPS", "7"), ("ETCD_DATA_DIR", "")]).unwrap();
        assert_eq!((said.get("name"), said.get("max-txn-ops")), ("a", "7"));
        assert_eq!(said.said("data-dir"), None);
    }

    #[test]
    fn a_variable_beside_its_flag_is_refused_and_an_unknown_one_remarked() {
        let error = here(&["--name=a"], &[("ETCD_NAME", "a")]).unwrap_err();
        assert!(error.starts_with("conflicting environment variable"), "{error}");
        let said = here(&[], &[("ETCD_NMAE", "a"), ("HOME", "/")]).unwrap();
        assert_eq!(said.remarks.len(), 1);
        assert_eq!(said.remarks[0].about, "ETCD_NMAE");
        let error = here(&[], &[("ETCD_MAX_TXN_OPS", "x")]).unwrap_err();
        assert_eq!(error, "invalid value \"x\" for ETCD_MAX_TXN_OPS: parse error");
    }

    #[test]
    fn only_what_differs_from_the_default_is_changed() {
        let args = [
            "--pre-vote=T",
            "--grpc-keepalive-interval=2h",
            "--max-txn-ops=0x80",
            "--name=b",
        ];
        let said = here(&args, &[]).unwrap();
        let changed: Vec<&str> = said.changed().map(|flag| flag.name).collect();
        assert_eq!(changed, ["name"]);
    }

    #[test]
    fn a_file_has_etcds_names_groups_and_nanoseconds() {
        let said = file(
            "name: m\nlisten-client-urls: http://127.0.0.1:1,http://127.0.0.1:2\nlog-outputs: [stderr, a.log]\n\
             watch-progress-notify-interval: 5000000000\nauto-compaction-retention: 1\n\
             client-transport-security:\n  cert-file: c\n  client-cert-auth: true\n  allowed-hostname: [x.org, y.org]\n\
             peer-transport-security:\n  allowed-cn: [z]\nsocket-options:\n  reuse-port: true\ndiscovery-config:\n  token: t\nwal-dir:\nnmae: x\n",
        )
        .unwrap();
        for (name, value) in [
            ("name", "m"),
            ("listen-client-urls", "http://127.0.0.1:1,http://127.0.0.1:2"),
            ("log-outputs", "stderr,a.log"),
            ("watch-progress-notify-interval", "5000000000ns"),
            ("auto-compaction-retention", "1"),
            ("cert-file", "c"),
            ("client-cert-auth", "true"),
            ("client-cert-allowed-hostname", "x.org,y.org"),
            ("peer-cert-allowed-cn", "z"),
            ("socket-reuse-port", "true"),
            ("discovery-token", "t"),
        ] {
            assert_eq!(said.said(name), Some(value), "{name}");
        }
        assert_eq!(said.said("wal-dir"), None);
        assert_eq!(said.remarks[1].about, "nmae");
        assert!(file("max-txn-ops: many").unwrap_err().contains("max-txn-ops"));
        assert!(file("- a").unwrap_err().contains("no settings"));
    }
}
