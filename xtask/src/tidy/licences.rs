//! Every dependency carries a licence that `deny.toml` allows.

use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::shell::root;

/// Reads the allow list and looks at every package of the lock file.
pub(crate) fn check(metadata: &Value, problems: &mut Vec<String>) -> Result<()> {
    let text = fs::read_to_string(root().join("deny.toml")).context("read deny.toml")?;
    let allowed = allow_list(&text);
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let (name, licence) = (&package["name"], package["license"].as_str().unwrap_or(""));
        if !satisfied(licence, &allowed) {
            problems.push(format!(
                "{name}: licence {licence:?} is not in deny.toml: choose another crate, or allow it there with a reason"
            ));
        }
    }
    Ok(())
}

/// The quoted entries of `allow = [...]` under `[licenses]`.
fn allow_list(text: &str) -> Vec<String> {
    let section = text.split("[licenses]").nth(1).unwrap_or_default();
    let list = section
        .split("allow = [")
        .nth(1)
        .and_then(|rest| rest.split(']').next())
        .unwrap_or_default();
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Evaluates an SPDX expression without nesting beyond one pair of parentheses: all crates so far fit.
fn satisfied(expression: &str, allowed: &[String]) -> bool {
    let expression = expression.replace('/', " OR ").replace(['(', ')'], " ");
    expression.split(" AND ").all(|all| {
        all.split(" OR ")
            .any(|licence| allowed.iter().any(|allow| allow == licence.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_branch_of_an_or_is_enough_and_all_of_an_and_are_needed() {
        let allowed = allow_list("[licenses]\nallow = [\n  \"MIT\", # fine\n  \"Unicode-3.0\",\n]");
        assert_eq!(allowed, ["MIT", "Unicode-3.0"]);
        assert!(satisfied("GPL-3.0 OR MIT", &allowed));
        assert!(satisfied("(MIT OR Apache-2.0) AND Unicode-3.0", &allowed));
        assert!(!satisfied("MIT AND GPL-3.0", &allowed));
        assert!(!satisfied("", &allowed));
    }
}
