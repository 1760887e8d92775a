//! Failures of the OTLP backend: requests are not affected and every span is accounted for.

use std::any::Any;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use testkit::otlp::{Behavior, OtlpCollector, Protocol};
use testkit::prometheus::Page;
use testkit::{
    FakeServer, Process, ProcessBuilder, Reply, ReservedPort, listener_with_full_backlog,
    wait_until,
};

use crate::support::{latencies, p99, service_a, service_b};

const SPANS_REJECTED: &str = "backend rejected spans";
const EXPORT_FAILED: &str = "span export failed, dropping spans until the backend recovers";
const EXPORT_RETRYING: &str = "span export failed, retrying";
const EXPORT_RECOVERED: &str = "span export recovered";

/// Number of requests per case.
const REQUESTS: usize = 300;

/// Returns a builder for service A with one worker thread, small queues and short timeouts.
fn constrained_service_a(protocol: Protocol) -> ProcessBuilder {
    service_a()
        .env("TOKIO_WORKER_THREADS", "1")
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.name())
        .env("OTEL_BSP_MAX_QUEUE_SIZE", "64")
        .env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16")
        .env("OTEL_BSP_SCHEDULE_DELAY", "10")
        .env("OTEL_BSP_EXPORT_TIMEOUT", "200")
        .env("SHUTDOWN_TIMEOUT_MS", "4000")
}

/// Returns the number of spans dropped by a failed export.
fn failed(page: &Page) -> f64 {
    page.sum("otel_sdk_exporter_span_exported_total", &[]) - page.exported_spans()
}

/// Waits until `spans` spans were started and each was exported or dropped.
fn wait_for_spans(service: &Process, spans: usize) -> Page {
    service.wait_for_metrics("every span accounted for", |page| {
        page.started_spans() == spans as f64
            && page.exported_spans() + page.dropped_spans() == page.started_spans()
    })
}

fn count_messages(service: &Process, msg: &str) -> usize {
    service.log().iter().filter(|line| line.get("msg") == Some(msg)).count()
}

/// Failing backend.
struct FailingBackend {
    case: &'static str,
    /// `true` if a retry may succeed. `None` if the protocols differ.
    is_retryable: Option<bool>,
    endpoint: String,
    /// Keeps the backend running.
    _guard: Box<dyn Any>,
}

