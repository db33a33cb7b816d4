//! Watchers over links that break, history that goes, owners that are slow.

use std::time::Duration;

use setpoint_store::client::{Item, Overflow, ReconnectPolicy, Room, WatchError, WatchOptions, pb};
use setpoint_store::types;
use tokio::time::{Instant, timeout};

use super::{PATIENCE, Rig, compact, events, next, put, settle, watch};

/// Waits until the server has so many watchers and streams.
async fn server_has(rig: &Rig, watchers: u64) {
    let deadline = Instant::now() + PATIENCE;
    while rig.store().status().watchers != watchers {
        assert!(
            Instant::now() < deadline,
            "{} watchers",
            rig.store().status().watchers
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_watcher_resumes_after_a_disconnect_without_loss_or_duplicate() {
    let rig = Rig::start().await;
    let client = rig.client();
    let mut watcher = watch(&client, WatchOptions::prefix("k")).await;
    let first = put(&client, "k1", "1").await;
    assert_eq!(events(&mut watcher, first).await, [("k1".to_owned(), first)]);
    rig.proxy.refuse();
    let second = rig.store().put(types::Put::new("k2", "2"), None);
    second.await.unwrap();
    rig.proxy.thaw();
    let third = put(&client, "k3", "3").await;
    let seen = events(&mut watcher, third).await;
    assert_eq!(seen, [("k2".to_owned(), first + 1), ("k3".to_owned(), third)]);
    let stats = watcher.stats();
    assert_eq!((stats.duplicates, stats.resyncs), (0, 0));
    assert!(stats.reconnects > 0);
    rig.stop().await;
}

#[tokio::test]
async fn a_watcher_that_has_seen_nothing_yet_misses_nothing_when_its_link_breaks() {
    let rig = Rig::start().await;
    let client = rig.client();
    let mut watcher = watch(&client, WatchOptions::prefix("k")).await;
    rig.proxy.refuse();
    let request = types::Put::new("k1", "1");
    rig.store().put(request, None).await.unwrap();
    let revision = rig.store().revision().0;
    rig.proxy.thaw();
    assert_eq!(
        events(&mut watcher, revision).await,
        [("k1".to_owned(), revision)]
    );
    rig.stop().await;
}

#[tokio::test]
async fn a_watcher_outlives_restarts_of_the_server() {
    let mut rig = Rig::start().await;
    let client = rig.client();
    let mut watcher = watch(&client, WatchOptions::prefix("k")).await;
    for n in 0..3 {
        let revision = put(&client, "k", &n.to_string()).await;
        assert_eq!(events(&mut watcher, revision).await.len(), 1);
        rig.restart().await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_watcher_below_the_compacted_revision_reads_its_range_again() {
    let rig = Rig::start().await;
    let client = rig.client();
    let mut watcher = watch(&client, WatchOptions::prefix("k")).await;
    let last = {
        put(&client, "k1", "1").await;
        put(&client, "k2", "1").await
    };
    events(&mut watcher, last).await;
    rig.proxy.refuse();
    let store = rig.store();
    let delete = types::Delete {
        keys: types::KeyRange::Key("k1".into()),
        prev_kv: false,
    };
    store.delete(delete, None).await.unwrap();
    for n in 0..600 {
        let put = types::Put::new(format!("k3-{n:03}"), "1");
        store.put(put, None).await.unwrap();
    }
    let head = store.revision();
    store.compact(head, true).await.unwrap();
    rig.proxy.thaw();
    let Item::Resync(resync) = next(&mut watcher).await else {
        panic!("a resync");
    };
    assert_eq!(resync.revision, head.0);
    assert_eq!(resync.snapshot.len(), 601);
    let gone: Vec<_> = resync.deleted.iter().map(|gone| &gone.key[..]).collect();
    assert_eq!(gone, [b"k1"]);
    let after = put(&client, "k4", "1").await;
    assert_eq!(events(&mut watcher, after).await, [("k4".to_owned(), after)]);
    assert_eq!(watcher.stats().resyncs, 1);
    rig.stop().await;
}

#[tokio::test]
async fn a_watcher_that_wants_no_resync_ends_with_the_compacted_revision() {
    let rig = Rig::start().await;
    let client = rig.client();
    let head = {
        put(&client, "k", "1").await;
        put(&client, "k", "2").await
    };
    compact(&client, head).await;
    let mut options = WatchOptions::prefix("k").from(1);
    options.resync = false;
    let mut watcher = client.watch(options);
    for _ in 0..2 {
        let end = timeout(PATIENCE, watcher.next()).await.unwrap().unwrap_err();
        assert_eq!(
            end,
            WatchError::Compacted {
                asked: 1,
                compacted: head
            },
            "it says so again"
        );
    }
    server_has(&rig, 0).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_watch_may_begin_with_what_is_there() {
    let rig = Rig::start().await;
    let client = rig.client();
    put(&client, "k1", "1").await;
    let mut options = WatchOptions::prefix("k");
    options.list_first = true;
    let mut watcher = client.watch(options);
    let Item::Resync(start) = next(&mut watcher).await else {
        panic!("a snapshot");
    };
    assert_eq!(start.snapshot.len(), 1);
    let after = put(&client, "k2", "1").await;
    assert_eq!(events(&mut watcher, after).await, [("k2".to_owned(), after)]);
    rig.stop().await;
}

#[tokio::test]
async fn a_link_that_is_silent_but_open_is_found_dead_within_five_seconds() {
    let rig = Rig::start().await;
    let client = rig.client();
    let watches = client.watches();
    let mut watcher = watches.watch(WatchOptions::prefix("k"));
    settle(&mut watcher).await;
    for freeze in [true, false] {
        let dead = watches.stats().dead_links;
        if freeze {
            rig.proxy.freeze();
        } else {
            rig.proxy.half_open();
        }
        let started = Instant::now();
        while watches.stats().dead_links == dead {
            assert!(started.elapsed() < Duration::from_millis(5_500), "not found");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let request = types::Put::new("k", "1");
        rig.store().put(request, None).await.unwrap();
        let revision = rig.store().revision().0;
        rig.proxy.thaw();
        assert_eq!(events(&mut watcher, revision).await.len(), 1);
    }
    rig.stop().await;
}

#[tokio::test]
async fn dropped_watchers_are_cancelled_on_the_server_whatever_state_they_were_in() {
    let rig = Rig::start().await;
    let client = rig.client();
    let mut kept = watch(&client, WatchOptions::prefix("k")).await;
    for _ in 0..50 {
        drop(client.watch(WatchOptions::prefix("k")));
    }
    let running = watch(&client, WatchOptions::prefix("k")).await;
    server_has(&rig, 2).await;
    drop(running);
    server_has(&rig, 1).await;
    rig.proxy.cut();
    let revision = put(&client, "k", "1").await;
    assert_eq!(events(&mut kept, revision).await.len(), 1);
    drop(kept);
    server_has(&rig, 0).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_closed_client_ends_its_watchers() {
    let rig = Rig::start().await;
    let client = rig.client();
    let mut watcher = watch(&client, WatchOptions::prefix("k")).await;
    let late = client.clone();
    client.close(PATIENCE).await;
    let end = timeout(PATIENCE, watcher.next()).await.unwrap();
    assert_eq!(end.unwrap_err(), WatchError::Closed);
    let mut never = late.watch(WatchOptions::prefix("k"));
    let end = timeout(PATIENCE, never.next()).await.unwrap();
    assert_eq!(end.unwrap_err(), WatchError::Closed);
    server_has(&rig, 0).await;
    rig.stop().await;
}

#[tokio::test]
async fn an_answer_too_large_for_one_message_comes_as_one_item() {
    let rig = Rig::with(|options| options.request_bytes_max = 64 << 10).await;
    let client = rig.client();
    let mut watcher = watch(&client, WatchOptions::prefix("k")).await;
    rig.proxy.refuse();
    // One revision of several messages: fifty values that do not fit one together.
    let ops = (0..50).map(|n| {
        let put = types::Put::new(format!("k{n:02}"), vec![7_u8; 10 << 10]);
        types::Op::Put(put)
    });
    let txn = types::Txn {
        success: ops.collect(),
        ..Default::default()
    };
    rig.store().txn(txn, None).await.unwrap();
    rig.proxy.thaw();
    let Item::Events(events) = next(&mut watcher).await else {
        panic!("events");
    };
    assert_eq!(events.len(), 50);
    rig.stop().await;
}

#[tokio::test]
async fn bookmarks_wait_for_events_and_come_without_any() {
    let rig = Rig::start().await;
    let client = rig.client();
    let mut watcher = watch(&client, WatchOptions::prefix("k")).await;
    for n in 0..200 {
        let revision = put(&client, "k", &n.to_string()).await;
        watcher.request_progress();
        let mut seen = 0;
        loop {
            match timeout(PATIENCE, watcher.next()).await.unwrap().unwrap() {
                Item::Events(events) => seen = events.last().unwrap().kv.as_ref().unwrap().mod_revision,
                Item::Progress(progress) => assert!(progress < revision || seen == revision),
                Item::Resync(resync) => panic!("{resync:?}"),
            }
            if seen == revision {
                break;
            }
        }
    }
    // Something else happens: the watcher sees only how far the store is.
    let other = put(&client, "x", "1").await;
    watcher.request_progress();
    loop {
        if let Item::Progress(revision) = timeout(PATIENCE, watcher.next()).await.unwrap().unwrap()
            && revision >= other
        {
            break;
        }
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_slow_owner_costs_a_bounded_buffer_and_loses_nothing() {
    for overflow in [Overflow::Pause, Overflow::Park] {
        let rig = Rig::start().await;
        let client = rig.client();
        let mut options = WatchOptions::prefix("k");
        options.overflow = overflow;
        options.room = Room {
            events: 16,
            bytes: 64 << 10,
        };
        let mut watcher = watch(&client, options).await;
        let first = rig.store().revision().0 + 1;
        let value = "x".repeat(4 << 10);
        for n in 0..1_000 {
            put(&client, &format!("k{}", n % 7), &value).await;
        }
        let last = rig.store().revision().0;
        let stats = watcher.stats();
        // A history answer is one item: it may overshoot by what the server puts into one.
        assert!(stats.buffered_events <= 1_000 + 16, "{stats:?}");
        let seen = events(&mut watcher, last).await;
        let revisions: Vec<_> = seen.iter().map(|(_, revision)| *revision).collect();
        assert_eq!(revisions, (first..=last).collect::<Vec<_>>(), "{overflow:?}");
        if overflow == Overflow::Park {
            assert!(watcher.stats().parked > 0);
        }
        rig.stop().await;
    }
}

#[tokio::test]
async fn a_coalescing_watcher_ends_with_the_newest_of_every_key() {
    let rig = Rig::start().await;
    let client = rig.client();
    let mut options = WatchOptions::prefix("k");
    options.overflow = Overflow::Coalesce;
    options.room.events = 16;
    let mut watcher = watch(&client, options).await;
    for n in 0..500 {
        put(&client, &format!("k{}", n % 7), &n.to_string()).await;
    }
    let last = rig.store().revision().0;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(watcher.stats().buffered_events <= 32, "{:?}", watcher.stats());
    let seen = events(&mut watcher, last).await;
    let newest: std::collections::BTreeMap<_, _> = seen.into_iter().collect();
    let expect: Vec<_> = (last - 6..=last).collect();
    let mut got: Vec<_> = newest.into_values().collect();
    got.sort_unstable();
    assert_eq!(got, expect);
    rig.stop().await;
}

#[tokio::test]
async fn ten_thousand_watchers_share_one_connection_and_all_come_back() {
    let rig = Rig::start().await;
    let client = rig.client();
    let watches = client.watches();
    let mut watchers: Vec<_> = (0..10_000)
        .map(|n| watches.watch(WatchOptions::key(format!("k{n:05}"))))
        .collect();
    server_has(&rig, 10_000).await;
    let before = rig.proxy.accepted();
    rig.proxy.cut();
    let request = pb::PutRequest {
        key: "k07777".into(),
        ..Default::default()
    };
    let revision = client.put(request).await.unwrap().header.unwrap().revision;
    assert_eq!(events(&mut watchers[7_777], revision).await.len(), 1);
    server_has(&rig, 10_000).await;
    // One for the watchers, one for the put.
    assert!(rig.proxy.accepted() - before <= 2);
    drop(watchers);
    server_has(&rig, 0).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_watcher_gives_up_when_it_was_told_to() {
    let rig = Rig::start().await;
    let mut options = rig.options();
    options.give_up_after = Some(Duration::from_millis(200));
    options.reconnect = ReconnectPolicy::FullJitter {
        base: Duration::from_millis(10),
        max: Duration::from_millis(10),
    };
    let client = setpoint_store::client::Client::new(options).unwrap();
    let mut watcher = watch(&client, WatchOptions::prefix("k")).await;
    rig.proxy.refuse();
    let end = loop {
        match timeout(PATIENCE, watcher.next()).await.unwrap() {
            Ok(_) => (),
            Err(end) => break end,
        }
    };
    assert!(matches!(end, WatchError::Unreachable { .. }), "{end:?}");
    rig.stop().await;
}
