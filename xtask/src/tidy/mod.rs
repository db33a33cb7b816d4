//! House rules that a machine can check, each with its remedy.

mod arrows;
mod files;
mod licences;
mod links;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell::{output, say};

/// Runs every check and reports all problems together.
pub(crate) fn run() -> Result<()> {
    let metadata = metadata()?;
    let mut problems = Vec::new();
    arrows::check(&metadata, &mut problems);
    licences::check(&metadata, &mut problems)?;
    let tracked = tracked_files()?;
    files::check(&tracked, &mut problems)?;
    links::check(&tracked, &mut problems)?;
    if problems.is_empty() {
        say(&format!("tidy: {} files, no problem", tracked.len()));
        return Ok(());
    }
    for problem in &problems {
        say(problem);
    }
    bail!("tidy found {} problems", problems.len());
}

fn metadata() -> Result<Value> {
    let text = output("cargo", &["metadata", "--format-version", "1", "--locked"])?;
    serde_json::from_str(&text).context("read cargo metadata")
}

fn tracked_files() -> Result<Vec<String>> {
    let listed = output("git", &["ls-files", "--cached", "--others", "--exclude-standard"])?;
    let root = crate::shell::root();
    Ok(listed
        .lines()
        .filter(|path| root.join(path).is_file())
        .map(str::to_owned)
        .collect())
}