fn failing_backends() -> Vec<FailingBackend> {
    let fake = |reply| {
        let server = FakeServer::start(reply);
        (server.url(), Box::new(server) as Box<dyn Any>)
    };
    let collector = |behavior| {
        let collector = OtlpCollector::start();
        collector.set_behavior(behavior);
        (collector.url(), Box::new(collector) as Box<dyn Any>)
    };
    let refusing = ReservedPort::bind();
    let (absent, sockets) = listener_with_full_backlog();
    let (hanging, closing, malformed, html, endless) = (
        fake(Reply::Stall(Vec::new())),
        fake(Reply::Close(Vec::new())),
        fake(Reply::Close(b"malformed\r\n\r\n".to_vec())),
        // A captive portal.
        fake(Reply::Close(b"HTTP/1.1 200 OK\r\n\r\n<html>Sign in</html>".to_vec())),
        fake(Reply::EndlessBody(b"HTTP/1.1 200 OK\r\n\r\n".to_vec())),
    );
    let (location, redirect_target) =
        fake(Reply::Close(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()));
    // `Connection: close`, because an export on a connection that is just being closed would be retried.
    let found = format!(
        "HTTP/1.1 302 Found\r\nLocation: {location}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    );
    let (url, redirecting) = fake(Reply::Close(found.into_bytes()));
    let redirecting = (url, Box::new((redirecting, redirect_target)) as Box<dyn Any>);
    let unavailable = collector(Behavior::Fail { grpc: 14, http: 503 });
    let invalid = collector(Behavior::Fail { grpc: 3, http: 400 });
    let slow = collector(Behavior::AcceptAfter(Duration::from_millis(100)));
    let too_slow = collector(Behavior::AcceptAfter(Duration::from_secs(60)));
    let absent = (format!("http://{absent}"), Box::new(sockets) as Box<dyn Any>);
    let refusing = (refusing.url(), Box::new(refusing) as Box<dyn Any>);
    let (retryable, permanent) = (Some(true), Some(false));
    [
        ("absent", retryable, absent),
        ("refusing", retryable, refusing),
        ("hanging", retryable, hanging),
        ("closing", retryable, closing),
        ("malformed", None, malformed),
        ("HTML page", None, html),
        ("redirecting", None, redirecting),
        ("endless", None, endless),
        ("unavailable", retryable, unavailable),
        ("invalid", permanent, invalid),
        ("slow", None, slow),
        ("too slow", retryable, too_slow),
    ]
    .map(|(case, is_retryable, (endpoint, _guard))| FailingBackend {
        case,
        is_retryable,
        endpoint,
        _guard,
    })
    .into()
}

/// Checks for each failing backend that latencies stay low, that every span is counted as exported or
/// dropped, and that one warning is logged.
fn assert_failures_are_accounted_for(protocol: Protocol) {
    let healthy = {
        let collector = OtlpCollector::start();
        let service = constrained_service_a(protocol)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())
            .env("OTEL_BSP_MAX_QUEUE_SIZE", "2048")
            .env("OTEL_BSP_EXPORT_TIMEOUT", "10000")
            .serve();
        let latency = p99(latencies(service.address(), "/echo?msg=hello", REQUESTS));
        let page = wait_for_spans(&service, REQUESTS);
        assert_eq!((page.exported_spans(), page.dropped_spans()), (REQUESTS as f64, 0.0));
        assert_eq!(collector.spans().len(), REQUESTS);
        latency
    };
    for FailingBackend { case, is_retryable, endpoint, _guard } in failing_backends() {
        // On a busy machine even a response that is sent immediately may arrive late.
        let timeout = Duration::from_secs(if case == "invalid" { 10 } else { 1 });
        let service = constrained_service_a(protocol)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
            .env("OTEL_BSP_EXPORT_TIMEOUT", timeout.as_millis().to_string())
            .serve();
        let latency = p99(latencies(service.address(), "/echo?msg=hello", REQUESTS));
        // With a backend that never responds, a request that waited for an export would take this long.
        assert!(latency < timeout, "{case}: {latency:?}");
        if case == "slow" || is_retryable == Some(false) {
            let page = wait_for_spans(&service, REQUESTS);
            println!(
                "{} {case}: p99 {latency:.1?} (healthy {healthy:.1?}), {} exported, {} dropped",
                protocol.name(),
                page.exported_spans(),
                page.dropped_spans()
            );
            assert!(case == "slow" || failed(&page) > 0.0, "{case}: {page:#?}");
        } else {
            // The queue keeps what is to be retried, so that only shutdown accounts for all spans.
            assert!(is_retryable.is_none() || failed(&service.metrics()) == 0.0, "{case}");
        }
        let before = service.metrics().dropped_spans();
        assert_eq!(service.stop().code, Some(0), "{case}");
        let log = service.log();
        let warnings =
            count_messages(&service, EXPORT_FAILED) + count_messages(&service, EXPORT_RETRYING);
        assert!(warnings == 1 || case == "slow", "{warnings} {case}: {log:#?}");
        let logged = log.iter().find(|line| line.get("msg") == Some("spans dropped"));
        let logged = logged.map_or(0.0, |line| line["spans"].parse().unwrap());
        let expected = if case == "slow" { before } else { REQUESTS as f64 };
        assert_eq!(logged, expected, "{case}");
    }
}

#[test]
fn grpc_failure_accounts_for_all_spans() {
    assert_failures_are_accounted_for(Protocol::Grpc);
}

