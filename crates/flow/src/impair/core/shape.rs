//! What one direction of a link does to bytes.

use std::time::Duration;

/// The shortest time after which TCP sends a lost packet again, beside the round trip (RFC 6298 says 1 s, Linux 200 ms).
const RETRANSMIT_MIN: Duration = Duration::from_millis(200);
/// What a bottleneck can pass in this time may wait before it, unless told otherwise.
const BUFFER_TIME: Duration = Duration::from_millis(4);
/// Bounds of that, in bytes.
const BUFFER_BYTES: (u64, u64) = (64 << 10, 8 << 20);
/// Most bytes that fly in one direction of one connection, in bytes. A faster and longer link cannot be filled.
const FLIGHT_BYTES_MAX: u64 = 256 << 20;
/// The same where no rate is set, with and without a delay.
const FLIGHT_BYTES_UNPACED: u64 = 64 << 20;
const FLIGHT_BYTES_DIRECT: u64 = 256 << 10;

/// What one direction of a link does to bytes. The default does nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shape {
    /// From the bottleneck to the other end.
    pub delay: Duration,
    /// Bits per second, shared equally by the connections that have something to send; `None` is no limit.
    pub rate: Option<u64>,
    /// Up to this much is added to the delay, chosen anew for every 16 KiB. Bytes are never reordered.
    pub jitter: Duration,
    /// Pauses as lost packets make them.
    pub stall: Option<Stall>,
    /// Bytes of a connection that may wait before the bottleneck; `None` is what it passes in 4 ms, at least 64 KiB.
    pub buffer: Option<u64>,
    /// Nothing comes out. What went in waits.
    pub held: bool,
}

/// Pauses as lost packets make them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stall {
    /// Chance of each packet of 1,448 bytes to be lost, from 0 to 1.
    pub chance: f64,
    /// How long it takes until the packet is there after all; `None` is a round trip and 200 ms.
    pub pause: Option<Duration>,
}

impl Shape {
    /// Bytes the bottleneck passes in `time`; `None` without a rate.
    pub(super) fn bytes_in(&self, time: Duration) -> Option<u64> {
        let bits = u128::from(self.rate?) * time.as_nanos();
        Some(u64::try_from(bits / 8 / 1_000_000_000).unwrap_or(u64::MAX))
    }

    /// Bytes that may wait before the bottleneck.
    pub(super) fn buffer_bytes(&self) -> u64 {
        let (low, high) = BUFFER_BYTES;
        self.buffer.unwrap_or_else(|| {
            self.bytes_in(BUFFER_TIME)
                .map_or(FLIGHT_BYTES_DIRECT, |bytes| bytes.clamp(low, high))
        })
    }

    /// Bytes that may be behind the bottleneck: what fits on the link, and a buffer at the other end.
    pub(super) fn flight_bytes(&self) -> u64 {
        let pause = self.stall.map_or(Duration::ZERO, |_| self.pause());
        let longest = self.delay.saturating_add(self.jitter).saturating_add(pause);
        match self.bytes_in(longest) {
            Some(bytes) => bytes
                .saturating_add(self.buffer_bytes())
                .clamp(FLIGHT_BYTES_DIRECT, FLIGHT_BYTES_MAX),
            None if longest.is_zero() => FLIGHT_BYTES_DIRECT,
            None => FLIGHT_BYTES_UNPACED,
        }
    }

    /// How long a lost packet holds up what is behind it.
    pub(super) fn pause(&self) -> Duration {
        let stall = self.stall.and_then(|stall| stall.pause);
        stall.unwrap_or_else(|| self.delay.saturating_mul(2).saturating_add(RETRANSMIT_MIN))
    }
}

/// One direction of a link, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
    /// Either way.
    Both,
}

/// What a proxy does now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Setting {
    /// From the client to the server.
    pub up: Shape,
    /// From the server to the client.
    pub down: Shape,
    /// Who comes now is reset.
    pub refusing: bool,
}

impl Setting {
    /// Both directions with half of the round trip, and the same rate.
    #[must_use]
    pub fn symmetric(round_trip: Duration, rate: Option<u64>) -> Self {
        let shape = Shape {
            delay: round_trip / 2,
            rate,
            ..Shape::default()
        };
        Self {
            up: shape,
            down: shape,
            refusing: false,
        }
    }

    /// The shape of one direction; of both, that of the way up.
    #[must_use]
    pub fn of(&self, direction: Direction) -> &Shape {
        match direction {
            Direction::Up | Direction::Both => &self.up,
            Direction::Down => &self.down,
        }
    }

    /// Changes the shape of one direction or both.
    pub fn change(&mut self, direction: Direction, change: impl Fn(&mut Shape)) {
        if direction != Direction::Down {
            change(&mut self.up);
        }
        if direction != Direction::Up {
            change(&mut self.down);
        }
    }
}

/// Links that everybody knows, with the rates and delays that grpc-go's own latency tests use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Nothing is done.
    Clean,
    /// 100 Mbit/s, 2 ms there and back.
    Lan,
    /// 20 Mbit/s, 30 ms.
    Wan,
    /// 1 Gbit/s, 200 ms.
    Longhaul,
}

impl Preset {
    /// All of them, by name.
    pub const ALL: [(&'static str, Self); 4] = [
        ("clean", Self::Clean),
        ("lan", Self::Lan),
        ("wan", Self::Wan),
        ("longhaul", Self::Longhaul),
    ];

    /// What a direction of it does.
    #[must_use]
    pub fn shape(self) -> Shape {
        let (rate, round_trip) = match self {
            Self::Clean => (None, 0),
            Self::Lan => (Some(100_000_000), 2),
            Self::Wan => (Some(20_000_000), 30),
            Self::Longhaul => (Some(1_000_000_000), 200),
        };
        Setting::symmetric(Duration::from_millis(round_trip), rate).up
    }
}
