//! Configuration in two stages: what was said, with its source, and what will be done.
//!
//! A flag outranks a variable, a variable outranks a file. Values stay text until [`Said::resolve`], which reports
//! every problem at once and names the place where each value was said.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use setpoint_telemetry::Format;

use crate::engine_args::{self, EngineArgs};
use crate::flow_args::{self, FlowArgs};
use crate::front_args::{self, FrontArgs};
use crate::plane::{ListenOn, Place, PlaneOptions};
use crate::store_args::{self, StoreArgs};

/// One setting: its name in files and (with dashes) as a flag, and its variable.
pub(crate) struct Setting {
    name: &'static str,
    env: &'static str,
}

impl Setting {
    pub(crate) const fn new(name: &'static str, env: &'static str) -> Self {
        Self { name, env }
    }

    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }
}

const DATA_DIR: &str = "data-dir";
const ETCD_LISTEN: &str = "etcd-listen";
const API_LISTEN: &str = "api-listen";
const ETCD_WRITES_REGISTRY: &str = "etcd-writes-registry";
const QUOTA: &str = "quota-backend-bytes";
const NO_SPACE_MANUAL: &str = "no-space-manual";
const READY_FILE: &str = "ready-file";
const LOG_FORMAT: &str = "log-format";
const LOG: &str = "log";
const LIMITS: &str = "limits";

const SETTINGS: [Setting; 10] = [
    Setting {
        name: DATA_DIR,
        env: "SETPOINT_DATA_DIR",
    },
    Setting {
        name: ETCD_LISTEN,
        env: "SETPOINT_ETCD_LISTEN",
    },
    Setting {
        name: API_LISTEN,
        env: "SETPOINT_API_LISTEN",
    },
    Setting {
        name: ETCD_WRITES_REGISTRY,
        env: "SETPOINT_ETCD_WRITES_REGISTRY",
    },
    Setting {
        name: QUOTA,
        env: "SETPOINT_QUOTA_BACKEND_BYTES",
    },
    Setting {
        name: NO_SPACE_MANUAL,
        env: "SETPOINT_NO_SPACE_MANUAL",
    },
    Setting {
        name: READY_FILE,
        env: "SETPOINT_READY_FILE",
    },
    Setting {
        name: LOG_FORMAT,
        env: "SETPOINT_LOG_FORMAT",
    },
    Setting {
        name: LOG,
        env: "SETPOINT_LOG",
    },
    Setting {
        name: LIMITS,
        env: "SETPOINT_LIMITS",
    },
];

/// What is said about the embedded store, beside its front's and its own pages of settings.
const EMBEDDED_ONLY: [&str; 4] = [ETCD_LISTEN, ETCD_WRITES_REGISTRY, QUOTA, NO_SPACE_MANUAL];

/// All settings, those of the front and the store last.
fn settings() -> impl Iterator<Item = &'static Setting> {
    SETTINGS
        .iter()
        .chain(&front_args::SETTINGS)
        .chain(&flow_args::SETTINGS)
        .chain(&engine_args::SETTINGS)
        .chain(&store_args::SETTINGS)
}

/// The flags that `up` and `server` share.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Plane")]
pub struct PlaneArgs {
    /// Where everything is kept: log, certificates, kubeconfig [default: ./setpoint-data]
    #[arg(long, value_name = "DIR", env = "SETPOINT_DATA_DIR")]
    data_dir: Option<String>,
    /// Where etcd clients connect; port 0 takes a free one; several, also unix://PATH, separated by commas
    /// [default: 127.0.0.1:2379]
    #[arg(long, value_name = "ADDR", env = "SETPOINT_ETCD_LISTEN")]
    etcd_listen: Option<String>,
    /// Where Kubernetes clients connect; port 0 takes a free one [default: 127.0.0.1:6443]
    #[arg(long, value_name = "ADDR", env = "SETPOINT_API_LISTEN")]
    api_listen: Option<String>,
    /// Let etcd clients write the API server's keys under /registry/ (they are read-only otherwise)
    #[arg(long, value_name = "BOOL", env = "SETPOINT_ETCD_WRITES_REGISTRY", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    etcd_writes_registry: Option<String>,
    /// Live bytes at which the store refuses to grow; 0 is etcd's 2 GiB, negative leaves it to the disk [default: 0]
    #[arg(
        long,
        value_name = "BYTES",
        env = "SETPOINT_QUOTA_BACKEND_BYTES",
        allow_hyphen_values = true
    )]
    quota_backend_bytes: Option<String>,
    /// Keep refusing growth until somebody disarms the alarm, as etcd does, instead of until there is room
    #[arg(long, value_name = "BOOL", env = "SETPOINT_NO_SPACE_MANUAL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    no_space_manual: Option<String>,
    /// File to write once the plane is ready: JSON with URLs, kubeconfig, pid, version
    #[arg(long, value_name = "FILE", env = "SETPOINT_READY_FILE")]
    ready_file: Option<String>,
    /// How log lines look: text or json [default: text]
    #[arg(long, value_name = "FORMAT", env = "SETPOINT_LOG_FORMAT")]
    log_format: Option<String>,
    /// Which events are logged, as in "info" or "warn,setpoint_store=debug" [default: info; up: warn]
    #[arg(long, value_name = "FILTER", env = "SETPOINT_LOG")]
    log: Option<String>,
    /// YAML file with rate limits, read again whenever it changes (see docs/ops/limits.md)
    #[arg(long, value_name = "FILE", env = "SETPOINT_LIMITS")]
    limits: Option<String>,
    #[command(flatten)]
    front: FrontArgs,
    #[command(flatten)]
    flow: FlowArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    store: StoreArgs,
}

