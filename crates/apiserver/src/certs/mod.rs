//! The plane's own certificates: a CA made on first start, and what it signs.
//!
//! In one directory, by default `<data-dir>/pki`:
//!
//! | file | what | life |
//! |---|---|---|
//! | `ca.crt`, `ca.key` | the authority: clients trust it, client certificates are signed by it | 10 years |
//! | `server.crt`, `server.key` | what the listener shows | 1 year, issued anew with less than 30 days left |
//! | `admin.crt`, `admin.key` | user `setpoint-admin`, group `system:masters` | the same |
//!
//! A missing leaf is issued; a missing half of the CA, a file that is not what its name says, and a leaf of another
//! CA stop the start with an error that names the file and the remedy: guessing would lock clients out.
//! The verification of what clients show is in `authn`.

mod files;
pub(crate) mod issue;
mod self_signed;
mod shared;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rcgen::{Issuer, KeyPair};
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use setpoint_base::{WallClock, sealed_key};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use self::files::{PRIVATE, PUBLIC};
use self::issue::Issued;
pub use self::self_signed::self_signed;
pub use self::shared::SharedCa;

/// User of the admin certificate.
const ADMIN_USER: &str = "setpoint-admin";
/// Its group, which may do everything.
const ADMIN_GROUP: &str = "system:masters";
/// A CA with less than this left is reported at each start.
const CA_WARN_BEFORE: Duration = Duration::from_secs(90 * 86_400);

/// The PKI directory cannot be used as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// The file system refused.
    #[error("{step} {}", path.display())]
    Io {
        /// What was being done.
        step: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A file is there but not usable, or half of a pair is not there.
    #[error("{}: {what}; {remedy}", path.display())]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What the operator can do.
        remedy: &'static str,
    },
    /// A certificate could not be made, such as for a name that is no DNS name.
    #[error("issue a certificate for {subject}")]
    Issue {
        /// For whom.
        subject: String,
        /// Why it failed.
        #[source]
        source: rcgen::Error,
    },
    /// The TLS library refused what we made of the files.
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
}

const CA_REMEDY: &str = "restore both ca.crt and ca.key from a backup, or remove the whole directory to start with a \
                         new CA (every client then needs the new admin.kubeconfig)";
const LEAF_REMEDY: &str = "remove the .crt and .key of that name: they are issued anew at the next start";

/// The certificates of one plane.
#[derive(Clone)]
pub struct Pki {
    ca: String,
    server: Arc<Issued>,
    admin: Arc<Issued>,
}

impl Pki {
    /// Reads the directory, issuing what is missing or near its end. Blocks on the file system.
    ///
    /// `extra_names` are further DNS names and addresses that the serving certificate should have; when the present one
    /// lacks one of them, it is issued anew.
    ///
    /// # Errors
    /// When a file cannot be read or written, is not what its name says, or belongs to another CA.
    pub fn load_or_create(
        dir: &Path,
        extra_names: &[String],
        clock: &dyn WallClock,
    ) -> Result<Self, PkiError> {
        let now = clock.now();
        files::private_dir(dir).map_err(io_error("make the directory", dir))?;
        let ca = Authority::load_or_create(dir, now)?;
        let mut names: Vec<String> = issue::SERVER_NAMES.iter().map(|&name| name.to_owned()).collect();
        names.extend(
            extra_names
                .iter()
                .filter(|&name| !issue::SERVER_NAMES.contains(&name.as_str()))
                .cloned(),
        );
        let server = ca.leaf(dir, "server", now, &names, |issuer| {
            issue::server(issuer, &names, now)
        })?;
        let admin = ca.leaf(dir, "admin", now, &[], |issuer| {
            issue::client(issuer, ADMIN_USER, ADMIN_GROUP, now, issue::LEAF_LIFE)
        })?;
        Ok(Self {
            ca: ca.pem,
            server: Arc::new(server),
            admin: Arc::new(admin),
        })
    }

