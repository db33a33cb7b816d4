//! Keys in their own order, given to whoever makes an answer of them.
//!
//! Key and value are looked at where they lie, the one in the index, the other in the newest part of the log, and copied
//! once: to where the answer is made. A few keys' values are looked for before the first of them is copied. For a value that is only on disk room is left there, and filled when the locks are
//! free again.

use std::ops::Range as Part;
use std::sync::Arc;

use bytes::Bytes;

use super::pins::Pin;
use super::reader::{STEP, after};
use super::shared::Shared;
use crate::core::check;
use crate::core::eval::read_revision;
use crate::core::index::{Location, Version};
use crate::core::select::{KEY_COST, RESULT_BYTES_MAX, is_plain, passes, shows_leases};
use crate::error::Error;
use crate::log::files::Table;
use crate::log::hot::HotRead;
use crate::plant::{self, Plant};
use crate::point::{self, Point};
use crate::types::{KeyRange, Range};

/// Keys of a walk that are looked up under one lock, and bytes of values that are copied. Commits wait meanwhile, and when
/// the kernel takes the processor from whoever has the lock, for much longer: so there are pauses often.
pub(super) const HELD_KEYS: usize = 128;
const HELD_BYTES: usize = 32 << 10;

/// Keys whose values are looked for together. Memory that is far away is then waited for once, and not once for each.
pub(super) const TOGETHER: usize = 16;
/// Bytes of a value that are looked for; the processor sees by itself how it goes on.
const TOUCHED_BYTES: usize = 512;
/// Bytes of one line of a processor's cache.
const LINE_BYTES: usize = 64;

/// Where a value lies.
pub(crate) enum Value<'a> {
    /// There is none, or none is wanted.
    None,
    /// Part of a commit in memory, which can be copied or shared.
    Part(&'a Bytes, Part<usize>),
    /// On disk only.
    Away(Location),
}

/// Reads a value from where it lies to where it is wanted.
pub(crate) type Read<'a> = &'a mut dyn FnMut(Location, &mut [u8]) -> Result<(), Error>;

/// Makes an answer of keys and values.
pub(crate) trait Taker {
    /// Takes a key, of which there are at most `left` behind it. For a value that is away it leaves room.
    fn take(&mut self, key: &[u8], version: &Version, value: Value<'_>, left: usize);

    /// Has the rooms filled that were left since the last time.
    ///
    /// # Errors
    /// The first that `read` says: the answer is of no use then.
    fn fill(&mut self, read: Read<'_>) -> Result<(), Error>;
}

/// How much may be given.
pub(super) struct Most {
    pub(super) keys: usize,
    /// Bytes of values: it ends with the value that reaches them.
    pub(super) bytes: usize,
}

impl Most {
    pub(super) fn is_reached(&self) -> bool {
        self.keys == 0 || self.bytes == 0
    }
}

/// What was given of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    /// The store's revision.
    pub(crate) revision: i64,
    /// Whether the limit has cut it.
    pub(crate) more: bool,
    /// Keys in the range, whatever the limit.
    pub(crate) count: i64,
}

/// A key to be given.
#[derive(Clone, Copy)]
struct Next<'k> {
    key: &'k [u8],
    version: &'k Version,
    left: usize,
}

/// Gives keys under locks; what is away is read without them. `N` keys are looked at together: [`TOGETHER`], or 1 where
/// there is no more.
pub(super) struct Giver<'s, 'k, const N: usize> {
    shared: &'s Shared,
    keys_only: bool,
    leases: bool,
    hot: Option<HotRead<'s>>,
    /// The files as of now, if a value is away.
    table: Option<Arc<Table>>,
    next: [Option<Next<'k>>; N],
    waiting: usize,
}

impl<'s, 'k, const N: usize> Giver<'s, 'k, N> {
    /// To be made and used under one lock of the index, so that places found there stay readable.
    pub(super) fn new(shared: &'s Shared, range: &Range) -> Self {
        Self {
            shared,
            keys_only: range.keys_only,
            leases: shows_leases(range),
            hot: None,
            table: None,
            next: [None; N],
            waiting: 0,
        }
    }

