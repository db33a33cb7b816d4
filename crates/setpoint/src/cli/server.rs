//! `setpoint server`: a plane that serves until it is stopped.

use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, ValueEnum};

use super::{Failure, start};
use crate::config::{PlaneArgs, Resolved, Source};
use crate::pages;
use crate::plane::{Engine, StoreOnly};
use crate::signals::Hangup;
use crate::up::project::Scalar;

/// The one setting that is not about the plane's parts but says which there are.
const ROLES: &str = "roles";

/// Arguments of `server`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    setpoint server\n  \
    setpoint server --data-dir /var/lib/setpoint --log-format json\n  \
    setpoint server --engine etcd --etcd-endpoints http://a:2379,http://b:2379,http://c:2379\n  \
    setpoint server --etcd-listen 127.0.0.1:0 --api-listen 127.0.0.1:0 --ready-file ready.json\n\n\
    kubectl --kubeconfig setpoint-data/admin.kubeconfig get namespaces\n\
    etcdctl --endpoints 127.0.0.1:2379 endpoint status")]
pub(super) struct ServerArgs {
    #[command(flatten)]
    plane: PlaneArgs,
    /// YAML file with the same settings, named as the flags without their dashes
    #[arg(long, value_name = "FILE", env = "SETPOINT_CONFIG")]
    config: Option<PathBuf>,
    /// What to serve: all of it, or the store alone, which is then an etcd without keys of its own
    #[arg(long, env = "SETPOINT_ROLES", value_enum, value_delimiter = ',', default_values_t = [Role::Store, Role::Api])]
    roles: Vec<Role>,
}

/// A part of a plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Role {
    /// The log and its etcd front
    Store,
    /// The Kubernetes API; needs the store, or an etcd cluster
    Api,
}

pub(super) fn run(args: &ServerArgs, matches: &ArgMatches) -> Result<(), Failure> {
    pages::take_small();
    let mut said = start::said(&args.plane, matches);
    let mut problems = Vec::new();
    let mut roles = args.roles.clone();
    if let Some(path) = &args.config {
        let mut values = read(path, &mut problems);
        let in_file = values.remove(ROLES);
        // A flag and a variable outrank the file.
        if let (Some(text), Some(ValueSource::DefaultValue)) = (in_file, matches.value_source(ROLES)) {
            match parse_roles(&text) {
                Ok(said) => roles = said,
                Err(problem) => problems.push(format!("{ROLES} in {}: {problem}", path.display())),
            }
        }
        said.add_file(path, values, &mut problems);
    }
    let unheeded = if roles.contains(&Role::Api) {
        None
    } else {
        said.without_api()
    };
    let resolved = said.resolve(&start::cwd()?, problems).map_err(Failure::Usage)?;
    if let Some(problem) = misfit(&roles, &resolved.plane.engine) {
        return Err(Failure::Usage(vec![problem]));
    }
    if roles.contains(&Role::Api) {
        start::run(
            &resolved,
            "info",
            Hangup::IsNoted,
            || (),
            |stop| serve(&resolved, stop),
        )
    } else {
        start::run(
            &resolved,
            "info",
            Hangup::IsNoted,
            || (),
            |stop| serve_store(&resolved, unheeded, stop),
        )
    }
}

/// Roles as in the flag: names with commas between them.
fn parse_roles(text: &str) -> Result<Vec<Role>, String> {
    let role = |name: &str| {
        Role::from_str(name.trim(), false).map_err(|_| {
            format!(
                "there is no role {:?}: write store, api, or store,api",
                name.trim()
            )
        })
    };
    text.split(',').map(role).collect()
}

/// Why these roles do not go with this engine.
fn misfit(roles: &[Role], engine: &Engine) -> Option<String> {
    let text = match engine {
        Engine::Embedded if !roles.contains(&Role::Store) => {
            "--roles api needs the store in the same process: add store, or choose a cluster with --engine etcd"
        }
        Engine::Cluster(_) if !roles.contains(&Role::Api) => {
            "--roles store with --engine etcd leaves nothing to serve: etcd clients talk to the cluster; add api"
        }
        _ => return None,
    };
    Some(text.to_owned())
}

fn read(path: &Path, problems: &mut Vec<String>) -> std::collections::BTreeMap<String, String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            problems.push(format!("read {}: {error}", path.display()));
            return Default::default();
        }
    };
    match serde_saphyr::from_str::<std::collections::BTreeMap<String, Scalar>>(&text) {
        Ok(values) => values
            .into_iter()
            .map(|(name, value)| (name, value.text()))
            .collect(),
        Err(error) => {
            problems.push(format!("{}: {error}", path.display()));
            Default::default()
        }
    }
}

async fn serve(resolved: &Resolved, stop: setpoint_base::Stop) -> Result<(), Failure> {
    let started = tokio::time::Instant::now();
    let plane = start::plane(resolved).await?;
    tracing::info!(
        etcd = plane.etcd_url(),
        api = plane.api_url(),
        kubeconfig = %plane.kubeconfig().display(),
        millis = started.elapsed().as_millis(),
        "ready"
    );
    plane.ready().log_listeners();
    let failure = tokio::select! {
        () = stop.cancelled() => None,
        error = plane.failed() => Some(error),
    };
    tracing::info!("stopping");
    start::stop(plane, resolved).await;
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

async fn serve_store(
    resolved: &Resolved,
    unheeded: Option<Source>,
    stop: setpoint_base::Stop,
) -> Result<(), Failure> {
    if let Some(source) = unheeded {
        tracing::warn!(
            "{source} does nothing with --roles store: there is no Kubernetes API without the role api"
        );
    }
    let mut options = resolved.plane.clone();
    options.etcd.command_line = start::command_line();
    let store = StoreOnly::start(options).await?;
    let ready = store.ready();
    if let Some(path) = &resolved.ready_file {
        ready
            .write(path)
            .map_err(|error| start::ready_file(path, &error))?;
    }
    tracing::info!(etcd = ready.etcd, "ready");
    ready.log_listeners();
    let failure = tokio::select! {
        () = stop.cancelled() => None,
        error = store.failed() => Some(error),
    };
    tracing::info!("stopping");
    if let Some(path) = &resolved.ready_file {
        // A script that finds it stale can still see that the pid is gone.
        let _ = crate::ready::forget(path);
    }
    store.stop().await;
    failure.map_or(Ok(()), |error| Err(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_in_a_file_are_written_as_in_the_flag() {
        assert_eq!(parse_roles("store"), Ok(vec![Role::Store]));
        assert_eq!(parse_roles("api, store"), Ok(vec![Role::Api, Role::Store]));
        let problem = parse_roles("store,node").unwrap_err();
        assert!(problem.contains("no role \"node\""), "{problem}");
    }
}
