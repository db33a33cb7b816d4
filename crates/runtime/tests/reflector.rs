//! The list-and-watch loop as a server sees it: which requests, in which order, after which answers.

use std::time::Duration;

use serde_json::json;
use setpoint_base::{Stop, TaskGroup};
use setpoint_runtime::informer::SharedInformer;
use setpoint_runtime::reflector::ReflectorOptions;
use tokio::time::Instant;

use crate::fake::{Fake, Fault, MAPS, On, eventually};

/// An informer that runs against a fake.
struct Rig {
    fake: Fake,
    informer: SharedInformer,
    tasks: TaskGroup,
}

impl Rig {
    fn start(fake: Fake, options: ReflectorOptions) -> Self {
        let informer = SharedInformer::builder(&fake.client(), &MAPS)
            .reflector(options)
            .build();
        let tasks = TaskGroup::new(&Stop::new());
        let (run, stop) = (informer.clone(), tasks.stop().clone());
        tasks.spawn(async move { run.run(stop).await });
        Self {
            fake,
            informer,
            tasks,
        }
    }

    fn with(fake: Fake, watch_list: bool) -> Self {
        let options = ReflectorOptions {
            watch_list,
            ..ReflectorOptions::default()
        };
        Self::start(fake, options)
    }

    async fn converged(&self) {
        let (fake, store) = (self.fake.clone(), self.informer.store().clone());
        eventually("the store equals the server", || {
            let store = store
                .list()
                .iter()
                .map(|object| {
                    let header = object.header();
                    (
                        format!("{}/{}", header.namespace, header.name),
                        header.resource_version,
                    )
                })
                .collect::<std::collections::BTreeMap<_, _>>();
            self.informer.has_synced() && store == fake.versions(&MAPS)
        })
        .await;
    }

    #[track_caller]
    fn reads(&self, expect: &[&str]) {
        assert_eq!(self.fake.reads(), expect);
    }

    async fn stop(self) {
        assert_eq!(
            self.tasks.shutdown(Duration::from_secs(60)).await,
            0,
            "tasks left"
        );
    }
}

fn fake(objects: usize) -> Fake {
    let fake = Fake::new();
    for n in 0..objects {
        fake.put(
            &MAPS,
            "ns",
            &format!("m{n}"),
            json!({"data": {"n": n.to_string()}}),
        );
    }
    fake
}

// TestWatchList (reflector_watchlist_test.go): the stream that brought the initial events goes on.
#[tokio::test(start_paused = true)]
async fn a_watch_list_fills_the_store_and_goes_on_as_the_watch() {
    let rig = Rig::with(fake(3), true);
    rig.converged().await;
    rig.fake.put(&MAPS, "ns", "new", json!({}));
    rig.fake.delete(&MAPS, "ns", "m0");
    rig.converged().await;
    rig.reads(&["watchlist"]);
    rig.stop().await;
}

// TestWatchList, "fallback to standard LIST": an old server refuses the parameter.
#[tokio::test(start_paused = true)]
async fn a_server_without_watch_list_is_listed_and_not_asked_again() {
    let rig = Rig::with(fake(2).without_watch_list(), true);
    rig.converged().await;
    rig.reads(&["watchlist", "list rv=0 limit=500", "watch rv=102"]);
    rig.fake.compact();
    rig.fake.put(&MAPS, "ns", "later", json!({}));
    rig.fake.compact();
    rig.fake.drop_watches();
    rig.converged().await;
    assert!(
        !rig.fake.reads()[1..].contains(&"watchlist".to_owned()),
        "{:?}",
        rig.fake.reads()
    );
    rig.stop().await;
}

// TestInitialEventsEndBookmarkTicker, and what follows when the bookmark never comes.
#[tokio::test(start_paused = true)]
async fn a_server_that_takes_a_watch_list_for_a_plain_watch_is_listed_after_half_a_minute() {
    let began = Instant::now();
    let rig = Rig::with(fake(2).ignoring_watch_list(), true);
    rig.converged().await;
    rig.reads(&["watchlist", "list rv=0 limit=500", "watch rv=102"]);
    assert!(began.elapsed() < Duration::from_secs(40));
    rig.stop().await;
}

// TestWatchList, "429" and connection refused: back off and ask again, no list.
#[tokio::test(start_paused = true)]
async fn a_refused_watch_list_is_repeated_not_replaced_by_a_list() {
    let fake = fake(1);
    fake.fail(On::WatchList, Fault::Status(429, "TooManyRequests", "later"));
    fake.fail(On::WatchList, Fault::Refused);
    let began = Instant::now();
    let rig = Rig::with(fake, true);
    rig.converged().await;
    rig.reads(&["watchlist", "watchlist", "watchlist"]);
    assert!(
        began.elapsed() >= Duration::from_millis(2400),
        "{:?}",
        began.elapsed()
    );
    rig.stop().await;
}

