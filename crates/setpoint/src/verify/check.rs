//! One watcher's log, checked as it comes, with memory for the keys and not for the history.
//!
//! | Guarantee | What is looked at |
//! |---|---|
//! | Ordered | revisions never decrease |
//! | Unique | no revision of a key twice |
//! | Reliable, Resumable | each writer's numbers come without a gap, up to the last one written |
//! | Atomic | a revision comes in one piece, with as many events as were written |
//! | Bookmarkable | a bookmark never goes back, and nothing at or below it comes later |
//! | PrevKV | the previous version, if given, is the one before |
//! | IsCreate | versions count up from the creation |
//!
//! Every write is one transaction: a few keys of its writer, and the writer's cursor, whose value is the number of the
//! write and how many keys go with it. That is what makes a loss countable without a list of all writes.

use std::collections::HashMap;

use bytes::Bytes;
use setpoint_store::client::{Resync, mvccpb};

use super::traffic::{Cursor, Layout};

/// How many breaches are kept word by word.
const EXAMPLES_MAX: usize = 8;

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    pub(crate) events: u64,
    pub(crate) revisions: u64,
    /// Writes that never came.
    pub(crate) lost: u64,
    /// Times something was missing.
    pub(crate) gaps: u64,
    /// Writes that came again.
    pub(crate) duplicated: u64,
    pub(crate) out_of_order: u64,
    /// Revisions that came in pieces, or not whole.
    pub(crate) torn: u64,
    /// Bookmarks that were wrong.
    pub(crate) bookmarks: u64,
    /// Previous versions that were wrong.
    pub(crate) prev_kv: u64,
    /// Versions that do not count up.
    pub(crate) versions: u64,
    /// Resyncs whose snapshot or deletes do not fit.
    pub(crate) resyncs_wrong: u64,
    /// Keys that differ in the end.
    pub(crate) state_wrong: u64,
    /// Writes that were told by a resync instead of by their events.
    pub(crate) told_by_resync: u64,
    pub(crate) examples: Vec<String>,
}

impl Findings {
    /// Whether a guarantee was broken.
    pub(crate) fn broken(&self) -> bool {
        [
            self.lost,
            self.duplicated,
            self.out_of_order,
            self.torn,
            self.bookmarks,
            self.prev_kv,
            self.versions,
            self.resyncs_wrong,
            self.state_wrong,
        ]
        .iter()
        .any(|count| *count > 0)
    }

    fn example(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(text());
        }
    }
}

/// The latest version of a key.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Version {
    revision: i64,
    version: i64,
    /// The writer's losses when it was seen: after another loss nobody knows what is right.
    losses: u64,
}

/// A writer as one watcher knows it.
#[derive(Clone, Copy, Debug, Default)]
struct Writer {
    number: u64,
    losses: u64,
}

/// The log of one watcher.
#[derive(Debug)]
pub(crate) struct Checker {
    layout: Layout,
    prev_kv: bool,
    writers: Vec<Writer>,
    known: HashMap<Bytes, Version>,
    last: i64,
    bookmark: i64,
    pub(crate) findings: Findings,
}

impl Checker {
    /// A watcher that starts before the first write.
    pub(crate) fn new(layout: Layout, prev_kv: bool) -> Self {
        Self {
            writers: vec![Writer::default(); layout.writers],
            layout,
            prev_kv,
            known: HashMap::new(),
            last: 0,
            bookmark: 0,
            findings: Findings::default(),
        }
    }

