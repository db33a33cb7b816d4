//! From what is on disk to a running store.
//!
//! - A torn last commit is cut off: it was never acknowledged.
//! - Anything else that does not read back is damage, and the store refuses to open: a bad record with a
//!   later commit behind it, a record that the end of the file cuts off, a bad record in a segment that has a successor, a segment shorter than its
//!   successor says, a gap in the chain, a bad header.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::files::{Files, Segment, failed};
use super::{checkpoint, scan};
use crate::core::checkpoint as checkpoint_format;
use crate::core::checkpoint::Meta;
use crate::core::header::{HEADER, Header, file_name, parse_file_name};
use crate::core::index::{Index, Location, Version};
use crate::core::lease::Leases;
use crate::core::meta::Tables;
use crate::core::record::{Bad, Kind, OpRef, Record};
use crate::error::OpenError;
use crate::plant::{self, Plant};
use crate::point::{self, Point};

/// The number of a file that is not there any more.
const LOST: u32 = u32::MAX - 1;

/// What the log adds up to.
pub(crate) struct State {
    pub(crate) index: Index,
    pub(crate) leases: Leases,
    pub(crate) tables: Tables,
    pub(crate) revision: i64,
    pub(crate) floor: i64,
    /// Records of the log.
    pub(crate) log_index: u64,
    /// Records that had to be read to get here.
    pub(crate) replayed: u64,
    /// Whether the index may name places that are gone, because nothing could reach them any more.
    lost: bool,
}

impl State {
    pub(crate) fn empty(now: Instant) -> Self {
        Self {
            index: Index::default(),
            leases: Leases::new(now),
            tables: Tables::default(),
            revision: crate::types::Revision::INITIAL.0,
            floor: -1,
            log_index: 0,
            replayed: 0,
            lost: false,
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
            Kind::Revoke { .. } if plant::has(Plant::RevivedLease) => (),
            Kind::Revoke { id } => drop(self.leases.revoke(id)),
            Kind::Meta => (),
        }
        for entry in record.meta() {
            self.tables.apply(&entry?);
        }
        self.revision = record.revision;
        self.log_index += 1;
        self.replayed += 1;
        if record.has_ops() {
            segment.mark(record.revision, offset);
        }
        Ok(())
    }

    /// A checkpoint may be older than the compaction after which a segment was given up. What it says of
    /// such a segment lies below the floor, or the log is damaged.
    fn drop_lost(&mut self, files: &Files) -> Result<(), OpenError> {
        if !self.lost {
            return Ok(());
        }
        let table = files.table();
        let is_there = |version: &Version| {
            version.is_tombstone()
                || table.by_number.get(&version.at.file).is_some_and(|segment| {
                    u64::from(version.at.offset) + u64::from(version.at.len) <= segment.end()
                })
        };
        let mut from: Option<Box<[u8]>> = None;
        loop {
            from = self
                .index
                .prune(from.as_deref(), self.floor, usize::MAX, &mut |key, version| {
                    if let Some(segment) = table.by_number.get(&version.at.file) {
                        segment.weigh(-1, key.len(), version.at.len);
                    }
                });
            if from.is_none() {
                break;
            }
        }
        let mut gone = None;
        self.index.walk(None, usize::MAX, |_, older, newest| {
            gone = gone.or(older
                .iter()
                .chain([newest])
                .find(|version| !is_there(version))
                .copied());
        });
        match gone {
            None => Ok(()),
            Some(version) => Err(OpenError::Damaged {
                path: table
                    .by_number
                    .get(&version.at.file)
                    .map_or_else(|| files.dir.clone(), |s| s.path.clone()),
                offset: u64::from(version.at.offset),
                detail: format!("a value of revision {} is missing", version.modified),
            }),
        }
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
                    crc: crc32c::crc32c(value),
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
    /// The checkpoint that was used.
    pub(crate) saved: Option<Saved>,
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
    point::hit(Point::RecoveryListed);
    remove_leftovers(files, &names)?;
    let saved = checkpoint::read(files, &names)?;
    let (members, saved) = chain(files, &names, saved)?;
    let mut state = State::empty(Instant::now());
    let Some((last, sealed)) = members.split_last() else {
        return Ok(Recovered {
            state,
            next: Next::Begin(first_header()),
            saved: None,
        });
    };
    let first = &members[0].segment.header;
    (state.revision, state.log_index) = (first.first_revision, first.first_index);
    let from = match saved {
        Some(saved) => restore(files, &mut state, &members, saved)?,
        None => None,
    };
    for (member, successor) in sealed.iter().zip(&members[1..]) {
        replay_sealed(&mut state, member, &successor.segment.header, from)?;
        files.push(&member.segment);
    }
    let end = replay_last(&mut state, last, from)?;
    point::hit(Point::RecoveryRead);
    let next = close_last(files, &state, last, end)?;
    point::hit(Point::RecoveryClosed);
    state.drop_lost(files)?;
    state.leases.renew_all(Instant::now());
    Ok(Recovered {
        state,
        next,
        saved: from,
    })
}

fn first_header() -> Header {
    Header {
        id: 1,
        salt: fastrand::u64(..),
        first_revision: crate::types::Revision::INITIAL.0,
        oldest: 1,
        floor: -1,
        cleaned: -1,
        cluster_id: fastrand::u64(1..),
        member_id: fastrand::u64(1..),
        ..Header::default()
    }
}

/// Where a checkpoint stands in the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Saved {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) log_index: u64,
}

