//! Stock clients against the built binary.
//!
//! Each folder of `conformance/` has an executable `run`: it gets the binary's path as its only argument,
//! starts what it needs on free ports, and ends with 0 (passed), 77 (skipped: says what is missing) or
//! anything else (failed).

use std::fs;

use anyhow::{Context, Result, bail};

use crate::shell::{command, root, say, target_dir};

/// What `run` exits with when its toolchain is missing (the value automake uses).
const SKIPPED: i32 = 77;

/// Runs the named folders, or all of them.
pub(crate) fn run(names: &[String]) -> Result<()> {
    let binary = target_dir().join("release/setpoint");
    if !binary.is_file() {
        bail!(
            "{} is missing: run `cargo build --release` first",
            binary.display()
        );
    }
    let names = if names.is_empty() { all()? } else { names.to_vec() };
    let (mut passed, mut skipped, mut failed) = (0, 0, Vec::new());
    for name in names {
        let script = root().join("conformance").join(&name).join("run");
        if !script.is_file() {
            bail!("conformance/{name}/run does not exist");
        }
        say(&format!("--- conformance {name}"));
        let status = command(&script.to_string_lossy(), &[&binary.to_string_lossy()])
            .status()
            .with_context(|| format!("start conformance/{name}/run"))?;
        match status.code() {
            Some(0) => passed += 1,
            Some(SKIPPED) => skipped += 1,
            _ => failed.push(name),
        }
    }
    say(&format!(
        "conformance: {passed} passed, {} failed, {skipped} skipped",
        failed.len()
    ));
    if failed.is_empty() {
        Ok(())
    } else {
        bail!("failed: {}", failed.join(", "))
    }
}

fn all() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root().join("conformance")).context("list conformance/")? {
        let entry = entry?;
        if entry.path().join("run").is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}
