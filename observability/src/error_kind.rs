//! Why a call failed, in one word: the closed list that body, metric label, span and log share.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;

use http::StatusCode;

/// Why a call failed. [`as_str`](Self::as_str) is the same word in the answer's body, in the
/// `error_type` label, in the span's `error.type` attribute and in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The peer did not finish in time: connect, headers or body.
    Timeout,
    /// Nobody listens there.
    Refused,
    /// The connection was reset or closed before the answer was whole.
    Reset,
    /// The name does not resolve.
    Dns,
    /// No route to the host or network.
    Unreachable,
    /// The TLS handshake failed.
    Tls,
    /// The peer answered 2xx with a body that is not what was agreed.
    Decode,
    /// The peer answered with this status, which is not 2xx. The word is the code itself.
    Status(StatusCode),
    /// Our own caller went away first: never an error of the peer's.
    Canceled,
    /// The peer was not called, since the circuit breaker is open.
    CircuitOpen,
    /// The request was not taken, since too many are being served already.
    Overload,
    /// Anything else.
    Other,
}

impl ErrorKind {
    /// Every kind of failed call that has a name of its own; [`ErrorKind::Status`] is named by its
    /// code, and a call that is never made ([`ErrorKind::CircuitOpen`]) needs a circuit breaker.
    pub const ALL_NAMED: [Self; 9] = [
        Self::Timeout,
        Self::Refused,
        Self::Reset,
        Self::Dns,
        Self::Unreachable,
        Self::Tls,
        Self::Decode,
        Self::Canceled,
        Self::Other,
    ];

    /// The one word for it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Dns => "dns",
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::Decode => "decode",
            Self::Status(status) => status.as_str(),
            Self::Canceled => "canceled",
            Self::CircuitOpen => "circuit_open",
            Self::Overload => "overload",
            Self::Other => "other",
        }
    }

    /// The word as a value that costs nothing to clone where the kind is a named one.
    pub(crate) fn as_label(self) -> Cow<'static, str> {
        match self {
            Self::Timeout => "timeout".into(),
            Self::Refused => "refused".into(),
            Self::Reset => "reset".into(),
            Self::Dns => "dns".into(),
            Self::Unreachable => "unreachable".into(),
            Self::Tls => "tls".into(),
            Self::Decode => "decode".into(),
            Self::Status(status) => status.as_str().to_owned().into(),
            Self::Canceled => "canceled".into(),
            Self::CircuitOpen => "circuit_open".into(),
            Self::Overload => "overload".into(),
            Self::Other => "other".into(),
        }
    }

    /// The kind of a failed [`reqwest`] call, whether it failed before or after the answer's headers.
    ///
    /// A time-out is asked for first, since a connect time-out is a connect error too; then the
    /// chain of causes is walked for the innermost one that has a type.
    pub fn from_reqwest(error: &reqwest::Error) -> Self {
        if error.is_timeout() {
            return Self::Timeout;
        }
        if let Some(status) = error.status() {
            return Self::Status(status);
        }
        if error.is_decode() {
            return Self::from_chain(error).unwrap_or(Self::Decode);
        }
        Self::from_chain(error).unwrap_or(Self::Other)
    }

    /// As [`from_reqwest`](Self::from_reqwest), for an error that came through other middleware.
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

    fn from_chain(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut cause = Some(error);
        let mut kind = None;
        while let Some(error) = cause {
            kind = Self::classify(error).or(kind);
            // An io::Error made from another error does not give that error as its source.
            cause = match error.downcast_ref::<io::Error>() {
                Some(io) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
                None => error.source(),
            };
        }
        kind
    }

    fn classify(error: &(dyn Error + 'static)) -> Option<Self> {
        if error.is::<DnsError>() {
            return Some(Self::Dns);
        }
        if error.is::<CircuitOpen>() {
            return Some(Self::CircuitOpen);
        }
        #[cfg(feature = "tls")]
        if error.is::<rustls::Error>() {
            return Some(Self::Tls);
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            return Self::from_hyper(error);
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

    fn from_io(error: &io::Error) -> Option<Self> {
        use io::ErrorKind as Io;
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

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that did not resolve. A type of its own, so that nobody has to read error texts.
#[derive(Debug)]
pub(crate) struct DnsError(pub(crate) io::Error);

impl fmt::Display for DnsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "name resolution failed: {}", self.0)
    }
}

impl Error for DnsError {}

/// A call that was not made.
#[derive(Debug)]
pub(crate) struct CircuitOpen;

impl fmt::Display for CircuitOpen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not called: the last calls failed, and the circuit breaker is open")
    }
}

impl Error for CircuitOpen {}

/// An error and all its causes on one line, outermost first, each said once.
pub(crate) fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Outer<E>(E);
    impl<E> fmt::Display for Outer<E> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("outer")
        }
    }
    impl<E: Error + 'static> Error for Outer<E> {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn every_named_kind_has_a_word_of_its_own() {
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
        ] {
            let error = Outer(Outer(io::Error::from(io)));
            assert_eq!(ErrorKind::from_chain(&error), Some(kind));
        }
        assert_eq!(ErrorKind::from_chain(&Outer(fmt::Error)), None);
    }

    #[test]
    fn a_cause_inside_an_io_error_is_found() {
        let dns = DnsError(io::Error::other("no such host"));
        let error = Outer(io::Error::other(dns));
        assert_eq!(ErrorKind::from_chain(&error), Some(ErrorKind::Dns));
    }

    #[test]
    fn a_chain_says_each_cause_once() {
        let error = Outer(Outer(io::Error::other("inner")));
        assert_eq!(error_chain(&error), "outer: inner");
    }
}
