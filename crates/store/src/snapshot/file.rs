//! A snapshot file: what `etcdctl snapshot save` wrote, or the database of a member.
//!
//! The file may be anything; see `crate::bolt` for what keeps that harmless. On top of it, this checks what etcd keeps
//! in it: revisions ascend, no revision writes a key twice, versions of keys are versions of keys.

use std::collections::HashSet;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use prost::Message;
use ring::digest::{Context, SHA256};
use setpoint_proto::mvccpb;

use super::schema::{self, TABLES};
use super::write::sum;
use crate::bolt::{Problem, Reader};
use crate::core::meta::{MetaWrite, Table};
use crate::types::Revision;

/// Bytes of the checksum behind a snapshot.
const SUM_BYTES: u64 = 32;
/// Bytes read at once to check it.
const PIECE: usize = 1 << 20;
/// Revisions above this could not be counted on from.
const REVISION_MAX: i64 = i64::MAX / 4;

/// A snapshot file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It cannot be read.
    #[error("read {}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no file.
    #[error("{} is a directory: name a snapshot file in it; `setpoint store verify` looks at a store", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// It is a pipe, a socket or a device.
    #[error("{} is a pipe or a device, and a snapshot is read back and forth: copy it to a file", .path.display())]
    Stream {
        /// What it is called.
        path: PathBuf,
    },
    /// There is no checksum behind it.
    #[error(
        "{} has no checksum: it is cut off, or the database file of a member and no snapshot; in the latter case add \
         --skip-hash-check", .path.display()
    )]
    NoSum {
        /// The file.
        path: PathBuf,
    },
    /// The checksum says that it was changed.
    #[error("{} does not match its checksum: it was altered or cut off, take another copy", .path.display())]
    Altered {
        /// The file.
        path: PathBuf,
    },
    /// Its content is not that of a snapshot.
    #[error("{} is no usable snapshot: {detail}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        detail: String,
    },
}

/// What a snapshot holds. The first five are as `etcdutl snapshot status` says them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotStatus {
    /// CRC32C of all buckets.
    pub hash: u32,
    /// The revision of the newest version of a key.
    pub revision: Revision,
    /// Keys that are not deleted.
    pub keys: u64,
    /// Bytes of the database.
    pub bytes: u64,
    /// The version of the schema, empty before 3.6.
    pub version: String,
    /// The compaction floor; -1 when nothing was compacted.
    pub compact_revision: i64,
    /// Versions of keys, deletions too.
    pub versions: u64,
    /// Leases.
    pub leases: u64,
}

/// An open snapshot whose checksum holds, if it was to be looked at.
pub struct SnapshotFile {
    pub(crate) path: PathBuf,
    reader: Reader<File>,
}

/// One version of one key.
pub(crate) struct KeyVersion {
    pub(crate) revision: i64,
    pub(crate) sub: u32,
    pub(crate) tombstone: bool,
    pub(crate) kv: mvccpb::KeyValue,
}

/// Looks at an entry, or says what is wrong with it.
type Entry<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), &'static str> + 'a;

/// Why a walk ended early.
pub(crate) enum Stop {
    Problem(Problem),
    Detail(String),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl SnapshotFile {
    /// Opens a file; with `check_sum`, reads all of it to compare its checksum. `progress` gets bytes done and all.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(path: &Path, check_sum: bool, progress: &mut dyn FnMut(u64, u64)) -> Result<Self, FileError> {
        let failed = |source| FileError::Io {
            path: path.to_owned(),
            source,
        };
        // Looked at first: to open a pipe is to wait for who writes it.
        let meta = fs::metadata(path).map_err(failed)?;
        if meta.is_dir() {
            return Err(FileError::Directory {
                path: path.to_owned(),
            });
        }
        if !meta.is_file() {
            return Err(FileError::Stream {
                path: path.to_owned(),
            });
        }
        let file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        // Pages are multiples of 512 bytes, so what is left over is the checksum.
        let has_sum = len % 512 == SUM_BYTES;
        let bytes = if has_sum { len - SUM_BYTES } else { len };
        if check_sum {
            if !has_sum {
                return Err(FileError::NoSum {
                    path: path.to_owned(),
                });
            }
            if !matches(&file, bytes, progress).map_err(failed)? {
                return Err(FileError::Altered {
                    path: path.to_owned(),
                });
            }
        }
        let reader = Reader::open(file, bytes).map_err(|problem| unusable(path, problem.into()))?;
        Ok(Self {
            path: path.to_owned(),
            reader,
        })
    }

    pub(crate) fn unusable(&self, stop: Stop) -> FileError {
        unusable(&self.path, stop)
    }

