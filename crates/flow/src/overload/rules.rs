//! Concurrency, classes and memory: the rules as people write them.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

use crate::core::gate::Class;
use crate::core::glob;
use crate::core::limit::{Law, Settings};
use crate::core::memory::Thresholds;
use crate::rules::Per;

/// Most places a rule may have.
const PLACES_MAX: u32 = 100_000;
/// Longest queue, and longest wait in it: queues are for the jitter of arrivals, not for overload.
const QUEUE_MAX: u32 = 10_000;
const PATIENCE_MAX: Duration = Duration::from_secs(10);
/// Calls that may wait when the rule does not say.
const QUEUE: u32 = 100;
/// And how long.
const PATIENCE: Duration = Duration::from_millis(5);

/// Methods of the class system, when the rules do not name them.
const SYSTEM: &[&str] = &[
    "/etcdserverpb.Lease/LeaseGrant",
    "/etcdserverpb.Lease/LeaseRevoke",
    "/etcdserverpb.Lease/LeaseTimeToLive",
    "/etcdserverpb.Lease/LeaseKeepAlive",
    "/etcdserverpb.Auth/Authenticate",
    "/etcdserverpb.Maintenance/Status",
    "/etcdserverpb.Maintenance/Alarm",
    "/etcdserverpb.Cluster/MemberList",
    "/v3electionpb.Election/*",
    "/v3lockpb.Lock/*",
    "/grpc.health.v1.Health/*",
    "* leases.coordination.k8s.io",
    "* nodes/status",
    "create tokenreviews.authentication.k8s.io",
    "create subjectaccessreviews.authorization.k8s.io",
];

/// Methods of the class batch, when the rules do not name them.
const BATCH: &[&str] = &[
    "/etcdserverpb.KV/Range?wide",
    "/etcdserverpb.KV/RangeStream",
    "/etcdserverpb.KV/Compact",
    "/etcdserverpb.Maintenance/Snapshot",
    "/etcdserverpb.Maintenance/Hash*",
    "/etcdserverpb.Maintenance/Defragment",
    "list *",
    "deletecollection *",
    "* events",
    "* events.events.k8s.io",
];

/// How many calls may be served at a time. The first rule that matches a call decides.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Concurrency {
    /// What metrics and refusals call it. A changed rule of the same name goes on with what it has learnt.
    pub name: String,
    /// Methods it is about, as in [`Rule::methods`](crate::Rule::methods); empty is all.
    #[serde(default)]
    pub methods: Vec<String>,
    /// `global`, or `connection`: then `limit` is a number of calls open at a time on each connection, streams
    /// included, which clients are told as HTTP/2's `SETTINGS_MAX_CONCURRENT_STREAMS`. It is about all methods.
    #[serde(default)]
    pub per: Per,
    /// `gradient2`, `vegas`, `aimd`, or a number.
    #[serde(default)]
    pub limit: Find,
    /// Smallest limit that is found (4).
    pub min: Option<u32>,
    /// Largest limit that is found (1,000).
    pub max: Option<u32>,
    /// Calls that may wait for a place (100). 0: none waits.
    pub queue: Option<u32>,
    /// How long they may (`5ms`).
    pub wait: Option<Span>,
}

/// How the limit is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Find {
    law: Law,
    fixed: u32,
}

impl Default for Find {
    fn default() -> Self {
        Self {
            law: Law::Gradient2,
            fixed: 0,
        }
    }
}

impl Find {
    /// By a law.
    #[must_use]
    pub fn by(law: Law) -> Self {
        Self { law, fixed: 0 }
    }

    /// It is this number.
    #[must_use]
    pub fn fixed(limit: u32) -> Self {
        Self {
            law: Law::Fixed,
            fixed: limit,
        }
    }
}

/// A time as people write it: `5ms`, `250us`, `1s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

/// Which calls matter most and least; the rest is in between.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Classes {
    /// Methods that keep others alive, in place of the built-in list.
    pub system: Option<Vec<String>>,
    /// Methods that can come again later, in place of the built-in list.
    pub batch: Option<Vec<String>>,
}

/// When calls are refused because memory is short.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// What there is (`cgroup`).
    #[serde(default)]
    pub limit: MemoryLimit,
    /// From how many per cent of it calls of the class batch are refused (90).
    pub batch: Option<u8>,
    /// From how many on all but those of the class system are (95).
    pub interactive: Option<u8>,
}

/// What memory there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryLimit {
    /// What the control group of the process allows; no limit when it allows everything.
    #[default]
    Cgroup,
    /// All of the machine's, whoever uses it.
    Machine,
    /// This many bytes of the process's own, without files it has mapped.
    Bytes(u64),
    /// No limit.
    Off,
}

impl Concurrency {
    /// A limit of this name on all calls.
    #[must_use]
    pub fn new(name: impl Into<String>, limit: Find) -> Self {
        Self {
            name: name.into(),
            methods: Vec::new(),
            per: Per::Global,
            limit,
            min: None,
            max: None,
            queue: None,
            wait: None,
        }
    }

    /// About these methods alone.
    #[must_use]
    pub fn methods<T: Into<String>>(self, methods: impl IntoIterator<Item = T>) -> Self {
        Self {
            methods: methods.into_iter().map(Into::into).collect(),
            ..self
        }
    }

