//! Frames that cost their receiver work and bring nothing forward: some are good manners, thousands a second are a flood
//! (RFC 9113 §10.5).
//!
//! ```text
//! PING, PRIORITY, RST_STREAM, GOAWAY, unknown kinds     1 each
//! SETTINGS                                             10: every stream is touched
//! WINDOW_UPDATE                                         1, but for ten to each DATA frame we have sent, four to each call
//! DATA with nothing but padding, no end                 1
//! DATA, HEADERS of a stream that has ended             1, and for what comes after a GOAWAY
//! HEADERS a server sends                                1, but for two to each call of ours: 1xx answers can be many
//! what we reset a stream for, being at fault           1: calls beyond the maximum, or that are none
//! ```
//!
//! What is left out is progress, or is bounded by the protocol or by whoever serves the calls.

use std::time::Duration;

use h2::Reason;
use tokio::time::Instant;

use super::frames::{ACK, END_STREAM, Head, Kind};
use super::grants::Role;

/// What may be spent at once, and again each second; whoever has been quiet may spend twice as much once.
pub(crate) const BURST: u64 = 10_000;
/// The time in which one is forgotten.
const DRAINS_IN: Duration = Duration::from_micros(100);
const SETTINGS_COST: u64 = 10;
/// WINDOW_UPDATEs that each DATA frame of ours may be answered with: one for its stream, one for the connection, and some for
/// those who give credit in small pieces.
const UPDATES_OF_DATA: u64 = 10;
const UPDATES_OF_CALL: u64 = 4;
/// The answer and its trailers.
const HEADERS_OF_CALL: u64 = 2;
/// Reasons for which `h2` resets a stream by itself, each in one word.
pub(crate) const FAULTS: [(Reason, &str); 5] = [
    (Reason::PROTOCOL_ERROR, "protocol"),
    (Reason::FLOW_CONTROL_ERROR, "flow_control"),
    (Reason::STREAM_CLOSED, "closed"),
    (Reason::FRAME_SIZE_ERROR, "frame_size"),
    (Reason::REFUSED_STREAM, "refused"),
];

/// Streams that were reset, by the place of the reason among [`FAULTS`].
pub(crate) type Faults = [u64; FAULTS.len()];
/// The most that is kept of what was earned.
const EARNED_MAX: u64 = BURST;

/// What one side has said so far, which the other may react to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// DATA frames.
    pub(crate) data: u64,
    /// Requests, or answers and trailers.
    pub(crate) headers: u64,
    /// RST_STREAM of streams that broke the protocol, or were too many.
    pub(crate) faults: u64,
}

impl Said {
    /// A stream was reset for this reason (RFC 9113 §7): because it was at fault, or only because nobody wants it any more.
    pub(crate) fn reset(&mut self, reason: u32, faults: &mut Faults) {
        let fault = FAULTS.iter().position(|(fault, _)| u32::from(*fault) == reason);
        if let Some(fault) = fault {
            self.faults += 1;
            faults[fault] += 1;
        }
    }
}

/// What of it may still be reacted to for nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Earned(u64);

impl Earned {
    fn more(&mut self, frames: u64) {
        self.0 = self.0.saturating_add(frames).min(EARNED_MAX);
    }

    /// What the next one costs.
    fn spend(&mut self) -> u64 {
        match self.0.checked_sub(1) {
            Some(left) => {
                self.0 = left;
                0
            }
            None => 1,
        }
    }
}

/// What one peer has spent.
#[derive(Clone, Debug)]
pub(crate) struct Flood {
    role: Role,
    spent: u64,
    /// Up to when what was spent has been forgotten; the clock is not asked before there is much.
    drained_at: Instant,
    said: Said,
    updates: Earned,
    headers: Earned,
}

impl Flood {
    /// A connection on which we are this; nothing was spent yet.
    pub(crate) fn new(role: Role, now: Instant) -> Self {
        Self {
            role,
            spent: 0,
            drained_at: now,
            said: Said::default(),
            updates: Earned::default(),
            headers: Earned::default(),
        }
    }

