//! Which log the plane runs on: the embedded one, or an etcd cluster and how to reach it.

use std::path::Path;

use bytes::Bytes;
use clap::Args;
use setpoint_store::ClusterOptions;

use crate::config::{Said, Setting};
use crate::plane::Engine;
use crate::{front_args, store_args};

const ENGINE: &str = "engine";
const ENDPOINTS: &str = "etcd-endpoints";
const CACERT: &str = "etcd-cacert";
const CERT: &str = "etcd-cert";
const KEY: &str = "etcd-key";
const USER: &str = "etcd-user";
const PASSWORD_FILE: &str = "etcd-password-file";
const PREFIX: &str = "etcd-prefix";

/// In the order of the fields of [`EngineArgs`].
pub(crate) const SETTINGS: [Setting; 8] = [
    Setting::new(ENGINE, "SETPOINT_ENGINE"),
    Setting::new(ENDPOINTS, "SETPOINT_ETCD_ENDPOINTS"),
    Setting::new(CACERT, "SETPOINT_ETCD_CACERT"),
    Setting::new(CERT, "SETPOINT_ETCD_CERT"),
    Setting::new(KEY, "SETPOINT_ETCD_KEY"),
    Setting::new(USER, "SETPOINT_ETCD_USER"),
    Setting::new(PASSWORD_FILE, "SETPOINT_ETCD_PASSWORD_FILE"),
    Setting::new(PREFIX, "SETPOINT_ETCD_PREFIX"),
];

/// The flags about the log.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Engine")]
pub(super) struct EngineArgs {
    /// Where the log is: embedded (in the data directory), or etcd (a cluster) [default: embedded]
    #[arg(long, value_name = "ENGINE", env = "SETPOINT_ENGINE")]
    engine: Option<String>,
    /// Members of the cluster, with commas between them: http://a:2379,http://b:2379
    #[arg(long, value_name = "URLS", env = "SETPOINT_ETCD_ENDPOINTS")]
    etcd_endpoints: Option<String>,
    /// PEM file with the authority that signed the members' certificates
    #[arg(long, value_name = "FILE", env = "SETPOINT_ETCD_CACERT")]
    etcd_cacert: Option<String>,
    /// PEM file with our certificate, where members ask for one
    #[arg(long, value_name = "FILE", env = "SETPOINT_ETCD_CERT")]
    etcd_cert: Option<String>,
    /// PEM file with its key
    #[arg(long, value_name = "FILE", env = "SETPOINT_ETCD_KEY")]
    etcd_key: Option<String>,
    /// User of the cluster
    #[arg(long, value_name = "NAME", env = "SETPOINT_ETCD_USER")]
    etcd_user: Option<String>,
    /// File with the user's password
    #[arg(long, value_name = "FILE", env = "SETPOINT_ETCD_PASSWORD_FILE")]
    etcd_password_file: Option<String>,
    /// What the plane's keys begin with in the cluster, so that planes can share one [default: nothing]
    #[arg(long, value_name = "PREFIX", env = "SETPOINT_ETCD_PREFIX")]
    etcd_prefix: Option<String>,
}

impl EngineArgs {
    /// In the order of [`SETTINGS`].
    pub(crate) fn values(&self) -> [&Option<String>; 8] {
        [
            &self.engine,
            &self.etcd_endpoints,
            &self.etcd_cacert,
            &self.etcd_cert,
            &self.etcd_key,
            &self.etcd_user,
            &self.etcd_password_file,
            &self.etcd_prefix,
        ]
    }
}

/// The engine that was said.
pub(crate) fn resolve(said: &mut Said, cwd: &Path, problems: &mut Vec<String>) -> Engine {
    let engine = said.take(ENGINE);
    match engine.as_ref().map(|(value, _)| value.as_str()) {
        Some("etcd") => return Engine::Cluster(Box::new(cluster(said, cwd, problems))),
        None | Some("embedded") => (),
        Some(value) => {
            let source = engine.as_ref().map(|(_, source)| source.to_string());
            let source = source.unwrap_or_default();
            problems.push(format!("{source} is {value:?}: write embedded or etcd"));
        }
    }
    for name in [ENDPOINTS, CACERT, CERT, KEY, USER, PASSWORD_FILE, PREFIX] {
        if let Some((_, source)) = said.take(name) {
            problems.push(format!(
                "{source} is about a cluster: add --{ENGINE} etcd, or leave it out"
            ));
        }
    }
    Engine::Embedded
}

