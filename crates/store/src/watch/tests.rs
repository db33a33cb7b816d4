//! The hub over a history that is a plain list.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Feed, Hub, WatchStream};
use crate::core::batch::{Batch, History};
use crate::error::Error;
use crate::options::Options;
use crate::types::{Event, EventKind, KeyRange, KeyValue, Revision, WatchSpec, WatchUpdate};

mod chorus;

#[derive(Default)]
struct List {
    events: Mutex<BTreeMap<i64, Vec<Arc<Event>>>>,
    floor: Mutex<i64>,
    /// Where history was read without previous versions.
    asked_without_prev: Mutex<Vec<Revision>>,
}

impl History for List {
    fn committed(&self) -> Revision {
        Revision(self.events.lock().keys().next_back().copied().unwrap_or(1))
    }

    fn floor(&self) -> i64 {
        *self.floor.lock()
    }

    fn read(&self, from: Revision, _: usize, prev_kv: bool) -> Result<(Vec<Arc<Event>>, Revision), Error> {
        if !prev_kv {
            self.asked_without_prev.lock().push(from);
        }
        let floor = self.floor();
        if from.0 < floor {
            return Err(Error::Compacted {
                asked: from,
                floor: Revision(floor),
            });
        }
        // A few revisions at a time, so that tests see many chunks.
        let events = self.events.lock();
        let chunk: Vec<_> = events.range(from.0..).take(3).collect();
        let next = chunk
            .last()
            .map_or(from, |(revision, _)| Revision(**revision).next());
        Ok((
            chunk
                .into_iter()
                .flat_map(|(_, events)| events.iter().cloned())
                .collect(),
            next,
        ))
    }
}

struct World {
    list: Arc<List>,
    feed: Arc<Feed>,
    hub: Hub,
    dispatcher: Option<std::thread::JoinHandle<()>>,
}

impl World {
    fn new(stream_updates_max: usize) -> Self {
        let options = Options {
            stream_updates_max,
            stream_watchers_max: 20_000,
            ..Options::new("unused")
        };
        let (list, feed) = (Arc::new(List::default()), Arc::new(Feed::default()));
        let hub = Hub::new(Arc::clone(&list) as Arc<dyn History>, Arc::clone(&feed), &options);
        let dispatcher = hub.clone();
        let dispatcher = Some(std::thread::spawn(move || dispatcher.dispatch()));
        Self {
            list,
            feed,
            hub,
            dispatcher,
        }
    }

    /// Commits one revision that puts (or, with a leading `-`, deletes) the keys.
    fn commit(&self, keys: &[&str]) -> i64 {
        let revision = self.list.committed().next();
        let events: Vec<_> = keys.iter().map(|key| event(key, revision)).collect();
        self.list.events.lock().insert(revision.0, events.clone());
        self.feed
            .publish(Arc::new(Batch::ready(revision, revision, events)));
        revision.0
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.hub.close();
        self.dispatcher.take().map(std::thread::JoinHandle::join);
    }
}

fn event(key: &str, revision: Revision) -> Arc<Event> {
    let (kind, key) = match key.strip_prefix('-') {
        Some(key) => (EventKind::Delete, key),
        None => (EventKind::Put, key),
    };
    let kv = KeyValue {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::new(),
        create_revision: revision,
        mod_revision: revision,
        version: 1,
        lease: None,
    };
    Arc::new(Event {
        kind,
        kv,
        prev_kv: None,
        trace: None,
        encoded: Default::default(),
    })
}

fn all(start: Option<i64>) -> WatchSpec {
    WatchSpec::new(KeyRange::From(Bytes::new()), start.map(Revision))
}

fn prefix(prefix: &str) -> WatchSpec {
    WatchSpec::new(KeyRange::prefix(prefix.as_bytes()), None)
}

async fn next(stream: &mut WatchStream) -> WatchUpdate {
    tokio::time::timeout(Duration::from_secs(5), stream.next())
        .await
        .expect("an update comes")
        .expect("the hub is open")
}

/// `id key@revision`, one per event, until `count` have come.
async fn seen(stream: &mut WatchStream, count: usize) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.len() < count {
        if let WatchUpdate::Events { id, revision, events } = next(stream).await {
            for event in events {
                assert!(event.kv.mod_revision <= revision);
                seen.push(format!(
                    "{id} {}@{}",
                    String::from_utf8_lossy(&event.kv.key),
                    event.kv.mod_revision
                ));
            }
        }
    }
    seen
}

