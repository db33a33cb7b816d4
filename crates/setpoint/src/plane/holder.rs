//! Who listens on an address: the answer to "address in use" that people would look up next.

use std::fs;
use std::net::SocketAddr;

/// `setpoint (pid 42)`, as far as `/proc` shows it to this user.
pub(crate) fn of(addr: SocketAddr) -> Option<String> {
    let inode = listening_inode(addr.port())?;
    let socket = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name();
        let Some(pid) = name
            .to_str()
            .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        else {
            continue;
        };
        // Other users' processes do not show their files.
        let Ok(files) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let holds = |link: &fs::DirEntry| {
            fs::read_link(link.path()).is_ok_and(|target| target.as_os_str() == socket.as_str())
        };
        if files.flatten().any(|link| holds(&link)) {
            let program = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", program.trim()));
        }
    }
    None
}

/// The socket that listens on the port, from `/proc/net/tcp` (proc_net(5)): state 0A is LISTEN.
fn listening_inode(port: u16) -> Option<String> {
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let Ok(text) = fs::read_to_string(table) else {
            continue;
        };
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (Some(local), Some(state), Some(inode)) = (fields.get(1), fields.get(3), fields.get(9))
            else {
                continue;
            };
            let listens = local
                .rsplit_once(':')
                .is_some_and(|(_, hex)| u16::from_str_radix(hex, 16) == Ok(port));
            if listens && *state == "0A" {
                return Some((*inode).to_owned());
            }
        }
    }
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn a_listener_of_our_own_is_found_with_its_pid() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let holder = super::of(listener.local_addr().unwrap()).unwrap();
        assert!(
            holder.ends_with(&format!("(pid {})", std::process::id())),
            "{holder}"
        );
    }
}
