//! What may be said about the etcd front beyond its first address: TLS and further listeners.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use setpoint_base::Chain;
use setpoint_store::etcd::{AuthOptions, Serves, TlsOptions, TokenOptions};

use crate::config::{Said, Setting};
use crate::plane::{ListenOn, Place, PlaneOptions};

const LISTEN_HTTP: &str = "etcd-listen-http";
const LISTEN_METRICS: &str = "etcd-listen-metrics";
const CERT_FILE: &str = "etcd-cert-file";
const KEY_FILE: &str = "etcd-key-file";
const TRUSTED_CA_FILE: &str = "etcd-trusted-ca-file";
const CLIENT_CERT_AUTH: &str = "etcd-client-cert-auth";
const CLIENT_CRL_FILE: &str = "etcd-client-crl-file";
const ALLOWED_HOSTNAME: &str = "etcd-client-cert-allowed-hostname";
const AUTO_TLS: &str = "etcd-auto-tls";
const AUTH_TOKEN: &str = "etcd-auth-token";
const AUTH_TOKEN_TTL: &str = "etcd-auth-token-ttl";
const BCRYPT_COST: &str = "etcd-bcrypt-cost";
const ENABLE_PPROF: &str = "etcd-enable-pprof";

pub(crate) const SETTINGS: [Setting; 13] = [
    Setting::new(LISTEN_HTTP, "SETPOINT_ETCD_LISTEN_HTTP"),
    Setting::new(LISTEN_METRICS, "SETPOINT_ETCD_LISTEN_METRICS"),
    Setting::new(CERT_FILE, "SETPOINT_ETCD_CERT_FILE"),
    Setting::new(KEY_FILE, "SETPOINT_ETCD_KEY_FILE"),
    Setting::new(TRUSTED_CA_FILE, "SETPOINT_ETCD_TRUSTED_CA_FILE"),
    Setting::new(CLIENT_CERT_AUTH, "SETPOINT_ETCD_CLIENT_CERT_AUTH"),
    Setting::new(CLIENT_CRL_FILE, "SETPOINT_ETCD_CLIENT_CRL_FILE"),
    Setting::new(ALLOWED_HOSTNAME, "SETPOINT_ETCD_CLIENT_CERT_ALLOWED_HOSTNAME"),
    Setting::new(AUTO_TLS, "SETPOINT_ETCD_AUTO_TLS"),
    Setting::new(AUTH_TOKEN, "SETPOINT_ETCD_AUTH_TOKEN"),
    Setting::new(AUTH_TOKEN_TTL, "SETPOINT_ETCD_AUTH_TOKEN_TTL"),
    Setting::new(BCRYPT_COST, "SETPOINT_ETCD_BCRYPT_COST"),
    Setting::new(ENABLE_PPROF, "SETPOINT_ETCD_ENABLE_PPROF"),
];

