//! TLS in front of the protocol: certificates from files, renewed while serving, and who the client is.
//!
//! The rules are etcd's (`client/pkg/transport/listener.go`): a trusted CA makes client certificates required; the
//! common name of one counts as a user only under `client_cert_auth`. Files are looked at every few seconds and read
//! again when they changed; what cannot be read then is reported, and the last good configuration stays.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::client::verify_server_name;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use setpoint_base::{Chain, Stop, sealed_key};
use tokio::sync::Mutex;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::socket::Plain;

/// Largest file of certificates read, in bytes: some keep a whole distribution's authorities in one.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// How clients are met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// The server's certificate and what leads to its authority, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Authorities of client certificates, PEM. With them a certificate is required.
    pub trusted_ca: Option<PathBuf>,
    /// Whether the common name of a client's certificate is its user (no). Needs `trusted_ca`.
    pub client_cert_auth: bool,
    /// Certificates that were taken back, PEM: their holders are refused.
    pub crl: Option<PathBuf>,
    /// Names of which a client's certificate must have one; empty: any.
    pub allowed_hostnames: Vec<String>,
    /// Whether TLS 1.2 is refused (no).
    pub tls13_only: bool,
    /// How often the files are looked at (5 s).
    pub reload_interval: Duration,
}

impl TlsOptions {
    /// TLS with this certificate, for anybody.
    #[must_use]
    pub fn new(cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self {
            cert: cert.into(),
            key: key.into(),
            trusted_ca: None,
            client_cert_auth: false,
            crl: None,
            allowed_hostnames: Vec::new(),
            tls13_only: false,
            reload_interval: Duration::from_secs(5),
        }
    }

    /// Reads everything once, to find mistakes before serving.
    ///
    /// # Errors
    /// The file that cannot be used, or the option that lacks another.
    pub fn check(&self) -> Result<(), TlsError> {
        self.load().map(drop)
    }

    fn load(&self) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let versions: &[_] = if self.tls13_only {
            &[&TLS13]
        } else {
            &[&TLS13, &TLS12]
        };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(TlsError::Setup)?;
        let builder = match &self.trusted_ca {
            Some(path) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider)
                    .with_crls(self.crls()?)
                    .only_check_end_entity_revocation()
                    .allow_unknown_revocation_status()
                    .build()
                    .map_err(|error| unusable(path, error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
            None if self.client_cert_auth || self.crl.is_some() || !self.allowed_hostnames.is_empty() => {
                return Err(TlsError::NoAuthority);
            }
            None => builder.with_no_client_auth(),
        };
        let chain = certificates(&self.cert)?;
        let mut config = builder
            .with_single_cert(chain, private_key(&self.key)?)
            .map_err(|error| unusable(&self.cert, format!("{error} (key: {})", self.key.display())))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    fn crls(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
        let Some(path) = &self.crl else {
            return Ok(Vec::new());
        };
        CertificateRevocationListDer::pem_slice_iter(&read(path)?)
            .collect::<Result<Vec<_>, _>>()
            .ok()
            .filter(|lists| !lists.is_empty())
            .ok_or_else(|| unusable(path, "no revocation list in PEM".to_owned()))
    }

    fn files(&self) -> impl Iterator<Item = &Path> {
        [
            Some(&self.cert),
            Some(&self.key),
            self.trusted_ca.as_ref(),
            self.crl.as_ref(),
        ]
        .into_iter()
        .flatten()
        .map(PathBuf::as_path)
    }

    /// What changes when a file is replaced.
    fn stamps(&self) -> Vec<Option<(SystemTime, u64)>> {
        let stamp = |path: &Path| {
            let meta = fs::metadata(path).ok()?;
            Some((meta.modified().ok()?, meta.len()))
        };
        self.files().map(stamp).collect()
    }
}

/// TLS cannot be set up as it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file is not what it is used as.
    #[error("{}: {what}", path.display())]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Client certificates are asked for, and nothing says whose count.
    #[error("client certificates need an authority: give the trusted CA file")]
    NoAuthority,
    /// The TLS library refused.
    #[error("set up TLS")]
    Setup(#[source] rustls::Error),
}

fn unusable(path: &Path, what: String) -> TlsError {
    TlsError::Unusable {
        path: path.to_owned(),
        what,
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let read = || match fs::metadata(path)?.len() {
        0..=FILE_BYTES_MAX => fs::read(path),
        _ => Err(io::Error::other(
            "larger than 4 MiB: not a PEM file of certificates",
        )),
    };
    read().map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<Vec<_>, _>>()
        .ok()
        .filter(|chain| !chain.is_empty())
        .ok_or_else(|| unusable(path, "no certificate in PEM".to_owned()))
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = read(path)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
        let sealed = sealed_key(&pem).map(str::to_owned);
        unusable(
            path,
            sealed.unwrap_or_else(|| format!("no private key in PEM: {error}")),
        )
    })
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for cert in certificates(path)? {
        roots
            .add(cert)
            .map_err(|error| unusable(path, error.to_string()))?;
    }
    Ok(roots)
}

