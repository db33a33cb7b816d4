//! Watches what the manifests brought and shows each change: kind, name, state, revision, trace.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde_json::Value;
use setpoint_base::{Stop, TaskGroup, TraceContext};
use tokio::sync::{mpsc, oneshot};

use super::apply::Resource;
use super::summary::{self, Summary};
use super::terminal::{Change, Line, Terminal, What};
use crate::loopback::Loopback;

/// Changes that may wait to be shown; the watches stop reading while there are more.
const CHANGES_MAX: usize = 256;
/// Objects whose last state is kept; changes of others are shown as if they were new.
const OBJECTS_MAX: usize = 10_000;
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

/// What the view shows and waits for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    /// The resources to watch.
    pub(crate) resources: BTreeMap<String, Resource>,
    /// The objects of the manifests; convergence means all of them.
    pub(crate) expected: BTreeSet<Subject>,
    /// The revision before anything was applied: older objects were found, not added.
    pub(crate) since: u64,
}

/// Every expected object reported its state; where they can be reached, by subject.
pub(crate) type Converged = BTreeMap<Subject, String>;

/// Starts to watch and show. The receiver gets one answer, when everything expected has converged.
pub(crate) fn start(
    scope: Scope,
    api: &Loopback,
    terminal: Terminal,
    tasks: &TaskGroup,
) -> oneshot::Receiver<Converged> {
    let (changes, queue) = mpsc::channel(CHANGES_MAX);
    let (done, converged) = oneshot::channel();
    let mut paths: Vec<(Option<Resource>, String)> = scope
        .resources
        .values()
        .map(|resource| (Some(resource.clone()), resource.path()))
        .collect();
    paths.push((None, "/api/v1/events".to_owned()));
    for (resource, path) in paths {
        let (api, changes, stop) = (api.clone(), changes.clone(), tasks.stop().clone());
        tasks.spawn(async move {
            stop.run_until_cancelled(follow(resource, &path, &api, &changes))
                .await;
        });
    }
    let stop: Stop = tasks.stop().clone();
    let view = View {
        scope,
        terminal,
        shown: HashMap::new(),
        settled: BTreeMap::new(),
        done: Some(done),
    };
    tasks.spawn(async move {
        stop.run_until_cancelled(view.run(queue)).await;
    });
    converged
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
async fn follow(resource: Option<Resource>, path: &str, api: &Loopback, changes: &mpsc::Sender<Seen>) {
    let path = format!(
        "{path}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    loop {
        match api.watch(&path).await {
            Ok(mut lines) => {
                let mut initial = true;
                while let Some(line) = lines.next().await {
                    match line["type"].as_str() {
                        Some("BOOKMARK") => initial = false,
                        Some("ERROR") | None => break,
                        Some(_) => {
                            let seen = Seen {
                                resource: resource.clone(),
                                line,
                                initial,
                            };
                            if changes.send(seen).await.is_err() {
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

struct View {
    scope: Scope,
    terminal: Terminal,
    /// The revision and state last shown.
    shown: HashMap<Subject, (u64, Summary)>,
    settled: Converged,
    done: Option<oneshot::Sender<Converged>>,
}

impl View {
    async fn run(mut self, mut queue: mpsc::Receiver<Seen>) {
        let mut pending = self.scope.expected.clone();
        loop {
            if pending.is_empty()
                && let Some(done) = self.done.take()
            {
                // Nobody listens any more when `up` is stopping.
                let _ = done.send(self.settled.clone());
            }
            let Some(seen) = queue.recv().await else { return };
            let Some((change, settled)) = self.take(&seen) else {
                continue;
            };
            if let Some(subject) = settled {
                pending.remove(&subject);
            }
            if let Some(change) = change {
                self.terminal.show(Line::Change(change)).await;
            }
        }
    }

    /// The line to show, and the subject when it has settled.
    fn take(&mut self, seen: &Seen) -> Option<(Option<Change>, Option<Subject>)> {
        let object = &seen.line["object"];
        let trace = seen.line["traceparent"]
            .as_str()
            .and_then(|text| text.parse::<TraceContext>().ok());
        let trace = trace.map(|trace| trace.trace_id_hex());
        let Some(resource) = &seen.resource else {
            return Some((Some(self.event(object, trace)?), None));
        };
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let subject = Subject::new(&resource.kind, text("namespace"), text("name"));
        let expected = self.scope.expected.contains(&subject);
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
            (_, None) if seen.initial && revision <= self.scope.since => What::Found,
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
        if let (true, true, Some(url)) = (settled, expected, &summary.url) {
            self.settled.insert(subject.clone(), url.clone());
        }
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
        Some((Some(change), settled.then_some(subject)))
    }

    /// A warning about an object of the project, once for each time it was written.
    fn event(&mut self, object: &Value, trace: Option<String>) -> Option<Change> {
        let involved = &object["involvedObject"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let kind = text(&involved["kind"]);
        let ours = self
            .scope
            .resources
            .values()
            .any(|resource| resource.kind == kind);
        let revision = object["metadata"]["resourceVersion"].as_str()?.parse().ok()?;
        if !ours || object["type"] != "Warning" || revision <= self.scope.since {
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

    fn view() -> View {
        let (terminal, _) = Terminal::captured();
        let mut scope = Scope {
            since: 10,
            ..Scope::default()
        };
        scope.resources.insert("s".to_owned(), site());
        scope.expected.insert(Subject::new("Site", "default", "a"));
        View {
            scope,
            terminal,
            shown: HashMap::new(),
            settled: BTreeMap::new(),
            done: None,
        }
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
        let mut view = view();
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
            let taken = view.take(&line);
            let taken = taken.map(|(change, settled)| (change.unwrap(), settled.is_some()));
            let taken = taken
                .as_ref()
                .map(|(change, settled)| (change.what, change.state.as_str(), *settled));
            assert_eq!(taken, expected, "{}", line.line);
        }
        assert_eq!(view.settled[&Subject::new("Site", "default", "a")], "u");
    }

    #[test]
    fn only_warnings_about_our_kinds_are_shown_and_each_once() {
        let mut view = view();
        let event = |kind: &str, level: &str, revision: u64| {
            json!({
                "metadata": {"name": "e", "namespace": "default", "resourceVersion": revision.to_string()},
                "involvedObject": {"kind": kind, "name": "a", "namespace": "default"},
                "type": level, "reason": "PortTaken", "message": "8080"
            })
        };
        assert_eq!(view.event(&event("Pod", "Warning", 20), None), None);
        assert_eq!(view.event(&event("Site", "Normal", 20), None), None);
        assert_eq!(view.event(&event("Site", "Warning", 9), None), None);
        let shown = view.event(&event("Site", "Warning", 20), None).unwrap();
        assert_eq!(shown.message.as_deref(), Some("PortTaken: 8080"));
        assert_eq!(view.event(&event("Site", "Warning", 20), None), None);
        assert!(view.event(&event("Site", "Warning", 21), None).is_some());
    }
}
