//! Reads and writes the checkpoint file.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::files::{Files, SYNC_PIECE, failed};
use crate::core::checkpoint::{BLOCK, Builder, Meta, read_meta};
use crate::error::OpenError;
use crate::point::{self, Point};

const NAME: &str = "checkpoint";
const TEMPORARY: &str = "checkpoint.tmp";

/// The checkpoint's bytes and what its first block says; `None` when there is none or it is damaged.
pub(crate) fn read(files: &Files, names: &[String]) -> Result<Option<(Vec<u8>, Meta)>, OpenError> {
    if !names.iter().any(|name| name == NAME) {
        return Ok(None);
    }
    let path = files.path(NAME);
    let file = files.disk.open(&path).map_err(failed("open", &path))?;
    let len = file.len().map_err(failed("read the length of", &path))?;
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, 0).map_err(failed("read", &path))?;
    let meta = read_meta(&bytes);
    if meta.is_none() {
        tracing::warn!(path = %path.display(), "the checkpoint is damaged: reading the whole log instead");
    }
    Ok(meta.map(|meta| (bytes, meta)))
}

/// Writes a checkpoint and puts it in place of the one before. `step` adds the next keys and says whether
/// there are more. Returns its size in bytes.
pub(crate) fn write(
    files: &Arc<Files>,
    meta: &Meta,
    step: impl FnMut(&mut Builder) -> bool,
) -> io::Result<u64> {
    let path = files.path(TEMPORARY);
    write_to(files, &path, meta, step).inspect_err(|_| {
        // A full disk must not stay full for the sake of half a checkpoint.
        let _ = files.disk.remove(&path);
    })
}

fn write_to(
    files: &Files,
    path: &Path,
    meta: &Meta,
    mut step: impl FnMut(&mut Builder) -> bool,
) -> io::Result<u64> {
    match files.disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => (),
    }
    let file = files.disk.create(path)?;
    let (mut builder, first) = Builder::new(meta);
    file.write_all_at(&first, 0)?;
    let mut len = first.len() as u64;
    let (mut more, mut synced) = (true, 0);
    while more {
        more = step(&mut builder);
        if builder.pending() >= BLOCK || !more && builder.pending() > 0 {
            let block = builder.close();
            file.write_all_at(&block, len)?;
            len += block.len() as u64;
            if len - synced >= SYNC_PIECE as u64 {
                file.sync_data()?;
                synced = len;
            }
        }
    }
    let end = builder.close();
    file.write_all_at(&end, len)?;
    point::hit(Point::CheckpointWritten);
    file.sync_data()?;
    point::hit(Point::CheckpointSynced);
    files.disk.rename(path, &files.path(NAME))?;
    point::hit(Point::CheckpointNamed);
    files.disk.sync_dir(&files.dir)?;
    point::hit(Point::CheckpointDone);
    Ok(len + end.len() as u64)
}
