//! What the stream decides, input by input, without a network.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use setpoint_proto::etcdserverpb as pb;
use setpoint_proto::mvccpb;
use tokio::time::Instant;

use super::backoff::ReconnectPolicy;
use super::mailbox::{Mailbox, Overflow, Room};
use super::stream::{Config, Effect, Failure, Input, Stream};
use super::watcher::{Item, Spec, WatcherCounters};
use crate::client::error::NO_LEADER;
use crate::client::stats::StreamCounters;

use pb::watch_request::RequestUnion;

/// A stream, and what it does in short words.
pub(super) struct Rig {
    pub(super) stream: Stream,
    pub(super) now: Instant,
    pub(super) counters: Arc<WatcherCounters>,
}

pub(super) fn config() -> Config {
    Config {
        reconnect: ReconnectPolicy::FullJitter {
            base: Duration::ZERO,
            max: Duration::ZERO,
        },
        probe_after: Duration::from_millis(1_500),
        probe_timeout: Duration::from_secs(3),
        give_up_after: None,
        seed: 1,
    }
}

pub(super) fn spec(counters: &Arc<WatcherCounters>) -> Spec {
    Spec {
        key: Bytes::from_static(b"a"),
        range_end: Bytes::from_static(b"b"),
        start: 0,
        list_first: false,
        resync: true,
        prev_kv: false,
        progress: false,
        no_put: false,
        no_delete: false,
        overflow: Overflow::Pause,
        counters: counters.clone(),
    }
}

impl Rig {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            stream: Stream::new(config(), Arc::new(StreamCounters::default()), now),
            now,
            counters: Arc::default(),
        }
    }

    /// One watcher, made at revision 10 with id 0.
    fn active(change: impl FnOnce(&mut Spec)) -> Self {
        let mut rig = Self::new();
        rig.add(1, change);
        rig.hear(created(0, 10));
        rig
    }

    fn add(&mut self, id: u64, change: impl FnOnce(&mut Spec)) -> Vec<String> {
        let mut spec = spec(&self.counters);
        change(&mut spec);
        self.step(Input::Add(id, spec))
    }

    fn step(&mut self, input: Input) -> Vec<String> {
        let effects = self.stream.step(input, self.now);
        effects.iter().map(word).collect()
    }

    fn hear(&mut self, message: pb::WatchResponse) -> Vec<String> {
        self.step(Input::Message(message))
    }

    fn breaks(&mut self) -> Vec<String> {
        self.fails(tonic::Code::Unavailable, "gone")
    }

    fn fails(&mut self, code: tonic::Code, message: &str) -> Vec<String> {
        let message = message.to_owned();
        self.step(Input::Broken(Failure { code, message }))
    }

    fn later(&mut self, millis: u64) -> Vec<String> {
        self.now += Duration::from_millis(millis);
        self.step(Input::Tick)
    }
}

fn word(effect: &Effect) -> String {
    match effect {
        Effect::Open => "open".to_owned(),
        Effect::Close => "close".to_owned(),
        Effect::Probe => "probe".to_owned(),
        Effect::RenewToken => "renew token".to_owned(),
        Effect::Send(request) => match &request.request_union {
            Some(RequestUnion::CreateRequest(create)) => format!("create from {}", create.start_revision),
            Some(RequestUnion::CancelRequest(cancel)) => format!("cancel {}", cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => "ask progress".to_owned(),
            None => "nothing".to_owned(),
        },
        Effect::List(id, _, request) => {
            let from = String::from_utf8_lossy(&request.key).replace('\0', "0");
            format!("{id}: list from {from} at {}", request.revision)
        }
        Effect::Deliver(id, item) => format!("{id}: {}", item_word(item)),
        Effect::Finish(id, error) => format!("{id}: ends: {error:?}"),
    }
}

fn item_word(item: &Item) -> String {
    match item {
        Item::Events(events) => {
            let each = events.iter().map(|event| {
                let kv = event.kv.as_ref().unwrap();
                format!("{}@{}", String::from_utf8_lossy(&kv.key), kv.mod_revision)
            });
            each.collect::<Vec<_>>().join(" ")
        }
        Item::Progress(revision) => format!("progress {revision}"),
        Item::Resync(resync) => {
            let name = |key: &Bytes| String::from_utf8_lossy(key).into_owned();
            let keys: Vec<_> = resync.snapshot.iter().map(|kv| name(&kv.key)).collect();
            let gone: Vec<_> = resync.deleted.iter().map(|gone| name(&gone.key)).collect();
            format!("resync at {} has {keys:?} not {gone:?}", resync.revision)
        }
    }
}

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader {
        cluster_id: 7,
        revision,
        ..Default::default()
    })
}

