//! The telemetry backend fails, and nobody but the operator notices.

use std::any::Any;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use testkit::otlp::{Behavior, OtlpCollector, Protocol};
use testkit::prometheus::Page;
use testkit::{
    FakeServer, Process, ProcessBuilder, Reply, ReservedPort, listener_with_full_backlog,
};

use crate::support::{latencies, p99, service_a, wait_until};

const REJECTED: &str = "backend rejected spans";
const COMPLAINT: &str = "span export failed, dropping spans until the backend recovers";
const ALL_IS_WELL: &str = "span export recovered";

/// Requests of each case.
const REQUESTS: usize = 300;

/// A pod with one CPU, and queues that are soon full.
fn small(protocol: Protocol) -> ProcessBuilder {
    service_a()
        .env("TOKIO_WORKER_THREADS", "1")
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.name())
        .env("OTEL_BSP_MAX_QUEUE_SIZE", "64")
        .env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16")
        .env("OTEL_BSP_SCHEDULE_DELAY", "10")
        .env("OTEL_BSP_EXPORT_TIMEOUT", "200")
        .env("SHUTDOWN_TIMEOUT_MS", "4000")
}

fn endpoint(backend: &OtlpCollector, protocol: Protocol) -> String {
    format!("http://{}", backend.address(protocol))
}

fn started(page: &Page) -> f64 {
    page.value("otel_sdk_span_started_total", &[]).unwrap()
}

fn exported(page: &Page) -> f64 {
    let arrived = |sample: &&testkit::prometheus::Sample| !sample.labels.contains_key("error_type");
    page.named("otel_sdk_exporter_span_exported_total").filter(arrived).map(|s| s.value).sum()
}

/// All series with a reason.
fn lost(page: &Page) -> f64 {
    ["otel_sdk_processor_span_processed_total", "otel_sdk_exporter_span_exported_total"]
        .iter()
        .flat_map(|name| page.named(name))
        .filter(|sample| sample.labels.contains_key("error_type"))
        .map(|sample| sample.value)
        .sum()
}

/// Lost in an export.
fn failed(page: &Page) -> f64 {
    page.sum("otel_sdk_exporter_span_exported_total", &[]) - exported(page)
}

/// Waits until so many spans were started and each is either exported or lost.
fn settled(service: &Process, spans: usize) -> Page {
    service.wait_for_metrics("every span accounted for", |page| {
        started(page) == spans as f64 && exported(page) + lost(page) == started(page)
    })
}

fn lines(service: &Process, msg: &str) -> usize {
    service.log().iter().filter(|line| line.get("msg") == Some(msg)).count()
}

/// A way for a backend to fail.
struct Failure {
    case: &'static str,
    /// Why its spans are lost, where that is no matter of how soon the next try comes.
    reason: Option<&'static str>,
    endpoint: String,
    /// What keeps it that way.
    _guard: Box<dyn Any>,
}

fn failures(protocol: Protocol) -> Vec<Failure> {
    let fake = |reply| {
        let fake = FakeServer::start(reply);
        (fake.url(), Box::new(fake) as Box<dyn Any>)
    };
    let receiver = |manner| {
        let receiver = OtlpCollector::start();
        receiver.set_behavior(manner);
        (endpoint(&receiver, protocol), Box::new(receiver) as Box<dyn Any>)
    };
    let refusing = ReservedPort::take();
    let (absent, sockets) = listener_with_full_backlog();
    let (hanging, closing, garbled, page, endless) = (
        fake(Reply::Stall(Vec::new())),
        fake(Reply::Close(Vec::new())),
        fake(Reply::Close(b"what?\r\n\r\n".to_vec())),
        // Not what was asked, and with a good status: somebody stands in between.
        fake(Reply::Close(b"HTTP/1.1 200 OK\r\n\r\n<html>Sign in</html>".to_vec())),
        fake(Reply::EndlessBody(b"HTTP/1.1 200 OK\r\n\r\n".to_vec())),
    );
    let (elsewhere, login) =
        fake(Reply::Close(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()));
    let found = format!("HTTP/1.1 302 Found\r\nLocation: {elsewhere}\r\nContent-Length: 0\r\n\r\n");
    let (url, redirecting) = fake(Reply::Close(found.into_bytes()));
    let redirecting = (url, Box::new((redirecting, login)) as Box<dyn Any>);
    let unavailable = receiver(Behavior::Fail { grpc: 14, http: 503 });
    let invalid = receiver(Behavior::Fail { grpc: 3, http: 400 });
    let slow = receiver(Behavior::TakeAfter(Duration::from_millis(100)));
    let too_slow = receiver(Behavior::TakeAfter(Duration::from_secs(60)));
    let absent = (format!("http://{absent}"), Box::new(sockets) as Box<dyn Any>);
    let refusing = (format!("http://{}", refusing.address()), Box::new(refusing) as Box<dyn Any>);
    let (timeout, failed) = (Some("timeout"), Some("failed"));
    [
        ("absent", timeout, absent),
        ("refusing", None, refusing),
        ("hanging", timeout, hanging),
        ("closing", None, closing),
        ("garbled", None, garbled),
        ("a page", None, page),
        ("redirecting", None, redirecting),
        ("endless", None, endless),
        ("unavailable", None, unavailable),
        ("invalid", failed, invalid),
        ("slow", None, slow),
        ("too slow", timeout, too_slow),
    ]
    .map(|(case, reason, (endpoint, _guard))| Failure { case, reason, endpoint, _guard })
    .into()
}

