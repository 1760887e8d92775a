//! HTTP client and the classification of its results.

use std::error::Error as _;
use std::fmt;
use std::time::{Duration, Instant};

use observability::{Error, ErrorKind};
use reqwest::{Body, Client, StatusCode, Url};
use serde_json::Value;
use tower::util::MapRequestLayer;

use super::departure::{DEPARTURE, Departure, record_connect};
use crate::http;

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
    /// Time from the due time of the request to its [departure](Departure). This machine causes it, not B.
    pub(super) own_lag: Duration,
}

/// Builds a client whose requests have a [`Departure`].
pub(super) fn build_client(timeout: Duration) -> Result<Client, Error> {
    let layer = MapRequestLayer::new(record_connect);
    Ok(http::client_builder(timeout).connector_layer(layer).build()?)
}

/// Sends a request to `call_echo`, which was due at `due`.
pub(super) async fn send(client: Client, mut call_echo: Url, due: Instant) -> Completed {
    call_echo.query_pairs_mut().append_pair("msg", MESSAGE);
    let departure = Departure::default();
    let outcome = async {
        let request = client.get(call_echo).body(Body::wrap(departure.clone()));
        let response = request.send().await?;
        let status = response.status();
        Ok(Outcome::from_response(status, &response.bytes().await?))
    };
    let outcome = DEPARTURE.scope(departure.clone(), outcome).await;
    let outcome = outcome.unwrap_or_else(|error| Outcome::from_error(&error));
    let latency = due.elapsed();
    let own_lag = departure.time().map_or(latency, |time| time.saturating_duration_since(due));
    Completed { outcome, latency, own_lag }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::poll;
    use std::pin::pin;

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

    /// After one poll on this thread, a new connection is under way, and an idle one has not yet written.
    #[tokio::test]
    async fn own_lag_ends_at_departure() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let call_echo = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let router = axum::Router::new().fallback(async || "{}");
        tokio::spawn(async { axum::serve(listener, router).await });
        let client = build_client(Duration::from_secs(30)).unwrap();
        for is_new_connection in [true, false] {
            let due = Instant::now() - Duration::from_secs(5);
            let mut request = pin!(send(client.clone(), call_echo.clone(), due));
            assert!(poll!(&mut request).is_pending());
            let polled = Instant::now();
            let completed = request.await;
            assert_eq!(completed.outcome, Outcome::InvalidBody);
            let departure = due + completed.own_lag;
            assert_eq!(departure <= polled, is_new_connection, "{completed:?}");
            assert!(completed.own_lag >= Duration::from_secs(5), "{completed:?}");
            assert!(completed.own_lag < completed.latency, "{completed:?}");
        }
    }
}