    /// Bytes of the database.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.reader.bytes()
    }

    /// Reads all of it: what it holds, and whether every part of it can be read.
    ///
    /// # Errors
    /// [`FileError::Content`] where it cannot.
    pub fn status(&self) -> Result<SnapshotStatus, FileError> {
        let failed = |stop| unusable(&self.path, stop);
        let mut status = SnapshotStatus {
            bytes: self.bytes(),
            compact_revision: self.floor()?,
            ..SnapshotStatus::default()
        };
        let mut hash = 0;
        for name in self.reader.buckets().map_err(|problem| failed(problem.into()))? {
            hash = crc32c::crc32c_append(hash, &name);
            let walk = self.reader.bucket(&name, &mut |key, value| {
                hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, key), value);
                status.leases += u64::from(name == schema::LEASE);
                if name == schema::META && key == b"storageVersion" {
                    status.version = String::from_utf8_lossy(value).into_owned();
                }
                Ok::<_, Stop>(true)
            });
            walk.map_err(failed)?;
        }
        status.hash = hash;
        // Keys by their hash: what counts them exactly would hold all of them.
        let (mut keys, hasher) = (HashSet::new(), RandomState::new());
        self.versions(&mut |version| {
            status.revision = Revision(version.revision);
            let key = hasher.hash_one(&version.kv.key);
            if version.kv.key.is_empty() {
                return Ok(());
            }
            status.versions += 1;
            if version.tombstone {
                keys.remove(&key);
            } else {
                keys.insert(key);
            }
            Ok(())
        })?;
        status.keys = keys.len() as u64;
        Ok(status)
    }

    /// The compaction floor, as etcd takes it at a start: what was scheduled counts.
    pub(crate) fn floor(&self) -> Result<i64, FileError> {
        let mut floor = -1;
        self.entries(schema::META, &mut |key, value| {
            if matches!(key, b"finishedCompactRev" | b"scheduledCompactRev") {
                let main = value.first_chunk().map(|main| i64::from_be_bytes(*main));
                let main = main.filter(|main| (0..=REVISION_MAX).contains(main));
                floor = floor.max(main.ok_or("a compacted revision is none")?);
            }
            Ok(())
        })?;
        Ok(floor)
    }

    /// Ids and TTLs.
    pub(crate) fn leases(&self) -> Result<Vec<(i64, i64)>, FileError> {
        let mut leases = Vec::new();
        self.entries(schema::LEASE, &mut |_, value| {
            leases.push(schema::lease(value).ok_or("a lease is none")?);
            Ok(())
        })?;
        Ok(leases)
    }

    /// What is restored into the side tables: everything but the member's own state and a lack of room, which the new
    /// store finds out for itself.
    pub(crate) fn tables(&self) -> Result<Vec<MetaWrite>, FileError> {
        let mut writes = Vec::new();
        for (table, name) in TABLES {
            if matches!(table, Table::CLUSTER | Table::MEMBERS) {
                continue;
            }
            self.entries(name, &mut |key, value| {
                if table != Table::ALARM || schema::is_corrupt(key) {
                    writes.push(MetaWrite::put(table, key.to_vec(), value.to_vec()));
                }
                Ok(())
            })?;
        }
        Ok(writes)
    }

    fn entries(&self, bucket: &[u8], visit: &mut Entry<'_>) -> Result<(), FileError> {
        let walk = self.reader.bucket(bucket, &mut |key, value| {
            visit(key, value).map_err(|detail| Stop::Detail(detail.to_owned()))?;
            Ok(true)
        });
        walk.map(drop).map_err(|stop| unusable(&self.path, stop))
    }

    /// Visits the versions of keys in the order of their revisions. A version of an empty key is one that only moves
    /// the revision on, which is how etcd's tools do that.
    pub(crate) fn versions(
        &self,
        visit: &mut dyn FnMut(KeyVersion) -> Result<(), Stop>,
    ) -> Result<(), FileError> {
        let walk = self.reader.bucket(schema::KEY, &mut |key, value| {
            let version = version(key, value).ok_or_else(|| {
                let at = key.escape_ascii();
                Stop::Detail(format!("the entry of revision {at} is no version of a key"))
            })?;
            visit(version)?;
            Ok(true)
        });
        match walk {
            Ok(true) => Ok(()),
            Ok(false) => Err(unusable(
                &self.path,
                Stop::Detail("it has no bucket of keys".to_owned()),
            )),
            Err(stop) => Err(unusable(&self.path, stop)),
        }
    }
}

fn unusable(path: &Path, stop: Stop) -> FileError {
    let path = path.to_owned();
    match stop {
        Stop::Problem(Problem::Io { source, .. }) => FileError::Io { path, source },
        Stop::Problem(problem) => FileError::Content {
            path,
            detail: problem.to_string(),
        },
        Stop::Detail(detail) => FileError::Content { path, detail },
    }
}

/// Whether the SHA-256 of the first `bytes` is what follows them.
fn matches(file: &File, bytes: u64, progress: &mut dyn FnMut(u64, u64)) -> io::Result<bool> {
    let mut sha = Context::new(&SHA256);
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < bytes {
        let len = PIECE.min((bytes - at) as usize);
        file.read_exact_at(&mut piece[..len], at)?;
        sha.update(&piece[..len]);
        at += len as u64;
        progress(at, bytes);
    }
    let mut expected = [0; SUM_BYTES as usize];
    file.read_exact_at(&mut expected, bytes)?;
    Ok(sum(&sha.finish()) == expected)
}

fn version(key: &[u8], value: &[u8]) -> Option<KeyVersion> {
    let (revision, sub, tombstone) = schema::parse_revision(key)?;
    let kv = mvccpb::KeyValue::decode(value).ok()?;
    let in_range = (1..=REVISION_MAX).contains(&revision);
    // Of a deletion etcd writes the key alone.
    let known = tombstone
        || (kv.key.is_empty() && value.is_empty())
        || (kv.mod_revision == revision
            && (1..=revision).contains(&kv.create_revision)
            && kv.version > 0
            && !kv.key.is_empty());
    (in_range && known && !(tombstone && kv.key.is_empty())).then_some(KeyVersion {
        revision,
        sub,
        tombstone,
        kv,
    })
}
