//! Listeners on addresses.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

use super::PlaneError;

/// Clients that may wait to be accepted; the kernel takes the lesser of this and `net.core.somaxconn`, which is 4096 on
/// Linux. With the 128 that a listener has by itself, each client of a crowd that comes back at once waits for a second or
/// more: the kernel drops what does not fit, and TCP knocks again after a second.
pub(super) const BACKLOG: u32 = 4096;

/// Listens at an address that `flag` has said, also beside other processes that listen there if it is `shared`.
pub(super) fn bind(addr: SocketAddr, flag: &'static str, shared: bool) -> Result<TcpListener, PlaneError> {
    listen(addr, shared).map_err(|cause| PlaneError::listen(addr, flag, cause))
}

fn listen(addr: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    if shared {
        socket.set_reuseport(true)?;
    }
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpStream;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_crowd_that_comes_at_once_waits_in_line_and_is_not_sent_away() {
        let allowed = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
        let crowd = allowed.trim().parse().map_or(100, |most: usize| most.min(500));
        let listener = bind("127.0.0.1:0".parse().unwrap(), "etcd-listen", false).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut clients = Vec::new();
        for n in 0..crowd {
            // Nobody accepts: who is sent away would knock again and again.
            let client = timeout(Duration::from_secs(20), TcpStream::connect(addr)).await;
            clients.push(
                client
                    .unwrap_or_else(|_| panic!("client {n} was sent away"))
                    .unwrap(),
            );
        }
    }
}
