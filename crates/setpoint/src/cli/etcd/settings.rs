//! From what was said to what will be done, or every reason why not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use setpoint_base::Chain;
use setpoint_store::AutoCompaction;
use setpoint_store::etcd::{Serves, TlsOptions, TokenOptions};
use setpoint_telemetry::{Format, Output};

use super::flags::Effect;
use super::said::{Remark, Said};
use super::values::{self, Place, Url};
use crate::plane::{ListenOn, PlaneOptions};

/// Calls a connection may have open when more are asked for.
const STREAMS_MAX: u64 = 65_536;

/// What will be done.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) plane: PlaneOptions,
    pub(super) name: String,
    /// What is to be told before anything else.
    pub(super) remarks: Vec<Remark>,
}

/// How and where lines are logged.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pub(super) format: Format,
    pub(super) filter: &'static str,
    pub(super) outputs: Vec<Output>,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: Format::Zap,
            filter: "info",
            outputs: Vec::new(),
        }
    }
}

impl Log {
    /// As far as it makes sense: a log to complain in is needed before all is right.
    pub(super) fn of(said: &Said) -> Self {
        let output = |word: String| match word.as_str() {
            "default" | "stderr" | "/dev/stderr" => Output::Stderr,
            "stdout" | "/dev/stdout" => Output::Stdout,
            _ => Output::File(word.into()),
        };
        Self {
            format: match said.get("log-format") {
                "console" => Format::ZapConsole,
                _ => Format::Zap,
            },
            filter: match said.get("log-level") {
                "debug" => "debug",
                "warn" => "warn",
                "error" => "error",
                // Nothing here is worse than an error.
                "dpanic" | "panic" | "fatal" => "off",
                _ => "info",
            },
            outputs: values::words(said.get("log-outputs"))
                .into_iter()
                .filter(|word| word != JOURNAL)
                .map(output)
                .collect(),
        }
    }
}

const JOURNAL: &str = "systemd/journal";

/// Turns what was said into what will be done. Relative paths are below `cwd`.
///
/// # Errors
/// Every problem, in etcd's words where it has the same one.
pub(super) fn settle(mut said: Said, cwd: &Path) -> Result<Settings, Vec<String>> {
    let mut problems = Vec::new();
    let remarks = std::mem::take(&mut said.remarks);
    let mut settings = Settings {
        name: said.get("name").to_owned(),
        plane: PlaneOptions::new(data_dir(&said, cwd)),
        remarks,
    };
    effects(&said, &mut settings.remarks, &mut problems);
    logging(&said, &mut problems);
    security(&said, cwd, &mut settings.plane, &mut problems);
    auth(&said, cwd, &mut settings.plane, &mut problems);
    listeners(&said, &mut settings.plane, &mut problems);
    cluster(&said, &mut settings.plane, &mut problems);
    limits(&said, &mut settings.plane, &mut problems);
    if problems.is_empty() {
        Ok(settings)
    } else {
        Err(problems)
    }
}

fn data_dir(said: &Said, cwd: &Path) -> PathBuf {
    match said.said("data-dir").filter(|dir| !dir.is_empty()) {
        Some(dir) => cwd.join(dir),
        None => cwd.join(format!("{}.etcd", said.get("name"))),
    }
}

/// Refuses what cannot be done, and remarks once what has no effect.
fn effects(said: &Said, remarks: &mut Vec<Remark>, problems: &mut Vec<String>) {
    for flag in said.changed() {
        match flag.effect {
            Effect::Works => (),
            Effect::Nothing(why) => remarks.push(Remark {
                warn: true,
                message: format!("accepted without effect: {why}"),
                about: format!("--{}", flag.name),
            }),
            Effect::Refused(why) => {
                problems.push(format!("--{} {:?}: {why}", flag.name, said.get(flag.name)));
            }
        }
    }
}

fn logging(said: &Said, problems: &mut Vec<String>) {
    let outputs = values::words(said.get("log-outputs"));
    if outputs.len() > 1 && outputs.iter().any(|output| output == "default") {
        problems.push("multi logoutput for \"default\" is not supported yet".to_owned());
    }
    if outputs.iter().any(|output| output == JOURNAL) {
        problems.push(format!(
            "--log-outputs {JOURNAL:?}: nothing is written to the journal directly: use stderr, which systemd sends there"
        ));
    }
}

