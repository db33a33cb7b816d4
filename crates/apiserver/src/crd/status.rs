//! Conditions of a definition, and which of its names are free
//! (apiextensions-apiserver `pkg/controller/status/naming_controller.go`).

use serde_json::{Value, json};
use setpoint_apimachinery::Object;

use super::definition::{Definition, Names};
use crate::object::map_of;

/// Whether a condition is `True`.
pub(crate) fn is_true(object: &Object, condition: &str) -> bool {
    let list = object
        .get("status")
        .and_then(|status| status.get("conditions")?.as_array());
    list.into_iter()
        .flatten()
        .any(|c| c["type"] == condition && c["status"] == "True")
}

/// Sets a condition; its time changes with its status only.
pub(crate) fn set_condition(
    object: &mut Object,
    kind: &str,
    status: bool,
    reason: &str,
    message: &str,
    now: &str,
) {
    let status = if status { "True" } else { "False" };
    let list = map_of(object, "status")
        .entry("conditions")
        .or_insert_with(|| json!([]));
    if !list.is_array() {
        *list = json!([]);
    }
    let Some(list) = list.as_array_mut() else { return };
    let fresh = json!({
        "type": kind, "status": status, "lastTransitionTime": now, "reason": reason, "message": message,
    });
    match list.iter_mut().find(|c| c["type"] == kind) {
        None => list.push(fresh),
        Some(old) => {
            let since = old["lastTransitionTime"].clone();
            let same = old["status"] == status && !since.is_null();
            *old = fresh;
            if same {
                old["lastTransitionTime"] = since;
            }
        }
    }
}

/// Why a definition cannot have its names: reason and message. Those that were there first have theirs.
pub(crate) fn conflict<'a>(
    name: &str,
    group: &str,
    names: &Names,
    others: impl Iterator<Item = &'a Definition>,
) -> Option<(&'static str, String)> {
    let mut plural_like = Vec::new();
    let mut kinds = Vec::new();
    for other in others.filter(|other| other.group == group && other.name != name && other.established) {
        plural_like.extend([other.names.plural.as_str(), other.names.singular.as_str()]);
        plural_like.extend(other.names.short_names.iter().map(String::as_str));
        kinds.extend([other.names.kind.as_str(), other.names.list_kind.as_str()]);
    }
    let taken = |list: &[&str], name: &str| !name.is_empty() && list.contains(&name);
    let used = |name: &str| format!("{name:?} is already in use");
    if taken(&plural_like, &names.plural) {
        return Some(("PluralConflict", used(&names.plural)));
    }
    if taken(&plural_like, &names.singular) {
        return Some(("SingularConflict", used(&names.singular)));
    }
    if let Some(short) = names.short_names.iter().find(|short| taken(&plural_like, short)) {
        return Some(("ShortNamesConflict", used(short)));
    }
    if taken(&kinds, &names.kind) {
        return Some(("KindConflict", used(&names.kind)));
    }
    if taken(&kinds, &names.list_kind) {
        return Some(("ListKindConflict", used(&names.list_kind)));
    }
    None
}

/// Brings conditions, accepted names and stored versions up to the spec.
pub(crate) fn refresh<'a>(object: &mut Object, now: &str, others: impl Iterator<Item = &'a Definition>) {
    let spec = object.get("spec").cloned().unwrap_or_default();
    let names = Names::read(spec.get("names"));
    let group = spec.get("group").and_then(Value::as_str).unwrap_or_default();
    let conflict = conflict(crate::object::name(object), group, &names, others);
    match &conflict {
        None => {
            let accepted = spec.get("names").cloned().unwrap_or_else(|| json!({}));
            map_of(object, "status").insert("acceptedNames".to_owned(), accepted);
            set_condition(
                object,
                "NamesAccepted",
                true,
                "NoConflicts",
                "no conflicts found",
                now,
            );
            let message = "the initial names have been accepted";
            set_condition(object, "Established", true, "InitialNamesAccepted", message, now);
        }
        Some((reason, message)) => {
            let status = map_of(object, "status");
            status
                .entry("acceptedNames")
                .or_insert_with(|| json!({ "plural": "", "kind": "" }));
            set_condition(object, "NamesAccepted", false, reason, message, now);
            if !is_true(object, "Established") {
                let message = "not all names are accepted";
                set_condition(object, "Established", false, "NotAccepted", message, now);
            }
        }
    }
    let versions = spec
        .get("versions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let stored = versions
        .filter(|v| v["storage"] == true)
        .find_map(|v| v["name"].as_str());
    let list = map_of(object, "status")
        .entry("storedVersions")
        .or_insert_with(|| json!([]));
    if let (Some(stored), Some(list)) = (stored, list.as_array_mut())
        && !list.iter().any(|version| version == stored)
    {
        list.push(Value::from(stored));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let mut object = Object::new();
        set_condition(&mut object, "A", true, "R", "m", "t1");
        set_condition(&mut object, "A", true, "R2", "m2", "t2");
        assert_eq!(object["status"]["conditions"][0]["lastTransitionTime"], "t1");
        assert_eq!(object["status"]["conditions"][0]["reason"], "R2");
        set_condition(&mut object, "A", false, "R3", "m3", "t3");
        assert_eq!(object["status"]["conditions"][0]["lastTransitionTime"], "t3");
        assert!(!is_true(&object, "A"));
    }
}
