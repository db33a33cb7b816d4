//! How streams share what they may have together: anew after each round trip, by what each has sent.
//!
//! ```text
//! 100 KB for streams that sent 60, 40 and 8     level 45: windows of 45, 45 and 20
//! 100 KB for four that sent 8 each              level 25: all have what they want, and an equal part of the rest
//! ```
//!
//! The windows of all that send have to add up to about what the link holds: whatever is granted beyond that will queue
//! before it, and small calls wait behind that. So there is a *level* that none exceeds, and who sends less than half of what
//! he may has twice what he sent, or half of an equal share, and not the level. What was sent in a round is remembered for
//! some: a stream that the sender passed over once is not one that wants nothing. What he *may* is what he could when he sent
//! it: a window that has just grown is used a round trip later, and is not taken back before.
//!
//! The level is never so high that windows add up to much more than what all may have. Else a few streams that sent a little
//! less would let all have more; then the connection's window is what holds them, for which a small call waits behind all, and
//! which makes some send less again.

use super::{Grants, Stream};

/// A stream's window may be what it was first given and so many times what was read of it: trust grows by reading.
const TRUST: u64 = 8;
/// Looks for the level at which streams share, at most.
const LEVEL_LOOKS: usize = 8;
/// What windows may add up to beyond what streams may have together: one of so many parts.
const SPARE: u64 = 16;
/// A peak loses one of so many parts in a round, and is forgotten below so many bytes.
const PEAK_FADES: u32 = 4;
const PEAK_MIN: u32 = 1 << 10;

impl Stream {
    /// Its window, where none may have more than `share`.
    pub(super) fn window(&self, share: u64, announced: u64) -> u64 {
        let own = match self.own {
            0 => share,
            own => share.min(own.into()),
        };
        own.min(announced + TRUST * self.released)
    }

    /// Whether it sends, and somebody reads that: who has filled his window takes nothing away from the others.
    fn competes(&self, share: u64, announced: u64) -> bool {
        let may_send = !self.left && !self.ended && !self.reset;
        may_send && self.peak > 0 && self.received - self.released < self.window(share, announced)
    }

    /// As much as it sent, and a quarter more.
    fn wants(&self) -> u64 {
        u64::from(self.peak) * 5 / 4
    }
}

impl Grants {
    /// A round trip is over. What each stream may have at most if all may have `total` bytes: see the module's text.
    pub(crate) fn next_round(&mut self, total: u64) -> u64 {
        let round = self.round;
        for stream in self.streams.values_mut() {
            let sent = if stream.round == round { stream.sent } else { 0 };
            // Of a stream that has just begun a round shows little.
            stream.is_known = stream.peak > 0;
            stream.peak = sent.max(stream.peak - stream.peak.div_ceil(PEAK_FADES));
            if stream.peak < PEAK_MIN {
                stream.peak = sent;
            }
        }
        self.round = round.wrapping_add(1);
        let (level, streams) = self.level(total);
        let equal = total / streams.max(1);
        let least = equal / 2;
        // What came in this round was sent by the credit of the last one, or of the one before.
        let announced = self.announced;
        let could = self
            .shares
            .iter()
            .fold(self.share, |least, share| least.min(*share));
        self.shares = [self.share, self.shares[0]];
        for stream in self.streams.values_mut() {
            let own = u64::from(stream.peak) * 2;
            let limited = stream.is_known && own < stream.window(could, announced);
            stream.own = match stream.peak {
                // Beyond 4 GiB there is no window.
                1.. if limited => u32::try_from(own.max(least)).unwrap_or(0),
                // It is new, or uses what it has.
                _ => 0,
            };
        }
        level.min(self.fits(total).max(equal))
    }

    /// The level at which all windows add up to little more than `total`. Of a stream that has just begun, what it wants counts.
    fn fits(&self, total: u64) -> u64 {
        let competing = self.streams.values();
        let competing = competing.filter(|stream| stream.competes(self.share, self.announced));
        let (mut at_level, mut others) = (0, 0);
        for stream in competing {
            match stream.own {
                0 if stream.is_known => at_level += 1,
                0 => others += stream.wants(),
                // The least that each may have is not what it will send.
                own => others += u64::from(own.min(stream.peak.saturating_mul(2))),
            }
        }
        let most = total + total / SPARE;
        most.saturating_sub(others)
            .checked_div(at_level)
            .unwrap_or(u64::MAX)
    }

    /// And how many streams there are that share it.
    fn level(&self, total: u64) -> (u64, u64) {
        let wants = || {
            let all = self.streams.values();
            all.filter(|stream| stream.competes(self.share, self.announced))
                .map(Stream::wants)
        };
        let (streams, all) = wants().fold((0, 0), |(streams, all), want| (streams + 1, all + want));
        let equal = total / streams.max(1);
        if all <= total {
            // There is something for all.
            let most = wants().max().unwrap_or(0);
            return (most + (total - all) / streams.max(1), streams);
        }
        let mut level = equal;
        for _ in 0..LEVEL_LOOKS {
            let (limited, others) = wants().fold((0, 0), |(limited, others), want| {
                if want >= level {
                    (limited + 1, others)
                } else {
                    (limited, others + want)
                }
            });
            let next = total.saturating_sub(others).checked_div(limited).unwrap_or(level);
            if next <= level {
                break;
            }
            level = next;
        }
        (level, streams)
    }
}