// TestWatchList, "stop after the bookmark was not received": what was gathered does not count.
#[tokio::test(start_paused = true)]
async fn a_watch_list_cut_before_its_bookmark_begins_anew() {
    let fake = fake(5);
    fake.fail(On::WatchList, Fault::Cut(3));
    let rig = Rig::with(fake, true);
    rig.converged().await;
    rig.reads(&["watchlist", "watchlist"]);
    rig.stop().await;
}

// TestReflectorListAndWatch
#[tokio::test(start_paused = true)]
async fn a_list_is_followed_by_a_watch_from_its_version() {
    let rig = Rig::with(fake(2), false);
    rig.converged().await;
    rig.fake.put(&MAPS, "ns", "m0", json!({"data": {"n": "changed"}}));
    rig.converged().await;
    rig.reads(&["list rv=0 limit=500", "watch rv=102"]);
    rig.stop().await;
}

// TestReflectorWatchListPageSize, TestReflectorPaginatingNonConsistentReadsIfWatchCacheDisabled
#[tokio::test(start_paused = true)]
async fn a_server_without_watch_cache_is_read_in_pages_also_later() {
    let options = ReflectorOptions {
        watch_list: false,
        page_size: 2,
        ..ReflectorOptions::default()
    };
    let rig = Rig::start(fake(5).without_watch_cache(), options);
    rig.converged().await;
    rig.reads(&[
        "list rv=0 limit=2",
        "list limit=2 continue=…",
        "list limit=2 continue=…",
        "watch rv=105",
    ]);
    rig.fake.fail(On::Watch, Fault::Status(410, "Expired", "too old"));
    rig.fake.drop_watches();
    eventually("a relist in pages", || {
        rig.fake.reads().contains(&"list rv=105 limit=2".to_owned())
    })
    .await;
    rig.stop().await;
}

// TestReflectorNotPaginatingNotConsistentReads
#[tokio::test(start_paused = true)]
async fn a_relist_from_a_known_version_is_not_paged() {
    let rig = Rig::with(fake(2), false);
    rig.converged().await;
    rig.fake.fail(On::Watch, Fault::Status(410, "Expired", "too old"));
    rig.fake.drop_watches();
    eventually("a relist", || {
        rig.fake.reads().contains(&"list rv=102".to_owned())
    })
    .await;
    rig.converged().await;
    rig.stop().await;
}

// TestReflectorFullListIfExpired: the token is too old, the whole list is not.
#[tokio::test(start_paused = true)]
async fn an_expired_page_token_leads_to_one_full_list() {
    let options = ReflectorOptions {
        watch_list: false,
        page_size: 2,
        ..ReflectorOptions::default()
    };
    let fake = fake(5).without_watch_cache();
    fake.fail(
        On::NextPage,
        Fault::Status(410, "Expired", "the provided continue parameter is too old"),
    );
    let rig = Rig::start(fake, options);
    rig.converged().await;
    rig.reads(&[
        "list rv=0 limit=2",
        "list limit=2 continue=…",
        "list rv=0",
        "watch rv=105",
    ]);
    rig.stop().await;
}

// TestReflectorExpiredExactResourceVersion, TestReflectorFullListIfTooLarge
#[tokio::test(start_paused = true)]
async fn a_version_that_the_server_refuses_is_replaced_by_the_newest_at_once() {
    for (code, reason, message) in [
        (410, "Expired", "too old resource version: 102 (200)"),
        (504, "Timeout", "Too large resource version: 102, current: 7"),
    ] {
        let rig = Rig::with(fake(2), false);
        rig.converged().await;
        // A watch this short is a failure, which leads to a list.
        rig.fake.fail(On::List, Fault::Status(code, reason, message));
        rig.fake.drop_watches();
        eventually("a relist", || {
            rig.fake
                .reads()
                .iter()
                .filter(|read| read.starts_with("list"))
                .count()
                == 3
        })
        .await;
        rig.converged().await;
        assert_eq!(
            rig.fake.reads()[2..4],
            ["list rv=102", "list limit=500"],
            "{reason}"
        );
        rig.stop().await;
    }
}

// TestNoRelistOnTooManyRequests, TestBackoffOnTooManyRequests
#[tokio::test(start_paused = true)]
async fn a_refused_watch_is_opened_again_without_a_list() {
    let rig = Rig::with(fake(1), false);
    rig.converged().await;
    rig.fake
        .fail(On::Watch, Fault::Status(429, "TooManyRequests", "later"));
    rig.fake.fail(On::Watch, Fault::Refused);
    rig.fake.fail(On::Watch, Fault::Event(429, "TooManyRequests"));
    // Not too soon: a very short watch would be a failure of its own.
    tokio::time::sleep(Duration::from_secs(5)).await;
    rig.fake.drop_watches();
    rig.fake.put(&MAPS, "ns", "late", json!({}));
    rig.converged().await;
    assert_eq!(
        rig.fake
            .reads()
            .iter()
            .filter(|read| read.starts_with("list"))
            .count(),
        1
    );
    rig.stop().await;
}