fn nobody_notices(protocol: Protocol) {
    let healthy = {
        let backend = OtlpCollector::start();
        let service = small(protocol)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint(&backend, protocol))
            .env("OTEL_BSP_MAX_QUEUE_SIZE", "2048")
            .env("OTEL_BSP_EXPORT_TIMEOUT", "10000")
            .serve();
        let latency = p99(latencies(service.address(), "/echo?msg=hello", REQUESTS));
        let page = settled(&service, REQUESTS);
        assert_eq!((exported(&page), lost(&page)), (REQUESTS as f64, 0.0));
        assert_eq!(backend.spans().len(), REQUESTS);
        latency
    };
    for Failure { case, reason, endpoint, _guard } in failures(protocol) {
        // One that answers at once is given the time to, however busy the machine is.
        let timeout = if case == "invalid" { "10000" } else { "200" };
        let service = small(protocol)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
            .env("OTEL_BSP_EXPORT_TIMEOUT", timeout)
            .serve();
        let latency = p99(latencies(service.address(), "/echo?msg=hello", REQUESTS));
        // Whoever waited for an export would wait 200 ms, the time-out set above.
        assert!(latency < 5 * healthy + Duration::from_millis(100), "{case}: {latency:?}");
        let page = settled(&service, REQUESTS);
        println!(
            "{} {case}: p99 {latency:.1?} (healthy {healthy:.1?}), {} exported, {} lost",
            protocol.name(),
            exported(&page),
            lost(&page)
        );
        if case != "slow" {
            assert_eq!(lost(&page), REQUESTS as f64, "{case}");
        }
        if let Some(reason) = reason {
            let lost = |labels| page.sum("otel_sdk_exporter_span_exported_total", labels);
            assert_eq!(lost(&[("error_type", reason)]), lost(&[]), "{case}: {page:#?}");
        }
        assert_eq!(service.stop().code, Some(0), "{case}");
        let complaints = lines(&service, COMPLAINT);
        assert!(complaints == 1 || case == "slow", "{complaints} {case}: {:#?}", service.log());
        let log = service.log();
        let said = log.iter().find(|line| line.get("msg") == Some("spans dropped"));
        let said = said.map_or(0.0, |line| line["spans"].parse().unwrap());
        assert_eq!(said, lost(&page), "{case}");
    }
}

#[test]
fn grpc_backend_failure_accounts_for_all_spans() {
    nobody_notices(Protocol::Grpc);
}

#[test]
fn http_backend_failure_accounts_for_all_spans() {
    nobody_notices(Protocol::HttpProtobuf);
}

#[test]
fn rejected_spans_warn_once() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        // One of each export, more than there can be, and less than none.
        for rejects in [1, i64::MAX, -1] {
            let backend = OtlpCollector::start();
            backend.set_behavior(Behavior::Reject(rejects));
            let service = small(protocol)
                .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint(&backend, protocol))
                .env("OTEL_BSP_MAX_QUEUE_SIZE", "2048")
                .env("OTEL_BSP_EXPORT_TIMEOUT", "10000")
                .serve();
            latencies(service.address(), "/echo?msg=hello", REQUESTS);
            let page = settled(&service, REQUESTS);
            let case = format!("{} {rejects}", protocol.name());
            let rejected =
                page.sum("otel_sdk_exporter_span_exported_total", &[("error_type", "rejected")]);
            let exports = backend.exports().len();
            assert!(exports > 1, "{case}");
            let expected = match rejects {
                1 => exports,
                -1 => 0,
                _ => REQUESTS,
            };
            assert_eq!((rejected, lost(&page)), (expected as f64, expected as f64), "{case}");
            assert_eq!(exported(&page), backend.spans().len() as f64, "{case}");

            assert_eq!(service.stop().code, Some(0), "{case}");
            let log = service.log();
            let warnings: Vec<_> =
                log.iter().filter(|line| line.get("level") == Some("warn")).collect();
            if expected == 0 {
                assert!(warnings.is_empty(), "{case}: {warnings:#?}");
                continue;
            }
            let [complaint, last] = warnings[..] else { panic!("{case}: {warnings:#?}") };
            assert_eq!(&complaint["msg"], REJECTED, "{case}");
            assert_eq!((&complaint["reason"], &complaint["details"]), ("rejected", "not these"));
            assert_eq!(&last["msg"], "spans dropped", "{case}");
            assert_eq!(last["spans"], expected.to_string(), "{case}");
        }
    }
}