/// Takes a checkpoint's state, unless it does not read back: then the whole log is replayed.
fn restore(
    files: &Files,
    state: &mut State,
    members: &[Member],
    (bytes, meta): (Vec<u8>, Meta),
) -> Result<Option<Saved>, OpenError> {
    let newest = members.last().map_or(0, |last| last.segment.header.id);
    if newest < meta.segment {
        let missing = files.path(&file_name(meta.segment, 0));
        return Err(missing_segment(missing));
    }
    let number = |id: &(u64, u32)| {
        let has = |member: &&Member| (member.segment.header.id, member.segment.header.generation) == *id;
        members
            .iter()
            .find(has)
            .map_or(LOST, |member| member.segment.number)
    };
    let numbers = meta.files.iter().map(number).collect();
    let Some((meta, index)) = checkpoint_format::load(&bytes, |_| numbers) else {
        tracing::warn!("the checkpoint is damaged: reading the whole log instead");
        return Ok(None);
    };
    let by_number: HashMap<u32, &Segment> = members
        .iter()
        .map(|member| (member.segment.number, &*member.segment))
        .collect();
    let now = Instant::now();
    meta.leases
        .iter()
        .for_each(|(id, ttl)| state.leases.grant(*id, *ttl, now));
    let leases = &mut state.leases;
    let mut lost = false;
    index.walk(None, usize::MAX, |key, older, newest| {
        for version in older.iter().chain([newest]) {
            match by_number.get(&version.at.file) {
                Some(segment) => {
                    segment.weigh(1, key.len(), version.at.len);
                    let sealed_end = segment.header.sealed_end;
                    let end = u64::from(version.at.offset) + u64::from(version.at.len);
                    lost |= sealed_end != 0 && end > sealed_end;
                }
                None => lost = true,
            }
        }
        if newest.lease != 0 {
            leases.attach(newest.lease, key);
        }
    });
    (state.index, state.revision, state.floor) = (index, meta.revision, meta.floor);
    state.tables = meta.tables;
    state.lost = lost;
    Ok(Some(Saved {
        segment: meta.segment,
        offset: meta.offset,
        log_index: meta.log_index,
    }))
}

fn remove_leftovers(files: &Files, names: &[String]) -> Result<(), OpenError> {
    for name in names.iter().filter(|name| name.ends_with(".tmp")) {
        let path = files.path(name);
        files.disk.remove(&path).map_err(failed("remove", &path))?;
    }
    Ok(())
}

type Generations = BTreeMap<u64, BTreeMap<u32, PathBuf>>;
type SavedBytes = Option<(Vec<u8>, Meta)>;

