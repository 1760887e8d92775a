//! Kinds of failure: the closed list that body, metric label, span and log share.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;

use http::StatusCode;

use super::source::causes;
use super::{CircuitOpenError, DnsError, GrpcStatus};

/// Kind of a failed call or request.
///
/// [`as_str`](Self::as_str) is the word in the response body, in the `error_type` label, in the span
/// attribute `error.type` and in the log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The server did not finish in time: connect, headers or body.
    Timeout,
    /// The connection was refused.
    Refused,
    /// The connection was reset or closed before the response was complete.
    Reset,
    /// The host name does not resolve.
    Dns,
    /// There is no route to the host or network.
    Unreachable,
    /// The TLS handshake failed.
    Tls,
    /// The body of a 2xx response is not what the client expects.
    Decode,
    /// The response has this status, which is not 2xx. The word is the status code.
    Status(StatusCode),
    /// The gRPC call ended with this status, which is not OK. The word is its name.
    Grpc(GrpcStatus),
    /// The caller cancelled the call, or the client of the service disconnected.
    Canceled,
    /// The call was not made because the circuit breaker is open.
    CircuitOpen,
    /// This machine has no free port, file descriptor or buffer. Nothing was sent.
    Local,
    /// The request was not admitted because too many are in flight.
    Overload,
    /// Any other failure.
    Other,
}

impl ErrorKind {
    /// Kinds of failed calls that a client without circuit breaker can have, except
    /// [`Status`](Self::Status).
    pub const ALL_NAMED: [Self; 10] = [
        Self::Timeout,
        Self::Refused,
        Self::Reset,
        Self::Dns,
        Self::Unreachable,
        Self::Tls,
        Self::Decode,
        Self::Canceled,
        Self::Local,
        Self::Other,
    ];

    /// Returns the word for this kind.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Status(status) => status.as_str(),
            kind => kind.static_str(),
        }
    }

    /// Returns the word for this kind, without an allocation unless it is a status code.
    pub(crate) fn as_label(self) -> Cow<'static, str> {
        match self {
            Self::Status(status) => Cow::Owned(status.as_str().to_owned()),
            kind => Cow::Borrowed(kind.static_str()),
        }
    }

    fn static_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Dns => "dns",
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::Decode => "decode",
            Self::Status(_) => "status",
            Self::Grpc(status) => status.name(),
            Self::Canceled => "canceled",
            Self::CircuitOpen => "circuit_open",
            Self::Local => "local",
            Self::Overload => "overload",
            Self::Other => "other",
        }
    }

    /// Returns `true` if a request that ends like this is a failure of the service, by the semantic
    /// conventions for HTTP and gRPC server spans.
    pub(crate) fn is_server_error(self) -> bool {
        match self {
            Self::Status(status) => status.is_server_error(),
            Self::Grpc(status) => status.is_server_error(),
            Self::Canceled => false,
            _ => true,
        }
    }

    /// Classifies an error of a [`reqwest`] call.
    ///
    /// Tests for a timeout first, because a connect timeout is a connect error too. Then the innermost
    /// cause with a known type decides.
    pub fn from_reqwest(error: &reqwest::Error) -> Self {
        if error.is_timeout() {
            return Self::Timeout;
        }
        if let Some(status) = error.status() {
            return Self::Status(status);
        }
        if error.is_decode() || error.is_body() {
            // If the connection failed, hyper's error is among the causes. Otherwise the content is malformed.
            let kind = Self::from_chain(error)
                .filter(|_| causes(error).any(|cause| cause.is::<hyper::Error>()));
            return kind.unwrap_or(Self::Decode);
        }
        let kind = Self::from_chain(error).unwrap_or(Self::Other);
        let is_handshake =
            error.is_connect() && error.url().is_some_and(|url| url.scheme() == "https");
        match kind {
            // A connection that the peer closes during the handshake has no error of rustls.
            Self::Reset if is_handshake => Self::Tls,
            kind => kind,
        }
    }

    /// Classifies an error that passed through other middleware; see [`from_reqwest`](Self::from_reqwest).
    pub fn from_middleware(error: &reqwest_middleware::Error) -> Self {
        match error {
            reqwest_middleware::Error::Reqwest(error) => Self::from_reqwest(error),
            reqwest_middleware::Error::Middleware(error) => error
                .chain()
                .find_map(|cause| cause.downcast_ref::<reqwest::Error>().map(Self::from_reqwest))
                .or_else(|| Self::from_chain(error.as_ref()))
                .unwrap_or(Self::Other),
        }
    }

    /// Returns the kind of the innermost cause with a known type.
    fn from_chain(error: &(dyn Error + 'static)) -> Option<Self> {
        causes(error).filter_map(Self::classify).last()
    }

    fn classify(error: &(dyn Error + 'static)) -> Option<Self> {
        if error.is::<DnsError>() {
            return Some(Self::Dns);
        }
        if error.is::<CircuitOpenError>() {
            return Some(Self::CircuitOpen);
        }
        #[cfg(feature = "tls")]
        if error.is::<rustls::Error>() {
            return Some(Self::Tls);
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            return Self::from_hyper(error);
        }
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return Self::from_h2(error);
        }
        error.downcast_ref::<io::Error>().and_then(Self::from_io)
    }

    fn from_hyper(error: &hyper::Error) -> Option<Self> {
        if error.is_timeout() {
            Some(Self::Timeout)
        } else if error.is_incomplete_message() || error.is_closed() {
            Some(Self::Reset)
        } else {
            None
        }
    }

    fn from_h2(error: &h2::Error) -> Option<Self> {
        let is_reset = error.is_reset() || error.is_go_away();
        error.get_io().and_then(Self::from_io).or(is_reset.then_some(Self::Reset))
    }

    fn from_io(error: &io::Error) -> Option<Self> {
        use io::ErrorKind as Io;
        if is_local(error) {
            return Some(Self::Local);
        }
        match error.kind() {
            Io::TimedOut => Some(Self::Timeout),
            Io::ConnectionRefused => Some(Self::Refused),
            Io::ConnectionReset | Io::ConnectionAborted | Io::BrokenPipe | Io::UnexpectedEof => {
                Some(Self::Reset)
            }
            Io::HostUnreachable | Io::NetworkUnreachable | Io::NetworkDown => {
                Some(Self::Unreachable)
            }
            _ => None,
        }
    }
}

