//! Export, scrapes and `--check-telemetry` with a real OpenTelemetry Collector and a real Jaeger.
//!
//! `.ci/peers` builds both and sets `COLLECTOR` and `JAEGER` to their paths.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed assumption fails the test"
)]

mod peer;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, thread};

use serde_json::json;
use testkit::otlp::Protocol;
use testkit::prometheus::Page;
use testkit::{Process, ReservedPort, http, wait_until};

use crate::peer::{PROTOCOLS, Peer, find_all};

const PROCESSED: &str = "otel_sdk_processor_span_processed_total";
const REQUESTS: usize = 300;

fn send_requests(service: &Process, count: usize) {
    for _ in 0..count {
        assert_eq!(service.get("/echo?msg=hello").status, 200);
    }
}

/// Returns the numbers of spans that were exported and dropped.
fn ended(page: &Page) -> [f64; 2] {
    [page.exported_spans(), page.dropped_spans()]
}

/// Waits until the spans of all requests were exported or dropped, and returns the numbers of both.
fn wait_for_spans(service: &Process, requests: usize) -> [f64; 2] {
    let page = service.wait_for_metrics("every span accounted for", |page| {
        let started = page.started_spans();
        started == requests as f64 && ended(page).iter().sum::<f64>() == started
    });
    ended(&page)
}

fn count_messages(service: &Process, text: &str) -> usize {
    service.log().iter().filter(|line| line.get("msg").is_some_and(|msg| msg == text)).count()
}