#[test]
fn http_failure_accounts_for_all_spans() {
    assert_failures_are_accounted_for(Protocol::HttpProtobuf);
}

/// Spans rejected by a partial success are counted whatever number the response contains.
#[test]
fn rejected_spans_warn_once() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        // One span per export, more spans than were sent, and an invalid number.
        for count in [1, i64::MAX, -1] {
            let collector = OtlpCollector::start();
            collector.set_behavior(Behavior::Reject(count));
            let service = constrained_service_a(protocol)
                .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())
                .env("OTEL_BSP_MAX_QUEUE_SIZE", "2048")
                .env("OTEL_BSP_EXPORT_TIMEOUT", "10000")
                .serve();
            latencies(service.address(), "/echo?msg=hello", REQUESTS);
            let page = wait_for_spans(&service, REQUESTS);
            let case = format!("{} {count}", protocol.name());
            let rejected =
                page.sum("otel_sdk_exporter_span_exported_total", &[("error_type", "rejected")]);
            let exports = collector.exports().len();
            assert!(exports > 1, "{case}");
            let expected = match count {
                1 => exports,
                -1 => 0,
                _ => REQUESTS,
            };
            assert_eq!(
                (rejected, page.dropped_spans()),
                (expected as f64, expected as f64),
                "{case}"
            );
            assert_eq!(page.exported_spans(), collector.spans().len() as f64, "{case}");

            assert_eq!(service.stop().code, Some(0), "{case}");
            let log = service.log();
            let warnings: Vec<_> =
                log.iter().filter(|line| line.get("level") == Some("warn")).collect();
            if expected == 0 {
                assert!(warnings.is_empty(), "{case}: {warnings:#?}");
                continue;
            }
            let [warning, last] = warnings[..] else { panic!("{case}: {warnings:#?}") };
            assert_eq!(&warning["msg"], SPANS_REJECTED, "{case}");
            assert_eq!((&warning["reason"], &warning["details"]), ("rejected", "not these"));
            assert_eq!(&last["msg"], "spans dropped", "{case}");
            assert_eq!(last["spans"], expected.to_string(), "{case}");
        }
    }
}

/// A rejection and a failed export are warned about once each.
#[test]
fn rejection_and_outage_warn_separately() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let collector = OtlpCollector::start();
        let service = constrained_service_a(protocol)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())
            .env("OTEL_BSP_EXPORT_TIMEOUT", "10000")
            .serve();
        let behaviors =
            [Behavior::Reject(1), Behavior::Fail { grpc: 3, http: 400 }, Behavior::Reject(1)];
        for (requests, behavior) in (1..).zip(behaviors) {
            collector.set_behavior(behavior);
            assert_eq!(service.get("/echo").status, 200);
            wait_for_spans(&service, requests);
        }
        assert_eq!(service.stop().code, Some(0));
        let counts = [SPANS_REJECTED, EXPORT_FAILED, EXPORT_RECOVERED]
            .map(|msg| count_messages(&service, msg));
        assert_eq!(counts, [1, 1, 1], "{}: {:#?}", protocol.name(), service.log());
        println!("{}: 3 spans dropped for 2 reasons, 1 line for each", protocol.name());
    }
}

/// A connection that is neither accepted nor refused times out and is attempted again.
#[test]
fn connect_timeout_is_retried() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let (absent, _sockets) = listener_with_full_backlog();
        let mut known = pending_connections(absent);
        let service = constrained_service_a(protocol)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{absent}"))
            .serve();
        let start = Instant::now();
        // Without a timeout the kernel would retry the first connection for two minutes.
        for attempt in ["first attempt", "second attempt"] {
            wait_until(attempt, || {
                assert_eq!(service.get("/echo").status, 200);
                !pending_connections(absent).is_subset(&known)
            });
            known.append(&mut pending_connections(absent));
            println!("{}: {attempt} after {:.1?}", protocol.name(), start.elapsed());
        }
    }
}