    pub(super) fn give(&mut self, key: &'k [u8], version: &'k Version, left: usize, taker: &mut impl Taker) {
        if self.keys_only {
            let mut version = *version;
            version.lease = if self.leases { version.lease } else { 0 };
            return taker.take(key, &version, Value::None, left);
        }
        self.next[self.waiting] = Some(Next { key, version, left });
        self.waiting += 1;
        if self.waiting == N {
            self.flush(taker);
        }
    }

    fn flush(&mut self, taker: &mut impl Taker) {
        let waiting = std::mem::take(&mut self.waiting);
        let hot = self.hot.get_or_insert_with(|| self.shared.hot.read());
        let mut found = [const { None }; N];
        for (next, found) in self.next[..waiting].iter().flatten().zip(&mut found) {
            *found = hot.find(next.version.at);
        }
        if waiting > 1 {
            touch(&found[..waiting]);
        }
        for (next, found) in self.next[..waiting].iter().flatten().zip(found) {
            let value = match found {
                _ if next.version.at.len == 0 => Value::None,
                Some((whole, part)) => Value::Part(whole, part),
                None => {
                    self.table.get_or_insert_with(|| self.shared.files.table());
                    Value::Away(next.version.at)
                }
            };
            taker.take(next.key, next.version, value, next.left);
        }
    }

    /// Gives the last of them. What was away is still to be read.
    pub(super) fn end(mut self, taker: &mut impl Taker) -> Unread<'s> {
        if self.waiting > 0 {
            self.flush(taker);
        }
        Unread {
            shared: self.shared,
            table: self.table,
        }
    }
}

/// Reads the first bytes of each, which nothing waits for: so they are fetched at the same time.
fn touch(parts: &[Option<(&Bytes, Part<usize>)>]) {
    let mut seen = 0;
    for (whole, part) in parts.iter().flatten() {
        let until = part.end.min(part.start + TOUCHED_BYTES);
        for byte in whole[part.start..until].iter().step_by(LINE_BYTES) {
            seen ^= byte;
        }
    }
    std::hint::black_box(seen);
}

/// Values that are away.
pub(super) struct Unread<'s> {
    shared: &'s Shared,
    table: Option<Arc<Table>>,
}

impl Unread<'_> {
    /// Reads them. To be called without the index's lock.
    pub(super) fn read(self, taker: &mut impl Taker) -> Result<(), Error> {
        point::hit(Point::ReadLocated);
        let Some(table) = self.table else {
            return Ok(());
        };
        taker.fill(&mut |at, room| self.shared.read_into(&table, at, room))
    }
}

/// Gives all of a range in its own order, at one moment and under one lock of the index. `None` when it is not for that:
/// it wants another order, or holds more keys than are looked up under one lock, or more bytes than `bytes_max`; what
/// the taker has got by then is to be forgotten. `begin` is told the store's revision first.
///
/// # Errors
/// As [`Store::range`](crate::Store::range).
pub(crate) fn few<T: Taker>(
    shared: &Shared,
    range: &Range,
    bytes_max: usize,
    begin: impl FnOnce(i64) -> T,
) -> Result<Option<(T, Given)>, Error> {
    check::range(range)?;
    if !is_plain(range) {
        return Ok(None);
    }
    let index = shared.index.read();
    let current = shared.committed();
    let floor = shared.floor();
    let stale = i64::from(plant::has(Plant::StaleRead));
    let revision = read_revision(range, current, floor)?.unwrap_or((current - stale).max(floor));
    let mut taker = begin(current);
    let given = if let KeyRange::Key(key) = &range.keys {
        let version = index.get(key, revision);
        let one = version.map(|version| (&key[..], version));
        let count = version.is_some().into();
        let giver = Giver::<1>::new(shared, range);
        let found = one.into_iter();
        give_all(found, range, Some(count), bytes_max, giver, &mut taker)?
    } else {
        let count = (revision == current).then(|| index.count(&range.keys) as i64);
        let found = index.scan(&range.keys, revision);
        let giver = Giver::<TOGETHER>::new(shared, range);
        give_all(found, range, count, bytes_max, giver, &mut taker)?
    };
    let Some((more, count, unread)) = given else {
        return Ok(None);
    };
    drop(index);
    unread.read(&mut taker)?;
    let given = Given {
        revision: current,
        more,
        count,
    };
    Ok(Some((taker, given)))
}

