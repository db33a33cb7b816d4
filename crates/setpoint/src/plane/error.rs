//! Why a plane did not start, and what to do about it.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// A plane could not be started or stopped cleanly. Each message names the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlaneError {
    /// The address belongs to another program.
    #[error("{addr} is in use by {holder}: stop it, or choose another --{flag} (port 0 takes a free one)")]
    InUse {
        /// The address asked for.
        addr: SocketAddr,
        /// The flag that sets it.
        flag: &'static str,
        /// Who has it, as far as can be seen.
        holder: String,
    },
    /// The address cannot be listened on.
    #[error("listen on {addr}: {cause}; choose another --{flag}{}", privileged(*addr, cause))]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// The flag that sets it.
        flag: &'static str,
        /// Why not. Part of the message, before the remedy.
        cause: io::Error,
    },
    /// The socket file cannot be listened on.
    #[error("listen on {}: {cause}; choose another place with --etcd-listen", .path.display())]
    ListenFile {
        /// The file asked for.
        path: PathBuf,
        /// Why not. Part of the message, before the remedy.
        cause: io::Error,
    },
    /// The data directory cannot be used.
    #[error("{step} {}: {cause}; {}", .path.display(), remedy(cause, path))]
    DataDir {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed. Part of the message, before the remedy.
        cause: io::Error,
    },
    /// There is no store, but a restore that did not come to its end.
    #[error("the restore in {} was not finished: run it again, or remove that directory to begin with nothing", .unfinished.display())]
    HalfRestored {
        /// Where the restore worked.
        unfinished: PathBuf,
    },
    /// The log is the target of a migration that has not come to its end.
    #[error(
        "the migration to {place} was not finished and not all is there: run `setpoint store migrate` again, it goes on \
         where it stopped"
    )]
    HalfMigrated {
        /// Where the log is.
        place: String,
    },
    /// There is no store, but a member of etcd.
    #[error("{} holds the data of etcd itself: import it with `setpoint store import`, into another --data-dir", .dir.display())]
    EtcdsOwn {
        /// The data directory.
        dir: PathBuf,
    },
    /// The store could not be opened.
    #[error(transparent)]
    Store(#[from] setpoint_store::OpenError),
    /// The etcd cluster could not be used.
    #[error("use the etcd cluster: {error}; {remedy}", error = .0, remedy = of_cluster(.0))]
    Log(setpoint_store::Error),
    /// What was said about the etcd cluster cannot work.
    #[error("{0}; check --etcd-endpoints, --etcd-cacert, --etcd-cert and --etcd-key")]
    Cluster(setpoint_store::Error),
    /// Certificates or keys are missing, broken or foreign.
    #[error(transparent)]
    Pki(#[from] setpoint_apiserver::PkiError),
    /// The etcd front cannot speak TLS as it was asked to.
    #[error("TLS of the etcd front: {detail}")]
    EtcdTls {
        /// Which file or option, and why.
        detail: String,
    },
    /// The file with the rate limits cannot be used.
    #[error("limits in {}: {detail}", .path.display())]
    Limits {
        /// The file.
        path: PathBuf,
        /// Every problem, with its remedy.
        detail: String,
    },
    /// The API server could not be opened.
    #[error(transparent)]
    Api(#[from] setpoint_apiserver::OpenError),
    /// Part of the plane ended by itself.
    #[error("{part} ended by itself: {detail}")]
    Ended {
        /// Which part.
        part: &'static str,
        /// What it said.
        detail: String,
    },
}

fn privileged(addr: SocketAddr, cause: &io::Error) -> &'static str {
    if cause.kind() == io::ErrorKind::PermissionDenied && addr.port() < 1024 {
        ", ports below 1024 need privileges"
    } else {
        ""
    }
}

/// What to look at. Handshakes fail as connections do, so their texts tell.
fn of_cluster(error: &setpoint_store::Error) -> &'static str {
    let text = error.to_string();
    if matches!(error, setpoint_store::Error::Refused(_)) {
        "check --etcd-user, its password, and what that user may do below --etcd-prefix"
    } else if ["certificate", "tls handshake", "fatal alert"]
        .iter()
        .any(|part| text.contains(part))
    {
        "check that the members speak TLS, --etcd-cacert, --etcd-cert and --etcd-key"
    } else {
        "check --etcd-endpoints, and that a majority of its members runs"
    }
}

fn remedy(cause: &io::Error, path: &Path) -> String {
    match cause.kind() {
        io::ErrorKind::PermissionDenied => {
            "choose a directory you may write with --data-dir, or change its owner".to_owned()
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "the file system is read-only: choose another place with --data-dir".to_owned()
        }
        io::ErrorKind::StorageFull => "the disk is full: free space".to_owned(),
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            format!(
                "{} is in the way: move it, or choose another --data-dir",
                path.display()
            )
        }
        _ => "choose another place with --data-dir".to_owned(),
    }
}

impl PlaneError {
    pub(crate) fn listen(addr: SocketAddr, flag: &'static str, cause: io::Error) -> Self {
        if cause.kind() == io::ErrorKind::AddrInUse {
            let holder = super::holder::of(addr).unwrap_or_else(|| "another program".to_owned());
            Self::InUse { addr, flag, holder }
        } else {
            Self::Listen { addr, flag, cause }
        }
    }
}

#[cfg(test)]
mod tests {
    use setpoint_store::Error;

    use super::*;

    #[test]
    fn a_cluster_that_cannot_be_used_is_told_with_what_is_at_fault() {
        let rights = Error::Refused("etcdserver: permission denied".to_owned());
        assert!(
            PlaneError::Log(rights)
                .to_string()
                .ends_with("below --etcd-prefix")
        );
        let foreign = Error::Unavailable("invalid peer certificate: UnknownIssuer".to_owned());
        assert!(PlaneError::Log(foreign).to_string().contains("--etcd-cacert"));
        let nobody = Error::Unavailable("Connection refused (os error 111)".to_owned());
        assert!(PlaneError::Log(nobody).to_string().contains("a majority"));
    }
}