/// The flags; names are etcd's behind `etcd-`.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "etcd front")]
pub(crate) struct FrontArgs {
    /// Where HTTP is served apart: then --etcd-listen serves gRPC alone; addresses, separated by commas
    #[arg(long, value_name = "ADDR", env = "SETPOINT_ETCD_LISTEN_HTTP")]
    etcd_listen_http: Option<String>,
    /// Where /metrics and the health endpoints alone are served; http:// in front leaves TLS out
    #[arg(long, value_name = "ADDR", env = "SETPOINT_ETCD_LISTEN_METRICS")]
    etcd_listen_metrics: Option<String>,
    /// The certificate shown to etcd clients, PEM; with it they have to speak TLS. Read again when it changes
    #[arg(long, value_name = "FILE", env = "SETPOINT_ETCD_CERT_FILE")]
    etcd_cert_file: Option<String>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", env = "SETPOINT_ETCD_KEY_FILE")]
    etcd_key_file: Option<String>,
    /// Who signs etcd clients' certificates, PEM; with it they have to show one
    #[arg(long, value_name = "FILE", env = "SETPOINT_ETCD_TRUSTED_CA_FILE")]
    etcd_trusted_ca_file: Option<String>,
    /// Whether the common name of a client's certificate is its user
    #[arg(long, value_name = "BOOL", env = "SETPOINT_ETCD_CLIENT_CERT_AUTH", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    etcd_client_cert_auth: Option<String>,
    /// Client certificates that were taken back: a revocation list, PEM
    #[arg(long, value_name = "FILE", env = "SETPOINT_ETCD_CLIENT_CRL_FILE")]
    etcd_client_crl_file: Option<String>,
    /// Names, separated by commas, of which a client's certificate must have one
    #[arg(
        long,
        value_name = "NAMES",
        env = "SETPOINT_ETCD_CLIENT_CERT_ALLOWED_HOSTNAME"
    )]
    etcd_client_cert_allowed_hostname: Option<String>,
    /// Speak TLS with a certificate made for it, in etcd-tls of the data directory
    #[arg(long, value_name = "BOOL", env = "SETPOINT_ETCD_AUTO_TLS", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    etcd_auto_tls: Option<String>,
    /// What a password is exchanged for: simple, or jwt,sign-method=METHOD,priv-key=FILE,pub-key=FILE,ttl=TIME
    #[arg(long, value_name = "KIND", env = "SETPOINT_ETCD_AUTH_TOKEN")]
    etcd_auth_token: Option<String>,
    /// Seconds that a simple token lasts without being used
    #[arg(long, value_name = "SECONDS", env = "SETPOINT_ETCD_AUTH_TOKEN_TTL")]
    etcd_auth_token_ttl: Option<String>,
    /// What the hash of a password costs: 4 to 31, each twice the one before
    #[arg(long, value_name = "COST", env = "SETPOINT_ETCD_BCRYPT_COST")]
    etcd_bcrypt_cost: Option<String>,
    /// Serve CPU profiles for Go's pprof under /debug/pprof/
    #[arg(long, value_name = "BOOL", env = "SETPOINT_ETCD_ENABLE_PPROF", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    etcd_enable_pprof: Option<String>,
}

impl FrontArgs {
    /// In the order of [`SETTINGS`].
    pub(crate) fn values(&self) -> [&Option<String>; 13] {
        [
            &self.etcd_listen_http,
            &self.etcd_listen_metrics,
            &self.etcd_cert_file,
            &self.etcd_key_file,
            &self.etcd_trusted_ca_file,
            &self.etcd_client_cert_auth,
            &self.etcd_client_crl_file,
            &self.etcd_client_cert_allowed_hostname,
            &self.etcd_auto_tls,
            &self.etcd_auth_token,
            &self.etcd_auth_token_ttl,
            &self.etcd_bcrypt_cost,
            &self.etcd_enable_pprof,
        ]
    }
}

/// Turns what was said about the front into options. `--etcd-listen` itself may name several addresses.
pub(crate) fn resolve(
    said: &mut Said,
    listen: &'static str,
    cwd: &Path,
    plane: &mut PlaneOptions,
    problems: &mut Vec<String>,
) {
    plane.etcd_auto_tls = said.flag(AUTO_TLS, problems);
    plane.etcd.tls = tls(said, cwd, problems);
    plane.etcd.auth = auth(said, cwd, problems);
    plane.etcd_pprof = said.flag(ENABLE_PPROF, problems);
    if plane.etcd_auto_tls && plane.etcd.tls.is_some() {
        problems.push(format!("--{AUTO_TLS} and --{CERT_FILE}: choose one"));
    }
    let secure = plane.etcd_auto_tls || plane.etcd.tls.is_some();
    let mut listens = Vec::new();
    for (flag, serves) in [
        (listen, Serves::All),
        (LISTEN_HTTP, Serves::Http),
        (LISTEN_METRICS, Serves::Metrics),
    ] {
        let said = places(said, flag, serves, secure, problems);
        if flag == listen && said.is_empty() {
            listens.append(&mut plane.etcd_listen);
        }
        listens.extend(said);
    }
    if listens.iter().any(|on| on.serves == Serves::Http) {
        for on in &mut listens {
            if on.serves == Serves::All {
                on.serves = Serves::Grpc;
            }
        }
    }
    plane.etcd_listen = listens;
}

