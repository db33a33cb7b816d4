//! Watch streams: what is left out, and what is told when nothing happens.

use std::time::Duration;

use super::*;

fn on(key: &'static str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: key.into(),
        ..Default::default()
    }
}

async fn ask_progress(watch: &Watching) {
    let ask = pb::WatchProgressRequest {};
    watch.send(RequestUnion::ProgressRequest(ask)).await;
}

async fn delete(kv: &mut KvClient<Channel>, key: &'static str) {
    let request = pb::DeleteRangeRequest {
        key: key.into(),
        ..Default::default()
    };
    kv.delete_range(request).await.unwrap();
}

/// By watcher: revisions and kinds of its events.
fn note(seen: &mut [Vec<(i64, i32)>], answer: pb::WatchResponse) {
    assert!(
        answer.created || !answer.events.is_empty(),
        "an empty answer: {answer:?}"
    );
    for event in answer.events {
        let told = (event.kv.unwrap().mod_revision, event.r#type);
        seen[answer.watch_id as usize].push(told);
    }
}

#[tokio::test]
async fn what_a_filter_empties_is_not_sent() {
    use pb::watch_create_request::FilterType::{Nodelete, Noput};
    let server = Server::plain().await;
    let mut kv = server.kv().await;
    kv.put(put("k", "before")).await.unwrap();
    let mut watch = server.watch().await;
    // From the past and from now on, for each filter and both.
    for (filters, start_revision) in [
        (vec![Noput as i32], 2),
        (vec![Nodelete as i32], 2),
        (vec![Noput as i32], 0),
        (vec![Nodelete as i32], 0),
        (vec![Noput as i32, Nodelete as i32], 2),
    ] {
        let request = pb::WatchCreateRequest {
            filters,
            start_revision,
            ..on("k")
        };
        watch.send(RequestUnion::CreateRequest(request)).await;
    }
    let (mut created, mut seen) = (0, vec![Vec::new(); 5]);
    while created < 5 {
        // Those of the past have events already.
        let answer = watch.next().await;
        created += usize::from(answer.created);
        note(&mut seen, answer);
    }
    kv.put(put("k", "1")).await.unwrap();
    delete(&mut kv, "k").await;
    kv.put(put("k", "2")).await.unwrap();
    // Two deletions, and three puts to one watcher and two to the other.
    while seen.iter().map(Vec::len).sum::<usize>() < 7 {
        let answer = watch.next().await;
        note(&mut seen, answer);
    }
    let (puts, deletions) = (vec![(2, 0), (3, 0), (5, 0)], vec![(4, 1)]);
    assert_eq!(seen[..2], [deletions.clone(), puts.clone()]);
    assert_eq!(seen[2..], [deletions, puts[1..].to_vec(), vec![]]);
    // What comes next is what was asked for: nothing was in line before it.
    ask_progress(&watch).await;
    assert_eq!(watch.next().await.watch_id, -1);
    server.stop().await;
}

#[tokio::test]
async fn idle_watchers_that_asked_hear_how_far_the_store_is_under_their_own_id() {
    let dir = TempDir::new();
    let options = Options {
        prefill: false,
        progress_interval: Duration::from_millis(100),
        ..Options::new(dir.path())
    };
    let store = Store::open(options, Arc::new(FsDisk), SystemClock::shared()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = Server::over(dir, store, addr, |_| (), vec![Listener::tcp(listener)]);
    let mut kv = server.kv().await;
    let mut watch = server.watch().await;
    let asks = |key, watch_id, start_revision| pb::WatchCreateRequest {
        progress_notify: true,
        watch_id,
        start_revision,
        ..on(key)
    };
    let future = 1_000;
    for request in [
        asks("idle", 7, 0),
        asks("future", 8, future),
        pb::WatchCreateRequest {
            watch_id: 9,
            ..on("mute")
        },
    ] {
        assert!(watch.create(request).await.created);
    }
    for round in 0..3 {
        // Nobody watches this, and yet it is progress.
        let written = kv.put(put("elsewhere", "")).await.unwrap();
        let written = written.into_inner().header.unwrap().revision;
        let mut last = 0;
        while last < written {
            let answer = watch.next().await;
            assert_eq!(answer.watch_id, 7, "round {round}: {answer:?}");
            assert!(answer.events.is_empty() && !answer.created && !answer.canceled);
            let now = answer.header.unwrap().revision;
            assert!(now >= last && now <= written, "{now} after {last} at {written}");
            last = now;
        }
    }
    server.stop().await;
}

/// Clients resume behind the header of what they saw last: nothing may come later that is not behind it.
#[tokio::test]
async fn no_header_speaks_of_a_revision_whose_events_are_still_to_come() {
    const WRITES: usize = 300;
    let server = Server::plain().await;
    let mut watch = server.watch().await;
    assert!(watch.create(on("k")).await.created);
    let writes = (0..WRITES).map(|n| {
        let store = server.store.clone();
        async move {
            // Many at once, so that a commit has revisions of both keys.
            let key = if n % 3 == 0 { "k" } else { "other" };
            let put = setpoint_store::types::Put::new(key, "v");
            store.put(put, None).await.unwrap();
        }
    });
    let asked = async {
        for _ in 0..20 {
            ask_progress(&watch).await;
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(futures_util::future::join_all(writes), asked);
    let (mut told, mut seen) = (1, 0);
    while seen < WRITES.div_ceil(3) {
        let answer = watch.next().await;
        let now = answer.header.unwrap().revision;
        for event in &answer.events {
            let revision = event.kv.as_ref().unwrap().mod_revision;
            assert!(
                revision > told && revision <= now,
                "{revision}: {now} after {told}"
            );
        }
        seen += answer.events.len();
        assert!(now >= told);
        told = now;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_has_said_all_still_hears_and_one_that_goes_is_a_canceled_watch() {
    let server = Server::start(|options| {
        options.metrics = Some(setpoint_telemetry::Metrics::new());
    })
    .await;
    // The connection stays when the stream goes.
    let channel = server.channel().await;
    let create = pb::WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(on("k"))),
    };
    let said_all = tokio_stream::once(create);
    let responses = WatchClient::new(channel.clone()).watch(said_all).await;
    let mut responses = responses.unwrap().into_inner();
    assert!(responses.message().await.unwrap().unwrap().created);
    let mut kv = server.kv().await;
    for revision in 2..5 {
        kv.put(put("k", "v")).await.unwrap();
        let answer = responses.message().await.unwrap().unwrap();
        assert_eq!(answer.events[0].kv.as_ref().unwrap().mod_revision, revision);
    }
    drop(responses);
    canceled(&server, 1).await;
    let said_all = tokio_stream::once(pb::WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(on("k"))),
    });
    let responses = WatchClient::new(channel.clone()).watch(said_all).await;
    let mut responses = responses.unwrap().into_inner();
    assert!(responses.message().await.unwrap().unwrap().created);
    // And with its connection.
    drop((responses, channel));
    canceled(&server, 2).await;
    server.stop().await;
}

/// Waits until so many watches are counted as cancelled.
async fn canceled(server: &Server, watches: u32) {
    let ended = format!(
        "grpc_server_handled_total{{grpc_service=\"etcdserverpb.Watch\",grpc_method=\"Watch\",\
         grpc_type=\"bidi_stream\",grpc_code=\"Canceled\"}} {watches}\n"
    );
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let (_, page) = raw::http(server, "GET /metrics").await;
        if page.contains(&ended) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{page}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
