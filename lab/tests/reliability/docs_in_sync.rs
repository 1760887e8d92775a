//! The pages held against what they are about: docs/telemetry.md against the whole `/metrics` of running
//! services.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;

use testkit::http::{Connection, Request};
use testkit::prometheus::{Page, Sample};
use testkit::{FakeServer, Reply, ReservedPort};

use crate::support::{service_a, service_b, set_faults};

/// What the page says of a metric.
#[derive(Debug)]
struct Metric {
    kind: String,
    labels: BTreeSet<String>,
    /// Words in its description, among them the values of its `error_type` where that is its own.
    words: BTreeSet<String>,
}

/// The words of a text that stand in backticks.
fn words(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The rows of the tables of one section, cell by cell.
fn rows(page: &str, section: &str) -> Vec<Vec<String>> {
    let section = page.split("\n## ").find(|part| part.starts_with(section)).unwrap();
    section
        .lines()
        .filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'))
        .map(|line| line.split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

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
                [name, kind, of_it, text] if name.starts_with('`') => {
                    let metric =
                        Metric { kind: kind.clone(), labels: words(of_it), words: words(text) };
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
        assert_eq!(buckets.len(), 14, "{buckets:?}");
        buckets.insert("+Inf".to_owned());
        Self { metrics, labels, kinds, buckets }
    }

    /// The metric a sample is of.
    fn metric(&self, sample: &Sample) -> (&str, &Metric) {
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| sample.name.strip_suffix(suffix))
            .filter(|base| self.metrics.get(*base).is_some_and(|m| m.kind == "histogram"))
            .unwrap_or(&sample.name);
        let found = self.metrics.get_key_value(base);
        let (name, metric) = found.unwrap_or_else(|| panic!("not in the page: {sample:?}"));
        (name, metric)
    }

    fn check(&self, page: &Page, peer: Option<SocketAddr>) {
        for sample in &page.samples {
            let (name, metric) = self.metric(sample);
            assert_eq!(page.types[name], metric.kind, "{name}");
            for (label, value) in &sample.labels {
                if label == "le" && metric.kind == "histogram" {
                    assert!(self.buckets.contains(value), "{sample:?}");
                    continue;
                }
                assert!(metric.labels.contains(label), "{label} is not in the page: {sample:?}");
                assert!(self.is_named(label, value, metric, peer), "{value}: {sample:?}");
            }
        }
    }

    fn is_named(
        &self,
        label: &str,
        value: &str,
        metric: &Metric,
        peer: Option<SocketAddr>,
    ) -> bool {
        let is_status = value.len() == 3 && value.parse::<u16>().is_ok();
        match label {
            "http_response_status_code" => is_status,
            "http_route" => {
                words(&self.labels[label]).contains(value)
                    || matches!(value, "/echo" | "/call-echo")
            }
            "server_address" => peer.is_some_and(|peer| peer.ip().to_string() == value),
            "server_port" => peer.is_some_and(|peer| peer.port().to_string() == value),
            "service" => matches!(value, "service-a" | "service-b"),
            "version" => value == env!("CARGO_PKG_VERSION"),
            "revision" => !value.is_empty(),
            // Requests and calls have the kinds; what has its own reasons names them.
            "error_type" if metric.labels.contains("server_address") => {
                self.kinds.contains(value) || is_status
            }
            "error_type" if metric.labels.contains("http_route") => {
                self.kinds.contains(value) || is_status
            }
            "error_type" => metric.words.contains(value),
            _ => words(&self.labels[label]).contains(value),
        }
    }
}

#[test]
fn telemetry_doc_matches_metrics() {
    let docs = Docs::read();
    let nobody = ReservedPort::take();
    let exporting = ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", nobody.address()));
    let fake = FakeServer::start(Reply::echo("hello"));
    let service_b = service_b(fake.url())
        .envs([exporting.clone()])
        .env("SERVICE_A_TIMEOUT_MS", "200")
        .env("SERVICE_A_CONNECT_RETRIES", "1")
        .env("SERVICE_A_BREAKER_FAILURES", "8")
        .env("MAX_CONCURRENT_REQUESTS", "1")
        .serve();
    let ask = |error: Option<&str>| {
        let answer = service_b.get("/call-echo?msg=hello");
        assert_eq!(answer.json().get("error").and_then(|kind| kind.as_str()), error);
        service_b.wait_for_access(answer.trace_id());
    };
    ask(None);
    let broken = [
        (Reply::Stall(Vec::new()), "timeout"),
        (Reply::Close(Reply::start_of(100, "{")), "reset"),
        (Reply::Json(200, "{".to_owned()), "decode"),
        (Reply::Json(500, String::new()), "500"),
    ];
    for (reply, kind) in broken {
        fake.reply(reply);
        ask(Some(kind));
    }
    // One that is under way, one that is one too many, and a caller that goes away.
    fake.reply(Reply::Stall(Vec::new()));
    let mut caller = Connection::open(service_b.address());
    let request = Request::new("GET", "/call-echo?msg=hello").bytes();
    let before = fake.requests().len();
    caller.send(&request);
    fake.wait_for_request(before + 1);
    ask(Some("overload"));
    drop(caller);
    service_b
        .wait_for_line("the caller that went away", |line| line.get("error") == Some("canceled"));
    // Nobody is there any more: refused, tried again, and given up.
    let peer = fake.address();
    drop(fake);
    let kinds: BTreeSet<String> = (0..20)
        .map(|_| {
            let answer = service_b.get("/call-echo?msg=hello");
            service_b.wait_for_access(answer.trace_id());
            answer.json()["error"].as_str().unwrap().to_owned()
        })
        .collect();
    assert!(kinds.contains("refused") && kinds.contains("circuit_open"), "{kinds:?}");
    for (method, target) in [("GET", "/nowhere"), ("BREW", "/call-echo"), ("HEAD", "/call-echo")] {
        Request::new(method, target).send(service_b.address());
    }
    let page = service_b.metrics();
    docs.check(&page, Some(peer));
    let shown: BTreeSet<&str> = page.samples.iter().map(|sample| docs.metric(sample).0).collect();
    let named: BTreeSet<&str> = docs.metrics.keys().map(String::as_str).collect();
    assert_eq!(shown, named);
    println!("{} metrics in {} series, all on the page", named.len(), page.samples.len());

    let service_a = service_a().envs([exporting]).env("FAULTS_ENABLED", "true").serve();
    for plan in ["{}", r#"{"status":500}"#, r#"{"status":404}"#] {
        set_faults(&service_a, plan);
        service_a.get("/echo?msg=hello");
    }
    service_a.get("/nowhere");
    docs.check(&service_a.metrics(), None);
}