fn security(said: &Said, cwd: &Path, plane: &mut PlaneOptions, problems: &mut Vec<String>) {
    let file = |name: &str| {
        Some(said.get(name))
            .filter(|path| !path.is_empty())
            .map(|path| cwd.join(path))
    };
    let (cert, key, trusted_ca) = (file("cert-file"), file("key-file"), file("trusted-ca-file"));
    let crl = file("client-crl-file");
    let allowed_hostnames = values::words(said.get("client-cert-allowed-hostname"));
    let client_cert_auth = said.is("client-cert-auth");
    if trusted_ca.is_none() && (client_cert_auth || crl.is_some() || !allowed_hostnames.is_empty()) {
        problems.push(
            "--client-cert-auth, --client-crl-file and --client-cert-allowed-hostname are about certificates that are \
             checked against --trusted-ca-file: give it"
                .to_owned(),
        );
    }
    if said.get("tls-max-version") == "TLS1.2" {
        problems.push("--tls-max-version \"TLS1.2\": TLS 1.3 is always spoken: remove it".to_owned());
    }
    match (cert, key) {
        (Some(cert), Some(key)) => {
            plane.etcd.tls = Some(TlsOptions {
                trusted_ca,
                client_cert_auth,
                crl,
                allowed_hostnames,
                tls13_only: said.get("tls-min-version") == "TLS1.3",
                ..TlsOptions::new(cert, key)
            });
        }
        (None, None) if said.is("auto-tls") && (trusted_ca.is_some() || client_cert_auth) => problems.push(
            "--auto-tls makes a certificate for the server alone: to check clients, give --cert-file and --key-file"
                .to_owned(),
        ),
        (None, None) => plane.etcd_auto_tls = said.is("auto-tls"),
        _ => problems.push("TLS needs both --cert-file and --key-file".to_owned()),
    }
}

/// Tokens and passwords, for when authentication is switched on.
fn auth(said: &Said, cwd: &Path, plane: &mut PlaneOptions, problems: &mut Vec<String>) {
    let options = &mut plane.etcd.auth;
    match TokenOptions::from_flag(said.get("auth-token"), |path| std::fs::read(cwd.join(path))) {
        Ok(token) => options.token = token,
        Err(error) => problems.push(format!("--auth-token: {}", Chain(&error))),
    }
    // What was said has been parsed before.
    options.token_ttl = Duration::from_secs(values::uint(said.get("auth-token-ttl")).unwrap_or_default());
    let cost = values::uint(said.get("bcrypt-cost")).unwrap_or_default();
    options.bcrypt_cost = u32::try_from(cost).unwrap_or(u32::MAX);
    if let Err(problem) = options.validate() {
        problems.push(format!("--bcrypt-cost {problem}"));
    }
}

fn listeners(said: &Said, plane: &mut PlaneOptions, problems: &mut Vec<String>) {
    let secure = plane.etcd.tls.is_some() || plane.etcd_auto_tls;
    let apart = !said.get("listen-client-http-urls").is_empty();
    let clients = if apart { Serves::Grpc } else { Serves::All };
    plane.etcd_listen.clear();
    for (flag, serves) in [
        ("listen-client-urls", clients),
        ("listen-client-http-urls", Serves::Http),
        ("listen-metrics-urls", Serves::Metrics),
    ] {
        for url in urls(said, flag, problems) {
            match listen(&url, serves, secure) {
                Ok(on) => plane.etcd_listen.push(on),
                Err(problem) => problems.push(format!("--{flag}: {problem}")),
            }
        }
    }
    plane.etcd_reuse_port = said.is("socket-reuse-port");
    // Listening elsewhere than by default makes the default no place to send clients to.
    let untold = said.said("listen-client-urls").is_some() && said.said("advertise-client-urls").is_none();
    if !untold {
        plane.etcd.client_urls = told(said, "advertise-client-urls", problems);
    }
}

fn urls(said: &Said, flag: &str, problems: &mut Vec<String>) -> Vec<Url> {
    let text = said.get(flag);
    if text.is_empty() {
        return Vec::new();
    }
    values::urls(text).unwrap_or_else(|problem| {
        problems.push(format!("--{flag}: {problem}"));
        Vec::new()
    })
}

/// URLs as text, for the list of members.
fn told(said: &Said, flag: &str, problems: &mut Vec<String>) -> Vec<String> {
    urls(said, flag, problems).iter().map(Url::to_string).collect()
}

fn listen(url: &Url, serves: Serves, secure: bool) -> Result<ListenOn, String> {
    if url.secure() && !secure {
        return Err(format!(
            "TLS key/cert (--cert-file, --key-file) must be provided for client url {url} with HTTPS scheme"
        ));
    }
    let place = match url.place()? {
        Place::Tcp(addr) => crate::plane::Place::Tcp(addr),
        Place::Unix(path) => crate::plane::Place::Unix(path),
    };
    Ok(ListenOn {
        place,
        plain: !url.secure(),
        serves,
    })
}

