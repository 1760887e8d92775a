//! Requests whose client disconnects.

use testkit::http::Request;
use testkit::otlp::{OtlpCollector, Protocol};
use testkit::{FakeServer, Reply};

use crate::{CLIENT_DURATION_COUNT, CLIENT_ERRORS, SERVER_DURATION_COUNT, service_b};

/// The call to service A is dropped. metrics and the access line record `canceled`, and no span has
/// `error.type` or the status error.
#[test]
fn client_disconnect_cancels_upstream_call() {
    let collector = OtlpCollector::start();
    let service_a = FakeServer::start(Reply::Stall(Vec::new()));
    let service = service_b(service_a.url())
        .env("SERVICE_A_TIMEOUT_MS", "3600000")
        .envs(collector.variables(Protocol::Grpc))
        .serve();
    let connection = Request::new("GET", "/call-echo?msg=hello").start(service.address());
    service_a.wait_for_request(1);
    drop(connection);

    service_a.wait_for_closed_connections(1);
    let line = service.wait_for_log_line("an access line", |line| line.get("endpoint").is_some());
    assert_eq!((&line["level"], &line["status"], &line["error"]), ("warn", "error", "canceled"));
    assert_eq!(line.get("http_status"), None);

    let page = service.metrics();
    let canceled = [("error_type", "canceled")];
    for name in [CLIENT_DURATION_COUNT, SERVER_DURATION_COUNT] {
        assert_eq!(page.value(name, &canceled), Some(1.0), "{name}");
        assert_eq!(page.sum(name, &[]), 1.0, "{name}");
        let sample = page.named(name).next().unwrap();
        assert_eq!(sample.labels.get("http_response_status_code"), None, "{name}");
    }
    assert_eq!(page.value(CLIENT_ERRORS, &canceled), Some(1.0));
    assert_eq!(page.sum("http_server_active_requests", &[]), 0.0);
    assert_eq!(page.sum("http_client_active_requests", &[]), 0.0);

    for span in collector.wait_for_trace(&line["trace_id"], 2) {
        assert_eq!(span.attributes.get("error.type"), None, "{}", span.kind);
        assert_eq!(span.status, "", "{}", span.kind);
    }
}