// In-stream 410: TestReflectorListAndWatchWithErrors
#[tokio::test(start_paused = true)]
async fn a_watch_that_expires_leads_to_a_list_from_the_last_version() {
    let rig = Rig::with(fake(1), false);
    rig.converged().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    rig.fake.fail(On::Watch, Fault::Event(410, "Expired"));
    rig.fake.drop_watches();
    rig.fake.put(&MAPS, "ns", "late", json!({}));
    rig.converged().await;
    assert_eq!(
        rig.fake.reads(),
        [
            "list rv=0 limit=500",
            "watch rv=101",
            "watch rv=101",
            "list rv=101",
            "watch rv=102"
        ]
    );
    rig.stop().await;
}

// TestRetryInternalError
#[tokio::test(start_paused = true)]
async fn an_internal_error_is_retried_only_within_its_window() {
    for (window, lists) in [(Duration::ZERO, 2), (Duration::from_secs(60), 1)] {
        let options = ReflectorOptions {
            watch_list: false,
            internal_error_retry: window,
            ..ReflectorOptions::default()
        };
        let rig = Rig::start(fake(1), options);
        rig.converged().await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        rig.fake.fail(On::Watch, Fault::Event(500, "InternalError"));
        rig.fake.drop_watches();
        rig.fake.put(&MAPS, "ns", "late", json!({}));
        rig.converged().await;
        let count = rig
            .fake
            .reads()
            .iter()
            .filter(|read| read.starts_with("list"))
            .count();
        assert_eq!(count, lists, "{window:?}");
        rig.stop().await;
    }
}

// TestReflectorHandleWatchResultChanClosedBefore: "very short watch"
#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_at_once_is_a_failure_and_backs_off() {
    let rig = Rig::with(fake(1), false);
    rig.converged().await;
    let began = Instant::now();
    rig.fake.drop_watches();
    eventually("a relist", || rig.fake.reads().len() >= 4).await;
    assert!(
        began.elapsed() >= Duration::from_millis(800),
        "{:?}",
        began.elapsed()
    );
    rig.reads(&[
        "list rv=0 limit=500",
        "watch rv=101",
        "list rv=101",
        "watch rv=101",
    ]);
    rig.stop().await;
}

// TestReflectorResourceVersionUpdate
#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_in_peace_resumes_after_the_last_event() {
    let rig = Rig::with(fake(1), false);
    rig.converged().await;
    rig.fake.put(&MAPS, "ns", "b", json!({}));
    rig.converged().await;
    rig.fake.drop_watches();
    rig.fake.put(&MAPS, "ns", "c", json!({}));
    rig.converged().await;
    rig.reads(&["list rv=0 limit=500", "watch rv=101", "watch rv=102"]);
    rig.stop().await;
}

// The half line is not an event, and nothing is lost.
#[tokio::test(start_paused = true)]
async fn a_connection_cut_in_the_middle_of_an_event_loses_nothing() {
    let fake = fake(1).with_frames(7);
    fake.fail(On::Watch, Fault::Cut(1));
    let rig = Rig::with(fake, false);
    rig.converged().await;
    rig.fake
        .put(&MAPS, "ns", "b", json!({"data": {"k": "x".repeat(100)}}));
    rig.fake.put(&MAPS, "ns", "c", json!({}));
    rig.converged().await;
    rig.reads(&["list rv=0 limit=500", "watch rv=101", "watch rv=102"]);
    rig.stop().await;
}

// TestReflectorListAndWatchInitConnBackoff
#[tokio::test(start_paused = true)]
async fn a_server_that_is_down_is_asked_with_growing_waits_until_it_is_back() {
    let fake = fake(1);
    for _ in 0..6 {
        fake.fail(On::List, Fault::Refused);
    }
    let began = Instant::now();
    let rig = Rig::with(fake, false);
    rig.converged().await;
    // 0.8 + 1.6 + 3.2 + 6.4 + 12.8 + 25.6 s, each up to twice as long.
    let waited = began.elapsed();
    assert!(
        waited >= Duration::from_millis(50_400) && waited < Duration::from_secs(105),
        "{waited:?}"
    );
    rig.stop().await;
}

// TestReflectorStopWatch, TestRunUntil
#[tokio::test(start_paused = true)]
async fn a_stop_ends_it_at_any_point() {
    for (on, fault) in [
        (On::List, Fault::Hang),
        (On::Watch, Fault::Hang),
        (On::List, Fault::Refused),
    ] {
        let fake = fake(1);
        fake.fail(on, fault);
        let rig = Rig::with(fake, false);
        tokio::time::sleep(Duration::from_millis(300)).await;
        let began = Instant::now();
        rig.stop().await;
        assert!(began.elapsed() < Duration::from_secs(1));
    }
}
