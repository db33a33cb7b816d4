//! Watches what the manifests brought and shows each change: kind, name, state, revision, trace.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde_json::Value;
use setpoint_base::{TaskGroup, TraceContext};
use tokio::sync::{mpsc, oneshot};

use super::apply::Resource;
use super::summary::{self, Summary};
use super::terminal::{Change, Line, Terminal, What};
use crate::loopback::Loopback;

/// Changes that may wait to be shown; the watches stop reading while there are more.
const CHANGES_MAX: usize = 256;
/// Objects whose last state is kept; changes of others are shown as if they were new.
const OBJECTS_MAX: usize = 10_000;
/// How long applying waits for a watch to open.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// The wait before a watch that ended is opened again.
const REOPEN: Duration = Duration::from_millis(500);

/// One object, for people: `Site`, `default/hello`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Subject {
    pub(crate) kind: String,
    pub(crate) name: String,
}

impl Subject {
    pub(crate) fn new(kind: &str, namespace: &str, name: &str) -> Self {
        let name = if namespace.is_empty() {
            name.to_owned()
        } else {
            format!("{namespace}/{name}")
        };
        Self {
            kind: kind.to_owned(),
            name,
        }
    }
}

/// Every expected object reported its state; where they can be reached, by subject.
pub(crate) type Converged = BTreeMap<Subject, String>;

/// A handle to the view. Watches are opened before anything is written, so that every write is seen as it happens,
/// with the trace it belongs to.
pub(crate) struct View {
    api: Loopback,
    tasks: TaskGroup,
    inbox: mpsc::Sender<Message>,
    followed: BTreeSet<String>,
}

/// What the view's task is told.
enum Message {
    Expect(Subject),
    /// It is stored with this revision: only what is reported of it from then on counts.
    Applied(Subject, u64),
    /// It could not be applied: nobody waits for it any more.
    Forget(Subject),
    /// Nothing more will be expected; the answer comes when everything has converged.
    Complete(oneshot::Sender<Converged>),
    Seen(Seen),
}

impl View {
    /// Starts the view; `since` is the revision before anything was applied: older objects were found, not added.
    pub(crate) async fn start(api: &Loopback, terminal: Terminal, tasks: &TaskGroup, since: u64) -> Self {
        let (inbox, queue) = mpsc::channel(CHANGES_MAX);
        let stop = tasks.stop().clone();
        let state = State::new(since);
        tasks.spawn(async move {
            stop.run_until_cancelled(run(state, queue, terminal)).await;
        });
        let view = Self {
            api: api.clone(),
            tasks: tasks.clone(),
            inbox,
            followed: BTreeSet::new(),
        };
        view.open(None, "/api/v1/events".to_owned()).await;
        view
    }

    /// Follows a resource from now on; returns once its watch is open.
    pub(crate) async fn follow(&mut self, resource: &Resource) {
        let path = resource.path();
        if self.followed.insert(path.clone()) {
            self.open(Some(resource.clone()), path).await;
        }
    }

    /// The object is about to be applied.
    pub(crate) async fn expect(&self, subject: Subject) {
        self.tell(Message::Expect(subject)).await;
    }

    /// The object is stored as its manifest says since this revision.
    pub(crate) async fn applied(&self, subject: Subject, revision: u64) {
        self.tell(Message::Applied(subject, revision)).await;
    }

    /// The object could not be applied.
    pub(crate) async fn forget(&self, subject: Subject) {
        self.tell(Message::Forget(subject)).await;
    }

    /// Everything is applied: the receiver gets an answer when all of it has converged.
    pub(crate) async fn complete(&self) -> oneshot::Receiver<Converged> {
        let (done, converged) = oneshot::channel();
        self.tell(Message::Complete(done)).await;
        converged
    }

    async fn tell(&self, message: Message) {
        // Fails only when the view has stopped, at the end of the program.
        let _ = self.inbox.send(message).await;
    }

