//! How streams share what they may have together: anew after each round trip, by what each has sent.
//!
//! ```text
//! 100 KB for streams that sent 60, 40 and 8     level 45: windows of 45, 45 and 20
//! 100 KB for four that sent 8 each              level 25: all have what they want, and an equal part of the rest
//! ```
//!
//! The windows of all that send have to add up to what the link holds: whatever is granted beyond that will queue before it,
//! and small calls wait behind that. So a stream may have a quarter more than it sent, and an equal part of what nobody wants;
//! and where not all can have what they want, none more than the *level*. What was sent in a round is remembered for some: a
//! stream that the sender passed over once is not one that wants nothing.
//!
//! One level for all was not enough, although only those that sent less than half of what they could were held to less: after a
//! round in which less came than usual, because somebody was late, it was what the one that sent most wanted, and an equal
//! part of the rest, for each.

use super::{Grants, Stream};

/// A stream's window may be what it was first given and so many times what was read of it: trust grows by reading.
const TRUST: u64 = 8;
/// Looks for the level at which streams share, at most.
const LEVEL_LOOKS: usize = 8;
/// A peak loses one of so many parts in a round, and is forgotten below so many bytes.
const PEAK_FADES: u32 = 4;
const PEAK_MIN: u32 = 1 << 10;
/// All of the level.
pub(super) const WHOLE: u32 = 1 << 16;

/// How streams share; in bytes.
struct Level {
    /// None has more.
    most: u64,
    /// What each has beyond what it wants.
    spare: u64,
    /// None has less: who sends little may send more at any time.
    least: u64,
}

impl Stream {
    /// Its window, where none may have more than `share`.
    pub(super) fn window(&self, share: u64, announced: u64) -> u64 {
        let own = share * u64::from(self.part) / u64::from(WHOLE);
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
        let Level { most, spare, least } = self.level(total);
        for stream in self.streams.values_mut() {
            let own = (stream.wants() + spare).max(least).min(most);
            stream.part = match stream.peak {
                // No more than the whole of it.
                1.. if stream.is_known => (own * u64::from(WHOLE) / most.max(1)) as u32,
                // It is new, or silent.
                _ => WHOLE,
            };
        }
        most
    }

    fn level(&self, total: u64) -> Level {
        let wants = || {
            let all = self.streams.values();
            all.filter(|stream| stream.competes(self.share, self.announced))
                .map(Stream::wants)
        };
        let (streams, all) = wants().fold((0, 0), |(streams, all), want| (streams + 1, all + want));
        let equal = total / streams.max(1);
        let least = equal / 2;
        if all <= total {
            // There is something for all.
            let spare = (total - all) / streams.max(1);
            let most = wants().max().unwrap_or(0) + spare;
            return Level { most, spare, least };
        }
        let mut most = equal;
        for _ in 0..LEVEL_LOOKS {
            let (limited, others) = wants().fold((0, 0), |(limited, others), want| {
                if want >= most {
                    (limited + 1, others)
                } else {
                    (limited, others + want)
                }
            });
            let next = total.saturating_sub(others).checked_div(limited).unwrap_or(most);
            if next <= most {
                break;
            }
            most = next;
        }
        Level {
            most,
            spare: 0,
            least,
        }
    }
}
