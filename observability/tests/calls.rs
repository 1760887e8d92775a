//! Ends of calls: what the caller gets, and what metric and span record.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed assumption fails the test"
)]

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use observability::testing::{TestSpan, TestTelemetry};
use observability::{Client, RequestBuilderExt};
use reqwest::{Method, Url};
use serde_json::Value;
use testkit::{FakeServer, Reply, ReservedPort, listener_with_full_backlog};

const DURATION_COUNT: &str = "http_client_request_duration_seconds_count";
const DURATION_SUM: &str = "http_client_request_duration_seconds_sum";

/// What the caller does with the response.
#[derive(Clone, Copy, Debug)]
enum Caller {
    /// Looks at the status and drops the response.
    Status,
    /// Reads the body as text.
    Text,
    /// Reads one chunk and drops the response.
    FirstChunk,
    /// Fetches any JSON.
    Json,
    /// Fetches `()`.
    Unit,
    /// Drops the future of the response.
    Impatient,
}

impl Caller {
    /// Makes the call. Returns the body, or the error's text.
    async fn call(self, client: &Client, method: Method, url: &str) -> Result<String, String> {
        let request = client.request(method, url);
        let to_text = |error: &dyn std::error::Error| error.to_string();
        match self {
            Self::Json => {
                let json = request.fetch_json::<Value>().await;
                json.map(|json| json.to_string()).map_err(|error| error.kind().to_string())
            }
            Self::Unit => {
                let unit = request.fetch_json::<()>().await;
                unit.map(|()| String::new()).map_err(|error| error.kind().to_string())
            }
            Self::Impatient => {
                let response = tokio::time::timeout(Duration::from_millis(50), request.send());
                response.await.map(|_| String::new()).map_err(|error| error.to_string())
            }
            Self::Status | Self::Text | Self::FirstChunk => {
                let mut response = request.send().await.map_err(|error| to_text(&error))?;
                match self {
                    Self::Text => response.text().await.map_err(|error| to_text(&error)),
                    Self::FirstChunk => {
                        let chunk = response.chunk().await.map_err(|error| to_text(&error))?;
                        Ok(String::from_utf8_lossy(&chunk.unwrap_or_default()).into_owned())
                    }
                    _ => Ok(response.status().as_str().to_owned()),
                }
            }
        }
    }
}

/// A reply, a caller, and what must be recorded.
struct Case {
    reply: &'static [u8],
    /// The server stops in the middle of the reply instead of closing the connection.
    stalls: bool,
    resets: bool,
    method: Method,
    caller: Caller,
    result: Result<&'static str, &'static str>,
    status: Option<u16>,
    error_type: Option<&'static str>,
}

const OK: Case = Case {
    reply: b"",
    stalls: false,
    resets: false,
    method: Method::GET,
    caller: Caller::Text,
    result: Ok("hello"),
    status: Some(200),
    error_type: None,
};

/// Any text of an error.
const ANY: Result<&str, &str> = Err("");