    async fn open(&self, resource: Option<Resource>, path: String) {
        let (opened, open) = oneshot::channel();
        let (api, inbox, stop) = (self.api.clone(), self.inbox.clone(), self.tasks.stop().clone());
        self.tasks.spawn(async move {
            stop.run_until_cancelled(follow(resource, &path, &api, &inbox, opened))
                .await;
        });
        // A watch that does not open is tried again and again; the project must not wait for it.
        let _ = tokio::time::timeout(OPEN_TIMEOUT, open).await;
    }
}

/// One watch line.
struct Seen {
    /// `None` for an Event.
    resource: Option<Resource>,
    line: Value,
    /// Whether the line is part of the picture at the start of the watch.
    initial: bool,
}

/// Watches one resource for ever: each time from the present picture on, which repeats nothing that the view knows.
async fn follow(
    resource: Option<Resource>,
    path: &str,
    api: &Loopback,
    inbox: &mpsc::Sender<Message>,
    opened: oneshot::Sender<()>,
) {
    let mut opened = Some(opened);
    let path = format!(
        "{path}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    loop {
        match api.watch(&path).await {
            Ok(mut lines) => {
                let mut initial = true;
                while let Some(line) = lines.next().await {
                    match line["type"].as_str() {
                        Some("BOOKMARK") => {
                            initial = false;
                            if let Some(opened) = opened.take() {
                                // Nobody waits when it took too long.
                                let _ = opened.send(());
                            }
                        }
                        Some("ERROR") | None => break,
                        Some(_) => {
                            let seen = Seen {
                                resource: resource.clone(),
                                line,
                                initial,
                            };
                            if inbox.send(Message::Seen(seen)).await.is_err() {
                                return;
                            }
                        }
                    }
                }
            }
            Err(refusal) => tracing::debug!(%path, %refusal, "open a watch"),
        }
        tokio::time::sleep(REOPEN).await;
    }
}

async fn run(mut state: State, mut queue: mpsc::Receiver<Message>, terminal: Terminal) {
    while let Some(message) = queue.recv().await {
        match message {
            Message::Expect(subject) => {
                state.pending.insert(subject.clone(), None);
                state.expected.insert(subject);
            }
            Message::Applied(subject, revision) => state.applied(&subject, revision),
            Message::Forget(subject) => {
                state.pending.remove(&subject);
                state.expected.remove(&subject);
            }
            Message::Complete(done) => state.done = Some(done),
            Message::Seen(seen) => {
                if let Some(resource) = &seen.resource {
                    state.kinds.insert(resource.kind.clone());
                }
                if let Some(change) = state.take(&seen) {
                    terminal.show(Line::Change(change)).await;
                }
            }
        }
        if state.pending.is_empty()
            && let Some(done) = state.done.take()
        {
            // Nobody listens any more when `up` is stopping.
            let _ = done.send(state.urls.clone());
        }
    }
}

struct State {
    since: u64,
    /// The kinds that are followed.
    kinds: BTreeSet<String>,
    /// The objects of the manifests.
    expected: BTreeSet<Subject>,
    /// Those that have not converged yet, with the revision since which they are as the manifest says; `None` while
    /// they are being applied.
    pending: BTreeMap<Subject, Option<u64>>,
    /// The revision and state last shown.
    shown: HashMap<Subject, (u64, Summary)>,
    /// Those whose last state shown is settled.
    settled: BTreeSet<Subject>,
    urls: Converged,
    done: Option<oneshot::Sender<Converged>>,
}

impl State {
    fn new(since: u64) -> Self {
        Self {
            since,
            kinds: BTreeSet::new(),
            expected: BTreeSet::new(),
            pending: BTreeMap::new(),
            shown: HashMap::new(),
            settled: BTreeSet::new(),
            urls: BTreeMap::new(),
            done: None,
        }
    }

    /// Notes since when an object is as its manifest says. What was seen before may be about an older specification,
    /// which somebody had already reacted to.
    fn applied(&mut self, subject: &Subject, revision: u64) {
        if let Some(since) = self.pending.get_mut(subject) {
            *since = Some(revision);
            self.settle(subject);
        }
    }

