//! `setpoint up`: a plane, a folder of manifests and programs, and the view of what they become.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{ArgMatches, Args};
use setpoint_telemetry::Format;

use super::{Failure, start};
use crate::config::{PlaneArgs, Resolved};
use crate::signals::Hangup;
use crate::up;
use crate::up::project::{self, Project};
use crate::up::terminal::{Style, Terminal};

/// Arguments of `up`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    setpoint up examples/quickstart\n  \
    setpoint up . --etcd-listen 127.0.0.1:0 --api-listen 127.0.0.1:0\n  \
    setpoint up                          a bare plane, nothing applied\n\n\
    DIR/setpoint.yaml (optional):\n  \
    manifests: [\"*.yaml\"]              # the default\n  \
    run:\n  \
    - name: operator\n    \
      command: [cargo, run, --release]   # gets KUBECONFIG, SETPOINT_API, SETPOINT_ETCD\n    \
      restart: on-failure                # or always, never\n    \
      ports: [HTTP_PORT]                 # variables that get a free port each\n  \
    plane: {api-listen: 127.0.0.1:6443}  # the flags below, without dashes")]
pub(super) struct UpArgs {
    /// Folder with manifests and, if programs are to be run, a setpoint.yaml
    dir: Option<PathBuf>,
    #[command(flatten)]
    plane: PlaneArgs,
}

pub(super) fn run(args: &UpArgs, matches: &ArgMatches) -> Result<(), Failure> {
    let mut said = start::said(&args.plane, matches);
    let mut problems = Vec::new();
    let project = match &args.dir {
        Some(dir) => Project::load(dir, &mut problems),
        None => Project::default(),
    };
    if let Some(dir) = &args.dir {
        said.add_file(&dir.join(project::FILE), project.plane_settings(), &mut problems);
    }
    let resolved = said.resolve(&start::cwd()?, problems).map_err(Failure::Usage)?;
    let groups = up::Groups::default();
    let running = groups.clone();
    let kill = move || running.kill();
    start::run(&resolved, "warn", Hangup::Ends, kill, |stop| {
        show(&resolved, project, groups, stop)
    })
}

async fn show(
    resolved: &Resolved,
    mut project: Project,
    groups: up::Groups,
    stop: setpoint_base::Stop,
) -> Result<(), Failure> {
    let color = std::io::stdout().is_terminal() && start::var("NO_COLOR").is_none();
    let style = match (resolved.log_format, color) {
        (Format::Text | Format::ZapConsole, true) => Style::Color,
        (Format::Text | Format::ZapConsole, false) => Style::Plain,
        (Format::Json | Format::Zap, _) => Style::Json,
    };
    // Programs that know the variable log as we do.
    let format = match resolved.log_format {
        Format::Text | Format::ZapConsole => "text",
        Format::Json | Format::Zap => "json",
    };
    project
        .env
        .insert("SETPOINT_LOG_FORMAT".to_owned(), format.to_owned());
    let started = tokio::time::Instant::now();
    let plane = start::plane(resolved).await?;
    let (terminal, flushed) = Terminal::start(style);
    let failure = up::run(&plane, project, terminal.clone(), started, &groups, &stop).await;
    start::stop(plane, resolved).await;
    drop(terminal);
    flushed.wait().await;
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}