async fn silent(stream: &mut WatchStream) -> bool {
    tokio::time::timeout(Duration::from_millis(50), stream.next())
        .await
        .is_err()
}

#[tokio::test]
async fn a_watcher_sees_what_comes_after_it() {
    let world = World::new(8);
    world.commit(&["a"]);
    let mut stream = world.hub.stream();
    assert_eq!(stream.create(all(None)).unwrap(), (0, Revision(2)));
    world.commit(&["b", "c"]);
    world.commit(&["-b"]);
    assert_eq!(seen(&mut stream, 3).await, ["0 b@3", "0 c@3", "0 b@4"]);
}

#[tokio::test]
async fn history_and_head_join_without_gap_or_double() {
    let world = World::new(4);
    for _ in 0..20 {
        world.commit(&["a"]);
    }
    let mut stream = world.hub.stream();
    stream.create(all(Some(2))).unwrap();
    let mut expected = Vec::new();
    let mut got = Vec::new();
    for round in 0..50 {
        for _ in 0..round % 9 {
            world.commit(&["a"]);
        }
        got.extend(seen(&mut stream, 1).await);
    }
    let last = world.commit(&["a"]);
    for revision in 2..=last {
        expected.push(format!("0 a@{revision}"));
    }
    let rest = expected.len() - got.len();
    got.extend(seen(&mut stream, rest).await);
    assert_eq!(got, expected);
}

#[tokio::test]
async fn a_stream_that_nobody_reads_costs_a_bounded_queue_and_loses_nothing() {
    let world = World::new(3);
    let mut stream = world.hub.stream();
    stream.create(all(None)).unwrap();
    stream.create(prefix("b")).unwrap();
    for _ in 0..100 {
        world.commit(&["a", "b"]);
    }
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for line in seen(&mut stream, 300).await {
        if line.starts_with('0') {
            first.push(line);
        } else {
            second.push(line);
        }
    }
    let expected = |id: u8, keys: &[&str]| -> Vec<String> {
        (2..=101)
            .flat_map(|revision| keys.iter().map(move |key| format!("{id} {key}@{revision}")))
            .collect()
    };
    assert_eq!(first, expected(0, &["a", "b"]));
    assert_eq!(second, expected(1, &["b"]));
}

#[tokio::test]
async fn filters_and_ranges_are_obeyed_at_the_head_and_in_history() {
    for start in [None, Some(2)] {
        let world = World::new(8);
        let mut stream = world.hub.stream();
        if start.is_none() {
            stream
                .create(WatchSpec {
                    no_delete: true,
                    ..prefix("a/")
                })
                .unwrap();
        }
        world.commit(&["a/1", "b/1"]);
        world.commit(&["-a/1"]);
        world.commit(&["a/2"]);
        if start.is_some() {
            stream
                .create(WatchSpec {
                    no_delete: true,
                    start: Some(Revision(2)),
                    ..prefix("a/")
                })
                .unwrap();
        }
        assert_eq!(seen(&mut stream, 2).await, ["0 a/1@2", "0 a/2@4"]);
    }
}

#[tokio::test]
async fn below_the_floor_a_watcher_is_told_and_gone() {
    let world = World::new(8);
    for _ in 0..5 {
        world.commit(&["a"]);
    }
    *world.list.floor.lock() = 4;
    let mut stream = world.hub.stream();
    stream.create(all(Some(3))).unwrap();
    stream.create(all(Some(4))).unwrap();
    let mut events = Vec::new();
    let mut compacted = None;
    while events.len() < 3 || compacted.is_none() {
        match next(&mut stream).await {
            WatchUpdate::Compacted { id, floor } => compacted = Some((id, floor)),
            WatchUpdate::Events { id, events: more, .. } => events.extend(more.into_iter().map(|_| id)),
            WatchUpdate::Progress { .. } => (),
            WatchUpdate::Failed { error, .. } => panic!("{error}"),
        }
    }
    assert_eq!(compacted, Some((0, Revision(4))));
    assert_eq!(events, [1, 1, 1]);
    assert!(!stream.cancel(0));
}

#[tokio::test]
async fn a_future_start_is_silent_until_it_is_reached_and_has_no_progress() {
    let world = World::new(8);
    let mut stream = world.hub.stream();
    stream.create(all(Some(4))).unwrap();
    stream.request_progress();
    world.commit(&["a"]);
    world.commit(&["a"]);
    assert!(silent(&mut stream).await);
    world.commit(&["a"]);
    assert_eq!(seen(&mut stream, 1).await, ["0 a@4"]);
}