/// Meets clients, with the newest certificates.
pub(super) struct Acceptor {
    options: TlsOptions,
    names: Vec<ServerName<'static>>,
    config: ArcSwap<ServerConfig>,
    /// Of the files that `config` was read from.
    stamps: Mutex<Vec<Option<(SystemTime, u64)>>>,
}

impl Acceptor {
    pub(super) fn new(options: TlsOptions) -> Result<Self, TlsError> {
        // Before reading: a file replaced meanwhile is then read again.
        let stamps = options.stamps();
        let names = options.allowed_hostnames.iter().map(|name| {
            ServerName::try_from(name.clone())
                .map_err(|_| unusable(Path::new(name), "neither a host name nor an address".to_owned()))
        });
        Ok(Self {
            names: names.collect::<Result<_, _>>()?,
            config: ArcSwap::from_pointee(options.load()?),
            stamps: Mutex::new(stamps),
            options,
        })
    }

    /// Shakes hands. A client whose certificate does not do is told so by an alert, or left.
    pub(super) async fn accept(&self, socket: Plain) -> io::Result<TlsStream<Plain>> {
        let stream = TlsAcceptor::from(self.config.load_full()).accept(socket).await?;
        if !self.names.is_empty() && !self.has_allowed_name(&stream) {
            return Err(io::Error::other(
                "the client's certificate has none of the allowed names",
            ));
        }
        Ok(stream)
    }

    fn has_allowed_name(&self, stream: &TlsStream<Plain>) -> bool {
        let cert = leaf(stream).and_then(|cert| ParsedCertificate::try_from(cert).ok());
        cert.is_some_and(|cert| {
            self.names
                .iter()
                .any(|name| verify_server_name(&cert, name).is_ok())
        })
    }

    /// The user a client's certificate names.
    pub(super) fn user(&self, stream: &TlsStream<Plain>) -> Option<Arc<str>> {
        if !self.options.client_cert_auth {
            return None;
        }
        common_name(leaf(stream)?)
    }

    /// Follows the files until `stop`.
    pub(super) async fn follow_files(self: Arc<Self>, stop: &Stop) {
        loop {
            let pause = tokio::time::sleep(self.options.reload_interval);
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
            let this = self.clone();
            // The files may lie where reading takes long.
            let _ = tokio::task::spawn_blocking(move || this.reload()).await;
        }
    }

    fn reload(&self) {
        let mut known = self.stamps.blocking_lock();
        let stamps = self.options.stamps();
        if *known == stamps {
            return;
        }
        match self.options.load() {
            Ok(config) => {
                self.config.store(Arc::new(config));
                tracing::info!(cert = %self.options.cert.display(), "etcd certificates read again");
            }
            // Half-replaced files are the usual reason: the other half changes the stamps once more.
            Err(error) => {
                let error = Chain(&error);
                tracing::warn!(%error, "etcd certificates changed and cannot be used: the old ones stay");
            }
        }
        *known = stamps;
    }
}

fn leaf(stream: &TlsStream<Plain>) -> Option<&CertificateDer<'static>> {
    stream.get_ref().1.peer_certificates()?.first()
}

/// The common name in a certificate's subject, unless it is empty.
fn common_name(cert: &CertificateDer<'_>) -> Option<Arc<str>> {
    let (_, cert) = X509Certificate::from_der(cert).ok()?;
    let name = cert.subject().iter_common_name().next()?.as_str().ok()?;
    (!name.is_empty()).then(|| name.into())
}
