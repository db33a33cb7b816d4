//! Looks at a store's files without changing them: every record, every checksum, and the checkpoint's index against
//! the log. Unlike a start, it goes on after the first damage.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use setpoint_base::{Disk, DiskFile};

use super::files::failed;
use super::scan;
use crate::core::checkpoint::{self, Meta};
use crate::core::header::{HEADER, Header, parse_file_name};
use crate::core::record::Bad;
use crate::error::OpenError;

/// Problems that are listed; the rest are counted.
const PROBLEMS_MAX: usize = 100;

/// What was found in a store's directory.
#[derive(Debug, Default)]
pub struct Verified {
    /// Segments of the log.
    pub segments: u64,
    /// Records whose checksum holds and whose content makes sense.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// The newest revision.
    pub revision: i64,
    /// Whether there is a checkpoint. Without one, or with a damaged one, a start reads the whole log.
    pub checkpoint: bool,
    /// Values of the checkpoint's index that were compared with the log.
    pub values: u64,
    /// Damage, the first 100 places of it.
    pub problems: Vec<Damage>,
    /// Damage beyond those.
    pub more_problems: u64,
    /// What is no damage, but worth knowing: a commit that a crash cut off.
    pub notes: Vec<Damage>,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What was found there.
    pub detail: String,
}

/// A segment whose header could be read.
struct Member {
    path: PathBuf,
    header: Header,
    file: Arc<dyn DiskFile>,
    len: u64,
}

