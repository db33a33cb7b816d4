//! Files of the PKI: private from the first byte, replaced whole, durable before they are used.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Mode of keys and of the kubeconfig that embeds one.
pub(super) const PRIVATE: u32 = 0o600;
/// Mode of certificates: public by nature.
pub(super) const PUBLIC: u32 = 0o644;

/// Largest PEM file read, in bytes. Ours are below 4 KiB; a larger one is not ours.
const BYTES_MAX: u64 = 64 << 10;

/// Makes the directory (parents too) for the owner alone.
pub(super) fn private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// The file's text; `None` when there is no such file.
pub(super) fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::metadata(path) {
        Ok(meta) if meta.len() > BYTES_MAX => {
            Err(io::Error::other("larger than any PEM file of this server"))
        }
        Ok(_) => fs::read_to_string(path).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Takes other users' access away from a key that has it, such as one restored from a backup.
pub(super) fn tighten(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), mode = format!("{:o}", mode & 0o777), "key was readable by others: mode set to 600");
        fs::set_permissions(path, Permissions::from_mode(PRIVATE))?;
    }
    Ok(())
}

/// Replaces the file whole: readers see the old text or the new, also after a crash.
pub(super) fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let part = dir.join(format!(".{name}.part"));
    // What a crash left there is ours: the directory is.
    remove(&part)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&part)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&part, path)?;
    File::open(dir)?.sync_all()
}

/// Removes the file if it is there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
