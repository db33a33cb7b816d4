//! A file that appears only when it is complete.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::cli::Failure;

/// Writes beside the target and takes its place in the end; what is dropped before leaves nothing behind.
pub(super) struct NewFile {
    file: File,
    target: PathBuf,
    part: PathBuf,
    done: bool,
}

impl NewFile {
    /// Only its owner may read it: a snapshot holds secrets.
    pub(super) fn create(target: &Path) -> Result<Self, Failure> {
        let mut part = target.as_os_str().to_owned();
        part.push(format!(".{}.part", std::process::id()));
        let part = PathBuf::from(part);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&part);
        let file = said(file, "make", &part)?;
        Ok(Self {
            file,
            target: target.to_owned(),
            part,
            done: false,
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Makes it durable and visible.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        said(self.file.sync_all(), "sync", &self.part)?;
        said(fs::rename(&self.part, &self.target), "put in place", &self.target)?;
        self.done = true;
        let dir = match self.target.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        said(File::open(dir).and_then(|dir| dir.sync_all()), "sync", dir)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.part);
        }
    }
}

/// An error that names the step and the path.
pub(super) fn said<T>(result: io::Result<T>, step: &str, path: &Path) -> Result<T, Failure> {
    let result = result.with_context(|| format!("{step} {}", path.display()));
    result.map_err(|error| Failure::Failed(format!("{error:#}")))
}
