//! The work queue without clocks, locks or tasks: which key may be worked on now.
//!
//! A key is in at most one of four places, and may also be marked dirty while a worker has it:
//!
//! ```text
//! add ──► queued ──pop──► processing ──done──► (gone, or queued again when it became dirty meanwhile)
//! add_after ──► waiting ──due──► queued
//! ```

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

use super::limiter::Limiter;

/// The answer to "what should a worker do now".
#[derive(Debug, PartialEq, Eq)]
pub enum Pop<K> {
    /// Work on this key, then call [`Core::done`]. The wait in the queue is for the latency metric.
    Ready {
        /// The key.
        key: K,
        /// Time since it was added.
        waited: Duration,
    },
    /// Nothing now; something at this instant, if no add comes before.
    Empty {
        /// When the first delayed key is due.
        next: Option<Instant>,
    },
    /// Shut down and drained: workers end.
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Closing,
}

/// Deduplicating FIFO with delays and per-key backoff (client-go `util/workqueue`, behaviours of
/// `queue.go`, `delaying_queue.go` and `rate_limiting_queue.go`).
///
/// Bounded by the number of distinct keys: a key is held once however often it is added.
#[derive(Debug)]
pub struct Core<K> {
    queue: VecDeque<K>,
    /// Keys that need work: queued, or touched again while processing. The instant is the first add.
    dirty: HashMap<K, Instant>,
    processing: HashMap<K, Instant>,
    waiting: BTreeMap<(Instant, u64), K>,
    waiting_by_key: HashMap<K, (Instant, u64)>,
    sequence: u64,
    limiter: Limiter<K>,
    phase: Phase,
    /// Set by a forced shutdown: a drain stops waiting for work in progress.
    forced: bool,
}

impl<K: Clone + Eq + Hash> Core<K> {
    /// An empty queue whose [`Core::add_rate_limited`] follows `limiter`.
    #[must_use]
    pub fn new(limiter: Limiter<K>) -> Self {
        Self {
            queue: VecDeque::new(),
            dirty: HashMap::new(),
            processing: HashMap::new(),
            waiting: BTreeMap::new(),
            waiting_by_key: HashMap::new(),
            sequence: 0,
            limiter,
            phase: Phase::Open,
            forced: false,
        }
    }

    /// Marks a key as needing work. Returns whether that changed anything.
    pub fn add(&mut self, key: K, now: Instant) -> bool {
        if self.phase != Phase::Open || self.dirty.contains_key(&key) {
            return false;
        }
        self.dirty.insert(key.clone(), now);
        if !self.processing.contains_key(&key) {
            self.queue.push_back(key);
        }
        true
    }

    /// Adds the key once `delay` has passed. A key already waiting keeps the earlier of both instants.
    pub fn add_after(&mut self, key: K, delay: Duration, now: Instant) {
        if self.phase != Phase::Open {
            return;
        }
        if delay.is_zero() {
            self.add(key, now);
            return;
        }
        let due = now + delay;
        if let Some(&(present, _)) = self.waiting_by_key.get(&key)
            && present <= due
        {
            return;
        }
        self.unwait(&key);
        self.sequence += 1;
        let slot = (due, self.sequence);
        self.waiting.insert(slot, key.clone());
        self.waiting_by_key.insert(key, slot);
    }

    /// Adds the key after its backoff; returns the wait. Only waits that elapsed count as failures.
    pub fn add_rate_limited(&mut self, key: K, now: Instant) -> Duration {
        let wait = self.limiter.wait(&key, now);
        self.add_after(key, wait, now);
        wait
    }

    /// A success: the next backoff of the key starts from the base.
    pub fn forget(&mut self, key: &K) {
        self.limiter.forget(key);
    }

    /// Failures of the key since it was last forgotten.
    #[must_use]
    pub fn requeues(&self, key: &K) -> u32 {
        self.limiter.failures(key)
    }

    /// Takes the oldest key that may be worked on.
    pub fn pop(&mut self, now: Instant) -> Pop<K> {
        self.promote(now);
        let Some(key) = self.queue.pop_front() else {
            return match self.phase {
                Phase::Open => Pop::Empty {
                    next: self.waiting.keys().next().map(|slot| slot.0),
                },
                Phase::Closing => Pop::Closed,
            };
        };
        let added = self.dirty.remove(&key).unwrap_or(now);
        self.processing.insert(key.clone(), now);
        Pop::Ready {
            key,
            waited: now.saturating_duration_since(added),
        }
    }

