//! A project folder on a plane: manifests applied, programs run, changes shown, until stopped.
//!
//! `project` reads the folder, `apply` (with `merge`) brings the manifests in, `supervisor` (with `policy`) runs the
//! programs, `view` (with `summary`) follows the objects, `terminal` writes the lines.

mod apply;
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
use apply::{Applier, Outcome};
use project::{Project, Run};
use supervisor::Program;
use terminal::Terminal;
use view::{Scope, Subject};

/// How long to wait for everything to converge before the hints are shown anyway.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the project on the plane until `stop`, or until the plane fails; returns its error then.
pub(crate) async fn run(
    plane: &Plane,
    project: Project,
    terminal: Terminal,
    started: Instant,
    stop: &Stop,
) -> Option<PlaneError> {
    let tasks = TaskGroup::new(&Stop::new());
    let work = async {
        bring_up(plane, project, &terminal, started, &tasks).await;
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

async fn bring_up(plane: &Plane, project: Project, terminal: &Terminal, started: Instant, tasks: &TaskGroup) {
    let ready = started.elapsed().as_millis();
    terminal
        .note(format!(
            "plane ready in {ready} ms: api {}, etcd {}",
            plane.api_url(),
            plane.etcd_url()
        ))
        .await;
    let since = u64::try_from(plane.store().revision().0).unwrap_or_default();
    let mut tally = Tally::default();
    let mut applier = Applier::new(plane.loopback());
    let mut scope = Scope {
        since,
        ..Scope::default()
    };
    // Definitions are served before the programs start, so that those find their resources at once.
    let first = project
        .manifests
        .iter()
        .take_while(|manifest| manifest.rank() == 0);
    for manifest in first {
        tally
            .count(&applier.apply(manifest).await, manifest, &mut scope, terminal)
            .await;
    }
    for run in &project.file.run {
        let program = program(run, &project, plane);
        let notes = plane.data_dir().join("run");
        let (terminal, stop) = (terminal.clone(), tasks.stop().clone());
        terminal
            .note(format!("{} starts: {}", program.name, program.command.join(" ")))
            .await;
        tasks.spawn(supervisor::supervise(program, notes, terminal, stop));
    }
    for manifest in project
        .manifests
        .iter()
        .skip_while(|manifest| manifest.rank() == 0)
    {
        tally
            .count(&applier.apply(manifest).await, manifest, &mut scope, terminal)
            .await;
    }
    if !project.manifests.is_empty() {
        terminal.note(tally.line(&project)).await;
    }
    let expected = scope.expected.len();
    let resources = scope.resources.clone();
    let converged = view::start(scope, &plane.loopback(), terminal.clone(), tasks);
    let urls = tokio::time::timeout(PATIENCE, converged).await;
    match &urls {
        Ok(Ok(_)) if expected > 0 => {
            let millis = started.elapsed().as_millis();
            terminal
                .note(format!(
                    "all {expected} objects converged, {millis} ms after the start"
                ))
                .await;
        }
        Err(_) => {
            terminal
                .problem(format!(
                    "not everything has converged after {} s: see above",
                    PATIENCE.as_secs()
                ))
                .await;
        }
        _ => (),
    }
    let urls: BTreeMap<Subject, String> = urls.ok().and_then(Result::ok).unwrap_or_default();
    hints::show(plane, &resources, &urls, terminal).await;
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
    async fn count(
        &mut self,
        result: &Result<(apply::Resource, Outcome), apply::Failure>,
        manifest: &project::Manifest,
        scope: &mut Scope,
        terminal: &Terminal,
    ) {
        match result {
            Ok((resource, outcome)) => {
                match outcome {
                    Outcome::Created => self.created += 1,
                    Outcome::Configured => self.configured += 1,
                    Outcome::Unchanged => self.unchanged += 1,
                }
                let namespace = match (resource.namespaced, manifest.namespace()) {
                    (false, _) => "",
                    (true, "") => "default",
                    (true, named) => named,
                };
                scope
                    .expected
                    .insert(Subject::new(&resource.kind, namespace, manifest.name()));
                scope.resources.insert(resource.path(), resource.clone());
            }
            Err(failure) => {
                self.failed += 1;
                terminal.problem(failure.to_string()).await;
            }
        }
    }

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
