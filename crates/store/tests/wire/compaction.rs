//! A compaction that is waited for: what it waits for, what it does not, and for how long.

use std::time::Duration;

use setpoint_store::simulation::Worker;
use tokio::time::{Instant, sleep, timeout};

use super::*;

/// A wait that only a hang outlasts.
const PATIENCE: Duration = Duration::from_secs(30);
const KEYS: usize = 50;
/// Together more than a client takes before it is asked to read.
const VALUE_BYTES: usize = 500 << 10;

async fn overwrite(kv: &mut KvClient<Channel>, with: &str) {
    let value = with.repeat(VALUE_BYTES);
    for n in 0..KEYS {
        kv.put(put(&format!("k{n:02}"), &value)).await.unwrap();
    }
}

fn physical(revision: i64) -> pb::CompactionRequest {
    pb::CompactionRequest {
        revision,
        physical: true,
    }
}

/// etcd removes what is compacted whoever reads. Here a reader keeps what it is in the middle of, for a minute, and nobody
/// else is to notice.
#[tokio::test]
async fn a_physical_compaction_does_not_wait_for_a_reader_that_dawdles_and_takes_nothing_from_it() {
    let server = Server::plain().await;
    let (mut reader, mut kv) = (server.kv().await, server.kv().await);
    overwrite(&mut kv, "a").await;
    let mut parts = reader.range_stream(get("k", "l")).await.unwrap().into_inner();
    let first = parts.message().await.unwrap().unwrap().range_response.unwrap();
    overwrite(&mut kv, "b").await;
    for _ in 0..2 {
        // The second has nothing at all to remove while the first reader holds everything.
        kv.put(put("other", "")).await.unwrap();
        let request = kv.compact(physical(server.store.revision().0));
        let answer = timeout(PATIENCE, request).await.expect("it waits for the reader");
        answer.unwrap();
    }
    let one = KEYS as u64 * VALUE_BYTES as u64;
    assert!(server.store.status().live_bytes > 2 * one, "the reader's is gone");

    let (mut kvs, mut ended) = (first.kvs, false);
    while let Some(part) = parts.message().await.unwrap() {
        let part = part.range_response.unwrap();
        ended |= part.header.is_some();
        kvs.extend(part.kvs);
    }
    assert!(ended && kvs.len() == KEYS);
    assert!(
        kvs.iter()
            .all(|kv| kv.value.len() == VALUE_BYTES && kv.value[0] == b'a')
    );
    drop(parts);
    // Its end finishes the rest, without anybody asking.
    let deadline = Instant::now() + PATIENCE;
    while server.store.status().live_bytes > 3 * one / 2 {
        assert!(Instant::now() < deadline, "what the reader held stays");
        sleep(Duration::from_millis(5)).await;
    }
    server.stop().await;
}

/// In etcd it may take as long as it takes, too: "request timed out" would say that it has not happened.
#[tokio::test]
async fn a_physical_compaction_takes_longer_than_other_calls_may() {
    let limit = Duration::from_secs(1);
    let (server, sim) = Server::simulated(|options| options.request_timeout = limit).await;
    let mut kv = server.kv().await;
    let asked = async {
        kv.put(put("k", "1")).await.unwrap();
        kv.put(put("k", "2")).await.unwrap();
        kv.compact(physical(3)).await
    };
    // Commits go on, and nobody removes anything.
    let commits = async {
        loop {
            sim.step(Worker::Sequencer);
            sleep(Duration::from_millis(1)).await;
        }
    };
    let compacted = async {
        while sim.store().status().compact_revision != 3 {
            sleep(Duration::from_millis(1)).await;
        }
        sleep(limit + limit / 4).await;
        sim.step(Worker::Janitor);
    };
    let answered = async { tokio::join!(asked, compacted).0 };
    let answer = tokio::select! {
        answer = timeout(PATIENCE, answered) => answer.expect("the compaction is answered"),
        () = commits => unreachable!("it goes on for ever"),
    };
    answer.unwrap();
    server.end_before(sim).await;
}
