//! From what is on disk to a running store.
//!
//! - A torn last commit is cut off: it was never acknowledged.
//! - Anything else that does not read back is damage, and the store refuses to open: a bad record with a
//!   later commit behind it, a bad record in a segment that has a successor, a segment shorter than its
//!   successor says, a gap in the chain, a bad header.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::files::{Files, Segment, failed};
use super::scan;
use crate::core::header::{HEADER, Header, parse_file_name};
use crate::core::index::{Index, Location, Version};
use crate::core::lease::Leases;
use crate::core::record::{Bad, Kind, OpRef, Record};
use crate::error::OpenError;

/// What the log adds up to.
pub(crate) struct State {
    pub(crate) index: Index,
    pub(crate) leases: Leases,
    pub(crate) revision: i64,
    pub(crate) floor: i64,
    /// Records of the log.
    pub(crate) log_index: u64,
    /// Records that had to be read to get here.
    pub(crate) replayed: u64,
}

impl State {
    pub(crate) fn empty(now: Instant) -> Self {
        Self {
            index: Index::default(),
            leases: Leases::new(now),
            revision: crate::types::Revision::INITIAL.0,
            floor: -1,
            log_index: 0,
            replayed: 0,
        }
    }

    fn apply(&mut self, segment: &Segment, offset: u32, record: &Record<'_>) -> Result<(), Bad> {
        let appended = segment.header.sealed_end == 0;
        let expected = self.revision + i64::from(record.has_ops());
        let in_order = if appended {
            record.revision == expected
        } else {
            record.revision >= expected
        };
        if !in_order {
            return Err(Bad::Content);
        }
        for op in record.ops() {
            self.apply_op(segment, offset, record.revision, &op?);
        }
        let now = Instant::now();
        match record.kind {
            Kind::Revision => (),
            Kind::Compact { floor } => self.floor = self.floor.max(floor),
            Kind::Grant { id, ttl } => self.leases.grant(id, ttl, now),
            Kind::Revoke { id } => drop(self.leases.revoke(id)),
        }
        self.revision = record.revision;
        self.log_index += 1;
        self.replayed += 1;
        segment.mark(record.revision, offset);
        Ok(())
    }

    fn apply_op(&mut self, segment: &Segment, offset: u32, revision: i64, op: &OpRef<'_>) {
        let key = op.key();
        let before = self.index.get(key, i64::MAX).map_or(0, |version| version.lease);
        let mut version = Version {
            modified: revision,
            ..Version::default()
        };
        version.at.file = segment.number;
        match *op {
            OpRef::Delete { sub, .. } => version.sub = sub,
            OpRef::Put {
                sub,
                value,
                value_at,
                lease,
                create,
                version: number,
                ..
            } => {
                let at = Location {
                    file: segment.number,
                    offset: offset + value_at as u32,
                    len: value.len() as u32,
                };
                version = Version {
                    modified: revision,
                    create,
                    version: number,
                    lease,
                    sub,
                    at,
                };
            }
        }
        if before != version.lease {
            self.leases.detach(before, key);
        }
        if version.lease != 0 {
            self.leases.attach(version.lease, key);
        }
        self.index.apply(key, version);
        segment.weigh(1, key.len(), version.at.len);
    }
}

/// A segment found on disk.
struct Member {
    segment: Arc<Segment>,
    len: u64,
}

/// What [`recover`] found.
pub(crate) struct Recovered {
    pub(crate) state: State,
    pub(crate) next: Next,
}

/// Where the log goes on.
pub(crate) enum Next {
    /// In a new segment.
    Begin(Header),
    /// In the last one, which has no records.
    Reuse(Arc<Segment>),
}

/// Reads the directory. Leaves the last segment cut to its last complete record and durable.
pub(crate) fn recover(files: &Files) -> Result<Recovered, OpenError> {
    let names = files.disk.list(&files.dir).map_err(failed("list", &files.dir))?;
    remove_leftovers(files, &names)?;
    let members = chain(files, &names)?;
    let mut state = State::empty(Instant::now());
    let Some((last, sealed)) = members.split_last() else {
        let next = Header {
            id: 1,
            salt: fastrand::u64(..),
            first_revision: state.revision,
            oldest: 1,
            floor: -1,
            cleaned: -1,
            cluster_id: fastrand::u64(1..),
            member_id: fastrand::u64(1..),
            ..Header::default()
        };
        return Ok(Recovered {
            state,
            next: Next::Begin(next),
        });
    };
    for (member, successor) in sealed.iter().zip(&members[1..]) {
        replay_sealed(&mut state, member, &successor.segment.header)?;
        files.push(&member.segment);
    }
    let end = replay_last(&mut state, last)?;
    let next = close_last(files, &state, last, end)?;
    state.leases.renew_all(Instant::now());
    Ok(Recovered { state, next })
}

fn remove_leftovers(files: &Files, names: &[String]) -> Result<(), OpenError> {
    for name in names.iter().filter(|name| name.ends_with(".tmp")) {
        let path = files.path(name);
        files.disk.remove(&path).map_err(failed("remove", &path))?;
    }
    Ok(())
}

