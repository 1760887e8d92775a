//! Probe of a running service, for container health checks without a shell.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::config::ListenAddr;
use crate::error::Error;

const TIMEOUT: Duration = Duration::from_secs(2);

/// Requests `/readyz` below `prefix` of the service that listens on `address`.
pub(crate) fn health_check(address: &ListenAddr, prefix: &str) -> Result<(), Error> {
    let details = match probe_readyz(address, prefix) {
        Ok(response) if response.starts_with("HTTP/1.1 200 ") => return Ok(()),
        Ok(response) => response.lines().next().unwrap_or("no response").to_owned(),
        Err(error) => error.to_string(),
    };
    Err(Error::NotReady { address: address.to_string(), details })
}

fn probe_readyz(address: &ListenAddr, prefix: &str) -> io::Result<String> {
    let Some(host) = address.connect_host() else {
        return probe_unix_socket(address, prefix);
    };
    let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
    for address in host.to_socket_addrs()? {
        result = TcpStream::connect_timeout(&address, TIMEOUT);
        if result.is_ok() {
            break;
        }
    }
    let stream = result?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    request_readyz(stream, prefix)
}

#[cfg(unix)]
fn probe_unix_socket(address: &ListenAddr, prefix: &str) -> io::Result<String> {
    let ListenAddr::Unix(path) = address else { return Err(io::ErrorKind::Unsupported.into()) };
    let stream = std::os::unix::net::UnixStream::connect(path)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    request_readyz(stream, prefix)
}

#[cfg(not(unix))]
fn probe_unix_socket(_: &ListenAddr, _: &str) -> io::Result<String> {
    Err(io::ErrorKind::Unsupported.into())
}

fn request_readyz(mut stream: impl Read + Write, prefix: &str) -> io::Result<String> {
    write!(stream, "GET {prefix}/readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut response = String::new();
    stream.take(64 * 1024).read_to_string(&mut response)?;
    Ok(response)
}
