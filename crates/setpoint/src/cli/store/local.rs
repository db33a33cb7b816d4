//! What needs files alone.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use setpoint_base::{Disk, FsDisk, SystemClock};
use setpoint_store::types::Revision;
use setpoint_store::{Options, Restore, SnapshotFile, Store};

use super::file::{NewFile, Target, said};
use super::show::{Format, Progress, print};
use crate::cli::Failure;
use crate::plane::{UNFINISHED, is_etcds};

/// The name of the store's directory in a plane's.
const STORE: &str = "store";

fn open(file: &Path, check_sum: bool) -> Result<SnapshotFile, Failure> {
    let mut progress = Progress::new("checksum");
    let open = SnapshotFile::open(file, check_sum, &mut |done, all| progress.bytes(done, Some(all)));
    Ok(open?)
}

pub(super) fn status(file: &Path, check_sum: bool, out: Format) -> Result<(), Failure> {
    let status = open(file, check_sum)?.status()?;
    // The first five are etcdutl's, under its names.
    print(
        out,
        &json!({
            "hash": status.hash,
            "revision": status.revision.0,
            "totalKey": status.keys,
            "totalSize": status.bytes,
            "version": status.version,
            "compactRevision": status.compact_revision,
            "versions": status.versions,
            "leases": status.leases,
        }),
    )
}

/// Restores beside the store's place, opens the result once, and moves it there.
pub(super) fn restore(
    file: &Path,
    data_dir: &Path,
    bump: u64,
    check_sum: bool,
    out: Format,
) -> Result<(), Failure> {
    let target = data_dir.join(STORE);
    if is_etcds(data_dir) {
        return Err(Failure::Failed(format!(
            "{} holds the data of etcd itself: choose another --data-dir",
            data_dir.display()
        )));
    }
    if fs::read_dir(&target).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Failure::Failed(format!(
            "{} holds a store: choose another --data-dir, or move it away; a restore replaces nothing",
            target.display()
        )));
    }
    let snapshot = open(file, check_sum)?;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir);
    said(made, "make", data_dir)?;
    let unfinished = data_dir.join(UNFINISHED);
    if unfinished.exists() {
        said(
            fs::remove_dir_all(&unfinished),
            "remove what an earlier restore left in",
            &unfinished,
        )?;
    }
    let disk: Arc<dyn Disk> = Arc::new(FsDisk);
    let mut progress = Progress::new("restore");
    let restored = snapshot.restore(&disk, &unfinished, Restore { bump }, &mut |done| {
        progress.count(done, "versions");
    });
    let restored = restored.inspect_err(|_| {
        let _ = fs::remove_dir_all(&unfinished);
    })?;
    drop(progress);
    // A store that opens is a restore that worked; closing it writes the checkpoint of a fast first start.
    let keys = with_store(&unfinished, |store| Ok(store.status().keys))?;
    said(fs::rename(&unfinished, &target), "put in place", &target)?;
    said(disk.sync_dir(data_dir), "sync", data_dir)?;
    print(
        out,
        &json!({
            "store": target.display().to_string(),
            "revision": restored.revision.0,
            "compactRevision": restored.compact_revision,
            "snapshotRevision": restored.snapshot_revision.0,
            "keys": keys,
            "versions": restored.versions,
            "leases": restored.leases,
        }),
    )
}

pub(super) fn export(dir: &Path, target: Target<'_>, out: Format) -> Result<(), Failure> {
    let dir = store_dir(dir)?;
    with_store(&dir, |store| {
        let snapshot = store.snapshot()?;
        let (revision, bytes) = (snapshot.revision().0, snapshot.bytes());
        let (file, mut new) = (target.path, NewFile::create(target)?);
        let (mut progress, mut done) = (Progress::new("export"), 0);
        let sum = snapshot.write(&mut |piece| {
            done += piece.len() as u64;
            progress.bytes(done, Some(bytes));
            new.write(piece)
        })?;
        drop(progress);
        said(new.write(&sum), "write", file)?;
        new.finish()?;
        let file = file.display().to_string();
        print(
            out,
            &json!({ "file": file, "revision": revision, "bytes": bytes }),
        )
    })
}

pub(super) fn hash_kv(dir: &Path, revision: i64, out: Format) -> Result<(), Failure> {
    let dir = store_dir(dir)?;
    with_store(&dir, |store| {
        let hash = store.hash_kv(Revision(revision))?;
        print(
            out,
            &json!({
                "hash": hash.hash,
                "hashRevision": hash.hash_revision.0,
                "compactRevision": hash.compact_revision,
                "revision": hash.revision.0,
            }),
        )
    })
}

pub(super) fn verify(dir: &Path, out: Format) -> Result<(), Failure> {
    let dir = store_dir(dir)?;
    let disk: Arc<dyn Disk> = Arc::new(FsDisk);
    let mut progress = Progress::new("verify");
    let found = setpoint_store::verify(&disk, &dir, &mut |done, all| progress.bytes(done, Some(all)))?;
    drop(progress);
    let place = |damage: &setpoint_store::Damage| {
        format!(
            "{} at {}: {}",
            damage.path.display(),
            damage.offset,
            damage.detail
        )
    };
    let mut damage: Vec<String> = found.problems.iter().map(place).collect();
    if out == Format::Simple && found.more_problems > 0 {
        damage.push(format!("and {} more", found.more_problems));
    }
    let mut shown = json!({
            "store": dir.display().to_string(),
            "revision": found.revision,
            "segments": found.segments,
            "records": found.records,
            "bytes": found.bytes,
            "checkpoint": found.checkpoint,
            "valuesCompared": found.values,
            "notes": found.notes.iter().map(place).collect::<Vec<_>>(),
            "damage": damage,
    });
    if out == Format::Json {
        shown["moreDamage"] = found.more_problems.into();
    }
    print(out, &shown)?;
    let damaged = found.problems.len() as u64 + found.more_problems;
    if damaged == 0 {
        return Ok(());
    }
    Err(Failure::Failed(format!(
        "{damaged} places of {} are damaged: {}",
        dir.display(),
        if found
            .problems
            .iter()
            .all(|damage| damage.path.ends_with("checkpoint"))
        {
            "the log is whole, so delete the checkpoint; the next start takes longer and makes another"
        } else {
            "restore a snapshot into another directory"
        }
    )))
}

/// A plane's directory holds its store in a directory of its own; that one may be named as well.
fn store_dir(dir: &Path) -> Result<PathBuf, Failure> {
    let inner = dir.join(STORE);
    if inner.is_dir() {
        return Ok(inner);
    }
    if !dir.is_dir() {
        let what = if dir.exists() {
            "is a file"
        } else {
            "does not exist"
        };
        return Err(Failure::Failed(format!(
            "{} {what}: name a plane's data directory",
            dir.display()
        )));
    }
    let is_store = |name: &str| name == "lock" || name.starts_with("log-");
    let names = said(FsDisk.list(dir), "list", dir)?;
    if names.iter().any(|name| is_store(name)) {
        return Ok(dir.to_owned());
    }
    Err(Failure::Failed(format!(
        "{} holds no store: name a plane's data directory",
        dir.display()
    )))
}

/// Opens a store, which takes its lock, and closes it again.
fn with_store<T>(dir: &Path, work: impl FnOnce(&Store) -> Result<T, Failure>) -> Result<T, Failure> {
    let options = Options {
        prefill: false,
        ..Options::new(dir)
    };
    let store = Store::open(options, Arc::new(FsDisk), SystemClock::shared())?;
    let worked = work(&store);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(store.close())?;
    worked
}
