//! `setpoint store migrate`: a plane moves from one log to another.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use setpoint_apiserver::SharedCa;
use setpoint_base::{FsDisk, SystemClock};
use setpoint_store::{ClusterOptions, Log, OpenError, Store};

use crate::cli::Failure;
use crate::engine_args::endpoints;
use crate::migrate::{Migration, Progress, Report};
use crate::plane::shared_ca;

/// Arguments of `store migrate`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    setpoint store migrate --from setpoint-data --to http://a:2379,http://b:2379,http://c:2379\n  \
    setpoint store migrate --from https://a:2379 --etcd-cacert ca.pem --to setpoint-data\n\n\
    Stop the servers of the source first. What is cut off goes on when it is run again.")]
pub(super) struct MigrateArgs {
    /// The source: a data directory, or URLs of a cluster's members with commas between them
    #[arg(long, value_name = "DIR|URLS")]
    from: String,
    /// The target, in the same way; it has to be empty
    #[arg(long, value_name = "DIR|URLS")]
    to: String,
    /// Delete what the target has
    #[arg(long)]
    force: bool,
    /// What the plane's keys begin with in the source cluster [default: nothing]
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    from_prefix: String,
    /// What they shall begin with in the target cluster [default: nothing]
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    to_prefix: String,
    /// PEM file with the authority that signed the members' certificates
    #[arg(long, value_name = "FILE")]
    etcd_cacert: Option<PathBuf>,
    /// PEM file with our certificate, where members ask for one
    #[arg(long, value_name = "FILE", requires = "etcd_key")]
    etcd_cert: Option<PathBuf>,
    /// PEM file with its key
    #[arg(long, value_name = "FILE", requires = "etcd_cert")]
    etcd_key: Option<PathBuf>,
    /// User of the cluster
    #[arg(long, value_name = "NAME", requires = "etcd_password_file")]
    etcd_user: Option<String>,
    /// File with the user's password
    #[arg(long, value_name = "FILE", requires = "etcd_user")]
    etcd_password_file: Option<PathBuf>,
}

/// A source or a target.
enum Place {
    /// A data directory.
    Dir(PathBuf),
    /// A cluster.
    Cluster(Box<ClusterOptions>),
}

