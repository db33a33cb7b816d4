//! A serving certificate that nobody signed: for listeners that only want what is said hidden (etcd's `--auto-tls`).

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::{Facts, Pair, PkiError, files, io_error, issue, issue_error};

/// Makes `NAME.crt` and `NAME.key` in `dir` for `hosts`, unless a pair is there that names them all and lasts for
/// another month. Returns the two paths.
///
/// # Errors
/// When the directory cannot be written, or a host is no name.
pub fn self_signed(
    dir: &Path,
    name: &str,
    hosts: &[String],
    now: Timestamp,
) -> Result<(PathBuf, PathBuf), PkiError> {
    files::private_dir(dir).map_err(io_error("create", dir))?;
    let fresh = match Pair::read(dir, name)? {
        (Some(cert), Some(_)) => CertificateDer::from_pem_slice(cert.as_bytes())
            .ok()
            .and_then(|der| Facts::of(&der))
            .is_some_and(|facts| {
                facts.left(now) >= issue::RENEW_BEFORE && hosts.iter().all(|host| facts.names.contains(host))
            }),
        _ => false,
    };
    if !fresh {
        let issued = issue::self_signed(hosts, now).map_err(issue_error(name))?;
        Pair::write(dir, name, &issued)?;
    }
    Ok((dir.join(format!("{name}.crt")), dir.join(format!("{name}.key"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_self_signed_certificate_is_made_once_and_anew_near_its_end_or_for_another_host() {
        let dir = std::env::temp_dir().join(format!("setpoint-self-signed-{}", fastrand::u64(..)));
        let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let at = |date: &str, hosts: &[String]| {
            let now = date.parse().unwrap();
            let (cert, _) = self_signed(&dir, "etcd", hosts, now).unwrap();
            std::fs::read(cert).unwrap()
        };
        let first = at("2026-01-01T00:00:00Z", &hosts);
        assert_eq!(at("2026-06-01T00:00:00Z", &hosts[..1]), first);
        let renewed = at("2026-12-20T00:00:00Z", &hosts);
        assert_ne!(renewed, first);
        assert_ne!(at("2026-12-20T00:00:00Z", &["other".to_owned()]), renewed);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
