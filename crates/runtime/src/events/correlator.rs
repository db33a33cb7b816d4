//! Which Events are new, which repeat one, and which are too many (client-go `events_cache.go`).

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use setpoint_apimachinery::Encoded;
use setpoint_base::TraceContext;
use tokio::time::Instant;

use super::EventKind;

/// Objects and messages remembered (client-go `maxLruCacheEntries`).
const REMEMBERED: usize = 4096;
/// Events of one object before the spam filter closes, and the time one more takes.
const SPAM_BURST: f64 = 25.0;
const SPAM_REFILL: Duration = Duration::from_secs(300);
/// Distinct messages of one reason within [`SIMILAR_WINDOW`] before they are combined.
const SIMILAR_MAX: usize = 10;
const SIMILAR_WINDOW: Duration = Duration::from_secs(600);

/// What stands for many similar messages, so that they share one Event (client-go's words).
const COMBINED: &str = "(combined from similar events)";

/// Something to be recorded.
#[derive(Clone, Debug)]
pub(super) struct Note {
    pub(super) regarding: Encoded,
    pub(super) kind: EventKind,
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) trace: Option<TraceContext>,
}

/// What to do with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Too many of this object.
    Drop,
    /// Write a new Event.
    New { message: String },
    /// Raise the count of the Event of this name.
    Repeat {
        name: String,
        count: u32,
        message: String,
    },
}

#[derive(Debug, Default)]
pub(super) struct Correlator {
    spam: Recent<String, Bucket>,
    similar: Recent<Group, Similar>,
    written: Recent<(Group, String), Written>,
}

/// Object, kind and reason.
type Group = (String, EventKind, String);

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

#[derive(Debug)]
struct Similar {
    messages: HashSet<String>,
    since: Instant,
}

#[derive(Clone, Debug)]
struct Written {
    name: String,
    count: u32,
}

impl Correlator {
    pub(super) fn judge(&mut self, note: &Note, now: Instant) -> Verdict {
        let message = self.combined(note, now);
        let bucket = self.spam.get_or(object_of(note), || Bucket {
            tokens: SPAM_BURST,
            at: now,
        });
        let earned = now.saturating_duration_since(bucket.at).as_secs_f64() / SPAM_REFILL.as_secs_f64();
        bucket.tokens = (bucket.tokens + earned).min(SPAM_BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return Verdict::Drop;
        }
        bucket.tokens -= 1.0;
        match self.written.get_mut(&(group_of(note), message.clone())) {
            Some(written) => Verdict::Repeat {
                name: written.name.clone(),
                count: written.count + 1,
                message,
            },
            None => Verdict::New { message },
        }
    }

    /// The Event judged last was written under this name.
    pub(super) fn written(&mut self, note: &Note, name: String) {
        let combined = self
            .similar
            .get_mut(&group_of(note))
            .is_some_and(|similar| similar.messages.len() >= SIMILAR_MAX);
        let message = if combined {
            COMBINED.to_owned()
        } else {
            note.message.clone()
        };
        let written = self.written.get_or((group_of(note), message), || Written {
            name: name.clone(),
            count: 0,
        });
        // A new name means that the old Event had expired.
        written.count = if written.name == name {
            written.count + 1
        } else {
            1
        };
        written.name = name;
    }

    /// The message, or the one that stands for many.
    fn combined(&mut self, note: &Note, now: Instant) -> String {
        let similar = self.similar.get_or(group_of(note), || Similar {
            messages: HashSet::new(),
            since: now,
        });
        if now.saturating_duration_since(similar.since) > SIMILAR_WINDOW {
            similar.messages.clear();
            similar.since = now;
        }
        if similar.messages.len() < SIMILAR_MAX {
            similar.messages.insert(note.message.clone());
        }
        if similar.messages.len() >= SIMILAR_MAX {
            COMBINED.to_owned()
        } else {
            note.message.clone()
        }
    }
}

fn object_of(note: &Note) -> String {
    let header = note.regarding.header();
    format!(
        "{}/{}/{}/{}",
        note.regarding.kind().unwrap_or_default(),
        header.namespace,
        header.name,
        header.uid
    )
}

fn group_of(note: &Note) -> Group {
    (object_of(note), note.kind, note.reason.clone())
}

/// A map that forgets what was added first.
#[derive(Debug)]
struct Recent<K, V> {
    entries: HashMap<K, V>,
    order: VecDeque<K>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
        }
    }
}

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key)
    }

    fn get_or(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        if !self.entries.contains_key(&key) {
            if self.entries.len() >= REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.entries.remove(&oldest);
            }
            self.order.push_back(key.clone());
        }
        self.entries.entry(key).or_insert_with(make)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn note(message: &str) -> Note {
        let body = br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"ns","uid":"u"}}"#;
        Note {
            regarding: Encoded::wire(Bytes::from_static(body), None).unwrap(),
            kind: EventKind::Normal,
            reason: "Scaled".to_owned(),
            message: message.to_owned(),
            trace: None,
        }
    }

    // TestEventCorrelator
    #[test]
    fn a_repeat_raises_the_count_of_the_event_that_is_there() {
        let (mut correlator, now) = (Correlator::default(), Instant::now());
        assert_eq!(
            correlator.judge(&note("m"), now),
            Verdict::New {
                message: "m".to_owned()
            }
        );
        correlator.written(&note("m"), "event-1".to_owned());
        for count in 2..4 {
            let verdict = correlator.judge(&note("m"), now);
            assert_eq!(
                verdict,
                Verdict::Repeat {
                    name: "event-1".to_owned(),
                    count,
                    message: "m".to_owned()
                }
            );
            correlator.written(&note("m"), "event-1".to_owned());
        }
    }

    // TestEventAggregatorByReasonFunc
    #[test]
    fn many_different_messages_of_one_reason_become_one_event() {
        let (mut correlator, now) = (Correlator::default(), Instant::now());
        let mut texts = Vec::new();
        for n in 0..12 {
            let note = note(&format!("try {n}"));
            match correlator.judge(&note, now) {
                Verdict::New { message } | Verdict::Repeat { message, .. } => texts.push(message),
                Verdict::Drop => panic!("dropped"),
            }
            correlator.written(&note, format!("event-{}", texts.len().min(10)));
        }
        assert_eq!(texts[8], "try 8");
        assert!(texts[9..].iter().all(|text| text.starts_with("(combined")));
    }

    // TestEventSpamFilter
    #[test]
    fn an_object_that_floods_is_cut_to_its_burst_and_then_one_every_five_minutes() {
        let (mut correlator, now) = (Correlator::default(), Instant::now());
        let mut admitted = |at| {
            (0..40)
                .filter(|_| correlator.judge(&note("m"), at) != Verdict::Drop)
                .count()
        };
        assert_eq!(admitted(now), 25);
        assert_eq!(admitted(now + SPAM_REFILL), 1);
    }
}