    /// Every problem, each beginning with the field's name.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let (min, max) = (self.min.unwrap_or(4), self.max.unwrap_or(1_000));
        if self.limit.law == Law::Fixed && !(1..=PLACES_MAX).contains(&self.limit.fixed) {
            problems.push(format!(
                "limit: {} is not between 1 and {PLACES_MAX}",
                self.limit.fixed
            ));
        }
        if self.limit.law == Law::Fixed && (self.min.is_some() || self.max.is_some()) {
            problems.push("min, max: a limit that is a number has none, leave them out".to_owned());
        }
        if min == 0 || min > max || max > PLACES_MAX {
            problems.push(format!(
                "min, max: {min} and {max} are not in order between 1 and {PLACES_MAX}"
            ));
        }
        if self.queue.is_some_and(|queue| queue > QUEUE_MAX) {
            problems.push(format!("queue: at most {QUEUE_MAX} calls may wait"));
        }
        if self.patience() > PATIENCE_MAX {
            problems.push(format!("wait: at most {} s", PATIENCE_MAX.as_secs()));
        }
        match &self.per {
            Per::Global => (),
            Per::Connection if self.limit.law != Law::Fixed => {
                problems.push("limit: write a number, clients are told it when they connect".to_owned());
            }
            Per::Connection if !self.methods.is_empty() => {
                problems.push("methods: leave them out, a connection's limit is about all".to_owned());
            }
            Per::Connection if self.queue.is_some() || self.wait.is_some() => {
                problems.push("queue, wait: leave them out, clients wait at their end".to_owned());
            }
            Per::Connection => (),
            _ => problems.push("per: write global or connection".to_owned()),
        }
        problems
    }

    /// Calls at a time on each connection, if that is what it is about.
    pub(crate) fn streams_max(&self) -> Option<u32> {
        (self.per == Per::Connection).then_some(self.limit.fixed)
    }

    pub(crate) fn is_about(&self, method: &str) -> bool {
        self.methods.is_empty() || glob::any(&self.methods, method)
    }

    pub(crate) fn settings(&self) -> Settings {
        let default = Settings::default();
        let (min, max) = (self.min.unwrap_or(default.min), self.max.unwrap_or(default.max));
        let initial = match self.limit.law {
            Law::Fixed => self.limit.fixed,
            _ => default.initial.clamp(min, max.max(min)),
        };
        Settings {
            law: self.limit.law,
            initial,
            min,
            max,
            ..default
        }
    }

    pub(crate) fn queue_max(&self) -> usize {
        self.queue.unwrap_or(QUEUE) as usize
    }

    pub(crate) fn patience(&self) -> Duration {
        self.wait.map_or(PATIENCE, |wait| wait.0)
    }
}

impl Classes {
    /// The class of a call.
    pub(crate) fn of(&self, method: &str) -> Class {
        let listed = |own: &Option<Vec<String>>, built_in: &[&str]| match own {
            Some(own) => glob::any(own, method),
            None => glob::any(built_in, method),
        };
        if listed(&self.system, SYSTEM) {
            Class::System
        } else if listed(&self.batch, BATCH) {
            Class::Batch
        } else {
            Class::Interactive
        }
    }
}

impl Memory {
    /// Every problem, each beginning with the field's name.
    pub(crate) fn problems(&self) -> Vec<String> {
        let Thresholds { batch, interactive } = self.thresholds();
        let mut problems = Vec::new();
        if batch < 1.0 || batch > interactive || interactive > 100.0 {
            problems.push(format!(
                "batch, interactive: {batch} and {interactive} are not in order between 1 and 100 per cent"
            ));
        }
        if self.limit == MemoryLimit::Bytes(0) {
            problems.push("limit: 0 bytes refuse everything: write off for no limit".to_owned());
        }
        problems
    }

    pub(crate) fn thresholds(&self) -> Thresholds {
        let default = Thresholds::default();
        Thresholds {
            batch: self.batch.map_or(default.batch, f64::from),
            interactive: self.interactive.map_or(default.interactive, f64::from),
        }
    }
}

/// Reads a text or a number.
struct Words<T>(&'static str, fn(&str) -> Option<T>);

impl<T> Visitor<'_> for Words<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.1)(text.trim()).ok_or_else(|| E::custom(format!("{text:?} is not {}", self.0)))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    /// YAML reads a plain `off` as a word for false.
    fn visit_bool<E: Error>(self, on: bool) -> Result<T, E> {
        self.visit_str(if on { "on" } else { "off" })
    }
}

impl<'de> Deserialize<'de> for Find {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = |text: &str| match text {
            "gradient2" => Some(Self::by(Law::Gradient2)),
            "vegas" => Some(Self::by(Law::Vegas)),
            "aimd" => Some(Self::by(Law::Aimd)),
            number => number.parse().ok().map(Self::fixed),
        };
        deserializer.deserialize_any(Words("a number of calls, gradient2, vegas or aimd", read))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = |text: &str| {
            let unit = text.find(|c: char| !c.is_ascii_digit())?;
            let number: u64 = text[..unit].parse().ok()?;
            let micros = match text[unit..].trim() {
                "us" => 1,
                "ms" => 1_000,
                "s" => 1_000_000,
                _ => return None,
            };
            Some(Self(Duration::from_micros(number.checked_mul(micros)?)))
        };
        deserializer.deserialize_any(Words("a time as in 5ms, 250us or 1s", read))
    }
}

fn bytes(text: &str) -> Option<u64> {
    let unit = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let shift = match text[unit..].trim() {
        "" | "B" => 0,
        "KiB" | "Ki" => 10,
        "MiB" | "Mi" => 20,
        "GiB" | "Gi" => 30,
        _ => return None,
    };
    text[..unit].parse::<u64>().ok()?.checked_mul(1 << shift)
}

impl<'de> Deserialize<'de> for MemoryLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = |text: &str| match text {
            "cgroup" => Some(Self::Cgroup),
            "machine" => Some(Self::Machine),
            "off" => Some(Self::Off),
            size => bytes(size).map(Self::Bytes),
        };
        deserializer.deserialize_any(Words(
            "cgroup, machine, off or a number of bytes as in 512MiB",
            read,
        ))
    }
}