/// One member: nobody else may be named, and nobody joined.
fn cluster(said: &Said, plane: &mut PlaneOptions, problems: &mut Vec<String>) {
    const REMEDY: &str = "Setpoint's store is one member. For several machines run etcd itself, and `setpoint server \
                          --engine etcd` in front of it";
    let name = said.get("name");
    plane.etcd.member_name = name.to_owned();
    plane.etcd.peer_urls = told(said, "initial-advertise-peer-urls", problems);
    let initialised = plane.store.dir.exists();
    // Like etcd, a member that is there already goes by what it has.
    if initialised {
        return;
    }
    if said.get("initial-cluster-state") == "existing" {
        problems.push(format!(
            "--initial-cluster-state \"existing\": {} holds no member, and none can be joined: {REMEDY}",
            plane.data_dir.display()
        ));
    }
    let members = said
        .said("initial-cluster")
        .map(values::words)
        .unwrap_or_default();
    let mut names: Vec<&str> = members
        .iter()
        .map(|member| member.split_once('=').map_or(member.as_str(), |(name, _)| name))
        .collect();
    names.sort_unstable();
    names.dedup();
    match names[..] {
        [] => (),
        [only] if only == name => (),
        [only] => problems.push(format!(
            "couldn't find local name {name:?} in the initial cluster configuration, which names {only:?}: give --name"
        )),
        _ => problems.push(format!(
            "--initial-cluster names {} members ({}): {REMEDY}",
            names.len(),
            names.join(", ")
        )),
    }
}

fn limits(said: &Said, plane: &mut PlaneOptions, problems: &mut Vec<String>) {
    let number = |name: &str| values::uint(said.get(name)).and_then(|n| usize::try_from(n).ok());
    if let Some(max) = number("max-txn-ops") {
        (plane.store.txn_ops_max, plane.etcd.txn_ops_max) = (max, max);
    }
    let max = number("max-request-bytes").unwrap_or(usize::MAX);
    if let Err(problem) = plane.request_bytes_max(max) {
        problems.push(format!("--max-request-bytes {problem}"));
    }
    if let Some(max) = values::uint(said.get("max-concurrent-streams")) {
        plane.etcd.streams_max = u32::try_from(max.min(STREAMS_MAX)).unwrap_or(u32::MAX).max(1);
    }
    plane.store.quota_bytes = values::int(said.get("quota-backend-bytes")).unwrap_or_default();
    let time = |name: &str| values::time(said.get(name)).unwrap_or_default();
    let interval = time("watch-progress-notify-interval");
    if !interval.is_zero() {
        plane.store.progress_interval = interval.max(Duration::from_millis(100));
    }
    plane.etcd.slow_call = Some(time("warning-unary-request-duration")).filter(|limit| !limit.is_zero());
    plane.etcd.call_times = said.get("metrics") == "extensive";
    plane.unsafe_no_fsync = said.is("unsafe-no-fsync");
    plane.etcd_pprof = said.is("enable-pprof");
    let (mode, retention) = (
        said.get("auto-compaction-mode"),
        said.get("auto-compaction-retention"),
    );
    match auto_compaction(mode, retention) {
        Ok(policy) => plane.auto_compaction = policy,
        Err(problem) => problems.push(format!("--auto-compaction-retention: {problem}")),
    }
    if let Err(wrong) = plane.store.validate() {
        problems.extend(wrong);
    }
}

/// A retention without a unit is in hours, or in revisions; none is no compaction.
///
/// # Errors
/// It is neither a number nor a time.
pub(crate) fn auto_compaction(mode: &str, retention: &str) -> Result<Option<AutoCompaction>, String> {
    let wrong = || {
        format!(
            "error parsing CompactionRetention: {retention:?} is no {}",
            if mode == "revision" {
                "number of revisions"
            } else {
                "time: write hours, or a unit as in 30m"
            }
        )
    };
    let number = values::int(retention).filter(|number| *number >= 0);
    let policy = match (mode, number) {
        (_, Some(0)) => None,
        ("revision", Some(keep)) => Some(AutoCompaction::Revisions(keep)),
        ("revision", None) => return Err(wrong()),
        (_, Some(hours)) => {
            let seconds = u64::try_from(hours)
                .ok()
                .and_then(|hours| hours.checked_mul(3600));
            Some(AutoCompaction::Periodic(Duration::from_secs(
                seconds.ok_or_else(wrong)?,
            )))
        }
        (_, None) => Some(values::time(retention).ok_or_else(wrong)?)
            .filter(|period| !period.is_zero())
            .map(AutoCompaction::Periodic),
    };
    Ok(policy)
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