/// Returns the local addresses of connections to `remote` that are neither established nor refused.
fn pending_connections(remote: SocketAddr) -> BTreeSet<String> {
    const SYN_SENT: &str = "02";
    let SocketAddr::V4(remote) = remote else { panic!("{remote} is not an IPv4 address") };
    let remote = format!("{:08X}:{:04X}", u32::from_ne_bytes(remote.ip().octets()), remote.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[2] == remote && row[3] == SYN_SENT).map(|row| row[1].to_owned()).collect()
}

/// A backend that starts late, fails and recovers receives spans without a restart of the service. The second
/// outage within a minute is not logged.
#[test]
fn export_resumes_after_outage() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let port = ReservedPort::bind();
        let service =
            constrained_service_a(protocol).env("OTEL_EXPORTER_OTLP_ENDPOINT", port.url()).serve();
        let send_until = |description: &str, condition: &dyn Fn(&Page) -> bool| {
            service.wait_for_metrics(description, |page| {
                assert_eq!(service.get("/echo").status, 200);
                condition(page)
            });
        };
        send_until("a dropped span", &|page| page.dropped_spans() > 0.0);
        service.wait_for_message(EXPORT_RETRYING);

        let collector = OtlpCollector::start_on(port.listen());
        send_until("an exported span", &|page| page.exported_spans() > 0.0);
        service.wait_for_message(EXPORT_RECOVERED);

        collector.set_behavior(Behavior::Fail { grpc: 14, http: 503 });
        let before = service.metrics().dropped_spans();
        send_until("a full queue", &|page| page.dropped_spans() > before);
        collector.set_behavior(Behavior::Accept);
        let before = service.metrics().exported_spans();
        send_until("more exported spans", &|page| page.exported_spans() > before);

        let requests =
            service.stop().stdout.iter().filter(|line| line.contains("endpoint=")).count();
        let dropped: usize = service.wait_for_message("spans dropped")["spans"].parse().unwrap();
        // A batch that the collector accepts after the timeout is sent again.
        let spans: BTreeSet<_> = collector.spans().into_iter().map(|span| span.span_id).collect();
        assert_eq!(spans.len() + dropped, requests, "{protocol:?}");
        assert_eq!(
            (count_messages(&service, EXPORT_RETRYING), count_messages(&service, EXPORT_RECOVERED)),
            (1, 1)
        );
    }
}

/// A backend that fails every second export causes one warning.
#[test]
fn flapping_backend_limits_warnings() {
    let collector = OtlpCollector::start();
    let service = constrained_service_a(Protocol::Grpc)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())
        .env("OTEL_BSP_SCHEDULE_DELAY", "1")
        .serve();
    let failure = Behavior::Fail { grpc: 3, http: 400 };
    for (sent, behavior) in (1..=40).zip([failure, Behavior::Accept].into_iter().cycle()) {
        collector.set_behavior(behavior);
        assert_eq!(service.get("/echo").status, 200);
        wait_for_spans(&service, sent);
    }
    let page = service.metrics();
    assert!(page.exported_spans() >= 10.0 && page.dropped_spans() >= 10.0, "{page:#?}");
    assert_eq!(service.stop().code, Some(0));
    assert_eq!(
        (count_messages(&service, EXPORT_FAILED), count_messages(&service, EXPORT_RECOVERED)),
        (1, 1)
    );
}

#[test]
fn client_spans_are_accounted_for() {
    let port = ReservedPort::bind();
    let service_a = service_a().serve();
    let service_b = service_b(service_a.url())
        .env("TOKIO_WORKER_THREADS", "1")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", port.url())
        .env("OTEL_BSP_SCHEDULE_DELAY", "1")
        .serve();
    latencies(service_b.address(), "/call-echo?msg=hello", 100);
    assert_eq!(service_b.stop().code, Some(0));
    assert_eq!(&service_b.wait_for_message("spans dropped")["spans"], "200");
}
