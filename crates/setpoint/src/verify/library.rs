//! etcd's own client, in a program of its own that prints what it sees as JSON lines
//! (`conformance/etcdctl/cmd/watchlog`).

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use parking_lot::Mutex;
use serde::Deserialize;
use setpoint_store::client::mvccpb::{Event, KeyValue};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::follow::{LAST_LOOK, LOOK, Log, Scene};

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Line {
    events: Vec<Seen>,
    progress: i64,
    compacted: i64,
}

#[derive(Deserialize)]
struct Seen {
    key: String,
    value: Option<String>,
    #[serde(rename = "mod")]
    revision: i64,
    version: i64,
    delete: bool,
    prev: i64,
}

impl Seen {
    fn event(self) -> Result<Event> {
        let decode = |text: &str| BASE64_STANDARD.decode(text).context("read base64");
        Ok(Event {
            r#type: i32::from(self.delete),
            kv: Some(KeyValue {
                key: decode(&self.key)?.into(),
                value: decode(&self.value.unwrap_or_default())?.into(),
                mod_revision: self.revision,
                version: self.version,
                ..Default::default()
            }),
            prev_kv: (self.prev > 0).then(|| KeyValue {
                mod_revision: self.prev,
                ..Default::default()
            }),
        })
    }
}

/// Runs the program until all is seen.
///
/// # Errors
/// When it cannot be run, or does not speak as it should.
pub(crate) async fn follow(scene: &Scene, program: &Path, start: i64, log: &Arc<Mutex<Log>>) -> Result<()> {
    let mut child = Command::new(program)
        .args(["-endpoints", &scene.options.endpoints.join(",")])
        .args(["-prefix", &scene.layout.prefix, "-rev", &start.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    let out = child.stdout.take().context("its output is ours")?;
    let mut lines = BufReader::new(out).lines();
    while !scene.done(log) {
        let look = if scene.all_written() { LAST_LOOK } else { LOOK };
        let next = tokio::time::timeout(look, lines.next_line()).await;
        let Ok(line) = next else {
            // After a compaction it may have lost the last writes for good.
            if scene.all_written() {
                break;
            }
            continue;
        };
        let Some(line) = line.context("read what it prints")? else {
            anyhow::bail!("{} ended", program.display());
        };
        take(&line, scene, log)?;
    }
    // Its input ends with the child's handle, and with it the program.
    drop(child.stdin.take());
    child.wait().await.context("wait for the program")?;
    Ok(())
}

fn take(line: &str, scene: &Scene, log: &Mutex<Log>) -> Result<()> {
    let line: Line = serde_json::from_str(line).with_context(|| format!("read {line:?}"))?;
    let mut log = log.lock();
    if line.compacted > 0 {
        log.compacted += 1;
    } else if line.progress > 0 {
        log.checker.progress(line.progress);
    } else {
        let events = line
            .events
            .into_iter()
            .map(Seen::event)
            .collect::<Result<Vec<_>>>()?;
        log.events(&events, &scene.faults);
    }
    Ok(())
}
