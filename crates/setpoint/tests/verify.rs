//! `setpoint verify watch`, as users run it, for a few seconds.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use setpoint::envtest::TempDir;

use crate::harness::PATIENCE;

fn verify(args: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_setpoint"))
        .args(["verify", "watch"])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the binary");
    let deadline = tokio::time::Instant::now() + 4 * PATIENCE;
    while child.try_wait().expect("ask for the status").is_none() {
        if tokio::time::Instant::now() > deadline {
            let _ = child.kill();
            panic!("it does not end: {:?}", child.wait_with_output());
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    child.wait_with_output().expect("read its output")
}

#[test]
fn our_store_keeps_every_guarantee_under_drops_compactions_stalls_and_restarts() {
    let output = verify(&[
        "--spawn=setpoint",
        "--seed=3",
        "--events=12000",
        "--rate=600",
        "--faults=drop,refuse,compact,stall,restart",
        "--fault-every=400",
        "--json",
    ]);
    let text = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}{stderr}");
    let report: Value = serde_json::from_str(&text).expect("a JSON report");
    assert_eq!(report["kept"], true, "{text}");
    assert!(report["writes"].as_u64().unwrap() > 2_000, "{text}");
    let faults = report["faults"].as_array().unwrap();
    assert_eq!(faults.len(), 5, "every class came: {text}");
    let classes = report["classes"].as_array().unwrap();
    for class in classes.iter().filter(|class| class["name"] != "naive loop") {
        for breach in [
            "lost",
            "duplicated",
            "outOfOrder",
            "torn",
            "resyncsWrong",
            "stateWrong",
        ] {
            assert_eq!(class[breach], 0, "{breach}: {text}");
        }
        assert!(
            class["reconnects"].as_u64().unwrap() > 0 && class["resyncs"].as_u64().unwrap() > 0,
            "{text}"
        );
    }
    // The loop that does not resume is what shows that there was something to survive.
    let naive = classes
        .iter()
        .find(|class| class["name"] == "naive loop")
        .unwrap();
    assert!(naive["lost"].as_u64().unwrap() > 0, "{text}");
}

#[test]
fn what_would_harm_others_is_refused_before_anything_is_written() {
    let endpoint = "--endpoint=http://127.0.0.1:1";
    for (args, words) in [
        (vec![endpoint, "--faults=compact"], "--allow-compaction"),
        (vec![endpoint, "--faults=restart"], "--spawn"),
        (vec![endpoint, "--events=0"], "nothing to verify"),
        (vec!["--spawn=setpoint", endpoint], "cannot be used with"),
    ] {
        let output = verify(&args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(words), "{args:?}: {stderr}");
    }
    let output = verify(&[endpoint]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("cannot be reached") || stderr.contains("can be reached"),
        "{stderr}"
    );
}

#[test]
fn a_program_that_is_no_server_is_named_with_its_last_words_and_a_way_out() {
    let dir = TempDir::new().unwrap();
    let program = dir.path().join("not-etcd");
    std::fs::write(
        &program,
        "#!/bin/sh\necho \"what is $1?\"\necho never heard of it >&2\nexit 3\n",
    )
    .unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
    let output = verify(&[&format!("--spawn={}", program.display())]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for words in [
        &format!("{} --data-dir", program.display())[..],
        "exit status: 3",
        "what is --data-dir?",
        "never heard of it",
        "give the path of an etcd",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
}
