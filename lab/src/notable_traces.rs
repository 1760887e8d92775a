//! Traces of the slowest request and of the last failed request of each error kind, of the last minutes.
//!
//! They are the exemplars on the `/metrics` page of service B. Only sampled requests have exemplars,
//! so that each link opens a stored trace, until the store drops it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use reqwest::header::ACCEPT;

use crate::http::client_builder;

/// Maximum age of a trace.
const MAX_AGE: Duration = Duration::from_secs(5 * 60);

/// Trace of a slow or failed request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NotableTrace {
    pub(crate) trace_id: String,
    description: String,
    age: Duration,
}

/// Writes the description and the age.
impl fmt::Display for NotableTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.age.as_secs() {
            seconds @ ..60 => write!(f, "{}, {seconds} s ago", self.description),
            seconds => write!(f, "{}, {} min ago", self.description, seconds / 60),
        }
    }
}

/// Reads the notable traces of the service at `address`.
pub(crate) async fn fetch(address: SocketAddr) -> reqwest::Result<Vec<NotableTrace>> {
    let client = client_builder(Duration::from_secs(2)).build()?;
    let request = client
        .get(format!("http://{address}/metrics"))
        .header(ACCEPT, "application/openmetrics-text");
    let metrics = request.send().await?.error_for_status()?.text().await?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(parse(&metrics, now))
}

/// Returns the notable traces of a page that was read at `now`, the time since the Unix epoch.
fn parse(metrics: &str, now: Duration) -> Vec<NotableTrace> {
    let mut slowest: Option<Exemplar<'_>> = None;
    let mut failed = BTreeMap::new();
    for line in metrics.lines() {
        let Some((series, exemplar)) = line.split_once(" # ") else { continue };
        let Some(exemplar) = Exemplar::parse(exemplar, now) else { continue };
        if series.starts_with("http_server_request_duration_seconds_bucket") {
            if slowest.as_ref().is_none_or(|slowest| exemplar.value > slowest.value) {
                slowest = Some(exemplar);
            }
        } else if series.starts_with("http_client_request_errors_total")
            && let Some(kind) = label_value(series, "error_type")
        {
            failed.insert(kind, exemplar);
        }
    }
    let slowest = slowest.map(|exemplar| {
        let description = format!("slowest, {:.0} ms", exemplar.value * 1e3);
        exemplar.into_trace(description)
    });
    let failed =
        failed.into_iter().map(|(kind, exemplar)| exemplar.into_trace(format!("last {kind}")));
    slowest.into_iter().chain(failed).collect()
}

/// Exemplar that is at most [`MAX_AGE`] old.
struct Exemplar<'a> {
    trace_id: &'a str,
    value: f64,
    age: Duration,
}

impl<'a> Exemplar<'a> {
    /// Parses `{trace_id="…",span_id="…"} value time`.
    fn parse(text: &'a str, now: Duration) -> Option<Self> {
        let (labels, rest) = text.split_once("} ")?;
        let (value, time) = rest.split_once(' ')?;
        let time = Duration::try_from_secs_f64(time.parse().ok()?).ok()?;
        let age = Some(now.saturating_sub(time)).filter(|age| *age <= MAX_AGE)?;
        Some(Self { trace_id: label_value(labels, "trace_id")?, value: value.parse().ok()?, age })
    }

    fn into_trace(self, description: String) -> NotableTrace {
        NotableTrace { trace_id: self.trace_id.to_owned(), description, age: self.age }
    }
}

/// Returns the value of a label in a series.
pub(crate) fn label_value<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) = labels.split_once(&format!("{name}=\""))?;
    value.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "\
        http_server_request_duration_seconds_bucket{http_route=\"/call-echo\",le=\"0.005\"} 9 # {trace_id=\"aa\",span_id=\"1\"} 0.002 317.000\n\
        http_server_request_duration_seconds_bucket{http_route=\"/call-echo\",le=\"2.5\"} 10 # {trace_id=\"bb\",span_id=\"1\"} 1.001 18.000\n\
        http_server_request_duration_seconds_bucket{http_route=\"/call-echo\",le=\"5.0\"} 10\n\
        http_client_request_errors_total{server_port=\"1\",error_type=\"timeout\"} 1 # {trace_id=\"bb\",span_id=\"2\"} 1 18.000\n\
        http_client_request_duration_seconds_bucket{error_type=\"timeout\",le=\"2.5\"} 1 # {trace_id=\"bb\",span_id=\"2\"} 1 18.000\n\
        http_client_request_errors_total{server_port=\"1\",error_type=\"refused\"} 0\n# EOF\n";

    fn notable(now: u64) -> Vec<(String, String)> {
        let traces = parse(METRICS, Duration::from_secs(now)).into_iter();
        traces.map(|trace| (trace.to_string(), trace.trace_id)).collect()
    }

    #[test]
    fn finds_slowest_and_latest_failures() {
        let expected = [("slowest, 1001 ms, 5 min ago", "bb"), ("last timeout, 5 min ago", "bb")];
        assert_eq!(notable(318), expected.map(|(text, id)| (text.to_owned(), id.to_owned())));
        assert_eq!(parse("", Duration::ZERO), []);
    }

    #[test]
    fn old_traces_are_left_out() {
        assert_eq!(notable(319), [("slowest, 2 ms, 2 s ago".to_owned(), "aa".to_owned())]);
        assert_eq!(notable(618), []);
    }
}
