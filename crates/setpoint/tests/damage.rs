//! What `setpoint store verify` says of a store that a disk has damaged.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use serde_json::Value;
use setpoint::envtest::TempDir;
use setpoint_base::{FsDisk, SystemClock};
use setpoint_store::types::Put;
use setpoint_store::{Options, Store};

/// More than are listed.
const KEYS: usize = 130;

fn verify(data_dir: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_setpoint"))
        .args(["store", "verify"])
        .arg(data_dir)
        .args(more)
        .output()
        .expect("run the binary")
}

/// A store whose every value has been written over.
async fn damaged(data_dir: &Path) {
    let dir = data_dir.join("store");
    let options = Options {
        prefill: false,
        segment_bytes: 8 << 20,
        ..Options::new(&dir)
    };
    let store = Store::open(options, Arc::new(FsDisk), SystemClock::shared()).unwrap();
    for n in 0..KEYS {
        store.put(Put::new(format!("k{n}"), "value"), None).await.unwrap();
    }
    store.close().await.unwrap();
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("log-") {
            let mut bytes = std::fs::read(&path).unwrap();
            for at in 0..bytes.len().saturating_sub(5) {
                if &bytes[at..at + 5] == b"value" {
                    bytes[at] = b'V';
                }
            }
            std::fs::write(&path, bytes).unwrap();
        }
    }
}

#[tokio::test]
async fn the_list_of_what_is_damaged_ends_and_says_how_many_more_there_are() {
    let dir = TempDir::new().unwrap();
    damaged(dir.path()).await;
    let output = verify(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    let listed = text.lines().filter(|line| line.starts_with("damage: "));
    assert_eq!(listed.count(), 101, "{text}");
    let more = KEYS - 100;
    assert!(text.contains(&format!("damage: and {more} more\n")), "{text}");
    let all = format!("{KEYS} places");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&all), "{said}");

    let output = verify(dir.path(), &["--json"]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["damage"].as_array().map(Vec::len), Some(100), "{found}");
    assert_eq!(found["moreDamage"], more);
}
