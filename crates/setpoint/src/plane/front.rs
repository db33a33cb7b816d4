//! The etcd front of a plane: its listeners, its TLS, and what clients are told to connect to.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use setpoint_base::{Chain, SystemClock, WallClock};
use setpoint_store::etcd::{Listener, Serves, TlsOptions};
use tokio::net::{UnixListener, UnixSocket};

use super::listen::{BACKLOG, bind};
use super::{PlaneError, PlaneOptions, reachable};
use crate::ready::Listening;

const FLAG: &str = "etcd-listen";

/// Where a listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A socket file.
    Unix(PathBuf),
}

/// A listener of the etcd front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenOn {
    /// Where.
    pub place: Place,
    /// Without TLS, also when the front has certificates.
    pub plain: bool,
    /// What is served there.
    pub serves: Serves,
}

impl ListenOn {
    /// Everything at an address, over TLS when the front has certificates.
    #[must_use]
    pub fn tcp(addr: SocketAddr) -> Self {
        Self {
            place: Place::Tcp(addr),
            plain: false,
            serves: Serves::All,
        }
    }

    /// What is served there, as etcd calls it.
    #[must_use]
    pub fn traffic(&self) -> &'static str {
        match self.serves {
            Serves::All => "grpc+http",
            Serves::Grpc => "grpc",
            Serves::Http => "http",
            Serves::Metrics => "metrics",
        }
    }

    fn addr(&self) -> Option<SocketAddr> {
        match self.place {
            Place::Tcp(addr) => Some(addr),
            Place::Unix(_) => None,
        }
    }
}

/// The bound listeners.
pub(super) struct EtcdListeners {
    pub(super) listeners: Vec<Listener>,
    /// What they are, with the ports that were taken.
    pub(super) bound: Vec<ListenOn>,
    /// The same for people and scripts.
    pub(super) listening: Vec<Listening>,
    /// Where gRPC clients connect, the first one first.
    pub(super) urls: Vec<String>,
    /// Kept as long as they are served.
    pub(super) sockets: Vec<SocketFile>,
}

/// The file of a socket of this machine, removed with it.
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have removed it already.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Binds all listeners of the etcd front.
pub(super) async fn bind_etcd(options: &PlaneOptions) -> Result<EtcdListeners, PlaneError> {
    if let Some(tls) = &options.etcd.tls {
        // Before anything is made: a wrong file name leaves nothing behind.
        check(tls)?;
    }
    let secure = options.etcd_auto_tls || options.etcd.tls.is_some();
    let mut bound = EtcdListeners {
        listeners: Vec::new(),
        bound: Vec::new(),
        listening: Vec::new(),
        urls: Vec::new(),
        sockets: Vec::new(),
    };
    for on in &options.etcd_listen {
        let (listener, place) = match &on.place {
            Place::Tcp(at) => {
                let socket = bind(*at, FLAG, options.etcd_reuse_port)?;
                let addr = socket
                    .local_addr()
                    .map_err(|cause| PlaneError::listen(*at, FLAG, cause))?;
                (Listener::tcp(socket), Place::Tcp(addr))
            }
            Place::Unix(path) => {
                let socket = bind_unix(path).await?;
                bound.sockets.push(SocketFile(path.clone()));
                (Listener::unix(socket), on.place.clone())
            }
        };
        let on = ListenOn { place, ..on.clone() };
        let listener = if on.plain { listener.plain() } else { listener };
        bound.listeners.push(listener.only(on.serves));
        let url = url(&on, secure);
        bound.listening.push(Listening {
            url: url.clone(),
            serves: on.traffic(),
        });
        if matches!(on.serves, Serves::All | Serves::Grpc) {
            bound.urls.push(url);
        }
        bound.bound.push(on);
    }
    // Who is told one URL to connect to may be on another machine.
    bound.urls.sort_by_key(|url| url.starts_with("unix"));
    Ok(bound)
}

/// What clients are told to connect to: what the options say, else where the listeners are.
pub(super) fn advertised(options: &PlaneOptions, bound: &[String]) -> Vec<String> {
    if options.etcd.client_urls.is_empty() {
        bound.to_vec()
    } else {
        options.etcd.client_urls.clone()
    }
}

fn url(on: &ListenOn, secure: bool) -> String {
    let secure = secure && !on.plain;
    match &on.place {
        Place::Tcp(addr) => format!("{}://{}", if secure { "https" } else { "http" }, reachable(*addr)),
        Place::Unix(path) => format!("{}://{}", if secure { "unixs" } else { "unix" }, path.display()),
    }
}

/// A socket file that a dead process left is taken over; one that answers is not.
async fn bind_unix(path: &Path) -> Result<UnixListener, PlaneError> {
    let refused = |cause| PlaneError::ListenFile {
        path: path.to_owned(),
        cause,
    };
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket && tokio::net::UnixStream::connect(path).await.is_err() {
        std::fs::remove_file(path).map_err(refused)?;
    }
    let listen = || {
        let socket = UnixSocket::new_stream()?;
        socket.bind(path)?;
        socket.listen(BACKLOG)
    };
    let socket = listen().map_err(refused)?;
    // It mostly asks nobody for a certificate: its mode is what keeps others out.
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(refused)?;
    Ok(socket)
}

/// The front's TLS, with a certificate of our own where that is asked for. Reads the files, so it may block.
pub(super) fn tls(options: &PlaneOptions, bound: &[ListenOn]) -> Result<Option<TlsOptions>, PlaneError> {
    let tls = match &options.etcd.tls {
        Some(tls) => tls.clone(),
        None if options.etcd_auto_tls => {
            let mut hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
            let first = bound.iter().find_map(ListenOn::addr);
            if let Some(addr) = first
                && !addr.ip().is_loopback()
                && !addr.ip().is_unspecified()
            {
                hosts.push(addr.ip().to_string());
            }
            let dir = options.data_dir.join("etcd-tls");
            let (cert, key) = setpoint_apiserver::self_signed(&dir, "etcd", &hosts, SystemClock.now())?;
            TlsOptions::new(cert, key)
        }
        None => return Ok(None),
    };
    check(&tls)?;
    Ok(Some(tls))
}

fn check(tls: &TlsOptions) -> Result<(), PlaneError> {
    tls.check().map_err(|error| PlaneError::EtcdTls {
        detail: Chain(&error).to_string(),
    })
}

/// Says so when the front can be reached by anybody from other machines.
pub(super) fn warn_of_open_front(options: &PlaneOptions, bound: &[ListenOn]) {
    let guarded = options
        .etcd
        .tls
        .as_ref()
        .is_some_and(|tls| tls.trusted_ca.is_some());
    let open = |on: &&ListenOn| on.serves != Serves::Metrics && (on.plain || !guarded);
    let elsewhere = |addr: &SocketAddr| !addr.ip().is_loopback();
    for addr in bound
        .iter()
        .filter(open)
        .filter_map(ListenOn::addr)
        .filter(elsewhere)
    {
        tracing::warn!(
            %addr,
            "the etcd front is reachable from other machines and asks for no certificate: keep it on 127.0.0.1, or \
             give it authorities of client certificates"
        );
    }
}