    /// Takes a frame that has begun to arrive, which its stream may have `awaited`; `said` is all that we have sent until then.
    ///
    /// # Errors
    /// The kind of a frame that was one too many.
    pub(crate) fn received(
        &mut self,
        head: &Head,
        awaited: bool,
        said: Said,
        now: impl FnOnce() -> Instant,
    ) -> Result<(), Kind> {
        let kind = Kind::of(head.kind);
        let faults = said.faults - std::mem::replace(&mut self.said.faults, said.faults);
        let cost = self.cost(kind, head, awaited, said) + faults;
        if cost == 0 {
            return Ok(());
        }
        self.spent += cost;
        if self.spent > BURST {
            self.drain(now());
            if self.spent > BURST {
                return Err(kind);
            }
        }
        Ok(())
    }

    fn cost(&mut self, kind: Kind, head: &Head, awaited: bool, said: Said) -> u64 {
        let is_ack = head.flags & ACK != 0;
        match kind {
            Kind::Settings if !is_ack => SETTINGS_COST,
            Kind::Data => {
                let empty = head.bytes == head.padding && head.flags & END_STREAM == 0;
                u64::from(empty || !awaited)
            }
            Kind::Headers if self.role == Role::Server => {
                if awaited {
                    self.updates.more(UPDATES_OF_CALL);
                }
                u64::from(!awaited)
            }
            Kind::Headers => {
                self.hears(said);
                self.headers.spend()
            }
            Kind::WindowUpdate => {
                self.hears(said);
                self.updates.spend()
            }
            // A block of headers goes on, which the protocol bounds.
            Kind::Continuation => 0,
            _ => 1,
        }
    }

    /// Notes what we have said since.
    fn hears(&mut self, said: Said) {
        let data = said.data - self.said.data;
        self.updates.more(data.saturating_mul(UPDATES_OF_DATA));
        if self.role == Role::Client {
            let calls = said.headers - self.said.headers;
            self.headers.more(calls.saturating_mul(HEADERS_OF_CALL));
            self.updates.more(calls.saturating_mul(UPDATES_OF_CALL));
        }
        self.said = said;
    }

