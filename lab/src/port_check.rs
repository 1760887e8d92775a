//! Check that the addresses of the lab are free, before anything starts.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use observability::Error;

/// Returns an error that names the flag of the first address that is not free, and the process that listens
/// there.
pub(crate) fn check_addresses(
    addresses: impl IntoIterator<Item = (&'static str, SocketAddr)>,
) -> Result<(), Error> {
    // All listeners are kept until the end, so that an address that is given twice is found, too.
    let mut listeners = Vec::new();
    for (flag, address) in addresses {
        match TcpListener::bind(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) => {
                let reason = match find_listener(address.port()) {
                    Some(process) if error.kind() == ErrorKind::AddrInUse => {
                        format!("{process} listens there")
                    }
                    _ => error.to_string(),
                };
                return Err(Error::other(format!(
                    "lab: cannot listen on {address}: {reason}; {flag} selects another address"
                )));
            }
        }
    }
    Ok(())
}

/// Returns name and id of the process that listens on this port, if this user may see its open files.
#[cfg(target_os = "linux")]
fn find_listener(port: u16) -> Option<String> {
    use std::fs::{read_dir, read_link, read_to_string};

    let socket = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|path| {
        read_to_string(path).ok()?.lines().find_map(|line| listening_socket(line, port))
    })?;
    for process in read_dir("/proc").ok()?.flatten() {
        let Ok(files) = read_dir(process.path().join("fd")) else { continue };
        let mut links = files.flatten().filter_map(|file| read_link(file.path()).ok());
        if links.any(|link| link.as_os_str() == socket.as_str()) {
            let name = read_to_string(process.path().join("comm")).ok()?;
            return Some(format!("{}, pid {},", name.trim(), process.file_name().display()));
        }
    }
    None
}

/// Returns name and id of the process that listens on this port, if `lsof` is installed, as it is on macOS.
#[cfg(not(target_os = "linux"))]
fn find_listener(port: u16) -> Option<String> {
    find_listener_with_lsof(port)
}

#[cfg(any(test, not(target_os = "linux")))]
fn find_listener_with_lsof(port: u16) -> Option<String> {
    let port = format!("-iTCP:{port}");
    // One line per field: `p` and the pid, then `c` and the command.
    let output =
        std::process::Command::new("lsof").args(["-nP", &port, "-sTCP:LISTEN", "-Fpc"]).output();
    let fields = String::from_utf8(output.ok()?.stdout).ok()?;
    let field = |prefix| fields.lines().find_map(|line: &str| line.strip_prefix(prefix));
    Some(format!("{}, pid {},", field('c')?, field('p')?))
}

/// Returns the target of the links to a socket in `/proc/<pid>/fd` if this line of `/proc/net/tcp` is about
/// one that listens on this port.
#[cfg(target_os = "linux")]
fn listening_socket(line: &str, port: u16) -> Option<String> {
    const TCP_LISTEN: &str = "0A";
    let fields: Vec<_> = line.split_whitespace().collect();
    let is_listener = fields.get(1)?.ends_with(&format!(":{port:04X}")) && fields[3] == TCP_LISTEN;
    is_listener.then(|| Some(format!("socket:[{}]", fields.get(9)?))).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsof_names_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let Some(found) = find_listener_with_lsof(port) else {
            assert!(std::process::Command::new("lsof").output().is_err(), "lsof finds nothing");
            eprintln!("skipped: lsof is not installed");
            return;
        };
        let suffix = format!(", pid {},", std::process::id());
        assert!(found.ends_with(&suffix), "{found}");
        drop(listener);
        assert_eq!(find_listener_with_lsof(port), None);
    }
}