fn created(watch_id: i64, revision: i64) -> pb::WatchResponse {
    pb::WatchResponse {
        header: header(revision),
        watch_id,
        created: true,
        ..Default::default()
    }
}

fn refused(reason: &str) -> pb::WatchResponse {
    pb::WatchResponse {
        canceled: true,
        cancel_reason: reason.to_owned(),
        ..created(-1, 10)
    }
}

fn canceled(watch_id: i64) -> pb::WatchResponse {
    pb::WatchResponse {
        canceled: true,
        ..progress(watch_id, 60)
    }
}

fn progress(watch_id: i64, revision: i64) -> pb::WatchResponse {
    pb::WatchResponse {
        header: header(revision),
        watch_id,
        ..Default::default()
    }
}

fn put(key: &str, mod_revision: i64) -> mvccpb::Event {
    mvccpb::Event {
        r#type: 0,
        kv: Some(kv(key, mod_revision)),
        prev_kv: None,
    }
}

fn kv(key: &str, mod_revision: i64) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: Bytes::copy_from_slice(key.as_bytes()),
        mod_revision,
        create_revision: mod_revision,
        version: 1,
        ..Default::default()
    }
}

fn events(watch_id: i64, events: &[(&str, i64)]) -> pb::WatchResponse {
    let last = events.last().map_or(0, |(_, revision)| *revision);
    pb::WatchResponse {
        events: events.iter().map(|(key, revision)| put(key, *revision)).collect(),
        ..progress(watch_id, last)
    }
}

fn fragment(message: pb::WatchResponse) -> pb::WatchResponse {
    pb::WatchResponse {
        fragment: true,
        ..message
    }
}

fn compacted(watch_id: i64, at: i64) -> pb::WatchResponse {
    pb::WatchResponse {
        canceled: true,
        compact_revision: at,
        ..progress(watch_id, 0)
    }
}

fn page(keys: &[(&str, i64)], revision: i64, more: bool) -> pb::RangeResponse {
    pb::RangeResponse {
        header: header(revision),
        kvs: keys.iter().map(|(key, revision)| kv(key, *revision)).collect(),
        more,
        ..Default::default()
    }
}

#[test]
fn a_watch_from_now_resumes_after_the_revision_it_was_made_at() {
    let mut rig = Rig::new();
    assert_eq!(rig.add(1, |_| ()), ["open", "create from 0"]);
    assert!(rig.step(Input::Opened).is_empty());
    assert_eq!(rig.hear(created(0, 10)), ["1: progress 10"]);
    assert_eq!(rig.breaks(), ["close", "open", "create from 11"]);
}

#[test]
fn a_watch_resumes_after_its_last_event_and_drops_what_it_has_seen() {
    let mut rig = Rig::active(|_| ());
    assert_eq!(
        rig.hear(events(0, &[("a", 12), ("b", 12), ("a", 14)])),
        ["1: a@12 b@12 a@14"]
    );
    assert_eq!(rig.breaks(), ["close", "open", "create from 15"]);
    rig.hear(created(0, 14));
    assert_eq!(
        rig.hear(events(0, &[("a", 12), ("a", 14), ("c", 15)])),
        ["1: c@15"]
    );
    assert!(rig.hear(events(0, &[("c", 15)])).is_empty());
    assert_eq!(
        rig.counters.duplicates.load(std::sync::atomic::Ordering::Relaxed),
        3
    );
}

