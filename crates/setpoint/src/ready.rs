//! The file that tells scripts that the plane is ready, and where it is.

use std::io;
use std::path::Path;

use serde::Serialize;

/// A listener of the etcd front.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listening {
    /// Where clients of this machine reach it, with the port that was taken: `http://…`, `unix://…`.
    pub url: String,
    /// `grpc+http`, `grpc`, `http` or `metrics`.
    pub serves: &'static str,
}

/// What a script needs to use the plane.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ready {
    /// `http://…` for etcd clients.
    pub etcd: String,
    /// All places where the etcd front listens, as they were said.
    pub etcd_listeners: Vec<Listening>,
    /// `https://…` for Kubernetes clients.
    pub api: String,
    /// An administrator's kubeconfig, absolute.
    pub kubeconfig: String,
    /// The data directory, absolute.
    pub data_dir: String,
    /// The process.
    pub pid: u32,
    /// The version of setpoint.
    pub version: &'static str,
}

impl Ready {
    /// Says in the log where the etcd front listens.
    pub(crate) fn log_listeners(&self) {
        for Listening { url, serves } in &self.etcd_listeners {
            tracing::info!(url, serves, "the etcd front listens");
        }
    }

    /// Writes the file in one step: a reader sees nothing or all of it.
    ///
    /// # Errors
    /// When the directory does not exist or cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.tmp", self.pid));
        let temporary = path.with_file_name(name);
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        let written = std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, path));
        if written.is_err() {
            // What went wrong is the news, not that this did too.
            let _ = std::fs::remove_file(&temporary);
        }
        written
    }
}

/// Removes the file of an earlier run, so that nobody takes it for this one's.
///
/// # Errors
/// When it exists and cannot be removed.
pub fn forget(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_put_in_place_leaves_nothing_beside_it() {
        let dir = crate::envtest::TempDir::new().unwrap();
        let taken = dir.path().join("ready");
        std::fs::create_dir(&taken).unwrap();
        let ready = Ready {
            etcd: String::new(),
            etcd_listeners: Vec::new(),
            api: String::new(),
            kubeconfig: String::new(),
            data_dir: String::new(),
            pid: 1,
            version: "",
        };
        ready.write(&taken).unwrap_err();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
