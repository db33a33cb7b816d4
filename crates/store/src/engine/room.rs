//! Whether the store may grow, and whether it may be trusted.
//!
//! Three things stop growth: the disk has no room for the next segment (`Shared::no_space`), the live bytes have
//! reached the quota, or somebody raised the NOSPACE alarm. The first two end by themselves, unless the store is run
//! in etcd's manual mode: then they raise the alarm, which stays until somebody disarms it.
//!
//! Live bytes are what the index can reach. So deleting and compacting helps at once; no defragmentation is needed.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::core::alarm::{Alarm, AlarmKind};
use crate::core::meta::{Table, Tables};
use crate::error::Error;
use crate::options::Options;

/// A full store accepts writes again this many twentieths below its quota, so that it does not flap.
const CLEAR_TWENTIETHS: u64 = 19;
/// From here on an operator should know.
const WARN_TWENTIETHS: u64 = 16;
/// Below here it is worth another warning the next time.
const CALM_TWENTIETHS: u64 = 15;

/// See the module.
pub(crate) struct Room {
    /// In bytes; `None` is no limit.
    quota: Option<u64>,
    pub(crate) manual: bool,
    over_quota: AtomicBool,
    alarmed: AtomicBool,
    corrupt: AtomicBool,
    warned: AtomicBool,
}

impl Room {
    pub(crate) fn new(options: &Options, tables: &Tables) -> Self {
        let room = Self {
            quota: u64::try_from(options.quota()).ok(),
            manual: options.no_space_manual,
            over_quota: AtomicBool::new(false),
            alarmed: AtomicBool::new(false),
            corrupt: AtomicBool::new(false),
            warned: AtomicBool::new(false),
        };
        room.read(tables);
        room
    }

    /// Takes over what the table of alarms says.
    pub(crate) fn read(&self, tables: &Tables) {
        let raised = |kind| alarms(tables).any(|alarm| alarm.kind == kind);
        let alarmed = raised(AlarmKind::NoSpace);
        self.alarmed.store(alarmed, Ordering::Release);
        self.corrupt.store(raised(AlarmKind::Corrupt), Ordering::Release);
        if self.manual && alarmed {
            // From now on the alarm stands for it, and ends it.
            self.over_quota.store(false, Ordering::Release);
        }
    }

    pub(crate) fn has_quota(&self) -> bool {
        self.quota.is_some()
    }

    /// Whether growth is refused, whatever the disk says.
    pub(crate) fn is_full(&self) -> bool {
        self.over_quota.load(Ordering::Acquire) || self.alarmed.load(Ordering::Acquire)
    }

    pub(crate) fn is_alarmed(&self) -> bool {
        self.alarmed.load(Ordering::Acquire)
    }

    pub(crate) fn is_over_quota(&self) -> bool {
        self.over_quota.load(Ordering::Acquire)
    }

    pub(crate) fn is_corrupt(&self) -> bool {
        self.corrupt.load(Ordering::Acquire)
    }

    /// Parts of a hundred of the quota that are live; 0 without one.
    pub(crate) fn used_percent(&self, live: u64) -> u64 {
        self.quota
            .map_or(0, |quota| live.saturating_mul(100) / quota.max(1))
    }

    /// Whether `cost` more bytes fit beside `live`. If not, a store that is about full refuses all growth from
    /// now on; one that is not, this request alone.
    pub(crate) fn take(&self, live: u64, cost: u64) -> Result<(), Error> {
        let Some(quota) = self.quota.filter(|quota| live.saturating_add(cost) > *quota) else {
            return Ok(());
        };
        let about_full = self.manual || live >= part(quota, CLEAR_TWENTIETHS);
        if about_full && !self.over_quota.swap(true, Ordering::AcqRel) {
            tracing::error!(
                live_bytes = live,
                quota_bytes = quota,
                "the quota is reached: only reads, deletes and compaction are accepted; delete keys and compact, or \
                 raise the quota"
            );
        }
        Err(Error::NoSpace)
    }

    /// Looks at the live bytes from time to time: warns, and ends what has ended.
    pub(crate) fn look(&self, live: u64) {
        let Some(quota) = self.quota else { return };
        let cleared = !self.manual && live < part(quota, CLEAR_TWENTIETHS);
        if cleared && self.over_quota.swap(false, Ordering::AcqRel) {
            tracing::info!(
                live_bytes = live,
                "there is room below the quota again, writes are accepted"
            );
        }
        if live >= part(quota, WARN_TWENTIETHS) {
            if !self.warned.swap(true, Ordering::AcqRel) {
                tracing::warn!(
                    live_bytes = live,
                    quota_bytes = quota,
                    "80 % of the quota are used: delete keys and compact, or raise it"
                );
            }
        } else if live < part(quota, CALM_TWENTIETHS) {
            self.warned.store(false, Ordering::Release);
        }
    }
}

fn part(quota: u64, twentieths: u64) -> u64 {
    // Through 128 bits: a quota may be as large as a number can be.
    (u128::from(quota) * u128::from(twentieths) / 20) as u64
}

/// What the table of alarms says.
pub(crate) fn alarms(tables: &Tables) -> impl Iterator<Item = Alarm> {
    tables
        .table(Table::ALARM)
        .filter_map(|(key, _)| Alarm::decode(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(quota: i64, manual: bool) -> Room {
        let options = Options {
            quota_bytes: quota,
            no_space_manual: manual,
            ..Options::new("")
        };
        Room::new(&options, &Tables::default())
    }

    #[test]
    fn a_full_store_stays_full_until_it_is_clearly_below_its_quota() {
        let room = room(1000, false);
        assert_eq!(room.take(900, 100), Ok(()));
        assert_eq!(room.take(960, 100), Err(Error::NoSpace));
        assert!(room.is_full());
        room.look(951);
        assert!(room.is_full());
        room.look(949);
        assert!(!room.is_full());
    }

    #[test]
    fn one_large_request_does_not_make_a_store_full() {
        let room = room(1000, false);
        assert_eq!(room.take(500, 600), Err(Error::NoSpace));
        assert!(!room.is_full());
    }

    #[test]
    fn in_manual_mode_it_does_not_end_by_itself() {
        let room = room(1000, true);
        assert_eq!(room.take(500, 600), Err(Error::NoSpace));
        room.look(0);
        assert!(room.is_full());
    }

    #[test]
    fn no_quota_is_no_limit_and_zero_is_etcds_two_gigabytes() {
        assert_eq!(room(-1, false).take(u64::MAX, 1), Ok(()));
        assert_eq!(room(0, false).take((2 << 30) - 1, 1), Ok(()));
        assert_eq!(room(0, false).take(2 << 30, 1), Err(Error::NoSpace));
        assert_eq!(room(i64::MAX, false).take(1 << 60, 1), Ok(()));
    }
}
