//! Which connection a call came by: its buckets are its own, and go with it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use crate::limits::Scope;

/// A connection as limits see it. In a request's extensions it says which one the request came by; cloning gives another
/// handle to the same one, and its buckets are freed with the last.
#[derive(Clone)]
pub struct Connection(Arc<Known>);

struct Known {
    peer: Box<str>,
    scope: Scope,
}

impl Connection {
    /// A connection of this peer: a user, a client certificate's name, or an address without its port.
    #[must_use]
    pub fn of(peer: impl Into<Box<str>>) -> Self {
        Self(Arc::new(Known {
            peer: peer.into(),
            scope: Scope::default(),
        }))
    }

    /// A connection from this address.
    #[must_use]
    pub fn from_address(address: SocketAddr) -> Self {
        Self::of(address.ip().to_string())
    }

    /// Whose it is.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.0.peer
    }

    pub(super) fn scope(&self) -> &Scope {
        &self.0.scope
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection of {:?}", self.peer())
    }
}

/// A socket for tonic's server whose calls know their [`Connection`]; tonic has no other place to make something for each
/// connection. Made of what a listener accepts, and given to `serve_with_incoming`.
#[derive(Debug)]
pub struct Accepted<S> {
    socket: S,
    connection: Connection,
}

impl<S> Accepted<S> {
    /// A socket of this connection.
    #[must_use]
    pub fn new(socket: S, connection: Connection) -> Self {
        Self { socket, connection }
    }
}

impl<S> Connected for Accepted<S> {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.connection.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Accepted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Accepted<S> {
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