#[tokio::test]
async fn progress_comes_after_the_events_that_it_covers() {
    let world = World::new(1);
    let mut stream = world.hub.stream();
    stream.create(all(None)).unwrap();
    for _ in 0..10 {
        world.commit(&["a"]);
    }
    stream.request_progress();
    let mut last = 1;
    loop {
        match next(&mut stream).await {
            WatchUpdate::Events { events, .. } => {
                for event in events {
                    assert_eq!(event.kv.mod_revision.0, last + 1);
                    last += 1;
                }
            }
            WatchUpdate::Progress { id, revision } => {
                assert_eq!((id, revision), (None, Revision(11)));
                assert_eq!(last, 11);
                break;
            }
            WatchUpdate::Compacted { .. } | WatchUpdate::Failed { .. } => {
                unreachable!("nothing is compacted here")
            }
        }
    }
}

#[tokio::test]
async fn a_cancelled_watcher_delivers_nothing_more_and_its_id_is_free() {
    let world = World::new(8);
    let mut stream = world.hub.stream();
    let spec = WatchSpec {
        id: Some(7),
        ..all(None)
    };
    stream.create(spec.clone()).unwrap();
    assert_eq!(
        stream.create(spec.clone()).unwrap_err(),
        Error::DuplicateWatchId(7)
    );
    world.commit(&["a"]);
    assert!(stream.cancel(7) && !stream.cancel(7));
    assert!(silent(&mut stream).await);
    stream.create(spec).unwrap();
    world.commit(&["b"]);
    assert_eq!(seen(&mut stream, 1).await, ["7 b@3"]);
}

#[tokio::test]
async fn an_empty_range_is_refused() {
    let world = World::new(8);
    let keys = KeyRange::Span(Bytes::from_static(b"b"), Bytes::from_static(b"a"));
    assert_eq!(
        world.hub.stream().create(WatchSpec::new(keys, None)).unwrap_err(),
        Error::EmptyWatchRange
    );
}

#[tokio::test]
async fn of_ten_thousand_watchers_only_the_one_that_matches_is_given_anything() {
    let world = World::new(8);
    let mut stream = world.hub.stream();
    for n in 0..10_000 {
        stream.create(prefix(&format!("k{n:05}/"))).unwrap();
    }
    assert_eq!(world.feed.watchers(), 10_000);
    world.commit(&["k04711/a"]);
    assert_eq!(seen(&mut stream, 1).await, ["4711 k04711/a@2"]);
    assert!(silent(&mut stream).await);
    drop(stream);
    assert_eq!(world.feed.watchers(), 0);
}

#[tokio::test]
async fn closing_the_hub_ends_every_stream() {
    let world = World::new(8);
    let mut stream = world.hub.stream();
    stream.create(all(None)).unwrap();
    let waiting = async { stream.next().await.is_none() };
    let closing = async {
        tokio::task::yield_now().await;
        world.hub.close();
    };
    assert!(tokio::join!(waiting, closing).0);
    assert_eq!(world.hub.stream().create(all(None)).unwrap_err(), Error::Stopped);
}

/// Commits a put of `a` whose previous version is known.
fn commit_with_prev(world: &World) {
    let revision = world.list.committed().next();
    let before = event("a", Revision(revision.0 - 1)).kv.clone();
    let event = Arc::new(Event {
        kind: EventKind::Put,
        kv: event("a", revision).kv.clone(),
        prev_kv: Some(before),
        trace: None,
        encoded: Default::default(),
    });
    world
        .list
        .events
        .lock()
        .insert(revision.0, vec![Arc::clone(&event)]);
    world
        .feed
        .publish(Arc::new(Batch::ready(revision, revision, vec![event])));
}

