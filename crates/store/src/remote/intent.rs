//! What a conditional write wants, and what the log says became of it when no answer came.
//!
//! A member that dies with a write in its hands leaves two questions: did it happen, and may it still? A condition
//! "the key's revision is R" answers both, because a key never has the same revision twice:
//!
//! | the write | tried again | if its condition fails then |
//! |---|---|---|
//! | put or delete, if the key is at R > 0 | yes: only one of the two can happen | the version after R tells |
//! | put, if there is no such key | no: the first may have been made and deleted since | the key's first version tells, if it is there |
//! | anything else | no | nothing tells |
//!
//! "Tells" is strict: the version after R being other bytes than ours means that ours did not happen; being the same
//! bytes means nothing, since another writer may have had the same idea (two clients that count 5 up to 6). A new
//! object is never the same bytes as another, because it carries a uid.

use bytes::Bytes;

use crate::types::{CompareTarget, KeyRange, KeyValue, Op, Relation, Revision, Txn};

/// What a transaction wants, as far as its outcome could be found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Intent {
    /// To write the version of `key` that follows the one at `from`: a value, or a deletion.
    Follow {
        key: Bytes,
        from: Revision,
        value: Option<Bytes>,
    },
    /// To write the first version of `key`.
    Create { key: Bytes, value: Bytes },
    /// Something else.
    Other,
}

/// What is known in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It happened, at this revision.
    Happened(Revision),
    /// It did not happen and cannot any more.
    Failed,
    /// Nobody knows.
    Unknown,
}

impl Intent {
    pub(super) fn of(txn: &Txn) -> Self {
        let ([op], []) = (&txn.success[..], &txn.failure[..]) else {
            return Self::Other;
        };
        let (key, value) = match op {
            Op::Put(put) => (&put.key, put.value.clone()),
            Op::Delete(delete) => match &delete.keys {
                KeyRange::Key(key) => (key, None),
                _ => return Self::Other,
            },
            _ => return Self::Other,
        };
        let mut from = None;
        let mut others_final = true;
        for compare in &txn.compares {
            let (KeyRange::Key(compared), Relation::Equal, CompareTarget::Mod(at)) =
                (&compare.keys, compare.relation, &compare.target)
            else {
                others_final = false;
                continue;
            };
            if compared == key {
                from = Some(*at);
            } else {
                others_final &= *at > 0;
            }
        }
        let is_put = matches!(op, Op::Put(_));
        match (from, value) {
            (Some(0), Some(value)) => Self::Create {
                key: key.clone(),
                value,
            },
            // Without a value of its own, a put cannot be told from others'.
            (Some(from), value) if from > 0 && others_final && (!is_put || value.is_some()) => Self::Follow {
                key: key.clone(),
                from: Revision(from),
                value,
            },
            _ => Self::Other,
        }
    }

    /// Whether sending it once more cannot make it happen twice.
    pub(super) fn repeatable(&self) -> bool {
        matches!(self, Self::Follow { .. })
    }
}

/// Of a [`Intent::Follow`] whose condition does not hold: `next` is the version that followed, if it is known.
pub(super) fn followed(value: Option<&Bytes>, next: Option<&KeyValue>) -> Verdict {
    match (value, next) {
        (_, None) => Verdict::Unknown,
        // A version followed where we wanted none.
        (None, Some(_)) => Verdict::Failed,
        (Some(wanted), Some(next)) if next.value == wanted => Verdict::Unknown,
        (Some(_), Some(_)) => Verdict::Failed,
    }
}

/// Of a [`Intent::Create`]: `first` is the first version of the key that is there now.
pub(super) fn created(value: &Bytes, first: Option<&KeyValue>) -> Verdict {
    match first {
        Some(first) if first.value == value => Verdict::Happened(first.mod_revision),
        _ => Verdict::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Compare, Delete, Put};

    fn at(key: &'static str, revision: i64) -> Compare {
        Compare {
            keys: KeyRange::Key(key.into()),
            relation: Relation::Equal,
            target: CompareTarget::Mod(revision),
        }
    }

    fn txn(compares: Vec<Compare>, op: Op) -> Txn {
        Txn {
            compares,
            success: vec![op],
            failure: Vec::new(),
        }
    }

    fn kv(value: &'static str, revision: i64) -> KeyValue {
        KeyValue {
            key: "k".into(),
            value: value.into(),
            create_revision: Revision(revision),
            mod_revision: Revision(revision),
            version: 1,
            lease: None,
        }
    }

    #[test]
    fn an_update_on_a_revision_may_be_sent_again_and_a_creation_may_not() {
        let update = Intent::of(&txn(vec![at("k", 7)], Op::Put(Put::new("k", "v"))));
        assert!(update.repeatable(), "{update:?}");
        let create = Intent::of(&txn(vec![at("k", 0), at("ns", 3)], Op::Put(Put::new("k", "v"))));
        assert!(matches!(create, Intent::Create { .. }) && !create.repeatable());
        let delete = Op::Delete(Delete {
            keys: KeyRange::Key("k".into()),
            prev_kv: false,
        });
        assert!(Intent::of(&txn(vec![at("k", 7)], delete)).repeatable());
    }

    #[test]
    fn what_has_no_condition_on_its_own_key_is_not_sent_again() {
        let blind = Intent::of(&txn(Vec::new(), Op::Put(Put::new("k", "v"))));
        assert_eq!(blind, Intent::Other);
        let other = Intent::of(&txn(vec![at("other", 7)], Op::Put(Put::new("k", "v"))));
        assert_eq!(other, Intent::Other);
        // The second condition can come true again, so that the first attempt still could happen.
        let loose = Intent::of(&txn(vec![at("k", 7), at("gone", 0)], Op::Put(Put::new("k", "v"))));
        assert_eq!(loose, Intent::Other);
    }

    #[test]
    fn another_writers_version_is_proof_and_the_same_bytes_are_none() {
        let ours = Bytes::from("6");
        assert_eq!(followed(Some(&ours), Some(&kv("7", 8))), Verdict::Failed);
        assert_eq!(followed(Some(&ours), Some(&kv("6", 8))), Verdict::Unknown);
        assert_eq!(followed(Some(&ours), None), Verdict::Unknown);
        assert_eq!(followed(None, Some(&kv("7", 8))), Verdict::Failed);
        assert_eq!(followed(None, None), Verdict::Unknown);
    }

    #[test]
    fn a_new_object_is_recognised_by_its_bytes() {
        let ours = Bytes::from("uid-1");
        let there = kv("uid-1", 9);
        assert_eq!(created(&ours, Some(&there)), Verdict::Happened(Revision(9)));
        assert_eq!(created(&ours, Some(&kv("uid-2", 9))), Verdict::Unknown);
        assert_eq!(created(&ours, None), Verdict::Unknown);
    }
}
