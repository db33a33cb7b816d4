//! Rate limits from a file, put in force again whenever the file changes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use setpoint_base::{Stop, TaskGroup};
use setpoint_flow::{Limits, Rules};
use setpoint_telemetry::Metrics;
use tokio::time::Instant;

use super::{PlaneError, PlaneOptions};

/// How often the file is looked at: a change is in force within a second.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Largest file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Puts the limits of the options' file, if there is one, in front of both fronts, and keeps watching the file.
pub(super) fn apply(
    options: &mut PlaneOptions,
    metrics: &Metrics,
    group: &TaskGroup,
) -> Result<(), PlaneError> {
    let Some(path) = options.limits_file.clone() else {
        return Ok(());
    };
    let refused = |detail: String| PlaneError::Limits {
        path: path.clone(),
        detail,
    };
    let text = read(&path).map_err(refused)?;
    let limits = Limits::new();
    put_in_force(&limits, &text).map_err(refused)?;
    limits
        .register_metrics(metrics)
        .map_err(|error| refused(error.to_string()))?;
    options.etcd.limits = Some(limits.clone());
    options.api.limits = Some(limits.clone());
    group.spawn(follow(path, text, limits, group.stop().clone()));
    Ok(())
}

/// Looks at the file until the stop. A file that is wrong or gone changes nothing and is complained of once.
async fn follow(path: PathBuf, mut known: String, limits: Limits, stop: Stop) {
    let mut complaint = None;
    while stop
        .run_until_cancelled(tokio::time::sleep(LOOK_EVERY))
        .await
        .is_some()
    {
        let looked = path.clone();
        let Ok(read) = tokio::task::spawn_blocking(move || read(&looked)).await else {
            return;
        };
        let changed = match read {
            Ok(text) if text == known => continue,
            Ok(text) => {
                let result = put_in_force(&limits, &text);
                known = text;
                result
            }
            Err(problem) => Err(problem),
        };
        match changed {
            Ok(rules) => {
                complaint = None;
                tracing::info!(file = %path.display(), rules, "rate limits changed");
            }
            Err(problem) if complaint.as_ref() != Some(&problem) => {
                tracing::error!(file = %path.display(), problem, "rate limits stay as they were");
                complaint = Some(problem);
            }
            Err(_) => (),
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    let len = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if len > FILE_BYTES_MAX {
        return Err(format!(
            "{len} bytes are too many for rate limits: {FILE_BYTES_MAX} at most"
        ));
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

fn put_in_force(limits: &Limits, text: &str) -> Result<usize, String> {
    let rules = if text.trim().is_empty() {
        Rules::default()
    } else {
        serde_saphyr::from_str::<Rules>(text).map_err(|error| error.to_string())?
    };
    limits
        .replace(&rules, Instant::now())
        .map_err(|problems| problems.join("; "))?;
    Ok(rules.rules.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_read_as_the_documentation_writes_them() {
        let page = include_str!("../../../../docs/ops/limits.md");
        let mut examples = page.split("```yaml").skip(1);
        let example = examples.next().and_then(|rest| rest.split("```").next()).unwrap();
        assert_eq!(put_in_force(&Limits::new(), example), Ok(4));
        assert_eq!(put_in_force(&Limits::new(), ""), Ok(0));
        let wrong = put_in_force(&Limits::new(), "rules: [{name: a, rate: 1/s, brust: 3}]").unwrap_err();
        assert!(wrong.contains("brust"), "{wrong}");
    }
}
