//! What one line can say of an object. Pure.

use serde_json::Value;

/// The state of an object in a word, with the reason when something is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// A phase, a condition, or empty when nothing was reported yet.
    pub(crate) state: String,
    /// The message of a condition that is false.
    pub(crate) message: Option<String>,
    /// Whether whoever looks after the object has seen its newest specification.
    pub(crate) observed: bool,
    /// Where it can be reached.
    pub(crate) url: Option<String>,
}

/// Reads the conventions of the ecosystem: `status.phase`, `status.conditions`, `status.observedGeneration`
/// (Kubernetes API conventions, "Typical status properties").
pub(crate) fn of(object: &Value) -> Summary {
    let status = &object["status"];
    let conditions = status["conditions"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let named = |names: &[&str]| {
        conditions.iter().find(|condition| {
            condition["type"]
                .as_str()
                .is_some_and(|name| names.contains(&name))
        })
    };
    let state = match (
        status["phase"].as_str(),
        named(&["Ready", "Established", "Available"]),
    ) {
        _ if object["metadata"]["deletionTimestamp"].is_string() => "Deleting",
        (Some(phase), _) => phase,
        (None, Some(condition)) if condition["status"] == "True" => text(&condition["type"]),
        (None, Some(condition)) => match text(&condition["reason"]) {
            "" => "NotReady",
            reason => reason,
        },
        (None, None) => "",
    };
    let wrong = conditions
        .iter()
        .find(|condition| condition["status"] == "False" && !text(&condition["message"]).is_empty());
    let generation = object["metadata"]["generation"].as_i64().unwrap_or_default();
    Summary {
        state: state.to_owned(),
        message: wrong
            .map(|condition| format!("{}: {}", text(&condition["reason"]), text(&condition["message"]))),
        observed: status["observedGeneration"]
            .as_i64()
            .is_none_or(|seen| seen >= generation),
        url: status["url"].as_str().map(str::to_owned),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_summary_reads_phase_conditions_and_generation() {
        for (object, state, observed, message) in [
            (json!({"data": {}}), "", true, None),
            (
                json!({"status": {"phase": "Serving", "observedGeneration": 1}, "metadata": {"generation": 2}}),
                "Serving",
                false,
                None,
            ),
            (
                json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
                "Ready",
                true,
                None,
            ),
            (
                json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "PortTaken", "message": "port 80"}]}}),
                "PortTaken",
                true,
                Some("PortTaken: port 80"),
            ),
            (
                json!({"metadata": {"deletionTimestamp": "x"}, "status": {"phase": "Serving"}}),
                "Deleting",
                true,
                None,
            ),
        ] {
            let summary = of(&object);
            assert_eq!(summary.state, state, "{object}");
            assert_eq!(summary.observed, observed, "{object}");
            assert_eq!(summary.message.as_deref(), message, "{object}");
        }
    }
}