    /// The worker is finished with the key; returns how long it had it. A key that became dirty
    /// meanwhile is queued again.
    pub fn done(&mut self, key: &K, now: Instant) -> Option<Duration> {
        let began = self.processing.remove(key)?;
        if self.dirty.contains_key(key) {
            self.queue.push_back(key.clone());
        }
        Some(now.saturating_duration_since(began))
    }

    /// Refuses further adds. Queued keys are still handed out; delayed ones are dropped. A drain that
    /// is under way stops waiting.
    pub fn shut_down(&mut self) {
        self.close();
        self.forced = true;
    }

    /// As [`Core::shut_down`], but [`Core::drained`] also waits for the keys being processed.
    pub fn begin_drain(&mut self) {
        self.close();
    }

    /// Whether a drain is complete: nothing queued and nothing in a worker's hands, or it was forced.
    #[must_use]
    pub fn drained(&self) -> bool {
        self.forced || (self.queue.is_empty() && self.processing.is_empty())
    }

    /// Whether adds are refused.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.phase != Phase::Open
    }

    /// Keys ready to be handed out.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether no key is ready.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Keys whose time has not come.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Seconds of unfinished work, and the longest running: for the metrics of the same names.
    #[must_use]
    pub fn unfinished(&self, now: Instant) -> (f64, f64) {
        self.processing
            .values()
            .fold((0.0, 0.0), |(sum, longest), began| {
                let seconds = now.saturating_duration_since(*began).as_secs_f64();
                (sum + seconds, f64::max(longest, seconds))
            })
    }

    fn close(&mut self) {
        self.phase = Phase::Closing;
        self.waiting.clear();
        self.waiting_by_key.clear();
    }

    fn promote(&mut self, now: Instant) {
        while let Some(entry) = self.waiting.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            self.waiting_by_key.remove(&key);
            self.add(key, now);
        }
    }

    fn unwait(&mut self, key: &K) {
        if let Some(slot) = self.waiting_by_key.remove(key) {
            self.waiting.remove(&slot);
        }
    }

    /// The keys that hold memory here: for tests that nothing is leaked.
    #[must_use]
    pub fn held(&self) -> usize {
        let keys: HashSet<&K> = self
            .queue
            .iter()
            .chain(self.dirty.keys())
            .chain(self.processing.keys())
            .chain(self.waiting_by_key.keys())
            .collect();
        keys.len() + self.limiter.tracked()
    }
}

#[cfg(test)]
mod tests {
    use super::super::limiter::LimiterOptions;
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// A queue driven by a script; the only place that knows the API.
    struct Script {
        core: Core<&'static str>,
        now: Instant,
    }

    impl Script {
        fn new() -> Self {
            Self {
                core: Core::new(Limiter::new(LimiterOptions {
                    base: MS(5),
                    max: Duration::from_secs(1000),
                    bucket: None,
                })),
                now: Instant::now(),
            }
        }
        fn add(&mut self, key: &'static str) -> &mut Self {
            self.core.add(key, self.now);
            self
        }
        fn after(&mut self, key: &'static str, ms: u64) -> &mut Self {
            self.core.add_after(key, MS(ms), self.now);
            self
        }
        fn pass(&mut self, ms: u64) -> &mut Self {
            self.now += MS(ms);
            self
        }
        #[track_caller]
        fn pops(&mut self, expect: &[&'static str]) -> &mut Self {
            let mut got = Vec::new();
            while let Pop::Ready { key, .. } = self.core.pop(self.now) {
                got.push(key);
            }
            assert_eq!(got, expect);
            self
        }
        fn done(&mut self, key: &'static str) -> &mut Self {
            self.core.done(&key, self.now);
            self
        }
    }

    // TestBasic, TestCollapse (util/workqueue/queue_test.go)
    #[test]
    fn a_key_added_twice_is_handed_out_once() {
        Script::new().add("a").add("b").add("a").pops(&["a", "b"]);
    }

    // TestAddWhileProcessing, TestCollapseWhileProcessing
    #[test]
    fn a_key_added_while_processing_is_handed_out_after_done_and_only_once() {
        Script::new()
            .add("a")
            .pops(&["a"])
            .add("a")
            .add("a")
            .pops(&[])
            .done("a")
            .pops(&["a"])
            .done("a")
            .pops(&[]);
    }

    // TestReinsert
    #[test]
    fn a_key_added_again_after_done_is_new_work() {
        Script::new()
            .add("a")
            .pops(&["a"])
            .done("a")
            .add("a")
            .pops(&["a"]);
    }