#[test]
fn a_watch_resumes_after_its_last_bookmark() {
    let mut rig = Rig::active(|_| ());
    assert_eq!(rig.hear(progress(0, 30)), ["1: progress 30"]);
    assert!(rig.hear(progress(-1, 20)).is_empty(), "older news is none");
    assert_eq!(rig.breaks(), ["close", "open", "create from 31"]);
}

#[test]
fn a_watch_from_the_future_resumes_there_and_not_earlier() {
    let mut rig = Rig::new();
    rig.add(1, |spec| spec.start = 100);
    rig.hear(created(0, 10));
    assert!(rig.hear(progress(-1, 50)).is_empty());
    assert_eq!(rig.breaks(), ["close", "open", "create from 100"]);
}

#[test]
fn an_answer_in_parts_comes_whole_or_again() {
    let mut rig = Rig::active(|_| ());
    assert!(rig.hear(fragment(events(0, &[("a", 12)]))).is_empty());
    assert_eq!(rig.hear(events(0, &[("b", 12)])), ["1: a@12 b@12"]);
    assert!(rig.hear(fragment(events(0, &[("a", 13)]))).is_empty());
    assert_eq!(rig.breaks(), ["close", "open", "create from 13"]);
    rig.hear(created(0, 13));
    assert_eq!(
        rig.hear(events(0, &[("b", 13)])),
        ["1: b@13"],
        "the lost part is not mixed in"
    );
}

#[test]
fn a_bookmark_for_all_reaches_every_watcher_of_the_stream_and_one_for_one_only_that() {
    let mut rig = Rig::active(|_| ());
    rig.add(2, |_| ());
    rig.hear(created(1, 10));
    assert_eq!(rig.hear(progress(-1, 20)), ["1: progress 20", "2: progress 20"]);
    assert_eq!(rig.hear(progress(1, 21)), ["2: progress 21"]);
}

#[test]
fn creates_are_pipelined_and_answers_meant_for_the_oldest() {
    let mut rig = Rig::new();
    rig.add(1, |_| ());
    rig.add(2, |_| ());
    rig.hear(created(0, 10));
    rig.hear(created(1, 10));
    assert_eq!(rig.hear(events(1, &[("a", 11)])), ["2: a@11"]);
    assert_eq!(rig.hear(events(0, &[("a", 11)])), ["1: a@11"]);
}

#[test]
fn a_watch_given_up_before_its_answer_is_cancelled_when_the_answer_comes() {
    let mut rig = Rig::active(|_| ());
    rig.add(2, |_| ());
    assert!(rig.step(Input::Remove(2)).is_empty());
    assert_eq!(rig.hear(created(1, 10)), ["cancel 1"]);
    assert!(rig.hear(events(1, &[("a", 11)])).is_empty());
    assert_eq!(rig.step(Input::Remove(1)), ["cancel 0", "close"]);
    assert_eq!(rig.add(3, |_| ()), ["open", "create from 0"]);
}

#[test]
fn an_unknown_watcher_of_the_server_is_cancelled_once() {
    let mut rig = Rig::active(|_| ());
    assert_eq!(rig.hear(events(9, &[("a", 11)])), ["cancel 9"]);
    assert!(rig.hear(events(9, &[("a", 12)])).is_empty());
}