/// Returns `true` if this machine has no port, file descriptor or buffer for a connection.
fn is_local(error: &io::Error) -> bool {
    #[cfg(unix)]
    if let Some(code) = error.raw_os_error() {
        use rustix::io::Errno;
        return [Errno::ADDRNOTAVAIL, Errno::MFILE, Errno::NFILE, Errno::NOBUFS]
            .iter()
            .any(|errno| errno.raw_os_error() == code);
    }
    error.kind() == io::ErrorKind::AddrNotAvailable
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer<E: Error + 'static>(#[source] E);

    #[test]
    fn named_kinds_have_unique_words() {
        let mut words: Vec<_> = ErrorKind::ALL_NAMED.iter().map(ErrorKind::as_str).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), ErrorKind::ALL_NAMED.len());
        for kind in ErrorKind::ALL_NAMED {
            assert_eq!(kind.as_label(), kind.as_str());
        }
    }

    #[test]
    fn nested_io_error_is_classified() {
        for (io, kind) in [
            (io::ErrorKind::ConnectionRefused, ErrorKind::Refused),
            (io::ErrorKind::ConnectionReset, ErrorKind::Reset),
            (io::ErrorKind::UnexpectedEof, ErrorKind::Reset),
            (io::ErrorKind::HostUnreachable, ErrorKind::Unreachable),
            (io::ErrorKind::NetworkUnreachable, ErrorKind::Unreachable),
            (io::ErrorKind::TimedOut, ErrorKind::Timeout),
            (io::ErrorKind::AddrNotAvailable, ErrorKind::Local),
        ] {
            let error = Outer(Outer(io::Error::from(io)));
            assert_eq!(ErrorKind::from_chain(&error), Some(kind));
        }
        assert_eq!(ErrorKind::from_chain(&Outer(fmt::Error)), None);
    }

    /// Failures of HTTP/2 have no source. hyper wraps them.
    #[tokio::test]
    async fn reset_stream_is_classified() {
        let (client, server) = tokio::io::duplex(1024);
        let server = async {
            let mut connection = h2::server::handshake(server).await.unwrap();
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            respond.send_reset(h2::Reason::INTERNAL_ERROR);
            while connection.accept().await.is_some() {}
        };
        let client = async {
            let (mut requests, connection) = h2::client::handshake(client).await.unwrap();
            let request = http::Request::get("http://a.test/").body(()).unwrap();
            let (response, _) = requests.send_request(request, true).unwrap();
            drop(requests);
            tokio::join!(response, connection).0.unwrap_err()
        };
        let error = tokio::join!(server, client).1;
        assert_eq!(ErrorKind::from_chain(&Outer(error)), Some(ErrorKind::Reset));
    }

    #[cfg(unix)]
    #[test]
    fn exhausted_resource_is_local() {
        for errno in [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE, rustix::io::Errno::NOBUFS]
        {
            let error = Outer(io::Error::from(errno));
            assert_eq!(ErrorKind::from_chain(&error), Some(ErrorKind::Local), "{errno:?}");
        }
    }

    #[test]
    fn wrapped_cause_is_classified() {
        let dns = DnsError(io::Error::other("no such host"));
        let error = Outer(io::Error::other(dns));
        assert_eq!(ErrorKind::from_chain(&error), Some(ErrorKind::Dns));
    }
}
