//! A file that appears only when it is complete.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::cli::Failure;

/// The file that is to appear.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) path: &'a Path,
    /// Whether it may take the place of another.
    replace: bool,
}

impl<'a> Target<'a> {
    pub(super) fn new(path: &'a Path, replace: bool) -> Self {
        Self { path, replace }
    }

    /// Whether nothing is in the way. Known before work begins, and once more before it shows.
    fn is_free(self) -> Result<(), Failure> {
        let path = self.path.display();
        let problem = match fs::symlink_metadata(self.path) {
            Ok(there) if there.is_dir() => format!("{path} is a directory: name a file in it"),
            Ok(_) if !self.replace => {
                format!("{path} is there already: choose another name, or replace it with --force")
            }
            Ok(_) | Err(_) => return Ok(()),
        };
        Err(Failure::Failed(problem))
    }
}

/// Writes beside the target and takes its place in the end; what is dropped before leaves nothing behind.
pub(super) struct NewFile<'a> {
    file: File,
    target: Target<'a>,
    part: PathBuf,
    done: bool,
}

impl<'a> NewFile<'a> {
    /// Only its owner may read it: a snapshot holds secrets.
    pub(super) fn create(target: Target<'a>) -> Result<Self, Failure> {
        target.is_free()?;
        let mut part = target.path.as_os_str().to_owned();
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
            target,
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
        self.target.is_free()?;
        let target = self.target.path;
        said(fs::rename(&self.part, target), "put in place", target)?;
        self.done = true;
        let dir = match target.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        said(File::open(dir).and_then(|dir| dir.sync_all()), "sync", dir)
    }
}

impl Drop for NewFile<'_> {
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
