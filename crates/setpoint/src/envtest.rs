//! The whole plane inside a test process, on free ports and a directory of its own, in milliseconds.
//!
//! For tests of operators: no binaries to download, no ports to agree on, nothing left behind. It is the real plane,
//! with namespace deletion, not a mock of one.
//!
//! ```
//! # #[tokio::main(flavor = "multi_thread", worker_threads = 2)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use setpoint::envtest::Plane;
//!
//! let plane = Plane::start().await?;
//! // Any Kubernetes client: plane.kubeconfig() is a file, plane.client() a ready client of setpoint-runtime.
//! assert!(plane.kubeconfig().is_file());
//! assert!(plane.api_url().starts_with("https://127.0.0.1:"));
//! plane.stop().await;
//! # Ok(())
//! # }
//! ```

use std::io;
use std::path::{Path, PathBuf};

use setpoint_runtime::Client;

use crate::plane::{self, PlaneError, PlaneOptions};

/// A plane for one test. Its directory is removed when it is dropped.
pub struct Plane {
    plane: Option<plane::Plane>,
    dir: TempDir,
}

impl Plane {
    /// Starts a plane on an empty directory.
    ///
    /// # Errors
    /// When the directory cannot be made or the plane does not start.
    pub async fn start() -> Result<Self, PlaneError> {
        Self::start_with(|_| ()).await
    }

    /// Starts a plane whose options were changed by `adjust`.
    ///
    /// # Errors
    /// As [`Plane::start`].
    pub async fn start_with(adjust: impl FnOnce(&mut PlaneOptions)) -> Result<Self, PlaneError> {
        let dir = TempDir::new().map_err(|cause| PlaneError::DataDir {
            step: "create a temporary directory in",
            path: std::env::temp_dir(),
            cause,
        })?;
        let mut options = PlaneOptions::small(dir.path().join("data"));
        adjust(&mut options);
        Ok(Self {
            plane: Some(plane::Plane::start(options).await?),
            dir,
        })
    }

    fn plane(&self) -> &plane::Plane {
        self.plane
            .as_ref()
            .expect("the plane is taken out only by stop and restart, which consume or replace it")
    }

    /// A client with all rights, connected in this process: no socket, no TLS.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::from_service(self.plane().api().loopback())
    }

    /// An administrator's kubeconfig file, for clients over HTTPS.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        self.plane().kubeconfig()
    }

    /// `http://127.0.0.1:…`, for etcd clients.
    #[must_use]
    pub fn etcd_url(&self) -> String {
        self.plane().etcd_url()
    }

    /// `https://127.0.0.1:…`, for Kubernetes clients.
    #[must_use]
    pub fn api_url(&self) -> String {
        self.plane().api_url()
    }

    /// The plane itself.
    #[must_use]
    pub fn inner(&self) -> &plane::Plane {
        self.plane()
    }

    /// Stops the plane and starts it again from its directory, on new ports: what a restart does to an operator.
    ///
    /// # Errors
    /// When it does not start again.
    pub async fn restart(&mut self) -> Result<(), PlaneError> {
        if let Some(plane) = self.plane.take() {
            plane.stop().await;
        }
        let options = PlaneOptions::small(self.dir.path().join("data"));
        self.plane = Some(plane::Plane::start(options).await?);
        Ok(())
    }

    /// Stops the plane and removes its directory.
    pub async fn stop(mut self) {
        if let Some(plane) = self.plane.take() {
            plane.stop().await;
        }
    }
}

/// A directory that is removed when dropped.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes an empty directory with a new name.
    ///
    /// # Errors
    /// When the system's temporary directory cannot be written.
    pub fn new() -> io::Result<Self> {
        let name = format!("setpoint-{}-{:016x}", std::process::id(), fastrand::u64(..));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // What cannot be removed is the system's to clean: a test must not fail for it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
