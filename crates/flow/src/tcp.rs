//! What the kernel knows of a TCP connection (`TCP_INFO`), asked for when somebody looks, and once by a connection whose first
//! window was too small.
//!
//! It is of the way to whoever is at the other end of *this* socket: where a proxy ends TCP, that is the proxy and not the
//! peer. So it is shown, and believed only where a part of the way tells as much as the whole.

use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::snapshot::TcpSnapshot;

/// A TCP socket of which others may ask the kernel while it is open. Reading and writing are those of the socket.
#[derive(Debug)]
pub struct Tcp {
    socket: TcpStream,
    info: TcpInfo,
}

/// Asks the kernel about a [`Tcp`]; after that is gone it knows nothing. It does not keep the socket open, nor has it a
/// descriptor of its own: with one, connections would need two each. Cloning gives another handle.
#[derive(Clone, Debug)]
pub struct TcpInfo(Arc<Mutex<Option<RawFd>>>);

impl Tcp {
    /// Takes this socket.
    #[must_use]
    pub fn new(socket: TcpStream) -> Self {
        let info = TcpInfo(Arc::new(Mutex::new(Some(socket.as_raw_fd()))));
        Self { socket, info }
    }

    /// Whom to ask about it.
    #[must_use]
    pub fn info(&self) -> TcpInfo {
        self.info.clone()
    }
}

impl Deref for Tcp {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.socket
    }
}

impl Drop for Tcp {
    /// The socket closes after this, and its number may then be another's.
    fn drop(&mut self) {
        *self.info.0.lock() = None;
    }
}

impl TcpInfo {
    /// What is known now: nothing of a socket that is closed, and nothing on other systems than Linux.
    #[must_use]
    pub fn read(&self) -> Option<TcpSnapshot> {
        // While this is locked the socket stays open.
        let socket = self.0.lock();
        imp::read((*socket)?)
    }
}

#[cfg(target_os = "linux")]
mod imp {
    use std::mem::offset_of;
    use std::os::fd::RawFd;

    use crate::snapshot::TcpSnapshot;

    /// The kernel's `struct tcp_info` as far as we read it (`include/uapi/linux/tcp.h`); what libc has for glibc ends
    /// before `min_rtt`. Older kernels write less, and the rest stays 0.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        /// States, options, timers, segments under way.
        before: [u32; 17],
        rtt_micros: u32,
        rtt_variation_micros: u32,
        /// Congestion window, reordering and the receiver's round trip.
        congestion: [u32; 5],
        receive_space: u32,
        retransmits: u32,
        /// Pacing rates, bytes acknowledged and received.
        pacing: [u64; 4],
        /// Segments, and bytes that are not sent.
        segments: [u32; 3],
        min_rtt_micros: u32,
        data_segments: [u32; 2],
        delivery_rate: u64,
    }

    const SIZE: libc::socklen_t = size_of::<Info>() as libc::socklen_t;
    const _: () = assert!(offset_of!(Info, rtt_micros) == 68 && offset_of!(Info, receive_space) == 96);
    const _: () = assert!(offset_of!(Info, min_rtt_micros) == 148 && SIZE == 168);

    pub(super) fn read(socket: RawFd) -> Option<TcpSnapshot> {
        let info = ask(socket)?;
        let known = |value: u32| (value != 0 && value != u32::MAX).then_some(value);
        let seconds = |micros: u32| f64::from(micros) / 1e6;
        Some(TcpSnapshot {
            rtt_seconds: known(info.rtt_micros).map(seconds),
            rtt_variation_seconds: known(info.rtt_micros).map(|_| seconds(info.rtt_variation_micros)),
            min_rtt_seconds: known(info.min_rtt_micros).map(seconds),
            delivery_rate_bytes_per_second: (info.delivery_rate != 0).then_some(info.delivery_rate),
            receive_space_bytes: info.receive_space,
            retransmits: info.retransmits,
        })
    }

    #[allow(
        unsafe_code,
        reason = "no crate wraps this option; the kernel writes at most SIZE bytes into a struct of that size"
    )]
    fn ask(socket: RawFd) -> Option<Info> {
        let mut info = Info::default();
        let mut len = SIZE;
        // SAFETY: `info` is SIZE bytes of integers, any of which may be written; the kernel writes no more than `len`
        // says, and both outlive the call. A number that is no TCP socket is answered with an error.
        let asked = unsafe {
            libc::getsockopt(
                socket,
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut info).cast(),
                &raw mut len,
            )
        };
        (asked == 0).then_some(info)
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    use std::os::fd::RawFd;

    use crate::snapshot::TcpSnapshot;

    pub(super) fn read(_: RawFd) -> Option<TcpSnapshot> {
        None
    }
}

impl AsyncRead for Tcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, UnixStream};

    use super::*;
    use crate::Flow;

    async fn pair() -> (Tcp, Tcp) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (theirs, _) = listener.accept().await.unwrap();
        (Tcp::new(ours), Tcp::new(theirs))
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_connection_shows_what_tcp_knows_of_it_until_it_closes() {
        let (mut ours, mut theirs) = pair().await;
        let live = Flow::default().open("test", "peer");
        assert!(live.snapshot().tcp.is_none(), "nobody has said what it is over");
        live.is_over(ours.info());
        ours.write_all(&[7; 4096]).await.unwrap();
        theirs.read_exact(&mut [0; 4096]).await.unwrap();
        theirs.write_all(&[7]).await.unwrap();
        ours.read_exact(&mut [0]).await.unwrap();

        let json = serde_json::to_value(live.snapshot()).unwrap();
        let tcp = &json["tcp"];
        let rtt = tcp["rtt_seconds"].as_f64().unwrap();
        let min = tcp["min_rtt_seconds"].as_f64().unwrap();
        assert!(rtt > 0.0 && rtt < 60.0, "{tcp}");
        assert!(min > 0.0 && min < 60.0, "{tcp}");
        assert!(
            tcp["delivery_rate_bytes_per_second"].as_u64().unwrap() > 0,
            "{tcp}"
        );
        assert!(tcp["receive_space_bytes"].as_u64().unwrap() >= 1024, "{tcp}");
        assert!(tcp["retransmits"].is_u64(), "{tcp}");

        drop(ours);
        assert!(
            live.snapshot().tcp.is_none(),
            "its number may be another socket's by now"
        );
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_socket_that_is_not_of_tcp_is_no_connection_to_ask_about() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let info = TcpInfo(Arc::new(Mutex::new(Some(ours.as_raw_fd()))));
        assert!(info.read().is_none());
    }

    #[tokio::test]
    async fn asking_does_not_keep_a_socket_open() {
        let (ours, mut theirs) = pair().await;
        let info = ours.info();
        drop(ours);
        assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0);
        assert!(info.read().is_none());
    }
}