    /// Nobody waits any more for an object whose newest state is settled, and is newer than its manifest.
    fn settle(&mut self, subject: &Subject) {
        let (Some(Some(since)), Some((shown, summary))) =
            (self.pending.get(subject), self.shown.get(subject))
        else {
            return;
        };
        if shown >= since && self.settled.contains(subject) {
            if let Some(url) = &summary.url {
                self.urls.insert(subject.clone(), url.clone());
            }
            self.pending.remove(subject);
        }
    }

    /// The line to show, if any.
    fn take(&mut self, seen: &Seen) -> Option<Change> {
        let object = &seen.line["object"];
        let trace = seen.line["traceparent"]
            .as_str()
            .and_then(|text| text.parse::<TraceContext>().ok());
        let trace = trace.map(|trace| trace.trace_id_hex());
        let Some(resource) = &seen.resource else {
            return self.event(object, trace);
        };
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let subject = Subject::new(&resource.kind, text("namespace"), text("name"));
        let expected = self.expected.contains(&subject);
        if !expected && !resource.base.starts_with("/apis/") {
            return None;
        }
        let revision = text("resourceVersion").parse().unwrap_or_default();
        let summary = summary::of(object);
        let before = self.shown.get(&subject);
        let what = match (seen.line["type"].as_str(), before) {
            (Some("DELETED"), _) => What::Deleted,
            (_, Some((shown, _))) if *shown >= revision => return None,
            (_, Some(_)) => What::Changed,
            (_, None) if seen.initial && revision <= self.since => What::Found,
            (_, None) => What::Added,
        };
        let state = match what {
            What::Deleted => "Deleted".to_owned(),
            _ if summary.state.is_empty() && resource.status => "Pending".to_owned(),
            _ if summary.state.is_empty() => "Stored".to_owned(),
            _ => summary.state.clone(),
        };
        let settled =
            what != What::Deleted && summary.observed && (!resource.status || !summary.state.is_empty());
        let change = Change {
            what,
            kind: subject.kind.clone(),
            name: subject.name.clone(),
            state,
            message: summary.message.clone().filter(|_| what != What::Deleted),
            revision,
            trace,
        };
        if what == What::Deleted {
            self.shown.remove(&subject);
        } else if self.shown.len() < OBJECTS_MAX {
            self.shown.insert(subject.clone(), (revision, summary));
        }
        if settled && expected {
            self.settled.insert(subject.clone());
        } else {
            self.settled.remove(&subject);
        }
        self.settle(&subject);
        Some(change)
    }

