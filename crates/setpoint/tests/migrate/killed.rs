//! `kill -9` in the middle of a migration, and what the next run makes of it.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;

/// So many that a run is told of in the middle.
const MORE: usize = 1500;

/// A log with the keys of [`fill`] and many more, each with a revision of its own.
async fn fill_much(log: &Log) {
    fill(log).await;
    for from in (0..MORE).step_by(100) {
        let some =
            (from..from + 100).map(|n| write(log, vec![put(&format!("/registry/more{n:04}"), "1", None)]));
        futures_util::future::join_all(some).await;
    }
}

/// Kills a run once it says that it has copied some keys and not all; how many.
fn kill_halfway(args: &[&str]) -> usize {
    let mut child = Command::new(env!("CARGO_BIN_EXE_setpoint"))
        .args(["store", "migrate"])
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut said = Vec::new();
    let halfway = lines.map_while(Result::ok).find_map(|line| {
        let mut numbers = line.split(' ').filter_map(|word| word.parse::<usize>().ok());
        let is_one = line.starts_with("copied");
        said.push(line.clone());
        let (done, all) = (numbers.next()?, numbers.next()?);
        (is_one && 0 < done && done < all).then_some(done)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    halfway.unwrap_or_else(|| panic!("it was never halfway: {said:?}"))
}

fn refuses_to_serve(dir: &Path, args: &[&str], place: &str) {
    std::fs::create_dir_all(dir).unwrap();
    let output = harness::run(dir, &[&["server"], args].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("was not finished") && said.contains(place) && said.contains("setpoint store migrate"),
        "{said}"
    );
}

#[track_caller]
fn goes_on(args: &[&str], before: usize) {
    let text = success(&migrate(args));
    let written = text
        .lines()
        .find_map(|line| line.trim().split_once(" keys written by this run"))
        .and_then(|(number, _)| number.parse::<usize>().ok())
        .unwrap_or_else(|| panic!("{text}"));
    // What it was last told to have copied is a little less than what it had.
    assert!(
        0 < written && written <= 143 + MORE - before,
        "{written} after {before}"
    );
    assert!(success(&migrate(args)).starts_with("nothing to do"));
}

#[tokio::test]
async fn a_run_that_was_killed_is_finished_by_the_next_one_to_a_cluster_and_back() {
    let dir = TempDir::new().unwrap();
    let home = dir.path().join("home");
    let source: Log = open(&home).into();
    fill_much(&source).await;
    let (ours, at) = (order(all(&source).await), source.revision().await.unwrap());
    source.close().await.unwrap();
    let (server, url) = etcd(&dir, "target").await;

    let home = home.to_string_lossy().into_owned();
    let to_cluster = ["--from", &home, "--to", &url];
    let before = kill_halfway(&to_cluster);
    // Who comes from elsewhere is told what there is.
    let empty = dir.path().join("other");
    open(&empty).close().await.unwrap();
    let refused = migrate(&["--from", &empty.to_string_lossy(), "--to", &url]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("--force"), "{said}");
    // A plane is not served by halves.
    let other = dir.path().join("plane");
    refuses_to_serve(
        &other,
        &["--engine=etcd", "--etcd-endpoints", &url],
        "to the cluster",
    );
    goes_on(&to_cluster, before);
    let log = cluster(&url);
    let kvs = all(&log).await;
    assert!(kvs.iter().all(|kv| kv.mod_revision > at));
    assert_eq!(order(kvs), ours);

    let home = dir.path().join("back");
    std::fs::create_dir_all(&home).unwrap();
    let back = home.join("data").to_string_lossy().into_owned();
    let to_directory = ["--from", url.as_str(), "--to", &back];
    let before = kill_halfway(&to_directory);
    refuses_to_serve(&home, &[], &back);
    goes_on(&to_directory, before);
    let target: Log = open(Path::new(&back)).into();
    assert_eq!(order(all(&target).await), ours);
    target.close().await.unwrap();
    server.stop().await;
}