    /// The number of the last write of a writer that was seen.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.writers.iter().map(|writer| writer.number)
    }

    /// The last bookmark; 0 is none.
    pub(crate) fn bookmark(&self) -> i64 {
        self.bookmark
    }

    /// One answer; `each` gets when the writes in it were sent.
    pub(crate) fn batch(&mut self, events: &[mvccpb::Event], mut each: impl FnMut(&Cursor)) {
        let before = self.last;
        for group in events.chunk_by(|a, b| revision(a) == revision(b)) {
            let at = group.first().map_or(0, revision);
            self.findings.revisions += 1;
            self.findings.events += group.len() as u64;
            self.order(at, before, group);
            self.whole(at, group, &mut each);
            for event in group {
                self.version(at, event);
            }
            self.last = self.last.max(at);
        }
    }

    fn order(&mut self, at: i64, before: i64, group: &[mvccpb::Event]) {
        let last = self.last;
        if at < last {
            self.findings.out_of_order += 1;
            self.findings
                .example(|| format!("Ordered: revision {at} after {last}"));
        } else if at == before && !group.iter().any(|event| self.seen(at, event)) {
            self.findings.torn += 1;
            self.findings
                .example(|| format!("Atomic: revision {at} in two answers"));
        }
        if at <= self.bookmark {
            let bookmark = self.bookmark;
            self.findings.bookmarks += 1;
            self.findings
                .example(|| format!("Bookmarkable: revision {at} after the bookmark {bookmark}"));
        }
    }

    fn seen(&self, at: i64, event: &mvccpb::Event) -> bool {
        let kv = event.kv.as_ref();
        kv.and_then(|kv| self.known.get(&kv.key))
            .is_some_and(|known| known.revision >= at)
    }

    /// The write of this revision: in turn, and all of it.
    fn whole(&mut self, at: i64, group: &[mvccpb::Event], each: &mut impl FnMut(&Cursor)) {
        let cursors = group
            .iter()
            .filter_map(|event| self.layout.cursor(event.kv.as_ref()?));
        let Some(cursor) = cursors.last() else {
            self.findings.torn += 1;
            self.findings
                .example(|| format!("Atomic: revision {at} came without its number"));
            return;
        };
        if cursor.keys + 1 != group.len() {
            self.findings.torn += 1;
            let (wrote, came) = (cursor.keys + 1, group.len());
            self.findings
                .example(|| format!("Atomic: revision {at} has {came} events of {wrote}"));
        }
        let writer = &mut self.writers[cursor.writer];
        let expected = writer.number + 1;
        if cursor.number < expected {
            self.findings.duplicated += 1;
            self.findings.example(|| {
                format!(
                    "Unique: write {} of writer {} again, at revision {at}",
                    cursor.number, cursor.writer
                )
            });
            return;
        }
        if cursor.number > expected {
            writer.losses += 1;
            let missing = cursor.number - expected;
            self.findings.lost += missing;
            self.findings.gaps += 1;
            self.findings.example(|| {
                format!(
                    "Reliable: {missing} writes of writer {} missing before revision {at}",
                    cursor.writer
                )
            });
        }
        writer.number = cursor.number;
        each(&cursor);
    }

    /// The version of one key, and what it says was before.
    fn version(&mut self, at: i64, event: &mvccpb::Event) {
        let Some(kv) = &event.kv else { return };
        let Some(writer) = self.layout.writer(&kv.key) else {
            return;
        };
        let losses = self.writers[writer].losses;
        let known = self.known.get(&kv.key).copied();
        if known.is_some_and(|known| known.revision >= at) {
            // Said already: a duplicate, or out of order.
            return;
        }
        let certain = known.map_or(losses == 0, |known| known.losses == losses);
        if certain {
            self.before(at, event, known);
        }
        if event.r#type == mvccpb::event::EventType::Delete as i32 {
            self.known.remove(&kv.key);
            return;
        }
        let expected = known.map_or(1, |known| known.version + 1);
        if certain && kv.version != expected {
            self.findings.versions += 1;
            let version = kv.version;
            self.findings
                .example(|| format!("IsCreate: version {version} at revision {at}, not {expected}"));
        }
        let version = Version {
            revision: at,
            version: kv.version,
            losses,
        };
        if let Some(known) = self.known.get_mut(&kv.key) {
            *known = version;
        } else {
            self.known.insert(Bytes::copy_from_slice(&kv.key), version);
        }
    }

    fn before(&mut self, at: i64, event: &mvccpb::Event, known: Option<Version>) {
        let told = event.prev_kv.as_ref().map(|kv| kv.mod_revision);
        let expected = known.map(|known| known.revision);
        // None is allowed: the version may be compacted.
        if self.prev_kv && told.is_some() && told != expected {
            self.findings.prev_kv += 1;
            self.findings
                .example(|| format!("PrevKV: {told:?} before revision {at}, not {expected:?}"));
        }
    }

    /// Nothing up to `revision` is missing.
    pub(crate) fn progress(&mut self, revision: i64) {
        if revision < self.bookmark.max(self.last) {
            let (bookmark, last) = (self.bookmark, self.last);
            self.findings.bookmarks += 1;
            self.findings.example(|| {
                format!("Bookmarkable: {revision} after the bookmark {bookmark} and revision {last}")
            });
        }
        self.bookmark = self.bookmark.max(revision);
    }

    /// The range was read again.
    pub(crate) fn resync(&mut self, resync: &Resync) {
        let mut problems = Vec::new();
        if resync.revision < self.last.max(self.bookmark) {
            problems.push(format!("goes back from {} to {}", self.last, resync.revision));
        }
        let mut known = HashMap::with_capacity(resync.snapshot.len());
        let mut numbers: Vec<u64> = self.numbers().collect();
        for kv in &resync.snapshot {
            if let Some(cursor) = self.layout.cursor(kv) {
                if cursor.number < numbers[cursor.writer] {
                    problems.push(format!("has an older write of writer {}", cursor.writer));
                }
                self.findings.told_by_resync += cursor.number.saturating_sub(numbers[cursor.writer]);
                numbers[cursor.writer] = cursor.number;
            }
            let writer = self.layout.writer(&kv.key).unwrap_or(0);
            known.insert(
                Bytes::copy_from_slice(&kv.key),
                Version {
                    revision: kv.mod_revision,
                    version: kv.version,
                    losses: self.writers[writer].losses,
                },
            );
        }
        let mut gone: Vec<&Bytes> = self
            .known
            .keys()
            .filter(|key| !known.contains_key(*key))
            .collect();
        gone.sort();
        if !gone
            .iter()
            .copied()
            .eq(resync.deleted.iter().map(|gone| &gone.key))
        {
            problems.push(format!(
                "{} keys are gone, {} were told",
                gone.len(),
                resync.deleted.len()
            ));
        }
        self.known = known;
        for (writer, number) in self.writers.iter_mut().zip(numbers) {
            writer.number = number;
        }
        self.last = resync.revision;
        self.bookmark = resync.revision;
        self.findings.resyncs_wrong += u64::from(!problems.is_empty());
        for problem in problems {
            self.findings
                .example(|| format!("Resync: at {} {problem}", resync.revision));
        }
    }

    /// The end: what was written last, and what the store holds.
    pub(crate) fn finish(&mut self, written: &[u64], state: &HashMap<Bytes, i64>) {
        let mut behind = 0;
        for (writer, number) in self.writers.iter().zip(written) {
            behind += number.saturating_sub(writer.number);
        }
        if behind > 0 {
            self.findings.lost += behind;
            self.findings.gaps += 1;
            self.findings
                .example(|| format!("Reliable: the last {behind} writes never came"));
            return;
        }
        if self.findings.lost > 0 {
            return;
        }
        let same = |(key, version): (&Bytes, &Version)| state.get(key) == Some(&version.revision);
        let wrong = self.known.iter().filter(|known| !same(*known)).count()
            + state.keys().filter(|key| !self.known.contains_key(*key)).count();
        self.findings.state_wrong = wrong as u64;
        if wrong > 0 {
            self.findings
                .example(|| format!("Reliable: {wrong} keys differ from the store in the end"));
        }
    }
}

fn revision(event: &mvccpb::Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

#[cfg(test)]
mod tests;
