//! Telemetry of a failed call: log lines, counter and trace.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use observability::ErrorKind;
use serde::Serialize;
use serde_json::Value;

use super::client::{Client, Response};
use super::own_system::OwnSystem;
use super::suites::Service;
use crate::log_line::log_field;
use crate::notable_traces::label_value;

/// Counter of failed calls.
const COUNTER: &str = "http_client_request_errors_total";

/// Maximum time until the trace is stored, and interval between two queries.
const TRACE_TIMEOUT: Duration = Duration::from_secs(10);
const TRACE_INTERVAL: Duration = Duration::from_millis(50);

/// Values of the counter by error kind.
pub(super) type Counts = BTreeMap<String, f64>;

/// Telemetry of a failed call.
#[derive(Debug, Serialize)]
pub(super) struct Witnesses {
    pub(super) log_b: Option<String>,
    /// `None` if A is down.
    pub(super) log_a: Option<String>,
    /// Series of the counter that have changed, with the differences.
    pub(super) counter: String,
    /// URL of the trace.
    pub(super) trace: Option<String>,
    /// Error kind by witness.
    pub(super) words: BTreeMap<&'static str, String>,
}

impl Witnesses {
    /// Collects the telemetry of the call with this response. `before` are the counts before it.
    pub(super) async fn collect(
        system: &mut OwnSystem,
        client: &Client,
        before: &Counts,
        response: &Response,
    ) -> Result<Self, String> {
        let trace_id = response.trace_id.as_deref().ok_or("the response has no x-trace-id")?;
        let log_b = system.log_line(Service::B, trace_id).await;
        let log_a = system.log_line(Service::A, trace_id).await;
        let after = read_counts(client).await?;
        let changed: Vec<_> = after
            .iter()
            .map(|(kind, value)| (kind, value - before.get(kind).unwrap_or(&0.0)))
            .filter(|(_, difference)| *difference > 0.0)
            .collect();
        let series = |(kind, difference): &(&String, f64)| {
            format!("{COUNTER}{{error_type=\"{kind}\"}} +{difference}")
        };
        let kinds: Vec<_> = changed.iter().map(|(kind, _)| kind.as_str()).collect();
        let body: Value = serde_json::from_str(&response.body).unwrap_or_default();
        let words = BTreeMap::from([
            ("body", body["error"].as_str().unwrap_or_default().to_owned()),
            (
                "log",
                log_b
                    .as_deref()
                    .and_then(|line| log_field(line, "error"))
                    .unwrap_or_default()
                    .to_owned(),
            ),
            ("counter", kinds.join(" ")),
            ("trace", span_error(system, client, trace_id).await?),
        ]);
        let counter = changed.iter().map(series).collect::<Vec<_>>().join(", ");
        Ok(Self { log_b, log_a, counter, trace: system.traces.link(trace_id), words })
    }

    /// Returns the error kind if all witnesses name the same one.
    pub(super) fn common_word(&self) -> Option<&str> {
        let mut words = self.words.values();
        let first = words.next().filter(|first| !first.is_empty())?;
        words.all(|word| word == first).then_some(first)
    }

    /// Returns an error unless all witnesses name the same kind.
    pub(super) fn check(&self) -> Result<(), String> {
        let differ = || format!("the error kinds differ: {:?}", self.words);
        self.common_word().map(|_| ()).ok_or_else(differ)
    }
}

/// Reads the counter of failed calls from the `/metrics` of B.
pub(super) async fn read_counts(client: &Client) -> Result<Counts, String> {
    let text =
        async { client.http.get(client.url(Service::B, "metrics")).send().await?.text().await };
    let text = text.await.map_err(|error| {
        format!("cannot read the metrics of B: {}", ErrorKind::from_reqwest(&error))
    })?;
    Ok(parse_counts(&text))
}

fn parse_counts(metrics: &str) -> Counts {
    let mut counts = Counts::new();
    for line in metrics.lines().filter(|line| line.starts_with(COUNTER)) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        if let (Some(kind), Ok(value)) = (label_value(series, "error_type"), value.parse::<f64>()) {
            *counts.entry(kind.to_owned()).or_default() += value;
        }
    }
    counts
}

/// Waits for the client span of B and returns its `error.type`.
async fn span_error(system: &OwnSystem, client: &Client, trace_id: &str) -> Result<String, String> {
    let ui = system.traces.ui_addr().ok_or("no Jaeger")?;
    let url = format!("http://{ui}/api/traces/{trace_id}");
    let deadline = Instant::now() + TRACE_TIMEOUT;
    while Instant::now() < deadline {
        if let Ok(response) = client.http.get(&url).send().await
            && let Ok(body) = response.bytes().await
            && let Some(word) =
                client_span_error(&serde_json::from_slice(&body).unwrap_or_default())
        {
            return Ok(word);
        }
        tokio::time::sleep(TRACE_INTERVAL).await;
    }
    Err(format!("no client span of trace {trace_id} within {TRACE_TIMEOUT:?}"))
}

/// Returns the `error.type` of the client span in a response of Jaeger.
fn client_span_error(trace: &Value) -> Option<String> {
    let tag = |span: &Value, key: &str| {
        let tag = span["tags"].as_array()?.iter().find(|tag| tag["key"] == key)?;
        tag["value"].as_str().map(str::to_owned)
    };
    let spans = trace["data"][0]["spans"].as_array()?;
    let span = spans.iter().find(|span| tag(span, "span.kind").as_deref() == Some("client"))?;
    Some(tag(span, "error.type").unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn witnesses(counter: &str) -> Witnesses {
        let words = [("body", "reset"), ("counter", counter), ("log", "reset"), ("trace", "reset")];
        let words = words.map(|(witness, word)| (witness, word.to_owned())).into();
        Witnesses { log_a: None, log_b: None, counter: String::new(), trace: None, words }
    }

    #[test]
    fn different_words_are_rejected() {
        assert_eq!(witnesses("reset").check(), Ok(()));
        assert!(witnesses("refused").check().unwrap_err().contains(r#""counter": "refused""#));
        assert!(witnesses("").check().is_err());
    }

    #[test]
    fn counts_of_servers_are_added() {
        let metrics = "\
            http_client_request_errors_total{error_type=\"reset\",server_port=\"1\"} 2\n\
            http_client_request_errors_total{error_type=\"reset\",server_port=\"2\"} 1\n\
            http_client_request_errors_total{error_type=\"dns\",server_port=\"1\"} 0\n\
            http_server_request_errors_total{error_type=\"503\"} 9\n";
        let counts = Counts::from([("reset".to_owned(), 3.0), ("dns".to_owned(), 0.0)]);
        assert_eq!(parse_counts(metrics), counts);
    }

    #[test]
    fn client_span_has_error() {
        let tags = |kind: &str, error: &str| {
            serde_json::json!({"tags": [
                {"key": "span.kind", "value": kind}, {"key": "error.type", "value": error}
            ]})
        };
        let spans = [tags("server", "503"), tags("client", "reset")];
        let trace = serde_json::json!({"data": [{"spans": spans}]});
        assert_eq!(client_span_error(&trace).as_deref(), Some("reset"));
        assert_eq!(client_span_error(&serde_json::json!({"data": []})), None);
    }
}