    /// A warning about an object of the project, once for each time it was written.
    fn event(&mut self, object: &Value, trace: Option<String>) -> Option<Change> {
        let involved = &object["involvedObject"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let kind = text(&involved["kind"]);
        let ours = self.kinds.contains(&kind);
        let revision = object["metadata"]["resourceVersion"].as_str()?.parse().ok()?;
        if !ours || object["type"] != "Warning" || revision <= self.since {
            return None;
        }
        let name = text(&object["metadata"]["name"]);
        let subject = Subject::new("Event", &text(&object["metadata"]["namespace"]), &name);
        if self
            .shown
            .get(&subject)
            .is_some_and(|(shown, _)| *shown >= revision)
        {
            return None;
        }
        if self.shown.len() < OBJECTS_MAX {
            self.shown.insert(subject, (revision, Summary::default()));
        }
        let about = Subject::new(&kind, &text(&involved["namespace"]), &text(&involved["name"]));
        Some(Change {
            what: What::Changed,
            kind: about.kind,
            name: about.name,
            state: "Warning".to_owned(),
            message: Some(format!(
                "{}: {}",
                text(&object["reason"]),
                text(&object["message"])
            )),
            revision,
            trace,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn site() -> Resource {
        Resource {
            base: "/apis/demo/v1".to_owned(),
            plural: "sites".to_owned(),
            kind: "Site".to_owned(),
            namespaced: true,
            status: true,
        }
    }

    fn state() -> State {
        let mut state = State::new(10);
        state.kinds.insert("Site".to_owned());
        let subject = Subject::new("Site", "default", "a");
        state.pending.insert(subject.clone(), Some(0));
        state.expected.insert(subject);
        state
    }

    fn seen(kind: &str, revision: u64, status: &Value, initial: bool) -> Seen {
        let metadata = json!({"name": "a", "namespace": "default", "resourceVersion": revision.to_string(), "generation": 1});
        Seen {
            resource: Some(site()),
            line: json!({"type": kind, "object": {"metadata": metadata, "status": status}}),
            initial,
        }
    }

    #[test]
    fn an_object_is_found_or_added_then_changed_then_deleted() {
        let mut state = state();
        for (line, expected) in [
            (
                seen("ADDED", 5, &json!({}), true),
                Some((What::Found, "Pending", false)),
            ),
            (seen("ADDED", 5, &json!({}), true), None),
            (
                seen(
                    "MODIFIED",
                    11,
                    &json!({"phase": "Serving", "observedGeneration": 0}),
                    false,
                ),
                Some((What::Changed, "Serving", false)),
            ),
            (
                seen(
                    "MODIFIED",
                    12,
                    &json!({"phase": "Serving", "observedGeneration": 1, "url": "u"}),
                    false,
                ),
                Some((What::Changed, "Serving", true)),
            ),
            (
                seen("DELETED", 13, &json!({}), false),
                Some((What::Deleted, "Deleted", false)),
            ),
            (
                seen("ADDED", 14, &json!({}), false),
                Some((What::Added, "Pending", false)),
            ),
        ] {
            let before = state.pending.len();
            let taken = state.take(&line);
            let settled = state.pending.len() < before;
            let taken = taken
                .as_ref()
                .map(|change| (change.what, change.state.as_str(), settled));
            assert_eq!(taken, expected, "{}", line.line);
        }
        assert_eq!(state.urls[&Subject::new("Site", "default", "a")], "u");
    }

    #[test]
    fn a_changed_manifest_has_converged_only_after_its_new_specification_was_observed() {
        let serving = |generation: u64| json!({"phase": "Serving", "observedGeneration": generation});
        let subject = Subject::new("Site", "default", "a");
        let mut state = state();
        state.pending.insert(subject.clone(), None);
        // The picture at the start is of the old specification, settled long ago.
        state.take(&seen("ADDED", 5, &serving(1), true));
        assert!(!state.pending.is_empty(), "it is still being applied");
        state.applied(&subject, 12);
        assert!(!state.pending.is_empty(), "what was seen is older");
        let mut changed = seen("MODIFIED", 12, &serving(1), false);
        changed.line["object"]["metadata"]["generation"] = json!(2);
        state.take(&changed);
        assert!(!state.pending.is_empty(), "nobody has reacted");
        changed.line["object"]["metadata"]["resourceVersion"] = json!("13");
        changed.line["object"]["status"] = serving(2);
        state.take(&changed);
        assert!(state.pending.is_empty());
    }

    #[test]
    fn an_unchanged_manifest_converges_with_what_was_seen_before() {
        let mut state = state();
        let subject = Subject::new("Site", "default", "a");
        state.pending.insert(subject.clone(), None);
        state.take(&seen(
            "ADDED",
            5,
            &json!({"phase": "Serving", "observedGeneration": 1}),
            true,
        ));
        state.applied(&subject, 5);
        assert!(state.pending.is_empty());
    }

    #[test]
    fn only_warnings_about_our_kinds_are_shown_and_each_once() {
        let mut state = state();
        let event = |kind: &str, level: &str, revision: u64| {
            json!({
                "metadata": {"name": "e", "namespace": "default", "resourceVersion": revision.to_string()},
                "involvedObject": {"kind": kind, "name": "a", "namespace": "default"},
                "type": level, "reason": "PortTaken", "message": "8080"
            })
        };
        assert_eq!(state.event(&event("Pod", "Warning", 20), None), None);
        assert_eq!(state.event(&event("Site", "Normal", 20), None), None);
        assert_eq!(state.event(&event("Site", "Warning", 9), None), None);
        let shown = state.event(&event("Site", "Warning", 20), None).unwrap();
        assert_eq!(shown.message.as_deref(), Some("PortTaken: 8080"));
        assert_eq!(state.event(&event("Site", "Warning", 20), None), None);
        assert!(state.event(&event("Site", "Warning", 21), None).is_some());
    }
}
