//! Conditions: what a status says in a form that `kubectl wait` understands.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One condition of a status (`metav1.Condition`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// What it is about, for example `Ready`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// The generation of the object that this was found out about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When `status` changed last, RFC 3339 in whole seconds.
    pub last_transition_time: String,
    /// Why, in one CamelCase word.
    pub reason: String,
    /// Why, for a human.
    pub message: String,
}

impl Condition {
    /// A condition that holds or does not; its time is set by [`set`].
    #[must_use]
    pub fn new(kind: &str, holds: bool, reason: &str, message: impl Into<String>) -> Self {
        Self {
            kind: kind.to_owned(),
            status: if holds { "True" } else { "False" }.to_owned(),
            reason: reason.to_owned(),
            message: message.into(),
            ..Self::default()
        }
    }

    /// The same condition, found out about this generation of the object.
    #[must_use]
    pub fn at_generation(mut self, generation: i64) -> Self {
        self.observed_generation = Some(generation);
        self
    }
}

/// Puts a condition in place of the one of its type. The time of the last transition stays when the status
/// stays (apimachinery `meta.SetStatusCondition`). Returns whether anything changed: if not, do not write.
pub fn set(conditions: &mut Vec<Condition>, mut new: Condition, now: Timestamp) -> bool {
    let stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let Some(present) = conditions.iter_mut().find(|present| present.kind == new.kind) else {
        new.last_transition_time = stamp;
        conditions.push(new);
        return true;
    };
    new.last_transition_time = if present.status == new.status {
        present.last_transition_time.clone()
    } else {
        stamp
    };
    let changed = *present != new;
    *present = new;
    changed
}

/// Whether a condition is there and `True`.
#[must_use]
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    conditions
        .iter()
        .any(|condition| condition.kind == kind && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_transition_moves_only_with_the_status() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let mut conditions = Vec::new();
        assert!(set(
            &mut conditions,
            Condition::new("Ready", false, "Starting", ""),
            at(0)
        ));
        assert!(set(
            &mut conditions,
            Condition::new("Ready", false, "Waiting", ""),
            at(60)
        ));
        assert_eq!(conditions[0].last_transition_time, "1970-01-01T00:00:00Z");
        assert!(!set(
            &mut conditions,
            Condition::new("Ready", false, "Waiting", ""),
            at(90)
        ));
        assert!(set(
            &mut conditions,
            Condition::new("Ready", true, "Serving", ""),
            at(120)
        ));
        assert_eq!(conditions[0].last_transition_time, "1970-01-01T00:02:00Z");
        assert!(is_true(&conditions, "Ready"));
    }
}
