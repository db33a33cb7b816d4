//! What many streams say alike, written once.
//!
//! Streams number their watchers in a row from 0, so clients that do the same are told the same, byte for byte: the
//! messages of one parcel to a whole stream. The first stream that says it leaves the text with the parcel, and the text
//! goes with it. Texts count until the last that sends one is done with it; when they take too much, streams write for
//! themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

/// Watchers that make a crowd. For fewer, writing is cheaper than asking.
pub(super) const CROWD_MIN: usize = 8;
/// The largest text.
const TEXT_BYTES_MAX: usize = 256 << 10;
/// All texts of a store.
const TEXTS_BYTES_MAX: usize = 8 << 20;

/// How a text is written, beside the ids in it: whether events carry previous versions.
pub(crate) type Manner = bool;

/// The room of a store for texts.
#[derive(Default)]
pub(super) struct Texts(Arc<AtomicUsize>);

/// Room that a text takes.
struct Taken {
    all: Arc<AtomicUsize>,
    bytes: usize,
}

impl Texts {
    fn take(&self, bytes: usize) -> Option<Taken> {
        let more = |taken: usize| Some(taken + bytes).filter(|taken| *taken <= TEXTS_BYTES_MAX);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()?;
        Some(Taken {
            all: Arc::clone(&self.0),
            bytes,
        })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A text's memory, with the room it takes.
struct Written {
    text: Vec<u8>,
    _room: Taken,
}

impl AsRef<[u8]> for Written {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

struct Text {
    manner: Manner,
    ids: Box<[i64]>,
    bytes: Bytes,
}

/// What has been said of a parcel.
#[derive(Default)]
pub(super) struct Said(Mutex<Option<Text>>);

impl Said {
    /// What was said to these ids in that manner; if nothing was said yet, what `say` writes, at most `message_bytes` for
    /// each. `None` when it was something else, or is being written at this moment, or there is no room.
    pub(super) fn text(
        &self,
        texts: &Texts,
        ids: impl Iterator<Item = i64> + Clone,
        (manner, message_bytes): (Manner, usize),
        say: impl FnOnce(&[i64]) -> Vec<u8>,
    ) -> Option<Bytes> {
        let mut said = self.0.try_lock()?;
        if let Some(text) = &*said {
            let same = text.manner == manner && ids.eq(text.ids.iter().copied());
            return same.then(|| text.bytes.clone());
        }
        let number = ids.clone().count();
        let most = number.saturating_mul(message_bytes);
        if number < CROWD_MIN || most > TEXT_BYTES_MAX {
            return None;
        }
        let room = texts.take(most)?;
        let ids: Box<[i64]> = ids.collect();
        let text = say(&ids);
        let bytes = Bytes::from_owner(Written { text, _room: room });
        *said = Some(Text {
            manner,
            ids,
            bytes: bytes.clone(),
        });
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(
        said: &Said,
        texts: &Texts,
        ids: std::ops::Range<i64>,
        how: (Manner, usize),
    ) -> (Option<Bytes>, bool) {
        let mut wrote = false;
        let text = said.text(texts, ids, how, |ids| {
            wrote = true;
            ids.iter().map(|id| *id as u8).collect()
        });
        (text, wrote)
    }

    #[test]
    fn the_same_is_written_once_and_something_else_is_not_given_for_it() {
        let (said, texts) = (Said::default(), Texts::default());
        let (first, wrote) = ask(&said, &texts, 0..10, (false, 100));
        assert!(wrote);
        let (second, wrote) = ask(&said, &texts, 0..10, (false, 100));
        assert!(!wrote);
        assert_eq!(first.as_ref().unwrap().as_ptr(), second.unwrap().as_ptr());
        for (ids, manner) in [(0..9, false), (0..11, false), (1..11, false), (0..10, true)] {
            assert_eq!(ask(&said, &texts, ids, (manner, 100)), (None, false));
        }
    }

    #[test]
    fn few_and_too_large_texts_are_not_shared() {
        let (said, texts) = (Said::default(), Texts::default());
        let few = i64::try_from(CROWD_MIN).unwrap() - 1;
        assert_eq!(ask(&said, &texts, 0..few, (false, 100)), (None, false));
        assert_eq!(
            ask(&said, &texts, 0..10, (false, TEXT_BYTES_MAX / 10 + 1)),
            (None, false)
        );
        assert!(ask(&said, &texts, 0..10, (false, TEXT_BYTES_MAX / 10)).1);
    }

    #[test]
    fn texts_take_room_until_the_last_who_sends_them_is_done() {
        let (said, texts) = (Said::default(), Texts::default());
        let how = (false, TEXT_BYTES_MAX / 10);
        let fit = TEXTS_BYTES_MAX / (how.1 * 10);
        let mut sent: Vec<Bytes> = (0..fit)
            .map(|_| ask(&Said::default(), &texts, 0..10, how).0.unwrap())
            .collect();
        assert_eq!(ask(&said, &texts, 0..10, how), (None, false));
        sent.pop();
        assert!(ask(&said, &texts, 0..10, how).1);
        drop((said, sent));
        assert_eq!(texts.0.load(Ordering::Relaxed), 0);
    }
}
