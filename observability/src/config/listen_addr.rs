use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Address of a listener: `127.0.0.1:8080`, `[::]:8080`, `localhost:8080` or `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListenAddr {
    /// Host and port. The host may be a name, which is resolved when the listener is bound.
    Tcp { host: String, port: u16 },
    /// Path of a Unix socket.
    Unix(PathBuf),
}

impl ListenAddr {
    /// Returns the host to connect to. That of an unspecified address such as `0.0.0.0` is loopback.
    pub(crate) fn connect_host(&self) -> Option<(&str, u16)> {
        let Self::Tcp { host, port } = self else { return None };
        let host = match host.parse::<IpAddr>() {
            Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => "127.0.0.1",
            Ok(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => "::1",
            _ => host,
        };
        Some((host, *port))
    }
}

impl FromStr for ListenAddr {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return match cfg!(unix) {
                true => Ok(Self::Unix(path.into())),
                false => Err("this platform has no Unix sockets"),
            };
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Tcp { host: address.ip().to_string(), port: address.port() });
        }
        let is_name = |host: &str| {
            !host.is_empty()
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        };
        match text.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
            Some((host, Ok(port))) if is_name(host) => {
                Ok(Self::Tcp { host: host.to_owned(), port })
            }
            _ => Err("expected HOST:PORT such as 127.0.0.1:8080, or unix:/path"),
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addr_round_trip() {
        for text in ["127.0.0.1:0", "[::]:8080", "localhost:8080", "a-b.test:1", "unix:/tmp/a b"] {
            assert_eq!(text.parse::<ListenAddr>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn malformed_listen_addr_is_rejected() {
        for text in
            ["8080", "localhost", "localhost:http", "a b:80", "a:65536", "unix:", "[::]", "::1:80"]
        {
            assert!(text.parse::<ListenAddr>().is_err(), "{text}");
        }
    }

    #[test]
    fn unspecified_host_connects_to_loopback() {
        for (text, host) in
            [("0.0.0.0:1", "127.0.0.1"), ("[::]:1", "::1"), ("localhost:1", "localhost")]
        {
            let address: ListenAddr = text.parse().unwrap();
            assert_eq!(address.connect_host(), Some((host, 1)));
        }
    }
}
