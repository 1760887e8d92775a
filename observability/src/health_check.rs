//! Probe of a running service, for container health checks without a shell.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::config::ListenAddr;
use crate::error::Error;

/// Time limit of the probe, from the resolution of the name to the end of the response.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Requests `/readyz` below `prefix` of the service that listens on `address`.
pub(crate) fn health_check(address: &ListenAddr, prefix: &'static str) -> Result<(), Error> {
    let details = match probe_in_time(address.clone(), prefix) {
        Ok(response) if response.starts_with("HTTP/1.1 200 ") => return Ok(()),
        Ok(response) => response.lines().next().unwrap_or("no response").to_owned(),
        Err(error) => error.to_string(),
    };
    Err(Error::NotReady { address: address.to_string(), details })
}

/// Probes on a thread, which ends with the process, because a resolution has no timeout and that of a read
/// starts again with each byte.
fn probe_in_time(address: ListenAddr, prefix: &'static str) -> io::Result<String> {
    let (result_tx, result_rx) = mpsc::channel();
    let probe = move || result_tx.send(probe_readyz(&address, prefix));
    thread::Builder::new().name("health-check".to_owned()).spawn(probe)?;
    result_rx.recv_timeout(TIMEOUT).unwrap_or_else(|_| {
        let details = format!("no complete response within {TIMEOUT:?}");
        Err(io::Error::new(io::ErrorKind::TimedOut, details))
    })
}

fn probe_readyz(address: &ListenAddr, prefix: &str) -> io::Result<String> {
    match address.connect_host() {
        Some(host) => request_readyz(TcpStream::connect(host)?, prefix),
        None => probe_unix_socket(address, prefix),
    }
}

#[cfg(unix)]
fn probe_unix_socket(address: &ListenAddr, prefix: &str) -> io::Result<String> {
    let ListenAddr::Unix(path) = address else { return Err(io::ErrorKind::Unsupported.into()) };
    request_readyz(std::os::unix::net::UnixStream::connect(path)?, prefix)
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
