//! The list-and-watch loop as a state machine: what to ask the server next, and what its answers mean.
//!
//! It does no I/O. A driver asks [`Core::next`], does what it says, and reports; the effects go to the
//! delta queue. Behaviour of client-go `tools/cache/reflector.go`:
//!
//! ```text
//!            ┌────────────── Wait (backoff) ◄───────────────┐ failure, short watch, 410 in a watch
//!            ▼                                              │
//! start ─► WatchList ─ bookmark: Replace ─► streaming ─ ended ─► Watch ─► streaming ─ …
//!            │ refused for good
//!            ▼
//!          List, page by page ─ last page: Replace ─► Watch ─► streaming ─ …
//! ```

use std::mem;
use std::time::Duration;

use setpoint_base::{Backoff, BackoffPolicy};
use tokio::time::Instant;

use crate::client::Failure;

/// A backoff that has not been needed for this long starts again at its base.
const CALM: Duration = Duration::from_secs(120);
/// A watch shorter than this without any event is a failure.
const SHORT_WATCH: Duration = Duration::from_secs(1);

/// Settings of a reflector.
#[derive(Clone, Debug)]
pub struct ReflectorOptions {
    /// Ask for a watch-list first. Default true; a server that refuses is listed.
    pub watch_list: bool,
    /// Objects in one page of a list. Default 500.
    pub page_size: u32,
    /// Pages are also used for lists that a server's watch cache could answer in one piece. Default false.
    pub always_page: bool,
    /// The server ends a watch after a random time between this and twice this. Default and least 5 min.
    pub watch_timeout_min: Duration,
    /// Waits after failures.
    pub backoff: BackoffPolicy,
    /// How long 500s in a watch are answered by watching again instead of listing. Default 0.
    pub internal_error_retry: Duration,
    /// Seed of the jitter.
    pub seed: u64,
}

impl Default for ReflectorOptions {
    fn default() -> Self {
        Self {
            watch_list: true,
            page_size: 500,
            always_page: false,
            watch_timeout_min: Duration::from_secs(300),
            backoff: BackoffPolicy::REFLECTOR,
            internal_error_retry: Duration::ZERO,
            seed: 0,
        }
    }
}

/// What the driver shall do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Wait, then ask again.
    Wait(Duration),
    /// Ask for a list; report with [`Core::listed`] or [`Core::list_failed`].
    List {
        /// `None` for the newest, `Some(0)` for whatever is at hand.
        resource_version: Option<u64>,
        /// Page size, 0 for everything.
        limit: u32,
        /// Where the last page ended, or empty.
        continue_token: String,
    },
    /// Open a watch; report with [`Core::watch_failed`], or [`Core::watch_opened`] and what follows.
    Watch {
        /// Changes after this; with `initial` not older than this.
        resource_version: Option<u64>,
        /// Ask for the initial events (watch-list).
        initial: bool,
        /// How long the server keeps it.
        timeout: Duration,
    },
}

/// One event of a watch, as far as the machine looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input<O> {
    /// ADDED.
    Added(O, u64),
    /// MODIFIED.
    Modified(O, u64),
    /// DELETED.
    Deleted(O, u64),
    /// BOOKMARK; the flag is the end of the initial events.
    Bookmark(u64, bool),
}

/// What the store shall do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect<O> {
    /// An object is new.
    Add(O),
    /// An object changed.
    Update(O),
    /// An object is gone.
    Delete(O),
    /// This is everything.
    Replace {
        /// As of this version.
        resource_version: u64,
        /// In the order received.
        objects: Vec<O>,
    },
    /// Nothing else happened up to this version.
    Bookmark(u64),
}

