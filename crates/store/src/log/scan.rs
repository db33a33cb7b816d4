//! Walks the records of a segment.

use crate::core::record::{self, Bad, Record};

/// Where a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The offset of the first byte that is not part of a valid record.
    pub(crate) at: u32,
    /// What is there; `None` when the bytes ended with a record.
    pub(crate) bad: Option<Bad>,
}

/// Visits the records in `bytes`, which lie at `base` of a segment. The walk ends where no valid record
/// begins, or where the visitor says `false`.
pub(crate) fn records(
    bytes: &[u8],
    base: u32,
    salt: u64,
    mut visit: impl FnMut(u32, &Record<'_>) -> Result<bool, Bad>,
) -> Ended {
    let mut at = 0;
    while at < bytes.len() {
        let offset = base + at as u32;
        let step = record::parse(&bytes[at..], offset, salt)
            .and_then(|record| Ok(visit(offset, &record)?.then_some(record.len)));
        match step {
            Ok(Some(len)) => at += len,
            Ok(None) => break,
            Err(bad) => {
                return Ended {
                    at: offset,
                    bad: Some(bad),
                };
            }
        }
    }
    Ended {
        at: base + at as u32,
        bad: None,
    }
}

/// Whether a commit that began after `bad` was written completely enough to leave a valid record: then
/// the one at `bad` had been acknowledged, for commits are synced one after the other.
pub(crate) fn later_commit(bytes: &[u8], base: u32, bad: u32, salt: u64) -> Option<u32> {
    let mut at = (bad - base) as usize + 1;
    while at < bytes.len() {
        // Space that was never written goes by in large steps; a record's length is not zero, so it
        // begins at most three bytes before the run of zeros ends.
        let run = bytes[at..]
            .chunks(64)
            .take_while(|chunk| chunk.iter().all(|byte| *byte == 0))
            .count()
            * 64;
        let end = if run == 0 { at + 1 } else { at + run };
        let from = if run == 0 {
            at
        } else {
            end.saturating_sub(3).max(at)
        };
        for start in from..end.min(bytes.len()) {
            let offset = base + start as u32;
            if record::plausible(&bytes[start..], offset, bad)
                && record::parse(&bytes[start..], offset, salt).is_ok()
            {
                return Some(offset);
            }
        }
        at = end;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::record::{Encoder, Kind};

    fn commit(base: u32, revisions: &[i64]) -> Vec<u8> {
        let mut encoder = Encoder::default();
        for revision in revisions {
            encoder.begin(Kind::Revision, *revision, None);
            encoder.put(0, b"key", &[7; 300], 0, *revision, 1);
            encoder.end();
        }
        encoder.seal(base, 5, false)
    }

    #[track_caller]
    fn check(damage: usize, blank: bool, expect_later: bool) {
        let mut bytes = commit(0, &[2, 3]);
        let second = bytes.len() as u32;
        bytes.extend(commit(second, &[4]));
        bytes.extend([0; 1000]);
        if blank {
            let record = record::parse(&bytes[damage..], damage as u32, 5).unwrap().len;
            bytes[damage..damage + record].fill(0);
        } else {
            bytes[damage + 20] ^= 1;
        }
        let ended = records(&bytes, 0, 5, |_, _| Ok(true));
        assert_eq!(ended.at, damage as u32);
        assert_eq!(later_commit(&bytes, 0, ended.at, 5).is_some(), expect_later);
    }

    #[test]
    fn damage_followed_by_a_later_commit_is_told_from_a_torn_last_one() {
        let record = commit(0, &[2]).len();
        check(0, false, true);
        check(record, false, true);
        check(record, true, true);
        check(2 * record, false, false);
        check(2 * record, true, false);
    }
}