/// Where a value was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Flag(&'static str),
    Env(&'static str),
    File(&'static str, PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "--{name}"),
            Self::Env(name) => f.write_str(name),
            Self::File(name, path) => write!(f, "{name} in {}", path.display()),
        }
    }
}

/// What was said, each value with its source.
#[derive(Clone, Debug, Default)]
pub struct Said(BTreeMap<&'static str, (String, Source)>);

/// What will be done.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The plane to start.
    pub plane: PlaneOptions,
    /// The file to write once it is ready.
    pub ready_file: Option<PathBuf>,
    /// How log lines look.
    pub log_format: Format,
    /// Which events are logged; empty when nothing was said.
    pub log_filter: String,
}

impl PlaneArgs {
    /// What was said on the command line and in the environment.
    #[must_use]
    pub fn said(&self, matches: &ArgMatches) -> Said {
        let values = [
            &self.data_dir,
            &self.etcd_listen,
            &self.api_listen,
            &self.etcd_writes_registry,
            &self.quota_backend_bytes,
            &self.no_space_manual,
            &self.ready_file,
            &self.log_format,
            &self.log,
            &self.limits,
        ];
        let mut said = Said::default();
        let values = values
            .into_iter()
            .chain(self.front.values())
            .chain(self.flow.values())
            .chain(self.engine.values())
            .chain(self.store.values());
        for (setting, value) in settings().zip(values) {
            let Some(value) = value else { continue };
            let source = match matches.value_source(&setting.name.replace('-', "_")) {
                Some(ValueSource::EnvVariable) => Source::Env(setting.env),
                _ => Source::Flag(setting.name),
            };
            said.0.insert(setting.name, (value.clone(), source));
        }
        said
    }
}

impl Said {
    /// Fills in what was not said otherwise from a file's settings; names the unknown ones.
    pub fn add_file(&mut self, file: &Path, values: BTreeMap<String, String>, problems: &mut Vec<String>) {
        for (name, value) in values {
            match settings().find(|setting| setting.name == name) {
                Some(setting) => {
                    let source = Source::File(setting.name, file.to_owned());
                    self.0.entry(setting.name).or_insert((value, source));
                }
                None => problems.push(format!(
                    "{name} in {}: no such setting, there are {}",
                    file.display(),
                    settings()
                        .map(|setting| setting.name)
                        .collect::<Vec<_>>()
                        .join(", ")
                )),
            }
        }
    }