    /// The CA's certificate as PEM: what clients trust, and what `kube-root-ca.crt` holds.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca
    }

    /// A kubeconfig with everything embedded: context `setpoint`, the admin certificate, this server.
    #[must_use]
    pub fn admin_kubeconfig(&self, server_url: &str) -> String {
        let data = |pem: &str| STANDARD.encode(pem);
        let (ca, cert, key) = (data(&self.ca), data(&self.admin.cert), data(&self.admin.key));
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: setpoint\npreferences: {{}}\n\
             clusters:\n- name: setpoint\n  cluster:\n    server: {server_url}\n    certificate-authority-data: {ca}\n\
             contexts:\n- name: setpoint\n  context:\n    cluster: setpoint\n    user: {ADMIN_USER}\n\
             users:\n- name: {ADMIN_USER}\n  user:\n    client-certificate-data: {cert}\n    client-key-data: {key}\n"
        )
    }

    /// Writes [`Pki::admin_kubeconfig`] to a file of mode 0600, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_admin_kubeconfig(&self, path: &Path, server_url: &str) -> Result<(), PkiError> {
        files::write(path, &self.admin_kubeconfig(server_url), PRIVATE).map_err(io_error("write", path))
    }

    /// The CA as roots to verify with.
    pub(crate) fn roots(&self) -> Result<RootCertStore, PkiError> {
        let mut roots = RootCertStore::empty();
        for cert in CertificateDer::pem_slice_iter(self.ca.as_bytes()).flatten() {
            roots.add(cert).map_err(PkiError::Tls)?;
        }
        Ok(roots)
    }

    /// What the listener shows.
    pub(crate) fn server_identity(
        &self,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), PkiError> {
        let bad = |_| {
            PkiError::Tls(rustls::Error::General(
                "serving certificate is not PEM".to_owned(),
            ))
        };
        let chain = CertificateDer::pem_slice_iter(self.server.cert.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(self.server.key.as_bytes()).map_err(bad)?;
        Ok((chain.collect::<Result<_, _>>().map_err(bad)?, key))
    }
}

/// The CA with its key, while leaves are checked and issued.
struct Authority {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn load_or_create(dir: &Path, now: Timestamp) -> Result<Self, PkiError> {
        let unusable = |path: PathBuf, what: String| PkiError::Unusable {
            path,
            what,
            remedy: CA_REMEDY,
        };
        let pair = match Pair::read(dir, "ca")? {
            (Some(cert), Some(key)) => Issued { cert, key },
            // A key alone, and nothing signed with it, is what a crash during the first start leaves.
            (None, key) if key.is_none() || !leaves(dir).any(|leaf| leaf.exists()) => {
                // A CA that is gone while its leaves are still there is an accident, not a first start.
                if let Some(leaf) = leaves(dir).find(|leaf| leaf.exists()) {
                    let what = format!("missing although {} exists", leaf.display());
                    return Err(unusable(dir.join("ca.crt"), what));
                }
                let made = issue::authority(now).map_err(issue_error("the CA"))?;
                Pair::write(dir, "ca", &made)?;
                made
            }
            (cert, _) => {
                let name = if cert.is_some() { "ca.key" } else { "ca.crt" };
                return Err(unusable(
                    dir.join(name),
                    "missing although the other half of the CA exists".to_owned(),
                ));
            }
        };
        let der = parse(&dir.join("ca.crt"), &pair, CA_REMEDY)?;
        let facts = Facts::of(&der)
            .ok_or_else(|| unusable(dir.join("ca.crt"), "not an X.509 certificate".to_owned()))?;
        if !facts.is_ca {
            return Err(unusable(dir.join("ca.crt"), "not a CA certificate".to_owned()));
        }
        if facts.left(now).is_zero() {
            return Err(unusable(
                dir.join("ca.crt"),
                format!("the CA expired at {}", facts.not_after),
            ));
        }
        if facts.left(now) < CA_WARN_BEFORE {
            tracing::warn!(not_after = %facts.not_after, "the CA expires soon: plan for a new one, every client needs it");
        }
        let key = KeyPair::from_pem(&pair.key).map_err(issue_error("the CA"))?;
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(issue_error("the CA"))?;
        Ok(Self {
            pem: pair.cert,
            der,
            issuer,
        })
    }