fn cases() -> Vec<Case> {
    vec![
        Case { reply: b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", ..OK },
        Case { reply: b"HTTP/1.1 200 OK\r\n\r\nhello", ..OK },
        Case { reply: b"HTTP/1.0 200 OK\r\n\r\nhello", ..OK },
        Case {
            reply: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: sum\r\n\r\n5\r\nhello\r\n0\r\nsum: 1\r\n\r\n",
            ..OK
        },
        Case {
            reply: b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            ..OK
        },
        Case { reply: b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 5\r\n\r\nhello", ..OK },
        Case {
            method: Method::HEAD,
            reply: b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            result: Ok(""),
            ..OK
        },
        // A body that the caller does not read does not matter.
        Case { reply: b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nh", caller: Caller::Status, result: Ok("200"), ..OK },
        Case {
            reply: b"HTTP/1.1 500 Oops\r\nContent-Length: 9\r\n\r\nh",
            caller: Caller::Status,
            result: Ok("500"),
            status: Some(500),
            error_type: Some("500"),
            ..OK
        },
        Case {
            reply: b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone",
            result: Ok("none"),
            status: Some(404),
            error_type: Some("404"),
            ..OK
        },
        Case {
            reply: b"HTTP/1.1 304 Not Modified\r\n\r\n",
            result: Ok(""),
            status: Some(304),
            ..OK
        },
        Case {
            reply: b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n",
            result: Ok(""),
            status: Some(307),
            ..OK
        },
        Case {
            reply: b"HTTP/1.1 307 Temporary Redirect\r\nContent-Length: 0\r\n\r\n",
            caller: Caller::Json,
            result: Err("307"),
            status: Some(307),
            error_type: Some("307"),
            ..OK
        },
        Case {
            reply: b"HTTP/1.1 204 No Content\r\n\r\n",
            caller: Caller::Unit,
            result: Ok(""),
            status: Some(204),
            ..OK
        },
        Case {
            reply: b"HTTP/1.1 204 No Content\r\n\r\n",
            caller: Caller::Json,
            result: Ok("null"),
            status: Some(204),
            ..OK
        },
        Case {
            reply: b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            caller: Caller::Json,
            result: Err("decode"),
            error_type: Some("decode"),
            ..OK
        },
        Case { reply: b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", result: ANY, error_type: Some("reset"), ..OK },
        Case {
            reply: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhello",
            result: ANY,
            error_type: Some("reset"),
            ..OK
        },
        Case {
            reply: b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
            resets: true,
            result: ANY,
            error_type: Some("reset"),
            ..OK
        },
        Case { reply: b"", result: ANY, status: None, error_type: Some("reset"), ..OK },
        Case { reply: b"hello\r\n\r\n", result: ANY, status: None, error_type: Some("other"), ..OK },
        Case { reply: b"HTTP/1.1 200", stalls: true, result: ANY, status: None, error_type: Some("timeout"), ..OK },
        Case {
            reply: b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
            stalls: true,
            result: ANY,
            error_type: Some("timeout"),
            ..OK
        },
        Case {
            reply: b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
            stalls: true,
            caller: Caller::FirstChunk,
            error_type: Some("canceled"),
            ..OK
        },
        Case {
            reply: b"HTTP/1.1 200",
            stalls: true,
            caller: Caller::Impatient,
            result: ANY,
            status: None,
            error_type: Some("canceled"),
            ..OK
        },
    ]
}

#[tokio::test]
async fn call_end_is_recorded() {
    for case in cases() {
        let name = format!("{} {:?}", String::from_utf8_lossy(case.reply), case.caller);
        let reply = case.reply.to_vec();
        let server = FakeServer::start(match (case.stalls, case.resets) {
            (true, _) => Reply::Stall(reply),
            (_, true) => Reply::Reset(reply),
            _ => Reply::Close(reply),
        });
        let test = TestTelemetry::start();
        let client = test.client().timeout(Duration::from_millis(300)).build().unwrap();
        let result = case.caller.call(&client, case.method.clone(), &server.url()).await;
        match (case.result, result) {
            (Ok(expected), Ok(body)) => assert_eq!(body, expected, "{name}"),
            (Err(expected), Err(error)) => assert!(error.contains(expected), "{name}: {error}"),
            (expected, result) => panic!("{name}: {result:?}, not {expected:?}"),
        }
        assert_recorded(&name, &test, case.method.as_str(), case.status, case.error_type);
    }
}

/// Checks metrics and span of a single call.
fn assert_recorded(
    name: &str,
    test: &TestTelemetry,
    method: &str,
    status: Option<u16>,
    error_type: Option<&str>,
) -> TestSpan {
    let status = status.map(|status| status.to_string());
    let mut labels = vec![("http_request_method", method)];
    labels.extend(status.as_deref().map(|status| ("http_response_status_code", status)));
    labels.extend(error_type.map(|error| ("error_type", error)));
    assert_eq!(test.sample(DURATION_COUNT, &labels), 1.0, "{name}: {labels:?}");
    assert_eq!(test.sample(DURATION_COUNT, &[]), 1.0, "{name}");
    let errors = test.sample("http_client_request_errors_total", &[]);
    assert_eq!(errors, if error_type.is_some() { 1.0 } else { 0.0 }, "{name}");
    assert_eq!(test.sample("http_client_active_requests", &[]), 0.0, "{name}");

    assert_eq!(test.spans().len(), 1, "{name}");
    let span = test.span(method);
    assert_eq!(span.kind, "Client", "{name}");
    let attribute = |key: &str| span.attributes.get(key).cloned();
    assert_eq!(attribute("http.response.status_code"), status, "{name}");
    // A caller that cancels is not an error of the span.
    let span_error = error_type.filter(|error| *error != "canceled");
    assert_eq!(attribute("error.type").as_deref(), span_error, "{name}");
    assert_eq!(span.error.is_some(), span_error.is_some(), "{name}");
    let seconds = test.sample(DURATION_SUM, &[]);
    assert!((span.duration.as_secs_f64() - seconds).abs() < 1e-8, "{name}: {seconds}");
    span
}

/// A call that does not reach a server has the kind of its reason.
#[tokio::test]
async fn unsent_call_is_classified() {
    let unused = ReservedPort::bind();
    let (stalled, _connections) = listener_with_full_backlog();
    // No interface has this address (RFC 5737).
    let elsewhere = Ipv4Addr::new(192, 0, 2, 1);
    for (url, local_address, error_type) in [
        (unused.url(), None, "refused"),
        (format!("http://{stalled}"), None, "timeout"),
        (unused.url(), Some(elsewhere), "local"),
        ("http://unknown.invalid".to_owned(), None, "dns"),
    ] {
        let test = TestTelemetry::start();
        let client = test.client().timeout(Duration::from_secs(2));
        let client = client.configure(|client| client.local_address(local_address.map(Into::into)));
        let client = client.build().unwrap();
        let result = Caller::Json.call(&client, Method::GET, &url).await;
        assert_eq!(result, Err(error_type.to_owned()), "{url}");
        assert_recorded(&url, &test, "GET", None, Some(error_type));
    }
}

/// An address that does not respond leaves time for the next one.
#[tokio::test]
async fn second_address_is_tried_in_budget() {
    let (stalled, _connections) = listener_with_full_backlog();
    let healthy = TcpListener::bind((Ipv4Addr::LOCALHOST, stalled.port())).unwrap();
    let addresses = [stalled, healthy.local_addr().unwrap()];
    let _server = FakeServer::start_on(healthy, Reply::echo("hello"));
    let test = TestTelemetry::start();
    let client = test.client().timeout(Duration::from_secs(4));
    let client = client.configure(|client| client.resolve_to_addrs("two.test", &addresses));
    let client = client.build().unwrap();
    let url = format!("http://two.test:{}", stalled.port());
    let result = Caller::Json.call(&client, Method::GET, &url).await;
    assert_eq!(result.as_deref(), Ok(r#"{"echo":"hello"}"#));
    assert_recorded("two addresses", &test, "GET", Some(200), None);
}

/// Each attempt is a span below that of the caller.
#[tokio::test]
async fn retry_is_span_of_its_own() {
    let unused = ReservedPort::bind();
    let test = TestTelemetry::start();
    let client = test.client().max_connect_retries(2).build().unwrap();
    let caller = tracing::info_span!("caller");
    let url = unused.url();
    let call = Caller::Json.call(&client, Method::GET, &url);
    let result = tracing::Instrument::instrument(call, caller).await;
    assert_eq!(result, Err("refused".to_owned()));
    let parent = test.span("caller").span_id;
    let spans = test.spans();
    let attempts: Vec<_> = spans.iter().filter(|span| span.kind == "Client").collect();
    let counts: Vec<_> =
        attempts.iter().map(|span| span.attributes.get("http.request.resend_count")).collect();
    assert_eq!(counts, [None, Some(&"1".to_owned()), Some(&"2".to_owned())]);
    assert!(attempts.iter().all(|span| span.parent_span_id.as_ref() == Some(&parent)));
    assert_eq!(test.sample(DURATION_COUNT, &[("error_type", "refused")]), 3.0);
}

/// A call that the circuit breaker rejects has no span and no sample.
#[tokio::test]
async fn rejected_call_is_only_counted() {
    let unused = ReservedPort::bind();
    let url: Url = unused.url().parse().unwrap();
    let test = TestTelemetry::start();
    let client = test.client().circuit_breaker(&url, 1).build().unwrap();
    for expected in ["refused", "circuit_open"] {
        let result = Caller::Json.call(&client, Method::GET, url.as_str()).await;
        assert_eq!(result, Err(expected.to_owned()));
        let labels = [("error_type", expected)];
        assert_eq!(test.sample("http_client_request_errors_total", &labels), 1.0);
    }
    assert_eq!(test.sample(DURATION_COUNT, &[]), 1.0);
    assert_eq!(test.spans().len(), 1);
}

/// A server that ends the TLS handshake, in order or by a reset.
#[cfg(feature = "tls")]
#[tokio::test]
async fn ended_handshake_is_tls() {
    use std::io::Read;

    for resets in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // Closing a connection with unread bytes resets it.
            let mut bytes = [0; 16 * 1024];
            let length = if resets { 1 } else { bytes.len() };
            stream.read(&mut bytes[..length]).unwrap();
        });
        let test = TestTelemetry::start();
        let client = test.client().timeout(Duration::from_secs(4)).build().unwrap();
        let result = Caller::Json.call(&client, Method::GET, &url).await;
        assert_eq!(result, Err("tls".to_owned()), "resets: {resets}");
        assert_recorded(&url, &test, "GET", None, Some("tls"));
        server.join().unwrap();
    }
}