fn tls(said: &mut Said, cwd: &Path, problems: &mut Vec<String>) -> Option<TlsOptions> {
    let cert = said.path(CERT_FILE, cwd, problems);
    let key = said.path(KEY_FILE, cwd, problems);
    let trusted_ca = said.path(TRUSTED_CA_FILE, cwd, problems);
    let crl = said.path(CLIENT_CRL_FILE, cwd, problems);
    let client_cert_auth = said.flag(CLIENT_CERT_AUTH, problems);
    let names = said.text(ALLOWED_HOSTNAME).unwrap_or_default();
    let allowed_hostnames: Vec<String> = list(&names).map(str::to_owned).collect();
    let about_clients = crl.is_some() || client_cert_auth || !allowed_hostnames.is_empty();
    if about_clients && trusted_ca.is_none() {
        problems.push(format!(
            "client certificates are checked against --{TRUSTED_CA_FILE}: give it"
        ));
    }
    match (cert, key) {
        (Some(cert), Some(key)) => Some(TlsOptions {
            trusted_ca,
            client_cert_auth,
            crl,
            allowed_hostnames,
            ..TlsOptions::new(cert, key)
        }),
        (None, None) if trusted_ca.is_none() => None,
        _ => {
            problems.push(format!("TLS needs both --{CERT_FILE} and --{KEY_FILE}"));
            None
        }
    }
}