    /// Turns what was said into what will be done. Relative paths are below `cwd`.
    ///
    /// # Errors
    /// `problems`, with every problem of this stage added.
    pub fn resolve(mut self, cwd: &Path, mut problems: Vec<String>) -> Result<Resolved, Vec<String>> {
        engine_args::refuse_front(&mut self, &EMBEDDED_ONLY, &mut problems);
        let data_dir = self.path(DATA_DIR, cwd, &mut problems);
        let mut plane = PlaneOptions::new(data_dir.unwrap_or_else(|| cwd.join("setpoint-data")));
        front_args::resolve(&mut self, ETCD_LISTEN, cwd, &mut plane, &mut problems);
        if let Some(addr) = self.address(API_LISTEN, "127.0.0.1:6443", &mut problems) {
            plane.api_listen = addr;
        }
        let shared = |on: &ListenOn| on.place == Place::Tcp(plane.api_listen);
        if plane.etcd_listen.iter().any(shared) && plane.api_listen.port() != 0 {
            problems.push(format!(
                "etcd and Kubernetes clients cannot share {}: give --{ETCD_LISTEN} and --{API_LISTEN} different ports",
                plane.api_listen
            ));
        }
        flow_args::resolve(&mut self, &mut plane, &mut problems);
        plane.etcd_writes_registry = self.flag(ETCD_WRITES_REGISTRY, &mut problems);
        if let Some((value, source)) = self.take(QUOTA) {
            match value.parse() {
                Ok(bytes) => plane.store.quota_bytes = bytes,
                Err(_) => problems.push(format!("{source} is {value:?}: write a number of bytes")),
            }
        }
        plane.store.no_space_manual = self.flag(NO_SPACE_MANUAL, &mut problems);
        plane.limits_file = self.path(LIMITS, cwd, &mut problems);
        plane.engine = engine_args::resolve(&mut self, cwd, &mut problems);
        store_args::resolve(&mut self, &mut plane, &mut problems);
        let ready_file = self.path(READY_FILE, cwd, &mut problems);
        let log_format = match self.0.remove(LOG_FORMAT) {
            None => Format::Text,
            Some((value, source)) => match value.as_str() {
                "text" => Format::Text,
                "json" => Format::Json,
                _ => {
                    problems.push(format!("{source} is {value:?}: write text or json"));
                    Format::Text
                }
            },
        };
        let log_filter = self.0.remove(LOG).map(|(value, _)| value).unwrap_or_default();
        if problems.is_empty() {
            Ok(Resolved {
                plane,
                ready_file,
                log_format,
                log_filter,
            })
        } else {
            Err(problems)
        }
    }

    /// Leaves out where Kubernetes clients connect, for a server that has none of them. Where it was said.
    pub(crate) fn without_api(&mut self) -> Option<Source> {
        // Nobody will listen there, and port 0 is in nobody's way.
        let free = ("127.0.0.1:0".to_owned(), Source::Flag(API_LISTEN));
        self.0.insert(API_LISTEN, free).map(|(_, source)| source)
    }

