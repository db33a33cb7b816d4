//! What may happen how often: the rules as people write them.

use std::collections::HashSet;

use serde::Deserialize;

use crate::core::bucket::Quota;
use crate::core::rate::Rate;
use crate::overload::{Classes, Concurrency, Memory};

/// Most rules of each kind.
pub const RULES_MAX: usize = 64;

/// What may happen how often, how much of it at a time, and what is given up first.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Token buckets, in the order in which they are asked. All that match a call have to admit it.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// Concurrency limits. The first that matches a call decides.
    #[serde(default)]
    pub concurrency: Vec<Concurrency>,
    /// Which calls matter most and least.
    #[serde(default)]
    pub classes: Classes,
    /// When calls are refused because memory is short.
    #[serde(default)]
    pub memory: Memory,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What metrics and refusals call it. A changed rule of the same name goes on with its buckets.
    pub name: String,
    /// Methods it is about, with `*` for any text; empty is all. A gRPC method is its path
    /// (`/etcdserverpb.KV/Put`), a Kubernetes request its verb and resource (`list secrets`,
    /// `create sites.demo.setpoint.dev`).
    #[serde(default)]
    pub methods: Vec<String>,
    /// Who shares a bucket.
    #[serde(default)]
    pub per: Per,
    /// Permits and a time: `100/s`, `30/m`, `1000/h`, `5/10s`.
    pub rate: String,
    /// Permits at once after a pause (the permits of `rate` when absent, at least 1).
    pub burst: Option<u32>,
}

/// Who shares a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// All calls.
    #[default]
    Global,
    /// Calls of one method.
    Method,
    /// Calls on one connection.
    Connection,
    /// Calls of one user or client certificate; without one, of one address.
    Peer,
    /// Calls with the same value of this metadata key or header; those without share one bucket.
    Metadata(String),
}

impl Rules {
    /// Every problem, each with its remedy.
    ///
    /// # Errors
    /// The list of problems, if there is one.
    pub fn validate(&self) -> Result<(), Vec<String>> {
        let mut problems = Vec::new();
        names("rules", self.rules.iter().map(|rule| &*rule.name), &mut problems);
        let concurrency = self.concurrency.iter().map(|rule| &*rule.name);
        names("concurrency", concurrency, &mut problems);
        for (n, rule) in self.concurrency.iter().enumerate() {
            let of_rule = rule.problems().into_iter();
            problems.extend(of_rule.map(|problem| format!("concurrency[{n}].{problem}")));
        }
        let of_memory = self.memory.problems().into_iter();
        problems.extend(of_memory.map(|problem| format!("memory.{problem}")));
        for (n, rule) in self.rules.iter().enumerate() {
            if let Per::Metadata(key) = &rule.per
                && (key.is_empty() || *key != key.to_ascii_lowercase())
            {
                problems.push(format!(
                    "rules[{n}].per.metadata: {key:?} is no lower-case metadata key"
                ));
            }
            if let Err(problem) = rule.quota() {
                problems.push(format!("rules[{n}].{problem}"));
            }
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(problems)
        }
    }
}

/// Names are there, and unique; and there are not too many.
fn names<'a>(kind: &str, names: impl ExactSizeIterator<Item = &'a str>, problems: &mut Vec<String>) {
    if names.len() > RULES_MAX {
        problems.push(format!(
            "there are {} {kind}: {RULES_MAX} at most, use * to cover several methods with one",
            names.len()
        ));
    }
    let mut known = HashSet::new();
    for (n, name) in names.enumerate() {
        if name.is_empty() || name.len() > 63 || name.chars().any(char::is_control) {
            problems.push(format!(
                "{kind}[{n}].name: give it a name of 1 to 63 printable characters"
            ));
        }
        if !known.insert(name) {
            problems.push(format!("{kind}[{n}].name: {name:?} is taken, names are unique"));
        }
    }
}

impl Rule {
    /// A rule of this name and rate (`100/s`) about all calls, with one bucket for all.
    #[must_use]
    pub fn new(name: impl Into<String>, rate: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            methods: Vec::new(),
            per: Per::Global,
            rate: rate.into(),
            burst: None,
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

    /// With a bucket for each of these.
    #[must_use]
    pub fn per(self, per: Per) -> Self {
        Self { per, ..self }
    }

    /// With this many permits at once after a pause.
    #[must_use]
    pub fn burst(self, burst: u32) -> Self {
        Self {
            burst: Some(burst),
            ..self
        }
    }

    /// Permits at once after a pause.
    pub(crate) fn burst_max(&self) -> u32 {
        let permits = || self.rate.split('/').next()?.trim().parse().ok();
        self.burst.unwrap_or_else(|| permits().unwrap_or(1))
    }

    /// What its buckets hold.
    ///
    /// # Errors
    /// What is wrong, beginning with the field's name.
    pub(crate) fn quota(&self) -> Result<Quota, String> {
        let rate: Rate = self.rate.parse().map_err(|error| format!("rate: {error}"))?;
        let burst = self.burst_max();
        Quota::new(rate, burst).ok_or_else(|| match burst {
            0 => "burst: 0 refuses everything: give at least 1".to_owned(),
            _ => format!(
                "burst: {burst} at {rate} take more than 100 days to fill up: give fewer or a higher rate"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(name: &str, rate: &str, burst: Option<u32>) -> Rule {
        Rule {
            name: name.to_owned(),
            methods: Vec::new(),
            per: Per::Global,
            rate: rate.to_owned(),
            burst,
        }
    }

    #[test]
    fn every_problem_is_told_with_its_field() {
        let rules = Rules {
            rules: vec![
                rule("a", "10/s", None),
                rule("a", "ten", None),
                rule("", "1/s", Some(0)),
                Rule {
                    per: Per::Metadata("Tenant".to_owned()),
                    ..rule("m", "1/4000000000s", Some(1_000))
                },
            ],
            ..Rules::default()
        };
        let problems = rules.validate().unwrap_err();
        for (problem, start) in problems.iter().zip([
            "rules[1].name: \"a\" is taken",
            "rules[2].name: give it a name",
            "rules[1].rate: \"ten\" is no rate",
            "rules[2].burst: 0 refuses everything",
            "rules[3].per.metadata: \"Tenant\"",
            "rules[3].burst: 1000 at 1/4000000000s",
        ]) {
            assert!(problem.starts_with(start), "{problem}");
        }
        assert_eq!(problems.len(), 6);
    }

    #[test]
    fn a_burst_is_a_seconds_worth_unless_said_otherwise() {
        let quota = |rate: &str, burst| rule("r", rate, burst).quota().unwrap();
        assert_eq!(quota("100/s", None), quota("100/s", Some(100)));
        assert_ne!(quota("100/s", None), quota("100/s", Some(200)));
    }
}
