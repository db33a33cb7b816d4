//! A project folder on a plane: manifests applied, programs run, changes shown, until stopped.
//!
//! `project` reads the folder, `apply` (with `merge`) brings the manifests in, `supervisor` (with `policy`) runs the
//! programs, `view` (with `summary`) follows the objects, `terminal` writes the lines.

mod apply;
mod guard;
mod hints;
mod merge;
mod policy;
pub(crate) mod project;
mod summary;
mod supervisor;
pub(crate) mod terminal;
mod view;

use std::collections::BTreeMap;
use std::time::Duration;

use setpoint_base::{Stop, TaskGroup};
use tokio::time::Instant;

use crate::plane::{Plane, PlaneError};
use apply::{Applier, Outcome, Resource};
pub(crate) use guard::Groups;
use project::{Manifest, Project, Run};
use supervisor::Program;
use terminal::Terminal;
use view::{Subject, View};

/// How long to wait for everything to converge before the hints are shown anyway.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the project on the plane until `stop`, or until the plane fails; returns its error then.
pub(crate) async fn run(
    plane: &Plane,
    project: Project,
    terminal: Terminal,
    started: Instant,
    groups: &Groups,
    stop: &Stop,
) -> Option<PlaneError> {
    let tasks = TaskGroup::new(&Stop::new());
    let work = async {
        bring_up(plane, project, &terminal, started, groups, &tasks).await;
        std::future::pending::<()>().await;
    };
    let failure = tokio::select! {
        () = stop.cancelled() => None,
        error = plane.failed() => Some(error),
        () = work => None,
    };
    terminal.note("stopping").await;
    let left = tasks.shutdown(2 * supervisor::STOP_GRACE).await;
    if left > 0 {
        tracing::warn!(tasks = left, "programs or watches did not end in time");
    }
    failure
}

async fn bring_up(
    plane: &Plane,
    project: Project,
    terminal: &Terminal,
    started: Instant,
    groups: &Groups,
    tasks: &TaskGroup,
) {
    let ready = started.elapsed().as_millis();
    terminal
        .note(format!(
            "plane ready in {ready} ms: api {}, etcd {}",
            plane.api_url(),
            plane.etcd_url()
        ))
        .await;
    let since = u64::try_from(plane.log().seen().0).unwrap_or_default();
    let api = plane.loopback();
    let mut work = Apply {
        applier: Applier::new(api.clone()),
        view: View::start(&api, terminal.clone(), tasks, since).await,
        terminal: terminal.clone(),
        tally: Tally::default(),
        resources: BTreeMap::new(),
    };
    // Definitions are served before the programs start, so that those find their resources at once.
    let (definitions, objects) = project
        .manifests
        .split_at(project.manifests.partition_point(|manifest| manifest.rank() == 0));
    work.all(definitions).await;
    for run in &project.file.run {
        let program = program(run, &project, plane);
        let notes = plane.data_dir().join("run");
        let (terminal, stop) = (terminal.clone(), tasks.stop().clone());
        terminal
            .note(format!("{} starts: {}", program.name, program.command.join(" ")))
            .await;
        tasks.spawn(supervisor::supervise(
            program,
            notes,
            groups.clone(),
            terminal,
            stop,
        ));
    }
    work.all(objects).await;
    if !project.manifests.is_empty() {
        terminal.note(work.tally.line(&project)).await;
    }
    let urls = converge(&work, started).await;
    hints::show(plane, &work.resources, &urls, terminal).await;
}

/// Waits until everything has converged, and says so; where things can be reached.
async fn converge(work: &Apply, started: Instant) -> view::Converged {
    let applied = work.tally.created + work.tally.configured + work.tally.unchanged;
    match tokio::time::timeout(PATIENCE, work.view.complete().await).await {
        Ok(Ok(urls)) => {
            if applied > 0 {
                let millis = started.elapsed().as_millis();
                work.terminal
                    .note(format!(
                        "all {applied} objects converged, {millis} ms after the start"
                    ))
                    .await;
            }
            urls
        }
        // The view has stopped: so does everything.
        Ok(Err(_)) => view::Converged::new(),
        Err(_) => {
            let seconds = PATIENCE.as_secs();
            work.terminal
                .problem(format!(
                    "not everything has converged after {seconds} s: see above"
                ))
                .await;
            view::Converged::new()
        }
    }
}

/// The manifests on their way into the API server.
struct Apply {
    applier: Applier,
    view: View,
    terminal: Terminal,
    tally: Tally,
    resources: BTreeMap<String, Resource>,
}

impl Apply {
    /// Applies manifests in order. Their watches are opened first, so that each write is seen as it happens.
    async fn all(&mut self, manifests: &[Manifest]) {
        let mut found = Vec::new();
        for manifest in manifests {
            match self.applier.find(manifest).await {
                Ok(resource) => {
                    let namespace = match (resource.namespaced, manifest.namespace()) {
                        (false, _) => "",
                        (true, "") => "default",
                        (true, named) => named,
                    };
                    let subject = Subject::new(&resource.kind, namespace, manifest.name());
                    self.view.expect(subject.clone()).await;
                    self.resources.insert(resource.path(), resource.clone());
                    found.push((manifest, resource, subject));
                }
                Err(failure) => self.failed(&failure).await,
            }
        }
        for (_, resource, _) in &found {
            self.view.follow(resource).await;
        }
        for (manifest, resource, subject) in found {
            match self.applier.apply(manifest, &resource).await {
                Ok((outcome, revision)) => {
                    match outcome {
                        Outcome::Created => self.tally.created += 1,
                        Outcome::Configured => self.tally.configured += 1,
                        Outcome::Unchanged => self.tally.unchanged += 1,
                    }
                    self.view.applied(subject, revision).await;
                }
                Err(failure) => {
                    self.view.forget(subject).await;
                    self.failed(&failure).await;
                }
            }
        }
    }

    async fn failed(&mut self, failure: &apply::Failure) {
        self.tally.failed += 1;
        self.terminal.problem(failure.to_string()).await;
    }
}

/// What became of the manifests.
#[derive(Default)]
struct Tally {
    created: usize,
    configured: usize,
    unchanged: usize,
    failed: usize,
}

impl Tally {
    fn line(&self, project: &Project) -> String {
        let counts = [
            (self.created, "created"),
            (self.configured, "configured"),
            (self.unchanged, "unchanged"),
            (self.failed, "failed"),
        ];
        let counts: Vec<String> = counts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        format!("applied {}: {}", project.dir.display(), counts.join(", "))
    }
}

/// The program with what it needs to find the plane.
fn program(run: &Run, project: &Project, plane: &Plane) -> Program {
    let mut env = BTreeMap::from([
        ("KUBECONFIG".to_owned(), plane.kubeconfig().display().to_string()),
        ("SETPOINT_API".to_owned(), plane.api_url()),
        ("SETPOINT_ETCD".to_owned(), plane.etcd_url()),
    ]);
    for name in &run.ports {
        match free_port() {
            Ok(port) => {
                env.insert(name.clone(), port.to_string());
            }
            Err(error) => tracing::warn!(%error, name, "find a free port"),
        }
    }
    env.extend(project.env.clone());
    env.extend(run.env.iter().map(|(name, value)| (name.clone(), value.text())));
    Program {
        name: run.name.clone(),
        command: run.command.clone(),
        env,
        dir: match &run.dir {
            Some(dir) => project.dir.join(dir),
            None => project.dir.clone(),
        },
        restart: run.restart,
    }
}

/// A port that was free a moment ago. Another program may take it before ours does; then ours fails and is restarted.
fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