#[test]
fn compaction_reads_the_range_again_and_tells_the_deletes_nobody_saw() {
    let mut rig = Rig::active(|_| ());
    rig.hear(events(0, &[("a1", 11), ("a2", 12)]));
    assert_eq!(rig.hear(compacted(0, 50)), ["cancel 0", "1: list from a at 0"]);
    let next = rig.step(Input::Page(1, 1, page(&[("a2", 12)], 60, true)));
    assert_eq!(next, ["1: list from a20 at 60"]);
    let last = rig.step(Input::Page(1, 1, page(&[("a3", 40)], 61, false)));
    assert_eq!(
        last,
        [r#"1: resync at 60 has ["a2", "a3"] not ["a1"]"#, "create from 61"]
    );
}

#[test]
fn a_listing_overtaken_by_compaction_starts_again_and_late_pages_of_the_first_are_ignored() {
    let mut rig = Rig::active(|_| ());
    rig.hear(compacted(0, 50));
    rig.step(Input::Page(1, 1, page(&[("a2", 12)], 60, true)));
    let overtaken = Failure {
        code: tonic::Code::OutOfRange,
        message: crate::client::error::COMPACTED.to_owned(),
    };
    rig.step(Input::PageFailed(1, 1, overtaken));
    assert_eq!(rig.later(1), ["1: list from a at 0"]);
    assert!(
        rig.step(Input::Page(1, 1, page(&[("a9", 12)], 60, false)))
            .is_empty()
    );
    let last = rig.step(Input::Page(1, 2, page(&[("a3", 40)], 70, false)));
    assert_eq!(last, [r#"1: resync at 70 has ["a3"] not []"#, "create from 71"]);
}

#[test]
fn whoever_wants_no_resync_ends_with_the_revision_it_needed_and_the_one_there_is() {
    let mut rig = Rig::active(|spec| spec.resync = false);
    let ends = rig.hear(compacted(0, 50));
    assert_eq!(
        ends,
        ["cancel 0", "1: ends: Compacted { asked: 11, compacted: 50 }"]
    );
    assert!(
        rig.hear(canceled(0)).is_empty(),
        "what the cancel is answered with"
    );
}

#[test]
fn a_refused_watch_ends_with_the_servers_reason_and_the_others_go_on() {
    let mut rig = Rig::active(|_| ());
    rig.add(2, |_| ());
    let ends = rig.hear(refused("etcdserver: permission denied"));
    assert_eq!(
        ends,
        [r#"2: ends: Refused { reason: "etcdserver: permission denied" }"#]
    );
    assert_eq!(rig.hear(events(0, &[("a", 11)])), ["1: a@11"]);
}

#[test]
fn a_refused_token_is_renewed_with_a_new_stream_and_given_up_in_the_end() {
    let mut rig = Rig::new();
    rig.add(1, |_| ());
    for _ in 0..3 {
        let again = rig.hear(refused("etcdserver: invalid auth token"));
        assert_eq!(again, ["renew token", "close", "open", "create from 0"]);
    }
    let ends = rig.hear(refused("etcdserver: invalid auth token"));
    assert_eq!(
        ends,
        [r#"1: ends: Refused { reason: "etcdserver: invalid auth token" }"#]
    );
}

#[test]
fn a_stream_without_leader_is_opened_again_and_one_that_is_forbidden_is_not() {
    let mut rig = Rig::active(|_| ());
    let again = rig.fails(tonic::Code::Unavailable, NO_LEADER);
    assert_eq!(again, ["close", "open", "create from 11"]);
    let ends = rig.fails(tonic::Code::PermissionDenied, "no");
    assert_eq!(ends, ["close", r#"1: ends: Refused { reason: "no" }"#]);
}

#[test]
fn a_silent_link_is_probed_and_dropped_within_five_seconds() {
    let mut rig = Rig::active(|_| ());
    assert_eq!(rig.later(1_500), ["probe", "ask progress"]);
    assert!(rig.step(Input::ProbeAnswered).is_empty());
    assert_eq!(rig.later(1_500), ["probe", "ask progress"]);
    assert!(rig.later(2_900).is_empty());
    assert_eq!(rig.later(100), ["close", "open", "create from 11"]);
}

#[test]
fn an_attempt_that_hears_nothing_is_given_up_as_a_dead_link_is() {
    let mut rig = Rig::new();
    rig.add(1, |_| ());
    assert_eq!(rig.later(1_500), ["probe"]);
    assert_eq!(rig.later(3_000), ["close", "open", "create from 0"]);
}

#[test]
fn watchers_end_when_nobody_could_be_reached_for_as_long_as_was_allowed() {
    let mut rig = Rig::new();
    let config = Config {
        give_up_after: Some(Duration::from_secs(10)),
        ..config()
    };
    rig.stream = Stream::new(config, Arc::default(), rig.now);
    rig.add(1, |_| ());
    rig.breaks();
    rig.now += Duration::from_secs(10);
    let ends = rig.breaks();
    assert_eq!(ends, ["close", r#"1: ends: Unreachable { last: "gone" }"#]);
}

#[test]
fn another_cluster_behind_the_endpoint_makes_everybody_read_its_range_again() {
    let mut rig = Rig::active(|_| ());
    rig.breaks();
    let mut other = created(0, 3);
    other.header.as_mut().unwrap().cluster_id = 8;
    assert_eq!(rig.hear(other), ["close", "1: list from a at 0"]);
}

#[test]
fn a_slow_owner_pauses_the_stream_until_there_is_room() {
    let mut rig = Rig::active(|_| ());
    assert!(rig.stream.reading());
    rig.step(Input::Full(1));
    assert!(!rig.stream.reading());
    rig.step(Input::Room(1));
    assert!(rig.stream.reading());
    rig.step(Input::Full(1));
    rig.add(2, |_| ());
    rig.step(Input::Remove(1));
    assert!(rig.stream.reading(), "whoever left holds nobody up");
}

#[test]
fn a_parked_watcher_leaves_the_server_and_comes_back_where_it_stopped() {
    let mut rig = Rig::active(|spec| spec.overflow = Overflow::Park);
    rig.hear(events(0, &[("a", 12)]));
    assert_eq!(rig.step(Input::Full(1)), ["cancel 0"]);
    assert!(rig.stream.reading());
    assert!(rig.hear(events(0, &[("a", 13)])).is_empty());
    assert_eq!(rig.step(Input::Room(1)), ["create from 13"]);
}

fn mailbox(room: usize) -> Mailbox {
    Mailbox::new(Room {
        events: room,
        bytes: usize::MAX,
    })
}

#[test]
fn a_mailbox_says_once_that_it_is_full_and_once_that_half_of_it_is_free() {
    let mut mailbox = mailbox(4);
    let one = |revision| Item::Events(vec![put("a", revision)]);
    let told: Vec<_> = (1..=5).map(|n| mailbox.push(one(n), Overflow::Pause)).collect();
    assert_eq!(told, [false, false, false, true, false]);
    let told: Vec<_> = (0..5).map(|_| mailbox.pop().unwrap().1).collect();
    assert_eq!(told, [false, false, true, false, false]);
    assert!(mailbox.pop().is_none());
}

#[test]
fn a_mailbox_keeps_one_bookmark_of_many() {
    let mut mailbox = mailbox(4);
    for revision in 1..=100 {
        mailbox.push(Item::Progress(revision), Overflow::Pause);
    }
    assert_eq!(mailbox.pop().unwrap().0, Item::Progress(100));
    assert!(mailbox.pop().is_none());
}

#[test]
fn a_coalescing_mailbox_keeps_the_newest_of_each_key_and_what_was_before_the_oldest() {
    let mut mailbox = mailbox(3);
    for (key, revision) in [("a", 11), ("b", 12), ("a", 13)] {
        let mut event = put(key, revision);
        event.prev_kv = Some(kv(key, revision - 10));
        assert!(!mailbox.push(Item::Events(vec![event]), Overflow::Coalesce));
    }
    let (Item::Events(events), _) = mailbox.pop().unwrap() else {
        panic!("events");
    };
    let seen: Vec<_> = events
        .iter()
        .map(|event| {
            (
                event.kv.as_ref().unwrap().mod_revision,
                event.prev_kv.as_ref().unwrap().mod_revision,
            )
        })
        .collect();
    assert_eq!(seen, [(12, 2), (13, 1)]);
    assert!(mailbox.pop().is_none());
    assert_eq!((mailbox.events(), mailbox.bytes()), (0, 0));
}
