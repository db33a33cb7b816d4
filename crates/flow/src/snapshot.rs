//! What [`Flow::snapshot`](crate::Flow::snapshot) tells: every live connection at one moment, to be shown or serialised.

use serde::Serialize;

/// All connections.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FlowSnapshot {
    /// The receive budget.
    pub budget: BudgetSnapshot,
    /// Live connections, the oldest first.
    pub connections: Vec<ConnectionSnapshot>,
}

/// The receive budget of the process.
#[derive(Clone, Debug, Default, Serialize)]
pub struct BudgetSnapshot {
    /// The whole of it.
    pub total_bytes: u64,
    /// What connections want beyond what each has anyway.
    pub wanted_bytes: u64,
    /// What has arrived and nobody has read.
    pub unread_bytes: u64,
    /// Whether windows are kept small because too much is unread.
    pub pressed: bool,
}

/// One connection.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionSnapshot {
    /// Unique in this process.
    pub id: u64,
    /// What serves it, or whom it calls: `etcd`, `api`, `client`.
    pub front: &'static str,
    /// Address of the other end.
    pub peer: String,
    /// `h2` or `http/1.1`.
    pub protocol: &'static str,
    /// Since it was opened.
    pub age_seconds: f64,
    /// Calls open now.
    pub streams_open: u64,
    /// Calls ever begun.
    pub streams_total: u64,
    /// Streams whose peer has not said all yet.
    pub streams_receiving: u64,
    /// The receive window of each stream that is read.
    pub stream_window_bytes: u64,
    /// The receive window that each stream begins with, and keeps while nobody reads it.
    pub initial_window_bytes: u64,
    /// The receive window of the connection, what is unread included.
    pub connection_window_bytes: u64,
    /// What has arrived and is not read.
    pub unread_bytes: u64,
    /// Whether windows are small because much is unread.
    pub hoarding: bool,
    /// The streams with the most unread, and after them those that have received most (16 at most).
    pub streams: Vec<StreamSnapshot>,
    /// What is known of the link; `None` as long as nothing is.
    pub estimate: Option<EstimateSnapshot>,
    /// What TCP itself has measured; `None` over other sockets, and on other systems than Linux.
    pub tcp: Option<TcpSnapshot>,
    /// Bytes read from the socket.
    pub in_bytes: u64,
    /// Bytes written to it.
    pub out_bytes: u64,
    /// What the peer lets the whole connection send at this moment.
    pub send_credit_bytes: i64,
    /// Waits for the peer's credit.
    pub stalls: StallSnapshot,
    /// The last estimates, the oldest first (60 at most).
    pub history: Vec<EstimatePoint>,
}

/// What a peer sends on one stream.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StreamSnapshot {
    /// Its number on the wire.
    pub stream: u32,
    /// Bytes of DATA that have arrived, padding included.
    pub received_bytes: u64,
    /// Those of them that are not read.
    pub unread_bytes: u64,
    /// What its peer may still send, or has sent already; negative after windows were made smaller.
    pub credit_bytes: i64,
}

/// What is known of a link.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct EstimateSnapshot {
    /// Bytes a second.
    pub bandwidth_bytes_per_second: f64,
    /// The shortest round trip of the present path.
    pub rtt_seconds: f64,
    /// Their product.
    pub bdp_bytes: f64,
}

/// What TCP has measured, on the way to the next host that ends it: the peer, or a proxy before it. What it has not
/// measured yet is `None`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct TcpSnapshot {
    /// The round trip, smoothed.
    pub rtt_seconds: Option<f64>,
    /// How much that varies.
    pub rtt_variation_seconds: Option<f64>,
    /// The shortest round trip of late.
    pub min_rtt_seconds: Option<f64>,
    /// How fast what we sent was acknowledged. It may be no more than there was to send.
    pub delivery_rate_bytes_per_second: Option<u64>,
    /// What the kernel believes an application reads in a round trip; it sets its receive buffer by that.
    pub receive_space_bytes: u32,
    /// Segments sent again, since the connection was opened.
    pub retransmits: u32,
}

/// An estimate and when it was made.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct EstimatePoint {
    /// Age of the connection then.
    pub at_seconds: f64,
    /// The stream window it led to.
    pub window_bytes: u64,
    /// Bytes a second.
    pub bandwidth_bytes_per_second: f64,
    /// The round trip.
    pub rtt_seconds: f64,
}

/// Waits for the peer's credit, since the connection was opened. Those below a millisecond do not count.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StallSnapshot {
    /// Waits for a stream's credit.
    pub stream_total: u64,
    /// How long they took together.
    pub stream_seconds: f64,
    /// Waits for the connection's credit.
    pub connection_total: u64,
    /// How long they took together.
    pub connection_seconds: f64,
    /// Waits for the peer to take bytes off the socket.
    pub socket_total: u64,
    /// How long they took together.
    pub socket_seconds: f64,
    /// Streams that wait now.
    pub waiting_now: usize,
    /// Those of them that have waited longest (16 at most).
    pub waiting: Vec<WaitingStream>,
}

/// A stream that waits for credit.
#[derive(Clone, Debug, Serialize)]
pub struct WaitingStream {
    /// Its number on the wire.
    pub stream: u32,
    /// Who holds it up: `stream`, `connection`, `socket`.
    pub holder: &'static str,
    /// For how long.
    pub seconds: f64,
}