/// Opens the segments, in order, and checks that none is missing. Gives the checkpoint back if it fits them.
///
/// While a segment is being rewritten two generations of it exist; the old one is deleted once a checkpoint
/// speaks of the new one. So a segment is taken as the checkpoint knows it, one that it does not know as
/// it was before any rewrite, and without a checkpoint the newest of each: each choice is one consistent state.
fn chain(files: &Files, names: &[String], saved: SavedBytes) -> Result<(Vec<Member>, SavedBytes), OpenError> {
    let mut found = Generations::new();
    for name in names {
        if let Some((id, generation)) = parse_file_name(name) {
            found.entry(id).or_default().insert(generation, files.path(name));
        }
    }
    let known: HashMap<u64, u32> = saved
        .iter()
        .flat_map(|(_, meta)| meta.files.iter().copied())
        .collect();
    let fits = found
        .iter()
        .all(|(id, paths)| known.get(id).is_none_or(|known| paths.contains_key(known)));
    let saved = saved.filter(|_| fits);
    let mut members = Vec::new();
    for (id, paths) in &found {
        let chosen = match (&saved, known.get(id)) {
            (Some(_), Some(generation)) => paths.get_key_value(generation),
            (Some(_), None) => paths.first_key_value(),
            (None, _) => paths.last_key_value(),
        };
        let Some((generation, path)) = chosen else {
            continue;
        };
        let member = open(files, path)?;
        if (member.segment.header.id, member.segment.header.generation) != (*id, *generation) {
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
            return Err(missing_segment(files.path(&file_name(expected, 0))));
        }
    }
    if let (true, Some((_, meta))) = (members.is_empty(), &saved) {
        return Err(missing_segment(files.path(&file_name(meta.segment, 0))));
    }
    remove_others(files, &found, &members)?;
    Ok((members, saved))
}

/// Deletes generations that were not chosen, and segments that nothing needs.
fn remove_others(files: &Files, found: &Generations, members: &[Member]) -> Result<(), OpenError> {
    for path in found.values().flat_map(BTreeMap::values) {
        if !members.iter().any(|member| member.segment.path == *path) {
            files.disk.remove(path).map_err(failed("remove", path))?;
        }
    }
    Ok(())
}

fn missing_segment(path: PathBuf) -> OpenError {
    OpenError::Damaged {
        path,
        offset: 0,
        detail: "the segment is missing".to_owned(),
    }
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

fn replay_sealed(
    state: &mut State,
    member: &Member,
    successor: &Header,
    saved: Option<Saved>,
) -> Result<(), OpenError> {
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
    segment.end.store(end, Ordering::Release);
    state.floor = state.floor.max(header.floor);
    let Some(from) = begin(header, saved) else {
        return Ok(());
    };
    if u64::from(from) > end && header.sealed_end == 0 {
        return Err(damaged(segment, end, "the segment ends before the checkpoint"));
    }
    // One that was emptied since the checkpoint ends before it, and has nothing to say.
    let bytes = read(member, from.min(end as u32), end)?;
    let ended = replay(state, segment, from, &bytes);
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
    Ok(())
}

/// Where in a segment to begin, if the checkpoint does not cover all of it.
fn begin(header: &Header, saved: Option<Saved>) -> Option<u32> {
    match saved {
        Some(saved) if header.id < saved.segment => None,
        Some(saved) if header.id == saved.segment => Some(saved.offset as u32),
        _ => Some(HEADER),
    }
}

fn replay(state: &mut State, segment: &Segment, from: u32, bytes: &[u8]) -> scan::Ended {
    scan::records(bytes, from, segment.header.salt, |offset, record| {
        state.apply(segment, offset, record)?;
        Ok(true)
    })
}

/// Replays the segment that was being written; returns where its last complete commit ends.
fn replay_last(state: &mut State, member: &Member, saved: Option<Saved>) -> Result<u64, OpenError> {
    let segment = &member.segment;
    let header = &segment.header;
    if header.sealed_end != 0 {
        return Err(damaged(segment, 0, "the segments after it are missing"));
    }
    state.floor = state.floor.max(header.floor);
    state.revision = state.revision.max(header.first_revision);
    let from = begin(header, saved).unwrap_or(HEADER);
    state.log_index = match saved {
        Some(saved) if saved.segment == header.id => saved.log_index,
        _ => header.first_index,
    };
    let len = member.len.min(u64::from(u32::MAX));
    if len < u64::from(from) {
        return Err(damaged(segment, len, "the segment is shorter than it was"));
    }
    let bytes = read(member, from, len)?;
    let ended = replay(state, segment, from, &bytes);
    match ended.bad {
        Some(Bad::Content) => return Err(damaged(segment, u64::from(ended.at), Bad::Content.text())),
        // Commits are written into space that was reserved before, so a crash leaves none that the file's end cuts off.
        Some(bad @ Bad::Short) => return Err(damaged(segment, u64::from(ended.at), bad.text())),
        Some(bad) if scan::later_commit(&bytes, from, ended.at, header.salt).is_some() => {
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