/// Gives what was found, up to the range's limit; whether there was more, the count, which is found out if it is not
/// known, and what is still to be read.
fn give_all<'s, 'k, const N: usize>(
    found: impl Iterator<Item = (&'k [u8], &'k Version)>,
    range: &Range,
    count: Option<i64>,
    bytes_max: usize,
    mut giver: Giver<'s, 'k, N>,
    taker: &mut impl Taker,
) -> Result<Option<(bool, i64, Unread<'s>)>, Error> {
    let limit = match range.limit {
        0 => usize::MAX,
        limit => limit,
    };
    if range.count_only
        && let Some(count) = count
    {
        return Ok(Some((false, count, giver.end(taker))));
    }
    let most = count.map_or(STEP, |count| usize::try_from(count).unwrap_or(0).min(limit));
    if most > STEP {
        return Ok(None);
    }
    let (mut seen, mut bytes) = (0_usize, 0_usize);
    // One more tells whether there are too many. Where the count is known nothing is looked for behind the last one: there may be
    // many that are deleted.
    for (key, version) in found.take(most + usize::from(count.is_none())) {
        if seen == most {
            return Ok(None);
        }
        seen += 1;
        if range.count_only || seen > limit {
            continue;
        }
        let value_len = if range.keys_only {
            0
        } else {
            version.at.len as usize
        };
        bytes += KEY_COST + key.len() + value_len;
        if bytes > RESULT_BYTES_MAX.min(bytes_max) {
            return if bytes > RESULT_BYTES_MAX {
                Err(Error::ResultTooLarge)
            } else {
                Ok(None)
            };
        }
        giver.give(key, version, most - seen, taker);
    }
    let count = count.unwrap_or(seen as i64);
    let more = !range.count_only && count > 0 && count as usize > limit;
    Ok(Some((more, count, giver.end(taker))))
}

/// Gives the next keys of a walk, as many as are looked up under one lock at most; how many.
///
/// # Errors
/// [`Error::Read`] when a value does not read back; [`Error::Compacted`] when it has taken too long.
pub(super) fn step(
    pin: &Pin<Arc<Shared>>,
    range: &Range,
    rest: &mut Option<KeyRange>,
    most: &mut Most,
    taker: &mut impl Taker,
) -> Result<usize, Error> {
    let Some(keys) = rest.take() else {
        return Ok(0);
    };
    let shared = pin.shared();
    let index = shared.index.read();
    pin.check()?;
    let mut giver = Giver::<TOGETHER>::new(shared, range);
    let (mut seen, mut given, mut held) = (0, 0, 0);
    let mut last: Option<&[u8]> = None;
    for (key, version) in index.scan(&keys, pin.revision()) {
        if seen == HELD_KEYS || held >= HELD_BYTES || most.is_reached() {
            *rest = last.and_then(|last| after(&keys, last));
            break;
        }
        seen += 1;
        last = Some(key);
        if passes(range, version) {
            given += 1;
            most.keys -= 1;
            most.bytes = most.bytes.saturating_sub(version.at.len as usize);
            held += version.at.len as usize;
            giver.give(key, version, most.keys.min(HELD_KEYS - seen), taker);
        }
    }
    let unread = giver.end(taker);
    drop(index);
    unread.read(taker)?;
    Ok(given)
}
