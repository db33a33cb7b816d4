//! Relative links in our Markdown lead somewhere.

use std::fs;

use anyhow::{Context, Result};

use crate::shell::root;

/// Looks at every relative link of every tracked Markdown file.
pub(crate) fn check(tracked: &[String], problems: &mut Vec<String>) -> Result<()> {
    for path in tracked.iter().filter(|path| path.ends_with(".md")) {
        let file = root().join(path);
        let text = fs::read_to_string(&file).with_context(|| format!("read {path}"))?;
        for target in targets(&text) {
            let target = target.split('#').next().unwrap_or_default();
            let outside = target.is_empty() || target.contains("://") || target.starts_with("mailto:");
            if !outside && !file.parent().is_some_and(|dir| dir.join(target).exists()) {
                problems.push(format!(
                    "{path}: link to {target} leads nowhere: fix or remove it"
                ));
            }
        }
    }
    Ok(())
}

/// The targets of inline links, outside code blocks.
fn targets(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        }
        if code {
            continue;
        }
        for rest in line.split("](").skip(1) {
            found.extend(rest.split([')', ' ']).next());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_outside_code() {
        let text = "see [a](docs/a.md#x) and [b](https://b)\n```\n[c](nowhere)\n```\n";
        assert_eq!(targets(text), ["docs/a.md#x", "https://b"]);
    }
}