    /// What was said, left where it is.
    pub(crate) fn peek(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|(value, _)| value.as_str())
    }

    /// What was said, and where.
    pub(crate) fn take(&mut self, name: &str) -> Option<(String, Source)> {
        self.0.remove(name)
    }

    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        self.take(name).map(|(value, _)| value)
    }

    /// Whether it was said and is true.
    pub(crate) fn flag(&mut self, name: &str, problems: &mut Vec<String>) -> bool {
        let Some((value, source)) = self.take(name) else {
            return false;
        };
        match value.as_str() {
            "true" | "1" => true,
            "false" | "0" => false,
            _ => {
                problems.push(format!("{source} is {value:?}: write true or false"));
                false
            }
        }
    }

    pub(crate) fn path(&mut self, name: &str, cwd: &Path, problems: &mut Vec<String>) -> Option<PathBuf> {
        let (value, source) = self.0.remove(name)?;
        if value.is_empty() {
            problems.push(format!("{source} is empty: give a path"));
            return None;
        }
        // A path in a file is relative to that file, as people expect who move the folder.
        let base = match &source {
            Source::File(_, file) => file.parent().map_or(cwd.to_owned(), |dir| cwd.join(dir)),
            Source::Flag(_) | Source::Env(_) => cwd.to_owned(),
        };
        Some(base.join(value))
    }

    fn address(&mut self, name: &str, example: &str, problems: &mut Vec<String>) -> Option<SocketAddr> {
        let (value, source) = self.0.remove(name)?;
        match value.replace("localhost:", "127.0.0.1:").parse() {
            Ok(addr) => Some(addr),
            Err(_) => {
                problems.push(format!(
                    "{source} is {value:?}: write ADDRESS:PORT, for example {example}; port 0 takes a free one"
                ));
                None
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use clap::{Command, FromArgMatches};
    use setpoint_store::AutoCompaction;

    pub(crate) fn said(args: &[&str]) -> Said {
        let command = PlaneArgs::augment_args(Command::new("setpoint"));
        let matches = command.get_matches_from([&["setpoint"], args].concat());
        PlaneArgs::from_arg_matches(&matches).unwrap().said(&matches)
    }

    fn file(values: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        values.iter().map(pair).collect()
    }

    #[test]
    fn nothing_said_means_the_documented_defaults() {
        let resolved = said(&[]).resolve(Path::new("/home/me"), Vec::new()).unwrap();
        assert_eq!(resolved.plane.data_dir, Path::new("/home/me/setpoint-data"));
        assert_eq!(
            resolved.plane.etcd_listen,
            [ListenOn::tcp("127.0.0.1:2379".parse().unwrap())]
        );
        assert_eq!(resolved.plane.api_listen.to_string(), "127.0.0.1:6443");
        assert!(!resolved.plane.etcd_writes_registry);
        assert_eq!(resolved.log_format, Format::Text);
        assert_eq!(resolved.ready_file, None);
    }

    #[test]
    fn a_flag_outranks_a_file_and_a_file_path_is_relative_to_the_file() {
        let mut said = said(&["--api-listen", "localhost:0", "--etcd-writes-registry"]);
        let mut problems = Vec::new();
        said.add_file(
            Path::new("demo/setpoint.yaml"),
            file(&[
                ("api-listen", "127.0.0.1:1"),
                ("data-dir", "state"),
                ("log-format", "json"),
            ]),
            &mut problems,
        );
        let resolved = said.resolve(Path::new("/w"), problems).unwrap();
        assert_eq!(resolved.plane.api_listen.port(), 0);
        assert_eq!(resolved.plane.data_dir, Path::new("/w/demo/state"));
        assert_eq!(resolved.log_format, Format::Json);
        assert!(resolved.plane.etcd_writes_registry);
    }

    #[test]
    fn all_problems_are_reported_together_each_with_its_source() {
        let mut said = said(&[
            "--etcd-listen",
            "2379",
            "--log-format=xml",
            "--etcd-writes-registry=maybe",
        ]);
        let mut problems = Vec::new();
        said.add_file(
            Path::new("d/setpoint.yaml"),
            file(&[("api-listen", "nowhere"), ("api-listne", "x")]),
            &mut problems,
        );
        let problems = said.resolve(Path::new("/w"), problems).unwrap_err();
        for (problem, expected) in problems.iter().zip([
            "api-listne in d/setpoint.yaml",
            "--etcd-listen is \"2379\"",
            "api-listen in d/setpoint.yaml is \"nowhere\"",
            "--etcd-writes-registry is \"maybe\"",
            "--log-format is \"xml\"",
        ]) {
            assert!(problem.starts_with(expected), "{problem}");
        }
        assert_eq!(problems.len(), 5);
    }

    #[test]
    fn the_stores_limits_and_history_are_said_with_etcds_words() {
        let args = [
            "--max-txn-ops=500",
            "--max-request-bytes=33554432",
            "--auto-compaction-retention=2",
            "--unsafe-no-fsync",
        ];
        let plane = said(&args).resolve(Path::new("/"), Vec::new()).unwrap().plane;
        assert_eq!((plane.store.txn_ops_max, plane.etcd.txn_ops_max), (500, 500));
        assert_eq!(plane.etcd.request_bytes_max, 32 << 20);
        assert_eq!(plane.store.segment_bytes, 128 << 20);
        let two_hours = std::time::Duration::from_secs(7200);
        assert_eq!(plane.auto_compaction, Some(AutoCompaction::Periodic(two_hours)));
        assert!(plane.unsafe_no_fsync);
        let problems = said(&["--max-txn-ops=0", "--auto-compaction-mode=yearly"])
            .resolve(Path::new("/"), Vec::new())
            .unwrap_err();
        assert_eq!(problems.len(), 2, "{problems:?}");
    }

    #[test]
    fn two_fronts_on_one_port_are_refused() {
        let clash = ["--etcd-listen=127.0.0.1:7000", "--api-listen=127.0.0.1:7000"];
        let mut alone = said(&clash);
        assert_eq!(alone.without_api(), Some(Source::Flag(API_LISTEN)));
        alone.resolve(Path::new("/"), Vec::new()).unwrap();
        let mut alone = said(&["--etcd-listen=127.0.0.1:6443"]);
        assert_eq!(alone.without_api(), None);
        alone.resolve(Path::new("/"), Vec::new()).unwrap();
        let problems = said(&clash).resolve(Path::new("/"), Vec::new()).unwrap_err();
        assert!(problems[0].contains("different ports"), "{problems:?}");
    }
}
