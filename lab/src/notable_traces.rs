//! Traces of the slowest request and of the last failed request of each error kind.
//!
//! They are the exemplars on the `/metrics` page of service B. Only sampled requests have exemplars,
//! so that each link opens a stored trace.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use reqwest::header::ACCEPT;

/// Timeout of the request for the metrics.
const TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(crate) struct NotableTraces {
    slowest: Option<Exemplar>,
    /// Trace ids by error kind.
    failed: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Exemplar {
    trace_id: String,
    value: f64,
}

impl NotableTraces {
    /// Reads the exemplars of the service at `address`.
    pub(crate) async fn fetch(address: SocketAddr) -> reqwest::Result<Self> {
        let client = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?;
        let request = client
            .get(format!("http://{address}/metrics"))
            .header(ACCEPT, "application/openmetrics-text");
        Ok(Self::parse(&request.send().await?.error_for_status()?.text().await?))
    }

    fn parse(metrics: &str) -> Self {
        let mut traces = Self::default();
        for line in metrics.lines() {
            let Some((series, exemplar)) = line.split_once(" # ") else { continue };
            let Some(exemplar) = parse_exemplar(exemplar) else { continue };
            if series.starts_with("http_server_request_duration_seconds_bucket") {
                if traces.slowest.as_ref().is_none_or(|slowest| exemplar.value > slowest.value) {
                    traces.slowest = Some(exemplar);
                }
            } else if series.starts_with("http_client_request_errors_total")
                && let Some(kind) = label_value(series, "error_type")
            {
                traces.failed.insert(kind.to_owned(), exemplar.trace_id);
            }
        }
        traces
    }

    /// Describes each trace in a line. `link` returns the URL of a trace.
    pub(crate) fn lines(&self, link: impl Fn(&str) -> Option<String>) -> Vec<String> {
        let link = |trace_id: &str| link(trace_id).unwrap_or_else(|| format!("trace {trace_id}"));
        let slowest = self.slowest.iter().map(|Exemplar { trace_id, value }| {
            format!("slowest, {:.0} ms  {}", value * 1000.0, link(trace_id))
        });
        let failed =
            self.failed.iter().map(|(kind, trace_id)| format!("last {kind}  {}", link(trace_id)));
        let lines: Vec<_> = slowest.chain(failed).collect();
        if lines.is_empty() { vec!["no traced request yet".to_owned()] } else { lines }
    }
}

/// Parses `{trace_id="…",span_id="…"} value time`.
fn parse_exemplar(text: &str) -> Option<Exemplar> {
    let (labels, rest) = text.split_once("} ")?;
    let trace_id = label_value(labels, "trace_id")?.to_owned();
    let value = rest.split(' ').next()?.parse().ok()?;
    Some(Exemplar { trace_id, value })
}

fn label_value<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) = labels.split_once(&format!("{name}=\""))?;
    value.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_slowest_and_latest_failures() {
        let metrics = "\
            http_server_request_duration_seconds_bucket{http_route=\"/call-echo\",le=\"0.005\"} 9 # {trace_id=\"aa\",span_id=\"1\"} 0.002 17.000\n\
            http_server_request_duration_seconds_bucket{http_route=\"/call-echo\",le=\"2.5\"} 10 # {trace_id=\"bb\",span_id=\"1\"} 1.001 18.000\n\
            http_server_request_duration_seconds_bucket{http_route=\"/call-echo\",le=\"5.0\"} 10\n\
            http_client_request_errors_total{server_port=\"1\",error_type=\"timeout\"} 1 # {trace_id=\"bb\",span_id=\"2\"} 1 18.000\n\
            http_client_request_duration_seconds_bucket{error_type=\"timeout\",le=\"2.5\"} 1 # {trace_id=\"bb\",span_id=\"2\"} 1 18.000\n\
            http_client_request_errors_total{server_port=\"1\",error_type=\"refused\"} 0\n# EOF\n";
        let lines = NotableTraces::parse(metrics).lines(|id| Some(format!("http://j/trace/{id}")));
        assert_eq!(
            lines,
            ["slowest, 1001 ms  http://j/trace/bb", "last timeout  http://j/trace/bb"]
        );
        assert_eq!(NotableTraces::parse("").lines(|_| None), ["no traced request yet"]);
    }
}