/// Opens the segments, in order, and checks that none is missing.
fn chain(files: &Files, names: &[String]) -> Result<Vec<Member>, OpenError> {
    let mut newest: BTreeMap<u64, (u32, PathBuf)> = BTreeMap::new();
    for name in names {
        if let Some((id, generation)) = parse_file_name(name) {
            let entry = newest.entry(id).or_insert_with(|| (generation, files.path(name)));
            if generation >= entry.0 {
                *entry = (generation, files.path(name));
            }
        }
    }
    let mut members = Vec::new();
    for (id, (generation, path)) in newest {
        let member = open(files, &path)?;
        if (member.segment.header.id, member.segment.header.generation) != (id, generation) {
            return Err(damaged(
                &member.segment,
                0,
                "the header belongs to another segment",
            ));
        }
        members.push(member);
    }
    let oldest = members.last().map_or(0, |last| last.segment.header.oldest);
    members.retain(|member| member.segment.header.id >= oldest);
    for (expected, member) in (oldest..).zip(&members) {
        if member.segment.header.id != expected {
            let missing = files.path(&crate::core::header::file_name(expected, 0));
            return Err(OpenError::Damaged {
                path: missing,
                offset: 0,
                detail: "the segment is missing".into(),
            });
        }
    }
    Ok(members)
}

fn open(files: &Files, path: &std::path::Path) -> Result<Member, OpenError> {
    let file = files.disk.open(path).map_err(failed("open", path))?;
    let len = file.len().map_err(failed("read the length of", path))?;
    let mut bytes = vec![0; HEADER.min(u32::try_from(len).unwrap_or(HEADER)) as usize];
    file.read_exact_at(&mut bytes, 0).map_err(failed("read", path))?;
    let Some(header) = Header::parse(&bytes) else {
        let detail = "the header is not one of a segment".to_owned();
        return Err(OpenError::Damaged {
            path: path.to_path_buf(),
            offset: 0,
            detail,
        });
    };
    let segment = Segment::new(
        files.next_number(),
        header,
        path.to_path_buf(),
        file,
        u64::from(HEADER),
    );
    Ok(Member {
        segment: Arc::new(segment),
        len,
    })
}

fn damaged(segment: &Segment, offset: u64, detail: &str) -> OpenError {
    OpenError::Damaged {
        path: segment.path.clone(),
        offset,
        detail: detail.to_owned(),
    }
}

fn read(member: &Member, from: u32, to: u64) -> Result<Vec<u8>, OpenError> {
    let mut bytes = vec![0; (to - u64::from(from)) as usize];
    let path = &member.segment.path;
    member
        .segment
        .file
        .read_exact_at(&mut bytes, u64::from(from))
        .map_err(failed("read", path))?;
    Ok(bytes)
}

fn replay_sealed(state: &mut State, member: &Member, successor: &Header) -> Result<(), OpenError> {
    let segment = &member.segment;
    let header = &segment.header;
    let end = if header.sealed_end == 0 {
        successor.prev_end
    } else {
        header.sealed_end
    };
    if member.len < end {
        return Err(damaged(segment, member.len, "the segment is shorter than it was"));
    }
    state.floor = state.floor.max(header.floor);
    let bytes = read(member, HEADER, end)?;
    let ended = replay(state, segment, &bytes);
    if let Some(bad) = ended.bad {
        return Err(damaged(segment, u64::from(ended.at), bad.text()));
    }
    let consistent = if header.sealed_end == 0 {
        state.revision == successor.first_revision
    } else {
        state.revision <= successor.first_revision
    };
    if !consistent {
        return Err(damaged(
            segment,
            end,
            "its last revision is not the one its successor follows",
        ));
    }
    state.revision = successor.first_revision;
    state.log_index = successor.first_index;
    segment.end.store(end, Ordering::Release);
    Ok(())
}

fn replay(state: &mut State, segment: &Segment, bytes: &[u8]) -> scan::Ended {
    scan::records(bytes, HEADER, segment.header.salt, |offset, record| {
        state.apply(segment, offset, record)?;
        Ok(true)
    })
}

/// Replays the segment that was being written; returns where its last complete commit ends.
fn replay_last(state: &mut State, member: &Member) -> Result<u64, OpenError> {
    let segment = &member.segment;
    if segment.header.sealed_end != 0 {
        return Err(damaged(segment, 0, "the segments after it are missing"));
    }
    state.floor = state.floor.max(segment.header.floor);
    state.revision = state.revision.max(segment.header.first_revision);
    let len = member.len.min(u64::from(u32::MAX));
    let bytes = read(member, HEADER, len)?;
    let ended = replay(state, segment, &bytes);
    match ended.bad {
        Some(Bad::Content) => return Err(damaged(segment, u64::from(ended.at), Bad::Content.text())),
        Some(bad) if scan::later_commit(&bytes, HEADER, ended.at, segment.header.salt).is_some() => {
            return Err(damaged(segment, u64::from(ended.at), bad.text()));
        }
        _ => (),
    }
    Ok(u64::from(ended.at))
}

/// Cuts the last segment for good. An empty one is used again: the cut has removed every byte behind its
/// header, so nothing that was torn can come back.
fn close_last(files: &Files, state: &State, last: &Member, end: u64) -> Result<Next, OpenError> {
    let segment = &last.segment;
    segment.file.set_len(end).map_err(failed("cut", &segment.path))?;
    segment.file.sync_data().map_err(failed("sync", &segment.path))?;
    segment.end.store(end, Ordering::Release);
    files.push(segment);
    if end == u64::from(HEADER) {
        return Ok(Next::Reuse(Arc::clone(segment)));
    }
    Ok(Next::Begin(Header {
        id: segment.header.id + 1,
        salt: fastrand::u64(..),
        first_revision: state.revision,
        first_index: state.log_index,
        floor: state.floor,
        prev_end: end,
        ..segment.header
    }))
}
