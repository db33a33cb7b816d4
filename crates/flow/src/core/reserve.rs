//! Credit of the peer that is kept back from the protocol, for answers that are not its own.
//!
//! ```text
//! arrives     WINDOW_UPDATE(0, 1,000,000)      now 1,065,535 may be sent
//! passed on   WINDOW_UPDATE(0,   467,233)      half of that is kept
//! arrives     WINDOW_UPDATE(0,   500,000)      after 500,000 bytes of such answers
//! passed on   WINDOW_UPDATE(0,         1)      what they have used is made up; 0 would be an error
//! made        WINDOW_UPDATE(0,   ...)          the protocol has little left: it gets some of what is kept
//! ```

use super::frames::{ACK, Head, ID, Kind};

/// Less than this is not shared with the protocol: it gets all of it.
const GIFT_BYTES_MIN: u64 = 8 << 10;
/// An increment of which some is kept before it is known whether there will be such answers, in bytes: who gives so much at
/// once does not do so often.
const LARGE_BYTES: u32 = 512 << 10;
/// What streams and connections begin with (RFC 9113 §6.9.2), in bytes.
const FIRST_WINDOW: u32 = 65_535;

/// SETTINGS_HEADER_TABLE_SIZE and SETTINGS_INITIAL_WINDOW_SIZE.
const HEADER_TABLE_SIZE: u8 = 1;
const INITIAL_WINDOW: u8 = 4;

/// What is kept of one connection's credit.
#[derive(Clone, Debug)]
pub(crate) struct Reserve {
    /// All that was kept, and all that was used of it, in bytes.
    pub(crate) kept: u64,
    pub(crate) used: u64,
    /// The least that SETTINGS ever gave to a stream. They count for a stream from a moment that only the peer knows.
    stream: u32,
    /// There are answers of it by now.
    pub(crate) active: bool,
}

impl Default for Reserve {
    fn default() -> Self {
        Self {
            kept: 0,
            used: 0,
            stream: FIRST_WINDOW,
            active: false,
        }
    }
}

impl Reserve {
    /// How large an answer may be, in bytes.
    pub(crate) fn room(&self) -> usize {
        // No more than the window of a stream.
        self.left().min(self.stream.into()) as usize
    }

    /// SETTINGS give a stream so much.
    pub(crate) fn stream_has(&mut self, bytes: u32) {
        self.stream = self.stream.min(bytes);
    }

    /// What is kept, in bytes.
    fn left(&self) -> u64 {
        self.kept - self.used
    }

    /// The peer gives the connection more. `may_send` is what that may send then, what is kept included. What is
    /// passed on: never 0, unless the peer has said 0.
    pub(crate) fn given(&mut self, more: u32, may_send: i64) -> u32 {
        if !self.active && more < LARGE_BYTES {
            return more;
        }
        let half = u64::try_from(may_send / 2).unwrap_or(0);
        let wants = half.saturating_sub(self.left());
        let keeps = wants.min(u64::from(more.saturating_sub(1)));
        self.kept += keeps;
        // No more than `more`.
        more - keeps as u32
    }

    /// What the protocol gets of what is kept, since it has less than half as much; then it is its own.
    pub(crate) fn give_back(&mut self, may_send: i64) -> Option<u32> {
        let left = self.left();
        let protocol = u64::try_from(may_send).unwrap_or(0).saturating_sub(left);
        if left == 0 || protocol >= left / 2 {
            return None;
        }
        let shares = self.active && left >= GIFT_BYTES_MIN;
        let gift = if shares { (left - protocol) / 2 } else { left };
        let gift = gift.min(u64::from(ID));
        self.kept -= gift;
        // An increment has 31 bits.
        Some(gift as u32)
    }
}

impl Head {
    /// Whether the frame says what streams have at first, or gives the connection more.
    pub(crate) fn is_about_windows(&self) -> bool {
        const SETTINGS: u8 = Kind::Settings as u8;
        const UPDATE: u8 = Kind::WindowUpdate as u8;
        self.stream == 0
            && match self.kind {
                SETTINGS => self.flags & ACK == 0,
                UPDATE => self.bytes == 4,
                _ => false,
            }
    }
}

/// What SETTINGS with these entries give to streams (RFC 9113 §6.5.2).
pub(crate) fn initial_windows(entries: &[u8]) -> impl Iterator<Item = u32> {
    entries.chunks_exact(6).filter_map(|entry| match *entry {
        [0, INITIAL_WINDOW, a, b, c, d] => Some(u32::from_be_bytes([a, b, c, d])),
        _ => None,
    })
}

/// Whether SETTINGS with these entries change the size of the table that blocks of ours may use.
pub(crate) fn resizes_table(entries: &[u8]) -> bool {
    entries
        .chunks_exact(6)
        .any(|entry| entry.starts_with(&[0, HEADER_TABLE_SIZE]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_used_is_made_up_by_what_comes() {
        let mut reserve = Reserve::default();
        assert_eq!(reserve.given(100_000, 165_535), 100_000, "nobody asks for it");
        assert_eq!(reserve.given(1_000_000, 1_065_535), 467_233);
        assert_eq!(reserve.room(), 65_535, "a stream has no more");
        reserve.used += 500_000;
        reserve.active = true;
        assert_eq!(reserve.given(500_000, 1_065_535), 1);
        reserve.stream_has(10);
        reserve.stream_has(1 << 20);
        assert_eq!(reserve.room(), 10);
    }

    #[test]
    fn a_protocol_that_has_little_left_gets_more() {
        let mut reserve = Reserve::default();
        reserve.given(1_000_000, 1_000_000);
        assert_eq!(reserve.give_back(750_000), None, "half of what is kept");
        reserve.active = true;
        assert_eq!(reserve.give_back(740_000), Some(130_000));
        reserve.active = false;
        assert_eq!(reserve.give_back(600_000), None);
        assert_eq!(reserve.give_back(370_000), Some(370_000), "nobody answers here");
        assert_eq!(reserve.give_back(0), None);
        reserve.active = true;
        reserve.given(10_000, 10_000);
        assert_eq!(reserve.give_back(5_000), Some(5_000), "to the last byte");
    }

    proptest! {
        #[test]
        fn no_side_has_more_than_was_given_and_neither_starves(
            steps in prop::collection::vec((1_u32..200_000, 0_u64..100_000, 0_u64..100_000, any::<bool>()), 1..100),
        ) {
            let mut reserve = Reserve::default();
            let first = i64::from(FIRST_WINDOW);
            let (mut given, mut protocol, mut sent) = (first, first, 0_i64);
            for (more, ours, theirs, active) in steps {
                given += i64::from(more);
                reserve.active = active;
                let passed = reserve.given(more, given - sent - reserve.used as i64);
                prop_assert!(passed >= 1 && passed <= more);
                protocol += i64::from(passed);
                reserve.used += ours.min(reserve.room() as u64);
                let theirs = (theirs as i64).min(protocol);
                (protocol, sent) = (protocol - theirs, sent + theirs);
                let may_send = given - sent - reserve.used as i64;
                protocol += reserve.give_back(may_send).map_or(0, i64::from);
                prop_assert_eq!(may_send, protocol + reserve.left() as i64);
                prop_assert!(protocol > 0 || may_send <= 0);
            }
        }
    }
}
