//! Probe of a running service, for container health checks without a shell.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::error::Error;

/// Requests `/readyz` of the service that listens on `address`.
///
/// An unspecified address such as `0.0.0.0` is probed on loopback.
pub(crate) fn health_check(mut address: SocketAddr) -> Result<(), Error> {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    let details = match probe_readyz(address) {
        Ok(response) if response.starts_with("HTTP/1.1 200 ") => return Ok(()),
        Ok(response) => response.lines().next().unwrap_or("no response").to_owned(),
        Err(error) => error.to_string(),
    };
    Err(Error::NotReady { address, details })
}

fn probe_readyz(address: SocketAddr) -> io::Result<String> {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut response = String::new();
    stream.take(64 * 1024).read_to_string(&mut response)?;
    Ok(response)
}