    fn drain(&mut self, now: Instant) {
        let time = now.saturating_duration_since(self.drained_at);
        let drained = u64::try_from(time.as_nanos() / DRAINS_IN.as_nanos()).unwrap_or(u64::MAX);
        if drained >= self.spent {
            (self.spent, self.drained_at) = (0, now);
            return;
        }
        self.spent -= drained;
        // Less than what was spent, so it is little; the rest of the time counts on.
        self.drained_at += DRAINS_IN.saturating_mul(u32::try_from(drained).unwrap_or(u32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(kind: u8, flags: u8, bytes: u64, padding: u64) -> Head {
        Head {
            kind,
            flags,
            stream: 1,
            bytes,
            padding,
        }
    }

    const PING: u8 = Kind::Ping as u8;
    const UPDATE: u8 = Kind::WindowUpdate as u8;

    /// So many of a frame at one moment: how many of them pass.
    fn pass(flood: &mut Flood, head: Head, said: Said, frames: u64, now: Instant) -> u64 {
        let passes = |_: &u64| flood.received(&head, true, said, || now).is_ok();
        (0..frames).take_while(passes).count() as u64
    }

    #[test]
    fn what_brings_nothing_forward_passes_in_moderation() {
        let now = Instant::now();
        for (kind, flags, bytes, padding, most) in [
            (PING, 0, 8, 0, BURST),
            (PING, ACK, 8, 0, BURST),
            (Kind::Priority as u8, 0, 5, 0, BURST),
            (Kind::Reset as u8, 0, 4, 0, BURST),
            (Kind::GoAway as u8, 0, 8, 0, BURST),
            (Kind::Settings as u8, 0, 6, 0, BURST / 10),
            (UPDATE, 0, 4, 0, BURST),
            (0, 0, 0, 0, BURST),
            (0, 8, 200, 200, BURST),
            (10, 0, 0, 0, BURST),
            (255, 0xff, 16_384, 0, BURST),
        ] {
            let head = head(kind, flags, bytes, padding);
            let mut flood = Flood::new(Role::Server, now);
            let passed = pass(&mut flood, head, Said::default(), BURST * 2, now);
            assert_eq!(passed, most, "{head:?}");
        }
    }

    #[test]
    fn what_brings_something_forward_costs_nothing() {
        let now = Instant::now();
        for (kind, flags, bytes) in [(0, 0, 1), (0, END_STREAM, 0), (1, 0, 10), (9, 0, 0)] {
            let mut flood = Flood::new(Role::Server, now);
            let head = head(kind, flags, bytes, 0);
            assert_eq!(pass(&mut flood, head, Said::default(), BURST * 9, now), BURST * 9);
        }
    }

    #[test]
    fn credit_in_small_pieces_is_free_for_what_we_have_sent() {
        let now = Instant::now();
        let mut flood = Flood::new(Role::Server, now);
        let mut said = Said::default();
        for _ in 0..BURST * 3 {
            said.data += 1;
            assert_eq!(pass(&mut flood, head(UPDATE, 0, 4, 0), said, 10, now), 10);
        }
        // Nothing is saved for later but so much.
        said.data += BURST * 100;
        let passed = pass(&mut flood, head(UPDATE, 0, 4, 0), said, BURST * 9, now);
        assert_eq!(passed, EARNED_MAX + BURST);
    }

    #[test]
    fn answers_before_the_answer_are_counted_by_a_client() {
        let now = Instant::now();
        let mut flood = Flood::new(Role::Client, now);
        let mut said = Said::default();
        for _ in 0..BURST * 3 {
            said.headers += 1;
            assert_eq!(pass(&mut flood, head(1, 0, 9, 0), said, 2, now), 2);
        }
        assert_eq!(pass(&mut flood, head(1, 0, 9, 0), said, BURST * 3, now), BURST);
    }

    #[test]
    fn streams_that_are_reset_for_a_fault_cost_their_opener_and_others_do_not() {
        let now = Instant::now();
        let call = head(Kind::Headers as u8, 0, 9, 0);
        for (reason, most) in [
            (Reason::REFUSED_STREAM, BURST + 1),
            (Reason::PROTOCOL_ERROR, BURST + 1),
            (Reason::CANCEL, BURST * 3),
            (Reason::NO_ERROR, BURST * 3),
        ] {
            let (mut flood, mut said) = (Flood::new(Role::Server, now), Said::default());
            let passes = |_: &u64| {
                let passed = flood.received(&call, true, said, || now).is_ok();
                said.reset(reason.into(), &mut Faults::default());
                passed
            };
            assert_eq!((0..BURST * 3).take_while(passes).count() as u64, most, "{reason}");
        }
    }

    #[test]
    fn a_clock_that_jumps_back_forgives_nothing_and_breaks_nothing() {
        let now = Instant::now() + Duration::from_secs(100);
        let mut flood = Flood::new(Role::Server, now);
        let ping = head(PING, 0, 8, 0);
        assert_eq!(pass(&mut flood, ping, Said::default(), BURST, now), BURST);
        let before = now - Duration::from_secs(50);
        assert_eq!(pass(&mut flood, ping, Said::default(), 1, before), 0);
        let after = now + Duration::from_secs(3_600);
        assert_eq!(pass(&mut flood, ping, Said::default(), BURST, after), BURST);
    }

    proptest! {
        #[test]
        fn a_peer_gets_no_more_than_the_burst_and_its_rate(
            steps in prop::collection::vec((0_u64..3_000_000, 1_u64..30_000), 1..60),
        ) {
            let start = Instant::now();
            let mut flood = Flood::new(Role::Server, start);
            let (mut elapsed, mut passed) = (0, 0);
            for (micros, frames) in steps {
                elapsed += micros;
                let now = start + Duration::from_micros(elapsed);
                let took = pass(&mut flood, head(PING, 0, 8, 0), Said::default(), frames, now);
                passed += took;
                prop_assert!(passed <= BURST + elapsed / 100);
                if took < frames {
                    break;
                }
            }
        }

        #[test]
        fn who_keeps_to_the_rate_is_never_cut(
            gaps in prop::collection::vec(1_u64..2_000_000, 1..100),
        ) {
            let start = Instant::now();
            let mut flood = Flood::new(Role::Server, start);
            let mut now = start;
            for micros in gaps {
                now += Duration::from_micros(micros);
                let frames = (micros / 100).min(BURST);
                prop_assert_eq!(pass(&mut flood, head(PING, 0, 8, 0), Said::default(), frames, now), frames);
            }
        }
    }
}
