//! The socket of a connection: TCP, TLS over TCP, or a socket of this machine.
//!
//! An enum rather than a type parameter: HTTP/2 is compiled once, and the one branch an operation costs is nothing
//! beside its system call.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use setpoint_flow::{Tcp, TcpInfo};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio_rustls::server::TlsStream;

/// A connected socket.
pub(super) enum Socket {
    Tcp(Tcp),
    Unix(UnixStream),
    /// Boxed: a session is two kilobytes, which plain connections do not carry.
    Tls(Box<TlsStream<Tcp>>),
}

impl Socket {
    /// The peer's address; none of a peer on this machine's sockets, nor of one that is gone already and will ask for nothing.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.tcp()?.peer_addr().ok()
    }

    /// Whom to ask what TCP knows of it.
    pub(super) fn info(&self) -> Option<TcpInfo> {
        self.tcp().map(Tcp::info)
    }

    fn tcp(&self) -> Option<&Tcp> {
        match self {
            Self::Tcp(socket) => Some(socket),
            Self::Tls(socket) => Some(socket.get_ref().0),
            Self::Unix(_) => None,
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Unix(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(socket) => Pin::new(socket).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Unix(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Tls(socket) => Pin::new(socket).poll_write(cx, buf),
        }
    }

    /// Only TLS keeps records back.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Tls(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}