    /// The pair of that name: as it is while it is good, issued anew when missing, near its end, or without one of the
    /// `names`.
    fn leaf(
        &self,
        dir: &Path,
        name: &'static str,
        now: Timestamp,
        names: &[String],
        issue: impl FnOnce(&Issuer<'_, KeyPair>) -> Result<Issued, rcgen::Error>,
    ) -> Result<Issued, PkiError> {
        if let (Some(cert), Some(key)) = Pair::read(dir, name)? {
            let pair = Issued { cert, key };
            let path = dir.join(format!("{name}.crt"));
            let der = parse(&path, &pair, LEAF_REMEDY)?;
            let unusable = |what: &str| PkiError::Unusable {
                path: path.clone(),
                what: what.to_owned(),
                remedy: LEAF_REMEDY,
            };
            let facts = Facts::of(&der).ok_or_else(|| unusable("not an X.509 certificate"))?;
            if !self.signed(&der) {
                return Err(unusable("not signed by the CA in ca.crt"));
            }
            if facts.left(now) >= issue::RENEW_BEFORE
                && names.iter().all(|wanted| facts.names.contains(wanted))
            {
                return Ok(pair);
            }
            tracing::info!(path = %path.display(), not_after = %facts.not_after, "certificate issued anew");
        }
        let made = issue(&self.issuer).map_err(issue_error(name))?;
        Pair::write(dir, name, &made)?;
        Ok(made)
    }

    fn signed(&self, leaf: &CertificateDer<'_>) -> bool {
        let (Ok((_, leaf)), Ok((_, ca))) = (
            X509Certificate::from_der(leaf),
            X509Certificate::from_der(&self.der),
        ) else {
            return false;
        };
        leaf.verify_signature(Some(ca.public_key())).is_ok()
    }
}

/// What is read off a certificate.
struct Facts {
    not_after: Timestamp,
    is_ca: bool,
    names: Vec<String>,
}

impl Facts {
    fn of(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, cert) = X509Certificate::from_der(der).ok()?;
        let names = cert
            .subject_alternative_name()
            .ok()?
            .map(|san| &san.value.general_names);
        let names = names.into_iter().flatten().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(ip) => address(ip),
            _ => None,
        });
        Some(Self {
            not_after: Timestamp::from_second(cert.validity().not_after.timestamp()).ok()?,
            is_ca: cert.is_ca(),
            names: names.collect(),
        })
    }

    /// How long it is still valid; zero when it is over.
    fn left(&self, now: Timestamp) -> Duration {
        Duration::try_from(self.not_after.duration_since(now)).unwrap_or_default()
    }
}

fn address(octets: &[u8]) -> Option<String> {
    let v4 = || Some(std::net::Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).to_string());
    let v6 = || Some(std::net::Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).to_string());
    v4().or_else(v6)
}

/// Reads the certificate of a pair and checks that the key is its own.
fn parse(path: &Path, pair: &Issued, remedy: &'static str) -> Result<CertificateDer<'static>, PkiError> {
    let unusable = |path: &Path, what: &str| PkiError::Unusable {
        path: path.to_owned(),
        what: what.to_owned(),
        remedy,
    };
    let der = CertificateDer::from_pem_slice(pair.cert.as_bytes())
        .map_err(|_| unusable(path, "not a PEM certificate"))?;
    let (_, cert) =
        X509Certificate::from_der(&der).map_err(|_| unusable(path, "not an X.509 certificate"))?;
    let key_path = path.with_extension("key");
    let key = KeyPair::from_pem(&pair.key).map_err(|_| {
        let sealed = sealed_key(pair.key.as_bytes());
        unusable(
            &key_path,
            sealed.unwrap_or("not a PEM private key of a kind we use"),
        )
    })?;
    if key.public_key_raw() != cert.public_key().subject_public_key.data.as_ref() {
        return Err(unusable(&key_path, "not the key of the certificate beside it"));
    }
    Ok(der.clone())
}

/// Certificates that the CA has signed and that are kept beside it.
fn leaves(dir: &Path) -> impl Iterator<Item = PathBuf> + '_ {
    ["server.crt", "admin.crt"].into_iter().map(|name| dir.join(name))
}

/// A certificate and its key as files.
struct Pair;

impl Pair {
    fn read(dir: &Path, name: &str) -> Result<(Option<String>, Option<String>), PkiError> {
        let (cert, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        let pair = (
            files::read(&cert).map_err(io_error("read", &cert))?,
            files::read(&key).map_err(io_error("read", &key))?,
        );
        if pair.1.is_some() {
            files::tighten(&key).map_err(io_error("set the mode of", &key))?;
        }
        Ok(pair)
    }

    /// The certificate is there only while its key is beside it, so that a crash in between is mended by issuing anew.
    fn write(dir: &Path, name: &str, pair: &Issued) -> Result<(), PkiError> {
        let old = dir.join(format!("{name}.crt"));
        files::remove(&old).map_err(io_error("replace", &old))?;
        for (ending, text, mode) in [("key", &pair.key, PRIVATE), ("crt", &pair.cert, PUBLIC)] {
            let path = dir.join(format!("{name}.{ending}"));
            files::write(&path, text, mode).map_err(io_error("write", &path))?;
        }
        Ok(())
    }
}

fn io_error<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> PkiError + 'a {
    move |source| PkiError::Io {
        step,
        path: path.to_owned(),
        source,
    }
}

fn issue_error(subject: &str) -> impl FnOnce(rcgen::Error) -> PkiError + '_ {
    move |source| PkiError::Issue {
        subject: subject.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
