//! Comparison of `docs/telemetry.md` with the `/metrics` pages of running services.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;

use testkit::http::Request;
use testkit::otlp::OtlpCollector;
use testkit::prometheus::{Page, Sample};
use testkit::{FakeServer, Reply};

use crate::support::{service_a, service_b};

/// Documentation of a metric.
#[derive(Debug)]
struct Metric {
    kind: String,
    labels: BTreeSet<String>,
    /// Words of the description in backticks, including values of `error_type` specific to the metric.
    words: BTreeSet<String>,
}

/// Returns the words of a text in backticks.
fn words(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Returns the cells of the table rows in a section.
fn rows(page: &str, section: &str) -> Vec<Vec<String>> {
    let section = page.split("\n## ").find(|part| part.starts_with(section)).unwrap();
    section
        .lines()
        .filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'))
        .map(|line| line.split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

/// Contents of `docs/telemetry.md`.
struct Docs {
    metrics: BTreeMap<String, Metric>,
    labels: BTreeMap<String, String>,
    kinds: BTreeSet<String>,
    buckets: BTreeSet<String>,
}

impl Docs {
    fn read() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/telemetry.md");
        let page = fs::read_to_string(path).unwrap();
        let (mut metrics, mut labels) = (BTreeMap::new(), BTreeMap::new());
        for row in rows(&page, "Metrics") {
            match row.as_slice() {
                [name, kind, label_names, text] if name.starts_with('`') => {
                    let metric = Metric {
                        kind: kind.clone(),
                        labels: words(label_names),
                        words: words(text),
                    };
                    metrics.insert(name.trim_matches('`').to_owned(), metric);
                }
                [names, values] => {
                    labels.extend(words(names).into_iter().map(|name| (name, values.clone())));
                }
                _ => {}
            }
        }
        let kinds = rows(&page, "Error kinds").iter().flat_map(|row| words(&row[0])).collect();
        let bounds = page.split_once("upper bounds").unwrap().1.split_once(". ").unwrap().0;
        let mut buckets: BTreeSet<_> = bounds
            .split([',', ' ', '\n'])
            .map(|word| word.trim_end_matches('.').to_owned())
            .filter(|word| word.parse::<f64>().is_ok())
            .collect();
        assert_eq!(buckets.len(), 18, "{buckets:?}");
        buckets.insert("+Inf".to_owned());
        Self { metrics, labels, kinds, buckets }
    }

    /// Returns the name and documentation of a sample's metric.
    fn metric(&self, sample: &Sample) -> (&str, &Metric) {
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| sample.name.strip_suffix(suffix))
            .filter(|base| self.metrics.get(*base).is_some_and(|m| m.kind == "histogram"))
            .unwrap_or(&sample.name);
        let found = self.metrics.get_key_value(base);
        let (name, metric) = found.unwrap_or_else(|| panic!("undocumented metric: {sample:?}"));
        (name, metric)
    }

    /// Checks that every metric, label and value on the page is documented.
    fn check(&self, page: &Page, servers: &[SocketAddr]) {
        for sample in &page.samples {
            let (name, metric) = self.metric(sample);
            assert_eq!(page.types[name], metric.kind, "{name}");
            for (label, value) in &sample.labels {
                if label == "le" && metric.kind == "histogram" {
                    assert!(self.buckets.contains(value), "{sample:?}");
                    continue;
                }
                assert!(metric.labels.contains(label), "undocumented label {label}: {sample:?}");
                assert!(
                    self.is_documented(label, value, metric, servers),
                    "undocumented value {value}: {sample:?}"
                );
            }
        }
    }

    fn is_documented(
        &self,
        label: &str,
        value: &str,
        metric: &Metric,
        servers: &[SocketAddr],
    ) -> bool {
        let is_status = value.len() == 3 && value.parse::<u16>().is_ok();
        match label {
            "http_response_status_code" => is_status,
            "http_route" => {
                words(&self.labels[label]).contains(value)
                    || matches!(value, "/echo" | "/call-echo")
            }
            "server_address" => servers.iter().any(|server| server.ip().to_string() == value),
            "server_port" => servers.iter().any(|server| server.port().to_string() == value),
            "service" => matches!(value, "service-a" | "service-b"),
            "version" => value == env!("CARGO_PKG_VERSION"),
            "revision" => !value.is_empty(),
            // Metrics of requests and calls have error kinds. Others list their values in the description.
            "error_type" if metric.words.contains(value) => true,
            "error_type" => {
                let has = |label| metric.labels.contains(label);
                (has("server_address") || has("http_route"))
                    && (self.kinds.contains(value) || is_status)
            }
            // The values of resource attributes are those of the installation.
            _ if metric.labels.contains("service_instance_id") => !value.is_empty(),
            _ => words(&self.labels[label]).contains(value),
        }
    }
}

/// The page documents every metric, label and value, and no metric that does not exist.
#[test]
fn telemetry_doc_matches_metrics() {
    let docs = Docs::read();
    let collector = OtlpCollector::start();
    let exporter = ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url());
    let upstream = FakeServer::start(Reply::echo("hello"));
    let service_b = service_b(upstream.url())
        .envs([exporter.clone()])
        .env("SERVICE_A_TIMEOUT_MS", "1000")
        .env("SERVICE_A_CONNECT_RETRIES", "1")
        .env("SERVICE_A_BREAKER_FAILURES", "8")
        .env("MAX_CONCURRENT_REQUESTS", "1")
        .serve();
    let assert_call = |error: Option<&str>| {
        let response = service_b.get("/call-echo?msg=hello");
        assert_eq!(response.json().get("error").and_then(|kind| kind.as_str()), error);
        service_b.wait_for_access_line(response.trace_id());
    };
    assert_call(None);
    let failures = [
        (Reply::Stall(Vec::new()), "timeout"),
        (Reply::Close(Reply::start_of(100, "{")), "reset"),
        (Reply::Json(200, "{".to_owned()), "decode"),
        (Reply::Json(500, String::new()), "500"),
    ];
    for (reply, kind) in failures {
        upstream.set_reply(reply);
        assert_call(Some(kind));
    }
    // A request in flight, a rejected one, and a client that disconnects.
    upstream.set_reply(Reply::Stall(Vec::new()));
    let before = upstream.requests().len();
    let client = Request::new("GET", "/call-echo?msg=hello").start(service_b.address());
    upstream.wait_for_request(before + 1);
    assert_call(Some("overload"));
    drop(client);
    service_b.wait_for_log_line("a canceled request", |line| line.get("error") == Some("canceled"));
    // Calls are refused and retried until the circuit breaker opens.
    let upstream_address = upstream.address();
    drop(upstream);
    let kinds: BTreeSet<String> = (0..20)
        .map(|_| {
            let response = service_b.get("/call-echo?msg=hello");
            service_b.wait_for_access_line(response.trace_id());
            response.json()["error"].as_str().unwrap().to_owned()
        })
        .collect();
    assert!(kinds.contains("refused") && kinds.contains("circuit_open"), "{kinds:?}");
    for (method, target) in [("GET", "/nowhere"), ("BREW", "/call-echo"), ("HEAD", "/call-echo")] {
        Request::new(method, target).send(service_b.address());
    }
    let page = service_b.wait_for_metrics("exported spans", |page| {
        page.sum("otel_sdk_exporter_operation_duration_seconds_count", &[]) > 0.0
    });
    docs.check(&page, &[upstream_address, collector.address()]);
    let exposed: BTreeSet<&str> = page.samples.iter().map(|sample| docs.metric(sample).0).collect();
    let documented: BTreeSet<&str> = docs.metrics.keys().map(String::as_str).collect();
    assert_eq!(exposed, documented);
    println!("{} metrics in {} series, all documented", documented.len(), page.samples.len());

    let service_a = service_a().envs([exporter]).env("FAULTS_ENABLED", "true").serve();
    for faults in ["{}", r#"{"status":500}"#, r#"{"status":404}"#] {
        service_a.set_faults(faults);
        service_a.get("/echo?msg=hello");
    }
    service_a.get("/nowhere");
    docs.check(&service_a.metrics(), &[collector.address()]);
}