    // TestLen
    #[test]
    fn the_length_counts_what_is_ready() {
        let mut script = Script::new();
        script.add("a").add("b").after("c", 10);
        assert_eq!((script.core.len(), script.core.waiting()), (2, 1));
    }

    // TestGarbageCollection
    #[test]
    fn a_finished_key_leaves_nothing_behind() {
        let mut script = Script::new();
        script
            .add("a")
            .after("b", 5)
            .pass(5)
            .pops(&["a", "b"])
            .done("a")
            .done("b");
        script.core.add_rate_limited("c", script.now);
        script.pass(10).pops(&["c"]).done("c");
        script.core.forget(&"c");
        assert_eq!(script.core.held(), 0);
    }

    // TestSimpleQueue, TestAddTwoFireEarly (delaying_queue_test.go)
    #[test]
    fn delayed_keys_come_out_in_the_order_of_their_time_and_not_before() {
        Script::new()
            .after("late", 50)
            .after("soon", 20)
            .pass(19)
            .pops(&[])
            .pass(1)
            .pops(&["soon"])
            .pass(30)
            .pops(&["late"]);
    }

    // TestDeduping
    #[test]
    fn a_key_waiting_twice_fires_once_at_the_earlier_time() {
        Script::new()
            .after("a", 50)
            .after("a", 20)
            .after("a", 70)
            .pass(20)
            .pops(&["a"])
            .done("a")
            .pass(100)
            .pops(&[]);
    }

    // TestQueueDrainageUsingShutDownWithDrain
    #[test]
    fn a_drain_waits_for_the_key_in_hand() {
        let mut script = Script::new();
        script.add("a").add("b").pops(&["a", "b"]).done("a");
        script.core.begin_drain();
        assert!(!script.core.drained());
        script.done("b");
        assert!(script.core.drained());
    }

    // TestQueueDrainageUsingShutDownWithDrainWithDirtyItem
    #[test]
    fn a_drain_also_works_off_the_key_that_became_dirty_before_it() {
        let mut script = Script::new();
        script.add("a").pops(&["a"]).add("a");
        script.core.begin_drain();
        script.done("a");
        assert!(!script.core.drained());
        script.pops(&["a"]).done("a");
        assert!(script.core.drained());
    }

    // TestNoQueueDrainageUsingShutDown, TestForceQueueShutdownUsingShutDown
    #[test]
    fn a_forced_shutdown_ends_a_drain() {
        let mut script = Script::new();
        script.add("a").pops(&["a"]);
        script.core.begin_drain();
        script.core.shut_down();
        assert!(script.core.drained());
    }

    #[test]
    fn shutdown_refuses_adds_but_hands_out_what_is_queued() {
        let mut script = Script::new();
        script.add("a").after("delayed", 5);
        script.core.shut_down();
        script.add("late").pass(10).pops(&["a"]);
        assert_eq!(script.core.pop(script.now), Pop::Closed);
    }

    // TestRateLimitingQueue
    #[test]
    fn failures_wait_longer_each_time_until_forgotten() {
        let mut script = Script::new();
        let mut waits = Vec::new();
        for _ in 0..3 {
            let wait = script.core.add_rate_limited("a", script.now);
            waits.push(wait.as_millis());
            script.now += wait;
            script.pops(&["a"]).done("a");
        }
        script.core.forget(&"a");
        waits.push(script.core.add_rate_limited("a", script.now).as_millis());
        assert_eq!(waits, [5, 10, 20, 5]);
    }

    #[test]
    fn the_core_agrees_with_a_model_of_sets() {
        let mut rng = fastrand::Rng::with_seed(42);
        let mut script = Script::new();
        let keys = ["a", "b", "c", "d"];
        let mut wanted: HashSet<&str> = HashSet::new();
        let mut working: HashSet<&str> = HashSet::new();
        for _ in 0..10_000 {
            let key = keys[rng.usize(..keys.len())];
            match rng.u8(..3) {
                0 => {
                    wanted.insert(key);
                    script.add(key);
                }
                1 => match script.core.pop(script.now) {
                    Pop::Ready { key, .. } => {
                        assert!(wanted.remove(key), "{key} was not wanted");
                        assert!(working.insert(key), "{key} is in two hands");
                    }
                    _ => assert!(wanted.is_subset(&working), "{wanted:?} withheld"),
                },
                _ => {
                    working.remove(key);
                    script.done(key);
                }
            }
        }
    }
}