/// Runs a service for each protocol, with and without compression, and sends requests to it. The name of
/// the service is unique.
fn export_in_all_ways(peer: &Peer, mut check: impl FnMut(&str)) {
    for protocol in PROTOCOLS {
        for compression in ["none", "gzip"] {
            let name = format!("{}-{compression}", protocol.name().replace('/', "-"));
            let service = peer
                .exporter(protocol)
                .env("OTEL_SERVICE_NAME", &name)
                .env("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
                .serve();
            send_requests(&service, REQUESTS);
            assert_eq!(wait_for_spans(&service, REQUESTS), [REQUESTS as f64, 0.0], "{name}");
            check(&name);
        }
    }
}

#[test]
#[ignore = "needs the programs that `.ci/peers` builds"]
fn every_span_passes_collector() {
    let mut collector = Peer::collector("export");
    let processors = ["memory_limiter", "tail_sampling", "batch"];
    collector.config["service"]["pipelines"]["traces"]["processors"] = json!(processors);
    collector.config["processors"] = json!({
        "memory_limiter": { "check_interval": "1s", "limit_mib": 1000 },
        "tail_sampling": {
            "decision_wait": "1s",
            "policies": [{ "name": "all", "type": "always_sample" }],
        },
        "batch": {},
    });
    collector.start();
    let mut spans = 0;
    export_in_all_ways(&collector, |name| {
        spans += REQUESTS;
        wait_until(name, || collector.span_count() == spans);
    });
}

#[test]
#[ignore = "needs the programs that `.ci/peers` builds"]
fn every_span_is_in_jaeger() {
    let storage = json!({ "jaeger_storage_exporter": { "trace_storage": "memory" } });
    let mut jaeger = Peer::new("JAEGER", "jaeger", storage);
    let [api, query_grpc] = [(); 2].map(|()| ReservedPort::bind().release());
    jaeger.config["service"]["extensions"] = json!(["jaeger_storage", "jaeger_query"]);
    jaeger.config["extensions"] = json!({
        "jaeger_storage": { "backends": { "memory": { "memory": { "max_traces": 100_000 } } } },
        "jaeger_query": {
            "storage": { "traces": "memory" },
            "http": { "endpoint": api.to_string() },
            "grpc": { "endpoint": query_grpc.to_string() },
        },
    });
    jaeger.start();
    export_in_all_ways(&jaeger, |name| {
        let query = format!("/api/traces?service={name}&limit={}", 2 * REQUESTS);
        let traces = || http::get(api, &query).json();
        wait_until(name, || find_all(&traces(), "spanID").len() == REQUESTS);
    });
    assert_eq!(jaeger.check_telemetry(), [Some(0); 2]);
}

/// Spans that end while the collector restarts stay in the queue.
#[test]
#[ignore = "needs the programs that `.ci/peers` builds"]
fn restarted_collector_loses_no_span() {
    let mut collector = Peer::collector("restart");
    let is_done = AtomicBool::new(false);
    let services = PROTOCOLS.map(|protocol| {
        collector.exporter(protocol).env("OTEL_BSP_MAX_QUEUE_SIZE", "100000").serve()
    });
    collector.start();
    let counts = thread::scope(|scope| {
        let senders = services.each_ref().map(|service| {
            scope.spawn(|| {
                let mut count = 0;
                while !is_done.load(Ordering::Relaxed) {
                    send_requests(service, 1);
                    count += 1;
                    thread::sleep(Duration::from_millis(10)); // Limits the number of spans.
                }
                count
            })
        });
        for outage in [0.3, 3.0, 10.0].map(Duration::from_secs_f64) {
            for service in &services {
                let [before, _] = ended(&service.metrics());
                service.wait_for_metrics("export", |page| ended(page)[0] > before);
            }
            collector.stop();
            thread::sleep(outage); // The duration of the outage is what the test is about.
            collector.start();
        }
        is_done.store(true, Ordering::Relaxed);
        senders.map(|sender| sender.join().unwrap())
    });
    for (service, count) in services.iter().zip(counts) {
        assert_eq!(wait_for_spans(service, count), [count as f64, 0.0]);
        assert_eq!(count_messages(service, "span export failed, retrying"), 1);
    }
    collector.stop();
    assert_eq!(collector.span_count(), counts.iter().sum::<usize>());
    println!("{counts:?} spans");
}

/// The limiter refuses all spans until the collector restarts with a higher limit.
#[test]
#[ignore = "needs the programs that `.ci/peers` builds"]
fn refused_spans_are_retried() {
    let mut collector = Peer::collector("memory_limiter");
    collector.config["service"]["pipelines"]["traces"]["processors"] = json!(["memory_limiter"]);
    collector.config["processors"] =
        json!({ "memory_limiter": { "check_interval": "10ms", "limit_mib": 1 } });
    collector.start().wait_for_log_text("Refusing data");
    let services = PROTOCOLS.map(|protocol| collector.exporter(protocol).serve());
    for service in &services {
        send_requests(service, REQUESTS);
        let warning = service.wait_for_message("span export failed, retrying");
        assert!(warning["details"].contains("data refused"), "{warning:?}");
        assert_eq!(ended(&service.metrics()), [0.0, 0.0]);
    }
    collector.stop();
    assert_eq!(collector.span_count(), 0);
    collector.config["processors"]["memory_limiter"]["limit_mib"] = json!(1000);
    collector.start();
    for service in &services {
        assert_eq!(wait_for_spans(service, REQUESTS), [REQUESTS as f64, 0.0]);
    }
    collector.stop();
    assert_eq!(collector.span_count(), 2 * REQUESTS);
}

/// A suspended collector fills the queue. What exceeds it is counted, with one log line.
#[test]
#[ignore = "needs the programs that `.ci/peers` builds"]
fn suspended_collector_counts_dropped_spans() {
    let mut collector = Peer::collector("full_queue");
    collector.start();
    let services = PROTOCOLS.map(|protocol| {
        let service = collector.exporter(protocol).env("OTEL_BSP_MAX_QUEUE_SIZE", "64");
        service.env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16").serve()
    });
    collector.process().suspend();
    for service in &services {
        send_requests(service, REQUESTS);
        // 64 spans are in the queue and 16 in flight.
        service.wait_for_metrics("dropped spans", |page| {
            page.sum(PROCESSED, &[("error_type", "queue_full")]) >= (REQUESTS - 80) as f64
        });
    }
    collector.process().resume();
    let mut sum = 0.0;
    for service in &services {
        let [exported, dropped] = wait_for_spans(service, REQUESTS);
        assert!(exported >= 64.0, "{exported} exported, {dropped} dropped");
        sum += exported;
        service.wait_for_message("span queue is full, dropping spans");
        service.stop();
        assert_eq!(count_messages(service, "span queue is full, dropping spans"), 1);
        assert_eq!(service.wait_for_message("spans dropped")["spans"], dropped.to_string());
    }
    collector.stop();
    assert_eq!(collector.span_count() as f64, sum);
}

/// The server closes each connection after a second.
#[test]
#[ignore = "needs the programs that `.ci/peers` builds"]
fn aged_connection_loses_no_span() {
    let mut collector = Peer::collector("max_connection_age");
    collector.config["receivers"]["otlp"]["protocols"]["grpc"]["keepalive"] =
        json!({ "server_parameters": { "max_connection_age": "1s" } });
    collector.start();
    let service = collector.exporter(Protocol::Grpc).serve();
    let mut count = 0;
    wait_until("five connections", || {
        send_requests(&service, 10);
        count += 10;
        thread::sleep(Duration::from_millis(20)); // Limits the number of spans.
        connections(collector.grpc) >= 5
    });
    assert_eq!(wait_for_spans(&service, count), [count as f64, 0.0]);
    collector.stop();
    assert_eq!(collector.span_count(), count);
    println!("{count} spans over {} connections", connections(collector.grpc));
}

/// Returns the number of connections to a server, including those that were closed within the last minute.
fn connections(server: SocketAddr) -> usize {
    let SocketAddr::V4(server) = server else { panic!("{server} is not an IPv4 address") };
    let server = format!("{:08X}:{:04X}", u32::from_ne_bytes(server.ip().octets()), server.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().map(|row| row.split_whitespace().skip(1).take(2).collect::<Vec<_>>());
    let peers = rows.filter(|row| row.contains(&&*server)).flatten();
    let is_client = |address: &&str| *address != server && !address.ends_with(":0000");
    peers.filter(is_client).collect::<BTreeSet<_>>().len()
}

#[test]
#[ignore = "needs the programs that `.ci/peers` builds"]
fn collector_scrapes_both_formats() {
    let mut collector = Peer::collector("scrape");
    let service = collector.exporter(Protocol::Grpc).serve();
    send_requests(&service, REQUESTS);
    let formats = ["PrometheusText0.0.4", "OpenMetricsText1.0.0"];
    let job = |format: &str| {
        json!({
            "job_name": format,
            "scrape_interval": "1s",
            "scrape_protocols": [format],
            "static_configs": [{ "targets": [service.address().to_string()] }],
        })
    };
    collector.config["receivers"]["prometheus"] =
        json!({ "config": { "scrape_configs": formats.map(job) } });
    collector.config["service"]["pipelines"]["metrics"] =
        json!({ "receivers": ["prometheus"], "exporters": ["file"] });
    collector.start();
    for format in formats {
        wait_until(format, || request_counts(&collector, format).contains(&REQUESTS));
    }
}

/// Returns the counts of the histogram of A's requests in the scrapes of a job.
fn request_counts(collector: &Peer, job: &str) -> Vec<usize> {
    let received = collector.received();
    let scrapes = received.as_array().unwrap().iter();
    let scrapes = scrapes.filter(|scrape| find_all(scrape, "stringValue").contains(&&json!(job)));
    let metrics = scrapes.flat_map(|scrape| find_all(scrape, "metrics"));
    let metrics = metrics.flat_map(|metrics| metrics.as_array().unwrap());
    let durations =
        metrics.filter(|metric| metric["name"] == "http_server_request_duration_seconds");
    let counts = durations.flat_map(|metric| find_all(metric, "count"));
    counts.map(|count| count.as_str().unwrap().parse().unwrap()).collect()
}

#[test]
#[ignore = "needs the programs that `.ci/peers` builds"]
fn telemetry_check_finds_stopped_collector() {
    let mut collector = Peer::collector("check");
    collector.start();
    assert_eq!(collector.check_telemetry(), [Some(0); 2]);
    collector.stop();
    assert_eq!(collector.check_telemetry(), [Some(1); 2]);
}