#[derive(Debug)]
enum State<O> {
    /// About to begin a cycle.
    Begin,
    /// Waiting, then `then`.
    Backoff { wait: Duration, then: Then },
    /// About to ask for, or reading, the initial events. Deleted ones leave the map again.
    WatchList {
        gathered: Gathered<O>,
        since: Instant,
        events: u64,
    },
    /// Listing; the pages so far.
    List {
        objects: Vec<O>,
        continue_token: String,
        full: bool,
    },
    /// About to watch, or watching.
    Watch { since: Instant, events: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Begin,
    WatchList,
    Watch,
}

/// Initial events by name, in order of arrival.
#[derive(Debug)]
struct Gathered<O> {
    objects: Vec<Option<O>>,
    places: std::collections::HashMap<crate::key::ObjectKey, usize>,
}

/// An object that has a name.
pub trait Named {
    /// Its key.
    fn key(&self) -> crate::key::ObjectKey;
}

impl Named for setpoint_apimachinery::Encoded {
    fn key(&self) -> crate::key::ObjectKey {
        crate::object::key_of(self)
    }
}

/// The machine.
#[derive(Debug)]
pub struct Core<O> {
    options: ReflectorOptions,
    state: State<O>,
    /// The newest version seen, 0 before the first.
    last: u64,
    /// The server refused `last` as expired or too new: the next list or watch-list asks for the newest.
    unavailable: bool,
    /// A list at version 0 came in pages: this server has no watch cache.
    paged: bool,
    /// This server does not do watch-lists.
    refused_watch_list: bool,
    backoff: Backoff,
    rng: fastrand::Rng,
    backed_off: Option<Instant>,
    /// The watch began without a version: its burst of additions is unordered.
    unordered: bool,
    internal_since: Option<(Instant, Instant)>,
}

impl<O: Named> Core<O> {
    /// A machine that has seen nothing.
    #[must_use]
    pub fn new(options: ReflectorOptions) -> Self {
        Self {
            backoff: Backoff::new(options.backoff, options.seed),
            rng: fastrand::Rng::with_seed(options.seed),
            options,
            state: State::Begin,
            last: 0,
            unavailable: false,
            paged: false,
            refused_watch_list: false,
            backed_off: None,
            unordered: false,
            internal_since: None,
        }
    }

    /// The newest version seen, 0 before the first.
    #[must_use]
    pub fn last_resource_version(&self) -> u64 {
        self.last
    }

    /// What to do now.
    pub fn next(&mut self, now: Instant) -> Action {
        match &mut self.state {
            State::Begin => {
                self.state = if self.options.watch_list && !self.refused_watch_list {
                    State::watch_list(now)
                } else {
                    State::list()
                };
                self.next(now)
            }
            State::Backoff { wait, then } => {
                let (wait, then) = (*wait, *then);
                self.state = match then {
                    Then::Begin => State::Begin,
                    Then::WatchList => State::watch_list(now),
                    Then::Watch => State::Watch {
                        since: now,
                        events: 0,
                    },
                };
                Action::Wait(wait)
            }
            State::WatchList { .. } => {
                let resource_version = (self.last != 0 && !self.unavailable).then_some(self.last);
                Action::Watch {
                    resource_version,
                    initial: true,
                    timeout: self.watch_timeout(),
                }
            }
            State::List {
                continue_token, full, ..
            } => {
                let (continue_token, full) = (continue_token.clone(), *full);
                let resource_version = self.list_version();
                let limit = if full { 0 } else { self.limit(resource_version) };
                Action::List {
                    resource_version: resource_version.filter(|_| continue_token.is_empty()),
                    limit,
                    continue_token,
                }
            }
            State::Watch { .. } => Action::Watch {
                resource_version: (self.last != 0).then_some(self.last),
                initial: false,
                timeout: self.watch_timeout(),
            },
        }
    }

    /// A page came. With the last page comes the effect.
    pub fn listed(
        &mut self,
        page: Vec<O>,
        resource_version: u64,
        continue_token: String,
        now: Instant,
    ) -> Option<Effect<O>> {
        let version_asked = self.list_version();
        let State::List {
            objects,
            continue_token: token,
            ..
        } = &mut self.state
        else {
            return None;
        };
        objects.extend(page);
        if !continue_token.is_empty() {
            self.paged |= version_asked == Some(0);
            *token = continue_token;
            return None;
        }
        let objects = mem::take(objects);
        self.replaced(resource_version, now);
        Some(Effect::Replace {
            resource_version,
            objects,
        })
    }