#[test]
fn rejection_and_outage_warn_separately() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let backend = OtlpCollector::start();
        let service = small(protocol)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint(&backend, protocol))
            .env("OTEL_BSP_EXPORT_TIMEOUT", "10000")
            .serve();
        let manners =
            [Behavior::Reject(1), Behavior::Fail { grpc: 3, http: 400 }, Behavior::Reject(1)];
        for (requests, manner) in (1..).zip(manners) {
            backend.set_behavior(manner);
            assert_eq!(service.get("/echo").status, 200);
            settled(&service, requests);
        }
        assert_eq!(service.stop().code, Some(0));
        let said = [REJECTED, COMPLAINT, ALL_IS_WELL].map(|msg| lines(&service, msg));
        assert_eq!(said, [1, 1, 1], "{}: {:#?}", protocol.name(), service.log());
        println!("{}: 3 spans lost for 2 reasons, 1 line for each", protocol.name());
    }
}

#[test]
fn connect_timeout_is_retried() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let (absent, _sockets) = listener_with_full_backlog();
        let mut known = connecting(absent);
        let service =
            small(protocol).env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{absent}")).serve();
        let begun = Instant::now();
        // The system itself would go on with the first one for two minutes, at ever longer intervals.
        for one in ["a first try", "a second try"] {
            wait_until(one, || {
                assert_eq!(service.get("/echo").status, 200);
                !connecting(absent).is_subset(&known)
            });
            known.append(&mut connecting(absent));
            println!("{}: {one} after {:.1?}", protocol.name(), begun.elapsed());
        }
    }
}

/// The local ends of the connections to there that are neither made nor refused.
fn connecting(to: SocketAddr) -> BTreeSet<String> {
    const SYN_SENT: &str = "02";
    let SocketAddr::V4(to) = to else { panic!("{to}: expected IPv4") };
    let to = format!("{:08X}:{:04X}", u32::from_ne_bytes(to.ip().octets()), to.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[2] == to && row[3] == SYN_SENT).map(|row| row[1].to_owned()).collect()
}

#[test]
fn export_resumes_after_outage() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let port = ReservedPort::take();
        let service = small(protocol)
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", port.address()))
            .serve();
        let ask_until = |what: &str, is_so: &dyn Fn(&Page) -> bool| {
            service.wait_for_metrics(what, |page| {
                assert_eq!(service.get("/echo").status, 200);
                is_so(page)
            });
        };
        ask_until("a lost span", &|page| lost(page) > 0.0);
        service.wait_for_line("the complaint", |line| line.get("msg") == Some(COMPLAINT));

        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let backend = match protocol {
            Protocol::Grpc => OtlpCollector::serve(port.listen(), other),
            Protocol::HttpProtobuf => OtlpCollector::serve(other, port.listen()),
        };
        ask_until("an exported span", &|page| exported(page) > 0.0);
        service.wait_for_line("the good news", |line| line.get("msg") == Some(ALL_IS_WELL));

        // Not those that the queue refuses: it may be full while all is well.
        let before = failed(&service.metrics());
        backend.set_behavior(Behavior::Fail { grpc: 14, http: 503 });
        ask_until("a failed export", &|page| failed(page) > before);
        backend.set_behavior(Behavior::Accept);
        let before = exported(&service.metrics());
        ask_until("more exported spans", &|page| exported(page) > before);

        // The log has a line for each request, so that they need not be counted here.
        let sent = service.stop().stdout.iter().filter(|line| line.contains("endpoint=")).count();
        let log = service.log();
        let lost = log.iter().find(|line| line.get("msg") == Some("spans dropped")).unwrap();
        let lost: usize = lost["spans"].parse().unwrap();
        assert_eq!(backend.spans().len() + lost, sent, "{protocol:?}");
        // The second time within a minute is not said again.
        assert_eq!((lines(&service, COMPLAINT), lines(&service, ALL_IS_WELL)), (1, 1));
    }
}

#[test]
fn flapping_backend_limits_warnings() {
    let backend = OtlpCollector::start();
    backend.set_behavior(Behavior::AlternateFailure { refuse: true });
    let service = small(Protocol::Grpc)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint(&backend, Protocol::Grpc))
        .env("OTEL_BSP_SCHEDULE_DELAY", "1")
        .serve();
    for sent in 1..=40 {
        assert_eq!(service.get("/echo").status, 200);
        settled(&service, sent);
    }
    let page = service.metrics();
    assert!(exported(&page) >= 10.0 && lost(&page) >= 10.0, "{page:#?}");
    assert_eq!(service.stop().code, Some(0));
    assert_eq!((lines(&service, COMPLAINT), lines(&service, ALL_IS_WELL)), (1, 1));
}

#[test]
fn spans_of_calls_are_accounted_for_too() {
    let nobody = ReservedPort::take();
    let service_a = service_a().serve();
    let service_b = crate::support::service_b(crate::support::url(&service_a))
        .env("TOKIO_WORKER_THREADS", "1")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", nobody.address()))
        .env("OTEL_BSP_SCHEDULE_DELAY", "1")
        .serve();
    latencies(service_b.address(), "/call-echo?msg=hello", 100);
    let page = settled(&service_b, 200);
    assert_eq!(lost(&page), 200.0);
}
