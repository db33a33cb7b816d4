//! Leases and the wheel that says which have ended.
//!
//! The wheel is a ring of slots, each a quarter of a second. A lease has exactly one entry in it; renewing
//! moves only the deadline, and the entry is put into its new slot when the old one comes round. So a
//! keep-alive costs one lookup. Nothing expires early: deadlines are rounded up to the next tick.
//!
//! Every write looks at leases, so nothing here may take long, however many there are: a slot is looked at in portions,
//! and the map is a tree, since a table of a hundred thousand that grows stands still for many milliseconds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use tokio::time::Instant;

use crate::plant::{self, Plant};

/// Length of a tick.
const TICK: Duration = Duration::from_millis(250);
/// Ticks in a turn of the wheel: 256 s. Entries further away are looked at once a turn.
const SLOTS: u64 = 1024;
/// Entries of the wheel that are looked at in one go.
const LOOK_MAX: usize = 1024;
/// Shortest lease, in seconds: etcd's ⌈1.5 × election timeout⌉ with its default of 1 s (`server/lease/lessor.go`).
pub(crate) const TTL_MIN: i64 = 2;
/// Longest lease, in seconds (`lease.MaxLeaseTTL` in `server/lease/lessor.go`).
pub(crate) const TTL_MAX: i64 = 9_000_000_000;

struct Lease {
    ttl: i64,
    deadline: Instant,
    /// The tick under which the wheel holds it.
    armed: u64,
    /// Has ended, and its deletion is on the way: it can no longer be renewed.
    ended: bool,
    keys: BTreeSet<Box<[u8]>>,
}

/// All leases.
pub(crate) struct Leases {
    leases: BTreeMap<i64, Lease>,
    wheel: Vec<Vec<(i64, u64)>>,
    epoch: Instant,
    /// The next tick to look at.
    tick: u64,
    /// What is left to look at of its slot, once that has begun.
    slot: Option<Vec<(i64, u64)>>,
    /// What has ended of that slot, with the deadlines.
    ended: Vec<(Instant, i64)>,
    /// Ended, but more than one call might report.
    due: VecDeque<i64>,
}

/// What a lease looks like from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) ttl: i64,
    pub(crate) remaining: Duration,
}