/// With a cluster there is no embedded store and no front of it: what is said about them would do nothing, so it is
/// refused. `more` are settings beside those of the front and of the store.
pub(crate) fn refuse_front(said: &mut Said, more: &[&'static str], problems: &mut Vec<String>) {
    if said.peek(ENGINE) != Some("etcd") {
        return;
    }
    let fronts = front_args::SETTINGS.iter().chain(&store_args::SETTINGS);
    for name in more.iter().copied().chain(fronts.map(Setting::name)) {
        if let Some((_, source)) = said.take(name) {
            problems.push(format!(
                "{source} is about the embedded store, which --{ENGINE} etcd does without: leave it out; etcd clients \
                 connect to the cluster's members"
            ));
        }
    }
}

fn cluster(said: &mut Said, cwd: &Path, problems: &mut Vec<String>) -> ClusterOptions {
    let endpoints = match said.take(ENDPOINTS) {
        Some((list, _)) => endpoints(&list),
        None => {
            problems.push(format!(
                "--{ENGINE} etcd needs --{ENDPOINTS}: the URLs of its members"
            ));
            return ClusterOptions::new(Vec::new());
        }
    };
    let mut options = ClusterOptions::new(endpoints);
    if let Some((prefix, source)) = said.take(PREFIX) {
        if !prefix.is_empty() && !prefix.starts_with('/') {
            problems.push(format!("{source} is {prefix:?}: begin it with /"));
        }
        prefix.trim_end_matches('/').clone_into(&mut options.prefix);
    }
    options.ca = file(said, CACERT, cwd, problems);
    if said.peek(CERT).is_some() != said.peek(KEY).is_some() {
        problems.push(format!("--{CERT} and --{KEY} go together: give both"));
    }
    options.identity = file(said, CERT, cwd, problems).zip(file(said, KEY, cwd, problems));
    if said.peek(USER).is_some() != said.peek(PASSWORD_FILE).is_some() {
        problems.push(format!("--{USER} and --{PASSWORD_FILE} go together: give both"));
    }
    let user = said.take(USER).map(|(user, _)| user);
    options.credentials = user
        .zip(file(said, PASSWORD_FILE, cwd, problems))
        .map(|(user, password)| {
            // The newline that editors put at the end is no part of it.
            let password = String::from_utf8_lossy(&password)
                .trim_end_matches(['\n', '\r'])
                .to_owned();
            (user, password)
        });
    if let Err(more) = options.validate() {
        problems.extend(more);
    }
    options
}

/// What is written with commas between; without a scheme it is plain HTTP, as for etcdctl.
pub(crate) fn endpoints(list: &str) -> Vec<String> {
    let parts = list.split(',').map(str::trim).filter(|part| !part.is_empty());
    let url = |part: &str| match part.contains("://") {
        true => part.trim_end_matches('/').to_owned(),
        false => format!("http://{part}"),
    };
    parts.map(url).collect()
}

/// A file's content; what cannot be read is a problem.
fn file(said: &mut Said, name: &str, cwd: &Path, problems: &mut Vec<String>) -> Option<Bytes> {
    let path = said.path(name, cwd, problems)?;
    match std::fs::read(&path) {
        Ok(bytes) => Some(bytes.into()),
        Err(error) => {
            problems.push(format!("--{name}: read {}: {error}", path.display()));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(args: &[&str]) -> Result<Engine, Vec<String>> {
        let resolved = crate::config::tests::said(args).resolve(Path::new("/w"), Vec::new());
        resolved.map(|resolved| resolved.plane.engine)
    }

    #[test]
    fn a_cluster_is_its_members_and_a_prefix() {
        let args = [
            "--engine=etcd",
            "--etcd-endpoints=a:1, http://b:2/",
            "--etcd-prefix=/blue/",
        ];
        let Ok(Engine::Cluster(options)) = resolve(&args) else {
            panic!("not a cluster");
        };
        assert_eq!(options.endpoints, ["http://a:1", "http://b:2"]);
        assert_eq!(options.prefix, "/blue");
    }

    #[test]
    fn what_is_missing_or_in_the_wrong_place_is_named() {
        #[track_caller]
        fn check(args: &[&str], expected: &[&str]) {
            let problems = resolve(args).unwrap_err();
            assert_eq!(problems.len(), expected.len(), "{problems:?}");
            for (problem, expected) in problems.iter().zip(expected) {
                assert!(problem.contains(expected), "{problem}");
            }
        }
        check(&["--engine=etcd"], &["needs --etcd-endpoints"]);
        check(&["--etcd-endpoints=a:1"], &["add --engine etcd"]);
        check(&["--engine=sqlite"], &["write embedded or etcd"]);
        let with = |flag| ["--engine=etcd", "--etcd-endpoints=a:1", flag];
        check(&with("--etcd-user=root"), &["go together"]);
        let named = [&with("--etcd-user=root")[..], &["--etcd-password-file=none"]].concat();
        check(&named, &["read /w/none"]);
        check(&with("--etcd-prefix=blue"), &["begin it with /"]);
        check(&with("--etcd-cacert=none.pem"), &["read /w/none.pem"]);
        check(
            &with("--etcd-listen=127.0.0.1:0"),
            &["--etcd-listen is about the embedded store"],
        );
        check(&with("--etcd-cert-file=a.pem"), &["leave it out"]);
        check(&with("--unsafe-no-fsync"), &["leave it out"]);
    }
}
