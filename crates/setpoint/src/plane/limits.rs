//! Rate limits from a file, put in force again whenever the file changes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use setpoint_base::{Stop, TaskGroup};
use setpoint_flow::{Limits, Machine, Rules};
use setpoint_telemetry::{DuplicateMetric, Metrics};
use tokio::time::Instant;

use super::{PlaneError, PlaneOptions};

/// How often the file is looked at: a change is in force within a second, after two looks.
const LOOK_EVERY: Duration = Duration::from_millis(400);
/// Largest file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Puts limits in front of both fronts: those of the options' file, if there is one, and the memory that the process's
/// control group has. Keeps watching both.
pub(super) fn apply(
    options: &mut PlaneOptions,
    metrics: &Metrics,
    group: &TaskGroup,
) -> Result<(), PlaneError> {
    let limits = Limits::new();
    let taken = |error: DuplicateMetric| PlaneError::Limits {
        path: options.limits_file.clone().unwrap_or_default(),
        detail: error.to_string(),
    };
    limits.register_metrics(metrics).map_err(taken)?;
    options.etcd.limits = Some(limits.clone());
    options.api.limits = Some(limits.clone());
    options.api_front.limits = Some(limits.clone());
    if let Some(path) = options.limits_file.clone() {
        let refused = |detail: String| PlaneError::Limits {
            path: path.clone(),
            detail,
        };
        let text = read(&path).map_err(refused)?;
        put_in_force(&limits, &text).map_err(refused)?;
        group.spawn(follow(path, text, limits.clone(), group.stop().clone()));
    }
    let stop = group.stop().clone();
    group.spawn(async move {
        stop.run_until_cancelled(limits.watch_memory(&Machine::default()))
            .await;
    });
    Ok(())
}

/// What a look at the file has found.
type Look = Result<String, String>;

/// Looks at the file until the stop. A file that is wrong or gone changes nothing and is complained of once.
async fn follow(path: PathBuf, mut known: String, limits: Limits, stop: Stop) {
    let (mut complaint, mut before) = (None, Ok(known.clone()));
    while stop
        .run_until_cancelled(tokio::time::sleep(LOOK_EVERY))
        .await
        .is_some()
    {
        let looked = path.clone();
        let Ok(read) = tokio::task::spawn_blocking(move || read(&looked)).await else {
            return;
        };
        let Some(read) = settled(&mut before, read) else {
            continue;
        };
        let changed = match read {
            Ok(text) if text == known => continue,
            Ok(text) => {
                let told = limits.streams_max();
                let result = put_in_force(&limits, &text);
                if limits.streams_max() != told {
                    say_of_open_connections(limits.streams_max());
                }
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

/// HTTP/2 tells a peer how many calls it may have open when it connects, and `h2` does not tell it anew.
fn say_of_open_connections(calls: Option<u32>) {
    let calls = calls.map_or_else(
        || "as many as without a rule".to_owned(),
        |calls| calls.to_string(),
    );
    tracing::info!(
        calls,
        "the limit of calls per connection acts on connections that are made from now on: those that are open keep theirs"
    );
}

/// What two looks have found alike. Many programs empty a file before they write it, so a single look could find no rules, or
/// the first few of them, and let everybody in.
fn settled(before: &mut Look, now: Look) -> Option<Look> {
    if *before == now {
        return Some(now);
    }
    *before = now;
    None
}

fn read(path: &Path) -> Look {
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
    Ok(rules.rules.len() + rules.concurrency.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_read_as_the_documentation_writes_them() {
        let page = include_str!("../../../../docs/ops/limits.md");
        let mut examples = page.split("```yaml").skip(1);
        let example = examples.next().and_then(|rest| rest.split("```").next()).unwrap();
        assert_eq!(put_in_force(&Limits::new(), example), Ok(7));
        assert_eq!(put_in_force(&Limits::new(), ""), Ok(0));
        for (wrong, problem) in [
            ("rules: [{name: a, rate: 1/s, brust: 3}]", "brust"),
            (
                "concurrency: [{name: a, limit: many}]",
                "\"many\" is not a number of calls, gradient2",
            ),
            (
                "concurrency: [{name: a, limit: 0}]",
                "concurrency[0].limit: 0 is not between 1 and",
            ),
            ("concurrency: [{name: a, wait: 5}]", "a time as in 5ms"),
            ("concurrency: [{name: a, wait: 1h}]", "a time as in 5ms"),
            (
                "concurrency: [{name: a, min: 9, max: 8}]",
                "concurrency[0].min, max: 9 and 8",
            ),
            (
                "concurrency: [{name: a, per: connection}]",
                "concurrency[0].limit: write a number",
            ),
            (
                "concurrency: [{name: a, per: peer, limit: 3}]",
                "concurrency[0].per: write global",
            ),
            ("memory: {limit: 12 apples}", "cgroup, machine, off"),
            (
                "memory: {batch: 95, interactive: 90}",
                "memory.batch, interactive: 95 and 90",
            ),
            ("classes: {urgent: []}", "urgent"),
        ] {
            let told = put_in_force(&Limits::new(), wrong).unwrap_err();
            assert!(told.contains(problem), "{wrong}: {told}");
        }
        assert_eq!(put_in_force(&Limits::new(), "memory: {limit: off}"), Ok(0));
    }

    #[test]
    fn a_file_that_is_just_being_written_is_not_taken() {
        let look = |text: &str| Ok(text.to_owned());
        let mut before = look("rules: [...]");
        assert_eq!(settled(&mut before, look("")), None);
        assert_eq!(settled(&mut before, look("rules: []")), None);
        assert_eq!(settled(&mut before, Err("gone".to_owned())), None);
        assert_eq!(settled(&mut before, look("rules: []")), None);
        assert_eq!(settled(&mut before, look("rules: []")), Some(look("rules: []")));
        assert_eq!(settled(&mut before, look("rules: []")), Some(look("rules: []")));
    }

    #[test]
    fn no_text_whatever_takes_the_plane_down() {
        let page = include_str!("../../../../docs/ops/limits.md");
        let example = page
            .split("```yaml")
            .nth(1)
            .and_then(|rest| rest.split("```").next());
        let (example, mut random) = (example.unwrap().as_bytes(), fastrand::Rng::with_seed(11));
        let (limits, mut taken) = (Limits::new(), 0);
        for _ in 0..3_000 {
            let mut text = example.to_vec();
            for _ in 0..random.usize(1..6) {
                let at = random.usize(..text.len());
                match random.u8(..4) {
                    0 => text[at] = random.u8(..),
                    1 => drop(text.splice(at..at, *b"99999999999")),
                    2 => text.truncate(at.max(1)),
                    _ => drop(text.remove(at)),
                }
                if text.is_empty() {
                    text.push(b'-');
                }
            }
            taken += usize::from(put_in_force(&limits, &String::from_utf8_lossy(&text)).is_ok());
        }
        assert!(taken > 0 && taken < 3_000, "{taken}");
    }
}
