//! Traces of the slowest request and of the last failed request of each error kind.
//!
//! They are the exemplars on the `/metrics` page of service B. Only sampled requests have exemplars,
//! so that each link opens a stored trace.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use reqwest::header::ACCEPT;

/// Reads the notable traces of the service at `address`. Returns a description and the trace id of each.
pub(crate) async fn fetch(address: SocketAddr) -> reqwest::Result<Vec<(String, String)>> {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build()?;
    let request = client
        .get(format!("http://{address}/metrics"))
        .header(ACCEPT, "application/openmetrics-text");
    Ok(parse(&request.send().await?.error_for_status()?.text().await?))
}

fn parse(metrics: &str) -> Vec<(String, String)> {
    let mut slowest: Option<(f64, &str)> = None;
    let mut failed = BTreeMap::new();
    for line in metrics.lines() {
        let Some((series, exemplar)) = line.split_once(" # ") else { continue };
        let Some((value, trace_id)) = parse_exemplar(exemplar) else { continue };
        if series.starts_with("http_server_request_duration_seconds_bucket") {
            if slowest.is_none_or(|(max, _)| value > max) {
                slowest = Some((value, trace_id));
            }
        } else if series.starts_with("http_client_request_errors_total")
            && let Some(kind) = label_value(series, "error_type")
        {
            failed.insert(kind, trace_id);
        }
    }
    let slowest = slowest.map(|(seconds, id)| (format!("slowest, {:.0} ms", seconds * 1e3), id));
    let failed = failed.into_iter().map(|(kind, id)| (format!("last {kind}"), id));
    slowest.into_iter().chain(failed).map(|(text, id)| (text, id.to_owned())).collect()
}

/// Parses `{trace_id="…",span_id="…"} value time`. Returns the value and the trace id.
fn parse_exemplar(text: &str) -> Option<(f64, &str)> {
    let (labels, rest) = text.split_once("} ")?;
    let value = rest.split(' ').next()?.parse().ok()?;
    Some((value, label_value(labels, "trace_id")?))
}

/// Returns the value of a label in a series.
pub(crate) fn label_value<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
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
        let traces = [("slowest, 1001 ms", "bb"), ("last timeout", "bb")];
        assert_eq!(parse(metrics), traces.map(|(text, id)| (text.to_owned(), id.to_owned())));
        assert_eq!(parse(""), []);
    }
}
