//! Arrows between crates point down only (the table of `ARCHITECTURE.md`).

use serde_json::Value;

/// Each crate with those it may use. A crate that is not listed may not exist.
const ARROWS: &[(&str, &[&str])] = &[
    ("setpoint-base", &[]),
    ("setpoint-proto", &[]),
    ("setpoint-telemetry", &["base"]),
    ("setpoint-apimachinery", &["base"]),
    ("setpoint-flow", &["base", "telemetry"]),
    ("setpoint-store", &["base", "telemetry", "proto", "flow"]),
    ("setpoint-runtime", &["base", "telemetry", "apimachinery"]),
    (
        "setpoint-apiserver",
        &[
            "base",
            "telemetry",
            "proto",
            "apimachinery",
            "flow",
            "store",
            "runtime",
        ],
    ),
    (
        "setpoint",
        &[
            "base",
            "telemetry",
            "proto",
            "apimachinery",
            "flow",
            "store",
            "runtime",
            "apiserver",
        ],
    ),
    ("setpoint-testkit", &["base", "proto"]),
    ("site-operator", &["base", "telemetry", "apimachinery", "runtime"]),
    ("xtask", &[]),
];

/// External crates that only some of ours may see: (crate, those that may, reason).
const GUARDED: &[(&str, &[&str], &str)] = &[
    (
        "tonic",
        &["proto", "flow", "store", ""],
        "gRPC ends at the store's front and in flow's channels",
    ),
    (
        "kube-client",
        &["runtime", ""],
        "the HTTP client belongs to the runtime",
    ),
    (
        "rcgen",
        &["apiserver"],
        "keys and certificates are made in one place",
    ),
    ("clap", &[""], "only the binary reads arguments"),
    ("mimalloc", &[""], "only the binary chooses the allocator"),
];

/// Compares the workspace's dependencies with the tables.
pub(crate) fn check(metadata: &Value, problems: &mut Vec<String>) {
    let members: Vec<&str> = metadata["workspace_members"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let packages = metadata["packages"].as_array().into_iter().flatten();
    for package in packages.filter(|package| package["id"].as_str().is_some_and(|id| members.contains(&id))) {
        check_package(package, problems);
    }
}

fn check_package(package: &Value, problems: &mut Vec<String>) {
    let name = package["name"].as_str().unwrap_or_default();
    let Some((_, allowed)) = ARROWS.iter().find(|(member, _)| *member == name) else {
        problems.push(format!(
            "{name}: not in the arrow table: add it to xtask/src/tidy/arrows.rs and ARCHITECTURE.md"
        ));
        return;
    };
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        let used = dependency["name"].as_str().unwrap_or_default();
        let dev = dependency["kind"].as_str() == Some("dev");
        if let Some(short) = ours(used) {
            // Tests may stand on the test kit and on the whole plane; products may not.
            let fine = allowed.contains(&short) || (dev && name != "setpoint-testkit");
            if !fine || (short == "testkit" && !dev) {
                problems.push(format!(
                    "{name}: must not use {used}: arrows point down only (ARCHITECTURE.md, Crates)"
                ));
            }
        } else if !dev
            && let Some((_, users, reason)) = GUARDED.iter().find(|(guarded, ..)| *guarded == used)
            && !users.contains(&ours(name).unwrap_or("-"))
        {
            problems.push(format!("{name}: must not use {used}: {reason}"));
        }
    }
}

/// The short name of one of our crates; the binary's is empty.
fn ours(name: &str) -> Option<&str> {
    if name == "setpoint" {
        Some("")
    } else {
        name.strip_prefix("setpoint-")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check_one(name: &str, dependency: &str, kind: &Value) -> Vec<String> {
        let package = json!({"id": "x", "name": name, "dependencies": [{"name": dependency, "kind": kind}]});
        let mut problems = Vec::new();
        check(
            &json!({"workspace_members": ["x"], "packages": [package]}),
            &mut problems,
        );
        problems
    }

    #[test]
    fn an_arrow_up_is_refused() {
        assert_eq!(
            check_one("setpoint-base", "setpoint-store", &Value::Null).len(),
            1
        );
        assert_eq!(
            check_one("setpoint-runtime", "setpoint-store", &Value::Null).len(),
            1
        );
    }

    #[test]
    fn an_arrow_down_is_fine() {
        assert!(check_one("setpoint-store", "setpoint-base", &Value::Null).is_empty());
    }

    #[test]
    fn the_test_kit_is_for_tests_only() {
        assert!(check_one("setpoint-store", "setpoint-testkit", &json!("dev")).is_empty());
        assert_eq!(
            check_one("setpoint-store", "setpoint-testkit", &Value::Null).len(),
            1
        );
        assert_eq!(
            check_one("setpoint-testkit", "setpoint-store", &json!("dev")).len(),
            1
        );
    }

    #[test]
    fn a_guarded_library_stays_in_its_room() {
        assert_eq!(check_one("setpoint-apimachinery", "tonic", &Value::Null).len(), 1);
        assert!(check_one("setpoint-proto", "tonic", &Value::Null).is_empty());
    }
}
