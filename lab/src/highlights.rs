//! The traces worth a look: the slowest request, and the last one that failed for each reason.
//!
//! They come from the exemplars on B's `/metrics`, which are there for sampled requests alone: each
//! link opens a stored trace.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What reading the page may take, and how long it may be in bytes.
const LIMIT: (Duration, u64) = (Duration::from_secs(2), 16 * 1024 * 1024);

/// The requests that stand out.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Highlights {
    slowest: Option<Highlight>,
    failed: Vec<(String, Highlight)>,
}

#[derive(Debug, Clone, PartialEq)]
struct Highlight {
    trace_id: String,
    value: f64,
}

impl Highlights {
    /// Asks the service at `address`.
    pub(crate) async fn of(address: SocketAddr) -> std::io::Result<Self> {
        match tokio::time::timeout(LIMIT.0, page(address)).await {
            Ok(page) => Ok(Self::parse(&page?)),
            Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
        }
    }

    fn parse(page: &str) -> Self {
        let mut highlights = Self::default();
        for line in page.lines() {
            let Some((series, exemplar)) = line.split_once(" # ") else { continue };
            let Some(highlight) = parse_exemplar(exemplar) else { continue };
            if series.starts_with("http_server_request_duration_seconds_bucket") {
                let slowest = highlights.slowest.get_or_insert_with(|| highlight.clone());
                if highlight.value > slowest.value {
                    *slowest = highlight;
                }
            } else if series.starts_with("http_client_request_errors_total")
                && let Some(kind) = label(series, "error_type")
            {
                highlights.failed.push((kind.to_owned(), highlight));
            }
        }
        highlights.failed.sort_by(|one, other| one.0.cmp(&other.0));
        highlights
    }

    /// A line for each, with the link that `link` makes of a trace id.
    pub(crate) fn show(&self, link: impl Fn(&str) -> Option<String>) -> Vec<String> {
        let link = |highlight: &Highlight| {
            link(&highlight.trace_id).unwrap_or_else(|| format!("trace {}", highlight.trace_id))
        };
        let slowest = self
            .slowest
            .iter()
            .map(|slowest| format!("slowest, {:.0} ms  {}", slowest.value * 1000.0, link(slowest)));
        let failed = self.failed.iter().map(|(kind, last)| format!("last {kind}  {}", link(last)));
        let lines: Vec<_> = slowest.chain(failed).collect();
        if lines.is_empty() { vec!["no traced request yet".to_owned()] } else { lines }
    }
}

/// `{trace_id="…",span_id="…"} value time`.
fn parse_exemplar(text: &str) -> Option<Highlight> {
    let (labels, rest) = text.split_once("} ")?;
    let trace_id = label(labels, "trace_id")?.to_owned();
    let value = rest.split(' ').next()?.parse().ok()?;
    Some(Highlight { trace_id, value })
}

fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) = labels.split_once(&format!("{name}=\""))?;
    value.split('"').next()
}

async fn page(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "GET /metrics HTTP/1.0\r\nHost: {address}\r\nAccept: application/openmetrics-text\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LIMIT.1).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A request that could not be looked at.
pub(crate) fn unavailable(error: &impl fmt::Display) -> String {
    format!("B's /metrics cannot be read: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_slowest_and_latest_failures() {
        let page = "HTTP/1.0 200 OK\r\n\r\n\
            http_server_request_duration_seconds_bucket{http_route=\"/call-echo\",le=\"0.005\"} 9 # {trace_id=\"aa\",span_id=\"1\"} 0.002 17.000\n\
            http_server_request_duration_seconds_bucket{http_route=\"/call-echo\",le=\"2.5\"} 10 # {trace_id=\"bb\",span_id=\"1\"} 1.001 18.000\n\
            http_server_request_duration_seconds_bucket{http_route=\"/call-echo\",le=\"5.0\"} 10\n\
            http_client_request_errors_total{server_port=\"1\",error_type=\"timeout\"} 1 # {trace_id=\"bb\",span_id=\"2\"} 1 18.000\n\
            http_client_request_duration_seconds_bucket{error_type=\"timeout\",le=\"2.5\"} 1 # {trace_id=\"bb\",span_id=\"2\"} 1 18.000\n\
            http_client_request_errors_total{server_port=\"1\",error_type=\"refused\"} 0\n# EOF\n";
        let lines = Highlights::parse(page).show(|id| Some(format!("http://j/trace/{id}")));
        assert_eq!(
            lines,
            ["slowest, 1001 ms  http://j/trace/bb", "last timeout  http://j/trace/bb"]
        );
        assert_eq!(Highlights::parse("").show(|_| None), ["no traced request yet"]);
    }
}
