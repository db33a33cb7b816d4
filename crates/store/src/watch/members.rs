//! The watchers of one stream.
//!
//! Each has a place, which its [`Name`] tells, so that nothing is searched for with every event. Ids are usually given in a
//! row, and are places then; where they are not, a table says where.

use std::collections::HashMap;
use std::num::NonZeroU32;

use super::mailbox::Name;
use crate::types::Revision;

/// A watcher, as its stream knows it.
pub(super) struct Member {
    id: i64,
    /// Its number in the registry.
    pub(super) key: u32,
    serial: NonZeroU32,
    /// Progress below this would take the client back: to before its creation, or before its start.
    pub(super) quiet_below: Revision,
}

/// Bytes that a stream holds for each watcher whose id is its place.
#[cfg(test)]
pub(super) const MEMBER_BYTES: usize = size_of::<Option<Member>>();

#[derive(Default)]
pub(super) struct Members {
    places: Vec<Option<Member>>,
    free: Vec<u32>,
    /// Places that are not the ids.
    elsewhere: HashMap<i64, u32>,
    next_serial: u32,
}

impl Members {
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn place(&self, id: i64) -> Option<u32> {
        let near = u32::try_from(id).ok().filter(|place| {
            let member = self.places.get(*place as usize);
            member.is_some_and(|member| member.as_ref().is_some_and(|member| member.id == id))
        });
        near.or_else(|| self.elsewhere.get(&id).copied())
    }

    pub(super) fn contains(&self, id: i64) -> bool {
        self.place(id).is_some()
    }

    pub(super) fn get(&self, id: i64) -> Option<&Member> {
        self.places.get(self.place(id)? as usize)?.as_ref()
    }

    /// The watcher of that name, if it still is one.
    pub(super) fn named(&self, name: Name) -> Option<&Member> {
        let member = self.places.get(name.place as usize)?.as_ref()?;
        (member.serial == name.serial).then_some(member)
    }

    /// The name of a watcher.
    pub(super) fn name(&self, id: i64) -> Option<Name> {
        let place = self.place(id)?;
        let member = self.places.get(place as usize)?.as_ref()?;
        Some(Name {
            id,
            serial: member.serial,
            place,
        })
    }

    /// The name that [`Members::add`] gives next, to this id.
    pub(super) fn next_name(&self, id: i64) -> Name {
        let place = self.free.last().copied();
        Name {
            id,
            serial: NonZeroU32::MIN.saturating_add(self.next_serial),
            place: place.unwrap_or_else(|| {
                u32::try_from(self.places.len()).expect("watchers of a stream are kept far below 2^32")
            }),
        }
    }

    /// Adds a watcher whose id is not in use, under the name it was [told](Members::next_name).
    pub(super) fn add(&mut self, id: i64, key: u32, quiet_below: Revision) -> Name {
        let name = self.next_name(id);
        // Never the last of all, which stands for none.
        self.next_serial = (self.next_serial + 1) % (u32::MAX - 1);
        let member = Member {
            id,
            key,
            serial: name.serial,
            quiet_below,
        };
        match self.free.pop() {
            Some(place) => self.places[place as usize] = Some(member),
            None => self.places.push(Some(member)),
        }
        if id != i64::from(name.place) {
            self.elsewhere.insert(id, name.place);
        }
        name
    }

    /// Removes a watcher; its name and what was known of it.
    pub(super) fn remove(&mut self, id: i64) -> Option<(Name, Member)> {
        let name = self.name(id)?;
        let member = self.places.get_mut(name.place as usize)?.take()?;
        self.elsewhere.remove(&id);
        self.free.push(name.place);
        if self.is_empty() {
            // The places begin anew, and the memory of many goes with the last.
            (self.places, self.free) = (Vec::new(), Vec::new());
        }
        Some((name, member))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.places.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn members_are_found_as_a_map_would_find_them(steps in prop::collection::vec((any::<bool>(), -2_i64..12), 0..100)) {
            let (mut members, mut map) = (Members::default(), BTreeMap::new());
            let mut gone: Vec<Name> = Vec::new();
            for (key, (adds, id)) in (0..).zip(steps) {
                if adds && !map.contains_key(&id) {
                    let told = members.next_name(id);
                    let name = members.add(id, key, Revision(id));
                    prop_assert_eq!(told, name);
                    map.insert(id, (key, name));
                } else if !adds {
                    let removed = members.remove(id).map(|(name, member)| (member.key, name));
                    prop_assert_eq!(removed, map.remove(&id));
                    gone.extend(removed.map(|(_, name)| name));
                }
                prop_assert_eq!(members.len(), map.len());
                for id in -2..12 {
                    let known = map.get(&id);
                    prop_assert_eq!(members.contains(id), known.is_some());
                    prop_assert_eq!(members.get(id).map(|member| member.key), known.map(|known| known.0));
                    prop_assert_eq!(members.name(id), known.map(|known| known.1));
                    let named = known.and_then(|known| members.named(known.1));
                    prop_assert_eq!(named.map(|member| member.id), known.map(|_| id));
                }
                prop_assert!(gone.iter().all(|name| members.named(*name).is_none()), "names do not come again");
            }
        }
    }
}