#[tokio::test]
async fn previous_versions_come_at_the_head_from_history_and_after_a_lag() {
    // With room for one update, all but the first of the live ones are read back from history.
    for (room, start) in [(8, None), (1, None), (8, Some(Revision(2)))] {
        let world = World::new(room);
        let mut stream = world.hub.stream();
        let spec = WatchSpec {
            prev_kv: true,
            start,
            ..all(None)
        };
        if start.is_none() {
            stream.create(spec.clone()).unwrap();
        }
        for _ in 0..20 {
            commit_with_prev(&world);
        }
        if start.is_some() {
            stream.create(spec).unwrap();
        }
        let mut last = 1;
        while last < 21 {
            let WatchUpdate::Events { events, .. } = next(&mut stream).await else {
                continue;
            };
            for event in events {
                let before = event.prev_kv.as_ref().map(|kv| kv.mod_revision.0);
                assert_eq!(
                    (event.kv.mod_revision.0, before),
                    (last + 1, Some(last)),
                    "room {room}"
                );
                last += 1;
            }
        }
        assert!(world.list.asked_without_prev.lock().is_empty(), "room {room}");
    }
}

#[tokio::test]
async fn each_filter_leaves_out_its_kind_at_the_head_after_a_lag_and_in_history() {
    let kinds = [
        (false, false, "pd"),
        (true, false, "d"),
        (false, true, "p"),
        (true, true, ""),
    ];
    for (no_put, no_delete, expect) in kinds {
        for (room, start) in [(64, None), (1, None), (64, Some(Revision(2)))] {
            let world = World::new(room);
            let mut stream = world.hub.stream();
            let spec = WatchSpec {
                no_put,
                no_delete,
                start,
                ..all(None)
            };
            if start.is_none() {
                stream.create(spec.clone()).unwrap();
            }
            for _ in 0..10 {
                world.commit(&["a"]);
                world.commit(&["-a"]);
            }
            if start.is_some() {
                stream.create(spec).unwrap();
            }
            // Progress comes behind everything, so nothing can be missing or left.
            stream.request_progress();
            let mut kinds = String::new();
            loop {
                match next(&mut stream).await {
                    WatchUpdate::Events { events, .. } => kinds.extend(
                        events
                            .iter()
                            .map(|event| if event.kind == EventKind::Put { 'p' } else { 'd' }),
                    ),
                    WatchUpdate::Progress { .. } => break,
                    WatchUpdate::Compacted { .. } | WatchUpdate::Failed { .. } => {
                        unreachable!("nothing is compacted here")
                    }
                }
            }
            assert_eq!(kinds, expect.repeat(10), "room {room}, start {start:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_watcher_that_asked_is_told_of_progress_and_a_busy_one_or_another_is_not() {
    let world = World::new(8);
    let mut stream = world.hub.stream();
    let asks = |spec| WatchSpec {
        progress: true,
        ..spec
    };
    stream.create(asks(prefix("idle"))).unwrap();
    stream.create(asks(prefix("busy"))).unwrap();
    stream.create(prefix("silent")).unwrap();
    let revision = world.commit(&["busy"]);
    // The dispatcher's time is real: it delivers before the paused clock goes on.
    std::thread::sleep(Duration::from_millis(100));
    let mut told = Vec::new();
    // A little over one interval of ten minutes, and the tenth by which streams differ.
    let until = tokio::time::Instant::now() + Duration::from_secs(670);
    while let Ok(update) = tokio::time::timeout_at(until, stream.next()).await {
        match update.expect("the hub is open") {
            WatchUpdate::Events { id, .. } => told.push((id, None)),
            WatchUpdate::Progress { id, revision } => {
                told.push((id.expect("of one watcher"), Some(revision)));
            }
            WatchUpdate::Compacted { .. } | WatchUpdate::Failed { .. } => {
                unreachable!("nothing is compacted here")
            }
        }
    }
    assert_eq!(told, [(1, None), (0, Some(Revision(revision)))]);
    // In the next interval the other one has been idle, too.
    let until = tokio::time::Instant::now() + Duration::from_secs(670);
    let mut told = Vec::new();
    while let Ok(Some(update)) = tokio::time::timeout_at(until, stream.next()).await {
        if let WatchUpdate::Progress { id, .. } = update {
            told.push(id);
        }
    }
    told.sort();
    assert_eq!(told, [Some(0), Some(1)]);
}

#[tokio::test]
async fn a_stream_gives_no_id_twice() {
    let world = World::new(8);
    let mut stream = world.hub.stream();
    assert_eq!(stream.create(all(None)).unwrap().0, 0);
    assert!(stream.cancel(0));
    assert_eq!(stream.create(all(None)).unwrap().0, 1);
    let named = WatchSpec {
        id: Some(2),
        ..all(None)
    };
    assert_eq!(stream.create(named).unwrap().0, 2);
    assert_eq!(stream.create(all(None)).unwrap().0, 3);
}