/// Verifies the store in `dir`, which no process may be using. `progress` gets bytes done and all.
///
/// # Errors
/// When the directory is in use or cannot be read. Damage is no error: it is in the answer.
pub fn verify(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Verified, OpenError> {
    let lock_path = dir.join("lock");
    let names = disk.list(dir).map_err(failed("list", dir))?;
    let _lock = disk.lock(&lock_path).map_err(|error| {
        if error.kind() == std::io::ErrorKind::WouldBlock {
            OpenError::Locked { dir: dir.to_owned() }
        } else {
            failed("lock", &lock_path)(error)
        }
    })?;
    let mut found = Verified::default();
    let members = found.members(disk, dir, &names)?;
    let all: u64 = members.iter().map(|member| member.len).sum();
    for (n, member) in members.iter().enumerate() {
        found.segment(member, successor(&members, n))?;
        found.bytes += member.len;
        progress(found.bytes, all);
    }
    found.chain(&members);
    if names.iter().any(|name| name == "checkpoint") {
        found.index(disk, &dir.join("checkpoint"), &members)?;
    }
    Ok(found)
}

/// The segment that follows in the log; another generation of the same segment does not.
fn successor(members: &[Member], n: usize) -> Option<&Header> {
    let id = members[n].header.id;
    members[n + 1..]
        .iter()
        .map(|member| &member.header)
        .find(|header| header.id > id)
}

impl Verified {
    fn problem(&mut self, path: &Path, offset: u64, detail: impl Into<String>) {
        if self.problems.len() == PROBLEMS_MAX {
            self.more_problems += 1;
            return;
        }
        self.problems.push(Damage {
            path: path.to_owned(),
            offset,
            detail: detail.into(),
        });
    }

    /// Opens the segments, by number and generation.
    fn members(
        &mut self,
        disk: &Arc<dyn Disk>,
        dir: &Path,
        names: &[String],
    ) -> Result<Vec<Member>, OpenError> {
        let mut members = Vec::new();
        for name in names {
            let Some(named) = parse_file_name(name) else {
                continue;
            };
            let path = dir.join(name);
            let file = disk.open(&path).map_err(failed("open", &path))?;
            let len = file.len().map_err(failed("read the length of", &path))?;
            let mut bytes = vec![0; len.min(u64::from(HEADER)) as usize];
            file.read_exact_at(&mut bytes, 0).map_err(failed("read", &path))?;
            match Header::parse(&bytes) {
                Some(header) if (header.id, header.generation) == named => members.push(Member {
                    path,
                    header,
                    file,
                    len,
                }),
                Some(_) => self.problem(&path, 0, "the header belongs to another segment"),
                None => self.problem(&path, 0, "the header is not one of a segment"),
            }
        }
        members.sort_by_key(|member| (member.header.id, member.header.generation));
        self.segments = members.len() as u64;
        Ok(members)
    }

    fn segment(&mut self, member: &Member, successor: Option<&Header>) -> Result<(), OpenError> {
        let header = &member.header;
        let end = match (header.sealed_end, successor) {
            (0, Some(successor)) => successor.prev_end,
            (0, None) => member.len,
            (sealed, _) => sealed,
        };
        if end > member.len {
            self.problem(&member.path, member.len, "the segment is shorter than it was");
        }
        let end = end.min(member.len).max(u64::from(HEADER));
        let mut bytes = vec![0; (end - u64::from(HEADER)) as usize];
        let read = member.file.read_exact_at(&mut bytes, u64::from(HEADER));
        if let Err(error) = read {
            self.problem(
                &member.path,
                u64::from(HEADER),
                format!("it cannot be read: {error}"),
            );
            return Ok(());
        }
        let mut revision = header.first_revision;
        let ended = scan::records(&bytes, HEADER, header.salt, |_, record| {
            for op in record.ops() {
                op?;
            }
            for entry in record.meta() {
                entry?;
            }
            let expected = revision + i64::from(record.has_ops());
            let in_order =
                record.revision == expected || (header.sealed_end != 0 && record.revision > expected);
            if !in_order {
                return Err(Bad::Content);
            }
            revision = record.revision;
            self.records += 1;
            Ok(true)
        });
        self.revision = self.revision.max(revision);
        let Some(bad) = ended.bad else { return Ok(()) };
        let last = successor.is_none() && header.sealed_end == 0;
        let later = scan::later_commit(&bytes, HEADER, ended.at, header.salt);
        match bad {
            // Reserved space, or a commit that was never acknowledged.
            Bad::Blank | Bad::Checksum if last && later.is_none() => {
                if bytes[(ended.at - HEADER) as usize..]
                    .iter()
                    .any(|byte| *byte != 0)
                {
                    self.notes.push(Damage {
                        path: member.path.clone(),
                        offset: u64::from(ended.at),
                        detail: "a commit that was not finished; the next start cuts it off".to_owned(),
                    });
                }
            }
            bad => {
                let behind = later.map_or(String::new(), |at| format!("; records go on at {at}"));
                self.problem(
                    &member.path,
                    u64::from(ended.at),
                    format!("{}{behind}", bad.text()),
                );
            }
        }
        Ok(())
    }

    /// Whether a segment is missing.
    fn chain(&mut self, members: &[Member]) {
        let Some(last) = members.last() else { return };
        if last.header.sealed_end != 0 {
            self.problem(&last.path, 0, "the segments after it are missing");
        }
        let mut expected = last.header.oldest;
        for member in members {
            let id = member.header.id;
            if id > expected {
                self.problem(
                    &member.path,
                    0,
                    format!("segments {expected} to {} before it are missing", id - 1),
                );
            }
            expected = expected.max(id + 1);
        }
    }

    /// Compares the checkpoint's index with the log.
    fn index(&mut self, disk: &Arc<dyn Disk>, path: &Path, members: &[Member]) -> Result<(), OpenError> {
        let file = disk.open(path).map_err(failed("open", path))?;
        let len = file.len().map_err(failed("read the length of", path))?;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, 0).map_err(failed("read", path))?;
        // Files are numbered by their place among the members; one that is gone held nothing above the floor.
        let by_name: HashMap<(u64, u32), u32> = members
            .iter()
            .zip(0..)
            .map(|(member, n)| ((member.header.id, member.header.generation), n))
            .collect();
        let place = |meta: &Meta| {
            let number = |id| by_name.get(id).copied().unwrap_or(u32::MAX);
            meta.files.iter().map(number).collect()
        };
        let Some((meta, index)) = checkpoint::load(&bytes, place) else {
            self.problem(
                path,
                0,
                "the checkpoint is damaged; a start reads the whole log instead",
            );
            return Ok(());
        };
        self.checkpoint = true;
        self.revision = self.revision.max(meta.revision);
        let mut value = Vec::new();
        let floor = members.iter().map(|member| member.header.floor).max();
        let floor = floor.unwrap_or(-1).max(meta.floor);
        index.walk(None, usize::MAX, |_, older, newest| {
            // What is older than the newest one at the floor may be gone.
            let at_floor = older.partition_point(|version| version.modified <= floor);
            let first = if newest.modified <= floor {
                older.len()
            } else {
                at_floor.saturating_sub(1)
            };
            for version in older[first..].iter().chain([newest]) {
                let at = version.at;
                let Some(member) = members.get(at.file as usize).filter(|_| at.len > 0) else {
                    continue;
                };
                self.values += 1;
                value.resize(at.len as usize, 0);
                let read = member.file.read_exact_at(&mut value, u64::from(at.offset));
                if read.is_err() || crc32c::crc32c(&value) != at.crc {
                    let detail = format!(
                        "the value of revision {} is not the one that was written",
                        version.modified
                    );
                    self.problem(&member.path, u64::from(at.offset), detail);
                }
            }
        });
        Ok(())
    }
}
