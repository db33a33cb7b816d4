//! What comes and goes on one connection, frame by frame, before the protocol sees it.

use std::sync::Arc;

use tokio::io::ReadBuf;
use tokio::time::Instant;

use crate::core::flood::Flood;
use crate::core::frames::{Frames, Head, ID, Kind};
use crate::core::grants::{Outgoing, Overrun, Role, window_update};
use crate::core::hollow::{Kept, pass_over};
use crate::core::reserve::{Reserve, initial_windows, resizes_table};
use crate::gauges::{FIRST_CREDIT, Gauges};

/// HEADERS that are passed on in a turn: the protocol keeps a stream for each until the turn is over, of those that it will
/// reset as well.
pub(super) const HEADS_A_TURN: u64 = 4096;

/// The frames of both directions, and what the peer may send.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(super) role: Role,
    pub(crate) received: Frames,
    pub(crate) sent: Outgoing,
    pub(super) gauges: Arc<Gauges>,
    pub(super) flood: Flood,
    /// HEADERS that had come when the turn began.
    pub(super) heads_before: u64,
    /// Half a head, which is passed on once it is whole.
    pub(super) kept: Kept,
    /// Credit for answers below the protocol, where there may be any.
    pub(super) reserve: Option<Reserve>,
    /// What the protocol is to get of that.
    pub(super) gift: u32,
    /// The frame that tells it so, as far as it was not given yet.
    pub(super) note: Vec<u8>,
    /// Nothing of that is passed on, nor anything after it: the connection has to end.
    pub(crate) harm: Option<Harm>,
}

/// What a peer has done so that nothing more of it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    /// It has sent more than it may.
    Overrun,
    /// Frames that bring nothing forward, far too many. The last was of this kind.
    Flood(Kind),
    /// It has gone on with a stream that has ended.
    Closed,
}

impl Harm {
    /// What it is told.
    pub(crate) fn reason(self) -> h2::Reason {
        match self {
            Self::Overrun => h2::Reason::FLOW_CONTROL_ERROR,
            Self::Flood(_) => h2::Reason::ENHANCE_YOUR_CALM,
            Self::Closed => h2::Reason::STREAM_CLOSED,
        }
    }
}

impl Wire {
    /// The turn has passed on as many HEADERS as it may.
    pub(super) fn is_sated(&self) -> bool {
        self.received.count(Kind::Headers) - self.heads_before >= HEADS_A_TURN
    }

    /// Looks at what has come, which begins after so many of the bytes; how much of that may be passed on.
    pub(super) fn receive(&mut self, bytes: &mut [u8], begin: usize) -> usize {
        let (received, flood, said) = (&mut self.received, &mut self.flood, self.sent.said);
        let (mut hollow, mut told) = (Vec::new(), Vec::new());
        let reserves = self.reserve.is_some();
        let seen = self.gauges.credit.with(|grants| {
            received.take(&bytes[begin..], |head, end| {
                let awaited = grants.received(head).map_err(|Overrun| Harm::Overrun)?;
                flood
                    .received(head, awaited, said, Instant::now)
                    .map_err(Harm::Flood)?;
                if awaited && head.is_hollow() {
                    hollow.push(begin + end);
                }
                if reserves && head.is_about_windows() {
                    told.push((*head, begin + end));
                }
                Ok(())
            })
        });
        for end in hollow {
            pass_over(bytes, end, &mut self.kept);
        }
        for (head, end) in told {
            self.hears(&head, bytes, end);
        }
        match seen {
            Ok(()) => bytes.len() - begin,
            Err((before, harm)) => {
                self.harm = Some(harm);
                before
            }
        }
    }

    /// Hears what the peer says of windows, in a frame of which this much has been looked at; keeps some of it.
    fn hears(&mut self, head: &Head, bytes: &mut [u8], end: usize) {
        let may_send = self.may_send();
        let Some(reserve) = &mut self.reserve else {
            return;
        };
        if head.kind == Kind::Settings as u8 {
            match end
                .checked_add(head.bytes as usize)
                .and_then(|to| bytes.get(end..to))
            {
                // The next block has to say so first (RFC 7541 §4.2), and that is the protocol's to make.
                Some(entries) if resizes_table(entries) && self.sent.said.headers > 0 => {
                    reserve.stream_has(0);
                }
                Some(entries) => initial_windows(entries).for_each(|window| reserve.stream_has(window)),
                // It is cut: what it says is not known.
                None => reserve.stream_has(0),
            }
        } else if let Some(from) = end.checked_sub(4)
            && let Some(place) = bytes[from..end].first_chunk_mut::<4>()
        {
            let more = u32::from_be_bytes(*place) & ID;
            *place = reserve.given(more, may_send).to_be_bytes();
        }
    }

    /// What the peer has given to the connection and was not used, in bytes.
    fn may_send(&self) -> i64 {
        let used = self.sent.data_bytes + self.reserve.as_ref().map_or(0, |reserve| reserve.used);
        FIRST_CREDIT
            .saturating_add_unsigned(self.received.connection_credit)
            .saturating_sub_unsigned(used)
    }

    /// Whether the protocol gets credit that was kept from it.
    pub(super) fn gives_back(&mut self) -> bool {
        let may_send = self.may_send();
        let gift = self
            .reserve
            .as_mut()
            .and_then(|reserve| reserve.give_back(may_send));
        self.gift = self.gift.saturating_add(gift.unwrap_or(0));
        gift.is_some()
    }

    /// Tells the protocol of credit that it gets back: a frame, which may begin if what was passed on is whole. As much of it
    /// as there is room for.
    pub(super) fn give(&mut self, buf: &mut ReadBuf<'_>, may_begin: bool) -> bool {
        if self.note.is_empty() && self.gift > 0 && may_begin {
            window_update(0, std::mem::take(&mut self.gift).into(), &mut self.note);
        }
        let n = self.note.len().min(buf.remaining());
        buf.put_slice(&self.note[..n]);
        self.note.drain(..n);
        n > 0
    }

    /// Credit for the connection that the protocol knows of, in bytes.
    pub(crate) fn credit(&self) -> u64 {
        let kept = self.reserve.as_ref().map_or(0, |reserve| reserve.kept);
        self.received.connection_credit.saturating_sub(kept)
    }

    /// Keeps the end of what has come, if it is half of a head that matters; how many bytes go on.
    pub(super) fn keep(&mut self, bytes: &[u8]) -> usize {
        let kept = self.received.half_a_head().map_or(0, |(here, _)| here);
        let goes_on = bytes.len().saturating_sub(kept);
        self.kept.keep(&bytes[goes_on..]);
        goes_on
    }
}
