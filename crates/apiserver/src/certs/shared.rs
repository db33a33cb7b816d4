//! One authority for several API servers: clients that trust one server must trust them all.

use std::path::Path;

use serde_json::{Value, json};
use setpoint_base::WallClock;

use super::issue::{self, Issued};
use super::{CA_REMEDY, Pair, PkiError, files, io_error, issue_error};

/// A CA with its key, on its way between a PKI directory and the log that servers share. Holds a secret: it is not
/// printed.
pub struct SharedCa(Issued);

impl SharedCa {
    /// A new authority.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(clock: &dyn WallClock) -> Result<Self, PkiError> {
        issue::authority(clock.now())
            .map(Self)
            .map_err(issue_error("the CA"))
    }

    /// The authority of a PKI directory, if it has one.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn in_dir(dir: &Path) -> Result<Option<Self>, PkiError> {
        Ok(match Pair::read(dir, "ca")? {
            (Some(cert), Some(key)) => Some(Self(Issued { cert, key })),
            // Half of one is for `Pki::load_or_create` to complain about.
            _ => None,
        })
    }

    /// Makes this the authority of a PKI directory; one that has this one already is left alone.
    ///
    /// # Errors
    /// When the directory has another one, or cannot be written.
    pub fn install(&self, dir: &Path) -> Result<(), PkiError> {
        files::private_dir(dir).map_err(io_error("make the directory", dir))?;
        match Self::in_dir(dir)? {
            None => Pair::write(dir, "ca", &self.0),
            Some(present) if present.0.cert.trim() == self.0.cert.trim() => Ok(()),
            Some(_) => Err(PkiError::Unusable {
                path: dir.join("ca.crt"),
                what: "another CA than the one that the servers of this cluster share".to_owned(),
                remedy: "move the directory away, and the shared CA is taken at the next start; clients of the old one \
                         then need the new admin.kubeconfig",
            }),
        }
    }

    /// As bytes for the log.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        json!({"ca.crt": self.0.cert, "ca.key": self.0.key})
            .to_string()
            .into_bytes()
    }

    /// Of bytes from the log.
    ///
    /// # Errors
    /// When they are no authority; `place` is where they were found.
    pub fn from_bytes(bytes: &[u8], place: &Path) -> Result<Self, PkiError> {
        let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        match (text("ca.crt"), text("ca.key")) {
            (Some(cert), Some(key)) => Ok(Self(Issued { cert, key })),
            _ => Err(PkiError::Unusable {
                path: place.to_owned(),
                what: "the shared CA is not readable".to_owned(),
                remedy: CA_REMEDY,
            }),
        }
    }
}