impl Leases {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            leases: BTreeMap::new(),
            wheel: (0..SLOTS).map(|_| Vec::new()).collect(),
            epoch: now,
            tick: 0,
            slot: None,
            ended: Vec::new(),
            due: VecDeque::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.leases.len()
    }

    pub(crate) fn contains(&self, id: i64) -> bool {
        self.leases.contains_key(&id)
    }

    /// Begins a lease of `ttl` seconds; one that exists starts again with its keys.
    pub(crate) fn grant(&mut self, id: i64, ttl: i64, now: Instant) {
        let deadline = now + seconds(ttl);
        let keys = self
            .leases
            .remove(&id)
            .map(|lease| lease.keys)
            .unwrap_or_default();
        let armed = self.arm(id, deadline);
        self.leases.insert(
            id,
            Lease {
                ttl,
                deadline,
                armed,
                ended: false,
                keys,
            },
        );
    }

    /// Ends a lease; returns its keys, sorted.
    pub(crate) fn revoke(&mut self, id: i64) -> Option<BTreeSet<Box<[u8]>>> {
        self.leases.remove(&id).map(|lease| lease.keys)
    }

    /// Starts a lease's time again and returns its TTL; `None` when it does not exist or has ended.
    pub(crate) fn renew(&mut self, id: i64, now: Instant) -> Option<i64> {
        let lease = self
            .leases
            .get_mut(&id)
            .filter(|lease| !lease.ended && lease.deadline > now)?;
        lease.deadline = now + seconds(lease.ttl);
        Some(lease.ttl)
    }

    /// Starts the time of all leases again: nobody could renew them while the store was down.
    pub(crate) fn renew_all(&mut self, now: Instant) {
        for lease in self.leases.values_mut() {
            lease.deadline = now + seconds(lease.ttl);
        }
    }

    /// Whether a lease has been reported as ended and is still there. One that was granted anew has not.
    pub(crate) fn has_ended(&self, id: i64) -> bool {
        self.leases.get(&id).is_some_and(|lease| lease.ended)
    }

    /// Leases that have ended by `now`, at most `max`, in the order of their ends; each is reported once. Looks at few at a
    /// time: whether there is more to look at or to report.
    pub(crate) fn expire(&mut self, now: Instant, max: usize) -> (Vec<i64>, bool) {
        let target = now.saturating_duration_since(self.epoch).as_millis() / TICK.as_millis();
        let target = u64::try_from(target).unwrap_or(u64::MAX);
        let mut looks = LOOK_MAX;
        while self.due.len() < max && self.tick <= target && looks > 0 {
            // After a long pause one turn sees every slot; further turns would see nothing new.
            if target - self.tick > SLOTS && self.slot.is_none() {
                self.tick = target - SLOTS;
            }
            looks = self.turn(now, looks);
        }
        let due: Vec<_> = self.due.drain(..self.due.len().min(max)).collect();
        let more = !self.due.is_empty() || self.tick <= target;
        (due, more)
    }

    /// Looks at as many entries of a slot, and goes on to the next when it is through; how many looks are left.
    fn turn(&mut self, now: Instant, looks: usize) -> usize {
        let slot = &mut self.wheel[(self.tick % SLOTS) as usize];
        let mut slot = self.slot.take().unwrap_or_else(|| std::mem::take(slot));
        let begin = slot.len().saturating_sub(looks);
        let left = looks - (slot.len() - begin);
        for (id, armed) in slot.drain(begin..) {
            let Some(lease) = self.leases.get_mut(&id) else {
                continue;
            };
            if lease.armed != armed || lease.ended {
                continue;
            }
            let early = Duration::from_secs(plant::has(Plant::EarlyExpiry).into());
            if lease.deadline <= now + early {
                lease.ended = true;
                self.ended.push((lease.deadline, id));
            } else {
                lease.armed = tick_of(self.epoch, lease.deadline).max(self.tick + 1);
                self.wheel[(lease.armed % SLOTS) as usize].push((id, lease.armed));
            }
        }
        if !slot.is_empty() {
            self.slot = Some(slot);
            return left;
        }
        // Slots come in order of time; within one, leases lie as they were armed.
        self.ended.sort_unstable();
        self.due.extend(self.ended.drain(..).map(|(_, id)| id));
        self.tick += 1;
        left
    }

    fn arm(&mut self, id: i64, deadline: Instant) -> u64 {
        // What is put into a slot that is being looked at would be seen a turn of the wheel later.
        let next = self.tick + u64::from(self.slot.is_some());
        let armed = tick_of(self.epoch, deadline).max(next);
        self.wheel[(armed % SLOTS) as usize].push((id, armed));
        armed
    }

    /// Says that a key hangs on a lease. A lease that does not exist is ignored.
    pub(crate) fn attach(&mut self, id: i64, key: &[u8]) {
        if let Some(lease) = self.leases.get_mut(&id)
            && !lease.keys.contains(key)
        {
            lease.keys.insert(key.into());
        }
    }

    /// Says that a key no longer hangs on a lease.
    pub(crate) fn detach(&mut self, id: i64, key: &[u8]) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.remove(key);
        }
    }

    /// Keys of a lease, sorted.
    pub(crate) fn keys(&self, id: i64) -> impl Iterator<Item = &[u8]> {
        self.leases
            .get(&id)
            .into_iter()
            .flat_map(|lease| lease.keys.iter().map(AsRef::as_ref))
    }

    /// One lease's time.
    pub(crate) fn left(&self, id: i64, now: Instant) -> Option<Left> {
        let lease = self.leases.get(&id)?;
        Some(Left {
            ttl: lease.ttl,
            remaining: lease.deadline.saturating_duration_since(now),
        })
    }

    /// Ids, soonest to end first.
    pub(crate) fn by_deadline(&self) -> Vec<i64> {
        let mut ids: Vec<_> = self
            .leases
            .iter()
            .map(|(id, lease)| (lease.deadline, *id))
            .collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// Ids with their TTL, by id.
    pub(crate) fn grants(&self) -> Vec<(i64, i64)> {
        let mut grants = Vec::new();
        while self.more_grants(&mut grants) {}
        grants
    }

    /// Adds the next leases behind the last of `grants` to it, in the order of their ids; whether there may be more.
    pub(crate) fn more_grants(&self, grants: &mut Vec<(i64, i64)>) -> bool {
        let after = grants
            .last()
            .map_or(Bound::Unbounded, |(id, _)| Bound::Excluded(*id));
        let before = grants.len();
        let next = self.leases.range((after, Bound::Unbounded)).take(LOOK_MAX);
        grants.extend(next.map(|(id, lease)| (*id, lease.ttl)));
        grants.len() - before == LOOK_MAX
    }
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(ttl.clamp(0, TTL_MAX).unsigned_abs())
}