    /// A list failed.
    pub fn list_failed(&mut self, failure: Failure, now: Instant) {
        let State::List {
            continue_token, full, ..
        } = &self.state
        else {
            return;
        };
        let continued = !continue_token.is_empty();
        let (full, newest) = (*full, self.list_version().is_none());
        match failure {
            // The token is too old: one list in one piece, at the version that was asked for first.
            Failure::Expired if continued && !full => {
                self.state = State::List {
                    objects: Vec::new(),
                    continue_token: String::new(),
                    full: true,
                };
            }
            Failure::Expired | Failure::TooLarge if !newest => {
                self.unavailable = true;
                self.state = State::list();
            }
            _ => self.back_off(Then::Begin, now),
        }
    }

    /// The watch that [`Action::Watch`] asked for could not be opened.
    pub fn watch_failed(&mut self, failure: Failure, now: Instant) {
        let initial = matches!(self.state, State::WatchList { .. });
        match failure {
            Failure::ConnectionRefused | Failure::TooManyRequests => {
                self.back_off(if initial { Then::WatchList } else { Then::Watch }, now);
            }
            _ if initial => self.initial_failed(failure, now),
            _ => self.back_off(Then::Begin, now),
        }
    }

    /// The watch is open.
    pub fn watch_opened(&mut self, now: Instant) {
        match &mut self.state {
            State::WatchList { since, .. } => *since = now,
            State::Watch { since, events } => {
                self.unordered = self.last == 0;
                (*since, *events) = (now, 0);
            }
            _ => (),
        }
    }

    /// The watch delivered an event.
    pub fn event(&mut self, input: Input<O>, now: Instant) -> Option<Effect<O>> {
        if let State::WatchList { gathered, events, .. } = &mut self.state {
            *events += 1;
            let Input::Bookmark(version, true) = input else {
                gathered.take(input);
                return None;
            };
            let objects = gathered.finish();
            self.replaced(version, now);
            return Some(Effect::Replace {
                resource_version: version,
                objects,
            });
        }
        let State::Watch { events, .. } = &mut self.state else {
            return None;
        };
        *events += 1;
        let addition = matches!(input, Input::Added(..));
        let (effect, version) = match input {
            Input::Added(object, version) => (Effect::Add(object), version),
            Input::Modified(object, version) => (Effect::Update(object), version),
            Input::Deleted(object, version) => (Effect::Delete(object), version),
            Input::Bookmark(version, _) => (Effect::Bookmark(version), version),
        };
        self.unordered &= addition;
        if !self.unordered && version != 0 {
            self.last = version;
        }
        Some(effect)
    }

    /// The watch ended, by an error or by the server's choice.
    pub fn watch_ended(&mut self, failure: Option<Failure>, now: Instant) {
        let (initial, since, events) = match &self.state {
            State::WatchList { since, events, .. } => (true, *since, *events),
            State::Watch { since, events } => (false, *since, *events),
            _ => return,
        };
        let short = events == 0 && now.saturating_duration_since(since) < SHORT_WATCH;
        match failure {
            Some(Failure::TooManyRequests) => {
                self.back_off(if initial { Then::WatchList } else { Then::Watch }, now);
            }
            Some(failure) if initial => self.initial_failed(failure, now),
            // The server gave up before it had sent everything: not a reason to list.
            None if initial => self.back_off(Then::WatchList, now),
            Some(Failure::Internal) if self.may_retry_internal(now) => {
                self.state = State::Watch {
                    since: now,
                    events: 0,
                };
            }
            Some(_) => self.back_off(Then::Begin, now),
            None if short => self.back_off(Then::Begin, now),
            None => {
                self.state = State::Watch {
                    since: now,
                    events: 0,
                }
            }
        }
    }

