//! `setpoint bench proxy` and `bench flow`, as users run them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::time::Instant;

use crate::harness::PATIENCE;

fn bench(args: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_setpoint"))
        .arg("bench")
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the binary")
}

fn end(mut child: Child) -> Output {
    let deadline = Instant::now() + 4 * PATIENCE;
    while child.try_wait().expect("ask for the status").is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("it does not end: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().expect("read its output")
}

#[test]
fn a_proxy_delays_tells_what_passes_and_stops_at_a_signal() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = server.local_addr().unwrap().to_string();
    let mut proxy = bench(&[
        "proxy", "--to", &to, "--rtt", "80ms", "--rate", "10mbit", "--json",
    ]);
    let mut lines = BufReader::new(proxy.stdout.take().unwrap()).lines();
    let mut line = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let hello = line();
    assert_eq!(hello["setting"], "delay=40ms rate=10mbit");
    let listen: SocketAddr = hello["listen"].as_str().unwrap().parse().unwrap();

    let mut client = TcpStream::connect(listen).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut accepted, _) = server.accept().unwrap();
    accepted.set_read_timeout(Some(PATIENCE)).unwrap();
    let started = Instant::now();
    client.write_all(b"ping").unwrap();
    let mut word = [0; 4];
    accepted.read_exact(&mut word).unwrap();
    accepted.write_all(&word).unwrap();
    client.read_exact(&mut word).unwrap();
    assert!(started.elapsed() >= Duration::from_millis(80));

    let told = std::iter::from_fn(|| Some(line())).find(|line| line["accepted"] == 1);
    assert_eq!(told.unwrap()["open"], 1);
    let pid = i32::try_from(proxy.id()).ok().and_then(Pid::from_raw).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let last = std::iter::from_fn(|| Some(line())).find(|line| line["stopped"] == true);
    let last = last.unwrap();
    assert_eq!((&last["up_bytes"], &last["down_bytes"]), (&4.into(), &4.into()));
    assert!(end(proxy).status.success());
    assert!(
        client.read(&mut word).map_or(true, |count| count == 0),
        "the connection ended with it"
    );
}

#[test]
fn a_proxy_refuses_wrong_settings_and_scripts_and_says_what_to_write() {
    let refused = |args: &[&str]| {
        let output = end(bench(&[&["proxy", "--to", "127.0.0.1:1"], args].concat()));
        assert!(!output.status.success(), "{args:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let text = refused(&["--rtt", "fast", "--rate", "100"]);
    assert!(
        text.contains("rtt=\"fast\"") && text.contains("rate=\"100\""),
        "{text}"
    );
    let text = refused(&["--play", "0s lan; 5s explode"]);
    assert!(text.contains("step 2") && text.contains("explode"), "{text}");
    let text = refused(&["--script", "/nonexistent/script"]);
    assert!(text.contains("/nonexistent/script"), "{text}");
}

#[test]
fn flow_control_is_measured_over_links_that_bound_it() {
    let dir = setpoint::envtest::TempDir::new().unwrap();
    let svg = dir.path().join("flow.svg");
    let output = end(bench(&[
        "flow",
        "--quick",
        "--scenario=grid",
        "--direction=both",
        "--contender=setpoint,tonic-default,grpc-go-bdp",
        "--grpc-go=/nonexistent/flowpeer",
        "--allow-load",
        "--json",
        "--svg",
        &svg.to_string_lossy(),
    ]));
    let (text, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{text}{stderr}");
    let report: Value = serde_json::from_str(&text).expect("a JSON report");
    assert_eq!(report["skipped"][0][0], "grpc-go-bdp", "{text}");
    let cells = report["grid"].as_array().unwrap();
    assert_eq!(
        cells.len(),
        8,
        "two links for each of two contenders, both ways: {text}"
    );
    assert!(cells.iter().any(|cell| cell["direction"] == "down"));
    for cell in cells {
        let percent = cell["steady_percent"].as_f64().unwrap();
        // No more than the link, and something, on however busy a machine.
        assert!(percent > 0.0 && percent < 115.0, "{cell}");
        assert!(cell["series"].as_array().unwrap().len() > 10, "{cell}");
    }
    for file in ["flow-grid.svg", "flow-grid-down.svg"] {
        let drawn = std::fs::read_to_string(dir.path().join(file)).unwrap();
        assert!(
            drawn.contains("tonic-default") && drawn.contains("1000 Mbit/s, 30 ms"),
            "{drawn}"
        );
    }
}

#[test]
fn what_limits_do_under_overload_and_what_channels_cost_is_measured() {
    let output = end(bench(&[
        "flow",
        "--quick",
        "--scenario=overload,channels",
        "--limit=gradient2",
        "--seconds=6",
        "--contender=setpoint",
        "--calls=1000",
        "--allow-load",
        "--json",
    ]));
    let (text, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{text}{stderr}");
    assert!(stderr.contains("overload, gradient2 ..."), "progress: {stderr}");
    let report: Value = serde_json::from_str(&text).expect("a JSON report");
    let overload = &report["overload"][0];
    assert!(overload["peak"][0].as_f64().unwrap() > 0.0, "{overload}");
    assert!(
        overload["refused"].as_u64().unwrap() > 0,
        "three times the load: {overload}"
    );
    assert!(overload["served"].as_u64().unwrap() > 0, "{overload}");
    let channel = &report["channels"][0];
    assert_eq!(
        (&channel["calls"], &channel["connections"]),
        (&1_000.into(), &1.into())
    );
}

#[test]
fn an_upload_that_ends_early_fails_the_run_and_the_rest_is_printed() {
    use std::os::unix::fs::PermissionsExt;
    let dir = setpoint::envtest::TempDir::new().unwrap();
    // It says that it listens, and nobody does.
    let fake = dir.path().join("peer");
    std::fs::write(&fake, "#!/bin/sh\necho listening 127.0.0.1:1\ncat\n").unwrap();
    std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = end(bench(&[
        "flow",
        "--quick",
        "--scenario=step",
        "--contender=setpoint,grpc-go-bdp",
        "--allow-load",
        "--json",
        "--grpc-go",
        &fake.to_string_lossy(),
    ]));
    let (text, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(1), "{text}{stderr}");
    assert!(stderr.contains("not measured: step up, grpc-go-bdp"), "{stderr}");
    let report: Value = serde_json::from_str(&text).expect("a JSON report");
    assert_eq!(report["step"].as_array().unwrap().len(), 1, "{text}");
    assert_eq!(report["failed"][0][0], "step up, grpc-go-bdp", "{text}");
}