fn tick_of(epoch: Instant, deadline: Instant) -> u64 {
    let after = deadline.saturating_duration_since(epoch).as_millis();
    u64::try_from(after.div_ceil(TICK.as_millis())).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use proptest::prelude::*;

    /// All that is reported at a time.
    fn expire(leases: &mut Leases, now: Instant, max: usize) -> Vec<i64> {
        let mut all = Vec::new();
        loop {
            let (ids, more) = leases.expire(now, max);
            assert!(ids.len() <= max);
            all.extend(ids);
            if !more {
                return all;
            }
        }
    }

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn a_lease_ends_at_its_ttl_and_not_before() {
        let start = Instant::now();
        let mut leases = Leases::new(start);
        leases.grant(7, 10, start);
        assert_eq!(expire(&mut leases, at(start, 9_999), 10), Vec::<i64>::new());
        assert_eq!(expire(&mut leases, at(start, 10_000), 10), [7]);
        assert_eq!(
            expire(&mut leases, at(start, 20_000), 10),
            Vec::<i64>::new(),
            "reported once"
        );
    }

    #[test]
    fn a_renewed_lease_lives_on_and_one_that_has_ended_cannot_be_renewed() {
        let start = Instant::now();
        let mut leases = Leases::new(start);
        leases.grant(7, 2, start);
        assert_eq!(leases.renew(7, at(start, 1_500)), Some(2));
        assert_eq!(expire(&mut leases, at(start, 3_000), 10), Vec::<i64>::new());
        assert_eq!(leases.renew(7, at(start, 3_500)), None);
        assert_eq!(expire(&mut leases, at(start, 3_500), 10), [7]);
        assert_eq!(leases.renew(7, at(start, 3_500)), None);
    }

    #[test]
    fn a_burst_of_ended_leases_is_reported_in_portions() {
        let start = Instant::now();
        let mut leases = Leases::new(start);
        (0..1_000).for_each(|id| leases.grant(id, 2, start));
        let mut seen = BTreeSet::new();
        for left in (0..10).rev() {
            let (ended, more) = leases.expire(at(start, 2_000), 100);
            assert_eq!((ended.len(), more), (100, left > 0));
            seen.extend(ended);
        }
        assert_eq!(seen.len(), 1_000);
    }

    #[test]
    fn a_slot_of_many_is_looked_at_in_portions_and_what_happens_meanwhile_counts() {
        let start = Instant::now();
        let many = 5 * LOOK_MAX as i64;
        let mut leases = Leases::new(start);
        // The last to be granted are the first to end.
        (0..many).for_each(|id| leases.grant(id, 10, at(start, 1 + (many - id) as u64 % 240)));
        leases.grant(many, 2, at(start, 8_300));
        let now = at(start, 10_500);
        let (first, more) = leases.expire(now, 100);
        assert_eq!((first, more), (vec![], true));
        // Not looked at yet: revoked, renewed. Looked at: granted anew.
        assert!(!leases.has_ended(0) && leases.has_ended(many - 1));
        leases.revoke(0);
        leases.revoke(many - 1);
        leases.grant(many - 1, 10, now);
        assert!(!leases.has_ended(many - 1));
        let rest = expire(&mut leases, now, 100);
        let expected = (1..many).map(|id| ((many - id) % 240, id));
        let mut expected: Vec<_> = expected.collect();
        expected.sort_unstable();
        let expected: Vec<_> = expected.into_iter().map(|(_, id)| id).collect();
        assert_eq!(rest.last(), Some(&many));
        assert_eq!(rest[..rest.len() - 1], expected);
        assert_eq!(expire(&mut leases, at(start, 20_750), 100), [many - 1]);
    }

    #[test]
    fn leases_end_in_the_order_of_their_deadlines() {
        let start = Instant::now();
        let mut leases = Leases::new(start);
        // Granted in another order than they end, some within one tick of the wheel.
        for (id, granted) in [(1, 900), (2, 0), (3, 310), (4, 300), (5, 305)] {
            leases.grant(id, 2, at(start, granted));
        }
        leases.grant(6, 10, start);
        leases.grant(7, 1, at(start, 10));
        leases.renew(7, at(start, 880));
        let mut ended = Vec::new();
        while ended.len() < 6 {
            ended.extend(expire(&mut leases, at(start, 5_000), 2));
        }
        assert_eq!(ended, [7, 2, 4, 5, 3, 1]);
    }

    #[test]
    fn keys_follow_their_lease() {
        let start = Instant::now();
        let mut leases = Leases::new(start);
        leases.grant(1, 5, start);
        leases.attach(1, b"b");
        leases.attach(1, b"a");
        leases.attach(2, b"c");
        leases.detach(1, b"b");
        assert_eq!(leases.keys(1).collect::<Vec<_>>(), [b"a"]);
        assert_eq!(leases.revoke(1).unwrap().len(), 1);
        assert_eq!(leases.revoke(2), None);
    }

    proptest! {
        #[test]
        fn the_wheel_agrees_with_a_sorted_list_of_deadlines(
            ops in prop::collection::vec((0..20_i64, 0..4_u8, 1..600_i64, 0..90_000_u64), 1..120)
        ) {
            let start = Instant::now();
            let (mut leases, mut model, mut now) = (Leases::new(start), HashMap::new(), 0);
            for (id, what, ttl, pause) in ops {
                match what {
                    0 | 1 if !model.contains_key(&id) => {
                        leases.grant(id, ttl, at(start, now));
                        model.insert(id, (ttl, now + ttl as u64 * 1000));
                    }
                    2 => {
                        let renewed = leases.renew(id, at(start, now));
                        let expect = model.get_mut(&id).filter(|(_, end)| *end > now);
                        prop_assert_eq!(renewed.is_some(), expect.is_some());
                        if let Some((ttl, end)) = expect {
                            *end = now + *ttl as u64 * 1000;
                        }
                    }
                    3 => prop_assert_eq!(leases.revoke(id).is_some(), model.remove(&id).is_some()),
                    _ => (),
                }
                now += pause;
                let ended: BTreeSet<_> = expire(&mut leases, at(start, now), 1000).into_iter().collect();
                let slack = TICK.as_millis() as u64;
                let surely: BTreeSet<_> =
                    model.iter().filter(|(_, (_, end))| end + slack <= now).map(|(id, _)| *id).collect();
                prop_assert!(surely.is_subset(&ended));
                for id in ended {
                    prop_assert!(model[&id].1 <= now, "lease {} ended early", id);
                    leases.revoke(id);
                    model.remove(&id);
                }
            }
        }
    }
}