pub(super) fn run(args: &MigrateArgs) -> Result<(), Failure> {
    let mut problems = Vec::new();
    let from = args.place(&args.from, &args.from_prefix, "--from", &mut problems);
    let to = args.place(&args.to, &args.to_prefix, "--to", &mut problems);
    if let (Place::Dir(from), Place::Dir(_)) = (&from, &to) {
        problems.push(format!(
            "both are data directories: copy {} while nothing runs on it, that is all",
            from.display()
        ));
    }
    if !problems.is_empty() {
        return Err(Failure::Usage(problems));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("migrate")
        .build()
        .map_err(|error| Failure::Failed(format!("start the runtime's threads: {error}")))?;
    runtime.block_on(migrate(&from, &to, args.force))
}

async fn migrate(from: &Place, to: &Place, force: bool) -> Result<(), Failure> {
    let migration = Migration {
        from: from.open("--from", false)?,
        to: to.open("--to", true)?,
        force,
    };
    let mut line = Line::new();
    let moved = migration.run(|progress| line.show(progress)).await;
    line.end();
    let authority = match &moved {
        Ok(_) => move_authority(from, to, &migration).await,
        Err(_) => Ok(String::new()),
    };
    for log in [&migration.from, &migration.to] {
        log.close().await?;
    }
    let mut out = io::stdout().lock();
    write!(out, "{}{}", text(&moved?), authority?)?;
    Ok(())
}

impl MigrateArgs {
    fn place(&self, said: &str, prefix: &str, flag: &str, problems: &mut Vec<String>) -> Place {
        if !said.contains("://") {
            if !prefix.is_empty() {
                problems.push(format!(
                    "{flag}-prefix is about a cluster, and {said} is a directory: leave it out"
                ));
            }
            return Place::Dir(PathBuf::from(said));
        }
        let mut options = ClusterOptions::new(endpoints(said));
        prefix.trim_end_matches('/').clone_into(&mut options.prefix);
        let mut read = |path: &Option<PathBuf>| {
            let path = path.as_ref()?;
            match fs::read(path) {
                Ok(bytes) => Some(Bytes::from(bytes)),
                Err(error) => {
                    problems.push(format!("read {}: {error}", path.display()));
                    None
                }
            }
        };
        let secure = options
            .endpoints
            .iter()
            .any(|endpoint| endpoint.starts_with("https://"));
        if secure {
            options.ca = read(&self.etcd_cacert);
            options.identity = read(&self.etcd_cert).zip(read(&self.etcd_key));
        }
        let password = read(&self.etcd_password_file).map(|bytes| {
            let text = String::from_utf8_lossy(&bytes);
            text.trim_end_matches(['\n', '\r']).to_owned()
        });
        options.credentials = self.etcd_user.clone().zip(password);
        if let Err(more) = options.validate() {
            problems.extend(more.into_iter().map(|problem| format!("{flag}: {problem}")));
        }
        Place::Cluster(Box::new(options))
    }
}

impl Place {
    fn open(&self, flag: &str, make: bool) -> Result<Log, Failure> {
        let dir = match self {
            Self::Cluster(options) => return Ok(Log::cluster(options)?),
            Self::Dir(dir) => dir,
        };
        let store = dir.join("store");
        if make {
            // Private: the log holds Secrets.
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(|error| Failure::Failed(format!("create {}: {error}", dir.display())))?;
        } else if !store.is_dir() {
            return Err(Failure::Failed(format!(
                "there is no store in {}: give {flag} what the server has as its --data-dir",
                dir.display()
            )));
        }
        let options = setpoint_store::Options::new(store);
        match Store::open(options, Arc::new(FsDisk), SystemClock::shared()) {
            Ok(store) => Ok(store.into()),
            Err(OpenError::Locked { .. }) => Err(Failure::Failed(format!(
                "{} is in use by another process: stop the server that runs on it, or give {flag} another directory",
                dir.display()
            ))),
            Err(error) => Err(error.into()),
        }
    }

    fn pki(&self) -> Option<PathBuf> {
        match self {
            Self::Dir(dir) => Some(dir.join("pki")),
            Self::Cluster(_) => None,
        }
    }
}

/// Clients go on to trust the servers: the CA goes where the keys go. What is to be said about it.
async fn move_authority(from: &Place, to: &Place, migration: &Migration) -> Result<String, Failure> {
    let found = match from.pki() {
        Some(dir) => SharedCa::in_dir(&dir)?.map(|ca| Bytes::from(ca.to_bytes())),
        None => shared_ca::read(&migration.from).await?,
    };
    let Some(ca) = found else {
        return Ok("  The source has no CA of a plane: servers of the target make their own.\n".to_owned());
    };
    match to.pki() {
        None => {
            shared_ca::publish(&migration.to, ca.clone()).await?;
            Ok(match shared_ca::read(&migration.to).await? {
                Some(there) if there == ca => {
                    "  The CA moved along: kubeconfigs stay good but for the server's address.\n"
                }
                _ => "  The cluster has a CA of its own already: clients need the new admin.kubeconfig.\n",
            }
            .to_owned())
        }
        Some(dir) => {
            let ca = SharedCa::from_bytes(&ca, Path::new("the source's shared CA"))?;
            Ok(match ca.install(&dir) {
                Ok(()) => {
                    "  The CA moved along: kubeconfigs stay good but for the server's address.\n".to_owned()
                }
                Err(error) => format!("  The CA did not move along: {error}\n"),
            })
        }
    }
}

fn text(report: &Report) -> String {
    if report.nothing_to_do {
        return format!("nothing to do, both sides hold {}\n", report.content);
    }
    format!(
        "moved: both sides hold {}\n\
         \x20 {} keys written by this run, {} leases granted anew\n\
         \x20 source at revision {}, target at revision {}\n\
         What clients will notice:\n\
         \x20 Every watch and list at an old resourceVersion gets 410 Gone once, and lists again.\n\
         \x20 resourceVersions are new and in the old order; uids and creation times are the old ones.\n\
         \x20 A change prepared on an old resourceVersion gets a conflict, and has to be made again.\n\
         \x20 What ends by itself (events, leases) has its whole time before it again.\n\
         \x20 History before the move is gone; users and roles of etcd's own authentication are not moved.\n",
        report.content, report.copied, report.leases, report.source, report.target
    )
}

/// Progress on one line of a terminal, or on a line each where there is none.
struct Line {
    terminal: bool,
    last: Option<Progress>,
}

impl Line {
    fn new() -> Self {
        Self {
            terminal: io::stderr().is_terminal(),
            last: None,
        }
    }

    fn show(&mut self, progress: Progress) {
        if self.last.replace(progress) == Some(progress) {
            return;
        }
        let text = match progress {
            Progress::Raising(now, to) => format!("revision of the target: {now}, goal {to}"),
            Progress::Copying(done, all) => format!("copied {done} of {all} keys"),
            Progress::Verifying => "comparing both sides".to_owned(),
        };
        // Nobody is there to be told when standard error is closed.
        let _ = if self.terminal {
            write!(io::stderr().lock(), "\r\x1b[K{text}")
        } else {
            writeln!(io::stderr().lock(), "{text}")
        };
    }

    fn end(&self) {
        if self.terminal && self.last.is_some() {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}
