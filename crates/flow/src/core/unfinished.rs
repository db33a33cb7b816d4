//! Frames that were begun and do not come to their end.
//!
//! Who sends a byte now and then is neither silent nor idle, and within a frame nothing else can be said: no call begins,
//! no PING is answered. So a frame has a time from its first byte to its last, and a list of headers, which only
//! CONTINUATION may interrupt, counts as one. DATA has longer: its frames are large, and its link may be slow.
//!
//! ```text
//! 0 s  HEADERS, 40 bytes of 100      due at 10 s
//! 9 s  10 bytes more                 still due at 10 s: it is the same list
//! 9 s  50 more, END_HEADERS          nothing is due
//! ```

use std::time::Duration;

use tokio::time::Instant;

/// What has begun and not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unfinished {
    /// The bytes before it: no two have the same.
    pub(crate) offset: u64,
    /// Whether it is a frame of DATA.
    pub(crate) is_data: bool,
}

/// How long what is unfinished has been so.
#[derive(Debug)]
pub(crate) struct Patience {
    headers: Duration,
    data: Duration,
    since: Option<(Unfinished, Instant)>,
}

impl Patience {
    /// `headers` for all but DATA.
    pub(crate) fn new(headers: Duration, data: Duration) -> Self {
        Self {
            headers,
            data,
            since: None,
        }
    }

    /// All that has come was read, and this is left.
    pub(crate) fn saw(&mut self, left: Option<Unfinished>, now: impl FnOnce() -> Instant) {
        self.since = match (left, self.since) {
            (None, _) => None,
            (Some(left), Some((before, since))) if left.offset == before.offset => Some((left, since)),
            (Some(left), _) => Some((left, now())),
        };
    }

    /// Nothing is read at present: what is unfinished is so for our sake.
    pub(crate) fn rest(&mut self) {
        self.since = None;
    }

    /// When it has been too long.
    pub(crate) fn due(&self) -> Option<Instant> {
        let (left, since) = self.since?;
        Some(since + if left.is_data { self.data } else { self.headers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_its_time_from_its_first_byte_whatever_comes_of_it() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut patience = Patience::new(Duration::from_secs(10), Duration::from_secs(60));
        let mut saw = |offset: Option<u64>, is_data, seconds| {
            let left = offset.map(|offset| Unfinished { offset, is_data });
            patience.saw(left, || at(seconds));
            patience.due()
        };
        assert_eq!(saw(None, false, 0), None);
        assert_eq!(saw(Some(50), false, 1), Some(at(11)));
        assert_eq!(saw(Some(50), false, 9), Some(at(11)), "the same frame");
        assert_eq!(
            saw(Some(50), true, 9),
            Some(at(61)),
            "its header was not there yet"
        );
        assert_eq!(saw(Some(90), false, 10), Some(at(20)), "the next one");
        assert_eq!(saw(None, false, 11), None);
        assert_eq!(saw(Some(95), false, 12), Some(at(22)));
        patience.rest();
        assert_eq!(patience.due(), None);
    }
}