fn auth(said: &mut Said, cwd: &Path, problems: &mut Vec<String>) -> AuthOptions {
    let mut auth = AuthOptions::default();
    if let Some((kind, source)) = said.take(AUTH_TOKEN) {
        match TokenOptions::from_flag(&kind, |path| std::fs::read(cwd.join(path))) {
            Ok(token) => auth.token = token,
            Err(error) => problems.push(format!("{source}: {}", Chain(&error))),
        }
    }
    let mut number = |name: &str| {
        let (value, source) = said.take(name)?;
        let number = value.parse::<u32>();
        number
            .inspect_err(|_| problems.push(format!("{source} is {value:?}: write a whole number")))
            .ok()
    };
    if let Some(seconds) = number(AUTH_TOKEN_TTL) {
        auth.token_ttl = Duration::from_secs(seconds.into());
    }
    if let Some(cost) = number(BCRYPT_COST) {
        auth.bcrypt_cost = cost;
    }
    if let Err(problem) = auth.validate() {
        problems.push(format!("--{BCRYPT_COST} {problem}"));
    }
    auth
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn places(
    said: &mut Said,
    flag: &'static str,
    serves: Serves,
    secure: bool,
    problems: &mut Vec<String>,
) -> Vec<ListenOn> {
    let Some((value, source)) = said.take(flag) else {
        return Vec::new();
    };
    let mut places = Vec::new();
    for item in list(&value) {
        match place(item) {
            Some((_, Some(true))) if !secure => problems.push(format!(
                "{source} has {item}, which needs a certificate: give --{CERT_FILE} and --{KEY_FILE}, or --{AUTO_TLS}"
            )),
            Some((place, tls)) => places.push(ListenOn {
                place,
                plain: tls == Some(false),
                serves,
            }),
            None => problems.push(format!(
                "{source} is {value:?}: write ADDRESS:PORT, for example 127.0.0.1:2379, or unix://PATH; port 0 takes a \
                 free one"
            )),
        }
    }
    places
}

/// A place, and whether TLS was asked for or ruled out.
fn place(item: &str) -> Option<(Place, Option<bool>)> {
    for (scheme, tls) in [("unix://", false), ("unixs://", true)] {
        if let Some(path) = item.strip_prefix(scheme) {
            return (!path.is_empty()).then(|| (Place::Unix(PathBuf::from(path)), Some(tls)));
        }
    }
    let (tls, addr) = match item.split_once("://") {
        Some(("http", addr)) => (Some(false), addr),
        Some(("https", addr)) => (Some(true), addr),
        Some(_) => return None,
        None => (None, item),
    };
    let addr: SocketAddr = addr.replace("localhost:", "127.0.0.1:").parse().ok()?;
    Some((Place::Tcp(addr), tls))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::said;

    fn plane(args: &[&str]) -> Result<PlaneOptions, Vec<String>> {
        let resolved = said(args).resolve(Path::new("/home/me"), Vec::new())?;
        Ok(resolved.plane)
    }

    #[test]
    fn certificates_of_the_front_come_from_flags() {
        let plane = plane(&[
            "--etcd-cert-file=server.crt",
            "--etcd-key-file=/keys/server.key",
            "--etcd-trusted-ca-file=ca.crt",
            "--etcd-client-cert-auth",
            "--etcd-client-cert-allowed-hostname=a.example, b.example",
        ])
        .unwrap();
        let tls = plane.etcd.tls.unwrap();
        assert_eq!(tls.cert, Path::new("/home/me/server.crt"));
        assert_eq!(tls.key, Path::new("/keys/server.key"));
        assert_eq!(tls.trusted_ca.unwrap(), Path::new("/home/me/ca.crt"));
        assert!(tls.client_cert_auth);
        assert_eq!(tls.allowed_hostnames, ["a.example", "b.example"]);
    }

    #[test]
    fn half_a_pair_and_checks_without_an_authority_are_problems() {
        for (args, expected) in [
            (
                &["--etcd-cert-file=a"][..],
                "both --etcd-cert-file and --etcd-key-file",
            ),
            (
                &["--etcd-trusted-ca-file=a"],
                "both --etcd-cert-file and --etcd-key-file",
            ),
            (&["--etcd-client-cert-auth"], "--etcd-trusted-ca-file: give it"),
            (&["--etcd-listen=https://127.0.0.1:1"], "needs a certificate"),
            (&["--etcd-listen=unixs:///x"], "needs a certificate"),
            (&["--etcd-listen=unix://"], "or unix://PATH"),
            (&["--etcd-listen=ftp://127.0.0.1:1"], "write ADDRESS:PORT"),
            (&["--etcd-auto-tls=maybe"], "write true or false"),
        ] {
            let problems = plane(args).unwrap_err();
            assert!(
                problems.iter().any(|problem| problem.contains(expected)),
                "{problems:?}"
            );
        }
    }

    #[test]
    fn several_listeners_each_say_what_they_serve() {
        let plane = plane(&[
            "--etcd-listen=unix:///run/etcd.sock,localhost:1,http://127.0.0.1:2",
            "--etcd-listen-http=127.0.0.1:3",
            "--etcd-listen-metrics=http://0.0.0.0:4",
            "--etcd-auto-tls",
        ])
        .unwrap();
        let on = |place, plain, serves| ListenOn { place, plain, serves };
        let tcp = |addr: &str| Place::Tcp(addr.parse().unwrap());
        assert_eq!(
            plane.etcd_listen,
            [
                on(Place::Unix("/run/etcd.sock".into()), true, Serves::Grpc),
                on(tcp("127.0.0.1:1"), false, Serves::Grpc),
                on(tcp("127.0.0.1:2"), true, Serves::Grpc),
                on(tcp("127.0.0.1:3"), false, Serves::Http),
                on(tcp("0.0.0.0:4"), true, Serves::Metrics),
            ]
        );
    }
}
