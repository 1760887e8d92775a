//! HTTP client and the classification of its results.

use std::error::Error as _;
use std::fmt;
use std::time::{Duration, Instant};

use observability::ErrorKind;
use reqwest::{Client, StatusCode, Url};
use serde_json::Value;

/// Message that service B must echo.
const MESSAGE: &str = "load";

/// Result of a request. A closed set, so that response bodies cannot add rows to the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Outcome {
    /// B returned the echo.
    Ok,
    /// B reported a failure of this kind.
    Failed(ErrorKind),
    /// B returned a status other than 2xx without a known error kind.
    UnexpectedStatus(StatusCode),
    /// B returned 2xx with a body other than the echo.
    InvalidBody,
    /// B sent no complete response.
    Transport(ErrorKind),
}

impl Outcome {
    fn from_response(status: StatusCode, body: &[u8]) -> Self {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        if !status.is_success() {
            let kind = body["error"].as_str().and_then(parse_error_kind);
            return kind.map_or(Self::UnexpectedStatus(status), Self::Failed);
        }
        if body["service_a"]["echo"] == MESSAGE { Self::Ok } else { Self::InvalidBody }
    }

    fn from_error(error: &reqwest::Error) -> Self {
        // The type of hyper-util's DNS error is private, so only its text identifies it.
        let is_dns = std::iter::successors(error.source(), |&error| error.source())
            .any(|error| error.to_string() == "dns error");
        Self::Transport(if is_dns { ErrorKind::Dns } else { ErrorKind::from_reqwest(error) })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Failed(kind) => write!(f, "{kind}"),
            Self::UnexpectedStatus(status) => write!(f, "B: status {}", status.as_str()),
            Self::InvalidBody => write!(f, "B: {}", ErrorKind::Decode),
            Self::Transport(kind) => write!(f, "B: {kind}"),
        }
    }
}

fn parse_error_kind(text: &str) -> Option<ErrorKind> {
    let not_called = [ErrorKind::CircuitOpen, ErrorKind::Overload];
    let mut named = ErrorKind::ALL_NAMED.into_iter().chain(not_called);
    let status = || StatusCode::from_bytes(text.as_bytes()).ok().map(ErrorKind::Status);
    named.find(|kind| kind.as_str() == text).or_else(status)
}

/// Completed request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Completed {
    pub(super) outcome: Outcome,
    /// Time from the due time of the request to the end of the response body.
    pub(super) latency: Duration,
}

/// Sends a request to `call_echo`, which was due at `due`.
pub(super) async fn send(client: Client, mut call_echo: Url, due: Instant) -> Completed {
    call_echo.query_pairs_mut().append_pair("msg", MESSAGE);
    let outcome = async {
        let response = client.get(call_echo).send().await?;
        let status = response.status();
        Ok(Outcome::from_response(status, &response.bytes().await?))
    };
    let outcome = outcome.await.unwrap_or_else(|error| Outcome::from_error(&error));
    Completed { outcome, latency: due.elapsed() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::build_client;

    fn outcome(status: u16, body: &str) -> String {
        let status = StatusCode::from_u16(status).unwrap();
        Outcome::from_response(status, body.as_bytes()).to_string()
    }

    #[test]
    fn only_echo_is_ok() {
        assert_eq!(outcome(200, r#"{"service_a":{"echo":"load"},"service_b":"ok"}"#), "ok");
        for body in ["", "{}", r#"{"service_a":{"echo":"other"},"service_b":"ok"}"#] {
            assert_eq!(outcome(200, body), "B: decode", "{body}");
        }
    }

    #[test]
    fn failure_uses_error_kind() {
        let never_called = [ErrorKind::CircuitOpen, ErrorKind::Overload];
        for kind in ErrorKind::ALL_NAMED.iter().chain(&never_called) {
            assert_eq!(outcome(503, &format!(r#"{{"error":"{kind}"}}"#)), kind.as_str());
        }
        assert_eq!(outcome(503, r#"{"error":"500","http_status":502}"#), "500");
    }

    #[test]
    fn unexpected_response_counts_by_status() {
        for (status, body) in
            [(400, r#"{"error":"Missing 'msg' parameter"}"#), (404, ""), (503, "x")]
        {
            assert_eq!(outcome(status, body), format!("B: status {status}"));
        }
    }

    async fn send_to_unknown_host(due: Instant) -> Completed {
        // The resolver rejects a label of more than 63 bytes without a DNS query.
        let target = Url::parse(&format!("http://{}", "a".repeat(64))).unwrap();
        send(build_client(Duration::from_secs(30)).unwrap(), target, due).await
    }

    #[tokio::test]
    async fn dns_failure_is_classified() {
        let completed = send_to_unknown_host(Instant::now()).await;
        assert_eq!(completed.outcome, Outcome::Transport(ErrorKind::Dns));
    }

    #[tokio::test]
    async fn latency_starts_at_due_time() {
        let late = Duration::from_secs(5);
        let completed = send_to_unknown_host(Instant::now() - late).await;
        assert!(completed.latency >= late, "{:?}", completed.latency);
    }
}
