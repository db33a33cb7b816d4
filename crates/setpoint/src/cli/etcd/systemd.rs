//! Telling systemd that the service is ready (`sd_notify(3)`): units of etcd say `Type=notify`.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says READY on the socket that `NOTIFY_SOCKET` names.
///
/// # Errors
/// It is no socket, or nobody reads it.
pub(super) fn ready(socket: &str) -> io::Result<()> {
    let addr = match socket.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    sender.connect_addr(&addr)?;
    sender.send(b"READY=1")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_who_waits_hears_of_it() {
        let name = format!("setpoint-notify-{}-{:x}", std::process::id(), fastrand::u64(..));
        let addr = SocketAddr::from_abstract_name(&name).unwrap();
        let waiting = UnixDatagram::bind_addr(&addr).unwrap();
        ready(&format!("@{name}")).unwrap();
        let mut heard = [0; 16];
        let n = waiting.recv(&mut heard).unwrap();
        assert_eq!(&heard[..n], b"READY=1");
        assert!(ready("/nowhere/socket").is_err());
    }
}