    /// Whether the watch under way has not yet said that its initial events are complete.
    #[must_use]
    pub fn awaits_initial_events(&self) -> bool {
        matches!(self.state, State::WatchList { .. })
    }

    /// Whether the watch that ended just now was a very short one.
    #[must_use]
    pub fn is_short_watch(&self, now: Instant) -> bool {
        matches!(&self.state, State::Watch { since, events: 0 } if now.saturating_duration_since(*since) < SHORT_WATCH)
    }

    fn initial_failed(&mut self, failure: Failure, now: Instant) {
        match failure {
            Failure::Expired | Failure::TooLarge if !self.unavailable && self.last != 0 => {
                self.unavailable = true;
                self.state = State::watch_list(now);
            }
            // Repeated at "newest" and still refused: give the server time.
            Failure::Expired | Failure::TooLarge => self.back_off(Then::WatchList, now),
            _ => {
                // Nothing was ever gathered: most likely the server does not know the parameter.
                self.refused_watch_list |= self.last == 0;
                self.state = State::list();
            }
        }
    }

    fn replaced(&mut self, resource_version: u64, now: Instant) {
        self.last = resource_version;
        self.unavailable = false;
        self.state = match mem::replace(&mut self.state, State::Begin) {
            // The same stream goes on; what it brings next counts as events of it.
            State::WatchList { since, events, .. } => State::Watch { since, events },
            _ => State::Watch {
                since: now,
                events: 0,
            },
        };
        self.unordered = false;
    }

    fn back_off(&mut self, then: Then, now: Instant) {
        if self
            .backed_off
            .is_some_and(|at| now.saturating_duration_since(at) >= CALM)
        {
            self.backoff.reset();
        }
        let wait = self.backoff.next_wait();
        self.backed_off = Some(now + wait);
        self.state = State::Backoff { wait, then };
    }

    fn may_retry_internal(&mut self, now: Instant) -> bool {
        let (first, _) = match self.internal_since {
            Some((first, last)) if now.saturating_duration_since(last) < Duration::from_secs(60) => {
                (first, last)
            }
            _ => (now, now),
        };
        self.internal_since = Some((first, now));
        now.saturating_duration_since(first) < self.options.internal_error_retry
    }

    fn list_version(&self) -> Option<u64> {
        (!self.unavailable).then_some(self.last)
    }

    /// Pages keep a list off a server's watch cache, so they are used only where it cannot answer anyway.
    fn limit(&self, resource_version: Option<u64>) -> u32 {
        match resource_version {
            _ if self.options.always_page || self.paged => self.options.page_size,
            None | Some(0) => self.options.page_size,
            Some(_) => 0,
        }
    }

    fn watch_timeout(&mut self) -> Duration {
        let least = self.options.watch_timeout_min.max(Duration::from_secs(300));
        least.mul_f64(1.0 + self.rng.f64())
    }
}

impl<O> State<O> {
    fn watch_list(now: Instant) -> Self {
        let gathered = Gathered {
            objects: Vec::new(),
            places: std::collections::HashMap::new(),
        };
        Self::WatchList {
            gathered,
            since: now,
            events: 0,
        }
    }

    fn list() -> Self {
        Self::List {
            objects: Vec::new(),
            continue_token: String::new(),
            full: false,
        }
    }
}

impl<O: Named> Gathered<O> {
    fn take(&mut self, input: Input<O>) {
        match input {
            Input::Added(object, _) | Input::Modified(object, _) => {
                let next = self.objects.len();
                let place = *self.places.entry(object.key()).or_insert(next);
                if place == next {
                    self.objects.push(Some(object));
                } else {
                    self.objects[place] = Some(object);
                }
            }
            Input::Deleted(object, _) => {
                if let Some(place) = self.places.remove(&object.key()) {
                    self.objects[place] = None;
                }
            }
            Input::Bookmark(..) => (),
        }
    }

    fn finish(&mut self) -> Vec<O> {
        self.places.clear();
        mem::take(&mut self.objects).into_iter().flatten().collect()
    }
}
