//! What the tests of this crate share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use setpoint_base::{FsDisk, SystemClock};
use setpoint_store::{OpenError, Options, Store};

/// A directory that is removed in the end.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "setpoint-store-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Small segments, so that tests cross their borders.
pub(crate) fn options(dir: &Path) -> Options {
    Options {
        segment_bytes: 256 << 10,
        request_bytes_max: 64 << 10,
        hot_bytes: 64 << 10,
        ..Options::new(dir)
    }
}

pub(crate) fn try_open(dir: &Path) -> Result<Store, OpenError> {
    Store::open(options(dir), Arc::new(FsDisk), SystemClock::shared())
}

pub(crate) fn open(dir: &Path) -> Store {
    try_open(dir).unwrap()
}
